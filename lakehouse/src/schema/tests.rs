use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, ArrowPrimitiveType, BinaryArray, BinaryViewArray, BooleanArray, Date32Array,
    Date64Array, Decimal32Array, Decimal64Array, Decimal128Array, Decimal256Array, DictionaryArray,
    FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, LargeBinaryArray, LargeListArray, LargeListViewArray, LargeStringArray, ListArray,
    ListViewArray, MapArray, RecordBatch, RunArray, StringArray, StringViewArray, StructArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Field, Float16Type, Int8Type, Int32Type, IntervalUnit, Schema, TimeUnit, UnionFields, UnionMode, i256,
};
use arrow::util::display::array_value_to_string;

use super::*;
use crate::Kind;
use crate::definition::{Definition, Origin, Sql};

const DAY_MILLIS: i64 = 86_400_000;

fn table(rules: &str) -> Table {
    Definition::made_table(&format!("[tables.t]\n{rules}\n"), "t.toml").unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn bad(table: &Table, columns: Vec<(&str, ArrayRef)>) -> BadRows {
    bad_rows(table, &known_columns(table, None).unwrap(), &batch(columns), 10).unwrap()
}

/// The bad rows of a column in a table without rules, with their reasons.
fn faults(array: ArrayRef) -> Vec<(usize, String)> {
    let bad = bad(&table(""), vec![("x", array)]);
    bad.told.into_iter().map(|told| (told.row, told.reason)).collect()
}

fn arc(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new_list_field(data_type, true))
}

/// Maps of rows of entries; values are 64 bits wide.
fn maps(keys: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let values = Int64Array::from_iter_values(0..keys.len() as i64);
    let key = Field::new("keys", keys.data_type().clone(), false);
    let entries = StructArray::from(vec![
        (Arc::new(key), keys),
        (Arc::new(Field::new("values", DataType::Int64, true)), arc(values)),
    ]);
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths.iter().copied());
    let data = ArrayData::builder(DataType::Map(field, false))
        .len(lengths.len())
        .add_buffer(offsets.into_inner().into_inner())
        .add_child_data(entries.into_data());
    arc(MapArray::from(data.build().unwrap()))
}

fn half(value: f32) -> <Float16Type as ArrowPrimitiveType>::Native {
    <<Float16Type as ArrowPrimitiveType>::Native>::from_f32(value)
}

/// Arrays of every Arrow type that a table stores: one value and one NULL, the type that it is stored as, and the value
/// as it then reads.
fn stored() -> Vec<(ArrayRef, &'static str, &'static str)> {
    let validity = || Some(NullBuffer::from(vec![true, false]));
    let numbers = || arc(Int8Array::from(vec![Some(1), None, Some(2)]));
    let dictionary: DictionaryArray<Int8Type> = vec![Some("twice"), None].into_iter().collect();
    let inner = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::UInt16, true)), arc(UInt16Array::from(vec![65_535, 0]))),
        (Arc::new(Field::new("b", DataType::Utf8View, true)), arc(StringViewArray::from(vec!["text", ""]))),
    ]);
    let (fields, columns, _) = inner.into_parts();
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([7_u8, 8])].into_iter().chain([None]), 2);
    let (offsets, sizes) = (ScalarBuffer::from(vec![0_i32, 0]), ScalarBuffer::from(vec![3_i32, 0]));
    vec![
        (arc(BooleanArray::from(vec![Some(true), None])), "boolean", "true"),
        (arc(Int8Array::from(vec![Some(i8::MIN), None])), "tinyint", "-128"),
        (arc(Int16Array::from(vec![Some(i16::MIN), None])), "smallint", "-32768"),
        (arc(Int32Array::from(vec![Some(i32::MIN), None])), "integer", "-2147483648"),
        (arc(Int64Array::from(vec![Some(i64::MIN), None])), "bigint", "-9223372036854775808"),
        (arc(UInt8Array::from(vec![Some(u8::MAX), None])), "smallint", "255"),
        (arc(UInt16Array::from(vec![Some(u16::MAX), None])), "integer", "65535"),
        (arc(UInt32Array::from(vec![Some(u32::MAX), None])), "bigint", "4294967295"),
        (arc(UInt64Array::from(vec![Some(u64::MAX), None])), "decimal(20,0)", "18446744073709551615"),
        (arc(Float16Array::from(vec![Some(half(0.1)), None])), "float", "0.099975586"),
        (arc(Float32Array::from(vec![Some(0.1), None])), "float", "0.1"),
        (arc(Float64Array::from(vec![Some(0.1), None])), "double", "0.1"),
        (arc(decimal32(vec![Some(-999), None], 3, 1)), "decimal(3,1)", "-99.9"),
        (
            arc(Decimal64Array::from(vec![Some(12), None]).with_precision_and_scale(12, 4).unwrap()),
            "decimal(12,4)",
            "0.0012",
        ),
        (
            arc(Decimal128Array::from(vec![Some(12), None]).with_precision_and_scale(3, -2).unwrap()),
            "decimal(5,0)",
            "1200",
        ),
        (
            arc(Decimal256Array::from(vec![Some(i256::MINUS_ONE), None]).with_precision_and_scale(38, 38).unwrap()),
            "decimal(38,38)",
            "-0.00000000000000000000000000000000000001",
        ),
        (arc(StringArray::from(vec![Some("text"), None])), "varchar", "text"),
        (arc(LargeStringArray::from(vec![Some("text"), None])), "varchar", "text"),
        (
            arc(StringViewArray::from(vec![Some("longer than twelve bytes"), None])),
            "varchar",
            "longer than twelve bytes",
        ),
        (arc(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None])), "blob", "00ff"),
        (arc(LargeBinaryArray::from(vec![Some(&b"\x00\xff"[..]), None])), "blob", "00ff"),
        (arc(BinaryViewArray::from(vec![Some(&b"\x00\xff"[..]), None])), "blob", "00ff"),
        (arc(fixed.unwrap()), "blob", "0708"),
        (arc(Date32Array::from(vec![Some(-719_162), None])), "date", "0001-01-01"),
        (arc(Date64Array::from(vec![Some(2_932_896 * DAY_MILLIS), None])), "date", "9999-12-31"),
        (arc(TimestampSecondArray::from(vec![Some(-1), None])), "timestamp_ntz", "1969-12-31T23:59:59"),
        (arc(TimestampMillisecondArray::from(vec![Some(-1), None])), "timestamp_ntz", "1969-12-31T23:59:59.999"),
        (arc(TimestampMicrosecondArray::from(vec![Some(-1), None])), "timestamp_ntz", "1969-12-31T23:59:59.999999"),
        (arc(TimestampNanosecondArray::from(vec![Some(-1_000), None])), "timestamp_ntz", "1969-12-31T23:59:59.999999"),
        // The instant stays, the zone's name does not, whether Arrow knows it or not.
        (
            arc(TimestampSecondArray::from(vec![Some(0), None]).with_timezone("+02:00")),
            "timestamp",
            "1970-01-01T00:00:00",
        ),
        (
            arc(TimestampNanosecondArray::from(vec![Some(0), None]).with_timezone("Mars/Olympus_Mons")),
            "timestamp",
            "1970-01-01T00:00:00",
        ),
        (
            arc(ListArray::new(item(DataType::Int8), OffsetBuffer::from_lengths([3, 0]), numbers(), validity())),
            "tinyint[]",
            "[1, , 2]",
        ),
        (
            arc(LargeListArray::new(item(DataType::Int8), OffsetBuffer::from_lengths([3, 0]), numbers(), validity())),
            "tinyint[]",
            "[1, , 2]",
        ),
        (arc(ListViewArray::new(item(DataType::Int8), offsets, sizes, numbers(), validity())), "tinyint[]", "[1, , 2]"),
        (
            arc(LargeListViewArray::new(
                item(DataType::Int8),
                ScalarBuffer::from(vec![0_i64, 0]),
                ScalarBuffer::from(vec![3_i64, 0]),
                numbers(),
                validity(),
            )),
            "tinyint[]",
            "[1, , 2]",
        ),
        (
            arc(FixedSizeListArray::new(
                item(DataType::Int8),
                3,
                arc(Int8Array::from(vec![Some(1), None, Some(2), None, None, None])),
                validity(),
            )),
            "tinyint[]",
            "[1, , 2]",
        ),
        (arc(StructArray::new(fields, columns, validity())), "struct(a integer, b varchar)", "{a: 65535, b: text}"),
        (maps(arc(StringArray::from(vec!["a", "b"])), &[2, 0]), "map(varchar, bigint)", "{a: 0, b: 1}"),
        (arc(dictionary), "varchar", "twice"),
        (
            arc(RunArray::try_new(&Int32Array::from(vec![1, 2]), &UInt8Array::from(vec![Some(9), None])).unwrap()),
            "smallint",
            "9",
        ),
    ]
}

fn decimal32(values: Vec<Option<i32>>, precision: u8, scale: i8) -> Decimal32Array {
    Decimal32Array::from(values).with_precision_and_scale(precision, scale).unwrap()
}

#[test]
fn each_arrow_type_that_is_stored_keeps_its_values_and_its_nulls() {
    for (array, data_type, text) in stored() {
        let from = array.data_type().clone();
        let to = SqlType::from_arrow(&from).unwrap();
        assert_eq!(to.to_string(), data_type, "{from}");
        let kept = cast_strictly(&array, &to.to_arrow()).unwrap_or_else(|error| panic!("{from}: {error}"));
        // Instants are shown without their zone: what its name means is not part of Arrow.
        let shown = match kept.data_type() {
            DataType::Timestamp(unit, Some(_)) => cast_strictly(&kept, &DataType::Timestamp(*unit, None)).unwrap(),
            _ => Arc::clone(&kept),
        };
        assert_eq!(array_value_to_string(&shown, 0).unwrap(), text, "{from}");
        if !matches!(from, DataType::Map(..)) {
            assert!(kept.is_null(1), "{from}");
        }
        assert!(faults(array).is_empty(), "{from}");
    }
}

#[test]
fn each_arrow_type_is_stored_or_refused_by_its_name() {
    let mut names: Vec<String> = stored().iter().map(|(array, ..)| name_of(array.data_type())).collect();
    let refused = [
        DataType::Null,
        DataType::Time32(TimeUnit::Second),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Duration(TimeUnit::Millisecond),
        DataType::Interval(IntervalUnit::YearMonth),
        DataType::Interval(IntervalUnit::DayTime),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Union(UnionFields::empty(), UnionMode::Dense),
    ];
    for data_type in refused {
        let incoming = Schema::new(vec![Field::new("x", data_type.clone(), true)]);
        let message = admit(&table(""), None, &incoming).unwrap_err().to_string();
        assert!(message.starts_with(r#"column "x" of the ingest into table "t": Arrow type "#), "{message}");
        assert!(message.contains(&name_of(&data_type)), "{message}");
        names.push(name_of(&data_type));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 41, "an Arrow type is missing here: {names:?}");
}

/// The type's name without its parameters.
fn name_of(data_type: &DataType) -> String {
    let text = format!("{data_type:?}");
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_owned()
}

#[test]
fn a_map_that_says_its_keys_are_sorted_is_refused() {
    let DataType::Map(entries, _) = maps(arc(StringArray::from(vec!["a"])), &[1]).data_type().clone() else {
        panic!("no map")
    };
    let message = SqlType::from_arrow(&DataType::Map(entries, true)).unwrap_err().to_string();
    assert!(message.starts_with("Arrow type Map with sorted keys"), "{message}");
}

#[test]
fn what_would_be_cut_off_is_a_fault() {
    let nanoseconds = TimestampNanosecondArray::from(vec![Some(1_000), Some(1_001), None, Some(-1)]);
    let expected = "has nanoseconds, and times are kept in microseconds; round it".to_owned();
    assert_eq!(faults(arc(nanoseconds)), [(1, expected.clone()), (3, expected)]);
    let dates = Date64Array::from(vec![Some(DAY_MILLIS), Some(DAY_MILLIS + 1), None, Some(-1)]);
    let expected = "has a time of day, and is a date; send it as a timestamp, or cut it".to_owned();
    assert_eq!(faults(arc(dates)), [(1, expected.clone()), (3, expected)]);
}

#[test]
fn dates_and_times_outside_of_the_years_1_to_9999_are_faults_in_every_unit() {
    let (first, end) = (-719_162_i64 * 86_400, 2_932_897_i64 * 86_400);
    let times = |per_second: i64| {
        vec![
            Some(first * per_second),
            Some(first * per_second - 1),
            None,
            Some(end * per_second - 1),
            Some(end * per_second),
        ]
    };
    let arrays = [
        arc(Date32Array::from(vec![Some(-719_162), Some(-719_163), None, Some(2_932_896), Some(2_932_897)])),
        arc(Date64Array::from([-719_162, -719_163, 0, 2_932_896, 2_932_897].map(|day| day * DAY_MILLIS).to_vec())),
        arc(TimestampSecondArray::from(times(1))),
        arc(TimestampMillisecondArray::from(times(1_000)).with_timezone("UTC")),
        arc(TimestampMicrosecondArray::from(times(1_000_000))),
    ];
    for array in arrays {
        let data_type = array.data_type().clone();
        let rows: Vec<usize> = faults(array).into_iter().map(|(row, _)| row).collect();
        assert_eq!(rows, [1, 4], "{data_type}");
    }
}

#[test]
fn a_year_is_no_fault_where_the_column_is_not_stored_as_it_comes_but_what_cannot_be_handed_on_is() {
    let mut mended = table("");
    mended.transform = Some(Sql { text: "SELECT 1".into(), origin: Origin { file: "t.sql".into(), line: 1 } });
    let dropped = table("drop_columns = [\"x\"]");
    for table in [mended, dropped] {
        let far = arc(TimestampSecondArray::from(vec![Some(300_000_000_000), Some(i64::MAX)]));
        let rows: Vec<usize> = bad(&table, vec![("x", far)]).told.iter().map(|told| told.row).collect();
        assert_eq!(rows, [1]);
    }
}

#[test]
fn digits_beyond_a_decimals_precision_are_a_fault() {
    let arrays = [
        arc(decimal32(vec![Some(999), Some(1_000), None, Some(-1_000)], 3, 1)),
        arc(Decimal64Array::from(vec![Some(1), Some(i64::MAX), None, Some(i64::MIN)])
            .with_precision_and_scale(18, 0)
            .unwrap()),
        arc(Decimal128Array::from(vec![Some(1), Some(i128::MAX), None, Some(i128::MIN)])),
        arc(Decimal256Array::from(vec![Some(i256::ONE), Some(i256::MAX), None, Some(i256::MIN)])
            .with_precision_and_scale(38, 0)
            .unwrap()),
    ];
    for array in arrays {
        let data_type = array.data_type().clone();
        let rows: Vec<usize> = faults(array).into_iter().map(|(row, _)| row).collect();
        assert_eq!(rows, [1, 3], "{data_type}");
    }
}

#[test]
fn a_value_that_arrow_would_panic_over_is_an_error_of_the_cast() {
    let huge = Decimal256Array::from(vec![i256::MAX]).with_precision_and_scale(38, 0).unwrap();
    assert!(cast_strictly(&arc(huge), &DataType::Decimal128(38, 0)).is_err());
}

#[test]
fn faults_of_nested_values_are_told_by_row_and_way() {
    let times = || arc(TimestampNanosecondArray::from(vec![Some(0), Some(1), None, Some(2_000)]));
    let data_type = times().data_type().clone();
    let list = ListArray::new(item(data_type.clone()), OffsetBuffer::from_lengths([1, 1, 2]), times(), None);
    let reason = "has nanoseconds, and times are kept in microseconds; round it";
    assert_eq!(faults(arc(list.clone())), [(1, format!("has an item that {reason}"))]);
    let large = LargeListArray::new(item(data_type.clone()), OffsetBuffer::from_lengths([0, 4]), times(), None);
    assert_eq!(faults(arc(large)), [(1, format!("has an item that {reason}"))]);
    let (offsets, sizes) = (ScalarBuffer::from(vec![2_i32, 0, 1]), ScalarBuffer::from(vec![2_i32, 2, 0]));
    let views = ListViewArray::new(item(data_type.clone()), offsets, sizes, times(), None);
    assert_eq!(faults(arc(views)), [(1, format!("has an item that {reason}"))]);
    let fixed = FixedSizeListArray::new(item(data_type.clone()), 2, times(), None);
    assert!(faults(arc(fixed.slice(1, 1))).is_empty());
    assert_eq!(faults(arc(fixed)), [(0, format!("has an item that {reason}"))]);
    let field = Arc::new(Field::new("at", list.data_type().clone(), true));
    let nested = StructArray::from(vec![(field, arc(list))]);
    assert_eq!(faults(arc(nested)), [(1, format!(r#"has a field "at" that has an item that {reason}"#))]);
    let keys = Int8Array::from(vec![Some(0), None, Some(1), Some(3)]);
    assert_eq!(faults(arc(DictionaryArray::new(keys, times()))), [(2, reason.to_owned())]);
    let runs = RunArray::try_new(&Int32Array::from(vec![2, 3, 4, 5]), &times()).unwrap();
    assert_eq!(faults(arc(runs.slice(1, 3))), [(1, reason.to_owned())]);
}

#[test]
fn what_lies_under_a_null_is_no_fault() {
    let times = arc(TimestampNanosecondArray::from(vec![1, 1]));
    let nulls = Some(NullBuffer::new_null(2));
    let field = Arc::new(Field::new("at", times.data_type().clone(), true));
    assert!(faults(arc(StructArray::new(vec![field].into(), vec![Arc::clone(&times)], nulls.clone()))).is_empty());
    let list = ListArray::new(item(times.data_type().clone()), OffsetBuffer::from_lengths([1, 1]), times, nulls);
    assert!(faults(arc(list)).is_empty());
    let unused =
        DictionaryArray::new(Int8Array::from(vec![Some(0), None]), arc(TimestampSecondArray::from(vec![0, i64::MAX])));
    let unused = arc(unused);
    assert!(faults(Arc::clone(&unused)).is_empty());
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(cast_strictly(&unused, &micros).unwrap().null_count(), 1);
}

#[test]
fn a_map_with_a_key_twice_is_a_fault() {
    let twice = "has the same key twice; leave one of the entries out".to_owned();
    let texts = arc(StringArray::from(vec!["a", "b", "a", "a", "c", "a"]));
    assert_eq!(faults(maps(texts, &[2, 1, 3])), [(2, twice.clone())]);
    let zeros = arc(Float64Array::from(vec![0.0, -0.0, 1.0, 2.0]));
    assert_eq!(faults(maps(zeros, &[2, 2])), [(0, twice)]);
}

#[test]
fn nulls_are_refused_where_the_merge_would_refuse_them() {
    let rules = r#"
        primary_key = ["id"]
        sequence_by = "version"
        columns = [
            { name = "id", type = "bigint" },
            { name = "version", type = "bigint" },
            { name = "must", type = "varchar", nullable = false },
            { name = "may", type = "varchar" },
        ]"#;
    let numbers = |values: [Option<i64>; 4]| arc(Int64Array::from(values.to_vec()));
    let texts = |values: [Option<&str>; 4]| arc(StringArray::from(values.to_vec()));
    let columns = || {
        vec![
            ("ID", numbers([None, Some(1), Some(2), Some(3)])),
            ("version", numbers([None, None, Some(1), Some(1)])),
            ("must", texts([Some("x"), Some("x"), None, Some("x")])),
            ("may", texts([None; 4])),
        ]
    };
    let found = bad(&table(rules), columns());
    assert_eq!(found.count, 3);
    assert_eq!(found.mask.unwrap().values().iter().collect::<Vec<_>>(), [false, false, false, true]);
    let told: Vec<_> = found.told.iter().map(|told| (told.row, told.column.as_str(), told.reason.as_str())).collect();
    let expected = [
        (0, "ID", "is NULL and part of the primary key; give it a value"),
        (1, "version", "is NULL and orders the changes (sequence_by); give it a value"),
        (2, "must", "is NULL, which it may not be; give it a value"),
    ];
    assert_eq!(told, expected);

    // A row that deletes needs only its key and sequence.
    let deletes = bad(&table(&format!("delete_when = \"must IS NULL\"\n{rules}")), columns());
    assert_eq!(deletes.told.iter().map(|told| told.row).collect::<Vec<_>>(), [0, 1]);

    let mut mended = table(rules);
    mended.transform = Some(Sql { text: "SELECT 1".into(), origin: Origin { file: "t.sql".into(), line: 1 } });
    assert_eq!(bad(&mended, columns()).count, 0);
}

#[test]
fn a_null_in_a_dictionary_is_seen() {
    let keys = Int8Array::from(vec![0, 1]);
    let hidden = DictionaryArray::new(keys, arc(StringArray::from(vec![Some("a"), None])));
    let found = bad(&table("primary_key = [\"id\"]"), vec![("id", arc(hidden))]);
    assert_eq!(found.told.iter().map(|told| told.row).collect::<Vec<_>>(), [1]);
}

#[test]
fn no_more_rows_are_told_than_asked_for_and_all_are_counted() {
    let table = table("primary_key = [\"id\"]");
    let ids = batch(vec![("id", new_null_array(&DataType::Int64, 100))]);
    let found = bad_rows(&table, &[], &ids, 3).unwrap();
    assert_eq!((found.count, found.told.len()), (100, 3));
    let none = bad_rows(&table, &[], &batch(vec![("id", arc(Int64Array::from(vec![1])))]), 3).unwrap();
    assert!(none.mask.is_none() && none.count == 0 && none.told.is_empty());
}

#[test]
fn a_batch_that_is_small_only_because_its_rows_share_values_is_refused() {
    let text = "x".repeat(1 << 20);
    let rows = 257;
    let keys = Int8Array::from(vec![0; rows]);
    let dictionary = arc(DictionaryArray::new(keys, arc(StringArray::from(vec![text.as_str()]))));
    let run = RunArray::try_new(&Int32Array::from(vec![rows as i32]), &StringArray::from(vec![text.as_str()])).unwrap();
    let view = StringViewArray::from(vec![text.as_str()]);
    let views = StringViewArray::new(vec![view.views()[0]; rows].into(), view.data_buffers().to_vec(), None);
    let bytes = arc(Int8Array::from(vec![0; 1 << 20]));
    let lists = ListViewArray::new(item(DataType::Int8), vec![0; rows].into(), vec![1 << 20; rows].into(), bytes, None);
    let inner = StructArray::from(vec![(
        Arc::new(Field::new("a", dictionary.data_type().clone(), true)),
        Arc::clone(&dictionary),
    )]);
    for array in [dictionary, arc(run), arc(views), arc(lists), arc(inner)] {
        let data_type = array.data_type().clone();
        let small = batch(vec![("x", array.slice(0, 250))]);
        assert!(bad_rows(&table(""), &[], &small, 1).is_ok(), "{data_type}");
        let large = batch(vec![("x", array)]);
        assert_eq!(bad_rows(&table(""), &[], &large, 1).unwrap_err().kind(), Kind::Exhausted, "{data_type}");
    }
}

#[test]
fn sizes_that_overflow_are_too_large() {
    let mut array: ArrayRef = arc(Int32Array::from(vec![0; 100_000]));
    for _ in 0..70 {
        let len = array.len();
        let (offsets, sizes) = (vec![0_i32; len].into(), vec![len as i32; len].into());
        array = arc(ListViewArray::new(item(array.data_type().clone()), offsets, sizes, array, None));
    }
    let error = bad_rows(&table(""), &[], &batch(vec![("x", array)]), 1).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
}

#[test]
fn runs_with_ends_of_each_width_are_looked_through() {
    let times = || TimestampNanosecondArray::from(vec![0, 1]);
    let short = RunArray::<arrow::datatypes::Int16Type>::try_new(&Int16Array::from(vec![1, 2]), &times()).unwrap();
    let long = RunArray::<arrow::datatypes::Int64Type>::try_new(&Int64Array::from(vec![1, 2]), &times()).unwrap();
    let plain = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![1, 2]), &times()).unwrap();
    for array in [arc(short), arc(long), arc(plain)] {
        assert_eq!(faults(array).into_iter().map(|(row, _)| row).collect::<Vec<_>>(), [1]);
    }
}
