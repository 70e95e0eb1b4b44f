//! Statements that write: their rows go through the door, as those of a DoPut do.

use std::sync::{Arc, LazyLock};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt as _;
use lakehouse::{Error, Result};
use proto::Receipt;
use tonic::Status;

use super::service::SqlService;
use super::status::{status, unencodable};
use crate::door::{IngestDoor, IngestOptions};
use crate::engine::{Engine, Plan, Who, explain};

/// What a statement that writes gives when it is fetched as a query: how many rows it sent.
pub(super) static COUNT: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, false)])));

/// Ingests the rows of a plan that writes. The same `ingest_id` again adds nothing.
///
/// # Errors
/// `Invalid` if the plan only reads; else as [`Engine::run`] and [`IngestDoor::begin`].
pub(crate) async fn ingest_change(
    engine: &Engine,
    door: &dyn IngestDoor,
    plan: Plan,
    ingest_id: Option<String>,
    who: &Who,
) -> Result<Receipt> {
    let Some(change) = plan.change().cloned() else {
        return Err(Error::invalid(
            "the statement only reads; send it as a query (GetFlightInfo and DoGet), not as an update",
        ));
    };
    let options = IngestOptions { ingest_id, is_partial: false };
    let mut ingest = door.begin(&change.table, Arc::clone(plan.schema()), options).await?;
    let mut batches = engine.run(plan, who).await?;
    while let Some(batch) = batches.next().await {
        ingest.push(batch.map_err(explain)?).await?;
    }
    ingest.finish().await
}

/// The same for a service.
pub(super) async fn apply(
    service: &SqlService,
    plan: Plan,
    ingest_id: Option<String>,
    who: &Who,
) -> Result<Receipt, Status> {
    ingest_change(&service.engine, service.door.as_ref(), plan, ingest_id, who).await.map_err(status)
}

/// The one row that tells how many were sent.
pub(super) fn counted(rows: u64) -> Result<RecordBatch, Status> {
    let count = Int64Array::from_value(i64::try_from(rows).unwrap_or(i64::MAX), 1);
    RecordBatch::try_new(Arc::clone(&COUNT), vec![Arc::new(count)]).map_err(unencodable)
}
