//! The query engine: SQL over the lake's Delta tables, and nothing that knows of the network.
//!
//! Clients plan a query in one call and fetch it in another, perhaps on another server, while tables change in
//! between. So planning yields the Delta versions it read ([`Versions`]), and planning again with these pinned gives
//! the same plan over the same rows:
//!
//! ```text
//! plan(sql, None)          ──► newest snapshots ──► Plan { schema, versions }     GetFlightInfo
//! plan(sql, Some(versions)) ─► those snapshots ───► the same Plan ──► execute()   DoGet, and each retry of it
//! ```
//!
//! Each query has a session of its own, with a catalog that resolves names when they are first used; memory, spill
//! space, caches and object stores are shared by all ([`EngineOptions`]). A result's schema is made in one place
//! (`shape`): what is announced is what is streamed. SQL only reads; rows come by ingest.

mod catalog;
mod errors;
#[cfg(test)]
pub(crate) mod fixture;
mod limits;
mod plan;
mod session;
mod shape;
mod snapshots;
mod system;
#[cfg(test)]
pub(crate) mod tests;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::{SendableRecordBatchStream, SessionState};
use lakehouse::definition::Definition;
use lakehouse::{Lake, Result};

pub use catalog::{CatalogTable, GOLD, SCHEMAS, SILVER, SYSTEM};
pub use errors::explain;
pub use limits::{EXPRESSION_DEPTH_MAX, SET_OPERATIONS_MAX, SQL_BYTES_MAX, SQL_OPERATORS_MAX, TABLES_MAX};
pub use plan::Plan;
pub use shape::plain_schema;
pub use snapshots::{NEVER_COMMITTED, Versions};
pub use system::SystemTables;

use catalog::{QueryCatalog, Source};
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
}

/// Plans and runs SQL over one lakehouse.
pub struct Engine {
    source: Arc<Source>,
    base: SessionState,
    workers: Workers,
}

impl Engine {
    /// An engine for `definition` over `lake`, with the tables of schema `system` from `system`.
    ///
    /// # Errors
    /// `Invalid` if the spill folder can't be used, `Unavailable` if there are no threads to be had.
    pub fn new(
        definition: Arc<Definition>,
        lake: Lake,
        system: Arc<dyn SystemTables>,
        options: EngineOptions,
    ) -> Result<Self> {
        let base = session::base(&options)?;
        let session = Arc::new(base.clone());
        let source = Arc::new(Source { definition, snapshots: Snapshots::new(lake), system, session });
        Ok(Self { source, base, workers: Workers::start()? })
    }

    /// What is declared.
    pub fn definition(&self) -> &Definition {
        &self.source.definition
    }

    /// Plans `sql` with [`GOLD`] as its default schema; see [`Engine::plan_in`].
    ///
    /// # Errors
    /// As [`Engine::plan_in`].
    pub async fn plan(&self, sql: &str, pinned: Option<&Versions>) -> Result<Plan> {
        self.plan_in(GOLD, sql, pinned).await
    }

    /// Plans `sql`, with names without a schema taken from `schema`, over the newest snapshots or over those `pinned`.
    ///
    /// # Errors
    /// `Invalid` if the statement is wrong or would write, `NotFound` if a table has no columns yet or a pinned
    /// version is gone, `Exhausted` if it is too long or too deep, `Unavailable` if the lake can't be read.
    pub async fn plan_in(&self, schema: &str, sql: &str, pinned: Option<&Versions>) -> Result<Plan> {
        let catalog = Arc::new(QueryCatalog::new(Arc::clone(&self.source), pinned.cloned()));
        let session = session::for_query(&self.base, &self.source.definition.name, schema, &catalog);
        let sql = sql.to_owned();
        self.workers.run(async move { plan::plan(session, &catalog, &sql).await }).await
    }

    /// Runs a plan. The stream has exactly the plan's schema; dropping it stops the work.
    ///
    /// # Errors
    /// `Unavailable` if the server is stopping. What goes wrong later comes in the stream, for [`explain`] to map.
    pub fn execute(&self, plan: Plan) -> Result<SendableRecordBatchStream> {
        plan.execute(&self.workers)
    }

    /// All tables, sorted by schema and name, with the columns they have now.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read.
    pub async fn catalog(&self) -> Result<Vec<CatalogTable>> {
        let catalog = QueryCatalog::new(Arc::clone(&self.source), None);
        self.workers.run(async move { catalog.list().await }).await
    }
}
