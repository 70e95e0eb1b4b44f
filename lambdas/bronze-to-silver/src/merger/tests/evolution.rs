//! Rows that are stored when their table gets other columns: by files, by vectors, by partitions, by tombstones.

use arrow::array::{
    Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, ListArray, StructArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use serde_json::Value;

use super::seen::{numbers, shown, texts};
use super::*;

const UNDECLARED: &str = r#"
name = "lab"
[tables.t]
primary_key = ["id"]
sequence_by = "seq"
deletion_vectors = true
"#;

fn integers(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

/// A struct of nullable fields.
fn structs(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let fields = fields.into_iter().map(|(name, values)| {
        let field = Field::new(name, values.data_type().clone(), true);
        (Arc::new(field), values)
    });
    Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
}

/// Lists of `lengths` items.
fn lists<const N: usize>(items: ArrayRef, lengths: [usize; N]) -> ArrayRef {
    let item = Field::new("item", items.data_type().clone(), true);
    Arc::new(ListArray::new(Arc::new(item), OffsetBuffer::from_lengths(lengths), items, None))
}

/// Merges `x` of some ids, step by step. The second step marks a row of the first one's file.
async fn steps(steps: Vec<(&[i64], ArrayRef)>) -> Vec<String> {
    let mut lab = Lab::new(UNDECLARED);
    for (step, (ids, values)) in steps.into_iter().enumerate() {
        let sequences = vec![step as i64 + 1; ids.len()];
        lab.step(vec![("id", numbers(ids)), ("seq", numbers(&sequences)), ("x", values)]).await;
        if step == 1 {
            assert_eq!(lab.marked().len(), 1);
        }
    }
    lab.seen(&["id", "x"]).await
}

#[tokio::test]
async fn integers_become_larger_ones_and_then_decimals() {
    let seen = steps(vec![
        (&[1, 2, 3], integers(&[Some(7), None, Some(i32::MIN)])),
        (&[3], integers(&[Some(8)])),
        (&[2, 4], numbers(&[5_000_000_000, -1])),
        (&[5], Arc::new(UInt64Array::from(vec![u64::MAX]))),
    ]);
    assert_eq!(seen.await, ["1 7", "2 5000000000", "3 8", "4 -1", "5 18446744073709551615"]);
}

#[tokio::test]
async fn floats_become_doubles() {
    let seen = steps(vec![
        (&[1, 2, 3], Arc::new(Float32Array::from(vec![Some(1.5), None, Some(9.0)]))),
        (&[3], Arc::new(Float32Array::from(vec![-0.25]))),
        (&[4], Arc::new(Float64Array::from(vec![0.1]))),
    ]);
    assert_eq!(seen.await, ["1 1.5", "2 -", "3 -0.25", "4 0.1"]);
}

#[tokio::test]
async fn dates_become_wall_clock_times() {
    let seen = steps(vec![
        (&[1, 2, 3], Arc::new(Date32Array::from(vec![Some(0), None, Some(1)]))),
        (&[3], Arc::new(Date32Array::from(vec![19_000]))),
        (&[4], Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_123_456]))),
    ]);
    let times = ["1 1970-01-01T00:00:00", "2 -", "3 2022-01-08T00:00:00", "4 2023-11-14T22:13:20.123456"];
    assert_eq!(seen.await, times);
}

#[tokio::test]
async fn decimals_get_the_digits_of_both_sides() {
    let decimals = |values: Vec<Option<i128>>, digits, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(digits, scale).unwrap())
    };
    let seen = steps(vec![
        (&[1, 2, 3], decimals(vec![Some(-12_345), None, Some(1)], 5, 2)),
        (&[3], decimals(vec![Some(125)], 5, 2)),
        (&[4], decimals(vec![Some(9_999)], 4, 4)),
        (&[5], decimals(vec![Some(12_345_678_901_234_567_890)], 20, 0)),
    ]);
    assert_eq!(seen.await, ["1 -123.4500", "2 -", "3 1.2500", "4 0.9999", "5 12345678901234567890.0000"]);
}

#[tokio::test]
async fn structs_get_the_fields_of_both() {
    let seen = steps(vec![
        (&[1, 2, 3], structs(vec![("a", integers(&[Some(1), Some(2), None]))])),
        (&[3], structs(vec![("a", integers(&[Some(3)]))])),
        (&[2, 4], structs(vec![("a", integers(&[Some(20), None])), ("b", texts(&[Some("new"), Some("four")]))])),
        // In another order, and wider.
        (&[5], structs(vec![("b", texts(&[None])), ("a", numbers(&[5_000_000_000]))])),
        (&[6], structs(vec![("c", texts(&[Some("alone")]))])),
    ]);
    let structs = [
        "1 {a: 1, b: -, c: -}",
        "2 {a: 20, b: new, c: -}",
        "3 {a: 3, b: -, c: -}",
        "4 {a: -, b: four, c: -}",
        "5 {a: 5000000000, b: -, c: -}",
        "6 {a: -, b: -, c: alone}",
    ];
    assert_eq!(seen.await, structs);
}

#[tokio::test]
async fn structs_in_lists_get_the_fields_of_both() {
    let seen = steps(vec![
        (&[1, 2, 3], lists(structs(vec![("a", integers(&[Some(1), Some(2), Some(3)]))]), [2, 0, 1])),
        (&[3], lists(structs(vec![("a", integers(&[Some(4)]))]), [1])),
        (
            &[2, 4],
            lists(structs(vec![("a", integers(&[Some(5), None])), ("b", texts(&[Some("x"), Some("y")]))]), [1, 1]),
        ),
    ]);
    let lists = ["1 [{a: 1, b: -}, {a: 2, b: -}]", "2 [{a: 5, b: x}]", "3 [{a: 4, b: -}]", "4 [{a: -, b: y}]"];
    assert_eq!(seen.await, lists);
}

#[tokio::test]
async fn a_column_that_need_not_be_there_any_more_may_be_null_from_then_on() {
    let strict = format!(
        "{UNDECLARED}columns = [
          {{ name = \"id\", type = \"bigint\" }},
          {{ name = \"seq\", type = \"bigint\" }},
          {{ name = \"x\", type = \"integer\", nullable = false }},
        ]\n"
    );
    let mut lab = Lab::new(&strict);
    let rows = |ids: &[i64], sequence: i64, x: &[Option<i32>]| {
        vec![("id", numbers(ids)), ("seq", numbers(&vec![sequence; ids.len()])), ("x", integers(x))]
    };
    lab.step(rows(&[1, 2, 3], 1, &[Some(1), Some(2), None])).await;
    assert_eq!(lab.quarantine().await.iter().map(|(rule, _)| rule.as_str()).collect::<Vec<_>>(), ["not_null"]);
    lab.step(rows(&[2], 2, &[Some(20)])).await;
    assert_eq!(lab.seen(&["id", "x"]).await, ["1 1", "2 20"]);

    lab.redefine(&strict.replace(", nullable = false", ""));
    lab.step(rows(&[1, 3], 3, &[None, None])).await;
    assert_eq!(lab.seen(&["id", "x"]).await, ["1 -", "2 20", "3 -"]);
    assert_eq!(lab.quarantine().await.len(), 1);
}

#[tokio::test]
async fn a_partitioned_table_is_widened_in_all_partitions() {
    let mut lab = Lab::new(&format!("{UNDECLARED}partition_by = [\"p\"]\n"));
    let rows = |ids: &[i64], sequence: i64, p: &[Option<&str>], x: ArrayRef| {
        vec![("id", numbers(ids)), ("seq", numbers(&vec![sequence; ids.len()])), ("p", texts(p)), ("x", x)]
    };
    let names = [Some("a/b c"), Some("a/b c"), None, None, Some("é")];
    lab.step(rows(&[1, 2, 3, 4, 5], 1, &names, integers(&[Some(1), Some(2), None, Some(4), Some(5)]))).await;
    lab.step(rows(&[2], 2, &[Some("a/b c")], integers(&[Some(20)]))).await;
    assert_eq!(lab.marked().len(), 1);
    // One comes, and one goes to another partition.
    lab.step(rows(&[3, 6], 3, &[Some("é"), Some("new")], numbers(&[5_000_000_000, 6]))).await;
    let left = ["1 a/b c 1", "2 a/b c 20", "3 é 5000000000", "4 - 4", "5 é 5", "6 new 6"];
    assert_eq!(lab.seen(&["id", "p", "x"]).await, left);
}

#[tokio::test]
async fn keys_and_sequences_that_become_wider_still_meet_their_rows_and_tombstones() {
    let mut lab = Lab::new(&format!("{UNDECLARED}delete_when = \"op = 'delete'\"\ndrop_columns = [\"op\"]\n"));
    // `id` and `seq` of 32 bits.
    let narrow = |ids: &[i32], sequence: i32, op: &str| -> Vec<(&'static str, ArrayRef)> {
        let (count, ids) = (ids.len(), ids.iter().copied().map(Some).collect::<Vec<_>>());
        let (v, op) = (vec![Some("n"); count], vec![Some(op); count]);
        vec![
            ("id", integers(&ids)),
            ("seq", integers(&vec![Some(sequence); count])),
            ("v", texts(&v)),
            ("op", texts(&op)),
        ]
    };
    lab.step(narrow(&[1, 2, 3, 4], 1, "upsert")).await;
    lab.step(narrow(&[2], 5, "delete")).await;
    lab.events(&[upsert(1, 2, "w"), upsert(2, 3, "late"), upsert(5_000_000_000, 1, "far"), upsert(4, 0, "late")]).await;
    assert_eq!(lab.seen(&["id", "seq", "v"]).await, ["1 2 w", "3 1 n", "4 1 n", "5000000000 1 far"]);
    lab.step(narrow(&[3], 9, "delete")).await;
    lab.events(&[upsert(3, 8, "late"), upsert(2, 6, "anew"), delete(4, 1)]).await;
    assert_eq!(lab.seen(&["id", "seq", "v"]).await, ["1 2 w", "2 6 anew", "5000000000 1 far"]);
}

/// A table that rescues, with a column that must be there.
const RESCUING: &str = r#"
name = "lab"
[tables.t]
primary_key = ["id"]
sequence_by = "seq"
on_new_column = "rescue"
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "bigint" },
  { name = "n", type = "integer" },
  { name = "m", type = "integer", nullable = false },
  { name = "s", type = "struct(a integer)" },
]
"#;

/// What was rescued, by id.
async fn rescued(lab: &Lab) -> BTreeMap<i64, BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for row in lab.seen(&["id", "_rescued"]).await {
        let (id, json) = row.split_once(' ').unwrap();
        if json != "-" {
            let mut values: BTreeMap<String, Value> = serde_json::from_str(json).unwrap();
            values.retain(|_, value| !value.is_null());
            found.insert(id.parse().unwrap(), values);
        }
    }
    found
}

fn rescue<const N: usize>(values: [(&str, Value); N]) -> BTreeMap<String, Value> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

#[tokio::test]
async fn values_that_fit_nowhere_are_rescued_unless_the_row_needs_them() {
    let mut lab = Lab::new(RESCUING);
    let wide = 5_000_000_000;
    lab.step(vec![
        ("id", numbers(&[1, 2, 3, 4])),
        ("seq", numbers(&[1; 4])),
        ("n", numbers(&[1, wide, 3, 4])),
        ("m", numbers(&[1, 2, wide, 4])),
        ("s", structs(vec![("a", integers(&[Some(1); 4])), ("b", texts(&[None, None, None, Some("b")]))])),
        ("more", texts(&[None, Some("e"), None, None])),
    ])
    .await;
    // A key that does not fit is none.
    let ids = Arc::new(UInt64Array::from(vec![u64::MAX, 5]));
    lab.step(vec![("id", ids), ("seq", numbers(&[1; 2])), ("m", integers(&[Some(1); 2]))]).await;
    assert_eq!(lab.seen(&["id", "n", "m", "s"]).await, ["1 1 1 {a: 1}", "2 - 2 {a: 1}", "4 4 4 -", "5 - 1 -"]);
    let expected = BTreeMap::from([
        (2, rescue([("n", wide.into()), ("more", "e".into())])),
        (4, rescue([("s", serde_json::json!({"a": 1, "b": "b"}))])),
    ]);
    assert_eq!(rescued(&lab).await, expected);
    assert_eq!(shown(&lab.rows(Layer::Quarantine).await, &["rule"]), ["type", "type"]);
    // What replaces a row replaces what was rescued of it.
    lab.step(vec![("id", numbers(&[2])), ("seq", numbers(&[2])), ("n", integers(&[Some(7)])), ("m", numbers(&[2]))])
        .await;
    assert_eq!(rescued(&lab).await.into_keys().collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn values_of_text_that_fit_nowhere_are_rescued_too() {
    let mut lab = Lab::new(RESCUING);
    let lines = [
        r#"{"id":1,"seq":1,"n":1,"m":1}"#,
        r#"{"id":2,"seq":1,"n":5000000000,"m":1,"more":{"deep":[1,2]}}"#,
        r#"{"id":3,"seq":1,"n":1,"m":1,"s":{"a":1,"b":"b"}}"#,
        r#"{"id":4,"seq":1,"n":1,"m":5000000000}"#,
    ];
    let object = lab.object(&[lines.join("\n").into()]);
    lab.merge(&[object]).await.unwrap();
    assert_eq!(lab.seen(&["id", "n", "m", "s"]).await, ["1 1 1 -", "2 - 1 -", "3 1 1 -"]);
    let expected = BTreeMap::from([
        (2, rescue([("n", 5_000_000_000_i64.into()), ("more", serde_json::json!({"deep": [1, 2]}))])),
        (3, rescue([("s", serde_json::json!({"a": 1, "b": "b"}))])),
    ]);
    assert_eq!(rescued(&lab).await, expected);
    assert_eq!(shown(&lab.rows(Layer::Quarantine).await, &["line"]), ["4"]);
}
