//! Looks through an Arrow IPC stream before Arrow decodes it.
//!
//! Arrow's decoder allocates what the sender declares: a few bytes can claim to be 100 GiB. So the declared sizes are
//! added up first, from the verified message metadata and the eight bytes ahead of each compressed buffer, and nothing
//! is decoded when they exceed the budget. Every buffer counts as often as it is named, since a decoder may copy it
//! each time.

use arrow::ipc::{self, MessageHeader};

use super::{FRAME_DECODED_BYTES_MAX, FRAME_ROWS_MAX, FrameError};

// https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Declared in place of a length where a buffer of a compressed body is not compressed.
const NOT_COMPRESSED: i64 = -1;

/// Refuses a payload that is no whole stream, or declares more than a frame may.
pub(super) fn check(payload: &[u8]) -> Result<(), FrameError> {
    let mut sums = Sums::default();
    let mut rest = payload;
    loop {
        let metadata_len = take_metadata_len(&mut rest)?;
        if metadata_len == 0 {
            return if rest.is_empty() { Ok(()) } else { Err(FrameError::Malformed("bytes follow its end mark")) };
        }
        let metadata = take(&mut rest, i64::from(metadata_len))?;
        let message =
            ipc::root_as_message(metadata).map_err(|_| FrameError::Malformed("a message's metadata is invalid"))?;
        let body = take(&mut rest, message.bodyLength())?;
        match message.header_type() {
            MessageHeader::Schema => {}
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or(FrameError::Malformed("a batch is missing"))?;
                sums.add_rows(batch.length())?;
                sums.add_batch(batch, body)?;
            }
            MessageHeader::DictionaryBatch => {
                let dictionary = message.header_as_dictionary_batch();
                let dictionary = dictionary.ok_or(FrameError::Malformed("a dictionary is missing"))?;
                // Each would copy what came before it; frames are written without.
                if dictionary.isDelta() {
                    return Err(FrameError::Malformed("it has delta dictionaries"));
                }
                let batch = dictionary.data().ok_or(FrameError::Malformed("a dictionary has no values"))?;
                sums.add_batch(batch, body)?;
            }
            _ => return Err(FrameError::Malformed("it has a message that is no schema, dictionary or batch")),
        }
    }
}

/// What the messages declared so far.
#[derive(Default)]
struct Sums {
    rows: u64,
    bytes: u64,
}

impl Sums {
    fn add_rows(&mut self, rows: i64) -> Result<(), FrameError> {
        let rows = u64::try_from(rows).map_err(|_| FrameError::Malformed("a batch declares negative rows"))?;
        self.rows = self.rows.saturating_add(rows);
        if self.rows > FRAME_ROWS_MAX { Err(FrameError::TooManyRows { rows: self.rows }) } else { Ok(()) }
    }

    fn add_batch(&mut self, batch: ipc::RecordBatch<'_>, body: &[u8]) -> Result<(), FrameError> {
        for node in batch.nodes().into_iter().flatten() {
            // Values without bytes (nulls, runs) are bounded as if each had one.
            if !(0..=FRAME_DECODED_BYTES_MAX as i64).contains(&node.length()) {
                return Err(FrameError::DecodedTooLarge { bytes: node.length().unsigned_abs() });
            }
        }
        for buffer in batch.buffers().into_iter().flatten() {
            let mut rest = body;
            take(&mut rest, buffer.offset())?;
            let bytes = take(&mut rest, buffer.length())?;
            let decoded = if batch.compression().is_some() { decompressed_len(bytes)? } else { bytes.len() as u64 };
            self.bytes = self.bytes.saturating_add(decoded);
            if self.bytes > FRAME_DECODED_BYTES_MAX as u64 {
                return Err(FrameError::DecodedTooLarge { bytes: self.bytes });
            }
        }
        Ok(())
    }
}

/// What a buffer of a compressed body says it decompresses to.
fn decompressed_len(bytes: &[u8]) -> Result<u64, FrameError> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let Some((declared, data)) = bytes.split_first_chunk() else {
        return Err(FrameError::Malformed("a compressed buffer is too short"));
    };
    match i64::from_le_bytes(*declared) {
        NOT_COMPRESSED => Ok(data.len() as u64),
        declared => {
            u64::try_from(declared).map_err(|_| FrameError::Malformed("a compressed buffer declares a negative length"))
        }
    }
}

/// The length of the next message's metadata, in bytes; 0 at the stream's end.
fn take_metadata_len(rest: &mut &[u8]) -> Result<i32, FrameError> {
    let ends = FrameError::Malformed("it ends early");
    let Some((continuation, tail)) = rest.split_first_chunk() else { return Err(ends) };
    if *continuation != CONTINUATION {
        return Err(FrameError::Malformed("a message does not start as it must"));
    }
    let Some((len, tail)) = tail.split_first_chunk() else { return Err(ends) };
    *rest = tail;
    Ok(i32::from_le_bytes(*len))
}

/// Splits `len` bytes off the front of `rest`.
fn take<'a>(rest: &mut &'a [u8], len: i64) -> Result<&'a [u8], FrameError> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (taken, tail) = split.ok_or(FrameError::Malformed("a length leads outside of it"))?;
    *rest = tail;
    Ok(taken)
}
