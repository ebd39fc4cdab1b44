//! Randomness and time of the operating system, replaced by those of a seed.
//!
//! The hashers of the standard library, the branches of tokio's `select!`, the jitter of back-offs and the
//! ids of members all begin with them.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

static SEEDED: AtomicBool = AtomicBool::new(false);
static RANDOM: Mutex<Option<StdRng>> = Mutex::new(None);
/// What every clock says, in microseconds. It passes by being looked at.
static MICROSECONDS: AtomicI64 = AtomicI64::new(1_767_225_600_000_000);

/// Everything of this process follows from `seed` from here on. To be called before anything else: what
/// was drawn before stays.
pub fn seed_system(seed: u64) {
    let mut random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
    *random = Some(StdRng::seed_from_u64(seed));
    SEEDED.store(true, Ordering::Relaxed);
}

/// Stands in for the C library's function of this name, in this program only.
///
/// # Safety
/// `buffer` has room for `length` bytes, as the C library demands.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if length > 0 {
        // SAFETY: the caller's promise.
        let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
        let mut random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
        let random = random.get_or_insert_with(|| StdRng::seed_from_u64(0));
        random.fill_bytes(buffer);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// Stands in for the C library's function of this name, in this program only. In a process that has no
/// seed it tells the time.
///
/// # Safety
/// `time` is valid for writes, as the C library demands.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> i32 {
    if !SEEDED.load(Ordering::Relaxed) {
        // SAFETY: the arguments are those of the system call.
        let outcome = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return i32::try_from(outcome).unwrap_or(-1);
    }
    let now = MICROSECONDS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe {
        time.write(libc::timespec {
            tv_sec: now / 1_000_000,
            tv_nsec: now % 1_000_000 * 1_000,
        });
    }
    0
}
