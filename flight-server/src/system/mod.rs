//! Schema `system`: what really happened, told by the Delta logs and by what this process holds.
//!
//! There is no database behind these tables. Commits carry their own story ([`lakehouse::story`]); what is not
//! committed yet is told by the [`Backlog`]. So they can't disagree with the data, and survive any crash.

mod delivery;
mod history;
mod ingests;
mod lacks;
mod lineage;
mod maintenance;
mod models;
mod progress;
mod quarantine;
mod queries;
mod rows;
mod tables;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::execution::SessionState;
use lakehouse::story::{IngestStory, MergeStory, RefreshStory};
use lakehouse::{Clock, Definitions, Error, Lake, Name, Result, delta};
use tokio::sync::watch;

use crate::engine::{QueryLog, SystemTables};
use crate::ingest::{AcceptedIngests, Billing, Traces};
use history::Histories;

/// Memory of the scans behind these tables, in bytes.
const SCAN_MEMORY_BYTES: usize = 64 << 20;
/// What they may spill, in bytes.
const SCAN_SPILL_BYTES_MAX: u64 = 1 << 30;

/// What is under way in this process, beyond what the lake tells.
#[async_trait]
pub trait Backlog: Send + Sync + 'static {
    /// The bronze objects that wait to be merged, by table. One may be merged already, and not be taken off yet.
    ///
    /// # Errors
    /// `Unavailable` if bronze can't be read.
    async fn delivered(&self) -> Result<BTreeMap<Name, Vec<Delivered>>>;

    /// Why the last merge of a table, or the last refresh of a model, failed; nothing for those that did not.
    fn troubles(&self) -> Troubles;

    /// What changes whenever this process has committed to silver or gold.
    fn commits(&self) -> Vec<watch::Receiver<u64>> {
        Vec::new()
    }
}

/// A bronze object that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its key, as the story of its merge will have it.
    pub object: String,
    /// The ingests that have frames in it.
    pub ingests: Vec<IngestStory>,
}

/// What stands still, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// By table.
    pub tables: BTreeMap<Name, String>,
    /// By model.
    pub models: BTreeMap<Name, String>,
}

/// The backlog of a process that merges nothing itself.
pub struct NoBacklog;

#[async_trait]
impl Backlog for NoBacklog {
    async fn delivered(&self) -> Result<BTreeMap<Name, Vec<Delivered>>> {
        Ok(BTreeMap::new())
    }

    fn troubles(&self) -> Troubles {
        Troubles::default()
    }
}

/// The tables of schema `system`.
pub struct System {
    definitions: Arc<Definitions>,
    lake: Lake,
    clock: Arc<dyn Clock>,
    accepted: Arc<AcceptedIngests>,
    billing: Arc<Billing>,
    queries: Arc<QueryLog>,
    backlog: Arc<dyn Backlog>,
    silver: Histories<MergeStory>,
    gold: Histories<RefreshStory>,
    session: Arc<SessionState>,
}

impl System {
    /// The system tables of one lakehouse.
    pub fn new(
        definitions: Arc<Definitions>,
        lake: Lake,
        clock: Arc<dyn Clock>,
        traces: Traces,
        queries: Arc<QueryLog>,
        backlog: Arc<dyn Backlog>,
    ) -> Self {
        let session = delta::session(SCAN_MEMORY_BYTES, SCAN_SPILL_BYTES_MAX);
        let Traces { accepted, billing } = traces;
        let (silver, gold) = (Histories::default(), Histories::default());
        Self { definitions, lake, clock, accepted, billing, queries, backlog, silver, gold, session }
    }
}

#[async_trait]
impl SystemTables for System {
    fn schemas(&self) -> Vec<(String, SchemaRef)> {
        vec![
            ("delivery".to_owned(), delivery::schema()),
            ("ingests".to_owned(), ingests::schema()),
            ("maintenance".to_owned(), maintenance::schema()),
            ("models".to_owned(), models::schema()),
            ("quarantine".to_owned(), quarantine::schema()),
            ("queries".to_owned(), queries::schema()),
            ("tables".to_owned(), tables::schema()),
        ]
    }

    async fn scan(&self, name: &str) -> Result<Vec<RecordBatch>> {
        match name {
            "delivery" => delivery::scan(self),
            "ingests" => ingests::scan(self).await,
            "maintenance" => maintenance::scan(self).await,
            "models" => models::scan(self).await,
            "quarantine" => quarantine::scan(self).await,
            "queries" => queries::scan(self),
            "tables" => tables::scan(self).await,
            _ => Err(Error::not_found(format!(
                "there is no table system.{name}; there are: delivery, ingests, maintenance, models, quarantine, \
                 queries, tables"
            ))),
        }
    }
}
