//! Reading a command line. clap stops at the first wrong value; here all of them are found.

use std::ffi::{OsStr, OsString};

use clap::builder::{PossibleValue, Resettable, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, Command, FromArgMatches};

use super::handover;
use super::values::Fault;

/// Reads a command line, the program's name included: the options, with their defaults in place of wrong values, and a
/// fault for each wrong value. An empty value is wrong: it is what is left of a variable that is not set.
///
/// First all values are taken as text, then each is parsed alone, and the good ones together.
///
/// # Errors
/// It cannot be understood; or help or version was asked for.
pub fn read<T: FromArgMatches>(
    command: &Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(T, Vec<Fault>), clap::Error> {
    // From here on variables are arguments as well, so that a wrong one can be left out.
    let mut typed = command.clone().mut_args(|argument| argument.env(Resettable::Reset));
    let mut as_text = command.clone().mut_args(|argument| match argument.get_action().takes_values() {
        true => {
            let known = argument.get_possible_values();
            argument.value_parser(AnyText { known })
        }
        false => argument,
    });
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.iter().any(|argument| argument == "-h") {
        // The short help is one list that fits on a screen.
        as_text = as_text.mut_args(|argument| argument.help_heading(Resettable::Reset));
    }
    let given = as_text.try_get_matches_from_mut(arguments)?;
    let (mut faults, mut good) = (Vec::new(), vec![OsString::from(command.get_name())]);
    let mut positional = Vec::new();
    for argument in as_text.get_arguments() {
        let id = argument.get_id().as_str();
        let source = given.value_source(id);
        if !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        if !argument.get_action().takes_values() {
            good.push(format!("--{}", argument.get_long().unwrap_or_default()).into());
            continue;
        }
        let is_variable = source == Some(ValueSource::EnvVariable);
        let name = name(argument, is_variable);
        for value in given.get_raw(id).into_iter().flatten() {
            match fault(&typed, argument, &name, value) {
                Some(fault) => faults.push(fault),
                None if argument.is_positional() => positional.push(value.to_owned()),
                None => good.push(with_value(argument, value)),
            }
        }
    }
    if !positional.is_empty() {
        good.push("--".into());
        good.extend(positional);
    }
    let matches = typed.try_get_matches_from_mut(good)?;
    Ok((T::from_arg_matches(&matches).map_err(|error| error.format(&mut typed))?, faults))
}

/// What was resolved, where nothing was wrong before that either; else all that is wrong.
pub fn all_or_faults<T>(mut faults: Vec<Fault>, resolved: Result<T, Vec<Fault>>) -> Result<T, Vec<Fault>> {
    match resolved {
        Ok(resolved) if faults.is_empty() => Ok(resolved),
        resolved => {
            faults.extend(resolved.err().into_iter().flatten());
            Err(faults)
        }
    }
}

/// Takes any text; the help lists the values that are known.
#[derive(Clone)]
struct AnyText {
    known: Vec<PossibleValue>,
}

impl TypedValueParser for AnyText {
    type Value = OsString;

    fn parse_ref(&self, _: &Command, _: Option<&Arg>, value: &OsStr) -> Result<OsString, clap::Error> {
        Ok(value.to_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        (!self.known.is_empty()).then(|| Box::new(self.known.iter().cloned()) as Box<_>)
    }
}

fn name(argument: &Arg, is_variable: bool) -> String {
    match (argument.get_long(), argument.get_env()) {
        (_, Some(variable)) if is_variable && variable == handover::URL_VARIABLE => handover::url_name().to_owned(),
        (_, Some(variable)) if is_variable => variable.to_string_lossy().into_owned(),
        (Some(long), _) => format!("--{long}"),
        (None, _) => argument.to_string(),
    }
}

fn with_value(argument: &Arg, value: &OsStr) -> OsString {
    let mut text = OsString::from(format!("--{}=", argument.get_long().unwrap_or_default()));
    text.push(value);
    text
}

fn fault(command: &Command, argument: &Arg, name: &str, value: &OsStr) -> Option<Fault> {
    if value.as_encoded_bytes().iter().all(u8::is_ascii_whitespace) {
        return Some(Fault::new(name, "is set but empty", "give a value, or leave it out"));
    }
    if argument.is_positional() {
        return None;
    }
    let error = command.clone().try_get_matches_from([command.get_name().into(), with_value(argument, value)]).err()?;
    let text = value.to_string_lossy();
    // Somebody may have put a connection string here, with its password.
    let is_secret = text.contains("://") || text.contains("password");
    let shown = if is_secret { "the value".to_owned() } else { format!("'{text}'") };
    match error.kind() {
        ErrorKind::InvalidUtf8 => Some(Fault::new(name, "is not UTF-8", "give it in UTF-8")),
        ErrorKind::InvalidValue => {
            let known = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(known)) => one_of(known),
                _ => "a value".to_owned(),
            };
            Some(Fault::new(name, format!("{shown} is unknown"), &format!("give {known}")))
        }
        // The parser's text goes on after the value, and has a remedy.
        ErrorKind::ValueValidation => {
            let problem = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Some(Fault { flag: name.to_owned(), text: format!("{shown} {problem}") })
        }
        _ => None,
    }
}

/// `a, b or c`
fn one_of(words: &[String]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::{CoordinatorOptions, LoadTestOptions, MergeOptions};
    use clap::CommandFactory;

    fn faults_of<T: FromArgMatches>(command: &Command, arguments: &[&str]) -> Vec<String> {
        let arguments = std::iter::once("program").chain(arguments.iter().copied()).map(OsString::from);
        let (_, faults) = read::<T>(command, arguments).unwrap();
        faults.iter().map(ToString::to_string).collect()
    }

    /// Every option that takes a value, of all programs.
    #[test]
    fn no_option_may_be_empty() {
        let check = |command: Command, faults_of: &dyn Fn(&Command, &[&str]) -> Vec<String>| {
            let takes_value = |argument: &&Arg| argument.get_action().takes_values();
            let options: Vec<String> =
                command.get_arguments().filter(takes_value).filter_map(Arg::get_long).map(str::to_owned).collect();
            assert!(!options.is_empty());
            for long in options {
                for value in ["", "  "] {
                    let faults = faults_of(&command, &[&format!("--{long}={value}")]);
                    assert_eq!(faults, [format!("--{long}: is set but empty; give a value, or leave it out")]);
                }
            }
        };
        check(LoadTestOptions::command(), &faults_of::<LoadTestOptions>);
        check(CoordinatorOptions::described(), &faults_of::<CoordinatorOptions>);
        check(MergeOptions::command(), &|command, arguments| {
            faults_of::<MergeOptions>(command, &[arguments, &["file"]].concat())
        });
    }

    #[test]
    fn all_wrong_values_are_found_and_the_good_ones_count() {
        let command = LoadTestOptions::command();
        let arguments = ["p", "--rps=x", "--rps", "fast", "-w", "7", "--slo=a", "--slo", "p99<1ms", "--arrival=bursty"];
        let (options, faults) =
            read::<LoadTestOptions>(&command, arguments.into_iter().chain(["--verify"]).map(OsString::from)).unwrap();
        let mut said: Vec<_> = faults.iter().map(ToString::to_string).collect();
        said.sort();
        assert_eq!(said[0], "--arrival: 'bursty' is unknown; give constant or poisson");
        assert!(said[1].starts_with("--rps: 'fast' is not a number; give requests per second"), "{said:?}");
        assert!(said[2].starts_with("--slo: 'a' has no '<'; give for example"), "{said:?}");
        assert_eq!(said.len(), 3);
        assert!(options.target.verify && options.load.workers == 7 && options.criteria.slo.len() == 1);
    }

    #[test]
    fn the_help_lists_the_known_values() {
        let help = read::<LoadTestOptions>(&LoadTestOptions::command(), ["p".into(), "--help".into()]).unwrap_err();
        for word in ["- logged:", "- poisson:", "read-committed"] {
            assert!(help.to_string().contains(word), "{word} is missing from\n{help}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_named_and_a_secret_is_not_repeated() {
        use std::os::unix::ffi::OsStringExt;
        let not_utf8 = OsString::from_vec(b"--rps=hunter2\xff".to_vec());
        let command = LoadTestOptions::command();
        let (_, faults) = read::<LoadTestOptions>(&command, ["p".into(), not_utf8]).unwrap();
        assert_eq!(faults[0].to_string(), "--rps: is not UTF-8; give it in UTF-8");
        let said = faults_of::<LoadTestOptions>(&command, &["--slo", "postgres://u:hunter2@h/d"]);
        assert!(said[0].starts_with("--slo: the value has no '<'"), "{said:?}");
    }

    #[test]
    fn options_are_the_same_after_a_journey_as_json() {
        let all = [
            "--postgres-url=postgres://h/d",
            "--rps=33.3",
            "--duration=1m30s",
            "--workers=3",
            "--arrival=poisson",
            "--max-lag=1.5s",
            "--isolation=serializable",
            "--abort-on-errors",
            "--setup",
            "--share=2/3",
            "--start-at=2026-01-31T12:00:00.5Z",
            "--slo=p99.9<=1.25s",
            "--slo=max<3us",
            "--min-achieved=99.5",
        ];
        let options = LoadTestOptions::command().try_get_matches_from([&["p"], &all[..]].concat()).unwrap();
        let options = LoadTestOptions::from_arg_matches(&options).unwrap();
        let json = serde_json::to_string(&options).unwrap();
        let back: LoadTestOptions = serde_json::from_str(&json).unwrap();
        assert_eq!(format!("{back:?}"), format!("{options:?}"), "{json}");
    }
}
