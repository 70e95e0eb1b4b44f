//! Statements that write: their rows go through the door, as those of a DoPut do.

use std::sync::{Arc, LazyLock};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt as _;
use lakehouse::Error;
use tonic::Status;

use super::service::SqlService;
use super::status::{status, unencodable};
use crate::engine::{Plan, Who, explain};

/// What a statement that writes gives when it is fetched as a query: how many rows it sent.
pub(super) static COUNT: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, false)])));

/// What became of a change.
pub(super) struct Applied {
    pub(super) rows: u64,
    pub(super) ingest_id: String,
}

/// Ingests the rows of a plan that writes. The same `ingest_id` again adds nothing.
pub(super) async fn apply(
    service: &SqlService,
    plan: Plan,
    ingest_id: Option<String>,
    who: &Who,
) -> Result<Applied, Status> {
    let Some(change) = plan.change().cloned() else {
        return Err(status(Error::invalid(
            "the statement only reads; send it as a query (GetFlightInfo and DoGet), not as an update",
        )));
    };
    let mut ingest = service.door.begin(&change.table, Arc::clone(plan.schema()), ingest_id).await.map_err(status)?;
    let mut batches = service.engine.run(plan, who).await.map_err(status)?;
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|error| status(explain(error)))?;
        ingest.push(batch).await.map_err(status)?;
    }
    let receipt = ingest.finish().await.map_err(status)?;
    Ok(Applied { rows: receipt.rows, ingest_id: receipt.ingest_id })
}

/// The one row that tells how many were sent.
pub(super) fn counted(rows: u64) -> Result<RecordBatch, Status> {
    let count = Int64Array::from_value(i64::try_from(rows).unwrap_or(i64::MAX), 1);
    RecordBatch::try_new(Arc::clone(&COUNT), vec![Arc::new(count)]).map_err(unencodable)
}
