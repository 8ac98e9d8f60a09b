//! Takes passwords out of sight: out of this process's arguments and environment, where other programs can read them.
//!
//! A process cannot change what `/proc` and `ps` show of its arguments, but it can replace itself. So where a
//! connection string stands on the command line, or a secret in the environment, the program starts itself anew, as the
//! same process, without them, and finds them on its standard input: a file in memory that has no name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::cli::options::TargetOptions;
use crate::postgres::conninfo::Environment;

/// Set where the secrets have been taken out, and standard input holds them.
const MARK: &str = "POSTGRES_LOAD_TEST_HANDOVER";
const FLAG: &str = "--postgres-url";
/// Where a connection string is looked for.
pub const URL_VARIABLE: &str = "POSTGRES_URL";
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

/// What was taken out of sight. There is no `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The connection string.
    pub postgres_url: Option<String>,
    /// Where it was: the flag or the variable.
    pub postgres_url_from: Option<String>,
    /// `PGPASSWORD`
    pub pgpassword: Option<String>,
    /// Variables with a secret that is not UTF-8.
    pub unreadable: Vec<String>,
}

/// Replaces this process by one without secrets in sight, if there are any. Returns in the new process, or where there
/// was nothing to hide, with what it took and the arguments that are left. Call it before anything else.
///
/// # Errors
/// The program could not be started anew, or its input is not what it handed over.
pub fn hide_secrets(arguments: Vec<OsString>) -> io::Result<(Secrets, Vec<OsString>)> {
    if std::env::var_os(MARK).is_some() {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        // Who may look into this process would otherwise find it there until the end.
        let _ = rustix::fs::ftruncate(io::stdin(), 0);
        return Ok((serde_json::from_str(&text)?, arguments));
    }
    let (mut secrets, kept) = split(&arguments);
    let mut unreadable = Vec::new();
    let mut variable = |name: &str| match std::env::var(name) {
        Ok(value) => Some(value),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => {
            unreadable.push(name.to_owned());
            None
        }
    };
    secrets.pgpassword = variable(PASSWORD_VARIABLE);
    if secrets.postgres_url.is_none()
        && let Some(url) = variable(URL_VARIABLE)
    {
        secrets.postgres_url = Some(url);
        secrets.postgres_url_from = Some(URL_VARIABLE.to_owned());
    }
    secrets.unreadable = unreadable;
    if secrets == Secrets::default() {
        return Ok((secrets, arguments));
    }
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.first() {
        command.arg0(name);
    }
    command.args(kept.iter().skip(1)).env_remove(URL_VARIABLE).env_remove(PASSWORD_VARIABLE).env(MARK, "1");
    command.stdin(Stdio::from(file_in_memory(&serde_json::to_vec(&secrets)?)?));
    // Returns only where it failed.
    Err(command.exec())
}

impl Secrets {
    /// The environment with what was taken out of it.
    pub fn put_back(&self, environment: Environment) -> Environment {
        let environment = environment.with_unreadable(&self.unreadable);
        match &self.pgpassword {
            Some(password) => environment.with(PASSWORD_VARIABLE, password),
            None => environment,
        }
    }

    /// The options with what was taken out of them.
    pub fn put_into(&self, target: &mut TargetOptions) {
        if let Some(url) = &self.postgres_url {
            target.postgres_url = Some(url.clone());
            target.postgres_url_from.clone_from(&self.postgres_url_from);
        }
    }
}

/// Whether standard input is no longer that of whoever started the program, since secrets came by it.
pub fn has_replaced_input() -> bool {
    std::env::var_os(MARK).is_some()
}

fn file_in_memory(contents: &[u8]) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    let mut file = File::from(rustix::fs::memfd_create("secrets", rustix::fs::MemfdFlags::CLOEXEC)?);
    #[cfg(not(target_os = "linux"))]
    let mut file = tempfile::tempfile()?;
    file.write_all(contents)?;
    file.rewind()?;
    Ok(file)
}

/// The connection string, and the arguments without it. The last one counts, as it does when they are parsed.
fn split(arguments: &[OsString]) -> (Secrets, Vec<OsString>) {
    let mut secrets = Secrets::default();
    let mut kept = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let given = match argument.to_str() {
            Some("--") => {
                kept.push(argument.clone());
                kept.extend(rest.by_ref().cloned());
                break;
            }
            // Without a value it is kept, so that the parser can say so.
            Some(FLAG) => rest.clone().next().and_then(|value| value.to_str()).map(|value| (true, value.to_owned())),
            Some(text) => {
                text.strip_prefix(FLAG).and_then(|rest| rest.strip_prefix('=')).map(|value| (false, value.to_owned()))
            }
            None => None,
        };
        match given {
            Some((from_next, value)) => {
                secrets = Secrets {
                    postgres_url: Some(value),
                    postgres_url_from: Some(FLAG.to_owned()),
                    ..Secrets::default()
                };
                if from_next {
                    rest.next();
                }
            }
            None => kept.push(argument.clone()),
        }
    }
    (secrets, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> (Option<String>, Vec<String>) {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let (secrets, kept) = split(&arguments);
        (secrets.postgres_url, kept.into_iter().map(|argument| argument.into_string().unwrap()).collect())
    }

    #[test]
    fn the_connection_string_is_taken_out_of_the_arguments() {
        let url = Some("postgres://u:p@h/d".to_owned());
        let kept = vec!["p".to_owned(), "--vms".to_owned(), "a".to_owned()];
        assert_eq!(of(&["p", "--postgres-url", "postgres://u:p@h/d", "--vms", "a"]), (url.clone(), kept.clone()));
        assert_eq!(of(&["p", "--vms", "a", "--postgres-url=postgres://u:p@h/d"]), (url.clone(), kept.clone()));
        let twice = ["p", "--postgres-url=x", "--vms", "a", "--postgres-url", "postgres://u:p@h/d"];
        assert_eq!(of(&twice), (url, kept));
        assert_eq!(of(&["p", "--postgres-url"]), (None, vec!["p".to_owned(), "--postgres-url".to_owned()]));
        assert_eq!(of(&["p", "--postgres-urls", "x"]).0, None);
    }
}
