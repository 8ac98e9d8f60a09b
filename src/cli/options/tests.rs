//! docs/options.md has the tables that are made here from the definitions of the options.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};

use super::{CoordinatorOptions, LoadTestOptions, MergeOptions, ReportOptions};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md");

/// One table, with a row for each option and a line for each group.
fn table(command: &Command) -> String {
    let mut text = String::from("\n| Option | Default | Meaning |\n|---|---|---|\n");
    let mut group = "";
    for argument in command.get_arguments() {
        let heading = argument.get_help_heading().unwrap_or("Arguments");
        if heading != group {
            group = heading;
            writeln!(text, "| **{heading}** | | |").unwrap();
        }
        let (default, meaning) = default_and_meaning(argument);
        writeln!(text, "| {} | {default} | {meaning} |", option(argument)).unwrap();
    }
    text.push('\n');
    text
}

/// Short names, long name and kind of value.
fn option(argument: &Arg) -> String {
    let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
    let names = shorts.iter().map(|short| format!("`-{short}`"));
    let values: Vec<_> = argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let value = match values.concat() {
        value if !argument.get_action().takes_values() || value.is_empty() => String::new(),
        value if argument.get_num_args().is_some_and(|range| range.min_values() == 0) => format!(" [{value}]"),
        value => format!(" {value}"),
    };
    let long = argument.get_long().map_or(value.trim().to_owned(), |long| format!("--{long}{value}"));
    let long = format!("`{}`", long.replace('|', "\\|"));
    names.chain([long]).collect::<Vec<_>>().join(", ")
}

/// The default, and the rest of the help text: a default that is no single value stands in the text.
fn default_and_meaning(argument: &Arg) -> (String, String) {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let (before, rest) = help.split_once("[default: ").unwrap_or((&help, ""));
    let (described, after) = rest.split_once(']').unwrap_or((rest, ""));
    let values = argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy()));
    let default = values.chain([described.to_owned()]).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
    let mut sentences = String::new();
    for paragraph in [before, after].iter().flat_map(|text| text.split("\n\n")).map(str::trim) {
        if !paragraph.is_empty() {
            let separator = if sentences.is_empty() { "" } else { ". " };
            sentences += &format!("{separator}{}", paragraph.trim_end_matches('.'));
        }
    }
    let mut meaning = cell(&sentences);
    for value in argument.get_possible_values().iter().filter(|_| argument.get_action().takes_values()) {
        let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
        write!(meaning, "<br>`{}`{help}", value.get_name()).unwrap();
    }
    (cell(&default), meaning)
}

fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// The text with other contents between `<!-- generated: NAME -->` and `<!-- end -->`.
fn with_generated(text: &str, name: &str, contents: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let from = text.find(&begin).unwrap_or_else(|| panic!("{PATH} has no line {begin}")) + begin.len();
    let length = text[from..].find("<!-- end -->").unwrap_or_else(|| panic!("no end of {name} in {PATH}"));
    format!("{}{contents}{}", &text[..from], &text[from + length..])
}

#[test]
fn the_documented_options_are_those_of_the_programs() {
    let written = std::fs::read_to_string(PATH).unwrap();
    let tables = [
        ("load_test options", LoadTestOptions::command()),
        ("coordinator options", CoordinatorOptions::described()),
        ("coordinator merge options", MergeOptions::command()),
        ("load_test report options", ReportOptions::command()),
    ];
    let wanted =
        tables.iter().fold(written.clone(), |text, (name, command)| with_generated(&text, name, &table(command)));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, wanted).unwrap();
    } else {
        assert!(written == wanted, "docs/options.md is out of date: run UPDATE_DOCS=1 cargo test --lib cli::options");
    }
}

#[test]
fn the_short_help_is_a_screen_and_a_half() {
    let without_groups =
        |command: Command| command.mut_args(|argument| argument.help_heading(clap::builder::Resettable::Reset));
    for command in [LoadTestOptions::command(), CoordinatorOptions::described()] {
        for columns in [80, 100] {
            let help = without_groups(command.clone()).term_width(columns).render_help().to_string();
            assert!(help.lines().count() <= 36, "{columns}:\n{help}");
        }
    }
}
