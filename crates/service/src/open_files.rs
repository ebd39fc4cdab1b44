//! How many files a process may have open, and sockets with them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files this process may have open, after asking for as many as it may ask for. Systems give few at
/// first (1,024 as a rule) for the sake of programs that use `select`.
pub fn open_files() -> usize {
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return usize::MAX;
    };
    let granted = most > now && setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok();
    let files = if granted { most } else { now };
    usize::try_from(files).unwrap_or(usize::MAX)
}
