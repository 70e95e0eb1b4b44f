//! What can be wrong with a frame: with its rows ([`FrameError`]), or with the bytes it is looked for in ([`Damage`]).

use arrow::error::ArrowError;

use super::{FORMAT_VERSION, FRAME_BYTES_MAX, FRAME_DECODED_BYTES_MAX, FRAME_ROWS_MAX, HEADER_BYTES_MAX};

/// Why rows do not become a frame, or a frame does not become rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The encoded frame is larger than [`FRAME_BYTES_MAX`].
    #[error("the frame takes {bytes} bytes of at most {FRAME_BYTES_MAX}; put fewer rows in it")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The encoded header is larger than [`HEADER_BYTES_MAX`].
    #[error(
        "the frame's header takes {bytes} bytes of at most {HEADER_BYTES_MAX}; shorten the table name or ingest id"
    )]
    HeaderTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The frame has more than [`FRAME_ROWS_MAX`] rows.
    #[error("the frame declares {rows} rows of at most {FRAME_ROWS_MAX}; put fewer rows in it")]
    TooManyRows {
        /// Its rows, as far as they were counted.
        rows: u64,
    },
    /// The frame would take more than [`FRAME_DECODED_BYTES_MAX`] of memory.
    #[error("the frame decodes to {bytes} bytes or more, of at most {FRAME_DECODED_BYTES_MAX}; put fewer rows in it")]
    DecodedTooLarge {
        /// Its size, as far as it was counted.
        bytes: u64,
    },
    /// A batch has another schema than its frame.
    #[error("batch {batch} differs from the frame's schema in a name, a type or nullability; cast it first")]
    Schema {
        /// The batch's position.
        batch: usize,
    },
    /// Arrow refuses to write the rows.
    #[error("the rows cannot be written as an Arrow IPC stream")]
    Encode(#[source] ArrowError),
    /// The payload is not one whole Arrow IPC stream.
    #[error("the frame's payload is no whole Arrow IPC stream: {0}")]
    Malformed(&'static str),
    /// Arrow refuses to read the payload.
    #[error("the frame's payload is no valid Arrow IPC stream")]
    Decode(#[source] ArrowError),
    /// Arrow's reader or writer panicked.
    #[error("the Arrow IPC library panicked over the frame's payload: {0}")]
    Panic(String),
    /// The payload has another schema than the header says.
    #[error("the frame's header says schema {declared:016x}, its payload has schema {found:016x}")]
    Fingerprint {
        /// What the header says.
        declared: u64,
        /// What the payload has.
        found: u64,
    },
    /// The payload has another number of rows than the header says.
    #[error("the frame's header says {declared} rows, its payload has {found}")]
    Rows {
        /// What the header says.
        declared: u64,
        /// What the payload has.
        found: u64,
    },
}

/// Why bytes are not a frame that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// No frame starts here.
    #[error("no frame starts here")]
    NoFrame,
    /// A frame starts, but its prelude is not what was written.
    #[error("the frame's prelude does not match its checksum")]
    Prelude,
    /// A frame starts, but the bytes end before it does.
    #[error("the frame is cut off: {missing} bytes or more are missing")]
    Truncated {
        /// How many bytes are missing at least.
        missing: u64,
    },
    /// A frame starts, but header and payload are not what was written.
    #[error("the frame's header and payload do not match their checksum")]
    Body,
    /// The frame is whole; a newer version wrote it.
    #[error("frame format {version} is newer than this reader's {FORMAT_VERSION}; upgrade Mallard to read it")]
    NewerVersion {
        /// The frame's format version.
        version: u16,
    },
    /// The frame is whole, but there is no such format version.
    #[error("there is no frame format {version}; this reader's is {FORMAT_VERSION}")]
    NoSuchVersion {
        /// The frame's format version.
        version: u16,
    },
    /// The frame is whole, but its format version has no such flags.
    #[error("the frame has flags {flags:#06x}, which its format {FORMAT_VERSION} does not know")]
    Flags {
        /// The frame's flags.
        flags: u16,
    },
    /// The frame is whole, but larger than frames or headers may be.
    #[error(
        "the frame takes {frame_bytes} bytes of at most {FRAME_BYTES_MAX}, \
         its header {header_bytes} of at most {HEADER_BYTES_MAX}"
    )]
    TooLong {
        /// Bytes of the frame.
        frame_bytes: u64,
        /// Bytes of its header.
        header_bytes: u32,
    },
    /// The frame is whole, but its header is no header.
    #[error("the frame's header cannot be decoded")]
    Header(#[source] prost::DecodeError),
}

impl Damage {
    /// Whether the bytes are exactly one whole frame (as it was written, checksums and all) that this reader cannot
    /// use, as opposed to bytes that were lost or changed.
    pub fn is_whole_frame(&self) -> bool {
        match self {
            Self::NoFrame | Self::Prelude | Self::Truncated { .. } | Self::Body => false,
            Self::NewerVersion { .. }
            | Self::NoSuchVersion { .. }
            | Self::Flags { .. }
            | Self::TooLong { .. }
            | Self::Header(_) => true,
        }
    }
}
