//! Decimal numbers as people type them: `100`, `.5`, `1e3`, `10k`, `1.5M`. Exact, so that a rate or a seed is never
//! rounded on its way through a float. Pure.

/// More digits than any figure here needs; a longer text is refused as out of range.
const MOST_DIGITS: usize = 30;

/// `mantissa × 10^exponent`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    mantissa: u128,
    exponent: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It has more decimals than the unit holds.
    TooFine,
    /// It is larger than any number here.
    TooLarge,
}

impl Decimal {
    /// Reads a number without a sign: digits with or without a point, then perhaps an exponent.
    ///
    /// # Errors
    /// Says what is wrong with the text, as in "'x' is not a number".
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if let Some(rest) = text.strip_prefix('-') {
            return Err(if Self::parse(rest).is_ok() { "is below zero" } else { "is not a number" }.to_owned());
        }
        let text = text.strip_prefix('+').unwrap_or(text);
        if ["inf", "infinity"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Err("is not a finite number".to_owned());
        }
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, Some(exponent)),
            None => (text, None),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let exponent = match exponent.map(exponent_of) {
            None => Some(0),
            Some(read) => read,
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let has_digits = digits.bytes().any(|byte| byte.is_ascii_digit());
        let (Some(exponent), true) = (exponent, has_digits && all_digits(whole) && all_digits(fraction)) else {
            return Err("is not a number".to_owned());
        };
        let out_of_range = || "is out of range".to_owned();
        let fraction = fraction.trim_end_matches('0');
        let significant = format!("{whole}{fraction}");
        let significant = significant.trim_start_matches('0');
        if significant.len() > MOST_DIGITS {
            return Err(out_of_range());
        }
        let mantissa = if significant.is_empty() { 0 } else { significant.parse().map_err(|_| out_of_range())? };
        let decimals = i32::try_from(fraction.len()).map_err(|_| out_of_range())?;
        Ok(Self { mantissa, exponent: if mantissa == 0 { 0 } else { exponent - decimals } })
    }

    /// As [`Self::parse`], for counts and rates: `k`, `M` and `G` behind the number multiply it by 10^3, 10^6 and 10^9.
    pub fn parse_count(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (digits, exponent) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 3),
            Some((at, 'M')) => (&text[..at], 6),
            Some((at, 'G')) => (&text[..at], 9),
            _ => (text, 0),
        };
        let number = Self::parse(digits).map_err(|problem| match digits == text {
            true => problem,
            // What is left of "k" is empty, and "k" is not.
            false => problem.replace("is empty", "is not a number"),
        })?;
        Ok(Self { exponent: number.exponent + if number.mantissa == 0 { 0 } else { exponent }, ..number })
    }

    /// The number in units of `10^-decimals`, exactly.
    ///
    /// # Errors
    /// It is no whole number of them, or more than 64 bits hold.
    pub fn scaled(self, decimals: i32) -> Result<u64, Misfit> {
        let exponent = self.exponent.saturating_add(decimals);
        let power = u128::checked_pow(10, exponent.unsigned_abs());
        let scaled = match (exponent < 0, power) {
            (true, None) => return Err(Misfit::TooFine),
            (true, Some(power)) if !self.mantissa.is_multiple_of(power) => return Err(Misfit::TooFine),
            (true, Some(power)) => self.mantissa / power,
            (false, power) => power.and_then(|power| self.mantissa.checked_mul(power)).ok_or(Misfit::TooLarge)?,
        };
        u64::try_from(scaled).map_err(|_| Misfit::TooLarge)
    }

    /// The nearest float; infinite where none is large enough.
    pub fn as_f64(self) -> f64 {
        // Through the text, which the standard library rounds correctly.
        format!("{}e{}", self.mantissa, self.exponent).parse().unwrap_or(f64::INFINITY)
    }
}

/// The exponent; `None` if it is not a whole number.
fn exponent_of(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A thousand is far out of range for whatever is asked, and keeps sums from overflowing.
    is_number
        .then(|| text.parse::<i32>().unwrap_or(if text.starts_with('-') { -1_000 } else { 1_000 }).clamp(-1_000, 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_exactly() {
        for (text, micro) in [
            ("1", 1_000_000),
            (".5", 500_000),
            ("5.", 5_000_000),
            ("1e3", 1_000_000_000),
            ("1E+3", 1_000_000_000),
            ("2.5e-3", 2_500),
            ("10k", 10_000_000_000),
            ("1.5k", 1_500_000_000),
            (".5M", 500_000_000_000),
            ("0", 0),
            ("0e999999999999", 0),
            ("+7", 7_000_000),
            (" 7 ", 7_000_000),
            ("33.333333", 33_333_333),
        ] {
            assert_eq!(Decimal::parse_count(text).map(|number| number.scaled(6)), Ok(Ok(micro)), "{text}");
        }
        assert_eq!(Decimal::parse("18446744073709551615").unwrap().scaled(0), Ok(u64::MAX));
        assert_eq!(Decimal::parse("18446744073709551616").unwrap().scaled(0), Err(Misfit::TooLarge));
        assert_eq!(Decimal::parse("1e-7").unwrap().scaled(6), Err(Misfit::TooFine));
        assert_eq!(Decimal::parse("1e-999999999999").unwrap().scaled(6), Err(Misfit::TooFine));
        assert_eq!(Decimal::parse("1e999999999999").unwrap().scaled(6), Err(Misfit::TooLarge));
    }

    #[test]
    fn what_is_wrong_is_said_as_it_is() {
        for (text, says) in [
            ("", "is empty"),
            (" ", "is empty"),
            ("NaN", "is not a number"),
            ("-NaN", "is not a number"),
            ("inf", "is not a finite number"),
            ("Infinity", "is not a finite number"),
            ("-1", "is below zero"),
            ("-1e3", "is below zero"),
            (".", "is not a number"),
            ("e3", "is not a number"),
            ("1e", "is not a number"),
            ("1e1.5", "is not a number"),
            ("1,000", "is not a number"),
            ("0x10", "is not a number"),
            ("k", "is not a number"),
            ("1kk", "is not a number"),
            ("1m", "is not a number"),
            ("9999999999999999999999999999999999999999", "is out of range"),
        ] {
            assert_eq!(Decimal::parse_count(text), Err(says.to_owned()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_nearest_float_is_the_standard_librarys(whole in 0u64..1_000_000_000, fraction in 0u32..1_000_000, exponent in -30i32..30) {
            let text = format!("{whole}.{fraction:06}e{exponent}");
            prop_assert_eq!(Decimal::parse(&text).unwrap().as_f64(), text.parse::<f64>().unwrap());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}", number in "[0-9.eE+kM-]{0,40}") {
            for text in [text, number] {
                if let Ok(number) = Decimal::parse_count(&text) {
                    let _ = (number.scaled(9), number.scaled(0), number.as_f64());
                }
            }
        }
    }
}
