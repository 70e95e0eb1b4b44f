use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int8Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use lakehouse::SqlType;
use lakehouse::definition::Column;

use super::*;

fn columns(declared: &[(&str, &str)]) -> Vec<DoorColumn> {
    let column = |(name, data_type): &(&str, &str)| Column {
        name: (*name).to_owned(),
        data_type: data_type.parse().unwrap(),
        nullable: true,
        description: None,
    };
    declared.iter().map(|declared| DoorColumn { column: column(declared), is_declared: true }).collect()
}

/// The columns that a table has once this batch made them.
fn made(batch: &RecordBatch) -> Vec<DoorColumn> {
    let column = |field: &Arc<Field>| Column {
        name: field.name().clone(),
        data_type: SqlType::from_arrow(field.data_type()).unwrap(),
        nullable: true,
        description: None,
    };
    let schema = batch.schema();
    schema.fields().iter().map(|field| DoorColumn { column: column(field), is_declared: false }).collect()
}

fn rows(body: &str, declared: &[(&str, &str)]) -> Rows {
    read(body, &columns(declared), Shape::Any).unwrap_or_else(|error| panic!("{}", error.message()))
}

/// The one fault of a body of one row: its column and the reason.
fn fault(body: &str, declared: &[(&str, &str)]) -> (String, String) {
    let rows = rows(body, declared);
    assert_eq!((rows.bad.count, rows.places.len()), (1, 0), "{body}");
    let bad = rows.bad.rows.into_iter().next().unwrap();
    (bad.column.unwrap_or_default(), bad.reason)
}

fn good(body: &str, declared: &[(&str, &str)]) -> RecordBatch {
    let rows = rows(body, declared);
    assert_eq!(rows.bad, BadRows::default(), "{body}");
    rows.batch.unwrap()
}

#[test]
fn an_object_an_array_and_lines_are_the_same_rows() {
    let declared = [("id", "bigint"), ("name", "varchar")];
    let array = good(r#"[{"id": 1, "name": "a"}, {"id": 2}]"#, &declared);
    assert_eq!(array.column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert!(array.column(1).is_null(1));
    for lines in
        ["{\"id\": 1, \"name\": \"a\"}\n{\"id\": 2}", "\u{feff}\n{\"id\":1,\"name\":\"a\"}\r\n \n{\"id\":2}\n\n"]
    {
        assert_eq!(good(lines, &declared), array);
    }
    assert_eq!(good("\n{\n  \"id\": 1,\n  \"name\": \"a\"\n}\n", &declared), array.slice(0, 1));
}

#[test]
fn each_type_takes_its_values_exactly() {
    let declared = [
        ("flag", "boolean"),
        ("tiny", "tinyint"),
        ("big", "bigint"),
        ("price", "decimal(38,2)"),
        ("x", "double"),
        ("text", "varchar"),
        ("raw", "json"),
        ("day", "date"),
        ("at", "timestamp"),
        ("local", "timestamp_ntz"),
        ("bytes", "blob"),
    ];
    let body = r#"{"flag": true, "tiny": -128, "big": "9223372036854775807",
        "price": 123456789012345678901234567890.10, "x": 1e-7, "text": "é\n",
        "raw": {"b": [1.0, null]}, "day": "1969-12-31",
        "at": "2026-01-31T02:00:00.1234560+02:00", "local": "1970-01-01 00:00:01", "bytes": "AP8="}"#;
    let batch = good(body, &declared);
    let types: Vec<DataType> = batch.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    let expected: Vec<DataType> = columns(&declared).iter().map(|door| door.column.data_type.to_arrow()).collect();
    assert_eq!(types, expected);
    assert!(batch.column(0).as_boolean().value(0));
    assert_eq!(batch.column(1).as_primitive::<Int8Type>().value(0), -128);
    assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(0), i64::MAX);
    let price = batch.column(3).as_primitive::<Decimal128Type>();
    assert_eq!(price.value(0), 12_345_678_901_234_567_890_123_456_789_010);
    assert_eq!(batch.column(4).as_primitive::<Float64Type>().value(0), 1e-7);
    assert_eq!(batch.column(5).as_string::<i32>().value(0), "é\n");
    assert_eq!(batch.column(6).as_string::<i32>().value(0), r#"{"b": [1.0, null]}"#);
    assert_eq!(batch.column(7).as_primitive::<Date32Type>().value(0), -1);
    let at = batch.column(8).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(at.value(0), 1_769_817_600_123_456);
    assert_eq!(batch.column(9).as_primitive::<TimestampMicrosecondType>().value(0), 1_000_000);
    assert_eq!(batch.column(10).as_binary::<i32>().value(0), [0, 255]);
}

#[test]
fn nested_values_are_taken_and_their_faults_are_placed() {
    let declared = [("l", "integer[]"), ("s", "struct(a integer, b varchar[])"), ("m", "map(integer, decimal(4,1))")];
    let body = r#"[
        {"l": [1, null], "s": {"B": ["x"]}, "m": {"7": 1.5, "8": null}},
        {"l": [], "s": null, "m": {}},
        {}
    ]"#;
    let batch = good(body, &declared);
    let list = batch.column(0).as_list::<i32>();
    assert_eq!((list.value(0).len(), list.value(0).null_count(), list.value(1).len()), (2, 1, 0));
    assert!(list.is_null(2));
    let fields = batch.column(1).as_struct();
    assert!(fields.column(0).is_null(0) && fields.is_null(1) && fields.is_null(2));
    assert_eq!(fields.column(1).as_list::<i32>().value(0).as_string::<i32>().value(0), "x");
    let map = batch.column(2).as_map();
    assert_eq!(map.keys().as_primitive::<Int32Type>().values(), &[7, 8]);
    assert_eq!(map.values().as_primitive::<Decimal128Type>().value(0), 15);
    for (body, column, words) in [
        (r#"{"l": 1}"#, "l", vec!["list", "number"]),
        (r#"{"l": [1, "x"]}"#, "l", vec!["item 2", "integer"]),
        (r#"{"s": {"c": 1}}"#, "s", vec!["\"c\"", "a, b"]),
        (r#"{"s": {"a": 1, "A": 2}}"#, "s", vec!["twice"]),
        (r#"{"s": {"b": [1]}}"#, "s", vec!["field \"b\"", "item 1", "varchar"]),
        (r#"{"m": {"x": 1}}"#, "m", vec!["key \"x\"", "integer"]),
        (r#"{"m": {"7": 1.55}}"#, "m", vec!["key \"7\"", "round"]),
        (r#"{"m": [1]}"#, "m", vec!["map", "object"]),
    ] {
        let (named, reason) = fault(body, &declared);
        assert_eq!(named, column);
        assert!(words.iter().all(|word| reason.contains(word)), "{body}: {reason}");
    }
}

#[test]
fn what_does_not_fit_is_told_with_its_column() {
    for (data_type, value, word) in [
        ("boolean", "1", "true or false"),
        ("tinyint", "128", "does not fit"),
        ("integer", "2147483648", "does not fit"),
        ("integer", "1.5", "whole"),
        ("integer", "\"1\"", "number"),
        ("bigint", "9223372036854775808", "does not fit"),
        ("bigint", "1e400", "does not fit"),
        ("bigint", "\"one\"", "no number"),
        ("decimal(4,2)", "123.4", "does not fit"),
        ("decimal(4,2)", "1.234", "round"),
        ("float", "1e39", "does not fit"),
        ("double", "1e309", "does not fit"),
        ("double", "\"NaN\"", "number"),
        ("varchar", "1", "double quotes"),
        ("date", "\"2026-02-30\"", "no day"),
        ("date", "20260101", "day"),
        ("timestamp", "\"2026-01-31T12:00:00\"", "offset"),
        ("timestamp", "1769860800", "offset"),
        ("timestamp", "\"2026-01-31T12:00:00.1234567Z\"", "finer than microseconds"),
        ("timestamp", "\"2026-01-31T12:00:00.1234560000001+02:00\"", "round it"),
        ("timestamp_ntz", "\"2026-01-31 12:00:00.000000001\"", "finer than microseconds"),
        ("timestamp_ntz", "\"2026-01-31T12:00:00Z\"", "without an offset"),
        ("blob", "\"not base64\"", "base64"),
    ] {
        let (column, reason) = fault(&format!("{{\"c\": {value}}}"), &[("c", data_type)]);
        assert_eq!(column, "c");
        assert!(reason.contains(word), "{data_type} {value}: {reason}");
    }
}

#[test]
fn whole_numbers_may_be_written_as_fractions() {
    let batch = good(r#"[{"n": 1.0}, {"n": 1e3}, {"n": -0}]"#, &[("n", "bigint")]);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 1000, 0]);
}

#[test]
fn new_columns_get_the_narrowest_type_that_holds_them_all() {
    let body = r#"{"b":true, "n": 1, "x": 1, "t":"a", "o": {"k": [1]}, "mixed": 1, "no": null, "long": 9007199254740993}
{"b": null, "n": -2, "x": 0.5, "t": "b", "o": [], "mixed": "one", "long": 0.5, "huge": 18446744073709551616}
{}"#;
    let batch = good(body, &[]);
    let schema = batch.schema();
    let types: Vec<_> =
        schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone())).collect();
    assert_eq!(
        types,
        [
            ("b", DataType::Boolean),
            ("n", DataType::Int64),
            ("x", DataType::Float64),
            ("t", DataType::Utf8),
            ("o", DataType::Utf8),
            ("mixed", DataType::Utf8),
            ("long", DataType::Utf8),
            ("huge", DataType::Utf8),
        ]
    );
    let text = |name: &str, row: usize| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
    assert_eq!((text("o", 0), text("mixed", 0), text("mixed", 1)), (r#"{"k": [1]}"#.into(), "1".into(), "one".into()));
    assert_eq!((text("long", 0), text("huge", 1)), ("9007199254740993".into(), "18446744073709551616".into()));
    assert!(batch.columns().iter().all(|column| column.len() == 3 && column.is_null(2)));
}

#[test]
fn bad_rows_are_left_out_with_their_place_and_decide_no_type() {
    let body =
        "{\"id\": 1, \"new\": 1}\n\n{\"new\": \"text\", \"id\": \"x\"}\n[1]\n{\"id\": 2,\n{\"id\": 3, \"new\": 2}";
    let Rows { batch, places, bad } = read(body, &columns(&[("id", "integer")]), Shape::Lines).unwrap();
    let batch = batch.unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int32Type>().values(), &[1, 3]);
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert_eq!(places, [Place { row: 1, line: Some(1) }, Place { row: 5, line: Some(6) }]);
    assert_eq!(bad.count, 3);
    let told: Vec<_> = bad.rows.iter().map(|bad| (bad.row, bad.line, bad.column.as_deref())).collect();
    assert_eq!(told, [(2, Some(3), Some("id")), (3, Some(4), None), (4, Some(5), None)]);
    assert!(bad.rows[1].reason.contains("a list") && bad.rows[2].reason.contains("broken"), "{bad:?}");
}

#[test]
fn one_column_under_two_spellings_is_refused() {
    assert!(fault(r#"{"id": 1, "ID": 2}"#, &[("id", "integer")]).1.contains("two keys"));
    assert!(fault(r#"{"x": 1, "X": 2}"#, &[]).1.contains("two keys"));
    assert!(fault(r#"{"x": 1, "x": 2}"#, &[]).1.contains("twice"));
    let batch = good(r#"[{"id": 1}, {"ID": 2}]"#, &[("Id", "integer")]);
    assert_eq!((batch.num_columns(), batch.schema().field(0).name().as_str()), (1, "Id"));
}

#[test]
fn only_columns_that_occur_or_must_be_there_are_sent_in_the_order_of_the_body() {
    let mut declared = columns(&[("a", "integer"), ("b", "integer"), ("key", "integer"), ("_sequence", "varchar")]);
    declared[2].column.nullable = false;
    let rows = read(r#"[{"b": 1}, {"new": 1, "b": null}]"#, &declared, Shape::Any).unwrap();
    let batch = rows.batch.unwrap();
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["b", "new", "key"]);
    assert_eq!(batch.column(2).null_count(), 2);
}

#[test]
fn a_body_that_is_no_rows_is_refused_as_a_whole() {
    for (body, shape, word) in [
        ("", Shape::Any, "no rows"),
        (" \n ", Shape::Lines, "no rows"),
        ("[]", Shape::Any, "no rows"),
        ("[{\"a\": 1}, {\"a\" 2}]", Shape::Any, "line 1, column 17"),
        ("[{\"a\": 1}", Shape::Any, "missing"),
        ("[{\"a\": 1}] x", Shape::Any, "follows"),
        ("{\"a\": 1}\n{\"a\": 2}", Shape::Document, "x-ndjson"),
    ] {
        let error = read(body, &[], shape).unwrap_err();
        assert_eq!(error.status().as_u16(), 400, "{body}");
        assert!(error.message().contains(word), "{body}: {}", error.message());
    }
}

#[test]
fn bombs_of_rows_columns_and_empty_values_are_refused() {
    let declared = columns(&[("s", &format!("struct({})[]", fields(500)))]);
    let structs = format!("{{\"s\": [{}{{}}]}}", "{},".repeat(100_000));
    let far = format!("{}{{\"a\": 1, \"b\": 1}}", "{}\n".repeat(ROWS_MAX - 2));
    let keys: Vec<String> = (0..=COLUMNS_MAX).map(|key| format!("\"k{key}\":1")).collect();
    let wide = format!("{{{}}}", keys.join(","));
    // Nine columns of a million rows, one value each.
    let padded: Vec<String> = (0..9).map(|key| format!("\"k{key}\":1")).collect();
    let padded = format!("{}{{{}}}", "{}\n".repeat(ROWS_MAX - 2), padded.join(","));
    let none: &[DoorColumn] = &[];
    for (body, declared) in [(&structs, declared.as_slice()), (&wide, none), (&padded, none)] {
        let error = read(body, declared, Shape::Lines).unwrap_err();
        assert_eq!(error.status().as_u16(), 413, "{}", error.message());
    }
    read(&far, &[], Shape::Lines).unwrap();
    let error = read(&"{}\n".repeat(ROWS_MAX + 1), &[], Shape::Lines).unwrap_err();
    assert_eq!(error.status().as_u16(), 413);
}

fn fields(count: usize) -> String {
    (0..count).map(|field| format!("f{field} integer")).collect::<Vec<_>>().join(", ")
}

#[test]
fn instants_are_utc_and_wall_clock_times_have_no_zone() {
    let batch =
        good(r#"{"a": "2026-01-31T00:00:00Z", "b": "2026-01-31"}"#, &[("a", "timestamp"), ("b", "timestamp_ntz")]);
    let zone = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    assert_eq!(batch.column(0).data_type(), &zone(Some("UTC")));
    assert_eq!(batch.column(1).data_type(), &zone(None));
    assert_eq!(
        batch.column(0).as_primitive::<TimestampMicrosecondType>().value(0),
        batch.column(1).as_primitive::<TimestampMicrosecondType>().value(0)
    );
}

#[test]
fn a_body_gives_the_same_batch_again_once_the_table_has_its_columns() {
    for body in [
        r#"{"id": 1, "data": {"amount": 1.50, "items": [1, "two", null]}, "tags": ["a"], "ok": true, "at": "now"}"#,
        r#"[{"mixed": 1}, {"mixed": "one"}, {"mixed": {"a": [] }}, {"mixed": null}, {"mixed": 1e2}]"#,
        r#"[{"huge": 18446744073709551616, "long": 9007199254740993}, {"huge": 1, "long": -1}]"#,
        r#"[{"x": 1}, {"x": 0.5}, {"X": 1e300}]"#,
        // Columns in the order of their first values, and none for NULLs alone.
        r#"[{"late": null, "first": 1, "never": null}, {"never": null, "late": 2}, {"first": null, "FIRST": 3}]"#,
    ] {
        let first = good(body, &[]);
        let again = read(body, &made(&first), Shape::Any).unwrap();
        assert_eq!((again.bad, again.batch.as_ref()), (BadRows::default(), Some(&first)), "{body}");
        // Others that the table got meanwhile are not part of it.
        let mut more = columns(&[("other", "integer"), ("never", "json")]);
        more.extend(made(&first));
        let again = read(body, &more, Shape::Any).unwrap();
        assert_eq!(again.batch.unwrap(), first, "{body}");
    }
}

#[test]
fn bad_rows_leave_no_columns_behind_whether_the_table_has_them_or_not() {
    let body = "{\"b\": 1, \"id\": \"x\"}\n{\"id\": 1, \"a\": 1}\n{\"b\": 2}\n{\"c\": 1, \"id\": []}";
    let first = read(body, &columns(&[("id", "integer")]), Shape::Lines).unwrap();
    let known = [("id", "integer"), ("a", "bigint"), ("b", "bigint"), ("c", "bigint")];
    let again = read(body, &columns(&known), Shape::Lines).unwrap();
    assert_eq!((first.bad.count, again.bad.count), (2, 2));
    let batch = first.batch.unwrap();
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "a", "b"]);
    assert_eq!(again.batch.unwrap(), batch);
}

#[test]
fn a_varchar_that_rows_made_takes_any_value_and_a_declared_one_texts() {
    let body = r#"[{"v": "text"}, {"v": 1.50}, {"v": true}, {"v": {"a": [1,  2]}}, {"v": []}, {"v": null}]"#;
    let mut known = columns(&[("v", "varchar")]);
    known[0].is_declared = false;
    let batch = read(body, &known, Shape::Any).unwrap().batch.unwrap();
    let texts: Vec<_> = batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("text"), Some("1.50"), Some("true"), Some(r#"{"a": [1,  2]}"#), Some("[]"), None]);
    let strict = rows(body, &[("v", "varchar")]);
    assert_eq!((strict.bad.count, strict.batch.unwrap().num_rows()), (4, 2));
}

#[test]
fn a_number_that_its_inferred_column_can_not_hold_is_refused_with_its_row() {
    let mut known = columns(&[("n", "bigint"), ("x", "double")]);
    known.iter_mut().for_each(|column| column.is_declared = false);
    let read = |body: &str| read(body, &known, Shape::Any).unwrap();
    let refused = read(r#"[{"n": 1, "x": 1}, {"n": 1.5, "x": 1}, {"n": 2, "x": 0.5}]"#);
    assert_eq!(refused.bad.count, 1);
    assert_eq!((refused.bad.rows[0].row, refused.bad.rows[0].column.as_deref()), (2, Some("n")));
    assert_eq!(read(r#"{"n": 2.0, "x": 7}"#).bad.count, 0);
}

#[test]
fn rows_without_values_are_rows_of_nulls_if_they_have_keys_and_the_table_has_columns() {
    let nulls = good(r#"[{"a": null}, {"other": null}]"#, &[("a", "integer"), ("b", "integer")]);
    assert_eq!((nulls.num_columns(), nulls.num_rows(), nulls.column(0).null_count()), (1, 2, 2));
    for (body, declared) in [("[{}, {}]", &[("a", "integer")][..]), (r#"[{"a": null}, {}]"#, &[][..])] {
        let rows = rows(body, declared);
        assert_eq!((rows.bad.count, rows.batch), (2, None), "{body}");
        assert!(rows.bad.rows[1].reason.contains("no value"), "{:?}", rows.bad);
    }
}
