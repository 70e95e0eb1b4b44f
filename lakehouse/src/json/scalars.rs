//! Single values from JSON: what each type takes, and what is said of what it doesn't.

use std::borrow::Cow;

use arrow::datatypes::Date32Type;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};

use super::numbers::{Misfit, scaled};
use super::{Manner, Node, Value};
use crate::SqlType;

pub(super) fn wrong(node: &Node<'_>, data_type: &SqlType, wanted: &str) -> String {
    format!("it is {data_type}, and the row has {}; send {wanted}", node.value.kind())
}

pub(super) fn boolean(node: &Node<'_>) -> Result<bool, String> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        _ => Err(wrong(node, &SqlType::Boolean, "true or false")),
    }
}

/// The digits of a number. Those that many readers of JSON would round may come as text.
fn digits<'n>(node: &'n Node<'_>, data_type: &SqlType) -> Result<&'n str, String> {
    let may_be_text = matches!(data_type, SqlType::BigInt | SqlType::Decimal { .. });
    match &node.value {
        Value::Number => Ok(node.text),
        Value::Text(text) if may_be_text && is_number(text) => Ok(text),
        Value::Text(text) if may_be_text => Err(format!("it is {data_type}, and {:?} is no number", shortened(text))),
        _ => Err(wrong(node, data_type, "a number")),
    }
}

fn is_number(text: &str) -> bool {
    super::whole(text).is_ok_and(|node| matches!(node.value, Value::Number) && node.text.len() == text.len())
}

pub(super) fn integer<T: TryFrom<i128>>(node: &Node<'_>, data_type: &SqlType) -> Result<T, String> {
    let digits = digits(node, data_type)?;
    let number = scaled(digits, 0).map_err(|misfit| match misfit {
        Misfit::Fraction => format!("it is {data_type}, and {} is no whole number; round it", shortened(digits)),
        Misfit::Overflow => too_large(digits, data_type),
    })?;
    T::try_from(number).map_err(|_| too_large(digits, data_type))
}

pub(super) fn decimal(node: &Node<'_>, data_type: &SqlType) -> Result<i128, String> {
    let SqlType::Decimal { precision, scale } = data_type else {
        return Err(wrong(node, data_type, "another type"));
    };
    let digits = digits(node, data_type)?;
    let number = scaled(digits, *scale).map_err(|misfit| match misfit {
        Misfit::Fraction => {
            format!("it is {data_type}, and {} has more digits behind the point; round it", shortened(digits))
        }
        Misfit::Overflow => too_large(digits, data_type),
    })?;
    let bound = 10_u128.checked_pow(u32::from(*precision)).unwrap_or(u128::MAX);
    if number.unsigned_abs() < bound { Ok(number) } else { Err(too_large(digits, data_type)) }
}

/// The nearest float, as a float's column is meant; not one beyond its range.
pub(super) fn float<T: std::str::FromStr + Into<f64> + Copy>(
    node: &Node<'_>,
    data_type: &SqlType,
) -> Result<T, String> {
    let digits = digits(node, data_type)?;
    let number: Option<T> = digits.parse().ok();
    let number = number.filter(|number| Into::<f64>::into(*number).is_finite());
    number.ok_or_else(|| too_large(digits, data_type))
}

fn too_large(digits: &str, data_type: &SqlType) -> String {
    format!("{} does not fit into {data_type}; send a smaller number", shortened(digits))
}

/// A text as it is, anything else as the row writes it.
pub(super) fn any_text<'n>(node: &'n Node<'_>) -> &'n str {
    match &node.value {
        Value::Text(text) => text,
        _ => node.text,
    }
}

/// A text as it is; JSON as the row writes it.
pub(super) fn text<'n>(node: &'n Node<'_>, data_type: &SqlType) -> Result<Cow<'n, str>, String> {
    match &node.value {
        _ if *data_type == SqlType::Json => Ok(Cow::Borrowed(node.text)),
        Value::Text(text) => Ok(Cow::Borrowed(text.as_ref())),
        _ => Err(wrong(node, data_type, "it in double quotes")),
    }
}

pub(super) fn date(node: &Node<'_>) -> Result<i32, String> {
    let what = "a day as text: \"2026-01-31\"";
    let Value::Text(text) = &node.value else { return Err(wrong(node, &SqlType::Date, what)) };
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d");
    day.map(Date32Type::from_naive_date).map_err(|_| format!("{:?} is no day; send {what}", shortened(text)))
}

/// Microseconds. What is finer is refused, as everywhere: nothing is cut.
pub(super) fn time(node: &Node<'_>, data_type: &SqlType, manner: Manner) -> Result<i64, String> {
    let is_instant = *data_type == SqlType::Timestamp;
    let what = if is_instant {
        "a time with its offset as text: \"2026-01-31T12:00:00Z\" or \"2026-01-31T12:00:00.5+02:00\""
    } else {
        "a time without an offset as text: \"2026-01-31T12:00:00\""
    };
    let Value::Text(text) = &node.value else { return Err(wrong(node, data_type, what)) };
    let us = match (is_instant, manner) {
        (true, Manner::Door) => instant(text),
        (true, Manner::File) => instant(text).or_else(|| wall_clock(text)),
        (false, _) => wall_clock(text),
    };
    let us = us.ok_or_else(|| format!("{:?} is no {data_type}; send {what}", shortened(text)))?;
    if is_finer_than_micros(text) {
        let what = "is finer than microseconds, and times are kept in microseconds; round it";
        return Err(format!("{:?} {what}", shortened(text)));
    }
    Ok(us)
}

/// Looks at the digits, since the parser drops those behind the ninth.
fn is_finer_than_micros(text: &str) -> bool {
    const MICRO_DIGITS: usize = 6;
    let Some((_, fraction)) = text.split_once('.') else { return false };
    fraction.bytes().take_while(u8::is_ascii_digit).skip(MICRO_DIGITS).any(|digit| digit != b'0')
}

fn instant(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

fn wall_clock(text: &str) -> Option<i64> {
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let time = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let midnight = || Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_time(NaiveTime::MIN));
    time.or_else(midnight).map(|time| time.and_utc().timestamp_micros())
}

pub(super) fn blob(node: &Node<'_>) -> Result<Vec<u8>, String> {
    let what = "its bytes as text in base64";
    let Value::Text(text) = &node.value else { return Err(wrong(node, &SqlType::Blob, what)) };
    STANDARD.decode(text.as_ref()).map_err(|_| format!("{:?} is no base64; send {what}", shortened(text)))
}

/// The beginning of a text, for a message.
fn shortened(text: &str) -> Cow<'_, str> {
    const SHOWN_BYTES_MAX: usize = 64;
    match text.get(..text.floor_char_boundary(SHOWN_BYTES_MAX)) {
        Some(beginning) if beginning.len() < text.len() => format!("{beginning}[…]").into(),
        _ => text.into(),
    }
}
