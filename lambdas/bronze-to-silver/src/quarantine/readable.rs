//! Rows as JSON that can be read again without loss.
//!
//! DuckDB's `to_json` is made for people: it turns decimals into doubles, bytes into escapes, and writes NaN, which is
//! no JSON. So what it would spoil is made text first, in the form in which [`lakehouse::json`] reads that type.

use duck::{literal, quote};
use lakehouse::SqlType;

/// The digits that a double keeps whatever they are (IEEE 754, `DBL_DIG`).
const DOUBLE_DIGITS: u8 = 15;

/// An SQL expression for `value`, which has `data_type`, that `to_json` writes readably.
pub(crate) fn readable(value: &str, data_type: &SqlType) -> String {
    spelt(value, data_type, 0).unwrap_or_else(|| value.to_owned())
}

/// None if `to_json` does well by itself.
fn spelt(value: &str, data_type: &SqlType, depth: usize) -> Option<String> {
    match data_type {
        SqlType::Float | SqlType::Double => {
            Some(format!("CASE WHEN isfinite({value}) THEN to_json({value}) ELSE to_json({value}::VARCHAR) END"))
        }
        SqlType::Decimal { precision, .. } if *precision > DOUBLE_DIGITS => Some(format!("{value}::VARCHAR")),
        SqlType::Timestamp => Some(format!("strftime(timezone('UTC', {value}), '%Y-%m-%dT%H:%M:%S.%fZ')")),
        SqlType::Blob => Some(format!("base64({value})")),
        SqlType::List(item) => {
            let name = format!("_v{depth}");
            let item = spelt(&name, item, depth + 1)?;
            Some(format!("list_transform({value}, lambda {name}: {item})"))
        }
        SqlType::Map(key, item) => {
            let name = format!("_v{depth}");
            let (as_key, as_item) = (format!("{name}.key"), format!("{name}.value"));
            let (key, item) = (spelt(&as_key, key, depth + 1), spelt(&as_item, item, depth + 1));
            if key.is_none() && item.is_none() {
                return None;
            }
            let (key, item) = (key.unwrap_or(as_key), item.unwrap_or(as_item));
            let entries =
                format!("list_transform(map_entries({value}), lambda {name}: struct_pack(k := {key}, v := {item}))");
            Some(format!("map_from_entries({entries})"))
        }
        SqlType::Struct(fields) => {
            let mut is_plain = true;
            let fields: Vec<String> = fields
                .iter()
                .map(|field| {
                    let own = format!("struct_extract({value}, {})", literal(&field.name));
                    let spelt = spelt(&own, &field.data_type, depth);
                    is_plain &= spelt.is_none();
                    format!("{} := {}", quote(&field.name), spelt.unwrap_or(own))
                })
                .collect();
            (!is_plain).then(|| format!("CASE WHEN {value} IS NOT NULL THEN struct_pack({}) END", fields.join(", ")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use duck::{Duck, Settings};

    use super::*;

    /// What `to_json` makes of one value.
    fn json(value: &str, data_type: &str) -> Option<String> {
        let data_type: SqlType = data_type.parse().unwrap();
        let row = format!("SELECT CAST({value} AS {}) AS v", data_type.to_duckdb());
        let sql = format!("SELECT to_json(struct_pack(v := {}))::VARCHAR FROM ({row})", readable("v", &data_type));
        Duck::open(&Settings::default()).unwrap().text(&sql).unwrap()
    }

    #[track_caller]
    fn becomes(value: &str, data_type: &str, expected: &str) {
        assert_eq!(json(value, data_type).as_deref(), Some(format!("{{\"v\":{expected}}}").as_str()));
    }

    #[test]
    fn no_digit_of_a_decimal_is_lost() {
        becomes("12345678901234567890.12", "decimal(22,2)", "\"12345678901234567890.12\"");
        becomes("[12345678901234567890.12, NULL]", "decimal(22,2)[]", "[\"12345678901234567890.12\",null]");
    }

    #[test]
    fn what_is_no_number_is_text() {
        becomes("'nan'::DOUBLE", "double", "\"nan\"");
        becomes("0.1", "double", "0.1");
        becomes("NULL", "double", "null");
    }

    #[test]
    fn instants_are_in_utc_to_the_microsecond() {
        becomes("'2026-01-31 10:00:00.000001+02'", "timestamp", "\"2026-01-31T08:00:00.000001Z\"");
        becomes("NULL", "timestamp", "null");
    }

    #[test]
    fn bytes_are_base64_however_deep_they_lie() {
        becomes("'\\xAA\\x01b'::BLOB", "blob", "\"qgFi\"");
        becomes("{'a': ['\\xAA\\x01b'::BLOB], 'b': 1}", "struct(a blob[], b integer)", "{\"a\":[\"qgFi\"],\"b\":1}");
        becomes("NULL", "struct(a blob[], b integer)", "null");
        becomes("MAP {1: '\\xAA\\x01b'::BLOB}", "map(integer, blob)", "{\"1\":\"qgFi\"}");
    }
}
