//! The records of one put, on their way: which are still to be sent, in order.

use bytes::Bytes;

/// What a delivery stream took of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) records: u64,
    pub(super) bytes: usize,
    pub(super) billed_bytes: u64,
}

/// A call's worth of records.
pub(super) struct Head {
    pub(super) records: Vec<Bytes>,
    pub(super) bytes: usize,
    /// How many of them were sent before.
    pub(super) resent: u64,
}

/// Records that no answer has shown to be taken.
pub(super) struct Load {
    waiting: Vec<Waiting>,
    put: usize,
}

struct Waiting {
    record: Bytes,
    sent: bool,
}

impl Load {
    pub(super) fn new(records: Vec<Bytes>) -> Self {
        let put = records.len();
        Self { waiting: records.into_iter().map(|record| Waiting { record, sent: false }).collect(), put }
    }

    /// How many records were put.
    pub(super) fn put(&self) -> usize {
        self.put
    }

    /// How many are still to be sent.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The first records that have at most `bytes_max` together, and at least the first one.
    pub(super) fn head(&mut self, bytes_max: usize) -> Head {
        let mut head = Head { records: Vec::new(), bytes: 0, resent: 0 };
        for waiting in &mut self.waiting {
            let bytes = head.bytes + waiting.record.len();
            if bytes > bytes_max && !head.records.is_empty() {
                break;
            }
            head.bytes = bytes;
            head.resent += u64::from(waiting.sent);
            waiting.sent = true;
            head.records.push(waiting.record.clone());
        }
        head
    }

    /// Takes off the first `count` records, except those at the positions `failed`, which ascend. The order stays.
    pub(super) fn settle(&mut self, count: usize, failed: &[usize]) -> Taken {
        let mut taken = Taken::default();
        let mut position = 0;
        self.waiting.retain(|waiting| {
            let stays = position >= count || failed.binary_search(&position).is_ok();
            position += 1;
            if !stays {
                taken.records += 1;
                taken.bytes += waiting.record.len();
                taken.billed_bytes += billed_bytes(waiting.record.len());
            }
            stays
        });
        taken
    }
}

/// What a record of `bytes` is billed as.
fn billed_bytes(bytes: usize) -> u64 {
    let unit = crate::delivery::BILLED_UNIT_BYTES;
    (bytes as u64).div_ceil(unit).max(1) * unit
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn record(number: usize, bytes: usize) -> Bytes {
        let mut record = vec![0; bytes];
        record.extend(number.to_le_bytes());
        record.into()
    }

    #[test]
    fn a_record_is_billed_in_units_begun() {
        for (bytes, billed) in [(0, 5_120), (1, 5_120), (5_120, 5_120), (5_121, 10_240), (1_024_000, 1_024_000)] {
            assert_eq!(billed_bytes(bytes), billed, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn only_what_failed_is_sent_again_until_each_record_was_taken_once(
            sizes in prop::collection::vec(0_usize..3_000, 0..60),
            calls in prop::collection::vec((0_usize..8_000, prop::collection::btree_set(0_usize..20, 0..10)), 0..200),
        ) {
            let records: Vec<Bytes> = sizes.iter().enumerate().map(|(n, bytes)| record(n, *bytes)).collect();
            let mut load = Load::new(records.clone());
            let (mut seen, mut taken) = (BTreeSet::new(), Vec::new());
            // Calls that fail as drawn, then some that don't.
            for (bytes_max, failed) in calls.into_iter().chain(std::iter::repeat_n((1, BTreeSet::new()), 60)) {
                if load.is_empty() {
                    break;
                }
                let head = load.head(bytes_max);
                prop_assert!(head.bytes <= bytes_max || head.records.len() == 1);
                prop_assert_eq!(head.records.iter().map(Bytes::len).sum::<usize>(), head.bytes);
                let again = head.records.iter().filter(|record| seen.contains(*record)).count();
                prop_assert_eq!(head.resent, again as u64);
                seen.extend(head.records.iter().cloned());

                let failed: Vec<usize> = failed.into_iter().filter(|n| *n < head.records.len()).collect();
                let before = load.len();
                let settled = load.settle(head.records.len(), &failed);
                prop_assert_eq!(before - load.len(), head.records.len() - failed.len());
                prop_assert_eq!(settled.records as usize, before - load.len());
                let kept = head.records.iter().enumerate().filter(|(n, _)| !failed.contains(n));
                taken.extend(kept.map(|(_, record)| record.clone()));
                // The failed ones come first, in their order.
                let next = load.head(usize::MAX).records;
                let expected: Vec<_> = failed.iter().filter_map(|n| head.records.get(*n).cloned()).collect();
                prop_assert_eq!(next.get(..expected.len()), Some(&*expected));
                seen.extend(next);
            }
            taken.sort();
            let mut records = records;
            records.sort();
            prop_assert_eq!(taken, records);
        }
    }
}
