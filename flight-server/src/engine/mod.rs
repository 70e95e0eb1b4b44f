//! The query engine: SQL and Substrait over the lake's Delta tables, and nothing that knows of the network.
//!
//! Clients plan a query in one call and fetch it in another, perhaps on another server, while tables change in
//! between. So planning yields what it decided ([`Pinned`]), and planning again with that gives the same plan over the
//! same rows:
//!
//! ```text
//! plan(request)          ──► newest snapshots ──► Plan { schema, versions, slices }     GetFlightInfo
//! plan(request, pinned) ───► those snapshots ───► the same Plan ──► run()               DoGet, and each retry of it
//! ```
//!
//! Each query has a session of its own, with a catalog that resolves names when they are first used, and a share of
//! memory; spill space, caches and object stores are shared by all ([`EngineOptions`]). A result's schema is made in
//! one place (`shape`): what is announced is what is streamed. Statements that write are planned as the query for the
//! rows that they would send ([`changes`](Change)); who runs them ingests these.

mod admission;
mod catalog;
mod changes;
mod errors;
#[cfg(test)]
pub(crate) mod fixture;
mod information;
mod interrupt;
mod limits;
mod memory;
mod metadata_scan;
mod parameters;
mod plan;
mod request;
mod running;
mod session;
mod shape;
mod slices;
mod snapshots;
mod system;
#[cfg(test)]
pub(crate) mod tests;
mod text;
#[cfg(test)]
mod travel_tests;
mod values;
mod waiting;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::{SendableRecordBatchStream, SessionState};
use lakehouse::definition::Definition;
use lakehouse::{Clock, Definitions, Error, Kind, Lake, Result};

pub use admission::AdmissionOptions;
pub use catalog::{CatalogTable, GOLD, SCHEMAS, SILVER, SYSTEM};
pub use changes::Change;
pub use errors::explain;
pub use limits::{EXPRESSION_DEPTH_MAX, SET_OPERATIONS_MAX, SQL_BYTES_MAX, SQL_OPERATORS_MAX, TABLES_MAX};
pub use parameters::{PARAMETER_ROWS_MAX, one_batch};
pub use plan::{Description, Plan};
pub use request::{Pinned, QueryText, Request, Slice};
pub use running::{Counts, QueryLog, QueryRecord};
pub use shape::{batch_bytes, plain_schema};
pub use slices::SLICES_MAX;
pub use snapshots::{NEVER_COMMITTED, Versions};
pub use system::SystemTables;
pub use text::timestamp_us;
pub use waiting::{Awaited, Ingests, Newest, WAIT_FOR_INGESTS_MAX, WAIT_FOR_SECONDS_DEFAULT, Wait, awaited_list};

use admission::Admission;
use catalog::{QueryCatalog, Source};
use memory::QueryMemory;
use plan::Planner;
use running::{Holding, QueryStart, StreamLimits, counts, watched};
use snapshots::Snapshots;
use workers::Workers;

/// What the engine may use.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory that all queries share, in bytes. Operators reserve from it and spill when it is used up; the
    /// process takes more than this, so give it at most 60% of the machine.
    pub memory_bytes: usize,
    /// Where operators spill to; created if missing.
    pub spill_dir: PathBuf,
    /// The most that spilled data may take, in bytes.
    pub spill_bytes_max: u64,
    /// How many queries run at once, and how many wait.
    pub admission: AdmissionOptions,
    /// How long a query may take, waiting included; none: as long as it likes.
    pub timeout: Option<Duration>,
    /// The most that a result may have, in bytes of Arrow memory; none: no limit.
    pub result_bytes_max: Option<u64>,
    /// How many bytes of files one slice of a large result covers.
    pub slice_bytes: u64,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub principal: String,
    /// The address that the call came from; empty if it is not known.
    pub peer: String,
}

/// Plans and runs statements over one lakehouse.
pub struct Engine {
    source: Arc<Source>,
    base: SessionState,
    workers: Arc<Workers>,
    clock: Arc<dyn Clock>,
    log: Arc<QueryLog>,
    admission: Admission,
    options: EngineOptions,
    /// None: nothing is known of ingests, so none is waited for.
    ingests: Option<Arc<dyn Ingests>>,
}

/// How far a query is, from 0 to 1, as long as it runs.
pub type Progress = Box<dyn Fn() -> f64 + Send + Sync>;

impl Engine {
    /// An engine for `definitions` over `lake`, with the tables of schema `system` from `system`, which notes in `log`
    /// what runs.
    ///
    /// # Errors
    /// `Invalid` if the spill folder can't be used, `Unavailable` if there are no threads to be had.
    pub fn new(
        definitions: Arc<Definitions>,
        lake: Lake,
        system: Arc<dyn SystemTables>,
        clock: Arc<dyn Clock>,
        log: Arc<QueryLog>,
        options: EngineOptions,
    ) -> Result<Self> {
        let base = session::base(&options)?;
        let session = Arc::new(base.clone());
        let source = Arc::new(Source { definitions, snapshots: Snapshots::new(lake), system, session });
        let admission = Admission::new(options.admission.clone());
        let workers = Arc::new(Workers::start()?);
        Ok(Self { source, base, workers, clock, log, admission, options, ingests: None })
    }

    /// The same engine, whose queries can wait for ingests.
    #[must_use]
    pub fn with_ingests(self, ingests: Arc<dyn Ingests>) -> Self {
        Self { ingests: Some(ingests), ..self }
    }

    /// What is declared now.
    pub fn definition(&self) -> Arc<Definition> {
        self.source.definitions.now()
    }

    /// Tells what a statement gives and takes, without values for its parameters. Ingests that the session names are
    /// waited for only if it can't be told without them: they may bring the first columns of a table.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub async fn describe(&self, request: Request) -> Result<Description> {
        let awaited = request.awaited()?;
        match self.describe_now(request.clone()).await {
            Err(error) if error.kind() == Kind::NotFound && !awaited.is_empty() => {
                self.wait_for_ingests(&request).await?;
                self.describe_now(request).await
            }
            described => described,
        }
    }

    async fn describe_now(&self, request: Request) -> Result<Description> {
        let planner = self.planner(&request);
        let asked = request.clone();
        match self.workers.run(async move { planner.describe(&asked).await }).await {
            Err(error) if self.knows_more(&error).await => {
                let planner = self.planner(&request);
                self.workers.run(async move { planner.describe(&request).await }).await
            }
            described => described,
        }
    }

    /// Plans a statement, over the newest snapshots or over those that are pinned. If the session names ingests, waits
    /// until the newest snapshots contain them.
    ///
    /// # Errors
    /// `Invalid` if the statement is wrong or refused, `NotFound` if a table has no columns yet or a version is gone,
    /// `Exhausted` if it is too long or too deep, `Unavailable` if the lake can't be read, `Timeout` if an ingest is
    /// not there in time.
    pub async fn plan(&self, request: Request) -> Result<Plan> {
        self.wait_for_ingests(&request).await?;
        let planner = self.planner(&request);
        let asked = request.clone();
        match self.workers.run(async move { planner.plan(asked).await }).await {
            Err(error) if self.knows_more(&error).await => {
                let planner = self.planner(&request);
                self.workers.run(async move { planner.plan(request).await }).await
            }
            planned => planned,
        }
    }

    /// Waits until what a request reads contains the ingests that its session names; without a slot or a thread.
    async fn wait_for_ingests(&self, request: &Request) -> Result<()> {
        let awaited = request.awaited()?;
        if awaited.is_empty() {
            return Ok(());
        }
        let Some(ingests) = &self.ingests else {
            return Err(Error::invalid(
                "this server knows nothing of ingests, so it can't wait for any; unset wait_for",
            ));
        };
        // Another server may have made the table.
        self.source.definitions.refresh().await?;
        let (planner, asked) = (self.planner(request), request.clone());
        let reads = self.workers.run(async move { planner.reads(asked).await }).await?;
        if reads.is_empty() {
            return Ok(());
        }
        let own = request.session.timeout_ms.map(Duration::from_millis);
        let limit = own.unwrap_or(Duration::from_secs(WAIT_FOR_SECONDS_DEFAULT));
        let limit = self.options.timeout.map_or(limit, |most| limit.min(most));
        ingests.wait(&Wait { awaited, reads, limit }, &Newest::new(&self.source, &self.workers)).await
    }

    /// Whether a statement failed before the engine learned of tables that another server made.
    async fn knows_more(&self, error: &Error) -> bool {
        if !matches!(error.kind(), Kind::Invalid | Kind::NotFound) {
            return false;
        }
        let known = self.source.definitions.now();
        match self.source.definitions.refresh().await {
            Ok(newest) => !Arc::ptr_eq(&known, &newest),
            Err(error) => {
                tracing::warn!(error = error.chain(), "can't look for new tables");
                false
            }
        }
    }

    fn planner(&self, request: &Request) -> Planner {
        let versions = request.pinned.as_ref().map(|pinned| pinned.versions.clone());
        let planned_at_us = request.pinned.as_ref().map_or_else(|| self.clock.now_us(), |pinned| pinned.planned_at_us);
        let limit = request.session.memory_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let limit = limit.unwrap_or(usize::MAX).min(self.options.memory_bytes);
        let memory = QueryMemory::new(Arc::clone(&self.base.runtime_env().memory_pool), limit);
        let catalog = Arc::new(QueryCatalog::new(Arc::clone(&self.source), versions, request.session.as_of_us));
        let session = session::for_query(
            &self.base,
            &session::ForQuery {
                catalog_name: &catalog.definition().name,
                default_schema: request.schema(),
                catalog: &catalog,
                memory: &memory,
                planned_at_us,
            },
        );
        Planner { session, catalog, memory, planned_at_us, slice_bytes: self.options.slice_bytes }
    }

    /// Runs a plan, once there is room. The stream has exactly the plan's schema; dropping it stops the work and frees
    /// all that it held.
    ///
    /// # Errors
    /// `Exhausted` or `Unavailable` if too many queries run and wait, `Timeout` and `Cancelled` as they say. What goes
    /// wrong later comes in the stream, for [`explain`] to map.
    pub async fn run(&self, plan: Plan, who: &Who) -> Result<SendableRecordBatchStream> {
        self.run_with_progress(plan, who).await.map(|(stream, _)| stream)
    }

    /// As [`Engine::run`], with a way to ask how far it is: the part of the input's bytes that has been read.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub async fn run_with_progress(&self, mut plan: Plan, who: &Who) -> Result<(SendableRecordBatchStream, Progress)> {
        let mut entry = self.log.begin(QueryStart {
            id: plan.id().to_owned(),
            principal: who.principal.clone(),
            peer: who.peer.clone(),
            statement: plan.shown().to_owned(),
            kind: plan.kind(),
        });
        let own = plan.timeout_ms.map(Duration::from_millis);
        let timeout = own.into_iter().chain(self.options.timeout).min();
        let deadline = timeout.and_then(|timeout| tokio::time::Instant::now().checked_add(timeout));
        let permit = match running::until(
            &entry,
            deadline,
            timeout,
            self.admission.enter(&format!("{}@{}", who.principal, who.peer)),
        )
        .await
        {
            Ok(permit) => permit,
            Err(error) => {
                entry.fail(&error);
                return Err(error);
            }
        };
        entry.started();
        let operators = plan.operators();
        let (memory, interrupt) = (Arc::clone(&plan.memory), std::mem::take(&mut plan.interrupt));
        let total = plan.file_bytes();
        let (reading, files) = (operators.clone(), plan.files());
        let stream = match plan.execute(&self.workers) {
            Ok(stream) => stream,
            Err(error) => {
                entry.fail(&error);
                return Err(error);
            }
        };
        let limits = StreamLimits { deadline, timeout, result_bytes_max: self.options.result_bytes_max };
        let read = move || {
            let counts = running::sum(reading.iter().map(counts));
            running::Counts { files_pruned: files.saturating_sub(counts.files_read), ..counts }
        };
        let progress = move || match total {
            0 => 0.0,
            total => (running::sum(operators.iter().map(counts)).bytes_scanned as f64 / total as f64).min(1.0),
        };
        let held = Holding { permit, memory, interrupt, counts: Box::new(read) };
        Ok((watched(stream, entry, limits, held), Box::new(progress)))
    }

    /// Stops the runs of a query on this server, and refuses further ones. Whether there were any.
    pub fn cancel(&self, id: &str, principal: &str) -> bool {
        self.log.cancel(id, principal)
    }

    /// How long a query may take at most.
    pub fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    /// All tables, sorted by schema and name, with the columns they have now.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read.
    pub async fn catalog(&self) -> Result<Vec<CatalogTable>> {
        let catalog = QueryCatalog::new(Arc::clone(&self.source), None, None);
        self.workers.run(async move { catalog.list().await }).await
    }
}
