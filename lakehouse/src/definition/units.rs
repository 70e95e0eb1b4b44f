//! Spans of time and sizes, as people write them: a whole number and a unit, as in `"7 days"` and `"128 MiB"`.

use std::time::Duration;

use toml::Spanned;

use super::section::{Report, Section};

const MINUTE_SECONDS: u64 = 60;
const HOUR_SECONDS: u64 = 60 * MINUTE_SECONDS;
const DAY_SECONDS: u64 = 24 * HOUR_SECONDS;

/// The units of time and their seconds, longest first.
pub(super) const TIME_UNITS: [(&str, u64); 3] =
    [("day", DAY_SECONDS), ("hour", HOUR_SECONDS), ("minute", MINUTE_SECONDS)];

const SIZE_UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// The longest span, in days: a century is as good as for ever, and no sum of times overflows.
const SPAN_DAYS_MAX: u64 = 36_500;

/// One hour.
pub(super) const HOUR: Duration = Duration::from_secs(HOUR_SECONDS);

/// This many days.
pub(super) const fn days(count: u64) -> Duration {
    Duration::from_secs(count * DAY_SECONDS)
}

/// A span as people write it, in its largest whole unit.
pub(super) fn written(span: Duration) -> String {
    let seconds = span.as_secs();
    let whole = TIME_UNITS.into_iter().find(|(_, unit_seconds)| seconds.is_multiple_of(*unit_seconds));
    let (unit, unit_seconds) = whole.unwrap_or(("minute", MINUTE_SECONDS));
    let count = seconds / unit_seconds;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The span under `key`, at least `least`: `why` says what goes wrong below it.
pub(super) fn span(
    section: &Section,
    key: &str,
    (least, why): (Duration, &str),
    report: &mut Report,
) -> Option<Spanned<Duration>> {
    let text = section.text(key, report)?;
    let refusal = match parse_span(text.get_ref()) {
        Ok(span) if span >= least => return Some(Spanned::new(text.span(), span)),
        Ok(_) => format!("{:?} is too short, since {why}; the least is {:?}", text.get_ref(), written(least)),
        Err(why) => format!("{:?} is no span of time: {why}", text.get_ref()),
    };
    section.say(&text.span(), format!("{key} {refusal}"), report);
    None
}

/// The size under `key`, in bytes, within `range`: `why` says what goes wrong outside of it.
pub(super) fn size(
    section: &Section,
    key: &str,
    (range, why): (std::ops::RangeInclusive<u64>, &str),
    report: &mut Report,
) -> Option<u64> {
    let text = section.text(key, report)?;
    let refusal = match parse_size(text.get_ref()) {
        Ok(bytes) if range.contains(&bytes) => return Some(bytes),
        Ok(_) => format!(
            "{:?} is not within {} to {}: {why}",
            text.get_ref(),
            written_size(*range.start()),
            written_size(*range.end())
        ),
        Err(why) => format!("{:?} is no size: {why}", text.get_ref()),
    };
    section.say(&text.span(), format!("{key} {refusal}"), report);
    None
}

fn written_size(bytes: u64) -> String {
    let whole = SIZE_UNITS.into_iter().find(|(_, unit_bytes)| bytes.is_multiple_of(*unit_bytes));
    whole.map_or_else(|| format!("{bytes} bytes"), |(unit, unit_bytes)| format!("{} {unit}", bytes / unit_bytes))
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let (count, unit) = split(text, "7 days")?;
    let singular = unit.strip_suffix('s').unwrap_or(unit);
    let Some((_, unit_seconds)) = TIME_UNITS.into_iter().find(|(name, _)| *name == singular) else {
        return Err("the unit must be minutes, hours or days".to_owned());
    };
    match count.checked_mul(unit_seconds) {
        Some(seconds) if seconds <= SPAN_DAYS_MAX * DAY_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("the longest is {SPAN_DAYS_MAX} days")),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (count, unit) = split(text, "128 MiB")?;
    let Some((_, unit_bytes)) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit) else {
        return Err("the unit must be KiB, MiB or GiB".to_owned());
    };
    count.checked_mul(unit_bytes).ok_or_else(|| "that is more than there can be".to_owned())
}

/// A whole number and a unit, with or without space between them.
fn split<'a>(text: &'a str, example: &str) -> Result<(u64, &'a str), String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count = count.parse().map_err(|_| format!("write a whole number and a unit, as in {example:?}"))?;
    Ok((count, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_with_and_without_space() {
        for (text, seconds) in [
            ("7 days", 604_800),
            ("1 day", 86_400),
            (" 12hours ", 43_200),
            ("30 minutes", 1_800),
            ("0 minutes", 0),
            ("36500 days", 36_500 * 86_400),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for (text, bytes) in [("128 MiB", 128 << 20), ("1GiB", 1 << 30), ("64 KiB", 64 << 10)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_or_size_is_told_with_the_cure() {
        for text in ["", "days", "-1 days", "1.5 days"] {
            let message = parse_span(text).unwrap_err();
            assert!(message.contains("unit"), "{text}: {message}");
        }
        assert_eq!(parse_span("1 week").unwrap_err(), "the unit must be minutes, hours or days");
        assert_eq!(parse_span("7").unwrap_err(), "the unit must be minutes, hours or days");
        assert_eq!(parse_span("36501 days").unwrap_err(), "the longest is 36500 days");
        assert_eq!(parse_span("18446744073709551615 days").unwrap_err(), "the longest is 36500 days");
        assert_eq!(parse_size("128 MB").unwrap_err(), "the unit must be KiB, MiB or GiB");
        assert_eq!(parse_size("99999999999 GiB").unwrap_err(), "that is more than there can be");
    }

    #[test]
    fn a_span_is_written_in_its_largest_whole_unit() {
        for (span, text) in [(days(1), "1 day"), (days(30), "30 days"), (HOUR, "1 hour")] {
            assert_eq!(written(span), text);
        }
        assert_eq!(written(Duration::from_secs(90 * 60)), "90 minutes");
    }
}
