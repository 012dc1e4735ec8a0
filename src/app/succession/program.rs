//! The program that is started to take over: the one on disk now, with the arguments of this process.
//!
//! **Owns:** where it is, its arguments, checking the configuration with it.
//! **Does not own:** what it is told (`word`).
//! **Invariant:** the place is found when this process starts, and is the name by which it was called, not
//! what that led to: whoever replaces the file, or a link on the way to it, is understood.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a check of the configuration may take.
const CHECK_MAX: Duration = Duration::from_secs(60);
/// Names the descriptor by which the old process is reached.
pub const CHANNEL: &str = "PG_DOORMAN_UPGRADE_FD";
/// Names the descriptor of a pipe that gets one byte when clients can connect.
pub const READY: &str = "PG_DOORMAN_READY_FD";
/// The variable for `--inherit-fd`.
const INHERIT: &str = "INHERIT_FD";

/// How the program is started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    directory: PathBuf,
}

impl Program {
    /// As this process was started.
    ///
    /// # Errors
    ///
    /// The program or the working directory is not to be found.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let directory = std::env::current_dir()?;
        let path = if name.as_bytes().contains(&b'/') {
            directory.join(name)
        } else {
            let variable = std::env::var_os("PATH").unwrap_or_default();
            match in_path(&name, &variable) {
                Some(found) => directory.join(found),
                None => std::env::current_exe()?,
            }
        };
        Ok(Self {
            path,
            arguments: without_descriptor(arguments),
            directory,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it without anything that was inherited.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).current_dir(&self.directory);
        for variable in [CHANNEL, READY, INHERIT] {
            command.env_remove(variable);
        }
        command
    }

    /// Has the program check the configuration.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, as the program says.
    pub async fn check(&self) -> Result<(), String> {
        let mut command = tokio::process::Command::from(self.command());
        command.arg("-t").stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(CHECK_MAX, command.output()).await {
            Err(_) => return Err("the check of the configuration takes too long".to_owned()),
            Ok(output) => output.map_err(|error| {
                let path = self.path.display();
                format!("{path} cannot be started: {error}")
            })?,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "the new program refuses the configuration ({}): {}",
            output.status,
            said.trim()
        ))
    }
}

fn in_path(name: &OsStr, variable: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(variable)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// The descriptor in it belonged to this process.
fn without_descriptor(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        if std::mem::take(&mut is_value) {
            continue;
        }
        is_value = argument == "--inherit-fd";
        if !is_value && !argument.as_bytes().starts_with(b"--inherit-fd=") {
            kept.push(argument);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inherited_is_not_handed_down() {
        let given = ["-l", "debug", "--inherit-fd", "5", "f.toml"];
        let other = ["--inherit-fd=7", "f.toml", "--daemon"];
        let kept = |given: &[&str]| without_descriptor(given.iter().map(OsString::from));
        assert_eq!(kept(&given), ["-l", "debug", "f.toml"]);
        assert_eq!(kept(&other), ["f.toml", "--daemon"]);
    }

    #[test]
    fn a_name_without_a_directory_is_looked_for() {
        let found = in_path(OsStr::new("sh"), OsStr::new("/nowhere:/bin"));
        assert_eq!(found, Some("/bin/sh".into()));
        assert_eq!(in_path(OsStr::new("no such"), OsStr::new("/bin")), None);
    }
}
