//! Frames to the delivery stream: all producers of a table share its records.
//!
//! ```text
//!  producer ─ship─► room ─► lane of a table: Packer ─ call ─► DeliveryStream ─► each producer's Shipment completes
//!  producer ─ship─►   │       while a call is under way, frames gather for the next one
//!                     └ a producer waits here when too much is under way, and so does its client
//! ```
//!
//! A lane sends a record once it is full, or once its oldest frame has waited for the linger time. Under load records
//! are full; alone, a small ingest waits no longer than that.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lakehouse::{Error, Name, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::billing::Billing;
use super::packing::{Addressed, Packer, Record};
use crate::delivery::{CALL_BYTES_MAX, DeliveryStream};

/// Encoded bytes that may be under way for one table. Its producers wait beyond it.
pub const LANE_BYTES_MAX: usize = 16 << 20;

/// Encoded bytes that may be under way for all tables together, beside those that each table is sure of.
pub const SHIPPING_BYTES_MAX: usize = 128 << 20;

/// Encoded bytes that a table may always have under way.
const LANE_BYTES_SURE: usize = CALL_BYTES_MAX;

/// Takes frames to the delivery stream.
pub(super) struct Shipping {
    stream: Arc<dyn DeliveryStream>,
    linger: Duration,
    room: Arc<Semaphore>,
    lanes: Mutex<HashMap<Name, Lane>>,
    billing: Arc<Billing>,
}

#[derive(Clone)]
struct Lane {
    loads: mpsc::UnboundedSender<Load>,
    room: Arc<Semaphore>,
}

/// What a load takes of the room of its lane, and of that of all.
type Room = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// Frames that someone waits for.
struct Load {
    frames: Vec<Bytes>,
    room: Room,
    reply: oneshot::Sender<Result<()>>,
}

/// Completes when its frames are kept, or with what went wrong.
pub(super) type Shipment = oneshot::Receiver<Result<()>>;

impl Shipping {
    /// Shipping to `stream`, where a frame waits for others at most for `linger`.
    pub(super) fn new(stream: Arc<dyn DeliveryStream>, linger: Duration, billing: Arc<Billing>) -> Self {
        Self { stream, linger, room: Arc::new(Semaphore::new(SHIPPING_BYTES_MAX)), lanes: Mutex::default(), billing }
    }

    /// Hands over frames, together at most [`CALL_BYTES_MAX`] bytes, once there is room.
    pub(super) async fn ship(&self, table: &Name, frames: Vec<Bytes>) -> Result<Shipment> {
        let lane = self.lane(table);
        let bytes = u32::try_from(frames.iter().map(Bytes::len).sum::<usize>()).unwrap_or(u32::MAX);
        let of_lane = Arc::clone(&lane.room).acquire_many_owned(bytes).await.map_err(|_| ended())?;
        // A lane that is nearly empty goes on, whatever other tables have under way.
        let is_nearly_empty = lane.room.available_permits() >= LANE_BYTES_MAX - LANE_BYTES_SURE;
        let of_all = if is_nearly_empty {
            None
        } else {
            Some(Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| ended())?)
        };
        let (reply, shipment) = oneshot::channel();
        lane.loads.send(Load { frames, room: (of_lane, of_all), reply }).map_err(|_| ended())?;
        Ok(shipment)
    }

    fn lane(&self, table: &Name) -> Lane {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lanes.get(table).filter(|lane| !lane.loads.is_closed());
        if let Some(lane) = known {
            return lane.clone();
        }
        let (loads, inbox) = mpsc::unbounded_channel();
        let lane = Lane { loads, room: Arc::new(Semaphore::new(LANE_BYTES_MAX)) };
        let work = LaneWork {
            table: table.clone(),
            stream: Arc::clone(&self.stream),
            linger: self.linger,
            billing: Arc::clone(&self.billing),
            inbox,
            packer: Packer::default(),
            due: None,
            loads: BTreeMap::new(),
            next_load: 0,
            calls: FuturesUnordered::new(),
        };
        // It ends when all that can send to it is gone, with what it has under way.
        tokio::spawn(work.run());
        lanes.insert(table.clone(), lane.clone());
        lane
    }
}

/// What is said of frames whose lane has ended.
pub(super) fn ended() -> Error {
    Error::unavailable("the server is stopping; send again what was not acknowledged")
}

/// A load under way: how many of its frames are not kept yet.
struct Waiting {
    frames: usize,
    /// None once it was answered.
    reply: Option<oneshot::Sender<Result<()>>>,
    _room: Room,
}

/// A call that ended: for whom its frames were, and how it went.
type Ended = (Vec<u64>, Result<()>);

/// The task of one table.
struct LaneWork {
    table: Name,
    stream: Arc<dyn DeliveryStream>,
    linger: Duration,
    billing: Arc<Billing>,
    inbox: mpsc::UnboundedReceiver<Load>,
    packer: Packer<u64>,
    /// When the open record is sent, full or not.
    due: Option<Instant>,
    loads: BTreeMap<u64, Waiting>,
    next_load: u64,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl LaneWork {
    async fn run(mut self) {
        let calls_max = self.stream.calls_at_once(&self.table).max(1);
        let mut is_open = true;
        while is_open || !self.packer.is_empty() || !self.calls.is_empty() {
            self.drain();
            let is_due = self.due.is_some_and(|due| due <= Instant::now()) || !is_open;
            if self.calls.len() < calls_max && (is_due && !self.packer.is_empty() || self.packer.has_full()) {
                self.call(is_due);
                continue;
            }
            let due = self.due.filter(|_| self.calls.len() < calls_max);
            tokio::select! {
                load = self.inbox.recv(), if is_open => match load {
                    Some(load) => self.take(load),
                    None => is_open = false,
                },
                Some(ended) = self.calls.next() => self.settle(ended),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Takes the loads that wait already, up to a call's worth.
    fn drain(&mut self) {
        while !self.packer.has_full_call() {
            match self.inbox.try_recv() {
                Ok(load) => self.take(load),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, load: Load) {
        if load.frames.is_empty() {
            // Who sent it may have stopped waiting.
            let _ = load.reply.send(Ok(()));
            return;
        }
        let number = self.next_load;
        self.next_load += 1;
        self.due.get_or_insert_with(|| Instant::now() + self.linger);
        self.loads.insert(number, Waiting { frames: load.frames.len(), reply: Some(load.reply), _room: load.room });
        for frame in load.frames {
            self.packer.add(Addressed { frame, sender: number });
        }
    }

    fn call(&mut self, flush: bool) {
        let records = self.packer.take(flush);
        // What stays was added later than what goes, so it may wait from now on.
        self.due = (!self.packer.is_empty()).then(|| Instant::now() + self.linger);
        let (mut bytes, mut senders) = (Vec::with_capacity(records.len()), Vec::new());
        for Record { bytes: record, senders: of_record } in records {
            bytes.push(record);
            senders.extend(of_record);
        }
        let (stream, table, billing) = (Arc::clone(&self.stream), self.table.clone(), Arc::clone(&self.billing));
        self.calls.push(Box::pin(async move {
            let sizes: Vec<usize> = bytes.iter().map(Bytes::len).collect();
            let outcome = stream.put(&table, bytes).await;
            if outcome.is_ok() {
                billing.sent(&table, &sizes);
            }
            (senders, outcome)
        }));
    }

    /// Answers the loads whose frames are all kept, and those that have one that is not.
    fn settle(&mut self, (senders, outcome): Ended) {
        for number in senders {
            let Some(waiting) = self.loads.get_mut(&number) else { continue };
            waiting.frames -= 1;
            let answer = match &outcome {
                Ok(()) if waiting.frames > 0 => continue,
                Ok(()) => Ok(()),
                // Whatever is wrong with the stream, the rows are not at fault: they can come again once it is mended.
                Err(error) if error.kind().is_retriable() => Err(error.again()),
                Err(error) => Err(Error::unavailable(error.chain())),
            };
            if let Some(reply) = waiting.reply.take() {
                // Who sent it may have stopped waiting.
                let _ = reply.send(answer);
            }
            // Its room is given back once all of its frames have left.
            if waiting.frames == 0 {
                self.loads.remove(&number);
            }
        }
    }
}

const _: () = assert!(CALL_BYTES_MAX <= LANE_BYTES_MAX && LANE_BYTES_MAX <= SHIPPING_BYTES_MAX);

#[cfg(test)]
mod tests;
