//! Frames: self-contained messages of rows, laid end to end in bronze.
//!
//! Firehose concatenates records without a delimiter, and bronze is kept for years. So a frame says where it ends,
//! proves that it is whole, and carries all that is needed to read it: its header and an Arrow IPC stream with schema,
//! dictionaries and batches. A reader that meets damage finds the next good frame behind it ([`FrameReader`]).
//!
//! All numbers are little-endian; checksums are CRC-32C.
//!
//! ```text
//! offset  bytes  what
//! ------  -----  ----------------------------------------------------------------
//!      0      4  magic F7 4D 9B E3 (F7 occurs in no UTF-8 text)        ┐
//!      4      2  format version, now 1                                 │
//!      6      2  flags, 0 in version 1                                 │ prelude
//!      8      4  header length h                                       │
//!     12      4  payload length p                                      │
//!     16      4  checksum of bytes 0..16                               ┘
//!     20      h  header: FrameHeader, protobuf
//!   20+h      p  payload: an Arrow IPC stream, bodies compressed or not
//! 20+h+p      4  checksum of header and payload
//! ```
//!
//! The prelude, and that a checksum closes the frame, hold in every version: so a reader steps over a frame that is
//! newer than itself, and says so.
//!
//! Checksums find accidents, not forgery. Where bytes are damaged, a frame inside another's payload (a blob that
//! someone ingested) can come to light: whoever reads frames compares [`FrameHeader::table`] with the table that the
//! object belongs to.

mod compact;
mod error;
mod ipc;
mod layout;
mod preflight;
mod reader;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{FrameHeader, schema_fingerprint};

pub use error::{Damage, FrameError};
pub use layout::FORMAT_VERSION;
pub use reader::{FrameReader, Item};

/// Most bytes of a whole frame: a frame fits one Firehose record.
/// <https://docs.aws.amazon.com/firehose/latest/dev/limits.html> (1,000 KiB before base64 encoding)
pub const FRAME_BYTES_MAX: usize = 1_000 * 1_024;

/// Most bytes of a frame's header: two names of the longest kind fit many times over.
pub const HEADER_BYTES_MAX: usize = 4 * 1_024;

/// Most bytes that a frame's buffers may decompress to, all batches together: 256 times a frame's own size, far more
/// than real rows compress by, and a fraction of the smallest Lambda that reads frames.
pub const FRAME_DECODED_BYTES_MAX: usize = 256 * 1_024 * 1_024;

/// Most rows of a frame. Rows of columns without buffers (Arrow's `Null`) cost no bytes, so bytes alone do not bound
/// them: one row per 16 decoded bytes at most.
pub const FRAME_ROWS_MAX: u64 = FRAME_DECODED_BYTES_MAX as u64 / 16;

/// Most frames of one numbered batch of a stream: the frames of batch `n` are numbered from `n` times this on.
pub const FRAMES_PER_BATCH_MAX: u64 = 1 << 16;

/// How the buffers of a payload are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard, at Arrow's default level (3).
    Zstd,
}

/// Where the rows of a frame come from: the part of its header that the rows themselves do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameOrigin {
    /// Name of the table that the rows are for.
    pub table: String,
    /// The ingest that brought them.
    pub ingest_id: String,
    /// Number of the frame within its ingest, from 0.
    pub frame: u64,
    /// When they were received, in microseconds since the Unix epoch, UTC.
    pub received_at_us: i64,
}

impl FrameHeader {
    /// The number of the frame that follows within the ingest.
    pub fn following(&self) -> u64 {
        self.next_frame.max(self.frame.saturating_add(1))
    }
}

/// A header and its payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// What the frame says of its payload.
    pub header: FrameHeader,
    /// An Arrow IPC stream. A frame from a [`FrameReader`] shares (and keeps alive) the bytes that were read.
    pub payload: Bytes,
}

impl Frame {
    /// A frame of `batches`, all of which have the names, types and nullability of `schema`.
    ///
    /// Batches without rows are left out. Dictionaries stay dictionaries. What a slice of a larger batch does not refer to (values of a dictionary, bytes
    /// behind views) is left out, so that halving the rows about halves the frame; in columns nested in others it is
    /// not.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], [`FrameError::TooManyRows`] and [`FrameError::DecodedTooLarge`] when fewer rows would
    /// do; [`FrameError::HeaderTooLarge`], [`FrameError::Schema`] and [`FrameError::Encode`] otherwise.
    pub fn from_batches(
        origin: FrameOrigin,
        schema: &Schema,
        batches: &[RecordBatch],
        compression: Compression,
    ) -> Result<Self, FrameError> {
        let payload = ipc::encode(schema, batches, compression)?;
        let FrameOrigin { table, ingest_id, frame, received_at_us } = origin;
        let header = FrameHeader {
            table,
            ingest_id,
            frame,
            schema_fingerprint: schema_fingerprint(schema),
            received_at_us,
            rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            next_frame: 0,
            is_last: false,
        };
        let frame = Self { header, payload };
        frame.check_size()?;
        // What is written can be read.
        preflight::check(&frame.payload)?;
        Ok(frame)
    }

    /// Bytes that [`encode`](Self::encode) makes of this frame.
    pub fn encoded_len(&self) -> usize {
        layout::PRELUDE_BYTES + self.header.encoded_len() + self.payload.len() + layout::CHECKSUM_BYTES
    }

    /// Bytes that the buffers of its rows take when decompressed.
    ///
    /// # Errors
    /// As [`decode_batches`](Self::decode_batches), so far as that is seen without decoding.
    pub fn decoded_bytes(&self) -> Result<u64, FrameError> {
        preflight::check(&self.payload)
    }

    /// The frame as it lies in bronze.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] and [`FrameError::HeaderTooLarge`], never for an unchanged frame of
    /// [`from_batches`](Self::from_batches) or a [`FrameReader`].
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        let header_len = self.check_size()?;
        let mut out = BytesMut::with_capacity(self.encoded_len());
        out.put_slice(&layout::Prelude::of(header_len, self.payload.len()).encode());
        out.put_slice(&self.header.encode_to_vec());
        out.put_slice(&self.payload);
        let checksum = crc32c::crc32c(out.get(layout::PRELUDE_BYTES..).unwrap_or_default());
        out.put_u32_le(checksum);
        Ok(out.freeze())
    }

    /// The payload's schema and rows, fully validated.
    ///
    /// Does not trust the payload: it allocates within [`FRAME_DECODED_BYTES_MAX`], and a panic of Arrow's decoder
    /// comes back as [`FrameError::Panic`] (the process's panic hook still reports it).
    ///
    /// # Errors
    /// When the payload is not a whole and valid Arrow IPC stream within the limits, or is not what the header says.
    pub fn decode_batches(&self) -> Result<(SchemaRef, Vec<RecordBatch>), FrameError> {
        preflight::check(&self.payload)?;
        let (schema, batches) = ipc::decode(&self.payload)?;
        let found = schema_fingerprint(&schema);
        if found != self.header.schema_fingerprint {
            return Err(FrameError::Fingerprint { declared: self.header.schema_fingerprint, found });
        }
        let found = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if found != self.header.rows {
            return Err(FrameError::Rows { declared: self.header.rows, found });
        }
        Ok((schema, batches))
    }

    /// The header's length, if header and frame are within their limits.
    fn check_size(&self) -> Result<usize, FrameError> {
        let header_len = self.header.encoded_len();
        if header_len > HEADER_BYTES_MAX {
            return Err(FrameError::HeaderTooLarge { bytes: header_len });
        }
        if self.encoded_len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: self.encoded_len() });
        }
        Ok(header_len)
    }
}
