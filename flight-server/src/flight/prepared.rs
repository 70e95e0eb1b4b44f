//! Prepared statements, whose state the client carries in the handle.

use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::ActionCreatePreparedStatementResult;
use arrow_flight::{IpcMessage, SchemaAsIpc};
use bytes::Bytes;
use tonic::Status;

use super::service::SqlService;
use super::status::{status, unencodable};
use super::tickets::Statement;

/// Plans `statement` to tell its columns, and hands it back as a handle.
pub(super) async fn create(
    service: &SqlService,
    statement: Statement,
) -> Result<ActionCreatePreparedStatementResult, Status> {
    let plan = service.engine.plan_in(&statement.schema, &statement.sql, None).await.map_err(status)?;
    Ok(ActionCreatePreparedStatementResult {
        dataset_schema: message(plan.schema())?,
        // Present even without parameters: ODBC's driver fails on an absent one.
        parameter_schema: message(&Schema::empty())?,
        prepared_statement_handle: statement.encode(service.clock.as_ref()),
    })
}

fn message(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = IpcMessage::try_from(SchemaAsIpc::new(schema, &options)).map_err(unencodable)?;
    Ok(bytes)
}
