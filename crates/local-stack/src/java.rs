//! Finds the Java that Kafka and Maven run on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::StackError;

/// What Kafka's broker needs at least.
const OLDEST: u32 = 17;

/// The `java` to run: the one of `JAVA_HOME`, else the one on the path.
pub(crate) fn find() -> Result<PathBuf, StackError> {
    let java = std::env::var_os("JAVA_HOME")
        .filter(|home| !home.is_empty())
        .map_or_else(
            || PathBuf::from("java"),
            |home| Path::new(&home).join("bin/java"),
        );
    // A missing program and macOS' stub, which exits non-zero, are the same to whoever has to
    // install one.
    let printed = Command::new(&java)
        .arg("-version")
        .output()
        .ok()
        .filter(|output| output.status.success());
    let major = printed.and_then(|output| major_version(&String::from_utf8_lossy(&output.stderr)));
    match major {
        Some(major) if major >= OLDEST => Ok(java),
        Some(major) => Err(StackError::Missing(format!(
            "Java {OLDEST} or newer is needed and `{}` is {major}: install a newer one or point JAVA_HOME to it",
            java.display()
        ))),
        None => Err(StackError::Missing(format!(
            "Java {OLDEST} or newer is needed and `{}` does not run: install a JDK",
            java.display()
        ))),
    }
}

/// The major version from what `java -version` prints: `"17.0.15"` is 17, and `"1.8.0_452"` is 8.
fn major_version(printed: &str) -> Option<u32> {
    let line = printed.lines().find(|line| line.contains(" version \""))?;
    let version = line.split('"').nth(1)?;
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match numbers.next()?.ok()? {
        1 => numbers.next()?.ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn versions_of_all_ages_are_read() {
        let of = |version: &str| {
            major_version(&format!(
                "openjdk version \"{version}\" 2025-04-15\nOpenJDK 64-Bit"
            ))
        };
        assert_eq!(of("17.0.15"), Some(17));
        assert_eq!(of("25"), Some(25));
        assert_eq!(of("26-ea"), Some(26));
        assert_eq!(of("1.8.0_452"), Some(8));
    }

    #[test]
    fn lines_before_the_version_are_skipped() {
        let printed =
            "Picked up JAVA_TOOL_OPTIONS: -Dx=y\njava version \"21.0.2\" 2024-01-16 LTS\n";
        assert_eq!(major_version(printed), Some(21));
    }

    #[test]
    fn anything_else_is_no_version() {
        assert_eq!(
            major_version("The operation couldn't be completed. Unable to locate a Java Runtime."),
            None
        );
        assert_eq!(major_version("java version \"\""), None);
        assert_eq!(major_version(""), None);
    }
}
