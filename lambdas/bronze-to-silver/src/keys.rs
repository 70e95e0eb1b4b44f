//! The keys that a merge changes, to find their stored rows among many.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use lakehouse::{Context, Kind, Result};

/// Any number: the same keys must have the same hashes within one merge.
const SEED: u64 = 0;

/// Keys by their hashes: a key that is in the set is always found, and sometimes one that is not. Eight bytes a key,
/// however long it is.
pub(crate) struct KeySet {
    hashes: HashSet<u64, BuildHasherDefault<AsItIs>>,
}

/// A hash of a hash: itself.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl KeySet {
    /// The keys in the columns of `batches`, all of which are key columns.
    pub(crate) fn new(batches: &[RecordBatch]) -> Result<Self> {
        let mut hashes = HashSet::default();
        hashes.reserve(batches.iter().map(RecordBatch::num_rows).sum());
        for batch in batches {
            hashes.extend(hashes_of(batch.columns(), batch.num_rows())?);
        }
        Ok(Self { hashes })
    }

    /// Which rows may have a key of the set; `None` if no row has.
    pub(crate) fn may_contain(&self, key: &[ArrayRef], rows: usize) -> Result<Option<BooleanArray>> {
        let hashes = hashes_of(key, rows)?;
        let mut any = false;
        let found: Vec<bool> = hashes
            .iter()
            .map(|hash| {
                let is_in = self.hashes.contains(hash);
                any |= is_in;
                is_in
            })
            .collect();
        Ok(any.then(|| BooleanArray::from(found)))
    }
}

fn hashes_of(columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![0; rows];
    create_hashes(columns, &RandomState::with_seed(SEED), &mut hashes)
        .context(Kind::Internal, || "keys can't be hashed".to_owned())?;
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn keys_of_several_columns_are_found_and_others_hardly_ever() {
        let batch = |numbers: std::ops::Range<i64>| {
            let words: StringArray = numbers.clone().map(|number| Some(format!("w{}", number % 7))).collect();
            let numbers: Int64Array = numbers.map(Some).collect();
            RecordBatch::try_from_iter([("a", Arc::new(numbers) as ArrayRef), ("b", Arc::new(words) as ArrayRef)])
                .unwrap()
        };
        let keys = KeySet::new(&[batch(0..1_000), batch(5_000..6_000)]).unwrap();
        let all = batch(0..10_000);
        let found = keys.may_contain(all.columns(), all.num_rows()).unwrap().unwrap();
        assert!((0..1_000).chain(5_000..6_000).all(|row| found.value(row)));
        assert!(found.true_count() < 2_010, "{}", found.true_count());
        let none = batch(20_000..20_100);
        assert!(keys.may_contain(none.columns(), none.num_rows()).unwrap().is_none());
    }
}
