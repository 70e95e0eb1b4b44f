use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, DictionaryArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, IntervalUnit, Schema, TimeUnit, UnionFields, UnionMode};
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use super::*;

type Message = (Vec<u8>, Vec<u8>);

/// The messages of a stream of one batch.
fn messages(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<Message> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options).unwrap();
    writer.write(batch).unwrap();
    let stream = writer.into_inner().unwrap();
    let mut rest = &stream[..];
    let mut messages = Vec::new();
    loop {
        let len = i32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if len == 0 {
            return messages;
        }
        let (header, tail) = rest[8..].split_at(len);
        let (body, tail) = tail.split_at(parse(header).unwrap().bodyLength() as usize);
        messages.push((header.to_vec(), body.to_vec()));
        rest = tail;
    }
}

/// A schema's message.
fn schema_message(fields: Vec<Field>) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &Schema::new(fields)).unwrap();
    writer.finish().unwrap();
    let stream = writer.into_inner().unwrap();
    let len = i32::from_le_bytes(stream[4..8].try_into().unwrap()) as usize;
    stream[8..8 + len].to_vec()
}

fn batch(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("x", column)]).unwrap()
}

fn numbers(rows: usize, compression: Option<CompressionType>) -> Message {
    messages(&batch(Arc::new(Int64Array::from(vec![0; rows]))), compression).swap_remove(1)
}

fn checked((header, body): &Message) -> Result<Checked, MessageError> {
    Messages::default().check(header, body)
}

fn refused(message: &Message) -> String {
    checked(message).unwrap_err().to_string()
}

/// Where `message` has `wanted`.
fn places(message: &[u8], wanted: &[u8]) -> Vec<usize> {
    (0..=message.len() - wanted.len()).filter(|at| message[*at..].starts_with(wanted)).collect()
}

fn patched_at(message: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut patched = message.to_vec();
    patched[at..at + bytes.len()].copy_from_slice(bytes);
    patched
}

/// Replaces the one place where `message` has `from`.
fn patched(message: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let places = places(message, from);
    assert_eq!(places.len(), 1, "{from:?} is at {places:?}");
    patched_at(message, places[0], to)
}

/// A field of every type that has parameters or children.
fn every_type() -> Vec<Field> {
    let item = || Arc::new(Field::new("item", DataType::Utf8View, true));
    let pair: Fields = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int8, true)].into();
    let entries = Arc::new(Field::new("entries", DataType::Struct(pair.clone()), false));
    let ends = Arc::new(Field::new("run_ends", DataType::Int32, false));
    let union =
        UnionFields::try_new([3, 5], [Field::new("a", DataType::Int8, true), Field::new("b", DataType::Utf8, true)]);
    let types = vec![
        DataType::Null,
        DataType::Boolean,
        DataType::UInt16,
        DataType::Float16,
        DataType::Float64,
        DataType::Decimal32(5, 2),
        DataType::Decimal64(12, -3),
        DataType::Decimal128(31, 7),
        DataType::Decimal256(71, 11),
        DataType::Date64,
        DataType::Time32(TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Vienna".into())),
        DataType::Duration(TimeUnit::Second),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::FixedSizeBinary(13),
        DataType::List(item()),
        DataType::LargeListView(item()),
        DataType::FixedSizeList(item(), 17),
        DataType::Struct(pair),
        DataType::Map(entries, false),
        DataType::RunEndEncoded(ends, item()),
        DataType::Union(union.unwrap(), UnionMode::Dense),
        DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::LargeUtf8)),
    ];
    let named = types.into_iter().enumerate();
    named.map(|(at, data_type)| Field::new(format!("f{at}"), data_type, true)).collect()
}

#[test]
fn what_arrow_writes_passes() {
    assert_eq!(checked(&(schema_message(every_type()), Vec::new())), Ok(Checked::Schema));
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let message = numbers(10_000, compression);
        assert!(matches!(checked(&message), Ok(Checked::Batch { rows: 10_000, bytes: 80_000.. })), "{compression:?}");
    }
    let views = StringViewArray::from(vec![Some("x"), None, Some("a text longer than its view can hold")]);
    for message in messages(&batch(Arc::new(views)), Some(CompressionType::LZ4_FRAME)) {
        checked(&message).unwrap();
    }
    let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let kinds: Vec<_> =
        messages(&batch(Arc::new(words)), None).iter().map(|message| checked(message).unwrap()).collect();
    assert!(
        matches!(kinds[..], [Checked::Schema, Checked::Dictionary { .. }, Checked::Batch { rows: 3, .. }]),
        "{kinds:?}"
    );
}

#[test]
fn no_changed_byte_of_a_schema_that_passes_makes_the_decoder_panic() {
    let honest = schema_message(every_type());
    let mut refused = 0;
    for at in 0..honest.len() {
        for value in [0x00, 0x01, 0x02, 0x05, 0x10, 0x7f, 0x80, 0xff] {
            let mut changed = honest.clone();
            changed[at] = value;
            match check(&changed, &[], &mut Budget::new(0, 0)) {
                Ok(_) => drop(try_schema_from_flatbuffer_bytes(&changed)),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > honest.len(), "most changes are noticed, {refused} of {} bytes were", honest.len());
}

#[test]
fn types_that_arrow_does_not_have_are_refused() {
    let one = |data_type| schema_message(vec![Field::new("x", data_type, true)]);
    let le = i32::to_le_bytes;
    let table = [
        (one(DataType::Decimal128(31, 7)), le(31), le(39)),
        (one(DataType::Decimal128(31, 7)), le(31), le(-1)),
        (one(DataType::Decimal128(31, 7)), le(7), le(32)),
        (one(DataType::Decimal128(31, 7)), le(7), le(1_000)),
        (one(DataType::Decimal256(31, 7)), le(256), le(257)),
        (one(DataType::FixedSizeBinary(1_313)), le(1_313), le(-1)),
        (one(DataType::FixedSizeList(Arc::new(Field::new("i", DataType::Utf8, true)), 1_717)), le(1_717), le(-1)),
    ];
    for (honest, from, to) in table {
        assert_eq!(checked(&(honest.clone(), Vec::new())), Ok(Checked::Schema));
        // The number may be some other part of the message, too.
        let is_refused = |at: &usize| {
            let forged = patched_at(&honest, *at, &to);
            checked(&(forged, Vec::new()))
                == Err(MessageError::Malformed("a field has a type that Arrow does not have"))
        };
        assert!(places(&honest, &from).iter().any(is_refused), "{from:?} {to:?}");
    }
}

#[test]
fn a_schema_of_too_many_fields_too_deep_ones_or_too_much_text_is_refused() {
    let many = |count| (0..count).map(|at| Field::new(at.to_string(), DataType::Null, true)).collect();
    assert_eq!(checked(&(schema_message(many(FIELDS_MAX)), Vec::new())), Ok(Checked::Schema));
    assert_eq!(refused(&(schema_message(many(FIELDS_MAX + 1)), Vec::new())), "a schema has too many fields");
    let mut deep = Field::new("x", DataType::Int8, true);
    for _ in 0..NESTING_MAX {
        deep = Field::new("x", DataType::Struct(vec![deep].into()), true);
    }
    // The flatbuffer's own limit on depth may be met first.
    assert!(checked(&(schema_message(vec![deep]), Vec::new())).is_err());
    let wordy = |bytes| vec![Field::new("x".repeat(bytes), DataType::Int8, true)];
    assert_eq!(checked(&(schema_message(wordy(1 << 20)), Vec::new())), Ok(Checked::Schema));
    assert_eq!(refused(&(schema_message(wordy(HEADER_BYTES_MAX)), Vec::new())), "a message's metadata is too long");
}

#[test]
fn a_name_that_many_fields_point_at_counts_as_often() {
    // All fields of this schema point at the first one's name: 64 bytes and more stand for a megabyte and more.
    let name = "n".repeat(1 << 16);
    let count = 300;
    let mut fields = vec![Field::new(&name, DataType::Null, true)];
    fields.extend((1..count).map(|at| Field::new(format!("{at:08}"), DataType::Null, true)));
    let mut message = schema_message(fields);
    let find = |message: &[u8], wanted: &str| places(message, wanted.as_bytes())[0] - 4;
    let name_at = find(&message, &name);
    for at in 1..count {
        let own = find(&message, &format!("{at:08}"));
        // An offset leads forwards from its own place to the name's length; only fields before the name can be led to
        // it.
        let pointer = (0..own).rev().find(|place| {
            let bytes = message.get(*place..*place + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.is_some_and(|bytes| *place + u32::from_le_bytes(bytes) as usize == own)
        });
        let Some(pointer) = pointer.filter(|pointer| *pointer < name_at) else { continue };
        message[pointer..pointer + 4].copy_from_slice(&((name_at - pointer) as u32).to_le_bytes());
    }
    let pointed = checked(&(message, Vec::new()));
    assert_eq!(pointed, Err(MessageError::Malformed("a schema has too long names or metadata")));
}

#[test]
fn a_forged_length_is_refused_before_it_is_allocated() {
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let (header, body) = numbers(10_000, Some(compression));
        let forged =
            |declared: i64| (header.clone(), patched(&body, &80_000_i64.to_le_bytes(), &declared.to_le_bytes()));
        assert!(checked(&forged(80_000)).is_ok());
        assert!(matches!(checked(&forged(100 << 30)), Err(MessageError::TooLarge { most: DECODED_BYTES_MAX, .. })));
        assert_eq!(refused(&forged(-2)), "a compressed buffer declares a negative length");
    }
}

#[test]
fn an_lz4_frame_that_holds_more_than_it_declares_is_refused() {
    // 32 MiB of zeros are a few blocks of 4 MiB.
    let (header, body) = numbers(4 << 20, Some(CompressionType::LZ4_FRAME));
    assert!(checked(&(header.clone(), body.clone())).is_ok());
    let bomb = patched(&body, &(32_i64 << 20).to_le_bytes(), &8_i64.to_le_bytes());
    assert_eq!(refused(&(header, bomb)), "a compressed buffer holds more than it declares");
}

#[test]
fn noise_and_small_frames_are_not_taken_for_bombs() {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 1) as i64
    };
    for rows in [1, 100, 10_000, 1_500_000] {
        let noise = Int64Array::from_iter_values((0..rows).map(|row| if row % 3 == 0 { next() } else { 7 }));
        for message in messages(&batch(Arc::new(noise)), Some(CompressionType::LZ4_FRAME)) {
            checked(&message).unwrap_or_else(|error| panic!("{rows} rows: {error}"));
        }
    }
}

#[test]
fn rows_nodes_and_buffers_that_can_not_be_are_refused() {
    let (header, body) = numbers(1_234, None);
    assert_eq!(refused(&(header.clone(), body[..64].to_vec())), "a length leads outside of it");
    let rows = |rows: i64| {
        // The batch's length and its only column's.
        let mut header = header.clone();
        while let Some(at) = header.windows(8).position(|bytes| bytes == 1_234_i64.to_le_bytes()) {
            header[at..at + 8].copy_from_slice(&rows.to_le_bytes());
        }
        checked(&(header, body.clone()))
    };
    assert_eq!(rows(-1), Err(MessageError::Malformed("a batch declares negative rows")));
    assert!(matches!(rows(1 << 40), Err(MessageError::TooManyRows { most: ROWS_MAX, .. })));
    assert_eq!(refused(&(b"not a flatbuffer".to_vec(), Vec::new())), "a message's metadata is invalid");
}

#[test]
fn a_column_with_more_nulls_than_values_is_refused() {
    let column = BooleanArray::from((0..99).map(|row| (row < 22).then_some(true)).collect::<Vec<_>>());
    let (header, body) = messages(&batch(Arc::new(column)), None).swap_remove(1);
    let forged = patched(&header, &77_i64.to_le_bytes(), &100_i64.to_le_bytes());
    assert_eq!(refused(&(forged, body)), "a column declares more nulls than values");
}

#[test]
fn the_dictionaries_of_a_stream_share_a_budget_and_replaced_ones_leave_it() {
    let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let (header, body) = messages(&batch(Arc::new(words)), None).swap_remove(1);
    let mut stream = Messages::default();
    for _ in 0..4 {
        assert!(matches!(stream.check(&header, &body), Ok(Checked::Dictionary { .. })));
    }
    let held: u64 = stream.dictionaries.values().sum();
    assert_eq!(stream.dictionaries.len(), 1);
    // As if a dictionary of another id had come.
    stream.dictionaries.insert(i64::MAX, DICTIONARIES_BYTES_MAX - held);
    assert!(stream.check(&header, &body).is_ok());
    stream.dictionaries.insert(i64::MAX, DICTIONARIES_BYTES_MAX - held + 1);
    assert!(matches!(stream.check(&header, &body), Err(MessageError::TooLarge { .. })));
}
