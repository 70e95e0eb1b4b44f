//! Bronze objects as frames, and what in them is none.

use std::io::Read as _;
use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use deltalake::Path;
use deltalake::logstore::object_store::{self, ObjectStore, ObjectStoreExt};
use flate2::read::MultiGzDecoder;
use lakehouse::definition::Table;
use lakehouse::{Context, Kind, Result};
use proto::frame::{Frame, FrameReader, Item};

use crate::ndjson::{self, Piece};

/// A bronze object to be merged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BronzeObject {
    /// Its key, relative to the lake's root, decoded.
    pub key: String,
    /// When it was delivered, in microseconds since the epoch.
    pub delivered_at_us: i64,
}

/// A frame, and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundFrame {
    pub(crate) frame: Frame,
    /// Where it starts in its object.
    pub(crate) offset: u64,
    /// Bytes that it has in bronze.
    pub(crate) bytes: u64,
    pub(crate) object: String,
    pub(crate) delivered_at_us: i64,
    /// Lines of its text that can't be part of it.
    pub(crate) damaged: Vec<Damaged>,
    /// What its rows were before, if they come out of quarantine.
    pub(crate) origin: Option<Arc<Origin>>,
}

/// Where the rows of a replay came from: their place in the order of arrival, and in quarantine if they are bad again.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) ingest_id: String,
    pub(crate) frame: u64,
    /// The number of each row in its frame.
    pub(crate) rows: Vec<u64>,
}

impl FoundFrame {
    /// The ingest and the frame that its rows came in first.
    pub(crate) fn first(&self) -> (&str, u64) {
        match &self.origin {
            Some(origin) => (&origin.ingest_id, origin.frame),
            None => (&self.frame.header.ingest_id, self.frame.header.frame),
        }
    }
}

/// Bytes or a frame that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub(crate) object: String,
    pub(crate) offset: u64,
    /// When the object was delivered.
    pub(crate) delivered_at_us: i64,
    pub(crate) reason: String,
    /// The rule by which it is in quarantine: `damaged`, or `json`.
    pub(crate) rule: &'static str,
    /// The line, from 1, of text.
    pub(crate) line: Option<u64>,
    /// What stands there, of text, cut to a length that a table holds.
    pub(crate) raw: Option<String>,
}

impl Damaged {
    /// Bytes or a frame that can't be read.
    pub(crate) fn frame(object: &str, delivered_at_us: i64, offset: u64, reason: String) -> Self {
        let object = object.to_owned();
        Self { object, offset, delivered_at_us, reason, rule: DAMAGED_RULE, line: None, raw: None }
    }
}

/// The rule by which a frame or a stretch of bytes is in quarantine, and not a row.
pub(crate) const DAMAGED_RULE: &str = "damaged";

/// What a bronze object holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) frames: Vec<FoundFrame>,
    pub(crate) damaged: Vec<Damaged>,
    /// Bytes that were read.
    pub(crate) bytes: u64,
    /// Keys of objects that are not there (any more).
    pub(crate) gone: Vec<String>,
}

impl Contents {
    /// The same in parts, in order: each has one frame, or several that take at most `bytes_max` when decoded.
    /// Damage is in the first.
    pub(crate) fn parts(self, bytes_max: u64) -> Vec<Self> {
        let mut parts = vec![Self { damaged: self.damaged, ..Self::default() }];
        let mut bytes = 0_u64;
        for found in self.frames {
            // What can't be decoded takes no room.
            let its = found.frame.decoded_bytes().unwrap_or(0);
            bytes = bytes.saturating_add(its);
            match parts.last_mut() {
                Some(part) if bytes <= bytes_max || part.frames.is_empty() => part.frames.push(found),
                _ => {
                    bytes = its;
                    parts.push(Self { frames: vec![found], ..Self::default() });
                }
            }
        }
        parts
    }
}

/// The path of an object. Its key is what it is: letters that a path of its own would have to hide are not hidden again.
pub(crate) fn path_of(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

/// Reads an object; gives its bytes, and when it was written. One that does not exist (any more) is `None`: it was
/// expired, and can't be merged.
pub(crate) async fn read(store: &dyn ObjectStore, object: &BronzeObject) -> Result<Option<(Bytes, i64)>> {
    let unreadable = || format!("can't read bronze object {}", object.key);
    match store.get(&path_of(&object.key)).await {
        Ok(found) => {
            let written_at_us = found.meta.last_modified.timestamp_micros();
            let bytes = found.bytes().await.context(Kind::Unavailable, unreadable)?;
            Ok(Some((bytes, written_at_us)))
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).context(Kind::Unavailable, unreadable),
    }
}

/// The frames of an object that Firehose has packed, and why what follows them can't be unpacked, if that is so; `None`
/// if it is none of these.
pub(crate) fn unpacked(bytes: &Bytes) -> Option<(Bytes, Option<String>)> {
    let mut decoder = MultiGzDecoder::new(bytes.as_ref());
    let mut unpacked = vec![0; ndjson::FRAME_MAGIC.len()];
    decoder.read_exact(&mut unpacked).ok()?;
    if unpacked != ndjson::FRAME_MAGIC {
        return None;
    }
    let most = ndjson::TEXT_BYTES_MAX;
    let torn = match decoder.take(most).read_to_end(&mut unpacked) {
        Err(error) => Some(format!("what follows can't be unpacked: {error}")),
        Ok(read) if read as u64 == most => {
            Some(format!("it has more than {most} bytes unpacked; write smaller objects"))
        }
        Ok(_) => None,
    };
    Some((Bytes::from(unpacked), torn))
}

/// Takes an object of frames apart. A frame of another table than `table` is damage: it can't be used here.
pub(crate) fn take_apart(table: &str, object: &BronzeObject, bytes: Bytes, contents: &mut Contents) {
    for item in FrameReader::new(bytes) {
        let (offset, reason) = match item {
            Item::Frame { offset, len, frame } if frame.header.table == table => {
                contents.frames.push(FoundFrame {
                    frame,
                    offset: offset as u64,
                    bytes: len as u64,
                    object: object.key.clone(),
                    delivered_at_us: object.delivered_at_us,
                    damaged: Vec::new(),
                    origin: None,
                });
                continue;
            }
            Item::Frame { offset, frame, .. } => {
                (offset, format!("the frame is for table {:?}, and lies in bronze of {table:?}", frame.header.table))
            }
            Item::Damaged { offset, len, reason } => (offset, format!("{len} bytes: {reason}")),
        };
        contents.damaged.push(Damaged::frame(&object.key, object.delivered_at_us, offset as u64, reason));
    }
}

/// Takes an object of text apart, for a table that stores the columns `stored`. It was received when it was written: an
/// event that tells of it may come twice, with two times. Blocks.
///
/// # Errors
/// `Internal` if the table has a column of a type that none can have.
pub(crate) fn read_text(
    table: &Table,
    stored: Option<&Schema>,
    object: &BronzeObject,
    bytes: Bytes,
    written_at_us: i64,
) -> Result<Contents> {
    let written = BronzeObject { delivered_at_us: written_at_us, ..object.clone() };
    let mut contents = Contents::default();
    for piece in ndjson::read(table, stored, &written, bytes, ndjson::TEXT_BYTES_MAX)? {
        let Piece { frame, damaged } = piece?;
        match frame {
            Some(frame) => contents.frames.push(FoundFrame { damaged, ..frame }),
            None => contents.damaged.extend(damaged),
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn packed_frames_are_unpacked_and_what_is_torn_is_told() {
        let mut text = ndjson::FRAME_MAGIC.to_vec();
        text.extend((0..100_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&text).unwrap();
        let packed = Bytes::from(encoder.finish().unwrap());
        assert_eq!(unpacked(&packed), Some((Bytes::from(text.clone()), None)));
        let (found, torn) = unpacked(&packed.slice(..packed.len() / 2)).unwrap();
        assert!(text.starts_with(&found) && found.len() > 4, "what could be read is kept");
        assert!(torn.unwrap().contains("can't be unpacked"));
        assert_eq!(unpacked(&Bytes::from_static(b"{}")), None);
    }
}
