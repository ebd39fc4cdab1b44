//! A small file system for one broker, so that its disk can be full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// More than a broker needs for an hour.
const SIZE: &str = "size=2g";
const CHUNK: [u8; 1 << 20] = [0; 1 << 20];

/// Memory in the place of a folder. It is detached with this value.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Makes the folder. Fails where this user must not mount anything.
    pub(crate) fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .context("running mount")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        for size in [CHUNK.len(), 512] {
            loop {
                match ballast.write_all(&CHUNK[..size]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the broker may still have files open.
        let detached = Command::new("umount").arg("-l").arg(&self.folder).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.folder.display());
        }
    }
}
