//! Numbers, times and lists of names, as people read them. Pure.

/// `a, b, c and 5 more`: at most `most` names.
pub fn name_list(names: &[impl AsRef<str>], most: usize) -> String {
    let named = names.iter().take(most).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// A number with commas between groups of three digits.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A number without needless decimals.
pub fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An instant of the wall clock as RFC 3339 in UTC, to the microsecond, or to the nanosecond where it is not a whole one.
pub fn rfc3339(unix_ns: u64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(unix_ns)) {
        Ok(timestamp) if unix_ns.is_multiple_of(1_000) => format!("{timestamp:.6}"),
        Ok(timestamp) => format!("{timestamp:.9}"),
        Err(_) => format!("{unix_ns} ns after 1970"),
    }
}
