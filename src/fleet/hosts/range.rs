//! Ranges in a host's name: `vm[01-16]`, `vm[1,3,7-9]`, several of them multiplied. Pure; counts before it builds.

use super::{ItemFault, LONGEST_ADDRESS_BYTES, too_long};

/// All names of a pattern, in order, the last range counting fastest; at most `room` of them.
pub(super) fn expand(pattern: &str, room: usize) -> Result<Vec<String>, ItemFault> {
    let parts = parts(pattern)?;
    let count = parts.iter().try_fold(1usize, |count, part| match part {
        Part::Literal(_) => Some(count),
        Part::Range(spans) => {
            count.checked_mul(spans.iter().try_fold(0usize, |sum, span| sum.checked_add(span.count()))?)
        }
    });
    if count.is_none_or(|count| count > room) {
        return Err(ItemFault::TooMany);
    }
    // Before they are built: a long name many times over takes all memory, and so does a number with many zeros.
    if parts.iter().map(Part::longest).fold(0, usize::saturating_add) > LONGEST_ADDRESS_BYTES {
        return Err(ItemFault::Wrong(too_long()));
    }
    Ok(parts.iter().fold(vec![String::new()], |names, part| match part {
        Part::Literal(text) => names.into_iter().map(|name| name + text).collect(),
        Part::Range(spans) => names
            .iter()
            .flat_map(|name| spans.iter().flat_map(Span::texts).map(move |number| format!("{name}{number}")))
            .collect(),
    }))
}

enum Part<'a> {
    Literal(&'a str),
    Range(Vec<Span>),
}

impl Part<'_> {
    /// Bytes of its longest text.
    fn longest(&self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Range(spans) => spans.iter().map(|span| span.width.max(digits(span.last))).max().unwrap_or_default(),
        }
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Numbers from `first` to `last`, both included, filled with zeros up to `width` digits.
struct Span {
    first: u64,
    last: u64,
    width: usize,
}

impl Span {
    fn count(&self) -> usize {
        usize::try_from(self.last - self.first).unwrap_or(usize::MAX).saturating_add(1)
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        let width = self.width;
        (self.first..=self.last).map(move |number| format!("{number:0width$}"))
    }
}

fn parts(pattern: &str) -> Result<Vec<Part<'_>>, String> {
    let (mut parts, mut rest) = (Vec::new(), pattern);
    while let Some((literal, behind)) = rest.split_once('[') {
        let Some((range, behind)) = behind.split_once(']') else {
            return Err("the bracket is never closed: write a range as vm[1-4]".into());
        };
        parts.push(checked_literal(literal)?);
        parts.push(Part::Range(range.split(',').map(|span| span_of(span, range)).collect::<Result<_, _>>()?));
        rest = behind;
    }
    parts.push(checked_literal(rest)?);
    Ok(parts)
}

fn checked_literal(text: &str) -> Result<Part<'_>, String> {
    match text.contains(']') {
        true => Err("a bracket is closed that was never opened: write a range as vm[1-4]".into()),
        false => Ok(Part::Literal(text)),
    }
}

fn span_of(span: &str, range: &str) -> Result<Span, String> {
    let (first, last) = span.split_once('-').unwrap_or((span, span));
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (Some(low), Some(high)) = (number(first), number(last)) else {
        return Err(format!(
            "[{}] is not a range of numbers: write for example [1-4], [01-16] or [1,3,7-9]",
            short(range)
        ));
    };
    if low > high {
        return Err(format!("the range [{}] runs backwards: write [{last}-{first}]", short(span)));
    }
    let padded = first.len() > 1 && first.starts_with('0');
    Ok(Span { first: low, last: high, width: if padded { first.len() } else { 0 } })
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
