//! The state folder: where it is, whose it is, and reading and removing what is in it.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;

use crate::error::{IoContext, StackError};

/// The default state folder: `LOCAL_STACK_DIR`, else a folder of this workspace under the system's
/// temporary one.
///
/// Not inside the workspace: a Postgres started by root runs as another user, who may not get
/// there.
pub(crate) fn default_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("LOCAL_STACK_DIR").filter(|folder| !folder.is_empty()) {
        return folder.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here.ancestors().nth(2).unwrap_or(here);
    let hash = fingerprint(workspace.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("transactional-outbox-{hash:016x}"))
}

/// FNV-1a: the same in every build, unlike the standard library's hashers.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Makes the folder if need be and refuses one of another user: programs are run from it. Returns
/// its path without symbolic links, as processes are told apart by it.
pub(crate) fn own_folder(folder: &Path) -> Result<PathBuf, StackError> {
    fs::create_dir_all(folder).at("create", folder)?;
    let folder = folder.canonicalize().at("find", folder)?;
    let owner = folder.metadata().at("look at", &folder)?.uid();
    if owner != Uid::effective().as_raw() {
        return Err(StackError::ForeignFolder(folder));
    }
    if Uid::effective().is_root() {
        // Somebody's choice of a folder, so no more is changed than has to be.
        let mode = folder.metadata().at("look at", &folder)?.mode();
        set_mode(&folder, mode | 0o111)?;
    }
    Ok(folder)
}

/// Makes a folder that the user Postgres runs as may enter, whatever this process's umask is.
pub(crate) fn create_traversable(folder: &Path) -> Result<(), StackError> {
    fs::create_dir_all(folder).at("create", folder)?;
    set_mode(folder, 0o755)
}

fn set_mode(folder: &Path, mode: u32) -> Result<(), StackError> {
    fs::set_permissions(folder, Permissions::from_mode(mode & 0o7777)).at("set the mode of", folder)
}

/// Writes the file whole or not at all.
pub(crate) fn write_whole(path: &Path, content: &str) -> Result<(), StackError> {
    let half_written = path.with_extension("new");
    let mut file = File::create(&half_written).at("create", &half_written)?;
    file.write_all(content.as_bytes())
        .at("write", &half_written)?;
    fs::rename(&half_written, path).at("write", path)
}

/// Removes a folder and all in it; absent is fine. Processes that were just ended may still finish
/// a write, so a folder that is not empty after all is tried again.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), StackError> {
    let mut attempts_left = 50;
    loop {
        match fs::remove_dir_all(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && attempts_left > 0 => {
                attempts_left -= 1;
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error).at("remove", folder),
        }
    }
}

/// The last lines of a log file, at most about 4 kB; a file that cannot be read says so.
pub(crate) fn tail(path: &Path) -> String {
    match read_tail(path) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes), 25),
        Err(error) => format!("(cannot be read: {error})"),
    }
}

fn read_tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `count` lines of a text, without the empty ones.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_fnv_1a() {
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        assert_eq!(last_lines("a\n\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_missing_log_says_so() {
        assert!(tail(Path::new("/nonexistent/log")).starts_with("(cannot be read"));
    }
}
