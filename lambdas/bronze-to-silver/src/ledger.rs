//! Which frames a Delta table contains, kept in its own `txn` actions.
//!
//! A frame is known by its ingest id and its number in the ingest. Numbers mostly arrive in order, so one application
//! id an ingest is enough most of the time: `frames/<ingest id>`, whose version holds the number of frames merged
//! without a gap, and one bit that says whether frames beyond the gap were merged too. Each of those has an application
//! id of its own, `frames/<ingest id>/<number>`, and is looked up only if the bit is set.
//!
//! ```text
//! version = (frames without a gap) * 2 + (1 if there are some beyond the gap)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use deltalake::DeltaTable;
use lakehouse::Result;
use lakehouse::delta;

/// What a table knows of one ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// Frames 0 to this, without it, are in.
    pub(crate) without_gap: u64,
    /// Whether any frame beyond was ever merged before its predecessors.
    pub(crate) has_beyond: bool,
    /// Those of the frames asked for that are in beyond the gap.
    pub(crate) beyond: BTreeSet<u64>,
}

impl Merged {
    fn from_version(version: Option<i64>) -> Self {
        let version = version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0);
        Self { without_gap: version / 2, has_beyond: version % 2 == 1, beyond: BTreeSet::new() }
    }

    /// Whether a frame is in.
    pub(crate) fn contains(&self, frame: u64) -> bool {
        frame < self.without_gap || self.beyond.contains(&frame)
    }

    /// The transactions that add `frames`, none of which is in yet.
    fn add(&self, ingest_id: &str, frames: &BTreeSet<u64>) -> Vec<(String, i64)> {
        let mut without_gap = self.without_gap;
        while frames.contains(&without_gap) || self.beyond.contains(&without_gap) {
            without_gap += 1;
        }
        let beyond: Vec<u64> = frames.range(without_gap..).copied().collect();
        let has_beyond = self.has_beyond || !beyond.is_empty();
        let version = i64::try_from(without_gap * 2 + u64::from(has_beyond)).unwrap_or(i64::MAX);
        let mut transactions = vec![(app_id(ingest_id), version)];
        transactions.extend(beyond.into_iter().map(|frame| (beyond_id(ingest_id, frame), 1)));
        transactions
    }
}

fn app_id(ingest_id: &str) -> String {
    format!("frames/{ingest_id}")
}

fn beyond_id(ingest_id: &str, frame: u64) -> String {
    format!("frames/{ingest_id}/{frame}")
}

/// Frames by ingest id.
pub(crate) type Frames = BTreeMap<String, BTreeSet<u64>>;

/// What a table knows of the ingests in question.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<String, Merged>);

impl Ledger {
    /// Reads what `table` knows of `frames`.
    pub(crate) async fn read(table: Option<&DeltaTable>, frames: &Frames) -> Result<Self> {
        let mut ledger = BTreeMap::new();
        let Some(table) = table else { return Ok(Self(ledger)) };
        for (ingest_id, numbers) in frames {
            let mut merged = Merged::from_version(delta::transaction_version(table, &app_id(ingest_id)).await?);
            if merged.has_beyond {
                // One number more than asked for, since the gap may close just before one that is in.
                let last = numbers.last().copied().unwrap_or(0) + 1;
                for frame in merged.without_gap..=last {
                    if delta::transaction_version(table, &beyond_id(ingest_id, frame)).await?.is_some() {
                        merged.beyond.insert(frame);
                    }
                }
            }
            ledger.insert(ingest_id.clone(), merged);
        }
        Ok(Self(ledger))
    }

    /// Whether a frame is in.
    pub(crate) fn contains(&self, ingest_id: &str, frame: u64) -> bool {
        self.0.get(ingest_id).is_some_and(|merged| merged.contains(frame))
    }

    /// The transactions that record `frames`, leaving out those that are in.
    pub(crate) fn record(&self, frames: &Frames) -> Vec<(String, i64)> {
        let nothing = Merged::default();
        frames
            .iter()
            .filter_map(|(ingest_id, numbers)| {
                let merged = self.0.get(ingest_id).unwrap_or(&nothing);
                let new: BTreeSet<u64> = numbers.iter().copied().filter(|frame| !merged.contains(*frame)).collect();
                (!new.is_empty()).then(|| merged.add(ingest_id, &new))
            })
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// The table's side: the last version of each application id.
    fn look_up(store: &HashMap<String, i64>, ask: &BTreeSet<u64>) -> Merged {
        let mut merged = Merged::from_version(store.get(&app_id("i")).copied());
        if merged.has_beyond {
            for frame in merged.without_gap..=ask.last().copied().unwrap_or(0) + 1 {
                if store.contains_key(&beyond_id("i", frame)) {
                    merged.beyond.insert(frame);
                }
            }
        }
        merged
    }

    proptest! {
        #[test]
        fn frames_in_any_order_and_split_are_each_new_once(
            deliveries in prop::collection::vec(prop::collection::btree_set(0_u64..40, 1..12), 1..30)
        ) {
            let mut store = HashMap::new();
            let mut truth = BTreeSet::new();
            for delivery in deliveries {
                let merged = look_up(&store, &delivery);
                let new: BTreeSet<u64> = delivery.iter().copied().filter(|frame| !merged.contains(*frame)).collect();
                let expected: BTreeSet<u64> = delivery.difference(&truth).copied().collect();
                prop_assert_eq!(&new, &expected);
                if !new.is_empty() {
                    let before = store.get(&app_id("i")).copied().unwrap_or(-1);
                    store.extend(merged.add("i", &new));
                    prop_assert!(store[&app_id("i")] >= before, "versions only grow");
                }
                truth.extend(new);
            }
        }
    }

    #[test]
    fn frames_in_order_need_one_application_id() {
        let merged = Merged::from_version(Some(6));
        assert_eq!(merged.add("i", &BTreeSet::from([3, 4])), vec![("frames/i".to_owned(), 10)]);
    }
}
