use proptest::prelude::*;

use super::super::tests::any_type;
use super::*;

fn sql(text: &str) -> SqlType {
    text.parse().unwrap()
}

fn widened(a: &str, b: &str) -> Option<String> {
    sql(a).widened(&sql(b)).map(|it| it.to_string())
}

#[test]
fn types_widen_to_the_narrowest_that_holds_both() {
    for (a, b, expected) in [
        ("integer", "bigint", "bigint"),
        ("tinyint", "tinyint", "tinyint"),
        ("bigint", "decimal(10,2)", "decimal(21,2)"),
        ("bigint", "decimal(20,0)", "decimal(20,0)"),
        ("tinyint", "decimal(4,2)", "decimal(5,2)"),
        ("decimal(10,2)", "decimal(6,4)", "decimal(12,4)"),
        ("decimal(38,0)", "decimal(5,0)", "decimal(38,0)"),
        ("float", "double", "double"),
        ("smallint", "float", "float"),
        ("integer", "float", "double"),
        ("integer", "double", "double"),
        ("date", "timestamp_ntz", "timestamp_ntz"),
        ("json", "varchar", "varchar"),
        ("varchar", "json", "varchar"),
        ("json", "json", "json"),
        ("integer[]", "bigint[]", "bigint[]"),
        ("map(integer, float)", "map(bigint, double)", "map(bigint, double)"),
        ("struct(a integer, b date)", "struct(B date, A bigint)", "struct(a bigint, b date)"),
        ("struct(a integer)", "struct(c date, b date)", "struct(a integer, c date, b date)"),
        ("struct(a struct(x integer))[]", "struct(a struct(y float))[]", "struct(a struct(x integer, y float))[]"),
    ] {
        assert_eq!(widened(a, b).as_deref(), Some(expected), "{a} and {b}");
    }
}

#[test]
fn what_no_type_holds_together_does_not_widen() {
    for (a, b) in [
        ("varchar", "bigint"),
        ("json", "integer"),
        ("boolean", "tinyint"),
        ("bigint", "double"),
        ("bigint", "float"),
        ("decimal(5,2)", "double"),
        ("decimal(38,0)", "decimal(38,1)"),
        ("bigint", "decimal(38,20)"),
        ("date", "timestamp"),
        ("timestamp", "timestamp_ntz"),
        ("blob", "varchar"),
        ("integer", "integer[]"),
        ("struct(a integer)", "map(varchar, integer)"),
        ("struct(a integer, b date)", "struct(a integer, b varchar)"),
    ] {
        assert_eq!(widened(a, b), None, "{a} and {b}");
        assert_eq!(widened(b, a), None, "{b} and {a}");
    }
}

#[test]
fn leaves_are_the_plain_values() {
    for (text, count) in
        [("bigint", 1), ("struct(a int, b struct(c int, d int[]))", 3), ("map(int, struct(a int)[])", 2)]
    {
        assert_eq!(sql(text).leaves(), count, "{text}");
    }
}

/// Types that are near enough to each other to widen often.
fn near_type() -> impl Strategy<Value = SqlType> {
    let decimal = (1..=MAX_DECIMAL_PRECISION)
        .prop_flat_map(|precision| (Just(precision), 0..=precision))
        .prop_map(|(precision, scale)| SqlType::Decimal { precision, scale });
    let number =
        prop::sample::select(["tinyint", "smallint", "integer", "bigint", "float", "double"].map(sql).to_vec());
    let other = prop::sample::select(["varchar", "json", "date", "timestamp_ntz"].map(sql).to_vec());
    let plain = prop_oneof![3 => number, 2 => decimal, 1 => other].boxed();
    let key = plain.clone();
    plain.prop_recursive(3, 12, 3, move |inner| {
        let field = |name: &'static str| {
            let names = prop::sample::select(vec![name.to_owned(), name.to_uppercase()]);
            let field = (names, inner.clone()).prop_map(|(name, data_type)| StructField { name, data_type });
            prop::option::weighted(0.6, field)
        };
        let fields = (field("a"), field("b"), field("c")).prop_filter_map("a struct has fields", |(a, b, c)| {
            let fields: Vec<StructField> = [c, a, b].into_iter().flatten().collect();
            (!fields.is_empty()).then_some(SqlType::Struct(fields))
        });
        prop_oneof![
            2 => inner.clone(),
            1 => inner.clone().prop_map(|item| SqlType::List(Box::new(item))),
            3 => fields,
            1 => (key.clone(), inner).prop_map(|(key, value)| SqlType::Map(Box::new(key), Box::new(value))),
        ]
    })
}

/// The type without the order and the case of its fields.
fn unordered(data_type: SqlType) -> SqlType {
    match data_type {
        SqlType::List(item) => SqlType::List(Box::new(unordered(*item))),
        SqlType::Map(key, value) => SqlType::Map(key, Box::new(unordered(*value))),
        SqlType::Struct(fields) => {
            let plain = |field: StructField| StructField {
                name: field.name.to_lowercase(),
                data_type: unordered(field.data_type),
            };
            let mut fields: Vec<StructField> = fields.into_iter().map(plain).collect();
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            SqlType::Struct(fields)
        }
        plain => plain,
    }
}

proptest! {
    #[test]
    fn the_order_does_not_matter(a in near_type(), b in near_type()) {
        prop_assert_eq!(a.widened(&b).map(unordered), b.widened(&a).map(unordered));
    }

    #[test]
    fn the_widened_type_holds_both_and_widens_no_further(a in near_type(), b in near_type()) {
        if let Some(wide) = a.widened(&b) {
            prop_assert!(wide.can_hold(&a), "{} should hold {}", wide, a);
            prop_assert!(wide.can_hold(&b), "{} should hold {}", wide, b);
            prop_assert_eq!(wide.widened(&a), Some(wide.clone()));
            prop_assert_eq!(wide.widened(&b), Some(wide));
        }
    }

    #[test]
    fn no_narrower_type_would_do(a in near_type(), b in near_type(), other in near_type()) {
        if other.can_hold(&a) && other.can_hold(&b) {
            let wide = a.widened(&b);
            prop_assert!(wide.as_ref().is_some_and(|wide| other.can_hold(wide)), "{} holds {} and {}", other, a, b);
        }
    }

    #[test]
    fn a_type_widens_to_itself(data_type in any_type()) {
        prop_assert_eq!(data_type.widened(&data_type), Some(data_type.clone()));
    }
}
