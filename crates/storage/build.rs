//! The migrations are embedded at compile time: rebuild when one changes, and name their state.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::{fs, io};

const MIGRATIONS: &str = "../../migrations";

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for migration in fs::read_dir(MIGRATIONS)? {
        let folder = migration?.path();
        if folder.is_dir() {
            for file in fs::read_dir(folder)? {
                files.push(file?.path());
            }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    println!("cargo::rerun-if-changed={MIGRATIONS}");
    println!(
        "cargo::rustc-env=MIGRATIONS_FINGERPRINT={:016x}",
        hasher.finish()
    );
    Ok(())
}
