//! Reading a command line, and refusing options that were given nothing.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};

/// Reads a command line, the program's name included. An option with an empty value is refused: it is what is left of a
/// variable that is not set, and must not be taken for a default.
///
/// # Errors
/// It cannot be understood; or help or version was asked for.
pub fn read<T: FromArgMatches>(
    mut command: Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let matches = command.try_get_matches_from_mut(arguments)?;
    refuse_empty(&mut command, &matches)?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn refuse_empty(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let mut empty = Vec::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let name = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => argument.get_long().map(|long| format!("--{long}")),
            Some(ValueSource::EnvVariable) => argument.get_env().map(|name| name.to_string_lossy().into_owned()),
            _ => continue,
        };
        let is_blank = |value: &std::ffi::OsStr| value.as_encoded_bytes().iter().all(u8::is_ascii_whitespace);
        if matches.get_raw(id).is_some_and(|mut values| values.any(is_blank)) {
            empty.push(name.unwrap_or_else(|| argument.to_string()));
        }
    }
    if empty.is_empty() {
        return Ok(());
    }
    let verb = if empty.len() == 1 { "is" } else { "are" };
    let problem = format!("{} {verb} empty: give a value, or leave it out", empty.join(" and "));
    Err(command.error(ErrorKind::InvalidValue, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::{CoordinatorOptions, LoadTestOptions};
    use clap::CommandFactory;

    /// Every option that takes a value, of both programs.
    #[test]
    fn no_option_may_be_empty() {
        let long_with_value = |command: &Command| -> Vec<String> {
            let takes_value = |argument: &&clap::Arg| argument.get_action().takes_values();
            command
                .get_arguments()
                .filter(takes_value)
                .filter_map(|argument| argument.get_long())
                .map(str::to_owned)
                .collect()
        };
        let read_both = |long: &str, value: &str, of_coordinator: bool| {
            let arguments = ["program".to_owned(), format!("--{long}={value}")].map(OsString::from);
            match of_coordinator {
                true => CoordinatorOptions::parse_from_arguments(arguments).map(drop),
                false => read::<LoadTestOptions>(LoadTestOptions::command(), arguments).map(drop),
            }
        };
        for (command, of_coordinator) in [(LoadTestOptions::command(), false), (CoordinatorOptions::command(), true)] {
            let options = long_with_value(&command);
            assert!(options.len() > 25, "{options:?}");
            for long in options {
                for value in ["", "  "] {
                    let error = read_both(&long, value, of_coordinator).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidValue, "--{long}");
                    // clap itself refuses an empty path.
                    let named = [format!("--{long} is empty"), format!("a value is required for '--{long}")];
                    assert!(named.iter().any(|named| error.to_string().contains(named)), "{error}");
                }
                assert!(read_both(&long, "1", of_coordinator).is_ok(), "--{long}");
            }
        }
    }
}
