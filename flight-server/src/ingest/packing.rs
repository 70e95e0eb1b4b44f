//! Frames to records, as a pure function: Firehose bills each record rounded up to 5 KiB, so records are filled.
//!
//! ```text
//!  frames, of any producer ─► open record ─ full? ─► ready records ─► calls
//!                                  └── lingered long enough ────────►
//! ```
//!
//! Frames keep their order. A record that is not full waits for more frames; how long is the caller's business
//! ([`Packer::take`] with `flush`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::delivery::{CALL_BYTES_MAX, CALL_RECORDS_MAX, RECORD_BYTES_MAX};

/// A frame on its way, with whom it is to be answered for.
#[derive(Debug)]
pub(super) struct Addressed<T> {
    pub(super) frame: Bytes,
    pub(super) sender: T,
}

/// A record, and for whom each of its frames is.
#[derive(Debug)]
pub(super) struct Record<T> {
    pub(super) bytes: Bytes,
    pub(super) senders: Vec<T>,
}

/// Gathers frames into records.
#[derive(Debug)]
pub(super) struct Packer<T> {
    ready: VecDeque<Record<T>>,
    ready_bytes: usize,
    open: Vec<Addressed<T>>,
    open_bytes: usize,
}

impl<T> Default for Packer<T> {
    fn default() -> Self {
        Self { ready: VecDeque::new(), ready_bytes: 0, open: Vec::new(), open_bytes: 0 }
    }
}

impl<T> Packer<T> {
    /// Takes a frame, which fits a record.
    pub(super) fn add(&mut self, addressed: Addressed<T>) {
        if self.open_bytes + addressed.frame.len() > RECORD_BYTES_MAX {
            self.close();
        }
        self.open_bytes += addressed.frame.len();
        self.open.push(addressed);
    }

    /// Whether a record is full.
    pub(super) fn has_full(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a whole call is full.
    pub(super) fn has_full_call(&self) -> bool {
        self.ready_bytes + RECORD_BYTES_MAX > CALL_BYTES_MAX || self.ready.len() >= CALL_RECORDS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.open.is_empty()
    }

    /// The records of the next call: those that are full, and if `flush` the one that is not.
    pub(super) fn take(&mut self, flush: bool) -> Vec<Record<T>> {
        if flush {
            self.close();
        }
        let (mut call, mut bytes) = (Vec::new(), 0);
        while let Some(record) = self.ready.front()
            && call.len() < CALL_RECORDS_MAX
            && bytes + record.bytes.len() <= CALL_BYTES_MAX
        {
            bytes += record.bytes.len();
            call.extend(self.ready.pop_front());
        }
        self.ready_bytes -= bytes;
        call
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        let len = std::mem::take(&mut self.open_bytes);
        if open.is_empty() {
            return;
        }
        let mut bytes = BytesMut::with_capacity(len);
        let mut senders = Vec::with_capacity(open.len());
        for Addressed { frame, sender } in open {
            bytes.extend_from_slice(&frame);
            senders.push(sender);
        }
        self.ready_bytes += len;
        self.ready.push_back(Record { bytes: bytes.freeze(), senders });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a packer makes of frames of these sizes, if a call is taken whenever `takes` says so.
    fn packed(sizes: &[usize], takes: &[Option<bool>]) -> Vec<Vec<Record<usize>>> {
        let mut packer = Packer::default();
        let mut calls = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let mut frame = BytesMut::zeroed(*size);
            frame.iter_mut().for_each(|byte| *byte = number as u8);
            packer.add(Addressed { frame: frame.freeze(), sender: number });
            if let Some(flush) = takes.get(number).copied().flatten() {
                calls.push(packer.take(flush));
            }
        }
        while !packer.is_empty() {
            calls.push(packer.take(true));
        }
        calls
    }

    fn sizes() -> impl Strategy<Value = Vec<usize>> {
        let size = prop_oneof![4 => 1_usize..2_000, 2 => 60_000_usize..100_000, 1 => 1_usize..=RECORD_BYTES_MAX];
        prop::collection::vec(size, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_frame_is_sent_once_in_order_within_all_limits(
            sizes in sizes(),
            takes in prop::collection::vec(prop::option::weighted(0.2, any::<bool>()), 0..200),
        ) {
            let calls = packed(&sizes, &takes);
            for call in &calls {
                prop_assert!(call.len() <= CALL_RECORDS_MAX);
                prop_assert!(call.iter().map(|record| record.bytes.len()).sum::<usize>() <= CALL_BYTES_MAX);
                prop_assert!(call.iter().all(|record| record.bytes.len() <= RECORD_BYTES_MAX));
            }
            let records: Vec<_> = calls.into_iter().flatten().collect();
            let senders: Vec<usize> = records.iter().flat_map(|record| record.senders.clone()).collect();
            prop_assert_eq!(senders, (0..sizes.len()).collect::<Vec<_>>());
            for record in &records {
                let expected: Vec<u8> =
                    record.senders.iter().flat_map(|sender| vec![*sender as u8; sizes[*sender]]).collect();
                prop_assert!(record.bytes == expected, "a record is its frames end to end");
            }
        }
    }

    #[test]
    fn frames_of_the_usual_size_fill_records() {
        let sizes: Vec<usize> = (0..1_000).map(|n| (70 << 10) + n % 20 * 1024).collect();
        let calls = packed(&sizes, &[]);
        let records: Vec<_> = calls.into_iter().flatten().collect();
        let (_, full) = records.split_last().unwrap();
        assert!(full.iter().all(|record| record.bytes.len() > 900 << 10));
    }

    #[test]
    fn a_record_that_is_not_full_waits_until_it_is_flushed() {
        let mut packer = Packer::default();
        packer.add(Addressed { frame: Bytes::from_static(b"x"), sender: () });
        assert!(!packer.has_full() && packer.take(false).is_empty() && !packer.is_empty());
        assert_eq!(packer.take(true).len(), 1);
        assert!(packer.is_empty());
    }
}
