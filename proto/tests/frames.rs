//! Rows come out of a frame as they went in.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int32Type, IntervalMonthDayNano, Schema, i256};
use proto::frame::{
    Compression, FRAME_BYTES_MAX, FRAME_ROWS_MAX, Frame, FrameError, FrameReader, HEADER_BYTES_MAX, Item,
};
use proto::schema_fingerprint;
use support::origin;

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn frame(batches: &[RecordBatch], compression: Compression) -> Result<Frame, FrameError> {
    Frame::from_batches(origin(), batches[0].schema_ref(), batches, compression)
}

/// Through the bytes and back.
fn round_trip(batches: &[RecordBatch], compression: Compression) -> Vec<RecordBatch> {
    let written = frame(batches, compression).unwrap();
    let bytes = written.encode().unwrap();
    assert_eq!(bytes.len(), written.encoded_len());
    let items: Vec<Item> = FrameReader::new(bytes.clone()).collect();
    assert_eq!(items, [Item::Frame { offset: 0, len: bytes.len(), frame: written.clone() }]);
    let (schema, read) = written.decode_batches().unwrap();
    assert_eq!(&schema, batches[0].schema_ref());
    read
}

fn flat_columns() -> Vec<(&'static str, ArrayRef)> {
    let long = "a string that is too long to lie inside its view";
    vec![
        ("null", Arc::new(NullArray::new(4))),
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]))),
        ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(0), Some(i8::MAX)]))),
        ("uint64", Arc::new(UInt64Array::from(vec![0, 1, 2, u64::MAX]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(-0.5), None, Some(f64::INFINITY), Some(1e300)]))),
        ("utf8", Arc::new(StringArray::from(vec![Some(""), None, Some("ü"), Some(long)]))),
        ("large_utf8", Arc::new(LargeStringArray::from(vec![Some("a"), None, Some("b"), Some(long)]))),
        ("utf8_view", Arc::new(StringViewArray::from(vec![Some("short"), None, Some(""), Some(long)]))),
        ("binary", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None, Some(b""), Some(b"x")]))),
        ("binary_view", Arc::new(BinaryViewArray::from(vec![None, Some(long.as_bytes()), Some(b""), Some(b"x")]))),
        ("fixed", Arc::new(FixedSizeBinaryArray::try_from_iter([[1, 2], [3, 4], [5, 6], [7, 8]].iter()).unwrap())),
        ("date32", Arc::new(Date32Array::from(vec![Some(-1), None, Some(0), Some(20_000)]))),
        ("date64", Arc::new(Date64Array::from(vec![0, 86_400_000, -86_400_000, 0]))),
        ("time32", Arc::new(Time32SecondArray::from(vec![0, 1, 2, 86_399]))),
        ("time64", Arc::new(Time64NanosecondArray::from(vec![0, 1, 2, 3]))),
        ("ts_s", Arc::new(TimestampSecondArray::from(vec![Some(0), None, Some(-1), Some(1)]))),
        ("ts_ms", Arc::new(TimestampMillisecondArray::from(vec![0, 1, 2, 3]).with_timezone("Europe/London"))),
        ("ts_us", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, i64::MAX]).with_timezone("UTC"))),
        ("ts_ns", Arc::new(TimestampNanosecondArray::from(vec![0, 1, 2, i64::MIN]).with_timezone("+05:30"))),
        ("duration", Arc::new(DurationMicrosecondArray::from(vec![0, 1, 2, 3]))),
        ("interval", Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, -2, 3); 4]))),
        ("decimal32", Arc::new(decimal(Decimal32Array::from(vec![Some(1), None, Some(-99), Some(0)])))),
        ("decimal64", Arc::new(Decimal64Array::from(vec![1, 2, 3, 4]).with_precision_and_scale(18, 3).unwrap())),
        ("decimal128", {
            let values = vec![Some(i128::from(i64::MAX) * 100), None, Some(-1), Some(0)];
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, 10).unwrap())
        }),
        ("decimal256", {
            let values = vec![Some(i256::from_i128(i128::MAX)), None, Some(i256::ZERO), Some(i256::MINUS_ONE)];
            Arc::new(Decimal256Array::from(values).with_precision_and_scale(76, 20).unwrap())
        }),
    ]
}

fn decimal(array: Decimal32Array) -> Decimal32Array {
    array.with_precision_and_scale(9, 2).unwrap()
}

fn nested_columns() -> Vec<(&'static str, ArrayRef)> {
    let numbers = || Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(4), Some(5), Some(6)])) as ArrayRef;
    let item = || Arc::new(Field::new("item", DataType::Int32, true));
    let offsets = OffsetBuffer::from_lengths([2, 0, 1, 3]);
    let nulls = Some(NullBuffer::from(vec![true, false, true, true]));
    let words: DictionaryArray<Int8Type> = ["x", "y", "x", "x", "z", "y"].into_iter().collect();
    let word_item = Arc::new(Field::new("item", words.data_type().clone(), true));

    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..4 {
        for key in 0..row {
            map.keys().append_value(format!("k{key}"));
            map.values().append_option((key != 1).then_some(key));
        }
        map.append(row != 2).unwrap();
    }
    let fields = Fields::from(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, true)]);
    let a = Arc::new(Int64Array::from(vec![1, 2, 3, 4])) as ArrayRef;
    let b = Arc::new(StringArray::from(vec![Some("p"), None, None, Some("q")])) as ArrayRef;
    let views = ListViewArray::new(item(), vec![4, 0, 2, 0].into(), vec![2, 0, 2, 1].into(), numbers(), nulls.clone());
    let runs = RunArray::try_new(&Int32Array::from(vec![1, 4]), &StringArray::from(vec![Some("r"), None])).unwrap();
    let carriers: DictionaryArray<Int32Type> = vec![Some("UA"), None, Some("AA"), Some("UA")].into_iter().collect();
    vec![
        ("dictionary", Arc::new(carriers)),
        ("list", Arc::new(ListArray::new(item(), offsets.clone(), numbers(), nulls.clone()))),
        ("list_of_dictionary", Arc::new(ListArray::new(word_item, offsets, Arc::new(words), nulls.clone()))),
        ("large_list", {
            let offsets = OffsetBuffer::from_lengths([1, 1, 1, 3]);
            Arc::new(LargeListArray::new(item(), offsets, numbers(), None))
        }),
        ("list_view", Arc::new(views)),
        ("fixed_size_list", {
            let values = Arc::new(Int32Array::from_iter_values(0..8));
            Arc::new(FixedSizeListArray::new(item(), 2, values, nulls.clone()))
        }),
        ("struct", Arc::new(StructArray::new(fields, vec![a, b], nulls))),
        ("map", Arc::new(map.finish())),
        ("runs", Arc::new(runs)),
    ]
}

#[test]
fn every_type_survives_in_every_compression() {
    let batch = RecordBatch::try_from_iter(flat_columns().into_iter().chain(nested_columns())).unwrap();
    for compression in COMPRESSIONS {
        assert_eq!(round_trip(std::slice::from_ref(&batch), compression), std::slice::from_ref(&batch));
        // Slices, whose offsets are not zero.
        let slices = [batch.slice(1, 2), batch.slice(3, 1), batch.slice(0, 0)];
        assert_eq!(round_trip(&slices, compression), slices[..2], "a batch without rows is left out");
    }
}

#[test]
fn the_header_says_what_the_payload_is() {
    let batch = RecordBatch::try_from_iter(flat_columns()).unwrap();
    let header = frame(&[batch.clone(), batch.slice(0, 3)], Compression::Lz4).unwrap().header;
    assert_eq!((header.table.as_str(), header.ingest_id.as_str(), header.frame), ("flights", "i-1", 7));
    assert_eq!((header.received_at_us, header.rows), (1_700_000, 7));
    assert_eq!(header.schema_fingerprint, schema_fingerprint(batch.schema_ref()));
}

#[test]
fn a_frame_may_have_no_batches_and_no_columns() {
    let schema = Schema::new(vec![Field::new("a", DataType::Int32, true)]);
    let empty = Frame::from_batches(origin(), &schema, &[], Compression::Zstd).unwrap();
    let (read, batches) = empty.decode_batches().unwrap();
    assert_eq!((read.as_ref(), batches.len()), (&schema, 0));

    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let bare = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(round_trip(std::slice::from_ref(&bare), Compression::None), [bare]);
}

#[test]
fn batches_with_different_dictionaries_keep_them() {
    let batch = |words: [&str; 2]| {
        let words: DictionaryArray<Int32Type> = words.into_iter().collect();
        RecordBatch::try_from_iter([("w", Arc::new(words) as ArrayRef)]).unwrap()
    };
    let batches = [batch(["a", "b"]), batch(["c", "a"]), batch(["a", "b"])];
    assert_eq!(round_trip(&batches, Compression::Lz4), batches);
}

#[test]
fn a_slice_carries_only_what_it_refers_to() {
    let strings: Vec<String> = (0..50_000).map(|row| format!("{row:0>64}")).collect();
    let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(&strings));
    let bytes: ArrayRef = Arc::new(BinaryViewArray::from_iter_values(&strings));
    let dictionary: DictionaryArray<Int32Type> = strings.iter().map(String::as_str).collect();
    for column in [views, bytes, Arc::new(dictionary)] {
        let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let whole = frame(std::slice::from_ref(&batch), Compression::None).unwrap_err();
        assert!(matches!(whole, FrameError::TooLarge { .. }), "{whole}");
        let slice = batch.slice(20_000, 10);
        let small = frame(std::slice::from_ref(&slice), Compression::None).unwrap();
        assert!(small.encoded_len() < 4_000, "{} bytes", small.encoded_len());
        assert_eq!(round_trip(std::slice::from_ref(&slice), Compression::None), [slice]);
    }
}

#[test]
fn what_is_over_a_limit_is_not_written() {
    let noise =
        Int64Array::from_iter_values((0..200_000_i64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)));
    let large = RecordBatch::try_from_iter([("n", Arc::new(noise) as ArrayRef)]).unwrap();
    let error = frame(std::slice::from_ref(&large), Compression::Zstd).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { bytes } if bytes > FRAME_BYTES_MAX), "{error}");

    let rows = FRAME_ROWS_MAX as usize + 1;
    let nulls = RecordBatch::try_from_iter([("n", Arc::new(NullArray::new(rows)) as ArrayRef)]).unwrap();
    let error = frame(&[nulls], Compression::None).unwrap_err();
    assert!(matches!(error, FrameError::TooManyRows { rows } if rows == FRAME_ROWS_MAX + 1), "{error}");

    let zeros = RecordBatch::try_from_iter([
        ("a", Arc::new(Decimal256Array::from(vec![i256::ZERO; 5_000_000])) as ArrayRef),
        ("b", Arc::new(Decimal256Array::from(vec![i256::ZERO; 5_000_000])) as ArrayRef),
    ]);
    let error = frame(&[zeros.unwrap()], Compression::Zstd).unwrap_err();
    assert!(matches!(error, FrameError::DecodedTooLarge { .. }), "{error}");

    let mut long = origin();
    long.table = "t".repeat(HEADER_BYTES_MAX);
    let error = Frame::from_batches(long, large.schema_ref(), &[], Compression::None).unwrap_err();
    assert!(matches!(error, FrameError::HeaderTooLarge { .. }), "{error}");
}

#[test]
fn a_frame_that_grew_over_its_limit_is_not_encoded() {
    let mut frame = support::frame_of(0, vec![0; FRAME_BYTES_MAX - 60]);
    assert!(frame.encode().unwrap().len() <= FRAME_BYTES_MAX);
    frame.payload = vec![0; FRAME_BYTES_MAX].into();
    assert!(matches!(frame.encode(), Err(FrameError::TooLarge { .. })));
}

#[test]
fn a_batch_of_another_schema_is_refused_by_position() {
    let first = RecordBatch::try_from_iter([("a", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
    let second = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    let error = frame(&[first, second], Compression::None).unwrap_err();
    assert!(matches!(error, FrameError::Schema { batch: 1 }), "{error}");
}
