//! Text from a server, a VM or a file, made safe to show: nothing in it can steer a terminal, and it has a bounded length.
//! Pure.

/// Text from a server, with what could steer a terminal made visible.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Lines of a text from another VM that are kept.
const MAX_LINES: usize = 30;

/// The lines of a text, such as a log or a server's DETAIL and HINT, each as [`printable`] shows it.
pub fn lines_of(text: &str) -> Vec<String> {
    let lines = text.trim_end().lines().map(|line| line.trim_end().replace('\t', "    "));
    lines.filter(|line| !line.is_empty()).map(|line| printable(&line)).collect()
}

/// As [`printable`], but lines stay lines; those after the first are indented.
pub fn printable_lines(text: &str) -> String {
    lines_of(text).join("\n  ")
}

/// As [`brief`], but lines stay lines.
pub fn brief_lines(text: &str, most: usize) -> String {
    let lines: Vec<String> = lines_of(text).iter().map(|line| brief(line, most)).collect();
    let mut left = most;
    let fits = |line: &&String| {
        let fits = left > 0;
        left = left.saturating_sub(line.chars().count());
        fits
    };
    lines.iter().take(MAX_LINES).take_while(fits).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// JSON in which what could steer a terminal is written as an escape. It may stand within texts only, and means the
/// same there.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // A line of its own is between texts.
        if steers(c) && c != '\n' {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A text cut to so many characters. Where something is left out, it ends in `…`.
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).take(columns).collect()
}

/// As [`printable`], and cut after so many characters: text from another VM may be of any length.
pub fn brief(text: &str, most: usize) -> String {
    let mut brief: String = text.chars().take(most).collect();
    if brief.len() < text.len() {
        brief.push('…');
    }
    printable(&brief)
}

/// Whether a character could steer a terminal, or show a text as what it is not: control characters, and those that
/// turn the direction of writing, break lines or show nothing.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A name in so many characters, with `…` in its middle where it is longer.
pub fn shortened(name: &str, width: usize) -> String {
    let name: Vec<char> = printable(name).chars().collect();
    if name.len() <= width {
        return name.into_iter().collect();
    }
    let head = width / 2;
    let tail = width - head - 1;
    name[..head].iter().chain(&['…']).chain(&name[name.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_on_a_terminal_steers_nothing_and_means_the_same() {
        let value = "a\u{1b}[31m \u{7f}\u{9b}2J \u{202e} \u{e0041} ü€𝄞\n\\";
        let json = printable_json(&serde_json::to_string_pretty(&[value]).unwrap());
        assert!(!json.chars().any(|c| steers(c) && c != '\n') && json.lines().count() == 3, "{json}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [value]);
    }

    #[test]
    fn a_server_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\r\nc"), "a\\u{1b}[31mb\\r\\nc");
        // An escape sequence in one character, and text that reads backwards.
        assert_eq!(printable("\u{9b}2J\u{202e}DESSAP\u{2028}"), "\\u{9b}2J\\u{202e}DESSAP\\u{2028}");
        assert_eq!(printable_lines("one\r\n\u{1b}two\n\tthree\n"), "one\n  \\u{1b}two\n      three");
        assert_eq!((brief("\u{1b}abc", 2), brief("ab", 2)), ("\\u{1b}a…".to_owned(), "ab".to_owned()));
    }
}
