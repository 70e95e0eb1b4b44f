//! The ingests that this process accepted, newest last: a bounded memory for `system.ingests`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use proto::Receipt;

/// How many ingests are remembered; older ones are told by silver's commits.
pub const ACCEPTED_MAX: usize = 10_000;

/// An ingest, so far as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedIngest {
    /// What is kept of it.
    pub receipt: Receipt,
    /// When its first frame was kept, in microseconds since the epoch.
    pub accepted_at_us: i64,
}

type Key = (String, String);

#[derive(Default)]
struct Remembered {
    order: VecDeque<Key>,
    ingests: BTreeMap<Key, AcceptedIngest>,
}

/// Remembers the newest [`ACCEPTED_MAX`] ingests.
#[derive(Default)]
pub struct AcceptedIngests(Mutex<Remembered>);

impl AcceptedIngests {
    /// Notes an ingest, or what has become of it since.
    pub fn note(&self, ingest: AcceptedIngest) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (ingest.receipt.table.clone(), ingest.receipt.ingest_id.clone());
        if remembered.ingests.insert(key.clone(), ingest).is_none() {
            remembered.order.push_back(key);
        }
        if remembered.order.len() > ACCEPTED_MAX
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.ingests.remove(&oldest);
        }
    }

    /// All that are remembered, by table and id.
    pub fn all(&self) -> Vec<AcceptedIngest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ingests.values().cloned().collect()
    }

    /// Those of an id, one a table.
    pub fn of(&self, ingest_id: &str) -> Vec<AcceptedIngest> {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.ingests.values().filter(|ingest| ingest.receipt.ingest_id == ingest_id).cloned().collect()
    }
}
