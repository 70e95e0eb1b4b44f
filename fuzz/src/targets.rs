//! What is fuzzed, as functions of bytes that panic when something is wrong. They know no fuzzer: `proto`'s tests run
//! them over the corpus too.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::root_as_message;
use bytes::Bytes;
use prost::Message;
use proto::frame::{FRAME_DECODED_BYTES_MAX, Frame, FrameError, FrameReader, Item};
use proto::message::{Budget, Checked, Messages, check};
use proto::{
    FrameHeader, PollHandle, PreparedHandle, QueryHandle, Receipt, ResultHandle, Session, SessionHandle, TokenHandle,
};

/// What is tried with an input; it panics if something is broken.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const ALL: [(&str, Target); 5] =
    [("frames", frames), ("payload", payload), ("flight", flight), ("schema", schema), ("handles", handles)];

/// A bronze object: frames end to end, or whatever lies there.
///
/// Items follow each other without a gap, and a frame that was read is written as the same bytes again.
pub fn frames(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let mut at = 0;
    for item in FrameReader::new(data.clone()) {
        let (offset, len) = match &item {
            Item::Frame { offset, len, .. } | Item::Damaged { offset, len, .. } => (*offset, *len),
        };
        assert_eq!(offset, at, "items leave a gap");
        assert!(len > 0, "an item is empty");
        at += len;
        if let Item::Frame { frame, .. } = item {
            // Protobuf has several encodings of the same header; the frame is the same in each.
            if let Ok(again) = frame.encode() {
                let read = FrameReader::new(again).next();
                assert!(matches!(read, Some(Item::Frame { frame: same, .. }) if same == frame), "a frame changed");
            }
            drop(frame.decode_batches());
        }
    }
    assert_eq!(at, data.len(), "items end early");
    assert!(FrameReader::intact_len(&data) <= data.len());
}

/// The payload of a frame whose checksums are right, and whose header says what is true.
pub fn payload(data: &[u8]) {
    let mut frame = Frame { header: FrameHeader::default(), payload: Bytes::copy_from_slice(data) };
    // The header has to fit, and only decoding says what it has to be.
    for _ in 0..2 {
        match frame.decode_batches() {
            Err(FrameError::Fingerprint { found, .. }) => frame.header.schema_fingerprint = found,
            Err(FrameError::Rows { found, .. }) => frame.header.rows = found,
            _ => break,
        }
    }
    let Ok((_, batches)) = frame.decode_batches() else { return };
    for batch in &batches {
        check_batch(batch);
    }
}

/// The messages of a DoPut, each with two lengths (header, body; four bytes each, little-endian) before it.
pub fn flight(data: &[u8]) {
    let mut messages = Messages::default();
    let mut decoder = Decoder::default();
    let mut rest = data;
    while let Some((lengths, tail)) = rest.split_first_chunk::<8>() {
        let [h0, h1, h2, h3, b0, b1, b2, b3] = *lengths;
        let [header_len, body_len] = [[h0, h1, h2, h3], [b0, b1, b2, b3]].map(|len| u32::from_le_bytes(len) as usize);
        let (header, tail) = tail.split_at(header_len.min(tail.len()));
        let (body, tail) = tail.split_at(body_len.min(tail.len()));
        rest = tail;
        let Ok(checked) = messages.check(header, body) else { return };
        if checked == Checked::Schema {
            // Uncaught: what passed does not panic.
            let Ok(schema) = try_schema_from_flatbuffer_bytes(header) else { return };
            decoder.schema = Some(Arc::new(schema));
            continue;
        }
        // Arrow panics over some batches, and the server catches that.
        let decoded = catch_unwind(AssertUnwindSafe(|| decoder.decode(checked, header, body)));
        match decoded {
            Ok(Some(Some(batch))) => check_batch(&batch),
            Ok(Some(None)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// The header of a schema's message: what passes converts without a panic.
pub fn schema(data: &[u8]) {
    if check(data, &[], &mut Budget::new(0, 0)) == Ok(Checked::Schema) {
        let schema = try_schema_from_flatbuffer_bytes(data).expect("what passed is a schema");
        proto::schema_fingerprint(&schema);
    }
}

/// Messages that clients hold and bronze has: the first byte says which.
pub fn handles(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 9 {
        0 => again::<FrameHeader>(data),
        1 => again::<QueryHandle>(data),
        2 => again::<PreparedHandle>(data),
        3 => again::<SessionHandle>(data),
        4 => again::<ResultHandle>(data),
        5 => again::<PollHandle>(data),
        6 => again::<TokenHandle>(data),
        7 => again::<Receipt>(data),
        _ => again::<Session>(data),
    }
}

/// What decodes is encoded as something that decodes to the same.
fn again<M: Message + Default + PartialEq>(data: &[u8]) {
    let Ok(message) = M::decode(data) else { return };
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    assert!(M::decode(bytes.as_slice()).is_ok_and(|same| same == message), "a message changed");
}

/// A batch that was decoded is within what was declared of it, and each of its columns is whole.
fn check_batch(batch: &RecordBatch) {
    for column in batch.columns() {
        assert_eq!(column.len(), batch.num_rows());
        assert!(column.len() <= FRAME_DECODED_BYTES_MAX);
        column.to_data().validate_full().expect("a column is not valid");
    }
}

/// Decodes the messages of a stream as the Flight crate does.
#[derive(Default)]
struct Decoder {
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
}

impl Decoder {
    /// A batch, if the message is one; nothing at all, if it can't be decoded.
    fn decode(&mut self, checked: Checked, header: &[u8], body: &[u8]) -> Option<Option<RecordBatch>> {
        let schema = self.schema.clone()?;
        let message = root_as_message(header).ok()?;
        let body = Buffer::from(body);
        if let Checked::Dictionary { .. } = checked {
            let dictionary = message.header_as_dictionary_batch()?;
            read_dictionary(&body, dictionary, &schema, &mut self.dictionaries, &message.version()).ok()?;
            return Some(None);
        }
        let batch = message.header_as_record_batch()?;
        read_record_batch(&body, batch, schema, &self.dictionaries, None, &message.version()).ok().map(Some)
    }
}
