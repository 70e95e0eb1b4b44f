//! The whole lakehouse in one process: the delivery stream, and the Lambdas' handlers behind in-process triggers.
//!
//! ```text
//!  Door ─► LocalDelivery ─► bronze object ─► LocalQueue ──announced──► merging (bronze-to-silver)
//!                                                                         │ silver changed
//!                                              timers ──due──► refreshing (gold-refresh)
//!                                       versions, a timer ──due──► maintaining (table-maintenance)
//! ```
//!
//! What AWS does with S3 events, SQS and EventBridge is done here with a folder and a few channels; the handlers are the
//! same. Only this module knows the Lambdas' libraries.

mod check;
mod demo;
#[cfg(test)]
mod faults;
mod maintaining;
mod merging;
mod pending;
mod refreshing;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bronze_to_silver::Merger;
use bytes::Bytes;
use futures::FutureExt as _;
use gold_refresh::{Plan, Refresher};
use lakehouse::{Clock, Definitions, Lake, Name, Result};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use check::check;
pub(crate) use check::describe;
pub use demo::{DemoOptions, run as demo};
pub(crate) use replay::run as replay;

use crate::delivery::{DeliveryStream, LocalDelivery, LocalDeliveryOptions, LocalQueue};
use crate::replays::Replays;
use crate::system::{Backlog, Delivered, Troubles};
use maintaining::Due;
use pending::Pending;
use replay::LocalReplays;

/// Merges at once: each has DuckDB's and Delta's memory, so one at a time keeps a laptop's memory bounded.
const MERGES_MAX: usize = 1;

/// How long a merge or refresh that runs when the process stops may go on. Dying in one loses nothing.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// The pause before a worker that panicked is started again.
const RESTART: Duration = Duration::from_secs(1);

/// What the workers have done since the start, for progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rows of frames that were merged into silver.
    pub merged_rows: u64,
    /// Merges that committed.
    pub merges: u64,
    /// Model versions that were published.
    pub refreshes: u64,
}

/// State that the workers share.
pub(crate) struct Shared {
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) queue: Arc<LocalQueue>,
    pub(crate) pending: Pending,
    pub(crate) merges: Semaphore,
    /// The tables that wait for maintenance, in turn with merges and refreshes.
    pub(crate) due: Due,
    troubles: Mutex<Troubles>,
    done: Mutex<Done>,
    /// Counts silver commits.
    pub(crate) silver_changed: watch::Sender<u64>,
    /// Whether all models are to be refreshed in the next round, whatever their timers say.
    pub(crate) all_due: AtomicBool,
    /// Whether the gold models have caught up with this count of silver commits.
    pub(crate) gold_caught_up: watch::Sender<u64>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Shared {
    pub(crate) fn note(&self, change: impl FnOnce(&mut Troubles, &mut Done)) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut troubles, &mut done);
    }

    /// Has all models refreshed, as if silver had changed and all timers were due.
    pub(crate) fn refresh_all(&self) {
        self.all_due.store(true, Ordering::SeqCst);
        self.silver_changed.send_modify(|count| *count += 1);
    }

    /// Completes when the process stops.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as `Local`; if it is gone, so is the process.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

#[async_trait]
impl Backlog for Shared {
    async fn delivered(&self) -> Result<BTreeMap<Name, Vec<Delivered>>> {
        self.pending.stories(&self.queue, self.definitions.now().tables.keys()).await
    }

    fn commits(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.silver_changed.subscribe(), self.gold_caught_up.subscribe()]
    }

    fn troubles(&self) -> Troubles {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs a worker until it ends by itself. One that panics is started again: its work lies in the queue and the lake,
/// not in it.
async fn supervise<F: Future<Output = ()> + Send>(what: String, worker: impl Fn() -> F) {
    while let Err(panic) = AssertUnwindSafe(worker()).catch_unwind().await {
        let reason = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        tracing::error!(reason, "the {what} panicked; they go on in {} s", RESTART.as_secs());
        tokio::time::sleep(RESTART).await;
    }
}

/// Runs a worker a table, those that ingests make included, until the process stops.
async fn merge_tables(shared: Arc<Shared>, merger: Arc<Merger>) {
    let mut declared = shared.definitions.watch();
    let (mut workers, mut known) = (JoinSet::new(), BTreeSet::new());
    loop {
        let definition = Arc::clone(&declared.borrow_and_update());
        for table in definition.tables.keys().filter(|table| known.insert((*table).clone())) {
            let (table, shared, merger) = (table.clone(), Arc::clone(&shared), Arc::clone(&merger));
            workers.spawn(supervise(format!("merges of table {table}"), move || {
                merging::run(table.clone(), Arc::clone(&shared), Arc::clone(&merger))
            }));
        }
        tokio::select! {
            changed = declared.changed() => if changed.is_err() { break },
            () = shared.stopped() => break,
        }
    }
    while workers.join_next().await.is_some() {}
}

/// The journals, which carry a table as soon as it is declared.
struct LocalStream {
    journals: Arc<LocalDelivery>,
    definitions: Arc<Definitions>,
}

#[async_trait]
impl DeliveryStream for LocalStream {
    async fn put(&self, table: &Name, records: Vec<Bytes>) -> Result<()> {
        if !self.journals.carries(table) && self.definitions.now().tables.contains_key(table) {
            let (journals, table) = (Arc::clone(&self.journals), table.clone());
            let carried = tokio::task::spawn_blocking(move || journals.carry(&table)).await;
            carried.map_err(|error| lakehouse::Error::internal("opening a journal died").because(error))??;
        }
        self.journals.put(table, records).await
    }

    async fn close(&self) -> Result<()> {
        self.journals.close().await
    }
}

/// The delivery stream and the workers of one data folder.
pub struct Local {
    stream: Arc<LocalStream>,
    shared: Arc<Shared>,
    merger: Arc<Merger>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Local {
    /// Opens a data folder, delivers what an earlier process left, and starts the workers.
    ///
    /// # Errors
    /// `Conflict` if another process uses the folder, `Unavailable` if it can't be read or written.
    pub async fn start(
        definitions: &Arc<Definitions>,
        plan: Plan,
        lake: Lake,
        data: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let definition = definitions.now();
        let tables: Vec<Name> = definition.tables.keys().cloned().collect();
        let (folder, its_clock) = (data.to_owned(), Arc::clone(&clock));
        let opened = tokio::task::spawn_blocking(move || {
            LocalDelivery::open(&folder, tables, LocalDeliveryOptions::default(), its_clock)
        });
        let (stream, queue) = opened
            .await
            .map_err(|error| lakehouse::Error::internal("opening the data folder died").because(error))??;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            definitions: Arc::clone(definitions),
            queue,
            pending: Pending::new(data.to_owned()),
            merges: Semaphore::new(MERGES_MAX),
            due: Due::default(),
            troubles: Mutex::default(),
            done: Mutex::default(),
            // The first round looks at every model, whatever changed while no process ran.
            silver_changed: watch::Sender::new(1),
            all_due: AtomicBool::new(false),
            gold_caught_up: watch::Sender::new(0),
            stop: stopped,
        });
        let spill = |kind: &str| Some(data.join("spill").join(kind));
        let merger = Arc::new(Merger::new(
            Arc::clone(definitions),
            lake.clone(),
            Arc::clone(&clock),
            merging::settings(spill("merge")),
        ));
        let maintenance = maintaining::keep(Arc::clone(&shared), lake.clone(), Arc::clone(&clock));
        let refresher = Arc::new(Refresher::new(
            definition,
            plan,
            lake,
            Arc::clone(&clock),
            refreshing::settings(spill("refresh")),
        ));
        let mut workers = JoinSet::new();
        let (its, its_merger) = (Arc::clone(&shared), Arc::clone(&merger));
        workers.spawn(async move { merge_tables(its, its_merger).await });
        let its = Arc::clone(&shared);
        workers.spawn(supervise("refreshes".to_owned(), move || {
            refreshing::run(Arc::clone(&its), Arc::clone(&refresher), Arc::clone(&clock))
        }));
        workers.spawn(maintenance);
        let stream = Arc::new(LocalStream { journals: Arc::new(stream), definitions: Arc::clone(definitions) });
        Ok(Self { stream, shared, merger, stop, workers })
    }

    /// Where accepted rows go.
    pub fn stream(&self) -> Arc<dyn DeliveryStream> {
        Arc::clone(&self.stream) as _
    }

    /// What the system tables are told.
    pub fn backlog(&self) -> Arc<dyn Backlog> {
        Arc::clone(&self.shared) as _
    }

    /// What merges quarantine's rows.
    pub fn replays(&self) -> Arc<dyn Replays> {
        Arc::new(LocalReplays { shared: Arc::clone(&self.shared), merger: Arc::clone(&self.merger) })
    }

    /// What can be watched from outside the workers.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Delivers what was accepted, lets the running merge and refresh end, drops what maintenance does, and stops.
    ///
    /// # Errors
    /// `Unavailable` if something could not be delivered; it stays in the journal.
    pub async fn stop(mut self) -> Result<()> {
        let closed = self.stream.close().await;
        self.stop.send_replace(true);
        let ended = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, ended).await.is_err() {
            tracing::warn!("a merge or refresh still ran; it is done again at the next start");
        }
        closed
    }
}

impl Shared {
    /// What the workers have done so far.
    pub(crate) fn done(&self) -> Done {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
