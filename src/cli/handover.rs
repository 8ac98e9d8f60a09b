//! Takes the connection string out of the arguments, which every user of this machine can read (`ps`).
//!
//! A process cannot change what `/proc` shows of its arguments, but it can replace itself. So the program starts itself
//! again, as the same process, with the connection string in its environment. Only the same user and root can read that.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const FLAG: &str = "--postgres-url";
/// Where a connection string is looked for.
pub const URL_VARIABLE: &str = "POSTGRES_URL";
/// Set where the connection string in [`URL_VARIABLE`] stood in the arguments.
const MARK: &str = "POSTGRES_LOAD_TEST_HANDOVER";

/// Replaces this process by one without `--postgres-url`, and returns there; does nothing where there is none. Call it
/// before anything else.
///
/// # Errors
/// The program could not be started again.
pub fn hide_connection_string(arguments: &[OsString]) -> io::Result<()> {
    let (Some(url), kept) = split(arguments) else { return Ok(()) };
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.first() {
        command.arg0(name);
    }
    command.args(kept.iter().skip(1)).env(URL_VARIABLE, url).env(MARK, "1");
    // Returns only where it failed.
    Err(command.exec())
}

/// What to name where the connection string is wrong: the option or the variable.
pub fn url_name() -> &'static str {
    if std::env::var_os(MARK).is_some() { FLAG } else { URL_VARIABLE }
}

/// The connection string, and the arguments without it. The last one counts, as it does when they are parsed.
fn split(arguments: &[OsString]) -> (Option<OsString>, Vec<OsString>) {
    let (mut url, mut kept) = (None, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            kept.push(argument.clone());
            kept.extend(rest.cloned());
            break;
        }
        let after_flag = argument.as_encoded_bytes().strip_prefix(FLAG.as_bytes());
        match after_flag {
            // Without a value it is kept, so that the parser can say so.
            Some([]) => match rest.next() {
                Some(value) => url = Some(value.clone()),
                None => kept.push(argument.clone()),
            },
            Some([b'=', value @ ..]) => url = Some(OsString::from_vec(value.to_vec())),
            _ => kept.push(argument.clone()),
        }
    }
    (url, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> (Option<String>, Vec<String>) {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let (url, kept) = split(&arguments);
        let text = |argument: OsString| argument.into_string().unwrap();
        (url.map(text), kept.into_iter().map(text).collect())
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
