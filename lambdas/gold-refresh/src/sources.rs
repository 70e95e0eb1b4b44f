//! The tables that models read, at one version each, loaded into one DuckDB as they are needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use duck::{Duck, quote};
use futures::StreamExt;
use lakehouse::definition::Definition;
use lakehouse::schema::{arrow_schema, known_columns};
use lakehouse::{Error, Lake, Layer, Result, delta};
use tokio::sync::mpsc;

use crate::plan::Input;

/// Batches that wait between Delta's reader and DuckDB.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// One DuckDB for all models of a round, and the snapshots that they read.
pub(crate) struct Sources {
    lake: Lake,
    session: Arc<SessionState>,
    /// `None`: nothing was ever committed to it.
    snapshots: BTreeMap<Input, Option<DeltaTable>>,
    /// `None` while a blocking task has it.
    duck: Option<Duck>,
    loaded: std::collections::BTreeSet<Input>,
}

impl Sources {
    pub(crate) fn new(lake: Lake, session: Arc<SessionState>, duck: Duck) -> Self {
        Self { lake, session, snapshots: BTreeMap::new(), duck: Some(duck), loaded: Default::default() }
    }

    /// The snapshot of a table in this round: its newest when it was first asked for.
    pub(crate) async fn snapshot(&mut self, input: &Input) -> Result<Option<&DeltaTable>> {
        if !self.snapshots.contains_key(input) {
            let table = self.lake.open(input.0, &input.1).await?;
            self.snapshots.insert(input.clone(), table);
        }
        Ok(self.snapshots.get(input).and_then(Option::as_ref))
    }

    /// The version of a table in this round.
    pub(crate) async fn version(&mut self, input: &Input) -> Result<Option<u64>> {
        Ok(self.snapshot(input).await?.map(delta::version))
    }

    /// Takes a model's new version as its snapshot. `is_loaded`: DuckDB already has its rows.
    pub(crate) fn published(&mut self, input: Input, table: DeltaTable, is_loaded: bool) {
        self.snapshots.insert(input.clone(), Some(table));
        if is_loaded {
            self.loaded.insert(input);
        } else {
            self.loaded.remove(&input);
        }
    }

    /// Loads a table under its own name, `silver.x` or `gold.x`, unless it is there. One that was never written is
    /// empty, with its declared columns.
    pub(crate) async fn load(&mut self, definition: &Definition, input: &Input) -> Result<()> {
        if self.loaded.contains(input) {
            return Ok(());
        }
        let name = sql_name(input);
        self.snapshot(input).await?;
        match self.snapshots.get(input).cloned().flatten() {
            Some(table) => self.load_snapshot(&name, &table).await?,
            None => {
                let columns = known_columns(definition.table(input.1.as_str())?, None)?;
                let schema = arrow_schema(&columns);
                self.run(move |duck| duck.load(&name, schema, Vec::new())).await?;
            }
        }
        self.loaded.insert(input.clone());
        Ok(())
    }

    /// Loads a snapshot as the table `name`, streaming.
    pub(crate) async fn load_snapshot(&mut self, name: &str, table: &DeltaTable) -> Result<()> {
        let mut stream = delta::read(table, &self.session, None, None).await?;
        let schema = stream.schema();
        let (sender, receiver) = mpsc::channel::<Result<RecordBatch, ArrowError>>(BATCHES_IN_FLIGHT_MAX);
        let reader = tokio::spawn(async move {
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(|error| ArrowError::ExternalError(Box::new(error)));
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
        });
        let name = name.to_owned();
        let loaded = self.run(move |duck| duck.load(&name, schema, Received(receiver))).await;
        reader.abort();
        loaded
    }

    /// Runs blocking work with the DuckDB.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Duck) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut duck =
            self.duck.take().ok_or_else(|| Error::internal("the round's DuckDB was lost with an earlier step"))?;
        let (duck, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut duck);
            (duck, result)
        })
        .await
        .map_err(|error| Error::internal("the refresh's DuckDB thread died").because(error))?;
        self.duck = Some(duck);
        result
    }
}

/// `silver."x"`.
pub(crate) fn sql_name((layer, name): &Input) -> String {
    format!("{layer}.{}", quote(name.as_str()))
}

/// `silver.x`, as stories and people write it.
pub(crate) fn plain_name((layer, name): &Input) -> String {
    debug_assert!(matches!(layer, Layer::Silver | Layer::Gold), "models read no other layer");
    format!("{layer}.{name}")
}

struct Received(mpsc::Receiver<Result<RecordBatch, ArrowError>>);

impl Iterator for Received {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.blocking_recv()
    }
}
