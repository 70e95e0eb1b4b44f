use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit, UnionFields, UnionMode};
use proptest::prelude::*;

use super::*;

fn sql(text: &str) -> SqlType {
    text.parse().unwrap()
}

fn refusal(text: &str) -> String {
    text.parse::<SqlType>().expect_err("should be refused").to_string()
}

fn nested_lists(depth: usize) -> String {
    format!("bigint{}", "[]".repeat(depth - 1))
}

fn nested_structs(depth: usize) -> String {
    format!("{}bigint{}", "struct(a ".repeat(depth - 1), ")".repeat(depth - 1))
}

#[test]
fn each_sql_name_and_alias_is_read_in_any_case() {
    let table = [
        ("boolean", SqlType::Boolean),
        ("BOOL", SqlType::Boolean),
        ("tinyint", SqlType::TinyInt),
        ("smallint", SqlType::SmallInt),
        ("integer", SqlType::Integer),
        ("Int", SqlType::Integer),
        ("bigint", SqlType::BigInt),
        ("float", SqlType::Float),
        ("real", SqlType::Float),
        ("double", SqlType::Double),
        ("decimal(10,2)", SqlType::Decimal { precision: 10, scale: 2 }),
        (" Numeric ( 38 , 0 ) ", SqlType::Decimal { precision: 38, scale: 0 }),
        ("varchar", SqlType::Varchar),
        ("string", SqlType::Varchar),
        ("text", SqlType::Varchar),
        ("json", SqlType::Json),
        ("date", SqlType::Date),
        ("timestamp", SqlType::Timestamp),
        ("timestamptz", SqlType::Timestamp),
        ("timestamp_ntz", SqlType::TimestampNtz),
        ("blob", SqlType::Blob),
        ("binary", SqlType::Blob),
        ("bytea", SqlType::Blob),
    ];
    for (text, expected) in table {
        assert_eq!(sql(text), expected, "{text}");
    }
}

#[test]
fn nested_types_are_read_and_written_canonically() {
    for (text, canonical) in [
        ("INT[][]", "integer[][]"),
        ("struct ( a int , b TEXT [] )", "struct(a integer, b varchar[])"),
        (r#"STRUCT("My Field" int, "say ""hi""" date)"#, r#"struct("My Field" integer, "say ""hi""" date)"#),
        ("struct(struct struct(map map(int, date)))[]", "struct(struct struct(map map(integer, date)))[]"),
        ("map(varchar, decimal(5,1)[])", "map(varchar, decimal(5,1)[])"),
        (r#"struct("plain" int)"#, "struct(plain integer)"),
        (r#"struct(größe int)"#, r#"struct("größe" integer)"#),
    ] {
        assert_eq!(sql(text).to_string(), canonical);
    }
}

#[test]
fn an_error_points_at_the_column_and_tells_the_cure() {
    let table = [
        ("bigintt", r#"type "bigintt", column 1: there is no type "bigintt"; did you mean "bigint"?"#),
        (
            "struct(a int, b varchr)",
            r#"type "struct(a int, b varchr)", column 17: there is no type "varchr"; did you mean "varchar"?"#,
        ),
        (
            "decimal",
            r#"type "decimal", column 1: decimal needs its digits; write decimal(precision, scale), as in decimal(18,2)"#,
        ),
        (
            "decimal(10)",
            r#"type "decimal(10)", column 11: decimal needs a scale too; write decimal(precision, scale), as in decimal(18,2)"#,
        ),
        (
            "decimal(x,2)",
            r#"type "decimal(x,2)", column 9: "x" is no number of digits; write decimal(precision, scale), as in decimal(18,2)"#,
        ),
        ("decimal(39,2)", r#"type "decimal(39,2)", column 9: precision 39 is not within 1 to 38"#),
        ("decimal(0,0)", r#"type "decimal(0,0)", column 9: precision 0 is not within 1 to 38"#),
        (
            "decimal(5, 6)",
            r#"type "decimal(5, 6)", column 12: scale 6 is over the precision, 5; the scale is part of it"#,
        ),
        ("varchar(20)", r#"type "varchar(20)", column 8: varchar takes nothing in parentheses; write varchar"#),
        ("int[3]", r#"type "int[3]", column 5: lists have no fixed length; write []"#),
        ("int int", r#"type "int int", column 5: nothing should follow the type, but 'i' does"#),
        ("", r#"type "", column 1: expected a type, found the end"#),
        ("struct()", r#"type "struct()", column 8: expected a field's name, found ')'"#),
        ("struct(a int", r#"type "struct(a int", column 13: expected ')', found the end"#),
        (
            "struct(ä int, ä)",
            r#"type "struct(ä int, ä)", column 15: field "ä" is there twice (case does not count); rename one"#,
        ),
        (
            "struct(a int, A int)",
            r#"type "struct(a int, A int)", column 15: field "A" is there twice (case does not count); rename one"#,
        ),
        (r#"struct("a int)"#, r#"type "struct(\"a int)", column 8: the field's name is not closed; add ""#),
        (
            r#"struct("" int)"#,
            r#"type "struct(\"\" int)", column 8: column name "" is empty; give it at least one letter"#,
        ),
        (
            "map(int[], int)",
            r#"type "map(int[], int)", column 5: a map's key can't be integer[]; use a type that holds no others"#,
        ),
        (
            "datetime",
            r#"type "datetime", column 1: there is no type "datetime"; did you mean "timestamp" (an instant) or "timestamp_ntz" (a time of no zone)?"#,
        ),
        (
            "ubigint",
            r#"type "ubigint", column 1: there is no type "ubigint"; there are no unsigned integers; use decimal(20,0)"#,
        ),
    ];
    for (text, expected) in table {
        assert_eq!(refusal(text), expected);
    }
    assert!(refusal("geometry").contains("there are: boolean, tinyint"), "{}", refusal("geometry"));
}

#[test]
fn types_nest_to_the_limit_and_no_deeper() {
    for make in [nested_lists, nested_structs] {
        let deepest = make(MAX_TYPE_DEPTH);
        assert_eq!(sql(&deepest).to_string(), deepest);
        let message = refusal(&make(MAX_TYPE_DEPTH + 1));
        assert!(message.ends_with("types nest deeper than 32; flatten it, or store it as json"), "{message}");
        // Far beyond, it is the limit that speaks, not the stack.
        assert!(refusal(&make(200_000)).ends_with("flatten it, or store it as json"));
    }
    let mixed = format!("{}{}", nested_structs(MAX_TYPE_DEPTH), "[]");
    assert!(refusal(&mixed).contains("types nest deeper than 32"));
}

#[test]
fn every_type_has_its_arrow_type_and_comes_back_from_it() {
    let table = [
        ("boolean", DataType::Boolean),
        ("tinyint", DataType::Int8),
        ("smallint", DataType::Int16),
        ("integer", DataType::Int32),
        ("bigint", DataType::Int64),
        ("float", DataType::Float32),
        ("double", DataType::Float64),
        ("decimal(10,2)", DataType::Decimal128(10, 2)),
        ("varchar", DataType::Utf8),
        ("date", DataType::Date32),
        ("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ("timestamp_ntz", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("blob", DataType::Binary),
        ("bigint[]", DataType::List(Arc::new(Field::new("element", DataType::Int64, true)))),
        ("struct(a date)", DataType::Struct(vec![Field::new("a", DataType::Date32, true)].into())),
    ];
    for (text, arrow) in table {
        assert_eq!(sql(text).to_arrow(), arrow, "{text}");
        assert_eq!(SqlType::from_arrow(&arrow).unwrap(), sql(text), "{text}");
    }
    assert_eq!(sql("json").to_arrow(), DataType::Utf8);
    let DataType::Map(entry, false) = sql("map(varchar, date)").to_arrow() else { panic!("not a map") };
    assert_eq!(entry.name(), "key_value");
    assert!(!entry.is_nullable());
}

#[test]
fn every_type_has_its_duckdb_type() {
    for (text, duckdb) in [
        ("timestamp", "TIMESTAMPTZ"),
        ("timestamp_ntz", "TIMESTAMP"),
        ("json", "VARCHAR"),
        ("decimal(10,2)", "DECIMAL(10,2)"),
        ("float", "FLOAT"),
        ("blob[]", "BLOB[]"),
        (r#"struct(a int, "b ""c""" map(date, text))"#, r#"STRUCT("a" INTEGER, "b ""c""" MAP(DATE, VARCHAR))"#),
    ] {
        assert_eq!(sql(text).to_duckdb(), duckdb);
    }
}

#[test]
fn what_delta_lacks_is_stored_as_the_smallest_type_that_holds_it() {
    let list = |item| Arc::new(Field::new_list_field(item, true));
    let table = [
        (DataType::UInt8, "smallint"),
        (DataType::UInt16, "integer"),
        (DataType::UInt32, "bigint"),
        (DataType::UInt64, "decimal(20,0)"),
        (DataType::Float16, "float"),
        (DataType::LargeUtf8, "varchar"),
        (DataType::Utf8View, "varchar"),
        (DataType::Date64, "date"),
        (DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Zurich".into())), "timestamp"),
        (DataType::Timestamp(TimeUnit::Second, None), "timestamp_ntz"),
        (DataType::Decimal32(9, 2), "decimal(9,2)"),
        (DataType::Decimal64(18, 2), "decimal(18,2)"),
        (DataType::Decimal256(38, 10), "decimal(38,10)"),
        (DataType::Decimal128(5, -3), "decimal(8,0)"),
        (DataType::LargeBinary, "blob"),
        (DataType::BinaryView, "blob"),
        (DataType::FixedSizeBinary(16), "blob"),
        (DataType::LargeList(list(DataType::UInt8)), "smallint[]"),
        (DataType::FixedSizeList(list(DataType::Int8), 3), "tinyint[]"),
        (DataType::ListView(list(DataType::Int8)), "tinyint[]"),
        (DataType::LargeListView(list(DataType::Int8)), "tinyint[]"),
        (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), "varchar"),
        (
            DataType::RunEndEncoded(
                Arc::new(Field::new("run_ends", DataType::Int32, false)),
                Arc::new(Field::new("values", DataType::UInt16, true)),
            ),
            "integer",
        ),
        (sql("map(varchar, bigint[])").to_arrow(), "map(varchar, bigint[])"),
    ];
    for (arrow, text) in table {
        assert_eq!(SqlType::from_arrow(&arrow).unwrap(), sql(text), "{arrow}");
    }
}

#[test]
fn what_delta_can_not_hold_is_refused_by_name_with_the_cure() {
    let refused = |arrow: DataType| SqlType::from_arrow(&arrow).expect_err("should be refused").to_string();
    assert_eq!(
        refused(DataType::Null),
        "Arrow type Null says nothing about its values; cast it to the type it should have"
    );
    for arrow in [
        DataType::Time32(TimeUnit::Second),
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Duration(TimeUnit::Second),
        DataType::Interval(IntervalUnit::MonthDayNano),
    ] {
        let expected =
            format!("Arrow type {arrow} has no counterpart in Delta Lake; cast it to an integer, or to text");
        assert_eq!(refused(arrow), expected);
    }
    assert!(refused(DataType::Union(UnionFields::empty(), UnionMode::Sparse)).starts_with("Arrow type Union has no"));
    assert_eq!(
        refused(DataType::Decimal256(76, 4)),
        "decimal(76,4) is not within decimal(38,s), the widest that Delta Lake has; cast it to a narrower decimal, or to text"
    );
    assert!(refused(DataType::Decimal128(38, -1)).starts_with("decimal(38,-1) is not within"));
    assert!(refused(DataType::Struct(Fields::empty())).starts_with("a struct without fields holds nothing"));
    let twice = vec![Field::new("a", DataType::Int8, true), Field::new("A", DataType::Int8, true)];
    assert!(refused(DataType::Struct(twice.into())).starts_with(r#"field "A" is there twice"#));
    let inner = DataType::Struct(vec![Field::new("b", DataType::Null, true)].into());
    let outer = DataType::Struct(vec![Field::new("a", inner, true)].into());
    assert!(refused(outer).starts_with(r#"field "a": field "b": Arrow type Null says nothing"#));
}

#[test]
fn an_arrow_type_that_nests_too_deep_is_refused() {
    let mut arrow = DataType::Int8;
    for _ in 1..MAX_TYPE_DEPTH {
        arrow = DataType::List(Arc::new(Field::new_list_field(arrow, true)));
    }
    assert!(SqlType::from_arrow(&arrow).is_ok());
    let deeper = DataType::List(Arc::new(Field::new_list_field(arrow, true)));
    let message = SqlType::from_arrow(&deeper).unwrap_err().to_string();
    assert_eq!(message, "types nest deeper than 32; flatten it, or send it as JSON text");
}

#[test]
fn a_column_holds_what_loses_nothing_and_refuses_the_rest() {
    let held = [
        ("smallint", "tinyint"),
        ("integer", "smallint"),
        ("bigint", "integer"),
        ("decimal(19,0)", "bigint"),
        ("decimal(10,0)", "integer"),
        ("decimal(5,2)", "tinyint"),
        ("decimal(12,4)", "decimal(10,2)"),
        ("float", "smallint"),
        ("double", "integer"),
        ("double", "float"),
        ("timestamp_ntz", "date"),
        ("json", "varchar"),
        ("varchar", "json"),
        ("bigint[]", "tinyint[]"),
        ("struct(a bigint, b double)", "struct(A int, b float)"),
        ("struct(a bigint, b bigint)", "struct(a bigint)"),
        ("struct(a bigint, b bigint)", "struct(B int, a bigint)"),
        ("map(bigint, json)", "map(int, varchar)"),
    ];
    for (to, from) in held {
        assert!(sql(to).can_hold(&sql(from)), "{to} should hold {from}");
    }
    let refused = [
        ("tinyint", "smallint"),
        ("integer", "bigint"),
        ("decimal(18,0)", "bigint"),
        ("decimal(9,0)", "integer"),
        ("decimal(4,2)", "tinyint"),
        ("decimal(10,4)", "decimal(10,2)"),
        ("decimal(12,1)", "decimal(10,2)"),
        ("bigint", "decimal(5,0)"),
        ("float", "integer"),
        ("double", "bigint"),
        ("float", "double"),
        ("double", "decimal(5,2)"),
        ("timestamp", "date"),
        ("timestamp", "timestamp_ntz"),
        ("timestamp_ntz", "timestamp"),
        ("date", "timestamp_ntz"),
        ("varchar", "bigint"),
        ("boolean", "tinyint"),
        ("blob", "varchar"),
        ("tinyint[]", "bigint[]"),
        ("bigint[]", "bigint"),
        ("struct(a bigint)", "struct(b bigint)"),
        ("struct(a bigint)", "struct(a bigint, b bigint)"),
        ("struct(a bigint, b bigint)", "struct(a bigint, c bigint)"),
        ("map(int, int)", "map(bigint, int)"),
    ];
    for (to, from) in refused {
        assert!(!sql(to).can_hold(&sql(from)), "{to} should not hold {from}");
    }
}

pub(super) fn any_type() -> impl Strategy<Value = SqlType> {
    let decimal = (1..=MAX_DECIMAL_PRECISION)
        .prop_flat_map(|precision| (Just(precision), 0..=precision))
        .prop_map(|(precision, scale)| SqlType::Decimal { precision, scale });
    let plain = prop_oneof![
        Just(SqlType::Boolean),
        Just(SqlType::TinyInt),
        Just(SqlType::SmallInt),
        Just(SqlType::Integer),
        Just(SqlType::BigInt),
        Just(SqlType::Float),
        Just(SqlType::Double),
        Just(SqlType::Varchar),
        Just(SqlType::Json),
        Just(SqlType::Date),
        Just(SqlType::Timestamp),
        Just(SqlType::TimestampNtz),
        Just(SqlType::Blob),
        decimal,
    ]
    .boxed();
    let key = plain.clone();
    plain.prop_recursive(6, 24, 4, move |inner| {
        let fields =
            prop::collection::btree_map("[a-z_\"ä][ -~äß]{0,6}", inner.clone(), 1..4).prop_map(distinct_fields);
        prop_oneof![
            inner.clone().prop_map(|item| SqlType::List(Box::new(item))),
            fields.prop_map(SqlType::Struct),
            (key.clone(), inner).prop_map(|(key, value)| SqlType::Map(Box::new(key), Box::new(value))),
        ]
    })
}

fn distinct_fields(fields: std::collections::BTreeMap<String, SqlType>) -> Vec<StructField> {
    let numbered = fields.into_iter().enumerate();
    numbered.map(|(at, (name, data_type))| StructField { name: format!("{name}{at}"), data_type }).collect()
}

/// `json` has no Arrow type of its own: it comes back as the text it is.
fn without_json(data_type: SqlType) -> SqlType {
    match data_type {
        SqlType::Json => SqlType::Varchar,
        SqlType::List(item) => SqlType::List(Box::new(without_json(*item))),
        SqlType::Map(key, value) => SqlType::Map(Box::new(without_json(*key)), Box::new(without_json(*value))),
        SqlType::Struct(fields) => SqlType::Struct(
            fields
                .into_iter()
                .map(|field| StructField { name: field.name, data_type: without_json(field.data_type) })
                .collect(),
        ),
        plain => plain,
    }
}

proptest! {
    #[test]
    fn the_canonical_text_of_a_type_reads_back_as_the_type(data_type in any_type()) {
        let text = data_type.to_string();
        prop_assert_eq!(text.parse::<SqlType>().unwrap(), data_type);
    }

    #[test]
    fn a_type_comes_back_from_arrow(data_type in any_type()) {
        prop_assert_eq!(SqlType::from_arrow(&data_type.to_arrow()).unwrap(), without_json(data_type));
    }

    #[test]
    fn a_type_holds_itself(data_type in any_type()) {
        prop_assert!(data_type.can_hold(&data_type));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
        if let Ok(data_type) = text.parse::<SqlType>() {
            prop_assert_eq!(data_type.to_string().parse::<SqlType>().unwrap(), data_type);
        }
    }

    #[test]
    fn no_text_of_the_grammar_makes_the_parser_panic(
        words in prop::collection::vec(prop::sample::select(vec!["struct", "map", "(", ")", "[", "]", ",", "\"", "a", "int", "decimal", "9", "é"]), 0..20),
    ) {
        if let Ok(data_type) = words.join(" ").parse::<SqlType>() {
            prop_assert_eq!(data_type.to_string().parse::<SqlType>().unwrap(), data_type);
        }
    }
}
