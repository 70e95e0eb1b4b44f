//! Deletion vectors: which rows of a data file are no longer part of the table, beside the file instead of in it.
//!
//! delta-rs reads them and never writes any, so the format is written here, by Delta's protocol
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format>): all vectors of a commit lie in
//! one file of the table's folder,
//!
//! ```text
//!  1 byte   version of the format: 1
//!  then each vector:
//!    4 bytes  size of magic and bitmap, big-endian      <- the descriptor's offset
//!    4 bytes  magic number, little-endian
//!    …        a 64-bit Roaring bitmap of row positions, portable
//!    4 bytes  CRC-32 of magic and bitmap, big-endian
//! ```
//!
//! and the log names file, offset, size and number of positions. A file is never changed: a vector that grows is
//! written anew, and the old one goes with vacuum.

use std::sync::Arc;

use bytes::Bytes;
use deltalake::Path;
use deltalake::kernel::{DeletionVectorDescriptor, StorageType};
use deltalake::logstore::object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use flate2::Crc;
use roaring::RoaringTreemap;
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};

/// The one version of the file format.
const FORMAT_VERSION: u8 = 1;

/// Begins a portable bitmap.
const MAGIC: u32 = 1_681_511_377;

/// Bytes of a UUID in Z85, at the end of a descriptor's path.
const ENCODED_UUID_LEN: usize = 20;

/// Rows of one data file, by their positions in it from 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Positions(RoaringTreemap);

impl Positions {
    /// Adds a row; false if it was there.
    pub fn insert(&mut self, position: u64) -> bool {
        self.0.insert(position)
    }

    /// Whether a row is among them.
    pub fn contains(&self, position: u64) -> bool {
        self.0.contains(position)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many lie in `start..end`.
    pub fn count_in(&self, start: u64, end: u64) -> u64 {
        if end <= start {
            return 0;
        }
        let below = |position: u64| position.checked_sub(1).map_or(0, |last| self.0.rank(last));
        below(end) - below(start)
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter()
    }
}

impl FromIterator<u64> for Positions {
    fn from_iter<I: IntoIterator<Item = u64>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

impl Extend<u64> for Positions {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, positions: I) {
        self.0.extend(positions);
    }
}

/// Writes the vectors of one commit into one file in the table's folder; gives their descriptors, in order, and the
/// file's bytes.
///
/// # Errors
/// `Unavailable` if the storage fails, `Exhausted` if they take more than 2 GiB.
pub async fn write(
    store: &Arc<dyn ObjectStore>,
    vectors: &[Positions],
) -> Result<(Vec<DeletionVectorDescriptor>, u64)> {
    if vectors.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let id = Uuid::now_v7();
    let (bytes, descriptors) = encode(id, vectors)?;
    let len = bytes.len() as u64;
    let path = Path::from(file_name("", id));
    store
        .put(&path, PutPayload::from(bytes))
        .await
        .context(Kind::Unavailable, || format!("can't write the deletion vectors {path}"))?;
    Ok((descriptors, len))
}

fn encode(id: Uuid, vectors: &[Positions]) -> Result<(Vec<u8>, Vec<DeletionVectorDescriptor>)> {
    let too_large = || Error::exhausted("the deletion vectors of one commit take more than 2 GiB; merge less at once");
    let mut file = vec![FORMAT_VERSION];
    let mut descriptors = Vec::with_capacity(vectors.len());
    for vector in vectors {
        let mut bitmap = vector.0.clone();
        bitmap.optimize();
        let mut blob = MAGIC.to_le_bytes().to_vec();
        bitmap.serialize_into(&mut blob).context(Kind::Internal, || "a bitmap can't be written".to_owned())?;
        let size = i32::try_from(blob.len()).map_err(|_| too_large())?;
        descriptors.push(DeletionVectorDescriptor {
            storage_type: StorageType::UuidRelativePath,
            path_or_inline_dv: z85::encode(id.as_bytes()),
            offset: Some(i32::try_from(file.len()).map_err(|_| too_large())?),
            size_in_bytes: size,
            cardinality: i64::try_from(vector.len()).unwrap_or(i64::MAX),
        });
        file.extend(size.to_be_bytes());
        file.extend(&blob);
        file.extend(checksum(&blob).to_be_bytes());
    }
    Ok((file, descriptors))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn file_name(prefix: &str, id: Uuid) -> String {
    let separator = if prefix.is_empty() { "" } else { "/" };
    format!("{prefix}{separator}deletion_vector_{id}.bin")
}

/// The path of a vector's file, relative to the table; `None` if it lies in the log itself.
///
/// # Errors
/// `Internal` for a path that is none, `Invalid` for one outside of the table.
pub fn path_of(descriptor: &DeletionVectorDescriptor) -> Result<Option<Path>> {
    let named = &descriptor.path_or_inline_dv;
    let odd = || Error::internal(format!("the log names a deletion vector {named:?}, which is no path of one"));
    match descriptor.storage_type {
        StorageType::Inline => Ok(None),
        StorageType::UuidRelativePath => {
            let split = named.len().checked_sub(ENCODED_UUID_LEN).filter(|at| named.is_char_boundary(*at));
            let (prefix, encoded) = named.split_at(split.ok_or_else(odd)?);
            let bytes = z85::decode(encoded).map_err(|_| odd())?;
            let id = Uuid::from_slice(&bytes).map_err(|_| odd())?;
            Ok(Some(Path::from(file_name(prefix, id))))
        }
        StorageType::AbsolutePath => Err(Error::invalid(format!(
            "the log names a deletion vector outside of the table ({named}), which shallow clones have; copy the table in full"
        ))),
    }
}

/// Reads a vector that the log names.
///
/// # Errors
/// `Unavailable` if the storage fails, `Internal` if what lies there is no such vector.
pub async fn read(store: &Arc<dyn ObjectStore>, descriptor: &DeletionVectorDescriptor) -> Result<Positions> {
    let named = &descriptor.path_or_inline_dv;
    let damaged = |what: &str| Error::internal(format!("deletion vector {named}: {what}"));
    let size = u64::try_from(descriptor.size_in_bytes).map_err(|_| damaged("its size is negative"))?;
    let blob = match path_of(descriptor)? {
        None => Bytes::from(z85::decode(named).map_err(|_| damaged("it is no Z85"))?),
        Some(path) => {
            let start = u64::try_from(descriptor.offset.unwrap_or(1)).map_err(|_| damaged("its offset is negative"))?;
            let range = start..start + 4 + size + 4;
            let bytes = store
                .get_range(&path, range)
                .await
                .context(Kind::Unavailable, || format!("can't read the deletion vector in {path}"))?;
            framed(&bytes, size).ok_or_else(|| damaged("its size or checksum is wrong"))?
        }
    };
    let bitmap = blob
        .strip_prefix(MAGIC.to_le_bytes().as_slice())
        .ok_or_else(|| damaged("it does not begin with the magic number"))?;
    let bitmap =
        RoaringTreemap::deserialize_from(bitmap).map_err(|error| damaged("its bitmap is none").because(error))?;
    Ok(Positions(bitmap))
}

/// What lies between size and checksum, if both are right.
fn framed(bytes: &Bytes, size: u64) -> Option<Bytes> {
    let len = usize::try_from(size).ok()?;
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let blob = bytes.get(4..4 + len)?;
    (u64::from(number(0)?) == size && number(4 + len)? == checksum(blob)).then(|| bytes.slice(4..4 + len))
}

#[cfg(test)]
mod tests {
    use deltalake::logstore::object_store::memory::InMemory;
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn vectors_of_one_file_are_read_as_they_were_written() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let vectors: Vec<Positions> =
            vec![(0..100_000).collect(), [7, 1 << 33].into_iter().collect(), Positions::default()];
        let (descriptors, bytes) = write(&store, &vectors).await.unwrap();
        assert!(bytes < 1_000, "runs are short: {bytes}");
        for (descriptor, vector) in descriptors.iter().zip(&vectors) {
            assert_eq!(read(&store, descriptor).await.unwrap(), *vector);
            assert_eq!(descriptor.cardinality as u64, vector.len());
        }
    }

    #[tokio::test]
    async fn a_vector_with_another_byte_is_refused() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (descriptors, _) = write(&store, &[[1, 5, 9].into_iter().collect()]).await.unwrap();
        let path = path_of(&descriptors[0]).unwrap().unwrap();
        let whole = store.get(&path).await.unwrap().bytes().await.unwrap();
        for at in 1..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1;
            store.put(&path, PutPayload::from(bytes)).await.unwrap();
            assert!(read(&store, &descriptors[0]).await.is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn positions_are_counted_in_ranges(all in prop::collection::btree_set(0_u64..200, 0..60), a in 0_u64..210, b in 0_u64..210) {
            let positions: Positions = all.iter().copied().collect();
            prop_assert_eq!(positions.count_in(a, b), all.iter().filter(|at| (a..b).contains(at)).count() as u64);
        }
    }
}
