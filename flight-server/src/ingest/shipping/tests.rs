use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use lakehouse::Kind;
use tokio::sync::watch;

use super::*;
use crate::delivery::RECORD_BYTES_MAX;

/// A stream that keeps what it gets once its gate is open, and refuses the calls that it is told to.
struct Gated {
    gate: watch::Receiver<bool>,
    calls: Mutex<Vec<Vec<Bytes>>>,
    under_way: AtomicUsize,
    refuses: Option<usize>,
}

#[async_trait]
impl DeliveryStream for Gated {
    async fn put(&self, _: &Name, records: Vec<Bytes>) -> Result<()> {
        assert_eq!(self.under_way.fetch_add(1, Ordering::SeqCst), 0, "one call at a time");
        self.gate.clone().wait_for(|open| *open).await.unwrap();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let mut calls = self.calls.lock().unwrap();
        calls.push(records);
        if self.refuses == Some(calls.len() - 1) { Err(Error::unavailable("no disk")) } else { Ok(()) }
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

struct Lab {
    shipping: Shipping,
    stream: Arc<Gated>,
    gate: watch::Sender<bool>,
    billing: Arc<Billing>,
}

fn lab(is_open: bool, linger: Duration, refuses: Option<usize>) -> Lab {
    let (gate, opened) = watch::channel(is_open);
    let stream = Arc::new(Gated { gate: opened, calls: Mutex::default(), under_way: AtomicUsize::new(0), refuses });
    let billing = Arc::new(Billing::default());
    let shipping = Shipping::new(Arc::clone(&stream) as _, linger, Arc::clone(&billing));
    Lab { shipping, stream, gate, billing }
}

fn table() -> Name {
    "t".parse().unwrap()
}

impl Lab {
    async fn ship(&self, frames: &[usize]) -> Shipment {
        let frames = frames.iter().map(|bytes| Bytes::from(vec![b'x'; *bytes])).collect();
        self.shipping.ship(&table(), frames).await.unwrap()
    }

    /// The sizes of all records, call by call.
    fn calls(&self) -> Vec<Vec<usize>> {
        self.stream.calls.lock().unwrap().iter().map(|call| call.iter().map(Bytes::len).collect()).collect()
    }
}

#[tokio::test]
async fn what_many_producers_send_within_the_linger_time_shares_a_record() {
    let lab = lab(true, Duration::from_secs(1), None);
    let mut shipments = Vec::new();
    for _ in 0..10 {
        shipments.push(lab.ship(&[300]).await);
    }
    for shipment in shipments {
        shipment.await.unwrap().unwrap();
    }
    assert_eq!(lab.calls(), [[3_000]]);
    let bill = lab.billing.all()[&table()];
    assert_eq!((bill.records, bill.bytes, bill.billed_bytes), (1, 3_000, 5 * 1024));
}

#[tokio::test]
async fn a_full_record_does_not_wait_and_the_rest_of_a_load_does() {
    let lab = lab(true, Duration::from_secs(3600), None);
    let mut shipment = lab.ship(&[RECORD_BYTES_MAX, 5]).await;
    while lab.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(lab.calls(), [[RECORD_BYTES_MAX]]);
    assert!(shipment.try_recv().is_err(), "a frame of it still waits");
}

#[tokio::test]
async fn while_a_call_is_under_way_frames_gather_and_producers_wait_at_the_limit() {
    let lab = Arc::new(lab(false, Duration::ZERO, None));
    let mut shipments = vec![lab.ship(&[1]).await];
    while lab.stream.under_way.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let frames = (LANE_BYTES_MAX - 1) / 80_000;
    for _ in 0..frames {
        shipments.push(lab.ship(&[80_000]).await);
    }
    let one_more = tokio::time::timeout(Duration::from_millis(200), lab.ship(&[80_000])).await;
    assert!(one_more.is_err(), "beyond the limit a producer waits");
    lab.gate.send_replace(true);
    for shipment in shipments {
        shipment.await.unwrap().unwrap();
    }
    let calls = lab.calls();
    assert_eq!(calls[0], [1]);
    let records: Vec<usize> = calls[1..].concat();
    let (_, full) = records.split_last().unwrap();
    assert!(full.iter().all(|bytes| *bytes > 900 << 10), "{records:?}");
    assert_eq!(records.iter().sum::<usize>(), frames * 80_000);
}

#[tokio::test]
async fn a_call_that_fails_is_told_to_those_whose_frames_were_in_it() {
    let lab = lab(true, Duration::from_millis(1), Some(0));
    let first = lab.ship(&[10]).await;
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("no disk"), "{error}");
    lab.ship(&[10]).await.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_under_way_when_the_door_goes_is_still_sent() {
    let lab = lab(true, Duration::from_secs(60), None);
    let shipment = lab.ship(&[10]).await;
    let Lab { shipping, stream, .. } = lab;
    drop(shipping);
    shipment.await.unwrap().unwrap();
    assert_eq!(stream.calls.lock().unwrap().len(), 1);
}
