//! What runs, what ran, and the way to stop it.
//!
//! Each run of a query is an entry in the log: of a result in slices there are several under one id. The log is this
//! process's own, and bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::ExecutionPlan;
use futures::{Stream, StreamExt as _, future};
use lakehouse::{Clock, Error, Kind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::admission::Permit;
use super::explain;
use super::interrupt::Interrupt;
use super::memory::QueryMemory;
use super::shape::batch_bytes;
use crate::results::CANCELLED;

/// How many queries that ended are remembered.
pub const QUERIES_KEPT: usize = 10_000;

/// How many cancelled ids are remembered, so that their tickets stay dead.
const CANCELLED_KEPT: usize = 10_000;

/// How much of a statement, and of an error, is remembered, in bytes.
const TEXT_BYTES_KEPT: usize = 4 << 10;

/// One run of a query, as `system.queries` tells it. Times are in microseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct QueryRecord {
    /// The query's id.
    pub id: String,
    /// Who asked.
    pub principal: String,
    /// From which address.
    pub peer: String,
    /// `select`, `insert` and so on.
    pub kind: &'static str,
    /// The statement, or its beginning.
    pub statement: String,
    /// `queued`, `running`, `done`, `failed`, `cancelled` or `timed out`.
    pub state: &'static str,
    /// When it came.
    pub began_us: i64,
    /// When it left the queue; 0: not yet.
    pub started_us: i64,
    /// When it ended; 0: not yet.
    pub ended_us: i64,
    /// Rows given.
    pub rows: u64,
    /// Arrow bytes given.
    pub bytes: u64,
    /// The most memory that it reserved, in bytes.
    pub peak_memory_bytes: u64,
    /// What it read and spilled.
    pub counts: Counts,
    /// Why it did not end well, or the beginning of that.
    pub error: Option<String>,
}

/// What a query's operators count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files in which rows may qualify, as partitions, statistics and join keys tell. Each scan of a table counts its
    /// own; a slice counts those of the whole result; a reader who leaves, or a LIMIT, may have left some unopened.
    pub files_read: u64,
    /// The other files of the tables that are named. Too low, down to 0, where a table is scanned more than once.
    pub files_pruned: u64,
    /// Bytes read from files.
    pub bytes_scanned: u64,
    /// Bytes written to spill files.
    pub spilled_bytes: u64,
}

/// What is known of a query when it comes.
pub(super) struct QueryStart {
    pub(super) id: String,
    pub(super) principal: String,
    pub(super) peer: String,
    pub(super) statement: String,
    pub(super) kind: &'static str,
}

/// The queries of this process.
pub struct QueryLog {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (QueryRecord, watch::Sender<bool>)>,
    ended: VecDeque<QueryRecord>,
    /// Id and principal.
    cancelled: BTreeSet<(String, String)>,
    cancelled_order: VecDeque<(String, String)>,
}

impl QueryLog {
    /// An empty log.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::default() })
    }

    /// All that is remembered: what ended first, then what runs.
    pub fn all(&self) -> Vec<QueryRecord> {
        let state = self.lock();
        state.ended.iter().chain(state.running.values().map(|(record, _)| record)).cloned().collect()
    }

    /// Stops all runs of a principal's query, and those that come later. Whether there were any.
    pub fn cancel(&self, id: &str, principal: &str) -> bool {
        let mut state = self.lock();
        let its = (id.to_owned(), principal.to_owned());
        if state.cancelled.insert(its.clone()) {
            state.cancelled_order.push_back(its);
        }
        if state.cancelled_order.len() > CANCELLED_KEPT
            && let Some(oldest) = state.cancelled_order.pop_front()
        {
            state.cancelled.remove(&oldest);
        }
        let its = state.running.values().filter(|(record, _)| record.id == id && record.principal == principal);
        its.fold(false, |_, (_, cancel)| {
            cancel.send_replace(true);
            true
        })
    }

    pub(super) fn begin(self: &Arc<Self>, start: QueryStart) -> Entry {
        let QueryStart { id, principal, peer, statement, kind } = start;
        let statement = beginning(statement);
        let began_us = self.clock.now_us();
        let mut state = self.lock();
        let (cancel, is_cancelled) = watch::channel(state.cancelled.contains(&(id.clone(), principal.clone())));
        let number = state.next;
        state.next += 1;
        let record =
            QueryRecord { id, principal, peer, kind, statement, state: "queued", began_us, ..QueryRecord::default() };
        state.running.insert(number, (record, cancel));
        Entry { log: Arc::clone(self), number, is_cancelled, outcome: Some(Outcome::Left) }
    }

    fn update(&self, number: u64, change: impl FnOnce(&mut QueryRecord)) {
        if let Some((record, _)) = self.lock().running.get_mut(&number) {
            change(record);
        }
    }

    fn end(&self, number: u64, outcome: Outcome) {
        let ended_us = self.clock.now_us();
        let mut state = self.lock();
        let Some((mut record, _)) = state.running.remove(&number) else { return };
        record.ended_us = ended_us;
        (record.state, record.error) = match outcome {
            Outcome::Done => ("done", None),
            Outcome::Left => ("cancelled", Some("its reader left".to_owned())),
            Outcome::Failed(Kind::Cancelled, error) => ("cancelled", Some(error)),
            Outcome::Failed(Kind::Timeout, error) => ("timed out", Some(error)),
            Outcome::Failed(_, error) => ("failed", Some(error)),
        };
        if state.ended.len() >= QUERIES_KEPT {
            state.ended.pop_front();
        }
        state.ended.push_back(record.clone());
        // Whoever reads the log's output slowly must not hold up the queries.
        drop(state);
        record.trace();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryRecord {
    /// When it left the queue, or went away without; none as long as it waits. In microseconds since the epoch.
    pub fn left_queue_us(&self) -> Option<i64> {
        [self.started_us, self.ended_us].into_iter().find(|us| *us != 0)
    }

    /// Tells the server's own log of a query that ended. Statements may hold what that log should not.
    fn trace(&self) {
        tracing::info!(
            target: "mallard::query",
            id = self.id, principal = self.principal, peer = self.peer, kind = self.kind, state = self.state,
            queued_us = self.left_queue_us().unwrap_or(self.ended_us) - self.began_us,
            duration_us = self.ended_us - self.began_us,
            rows = self.rows, bytes = self.bytes, peak_memory_bytes = self.peak_memory_bytes,
            spilled_bytes = self.counts.spilled_bytes, files_read = self.counts.files_read,
            files_pruned = self.counts.files_pruned, bytes_scanned = self.counts.bytes_scanned,
            error = self.error.as_deref().unwrap_or_default(),
        );
        tracing::debug!(target: "mallard::query", id = self.id, statement = self.statement);
    }
}

/// As much of a text as is kept, without the memory of the rest.
fn beginning(text: String) -> String {
    if text.len() <= TEXT_BYTES_KEPT { text } else { text[..text.floor_char_boundary(TEXT_BYTES_KEPT)].to_owned() }
}

enum Outcome {
    Done,
    Left,
    Failed(Kind, String),
}

/// A run in the log. Dropped before it ended, its reader left.
pub(super) struct Entry {
    log: Arc<QueryLog>,
    number: u64,
    is_cancelled: watch::Receiver<bool>,
    outcome: Option<Outcome>,
}

impl Entry {
    /// It left the queue.
    pub(super) fn started(&self) {
        let now = self.log.clock.now_us();
        self.log.update(self.number, |record| (record.state, record.started_us) = ("running", now));
    }

    /// Completes when the query is cancelled.
    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_cancelled = self.is_cancelled.clone();
        async move {
            if is_cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
                future::pending().await
            }
        }
    }

    /// It ended badly.
    pub(super) fn fail(&mut self, error: &Error) {
        self.outcome = Some(Outcome::Failed(error.kind(), beginning(error.chain())));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.log.end(self.number, outcome);
        }
    }
}

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, CANCELLED)
}

fn timed_out(timeout: Option<Duration>) -> Error {
    let seconds = timeout.unwrap_or_default().as_secs_f64();
    Error::new(
        Kind::Timeout,
        format!("the query took longer than its {seconds} s; read less, or set the session option timeout higher"),
    )
}

/// `work`, unless the query is cancelled or its time is over before.
pub(super) async fn until<T>(
    entry: &Entry,
    deadline: Option<Instant>,
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = entry.cancelled() => Err(cancelled()),
        () = at(deadline) => Err(timed_out(timeout)),
        done = work => done,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// What a result may take.
pub(super) struct StreamLimits {
    pub(super) deadline: Option<Instant>,
    pub(super) timeout: Option<Duration>,
    /// In bytes of Arrow memory.
    pub(super) result_bytes_max: Option<u64>,
}

/// What a running query holds, and what it counts.
pub(super) struct Holding {
    #[expect(dead_code, reason = "held")]
    pub(super) permit: Permit,
    pub(super) memory: Arc<QueryMemory>,
    #[expect(dead_code, reason = "held")]
    pub(super) interrupt: Interrupt,
    pub(super) counts: Box<dyn Fn() -> Counts + Send + Sync>,
}

/// `inner`, counted in the log. It ends with an error at a cancel, at the deadline, or past the most bytes; when it ends
/// or is dropped, all that it held is free within the same poll.
pub(super) fn watched(
    inner: SendableRecordBatchStream,
    entry: Entry,
    limits: StreamLimits,
    holding: Holding,
) -> SendableRecordBatchStream {
    let StreamLimits { deadline, timeout, result_bytes_max } = limits;
    let cancelling = entry.cancelled();
    let stop = async move {
        tokio::select! {
            biased;
            () = cancelling => cancelled(),
            () = at(deadline) => timed_out(timeout),
        }
    };
    let schema = inner.schema();
    let held = Held { inner, stop: Box::pin(stop), entry, holding, bytes: 0, result_bytes_max };
    Box::pin(Watched { schema, held: Some(Box::new(held)) })
}

struct Watched {
    schema: SchemaRef,
    /// None once it ended.
    held: Option<Box<Held>>,
}

struct Held {
    inner: SendableRecordBatchStream,
    stop: Pin<Box<dyn Future<Output = Error> + Send>>,
    entry: Entry,
    holding: Holding,
    bytes: u64,
    result_bytes_max: Option<u64>,
}

impl Held {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let Poll::Ready(error) = self.stop.as_mut().poll(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let batch = match futures::ready!(self.inner.poll_next_unpin(cx)) {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return Poll::Ready(Some(Err(explain(error)))),
            None => return Poll::Ready(None),
        };
        let bytes = batch_bytes(&batch) as u64;
        self.bytes += bytes;
        self.entry.log.update(self.entry.number, |record| {
            record.rows += batch.num_rows() as u64;
            record.bytes += bytes;
        });
        match self.result_bytes_max {
            Some(most) if self.bytes > most => Poll::Ready(Some(Err(Error::new(
                Kind::Exhausted,
                format!("the result has more than {most} bytes, the most that this server gives; ask for fewer rows"),
            )))),
            _ => Poll::Ready(Some(Ok(batch))),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (peak, counts) = (self.holding.memory.peak_bytes(), (self.holding.counts)());
        self.entry.log.update(self.entry.number, |record| {
            record.peak_memory_bytes = peak;
            record.counts = counts;
        });
    }
}

impl Stream for Watched {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(held) = &mut self.held else { return Poll::Ready(None) };
        let polled = futures::ready!(held.poll(cx));
        match &polled {
            Some(Ok(_)) => {}
            Some(Err(error)) => held.entry.fail(error),
            None => held.entry.outcome = Some(Outcome::Done),
        }
        if !matches!(polled, Some(Ok(_))) {
            self.held = None;
        }
        Poll::Ready(polled.map(|batch| batch.map_err(|error| DataFusionError::External(Box::new(error)))))
    }
}

impl RecordBatchStream for Watched {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// What the operators of a plan have counted so far. Pruned files are not theirs to know; files to be read are counted
/// when a scan is planned, and those that its join keys rule out are taken off when it starts.
pub(super) fn counts(plan: &Arc<dyn ExecutionPlan>) -> Counts {
    let mut counts = sum(plan.children().into_iter().map(counts));
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter().cloned().collect::<Vec<_>>()) {
        let value = metric.value().as_usize() as u64;
        match metric.value().name() {
            "count_files_scanned" => counts.files_read += value,
            "bytes_scanned" => counts.bytes_scanned += value,
            "spilled_bytes" => counts.spilled_bytes += value,
            _ => {}
        }
    }
    counts
}

pub(super) fn sum(all: impl Iterator<Item = Counts>) -> Counts {
    all.fold(Counts::default(), |sum, counts| Counts {
        files_read: sum.files_read + counts.files_read,
        files_pruned: sum.files_pruned + counts.files_pruned,
        bytes_scanned: sum.bytes_scanned + counts.bytes_scanned,
        spilled_bytes: sum.spilled_bytes + counts.spilled_bytes,
    })
}

#[cfg(test)]
mod tests;
