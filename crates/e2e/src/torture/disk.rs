//! A small file system for one broker, so that its disk can be full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Far more than a broker needs for hours. Nothing is reserved.
const SIZE: &str = "size=4g";
const ATTEMPTS: usize = 50;

/// Memory in the place of a folder. It is detached with this value.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Makes the folder. Fails where this user must not mount anything.
    pub(crate) fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let at = folder.as_os_str();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(at))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Leaves no byte free, by making the disk as small as what is on it.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut refused = None;
        // What is on it grows meanwhile, and a disk cannot be smaller than that.
        for _ in 0..ATTEMPTS {
            let text = run(Command::new("df").args(["-k", "-P"]).arg(&self.folder))?;
            let used = text
                .lines()
                .nth(1)
                .and_then(|line| line.split_whitespace().nth(2));
            let used = used.with_context(|| format!("df says {text:?}"))?;
            match self.resize(&format!("size={used}k")) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Gives the space back.
    pub(crate) fn empty(&self) -> Result<()> {
        self.resize(SIZE)
    }

    fn resize(&self, size: &str) -> Result<()> {
        let size = format!("remount,{size}");
        run(Command::new("mount").args(["-o", &size]).arg(&self.folder)).map(|_| ())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the broker may still have files open.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.folder)) {
            eprintln!("{} stays mounted: {error:#}", self.folder.display());
        }
    }
}

/// What a command printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
