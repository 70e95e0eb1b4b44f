//! The text of an object, a piece at a time: as it lies there, or unpacked.
//!
//! A kilobyte of gzip can hold a gigabyte of blanks. So nothing is unpacked further than it is read, and no text is read
//! beyond a limit.

use std::io::Read as _;

use bytes::buf::Reader;
use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;

use super::GZIP_MAGIC;

/// Why the text ends before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// In bytes of the text.
    pub(super) offset: u64,
    pub(super) reason: String,
}

/// The text of an object.
pub(super) struct Text {
    packing: Packing,
    /// Bytes that were read.
    read: u64,
    bytes_max: u64,
}

enum Packing {
    None(Reader<Bytes>),
    Gzip(Box<MultiGzDecoder<Reader<Bytes>>>),
}

impl Text {
    /// The text that `bytes` are or hold, which may be `bytes_max` long.
    pub(super) fn new(bytes: Bytes, bytes_max: u64) -> Self {
        let packing = if bytes.starts_with(&GZIP_MAGIC) {
            Packing::Gzip(Box::new(MultiGzDecoder::new(bytes.reader())))
        } else {
            Packing::None(bytes.reader())
        };
        Self { packing, read: 0, bytes_max }
    }

    /// Reads on into `buffer`, which has room; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Stop> {
        let left = usize::try_from(self.bytes_max - self.read).unwrap_or(usize::MAX);
        let room = left.min(buffer.len());
        // With no room left, one byte more tells whether this was the end.
        let count = self.read_some(&mut buffer[..room.max(1)])?;
        if count > room {
            let most = self.bytes_max;
            return Err(self.stop(format!("its text is longer than {most} bytes; write smaller objects")));
        }
        self.read += count as u64;
        Ok(count)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Stop> {
        let read = match &mut self.packing {
            Packing::None(bytes) => bytes.read(buffer),
            Packing::Gzip(packed) => packed.read(buffer),
        };
        read.map_err(|error| self.stop(format!("it can't be unpacked any further: {error}")))
    }

    fn stop(&self, reason: String) -> Stop {
        Stop { offset: self.read, reason }
    }
}
