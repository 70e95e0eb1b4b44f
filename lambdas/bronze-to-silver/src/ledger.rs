//! Which frames a Delta table contains, kept in its own `txn` actions.
//!
//! A frame is known by its ingest id and its number in the ingest. Numbers mostly arrive in order, so one application
//! id an ingest is enough most of the time: `frames/<ingest id>`, whose version holds the number that follows the
//! frames merged without a gap, and one bit that says whether frames beyond the gap were merged too. Each of those has
//! an application id of its own, `frames/<ingest id>/<number>`, whose version is the number that follows it, and is
//! looked up only if the bit is set.
//!
//! ```text
//! version = (first number that is missing) * 2 + (1 if there are frames beyond it)
//! ```

use std::collections::BTreeMap;

use lakehouse::delta::Transactions;

/// Frames of one ingest: each number, with the number that follows it.
pub(crate) type Numbers = BTreeMap<u64, u64>;

/// Frames by ingest id.
pub(crate) type Frames = BTreeMap<String, Numbers>;

/// What a table knows of one ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// All frames below this number are in.
    without_gap: u64,
    /// Whether any frame beyond was ever merged before its predecessors.
    has_beyond: bool,
    /// Those beyond the gap that were looked up and are in.
    beyond: Numbers,
}

impl Merged {
    fn of(transactions: &Transactions, ingest_id: &str, numbers: &Numbers) -> Self {
        let mut merged = Self::from_version(transactions.version(&app_id(ingest_id)));
        if merged.has_beyond {
            let look_up = |frame: u64| transactions.version(&beyond_id(ingest_id, frame));
            for frame in numbers.range(merged.without_gap..).map(|(frame, _)| *frame) {
                if let Some(version) = look_up(frame) {
                    merged.found(frame, version);
                }
            }
            // The gap may close just before frames that nobody asked for.
            while let Some(version) = look_up(merged.gap_behind(numbers)) {
                merged.found(merged.gap_behind(numbers), version);
            }
        }
        merged
    }

    fn from_version(version: Option<i64>) -> Self {
        let version = version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0);
        Self { without_gap: version / 2, has_beyond: version % 2 == 1, beyond: Numbers::new() }
    }

    /// Whether a frame is in.
    fn contains(&self, frame: u64) -> bool {
        frame < self.without_gap || self.beyond.contains_key(&frame)
    }

    /// Notes what the application id of a frame beyond the gap says.
    fn found(&mut self, frame: u64, version: i64) {
        let next = u64::try_from(version).unwrap_or(0).max(frame + 1);
        self.beyond.insert(frame, next);
    }

    /// The first number that is missing once `frames` are in, as far as is known.
    fn gap_behind(&self, frames: &Numbers) -> u64 {
        let mut gap = self.without_gap;
        while let Some(next) = frames.get(&gap).or_else(|| self.beyond.get(&gap)) {
            gap = *next;
        }
        gap
    }

    /// The transactions that add `frames`, none of which is in yet.
    fn add(&self, ingest_id: &str, frames: &Numbers) -> Vec<(String, i64)> {
        let gap = self.gap_behind(frames);
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let beyond = || frames.range(gap..);
        let has_beyond = self.has_beyond || beyond().next().is_some();
        let version = signed(gap.saturating_mul(2).saturating_add(u64::from(has_beyond)));
        let mut transactions = vec![(app_id(ingest_id), version)];
        transactions.extend(beyond().map(|(frame, next)| (beyond_id(ingest_id, *frame), signed(*next))));
        transactions
    }
}

fn app_id(ingest_id: &str) -> String {
    format!("frames/{ingest_id}")
}

/// The application id under which a table records that it has a whole bronze object.
pub(crate) fn object_id(key: &str) -> String {
    format!("object/{key}")
}

fn beyond_id(ingest_id: &str, frame: u64) -> String {
    format!("frames/{ingest_id}/{frame}")
}

/// What a table knows of the ingests in question.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<String, Merged>);

impl Ledger {
    /// What a table knows of `frames`, by its transactions.
    pub(crate) fn read(transactions: &Transactions, frames: &Frames) -> Self {
        let known =
            frames.iter().map(|(ingest_id, numbers)| (ingest_id.clone(), Merged::of(transactions, ingest_id, numbers)));
        Self(known.collect())
    }

    /// Whether a frame is in.
    pub(crate) fn contains(&self, ingest_id: &str, frame: u64) -> bool {
        self.0.get(ingest_id).is_some_and(|merged| merged.contains(frame))
    }

    /// The first number that is missing once `frames` are in.
    pub(crate) fn merged_to(&self, ingest_id: &str, frames: &Numbers) -> u64 {
        self.0.get(ingest_id).map_or_else(|| Merged::default().gap_behind(frames), |merged| merged.gap_behind(frames))
    }

    /// The transactions that record `frames`, leaving out those that are in.
    pub(crate) fn record(&self, frames: &Frames) -> Vec<(String, i64)> {
        let nothing = Merged::default();
        frames
            .iter()
            .filter_map(|(ingest_id, numbers)| {
                let merged = self.0.get(ingest_id).unwrap_or(&nothing);
                let new: Numbers = numbers
                    .iter()
                    .filter(|(frame, _)| !merged.contains(**frame))
                    .map(|(frame, next)| (*frame, *next))
                    .collect();
                (!new.is_empty()).then(|| merged.add(ingest_id, &new))
            })
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    /// The table's side: the last version of each application id.
    fn look_up(store: &HashMap<String, i64>, ask: &Numbers) -> Merged {
        let mut merged = Merged::from_version(store.get(&app_id("i")).copied());
        if merged.has_beyond {
            for frame in ask.keys() {
                if let Some(version) = store.get(&beyond_id("i", *frame)) {
                    merged.found(*frame, *version);
                }
            }
            while let Some(version) = store.get(&beyond_id("i", merged.gap_behind(ask))) {
                merged.found(merged.gap_behind(ask), *version);
            }
        }
        merged
    }

    /// The number that follows `frame` if each of `stride` batches has `parts` frames.
    fn next(frame: u64, parts: u64, stride: u64) -> u64 {
        if frame % stride + 1 == parts { (frame / stride + 1) * stride } else { frame + 1 }
    }

    proptest! {
        #[test]
        fn frames_in_any_order_and_split_are_each_new_once(
            deliveries in prop::collection::vec(prop::collection::btree_set(0_u64..40, 1..12), 1..30),
            parts in 1_u64..5,
            stride in prop::sample::select(vec![5_u64, 65_536]),
        ) {
            // The n-th frame: part n % parts of batch n / parts.
            let number = |n: u64| n / parts * stride + n % parts;
            let mut store = HashMap::new();
            let mut truth = BTreeSet::new();
            for delivery in deliveries {
                let delivery: Numbers =
                    delivery.into_iter().map(|n| (number(n), next(number(n), parts, stride))).collect();
                let merged = look_up(&store, &delivery);
                let new: Numbers = delivery.iter().filter(|(frame, _)| !merged.contains(**frame)).map(|(a, b)| (*a, *b)).collect();
                let expected: BTreeSet<u64> = delivery.keys().copied().filter(|frame| !truth.contains(frame)).collect();
                prop_assert_eq!(new.keys().copied().collect::<BTreeSet<_>>(), expected);
                if !new.is_empty() {
                    let before = store.get(&app_id("i")).copied().unwrap_or(-1);
                    store.extend(merged.add("i", &new));
                    prop_assert!(store[&app_id("i")] >= before, "versions only grow");
                }
                truth.extend(delivery.into_keys());
                let first_missing = (0..).map(number).find(|frame| !truth.contains(frame)).unwrap();
                prop_assert_eq!(Merged::from_version(store.get(&app_id("i")).copied()).without_gap, first_missing);
            }
        }
    }

    #[test]
    fn frames_in_order_need_one_application_id() {
        let merged = Merged::from_version(Some(6));
        assert_eq!(merged.add("i", &BTreeMap::from([(3, 4), (4, 5)])), vec![("frames/i".to_owned(), 10)]);
    }

    #[test]
    fn what_an_older_version_recorded_is_followed_by_the_next_number() {
        let mut merged = Merged::from_version(Some(1));
        merged.found(7, 1);
        assert_eq!(merged.beyond, BTreeMap::from([(7, 8)]));
    }
}
