//! Bronze objects as frames, and what in them is none.

use bytes::Bytes;
use deltalake::Path;
use deltalake::logstore::object_store::{self, ObjectStore, ObjectStoreExt};
use lakehouse::{Context, Kind, Result};
use proto::frame::{Frame, FrameReader, Item};

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
}

/// Bytes or a frame that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub(crate) object: String,
    pub(crate) offset: u64,
    pub(crate) reason: String,
}

/// What a bronze object holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) frames: Vec<FoundFrame>,
    pub(crate) damaged: Vec<Damaged>,
}

impl Contents {
    /// The same in parts, in order: each has one frame, or several that take at most `bytes_max` when decoded.
    /// Damage is in the first.
    pub(crate) fn parts(self, bytes_max: u64) -> Vec<Self> {
        let mut parts = vec![Self { frames: Vec::new(), damaged: self.damaged }];
        let mut bytes = 0_u64;
        for found in self.frames {
            // What can't be decoded takes no room.
            let its = found.frame.decoded_bytes().unwrap_or(0);
            bytes = bytes.saturating_add(its);
            match parts.last_mut() {
                Some(part) if bytes <= bytes_max || part.frames.is_empty() => part.frames.push(found),
                _ => {
                    bytes = its;
                    parts.push(Self { frames: vec![found], damaged: Vec::new() });
                }
            }
        }
        parts
    }
}

/// Reads an object. One that does not exist (any more) is `None`: it was expired, and can't be merged.
pub(crate) async fn read(store: &dyn ObjectStore, object: &BronzeObject) -> Result<Option<Bytes>> {
    match store.get(&Path::from(object.key.as_str())).await {
        Ok(found) => found
            .bytes()
            .await
            .map(Some)
            .context(Kind::Unavailable, || format!("can't read bronze object {}", object.key)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).context(Kind::Unavailable, || format!("can't read bronze object {}", object.key)),
    }
}

/// Takes an object's bytes apart. A frame of another table than `table` is damage: it can't be used here.
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
                });
                continue;
            }
            Item::Frame { offset, frame, .. } => {
                (offset, format!("the frame is for table {:?}, and lies in bronze of {table:?}", frame.header.table))
            }
            Item::Damaged { offset, len, reason } => (offset, format!("{len} bytes: {reason}")),
        };
        contents.damaged.push(Damaged { object: object.key.clone(), offset: offset as u64, reason });
    }
}
