//! Finds frames among bytes, however damaged.
//!
//! At each position either a whole frame starts, or damage does. Damage lasts until the next whole frame: the reader
//! looks for the magic from byte to byte, and trusts it only with both checksums. A length is trusted only once the
//! checksum behind it matched, so a cut in one frame does not swallow the next.
//!
//! ```text
//! [frame][frame][fra~~e][garbage][frame][newer frame][fra
//!  Frame  Frame  Damaged........  Frame  Damaged      Damaged
//! ```
//!
//! Hostile bytes could name a million overlapping frames of 1 MB. So each byte is summed once, into checksums of
//! prefixes at a fixed stride; the checksum of any range is the difference of two prefixes, and time stays linear.

use bytes::Bytes;
use prost::Message;

use super::layout::{CHECKSUM_BYTES, MAGIC, PRELUDE_BYTES, Prelude};
use super::{Damage, FORMAT_VERSION, FRAME_BYTES_MAX, Frame, HEADER_BYTES_MAX};
use crate::FrameHeader;

/// A stretch of what was read. Items follow each other without gap or overlap.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A whole frame.
    Frame {
        /// Where it starts, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
        /// The frame; its payload was not looked at beyond its checksum.
        frame: Frame,
    },
    /// Bytes that are no readable frame, up to the next whole frame.
    Damaged {
        /// Where they start, in bytes.
        offset: usize,
        /// How many they are.
        len: usize,
        /// What is wrong at their start.
        reason: Damage,
    },
}

/// Iterates over the frames in some bytes, and over the damage between them.
///
/// A frame that is whole but cannot be used (of a newer format version, say) is an item of its own. Never panics,
/// takes linear time, and allocates 1/1024 of what it reads.
#[derive(Debug)]
pub struct FrameReader {
    checksums: Checksums,
    at: usize,
    /// What was found behind the damage that was given out last.
    found: Option<Whole>,
}

impl FrameReader {
    /// A reader of `data`, from its start.
    pub fn new(data: Bytes) -> Self {
        Self { checksums: Checksums::new(data), at: 0, found: None }
    }

    /// The length of the longest prefix of `data` that is whole frames, readable by this version or not.
    ///
    /// A journal's torn tail begins here, unless good frames follow (then it is no torn tail, but damage within).
    pub fn intact_len(data: &Bytes) -> usize {
        let mut reader = Self::new(data.clone());
        let mut at = 0;
        while let Ok(whole) = reader.whole_at(at) {
            at += whole.len;
        }
        at
    }

    fn data(&self) -> &Bytes {
        &self.checksums.data
    }

    /// The whole frame that starts at `at`, readable or not.
    fn whole_at(&mut self, at: usize) -> Result<Whole, Damage> {
        let rest = self.data().get(at..).unwrap_or_default();
        let prelude = Prelude::parse(rest)?;
        let missing = prelude.frame_len().saturating_sub(rest.len() as u64);
        if missing > 0 {
            return Err(Damage::Truncated { missing });
        }
        let len = prelude.frame_len() as usize;
        if !self.body_matches(at, len) {
            return Err(Damage::Body);
        }
        Ok(Whole { len, content: self.content(at, prelude) })
    }

    /// Whether the closing checksum of the frame at `at` matches; all of the frame's `len` bytes are there.
    fn body_matches(&mut self, at: usize, len: usize) -> bool {
        let end = at + len - CHECKSUM_BYTES;
        let Some(declared) = self.data().get(end..).and_then(|rest| rest.first_chunk::<CHECKSUM_BYTES>()) else {
            return false;
        };
        let declared = u32::from_le_bytes(*declared);
        self.checksums.of_range(at + PRELUDE_BYTES, end) == declared
    }

    fn content(&self, at: usize, prelude: Prelude) -> Result<Frame, Damage> {
        match prelude.version {
            FORMAT_VERSION => {}
            version if version > FORMAT_VERSION => return Err(Damage::NewerVersion { version }),
            version => return Err(Damage::NoSuchVersion { version }),
        }
        if prelude.flags != 0 {
            return Err(Damage::Flags { flags: prelude.flags });
        }
        let (frame_bytes, header_bytes) = (prelude.frame_len(), prelude.header_len);
        if frame_bytes > FRAME_BYTES_MAX as u64 || header_bytes as usize > HEADER_BYTES_MAX {
            return Err(Damage::TooLong { frame_bytes, header_bytes });
        }
        let header_at = at + PRELUDE_BYTES;
        let payload_at = header_at + header_bytes as usize;
        let end = payload_at + prelude.payload_len as usize;
        let header = FrameHeader::decode(self.data().slice(header_at..payload_at)).map_err(Damage::Header)?;
        Ok(Frame { header, payload: self.data().slice(payload_at..end) })
    }

    /// Where the next whole frame behind `self.at` starts, which is put by, or where the bytes end.
    fn find_next(&mut self) -> usize {
        let mut at = self.at + 1;
        loop {
            let rest = self.data().get(at..).unwrap_or_default();
            let Some(distance) = rest.windows(MAGIC.len()).position(|window| window == MAGIC) else {
                return self.data().len();
            };
            at += distance;
            if let Ok(whole) = self.whole_at(at) {
                self.found = Some(whole);
                return at;
            }
            at += 1;
        }
    }
}

impl Iterator for FrameReader {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let offset = self.at;
        if offset >= self.data().len() {
            return None;
        }
        let whole = match self.found.take() {
            Some(whole) => Ok(whole),
            None => self.whole_at(offset),
        };
        let item = match whole {
            Ok(Whole { len, content: Ok(frame) }) => Item::Frame { offset, len, frame },
            Ok(Whole { len, content: Err(reason) }) => Item::Damaged { offset, len, reason },
            Err(reason) => Item::Damaged { offset, len: self.find_next() - offset, reason },
        };
        self.at += match &item {
            Item::Frame { len, .. } | Item::Damaged { len, .. } => *len,
        };
        Some(item)
    }
}

impl std::iter::FusedIterator for FrameReader {}

/// A frame with matching checksums.
#[derive(Debug)]
struct Whole {
    len: usize,
    content: Result<Frame, Damage>,
}

/// Checksums of any range of some bytes; each byte is summed once.
#[derive(Debug)]
struct Checksums {
    data: Bytes,
    /// The checksum of `data[..i * STRIDE]` at position `i`, as far as it was asked for.
    prefixes: Vec<u32>,
}

impl Checksums {
    /// Bytes between two prefixes: what a range costs at most at each end.
    const STRIDE: usize = 4 * 1_024;

    fn new(data: Bytes) -> Self {
        Self { data, prefixes: vec![0] }
    }

    fn of_range(&mut self, from: usize, to: usize) -> u32 {
        // The checksum of a prefix, shifted by the zero bytes that stand for the range, cancels out of the longer one.
        crc32c::crc32c_combine(self.of_prefix(from), 0, to - from) ^ self.of_prefix(to)
    }

    fn of_prefix(&mut self, to: usize) -> u32 {
        let full = to / Self::STRIDE;
        let mut last = self.prefixes.last().copied().unwrap_or_default();
        while self.prefixes.len() <= full {
            let at = (self.prefixes.len() - 1) * Self::STRIDE;
            last = crc32c::crc32c_append(last, self.data.get(at..at + Self::STRIDE).unwrap_or_default());
            self.prefixes.push(last);
        }
        let prefix = self.prefixes.get(full).copied().unwrap_or_default();
        crc32c::crc32c_append(prefix, self.data.get(full * Self::STRIDE..to).unwrap_or_default())
    }
}
