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
use super::memory::QueryMemory;
use super::shape::batch_bytes;

/// How many queries that ended are remembered.
pub const QUERIES_KEPT: usize = 10_000;

/// How many cancelled ids are remembered, so that their tickets stay dead.
const CANCELLED_KEPT: usize = 10_000;

/// How much of a statement is remembered, in bytes.
const STATEMENT_BYTES_KEPT: usize = 4 << 10;

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
    /// Why it did not end well.
    pub error: Option<String>,
}

/// What a query's operators count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files that scans opened.
    pub files_read: u64,
    /// Files of the tables read that no scan had to open: their statistics or partitions tell that no row qualifies.
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
    cancelled: BTreeSet<String>,
    cancelled_order: VecDeque<String>,
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

    /// Stops all runs of a query, and those that come later. Whether there were any.
    pub fn cancel(&self, id: &str, principal: &str) -> bool {
        let mut state = self.lock();
        if state.cancelled.insert(id.to_owned()) {
            state.cancelled_order.push_back(id.to_owned());
        }
        if state.cancelled_order.len() > CANCELLED_KEPT
            && let Some(oldest) = state.cancelled_order.pop_front()
        {
            state.cancelled.remove(&oldest);
        }
        let its = state.running.values().filter(|(record, _)| record.id == id && record.principal == principal);
        its.map(|(_, cancel)| cancel.send_replace(true)).count() > 0
    }

    pub(super) fn begin(self: &Arc<Self>, start: QueryStart) -> Entry {
        let QueryStart { id, principal, peer, mut statement, kind } = start;
        if statement.len() > STATEMENT_BYTES_KEPT {
            statement.truncate(statement.floor_char_boundary(STATEMENT_BYTES_KEPT));
        }
        let began_us = self.clock.now_us();
        let mut state = self.lock();
        let (cancel, is_cancelled) = watch::channel(state.cancelled.contains(&id));
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
        tracing::info!(
            target: "mallard::query",
            id = record.id, principal = record.principal, kind = record.kind, state = record.state,
            duration_us = record.ended_us - record.began_us, rows = record.rows, bytes = record.bytes,
            peak_memory_bytes = record.peak_memory_bytes, bytes_scanned = record.counts.bytes_scanned,
            error = record.error.as_deref().unwrap_or_default(),
        );
        if state.ended.len() >= QUERIES_KEPT {
            state.ended.pop_front();
        }
        state.ended.push_back(record);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        self.outcome = Some(Outcome::Failed(error.kind(), error.chain()));
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
    Error::new(Kind::Cancelled, "the query was cancelled")
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

/// `inner`, counted in the log. It ends with an error at a cancel, at the deadline, or past the most bytes; when it ends
/// or is dropped, all that it held is free within the same poll.
pub(super) fn watched(
    inner: SendableRecordBatchStream,
    entry: Entry,
    permit: Permit,
    limits: StreamLimits,
    memory: Arc<QueryMemory>,
    counts: Box<dyn Fn() -> Counts + Send + Sync>,
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
    let held = Held { inner, stop: Box::pin(stop), entry, _permit: permit, memory, counts, bytes: 0, result_bytes_max };
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
    _permit: Permit,
    memory: Arc<QueryMemory>,
    counts: Box<dyn Fn() -> Counts + Send + Sync>,
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
        let (peak, counts) = (self.memory.peak_bytes(), (self.counts)());
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

/// What the operators of a plan have counted so far. Pruned files are not theirs to know.
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
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::execution::memory_pool::UnboundedMemoryPool;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures::stream;
    use lakehouse::ManualClock;

    use super::super::admission::{Admission, AdmissionOptions};
    use super::*;

    struct Bench {
        log: Arc<QueryLog>,
        admission: Admission,
    }

    impl Bench {
        fn new() -> Self {
            let options = AdmissionOptions { running_max: 1, waiting_max: 10, wait_max: Duration::from_secs(60) };
            Self { log: QueryLog::new(Arc::new(ManualClock::at(5))), admission: Admission::new(options) }
        }

        fn begin(&self, id: &str) -> Entry {
            let (id, principal, peer) = (id.to_owned(), "ann".to_owned(), String::new());
            self.log.begin(QueryStart { id, principal, peer, statement: "SELECT 1".to_owned(), kind: "select" })
        }

        /// A query that gives three rows of 8 bytes, then nothing for ever.
        async fn query(&self, id: &str, timeout: Option<Duration>, most: Option<u64>) -> SendableRecordBatchStream {
            let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
            let row = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![7]))]).unwrap();
            let rows = stream::iter([Ok(row.clone()), Ok(row.clone()), Ok(row)]).chain(stream::pending());
            let entry = self.begin(id);
            let permit = self.admission.enter("ann").await.unwrap();
            entry.started();
            let limits = StreamLimits {
                deadline: timeout.map(|timeout| Instant::now() + timeout),
                timeout,
                result_bytes_max: most,
            };
            let memory = QueryMemory::new(Arc::new(UnboundedMemoryPool::default()), usize::MAX);
            let inner = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
            watched(inner, entry, permit, limits, memory, Box::new(|| Counts { files_read: 4, ..Counts::default() }))
        }

        /// State, rows and error of the last query; asserts that its place is free again.
        fn last(&self) -> (&'static str, u64, Option<String>) {
            let record = self.log.all().pop().unwrap();
            let place = Box::pin(self.admission.enter("other"));
            assert!(futures::FutureExt::now_or_never(place).is_some(), "its place is not free");
            assert_eq!(record.counts.files_read, 4);
            (record.state, record.rows, record.error)
        }
    }

    async fn drain(mut stream: SendableRecordBatchStream) -> (usize, Error) {
        let mut rows = 0;
        loop {
            match stream.next().await {
                Some(Ok(batch)) => rows += batch.num_rows(),
                Some(Err(error)) => {
                    assert!(stream.next().await.is_none(), "nothing comes behind an error");
                    return (rows, explain(error));
                }
                None => panic!("it ended"),
            }
        }
    }

    #[tokio::test]
    async fn a_cancel_ends_the_stream_and_later_runs_of_the_query() {
        let bench = Bench::new();
        let stream = bench.query("q", None, None).await;
        assert!(!bench.log.cancel("other", "ann"), "nothing of that id runs");
        assert!(!bench.log.cancel("q", "bob"), "another user's");
        let bench_log = Arc::clone(&bench.log);
        let (drained, ()) = tokio::join!(drain(stream), async move {
            tokio::task::yield_now().await;
            assert!(bench_log.cancel("q", "ann"));
        });
        assert_eq!((drained.0, drained.1.kind()), (3, Kind::Cancelled));
        assert_eq!(bench.last().0, "cancelled");
        let later = bench.query("q", None, None).await;
        assert_eq!(drain(later).await.1.kind(), Kind::Cancelled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_ends_at_its_deadline() {
        let bench = Bench::new();
        let (rows, error) = drain(bench.query("q", Some(Duration::from_secs(3)), None).await).await;
        assert_eq!((rows, error.kind()), (3, Kind::Timeout));
        assert!(error.to_string().contains("its 3 s"), "{error}");
        assert_eq!(bench.last().0, "timed out");
    }

    #[tokio::test]
    async fn a_result_ends_at_the_most_bytes() {
        let bench = Bench::new();
        let (rows, error) = drain(bench.query("q", None, Some(20)).await).await;
        assert_eq!((rows, error.kind()), (2, Kind::Exhausted));
        assert_eq!(bench.last().0, "failed");
    }

    #[tokio::test]
    async fn a_reader_who_leaves_frees_its_place_at_once() {
        let bench = Bench::new();
        let mut stream = bench.query("q", None, None).await;
        stream.next().await.unwrap().unwrap();
        assert_eq!(bench.log.all()[0].state, "running");
        drop(stream);
        assert_eq!(bench.last(), ("cancelled", 1, Some("its reader left".to_owned())));
    }

    #[tokio::test]
    async fn the_log_forgets_the_oldest() {
        let bench = Bench::new();
        for n in 0..=QUERIES_KEPT {
            drop(bench.begin(&n.to_string()));
        }
        let all = bench.log.all();
        assert_eq!((all.len(), all[0].id.as_str()), (QUERIES_KEPT, "1"));
    }
}
