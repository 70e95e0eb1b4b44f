//! Prepared statements, whose state the client carries in the handle: the statement, its session, the values bound.

use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::{IpcMessage, SchemaAsIpc};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::service::SqlService;
use super::status::{status, unencodable};
use super::tickets::Statement;
use crate::engine::{Description, Request, Who};

/// ActionCreatePreparedStatementResult, with the field that arrow-flight does not generate yet:
/// <https://github.com/apache/arrow/blob/main/format/FlightSql.proto>.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Prepared {
    #[prost(bytes = "bytes", tag = "1")]
    prepared_statement_handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    is_update: Option<bool>,
}

impl prost::Name for Prepared {
    const PACKAGE: &'static str = "arrow.flight.protocol.sql";
    const NAME: &'static str = "ActionCreatePreparedStatementResult";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

/// DoPutPreparedStatementResult: the handle to use from now on.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Bound {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) prepared_statement_handle: Option<Bytes>,
}

/// Plans `statement` to tell its columns and parameters, and hands it back as a handle.
pub(super) async fn create(service: &SqlService, mut statement: Statement, who: &Who) -> Result<Prepared, Status> {
    let description = describe(service, &statement).await?;
    statement.is_update = description.is_update;
    let handle = statement.encode(service.seals(&who.principal)).map_err(status)?;
    Ok(Prepared {
        // Empty for what writes: older JDBC drivers take that for an update.
        dataset_schema: if description.is_update { Bytes::new() } else { message(&description.schema)? },
        // Present even without parameters: ODBC's driver fails on an absent one.
        parameter_schema: message(&description.parameters)?,
        prepared_statement_handle: handle,
        is_update: Some(description.is_update),
    })
}

/// What `statement` gives and takes, whatever is bound to it.
pub(super) async fn describe(service: &SqlService, statement: &Statement) -> Result<Description, Status> {
    let request = Request {
        id: service.new_id(),
        text: statement.text.clone(),
        session: statement.session.clone(),
        parameters: None,
        pinned: None,
    };
    service.engine.describe(request).await.map_err(status)
}

/// A schema as the protocol's messages have it.
pub(super) fn message(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = IpcMessage::try_from(SchemaAsIpc::new(schema, &options)).map_err(unencodable)?;
    Ok(bytes)
}
