use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, Schema, TimeUnit, UnionFields, UnionMode};

use super::{FNV_OFFSET_BASIS, Fnv1a, schema_fingerprint};

fn of(fields: Vec<Field>) -> u64 {
    schema_fingerprint(&Schema::new(fields))
}

fn of_type(data_type: DataType) -> u64 {
    of(vec![Field::new("c", data_type, true)])
}

fn hash(text: &str) -> u64 {
    let mut hash = Fnv1a(FNV_OFFSET_BASIS);
    hash.text(text);
    hash.0
}

#[test]
fn the_hash_is_fnv_1a() {
    // Test vectors of RFC 9923.
    assert_eq!(hash(""), 0xcbf29ce484222325);
    assert_eq!(hash("a"), 0xaf63dc4c8601ec8c);
    assert_eq!(hash("foobar"), 0x85944171f73967e8);
}

#[test]
fn the_canonical_text_does_not_change() {
    let tags = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let fingerprint = of(vec![
        Field::new("flight_id", DataType::Int64, false),
        Field::new("delay;", DataType::Decimal128(10, 2), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("tags", tags, true),
        Field::new("carrier", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), true),
    ]);
    let text = "9:flight_id int64!;6:delay; decimal128(10,2)?;2:at timestamp(us,3:UTC)?;\
                4:tags list{4:item utf8?;}?;7:carrier dictionary(int32,utf8)?;";
    assert_eq!(fingerprint, hash(text));
    // Stored in bronze: a change here makes all stored frames unreadable.
    assert_eq!(fingerprint, 10_006_897_746_254_680_302);
}

#[test]
fn every_type_has_its_own_fingerprint() {
    let types = types();
    let distinct: HashSet<u64> = types.iter().cloned().map(of_type).collect();
    assert_eq!(distinct.len(), types.len());
}

#[test]
fn names_nullability_and_order_count() {
    let a = Field::new("a", DataType::Int32, true);
    let b = Field::new("b", DataType::Int32, true);
    let base = of(vec![a.clone(), b.clone()]);
    assert_eq!(base, of(vec![a.clone(), b.clone()]));
    assert_ne!(base, of(vec![b.clone(), a.clone()]));
    assert_ne!(base, of(vec![a.clone(), b.clone().with_nullable(false)]));
    assert_ne!(base, of(vec![a.clone(), b.with_name("B")]));
    assert_ne!(base, of(vec![a]));
}

#[test]
fn metadata_does_not_count() {
    let plain = Schema::new(vec![Field::new("a", DataType::Int32, true)]);
    let metadata = HashMap::from([("k".to_owned(), "v".to_owned())]);
    let fields = vec![Field::new("a", DataType::Int32, true).with_metadata(metadata.clone())];
    let rich = Schema::new_with_metadata(fields, metadata);
    assert_eq!(schema_fingerprint(&plain), schema_fingerprint(&rich));
}

#[test]
fn a_name_cannot_pass_for_two_fields() {
    let one = of(vec![Field::new("a int32?;1:b", DataType::Int32, true)]);
    let two = of(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, true)]);
    assert_ne!(one, two);
}

fn types() -> Vec<DataType> {
    use DataType::*;
    let item = Arc::new(Field::new("item", Int32, true));
    let other = Arc::new(Field::new("other", Int32, true));
    let fields = Fields::from(vec![item.clone(), other.clone()]);
    let union = UnionFields::try_new([0, 1], [item.clone(), other.clone()]).unwrap();
    let union_ids = UnionFields::try_new([3, 7], [item.clone(), other.clone()]).unwrap();
    let mut types = vec![
        Null,
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Date32,
        Date64,
        Binary,
        LargeBinary,
        BinaryView,
        Utf8,
        LargeUtf8,
        Utf8View,
    ];
    types.extend([IntervalUnit::YearMonth, IntervalUnit::DayTime, IntervalUnit::MonthDayNano].map(Interval));
    for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
        types.extend([Timestamp(unit, None), Timestamp(unit, Some("UTC".into())), Timestamp(unit, Some("".into()))]);
        types.extend([Time32(unit), Time64(unit), Duration(unit)]);
    }
    for (precision, scale) in [(5, 2), (5, -2), (9, 2)] {
        types.extend([Decimal32(precision, scale), Decimal64(precision, scale)]);
        types.extend([Decimal128(precision, scale), Decimal256(precision, scale)]);
    }
    types.extend([FixedSizeBinary(4), FixedSizeBinary(8)]);
    types.extend([List(item.clone()), List(other.clone()), LargeList(item.clone())]);
    types.extend([ListView(item.clone()), LargeListView(item.clone())]);
    types.extend([FixedSizeList(item.clone(), 2), FixedSizeList(item.clone(), 3)]);
    types.extend([Struct(fields), Struct(Fields::empty()), Struct(Fields::from(vec![item.clone()]))]);
    types.extend([Map(item.clone(), false), Map(item.clone(), true), RunEndEncoded(item, other)]);
    types.extend([Union(union.clone(), UnionMode::Sparse), Union(union, UnionMode::Dense)]);
    types.push(Union(union_ids, UnionMode::Dense));
    types.extend([Dictionary(Box::new(Int8), Box::new(Utf8)), Dictionary(Box::new(Int32), Box::new(Utf8))]);
    types.push(Dictionary(Box::new(Int8), Box::new(Binary)));
    types
}
