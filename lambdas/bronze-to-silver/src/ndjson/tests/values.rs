//! What becomes of values.

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use lakehouse::SqlType;

use super::*;

/// The columns of a batch, as `name type`.
fn types(batch: &RecordBatch) -> Vec<String> {
    let schema = batch.schema();
    let field = |field: &Arc<Field>| format!("{} {}", field.name(), SqlType::from_arrow(field.data_type()).unwrap());
    schema.fields().iter().map(field).collect()
}

#[test]
fn digits_are_kept_where_a_float_would_round() {
    let text = r#"{"big": 9007199254740993, "exact": 12345678901234567890.0123456789, "texts": "0.10"}
        {"big": -9223372036854775808, "exact": 1e-10, "texts": 12.5}"#;
    let batch = good(&declared(&["big bigint", "exact decimal(38,10)", "texts decimal(12,2)"]), text);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[9_007_199_254_740_993, i64::MIN]);
    let decimals = |at: usize| batch.column(at).as_primitive::<Decimal128Type>().values().to_vec();
    assert_eq!(decimals(1), [123_456_789_012_345_678_900_123_456_789, 1]);
    assert_eq!(decimals(2), [10, 1250]);
}

#[test]
fn what_does_not_fit_its_declared_column_is_told_with_line_column_and_text() {
    let table = declared(&["id bigint", "at timestamp", "day date", "raw blob", "s struct(a bigint)"]);
    for (value, reason) in [
        (r#""id": 1.5"#, "1.5 is no whole number"),
        (r#""id": 9223372036854775808"#, "does not fit into bigint"),
        (r#""id": true"#, "a boolean"),
        (r#""at": 1700000000"#, "a number"),
        (r#""at": "soon""#, "is no timestamp"),
        (r#""at": "2026-01-31T12:00:00.1234567Z""#, "finer than microseconds"),
        (r#""day": "2026-02-30""#, "is no day"),
        (r#""day": 20000"#, "a number"),
        (r#""day": "-0001-01-01""#, "outside of the years"),
        (r#""raw": "%""#, "no base64"),
        (r#""s": {"b": 1}"#, "no field \"b\""),
        (r#""s": 1"#, "a number"),
    ] {
        let text = format!("{{\"id\": 1}}\n\n{{{value}}}\n{{\"id\": 2}}");
        let fault = fault(&table, &text);
        let column = value.split('"').nth(1).unwrap();
        assert!(fault.reason.starts_with(&format!("line 3: column {column:?}")), "{fault:?}");
        assert!(fault.reason.contains(reason), "{fault:?}");
        assert_eq!((fault.rule, fault.line, fault.offset), ("json", Some(3), 11), "{fault:?}");
        assert_eq!(fault.raw.as_deref(), Some(format!("{{{value}}}").as_str()));
        assert_eq!(rows(&pieces(&table, None, text)).num_rows(), 2);
    }
}

#[test]
fn times_are_read_in_the_forms_that_files_have() {
    let noon = 1_769_860_800_000_000;
    let table = declared(&["i timestamp", "w timestamp_ntz", "d date"]);
    for (instant, expected) in [
        ("2026-01-31T12:00:00Z", noon),
        ("2026-01-31T14:00:00.000001+02:00", noon + 1),
        ("2026-01-31 12:00:00", noon),
        ("2026-01-31 12:00:00.5", noon + 500_000),
        ("2026-01-31T12:00:00.123456", noon + 123_456),
        ("2026-01-31", noon - 12 * 3_600_000_000),
    ] {
        let batch = good(&table, &format!("{{\"i\": \"{instant}\"}}"));
        assert_eq!(batch.column(0).as_primitive::<TimestampMicrosecondType>().value(0), expected, "{instant}");
    }
    let batch = good(&table, r#"{"w": "2026-01-31 12:00:00.000001", "d": "2026-01-31"}"#);
    assert_eq!(batch.column(1).as_primitive::<TimestampMicrosecondType>().value(0), noon + 1);
    assert_eq!(batch.column(2).as_primitive::<Date32Type>().value(0), 20_484);
    // A wall clock has no offset, and a number may say seconds or milliseconds: nobody knows.
    assert!(fault(&table, r#"{"w": "2026-01-31T12:00:00Z"}"#).reason.contains("without an offset"));
    let batch = good(&declared(&["epoch bigint"]), r#"{"epoch": 1769860800}"#);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 1_769_860_800);
}

#[test]
fn nested_values_and_bytes_come_through() {
    let table = declared(&["l struct(a bigint, b varchar)[]", "m map(varchar, double)", "b blob", "j json"]);
    let text = r#"{"l": [{"a": 1, "b": "x"}, null, {"B": "y"}], "m": {"k": 0.5}, "b": "AAH/", "j": {"a": [1.0]}}"#;
    let batch = good(&table, text);
    let list = batch.column(0).as_list::<i32>().value(0);
    let parts = list.as_struct();
    assert!(parts.is_null(1) && parts.column(0).is_null(2));
    assert_eq!(parts.column(0).as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(parts.column(1).as_string::<i32>().value(2), "y");
    let map = batch.column(1).as_map().value(0);
    assert_eq!(map.column(0).as_string::<i32>().value(0), "k");
    assert_eq!(map.column(1).as_primitive::<Float64Type>().value(0), 0.5);
    assert_eq!(batch.column(2).as_binary::<i32>().value(0), [0, 1, 255]);
    assert_eq!(batch.column(3).as_string::<i32>().value(0), r#"{"a": [1.0]}"#);
}

#[test]
fn a_column_that_nobody_knows_has_the_type_of_all_its_values() {
    for (values, expected) in [
        ("1 -2 null", "v bigint"),
        ("1 9223372036854775808", "v decimal(38,0)"),
        ("1 100000000000000000000000000000000000000000", "v varchar"),
        ("1 2.5", "v double"),
        ("9007199254740993 2.5", "v varchar"),
        ("1e400", "v varchar"),
        ("true false", "v boolean"),
        ("true 1", "v varchar"),
        (r#""a" "2026-01-31""#, "v varchar"),
        (r#"{"a":1} {"b":"x","a":2.5}"#, "v struct(a double, b varchar)"),
        (r#"{"a":1} {"A":2}"#, "v struct(a bigint)"),
        (r#"{"a":1,"A":2}"#, "v varchar"),
        (r#"{"":1}"#, "v varchar"),
        ("{} {}", "v varchar"),
        ("[1] [] [2.5,null]", "v double[]"),
        (r#"[1,"x"]"#, "v varchar[]"),
        (r#"[{"a":[1]}]"#, "v struct(a bigint[])[]"),
        ("[1] 1", "v varchar"),
    ] {
        let text: String = values.split(' ').map(|value| format!("{{\"v\":{value}}}\n")).collect();
        let batch = good(&table(""), &text);
        assert_eq!(types(&batch), [expected], "{values}");
        assert_eq!(batch.num_rows(), values.split(' ').count());
    }
}

#[test]
fn mixed_values_are_kept_as_their_json_and_nulls_make_no_column() {
    let batch = good(&table(""), "{\"v\":1.50,\"n\":null}{\"v\":\"a\\n\"}{\"v\":{\"x\": [1]}}{}");
    assert_eq!(types(&batch), ["v varchar"]);
    let texts: Vec<_> = batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("1.50"), Some("a\n"), Some("{\"x\": [1]}"), None]);
    assert!(fault(&table(""), "{}").reason.contains("it has no value"));
}

#[test]
fn the_frames_of_an_object_agree_on_types_that_the_last_row_decides() {
    let text: String =
        (0..FRAME_LINES_MAX + 1).map(|v| format!("{{\"v\":{v}}}")).chain(["{\"v\":0.5}".into()]).collect();
    let pieces = pieces(&table(""), None, text);
    let headers = frames(&pieces);
    assert_eq!(headers.len(), 2);
    assert_eq!(headers[0].schema_fingerprint, headers[1].schema_fingerprint);
    assert_eq!(types(&rows(&pieces)), ["v double"]);
}

#[test]
fn what_only_rows_have_declared_rows_may_widen_and_nothing_else() {
    let stored = Schema::new(vec![
        Field::new("n", DataType::Int32, true),
        Field::new("s", DataType::Struct(vec![Field::new("a", DataType::Int64, true)].into()), true),
        Field::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), true),
    ]);
    let read = |rules: &str, text: &str| pieces(&table(rules), Some(&stored), text);
    let same = read("", r#"{"n": 5, "s": {"a": 5}, "at": "2026-01-31"}"#);
    assert_eq!(types(&rows(&same)), ["n integer", "s struct(a bigint)", "at timestamp_ntz"]);
    let wider = read("", r#"{"n": 3000000000, "s": {"b": true}}"#);
    assert_eq!(types(&rows(&wider)), ["n bigint", "s struct(a bigint, b boolean)", "at timestamp_ntz"]);
    let widest = read("", r#"{"n": 9223372036854775808}"#);
    assert_eq!(types(&rows(&widest))[0], "n decimal(38,0)");
    for (rules, text) in [
        ("", r#"{"n": "x"}"#),
        ("", r#"{"n": 0.5}"#),
        ("", r#"{"at": 5}"#),
        ("on_new_column = \"reject\"", r#"{"n": 3000000000}"#),
        ("on_new_column = \"reject\"", r#"{"s": {"b": true}}"#),
        ("columns = [{ name = \"n\", type = \"integer\" }]", r#"{"n": 3000000000}"#),
    ] {
        assert_eq!(damaged(&read(rules, text)).len(), 1, "{rules} {text}");
    }
}

#[test]
fn keys_name_columns_whatever_their_case_and_not_twice() {
    let batch = good(&declared(&["Id bigint"]), "{\"ID\": 1}{\"id\": 2}{\"new\": 3}{\"NEW\": 4}");
    assert_eq!(types(&batch), ["Id bigint", "new bigint"]);
    assert_eq!(batch.column(0).null_count(), 2);
    assert_eq!(batch.column(1).null_count(), 2);
    for (text, reason) in [
        (r#"{"id": 1, "ID": 2}"#, "two keys name it"),
        (r#"{"id": 1, "id": 2}"#, "twice"),
        (r#"{"_row": 1}"#, "begins with _"),
        (r#"{"": 1}"#, "empty"),
    ] {
        assert!(fault(&declared(&["Id bigint"]), text).reason.contains(reason), "{text}");
        assert!(fault(&table(""), text).reason.contains(reason), "{text}");
    }
    good(&declared(&["Id bigint"]), r#"{"id": 1, "_row": null}"#);
}

#[test]
fn more_columns_than_a_table_can_have_are_refused_by_their_rows() {
    let text: String = (0..COLUMNS_MAX + 1).map(|column| format!("{{\"c{column}\":1}}\n")).collect();
    let fault = fault(&table(""), &text);
    assert_eq!(fault.line, Some(COLUMNS_MAX as u64 + 1));
    assert!(fault.reason.contains("more than 2000 columns"), "{}", fault.reason);
}

#[test]
fn a_dropped_column_has_its_declared_type() {
    let rules = "columns = [{ name = \"op\", type = \"smallint\" }, { name = \"id\", type = \"bigint\" }]\n\
                 drop_columns = [\"op\"]";
    assert_eq!(types(&good(&table(rules), r#"{"op": 1, "id": 2}"#)), ["id bigint", "op smallint"]);
}
