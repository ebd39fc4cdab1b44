//! Fetches Kafka and Postgres with Maven, once, and unpacks them.
//!
//! A finished fetch is a folder that was renamed into place; what a killed one leaves has another
//! name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use uuid::Uuid;

use crate::error::{IoContext, StackError};
use crate::files::{create_traversable, fingerprint, last_lines, own_folder, remove_folder};

/// Which versions of what.
const POM: &str = include_str!("../../../deploy/local-stack/pom.xml");

/// Kafka's jars and Postgres' programs on this machine's disk.
#[derive(Debug)]
pub(crate) struct Artifacts(PathBuf);

impl Artifacts {
    /// Those fetched before, else fetches them.
    pub(crate) fn ensure(cache: &Path) -> Result<Self, StackError> {
        let cache = own_folder(cache)?;
        let lock_path = cache.join("lock");
        let lock = File::create(&lock_path).at("create", &lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        let platform = this_platform()?;
        let folder = folder(&cache, platform);
        if !folder.exists() {
            remove_unfinished(&cache)?;
            let half_done = cache.join(format!("unfinished-{}", Uuid::now_v7()));
            create_traversable(&half_done)?;
            fetch(&half_done, platform)?;
            unpack_postgres(&half_done.join("postgres"))?;
            fs::rename(&half_done, &folder).at("rename", &half_done)?;
        }
        Ok(Self(folder))
    }

    /// The class path of Kafka's broker and tools.
    pub(crate) fn kafka_class_path(&self) -> String {
        format!("{}/kafka/*", self.0.display())
    }

    /// `initdb` or `postgres`.
    pub(crate) fn postgres_program(&self, name: &str) -> PathBuf {
        self.0.join("postgres/bin").join(name)
    }
}

fn folder(cache: &Path, platform: &str) -> PathBuf {
    cache.join(format!("{platform}-{:016x}", fingerprint(POM.as_bytes())))
}

fn this_platform() -> Result<&'static str, StackError> {
    platform(std::env::consts::OS, std::env::consts::ARCH)
}

/// The end of the name of the artifact that holds Postgres for an operating system and processor.
fn platform(os: &str, arch: &str) -> Result<&'static str, StackError> {
    match (os, arch) {
        ("linux", "x86_64") => Ok("linux-amd64"),
        ("linux", "aarch64") => Ok("linux-arm64v8"),
        ("macos", "x86_64") => Ok("darwin-amd64"),
        ("macos", "aarch64") => Ok("darwin-arm64v8"),
        _ => Err(StackError::UnsupportedPlatform {
            os: os.to_owned(),
            arch: arch.to_owned(),
        }),
    }
}

fn remove_unfinished(cache: &Path) -> Result<(), StackError> {
    for entry in fs::read_dir(cache).at("list", cache)? {
        let path = entry.at("list", cache)?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("unfinished-"))
        {
            remove_folder(&path)?;
        }
    }
    Ok(())
}

fn fetch(destination: &Path, platform: &str) -> Result<(), StackError> {
    let pom = destination.join("pom.xml");
    fs::write(&pom, POM).at("write", &pom)?;
    let mut maven = Command::new("mvn");
    maven.args(["--quiet", "--batch-mode", "--file"]).arg(&pom);
    maven.arg(format!("-Dpostgres.platform={platform}"));
    maven.arg(format!("-Ddestination={}", destination.display()));
    maven.arg("package");
    let maven = maven
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let maven = maven.map_err(|_| {
        let why = "Maven is needed to fetch Kafka and Postgres and `mvn` does not run: install it";
        StackError::Missing(why.to_owned())
    })?;
    // The one step that takes long and happens once: whoever waits should know for what.
    eprintln!("Fetching Kafka and Postgres with Maven. This is done once.");
    let output = maven
        .wait_with_output()
        .at("wait for Maven in", destination)?;
    succeeded("fetching Kafka and Postgres with Maven", &output)
}

fn unpack_postgres(folder: &Path) -> Result<(), StackError> {
    let mut entries = fs::read_dir(folder)
        .at("list", folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let archive = entries.find(|path| path.extension().is_some_and(|extension| extension == "txz"));
    let archive = archive.ok_or_else(|| StackError::Step {
        what: "looking for Postgres in what Maven fetched",
        status: "there is no .txz".to_owned(),
        output: folder.display().to_string(),
    })?;
    let mut tar = Command::new("tar");
    tar.args(["--no-same-owner", "-xJf"])
        .arg(&archive)
        .arg("-C")
        .arg(folder);
    let output = run(&mut tar).map_err(|_| {
        StackError::Missing("`tar` is needed to unpack Postgres: install it".to_owned())
    })?;
    // GNU tar runs xz, macOS' tar brings it: only a failure makes its absence matter.
    if !output.status.success() && run(Command::new("xz").arg("--version")).is_err() {
        return Err(StackError::Missing(
            "`xz` is needed to unpack Postgres: install xz (xz-utils)".to_owned(),
        ));
    }
    succeeded("unpacking Postgres", &output)?;
    fs::remove_file(&archive).at("remove", &archive)?;
    // Under a strict umask the user Postgres runs as could not read it.
    let output =
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder)).at("run chmod on", folder)?;
    succeeded("making Postgres readable", &output)
}

fn run(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).output()
}

/// An error with the end of what the program printed, unless it succeeded.
pub(crate) fn succeeded(what: &'static str, output: &Output) -> Result<(), StackError> {
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(StackError::Step {
        what,
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(&printed), 25),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_its_artifact() {
        assert_eq!(platform("linux", "x86_64").unwrap(), "linux-amd64");
        assert_eq!(platform("linux", "aarch64").unwrap(), "linux-arm64v8");
        assert_eq!(platform("macos", "aarch64").unwrap(), "darwin-arm64v8");
        assert_eq!(platform("macos", "x86_64").unwrap(), "darwin-amd64");
    }

    #[test]
    fn an_unknown_platform_is_refused_in_one_line() {
        let message = platform("freebsd", "riscv64").unwrap_err().to_string();
        assert!(message.contains("freebsd on riscv64"), "{message}");
        assert_eq!(message.lines().count(), 1);
    }

    #[test]
    fn what_a_killed_fetch_left_is_not_taken_for_a_finished_one() {
        let cache = tempfile::tempdir().unwrap();
        let left = cache.path().join("unfinished-1");
        fs::create_dir(&left).unwrap();
        assert_ne!(left, folder(cache.path(), "linux-amd64"));
        remove_unfinished(cache.path()).unwrap();
        assert!(!left.exists());
    }
}
