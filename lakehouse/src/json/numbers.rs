//! Numbers from their text, exactly: no way leads through a float unless the column is one.

/// Why a number is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It has more digits behind the point.
    Fraction,
    /// It is too large.
    Overflow,
}

/// The most digits that 128 bits may need.
const DIGITS_MAX: i64 = 39;

/// The number that `text` (a JSON number) writes, times ten to the power of `scale`.
///
/// # Errors
/// If that is no whole number of 128 bits.
pub fn scaled(text: &str, scale: u8) -> Result<i128, Misfit> {
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    let beyond = if exponent.starts_with('-') { Misfit::Fraction } else { Misfit::Overflow };
    let exponent: i64 = exponent.trim_start_matches('+').parse().map_err(|_| beyond)?;
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
    let zeros = length(digits) - length(significant);
    let power = exponent.saturating_sub(length(fraction)).saturating_add(zeros).saturating_add(i64::from(scale));
    if power < 0 {
        return Err(Misfit::Fraction);
    }
    if power.saturating_add(length(significant)) > DIGITS_MAX {
        return Err(Misfit::Overflow);
    }
    let power = u32::try_from(power).map_err(|_| Misfit::Overflow)?;
    let number: i128 = significant.parse().map_err(|_| Misfit::Overflow)?;
    let factor = 10_i128.checked_pow(power).ok_or(Misfit::Overflow)?;
    let number = number.checked_mul(factor).ok_or(Misfit::Overflow)?;
    Ok(if is_negative { -number } else { number })
}

/// Whether `text` (a JSON number) is written as a whole number.
pub fn is_whole(text: &str) -> bool {
    !text.contains(['.', 'e', 'E'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_exact_or_told_why_not() {
        for (text, scale, expected) in [
            ("0", 0, Ok(0)),
            ("-0.000", 2, Ok(0)),
            ("12", 2, Ok(1200)),
            ("12.50", 2, Ok(1250)),
            ("12.5000", 2, Ok(1250)),
            ("1.25e1", 2, Ok(1250)),
            ("125E-1", 2, Ok(1250)),
            ("1e+3", 0, Ok(1000)),
            ("-1e3", 0, Ok(-1000)),
            ("0.001e3", 0, Ok(1)),
            ("12.505", 2, Err(Misfit::Fraction)),
            ("1.5", 0, Err(Misfit::Fraction)),
            ("1e-400", 10, Err(Misfit::Fraction)),
            ("1e400", 0, Err(Misfit::Overflow)),
            ("1e99999999999999999999", 0, Err(Misfit::Overflow)),
            ("1e-99999999999999999999", 0, Err(Misfit::Fraction)),
            ("0e99999999999999999999", 0, Ok(0)),
            ("99999999999999999999999999999999999999", 0, Ok(99_999_999_999_999_999_999_999_999_999_999_999_999)),
            ("999999999999999999999999999999999999999999", 0, Err(Misfit::Overflow)),
        ] {
            assert_eq!(scaled(text, scale), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn digits_come_through(number in any::<i64>(), scale in 0_u8..10) {
            prop_assert_eq!(scaled(&number.to_string(), 0), Ok(i128::from(number)));
            let factor = 10_i128.pow(scale.into());
            prop_assert_eq!(scaled(&number.to_string(), scale), Ok(i128::from(number) * factor));
            prop_assert_eq!(scaled(&format!("{number}e-{scale}"), scale), Ok(i128::from(number)));
        }
    }
}
