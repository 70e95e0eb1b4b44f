//! Looks at an Arrow IPC message before Arrow decodes it.
//!
//! Arrow's decoder trusts the sender: it allocates what a message declares (a few bytes can claim to be 100 GiB), it
//! panics over types that do not exist (arrow-rs issue 10437), and it copies a name as often as it is pointed at. So
//! every message from outside, of a client or from bronze, is looked through first:
//!
//! ```text
//!  header (flatbuffer) ─► verified ─┬─ schema: types that exist, limits on fields, nesting and text
//!                                   ├─ batch: rows, lengths, buffers within the body, bytes when decompressed
//!  body ────────────────────────────┴─ dictionary: the same; no deltas
//! ```
//!
//! What passes can be decoded within the budget, in an error or in rows. Arrow can still panic over the values of a
//! batch, so whoever decodes catches that; over a schema that passed it does not.

mod lz4;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use arrow::ipc::{self, CompressionType, MessageHeader};

pub use schema::{FIELDS_MAX, NESTING_MAX, TEXT_BYTES_MAX};

/// Most bytes of a message's header: room for thousands of columns, each with its metadata.
pub const HEADER_BYTES_MAX: usize = 8 << 20;

/// Most bytes that the buffers of one message may take when decompressed.
pub const DECODED_BYTES_MAX: u64 = 256 << 20;

/// Most bytes that the dictionaries of a stream may take when decompressed, all together: they stay until it ends.
pub const DICTIONARIES_BYTES_MAX: u64 = 32 << 20;

/// Most rows of one message. Rows of columns without buffers cost no bytes, so bytes alone do not bound them: one row
/// per 16 decoded bytes at most.
pub const ROWS_MAX: u64 = DECODED_BYTES_MAX / 16;

/// Declared in place of a length where a buffer of a compressed body is not compressed:
/// <https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message>.
const NOT_COMPRESSED: i64 = -1;

/// Why a message must not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is no message that Arrow has.
    #[error("{0}")]
    Malformed(&'static str),
    /// It has more rows than the budget.
    #[error("it declares {rows} rows, of at most {most}")]
    TooManyRows {
        /// The rows, as far as they were counted.
        rows: u64,
        /// The budget.
        most: u64,
    },
    /// It takes more memory than the budget.
    #[error("it holds {bytes} bytes or more when decompressed, of at most {most}")]
    TooLarge {
        /// The bytes, as far as they were counted.
        bytes: u64,
        /// The budget.
        most: u64,
    },
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// A schema.
    Schema,
    /// A batch of rows.
    Batch {
        /// Its rows.
        rows: u64,
        /// What its buffers take when decompressed, in bytes.
        bytes: u64,
    },
    /// The values of a dictionary.
    Dictionary {
        /// The dictionary's id in the schema.
        id: i64,
        /// What its buffers take when decompressed, in bytes.
        bytes: u64,
    },
}

/// What messages may take together, and what they took so far.
#[derive(Clone, Debug)]
pub struct Budget {
    rows: u64,
    rows_max: u64,
    bytes: u64,
    bytes_max: u64,
}

impl Budget {
    /// A budget of `rows_max` rows, and `bytes_max` bytes of decompressed buffers.
    pub fn new(rows_max: u64, bytes_max: u64) -> Self {
        Self { rows: 0, rows_max, bytes: 0, bytes_max }
    }

    /// The bytes that were taken so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn take_rows(&mut self, rows: u64) -> Result<(), MessageError> {
        self.rows = self.rows.saturating_add(rows);
        if self.rows > self.rows_max {
            return Err(MessageError::TooManyRows { rows: self.rows, most: self.rows_max });
        }
        Ok(())
    }

    fn take_bytes(&mut self, bytes: u64) -> Result<(), MessageError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max { Err(self.too_large(self.bytes)) } else { Ok(()) }
    }

    fn too_large(&self, bytes: u64) -> MessageError {
        MessageError::TooLarge { bytes, most: self.bytes_max }
    }
}

/// Looks through the messages of one stream, in their order.
///
/// Each has a budget of its own, but for dictionaries: a decoder holds the newest of each id until the stream ends.
#[derive(Debug, Default)]
pub struct Messages {
    dictionaries: BTreeMap<i64, u64>,
}

impl Messages {
    /// Looks through the next message: its `header`, a flatbuffer, and its `body`.
    ///
    /// # Errors
    /// [`MessageError`], if it must not be decoded.
    pub fn check(&mut self, header: &[u8], body: &[u8]) -> Result<Checked, MessageError> {
        let mut budget = Budget::new(ROWS_MAX, DECODED_BYTES_MAX);
        let checked = check(header, body, &mut budget)?;
        if let Checked::Dictionary { id, bytes } = checked {
            self.dictionaries.insert(id, bytes);
            let held = self.dictionaries.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
            if held > DICTIONARIES_BYTES_MAX {
                return Err(MessageError::TooLarge { bytes: held, most: DICTIONARIES_BYTES_MAX });
            }
        }
        Ok(checked)
    }
}

/// Looks through one message, and takes what it needs from `budget`.
///
/// # Errors
/// [`MessageError`], if it must not be decoded.
pub fn check(header: &[u8], body: &[u8], budget: &mut Budget) -> Result<Checked, MessageError> {
    charge(parse(header)?, body, budget)
}

/// The message whose header is `header`.
pub(crate) fn parse(header: &[u8]) -> Result<ipc::Message<'_>, MessageError> {
    if header.len() > HEADER_BYTES_MAX {
        return Err(MessageError::Malformed("a message's metadata is too long"));
    }
    ipc::root_as_message(header).map_err(|_| MessageError::Malformed("a message's metadata is invalid"))
}

/// Looks through a message, and takes what it needs from `budget`.
pub(crate) fn charge(message: ipc::Message<'_>, body: &[u8], budget: &mut Budget) -> Result<Checked, MessageError> {
    match message.header_type() {
        MessageHeader::Schema => {
            let schema = message.header_as_schema().ok_or(MessageError::Malformed("a schema is missing"))?;
            schema::check(schema)?;
            Ok(Checked::Schema)
        }
        MessageHeader::RecordBatch => {
            let batch = message.header_as_record_batch().ok_or(MessageError::Malformed("a batch is missing"))?;
            let rows =
                u64::try_from(batch.length()).map_err(|_| MessageError::Malformed("a batch declares negative rows"))?;
            budget.take_rows(rows)?;
            Ok(Checked::Batch { rows, bytes: charge_buffers(batch, body, budget)? })
        }
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch();
            let dictionary = dictionary.ok_or(MessageError::Malformed("a dictionary is missing"))?;
            // Each would copy what came before it.
            if dictionary.isDelta() {
                return Err(MessageError::Malformed("it has delta dictionaries"));
            }
            let batch = dictionary.data().ok_or(MessageError::Malformed("a dictionary has no values"))?;
            Ok(Checked::Dictionary { id: dictionary.id(), bytes: charge_buffers(batch, body, budget)? })
        }
        _ => Err(MessageError::Malformed("it has a message that is no schema, dictionary or batch")),
    }
}

/// What the buffers of a batch take. Each counts as often as it is named, since a decoder may copy it each time.
fn charge_buffers(batch: ipc::RecordBatch<'_>, body: &[u8], budget: &mut Budget) -> Result<u64, MessageError> {
    for node in batch.nodes().into_iter().flatten() {
        // Values without bytes (nulls, runs) are bounded as if each had one.
        if !u64::try_from(node.length()).is_ok_and(|length| length <= budget.bytes_max) {
            return Err(budget.too_large(node.length().unsigned_abs()));
        }
        if !(0..=node.length()).contains(&node.null_count()) {
            return Err(MessageError::Malformed("a column declares more nulls than values"));
        }
    }
    let named = batch.buffers().map_or(0, |buffers| buffers.len());
    let mut data_buffers = 0_usize;
    for count in batch.variadicBufferCounts().into_iter().flatten() {
        data_buffers = data_buffers.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
    }
    if data_buffers > named {
        return Err(MessageError::Malformed("a column of views declares buffers that are not there"));
    }
    let before = budget.bytes;
    let codec = batch.compression().map(|compression| compression.codec());
    for buffer in batch.buffers().into_iter().flatten() {
        let bytes = range(body, buffer.offset(), buffer.length())?;
        budget.take_bytes(match codec {
            Some(codec) => decompressed_len(bytes, codec)?,
            None => bytes.len() as u64,
        })?;
    }
    Ok(budget.bytes - before)
}

/// `length` bytes of `body` from `offset` on.
fn range(body: &[u8], offset: i64, length: i64) -> Result<&[u8], MessageError> {
    let [offset, length] = [offset, length].map(|value| usize::try_from(value).ok());
    let bytes = offset.and_then(|offset| body.get(offset..)?.get(..length?));
    bytes.ok_or(MessageError::Malformed("a length leads outside of it"))
}

/// What a buffer of a compressed body says it decompresses to.
fn decompressed_len(bytes: &[u8], codec: CompressionType) -> Result<u64, MessageError> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let Some((declared, data)) = bytes.split_first_chunk() else {
        return Err(MessageError::Malformed("a compressed buffer is too short"));
    };
    let declared = match i64::from_le_bytes(*declared) {
        NOT_COMPRESSED => return Ok(data.len() as u64),
        declared => u64::try_from(declared)
            .map_err(|_| MessageError::Malformed("a compressed buffer declares a negative length"))?,
    };
    // Zstandard's decoder is given the declared length and keeps to it; LZ4's goes on to the end.
    if declared > 0 && codec == CompressionType::LZ4_FRAME && lz4::least_len(data) > declared {
        return Err(MessageError::Malformed("a compressed buffer holds more than it declares"));
    }
    Ok(declared)
}
