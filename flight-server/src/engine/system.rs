//! Schema `system`: tables whose rows are computed when they are read.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::TryStreamExt as _;
use futures::stream;
use lakehouse::Result;

/// The tables of schema `system`: what really happened, for people and tools to query.
#[async_trait]
pub trait SystemTables: Send + Sync + 'static {
    /// Each table's name and columns.
    fn schemas(&self) -> Vec<(String, SchemaRef)>;

    /// The rows of a table, as they are now, in batches of its schema.
    ///
    /// # Errors
    /// `NotFound` if there is no such table, `Unavailable` if its rows can't be had.
    async fn scan(&self, name: &str) -> Result<Vec<RecordBatch>>;
}

/// A provider for the table `name` of `tables`; it scans when a plan runs, not when it is made.
pub(super) fn provider(
    tables: &Arc<dyn SystemTables>,
    name: &str,
    schema: SchemaRef,
) -> DataFusionResult<Arc<dyn TableProvider>> {
    let partition = Scan { tables: Arc::clone(tables), name: name.to_owned(), schema: Arc::clone(&schema) };
    Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(partition)])?))
}

struct Scan {
    tables: Arc<dyn SystemTables>,
    name: String,
    schema: SchemaRef,
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (tables, name) = (Arc::clone(&self.tables), self.name.clone());
        let scan = async move {
            let batches = tables.scan(&name).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok::<_, DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
        };
        let rows = stream::once(scan).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system.{}", self.name)
    }
}
