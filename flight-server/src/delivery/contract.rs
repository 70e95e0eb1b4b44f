//! What every delivery stream must do, as plain functions: each takes a fresh [`Subject`] of one implementation.
//!
//! What is acked is delivered, and nothing is delivered that nobody put: this holds whatever happens on the way. Where
//! nothing fails on the way, each record is also delivered once, and each producer's in order. Where something does,
//! a record can come again, or later than one that was put behind it; numbered frames are what makes that harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use lakehouse::{Kind, Name};
use proto::FrameHeader;
use proto::frame::{Frame, FrameReader, Item};

use super::{CALL_BYTES_MAX, CALL_RECORDS_MAX, DeliveryStream, RECORD_BYTES_MAX};

/// A stream under test.
pub(super) struct Subject {
    pub(super) stream: Arc<dyn DeliveryStream>,
    /// A table that it carries.
    pub(super) table: Name,
    /// The bytes of the table's bronze objects, in the order of delivery.
    pub(super) bronze: Box<dyn Fn() -> Vec<Bytes> + Send + Sync>,
    /// Whether things fail on the way to it.
    pub(super) faulty: bool,
}

impl Subject {
    async fn put(&self, records: Vec<Bytes>) {
        self.stream.put(&self.table, records).await.unwrap();
    }

    fn delivered(&self) -> Vec<(String, u64)> {
        (self.bronze)().into_iter().flat_map(frames_in).collect()
    }

    /// Checks that `delivered`, or the beginning of it if `more` may follow, is what was `acked`.
    fn check(&self, delivered: &[(String, u64)], acked: &[(String, u64)], more: bool) {
        if self.faulty {
            let delivered: BTreeSet<_> = delivered.iter().collect();
            let acked: BTreeSet<_> = acked.iter().collect();
            assert!(delivered.is_superset(&acked), "acked, but not delivered: {:?}", acked.difference(&delivered));
            assert!(more || delivered == acked, "delivered, but not put: {:?}", delivered.difference(&acked));
            return;
        }
        let compared = if more { delivered.get(..acked.len()) } else { Some(delivered) };
        assert_eq!(compared, Some(acked));
    }
}

/// A record of one frame, `bytes` and a little more in size.
pub(super) fn frame(producer: &str, number: u64, bytes: usize) -> Bytes {
    let header = FrameHeader {
        table: "flights".to_owned(),
        ingest_id: producer.to_owned(),
        frame: number,
        schema_fingerprint: 7,
        received_at_us: 0,
        rows: 1,
        ..FrameHeader::default()
    };
    Frame { header, payload: Bytes::from(vec![b'x'; bytes]) }.encode().unwrap()
}

/// A record of exactly `bytes`.
fn record_of(bytes: usize) -> Bytes {
    let around = frame("size", 0, bytes / 2).len() - bytes / 2;
    let record = frame("size", 0, bytes - around);
    assert_eq!(record.len(), bytes);
    record
}

/// Who put which frame, in order. Damage is not looked for here.
pub(super) fn frames_in(object: Bytes) -> Vec<(String, u64)> {
    let items = FrameReader::new(object);
    items
        .map(|item| match item {
            Item::Frame { frame, .. } => (frame.header.ingest_id, frame.header.frame),
            Item::Damaged { reason, .. } => panic!("damage in bronze: {reason}"),
        })
        .collect()
}

pub(super) async fn an_empty_put_delivers_nothing(subject: Subject) {
    subject.put(Vec::new()).await;
    subject.stream.close().await.unwrap();
    assert!((subject.bronze)().is_empty());
}

pub(super) async fn the_order_of_a_producer_is_kept(subject: Subject) {
    let mut sent = Vec::new();
    for call in 0..20 {
        let numbers = call * 5..call * 5 + 5;
        sent.extend(numbers.clone().map(|n| ("p".to_owned(), n)));
        subject.put(numbers.map(|n| frame("p", n, 200)).collect()).await;
    }
    subject.stream.close().await.unwrap();
    subject.check(&subject.delivered(), &sent, false);
}

pub(super) async fn what_is_over_a_limit_is_refused_and_what_meets_it_is_kept(subject: Subject) {
    let small = frame("size", 0, 1);
    let full_call = || vec![record_of(RECORD_BYTES_MAX); CALL_BYTES_MAX / RECORD_BYTES_MAX];
    let mut too_many_bytes = full_call();
    too_many_bytes.push(record_of(CALL_BYTES_MAX % RECORD_BYTES_MAX + 1));
    let too_large = Bytes::from(vec![b'x'; RECORD_BYTES_MAX + 1]);
    for over in [vec![too_large], vec![small.clone(); CALL_RECORDS_MAX + 1], too_many_bytes] {
        let refusal = subject.stream.put(&subject.table, over).await.unwrap_err();
        assert_eq!(refusal.kind(), Kind::Exhausted, "{refusal}");
        assert!(refusal.to_string().contains("the most is"), "{refusal}");
    }
    let mut most_bytes = full_call();
    most_bytes.push(record_of(CALL_BYTES_MAX % RECORD_BYTES_MAX));
    let most_records = vec![small; CALL_RECORDS_MAX];
    let kept = most_bytes.len() + most_records.len();
    subject.put(most_bytes).await;
    subject.put(most_records).await;
    subject.stream.close().await.unwrap();
    let delivered = subject.delivered().len();
    assert!(delivered == kept || (subject.faulty && delivered > kept), "{delivered} of {kept}");
}

pub(super) async fn a_table_that_is_not_carried_is_refused(subject: Subject) {
    let stranger: Name = "stranger".parse().unwrap();
    let refusal = subject.stream.put(&stranger, vec![frame("p", 0, 1)]).await.unwrap_err();
    assert_eq!(refusal.kind(), Kind::NotFound, "{refusal}");
    // It may be the name of a stream that is named after the table.
    assert!(refusal.to_string().contains("stranger"), "{refusal}");
}

pub(super) async fn a_closed_stream_refuses_and_can_be_closed_again(subject: Subject) {
    subject.put(vec![frame("p", 0, 1)]).await;
    subject.stream.close().await.unwrap();
    for records in [Vec::new(), vec![frame("p", 1, 1)]] {
        let refusal = subject.stream.put(&subject.table, records).await.unwrap_err();
        assert_eq!(refusal.kind(), Kind::Unavailable, "{refusal}");
    }
    subject.stream.close().await.unwrap();
    subject.check(&subject.delivered(), &[("p".to_owned(), 0)], false);
}

/// Also while others put: what was acked before or during the close is in bronze after it, each producer's in order.
pub(super) async fn what_concurrent_producers_were_acked_is_in_bronze_after_a_close(subject: Subject) {
    let subject = Arc::new(subject);
    let producers = (0..16).map(|p| {
        let subject = subject.clone();
        tokio::spawn(async move {
            let producer = format!("p{p}");
            let mut acked = Vec::new();
            for call in 0.. {
                let numbers = call * 2..call * 2 + 2;
                let records = numbers.clone().map(|n| frame(&producer, n, 3_000)).collect();
                match subject.stream.put(&subject.table, records).await {
                    Ok(()) => acked.extend(numbers),
                    Err(refusal) => {
                        assert_eq!(refusal.kind(), Kind::Unavailable, "{refusal}");
                        break;
                    }
                }
            }
            (producer, acked)
        })
    });
    let producers: Vec<_> = producers.collect();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    subject.stream.close().await.unwrap();

    let mut delivered: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for (producer, number) in subject.delivered() {
        delivered.entry(producer.clone()).or_default().push((producer, number));
    }
    for outcome in join_all(producers).await {
        let (producer, acked) = outcome.unwrap();
        assert!(!acked.is_empty(), "{producer} got nothing through");
        let acked: Vec<_> = acked.into_iter().map(|number| (producer.clone(), number)).collect();
        subject.check(&delivered.remove(&producer).unwrap_or_default(), &acked, true);
    }
}
