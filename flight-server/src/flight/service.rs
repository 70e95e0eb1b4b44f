//! Flight SQL's commands, routed: which module answers what.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::server::FlightSqlService;
use arrow_flight::sql::{
    ActionBeginSavepointRequest, ActionBeginSavepointResult, ActionBeginTransactionRequest,
    ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    ActionCreatePreparedSubstraitPlanRequest, ActionEndSavepointRequest, ActionEndTransactionRequest, Any, Command,
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandStatementQuery, CommandStatementSubstraitPlan, ProstMessageExt, SqlInfo,
    TicketStatementQuery,
};
use arrow_flight::{Action, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket};
use async_trait::async_trait;
use futures::{Stream, StreamExt as _, stream};
use lakehouse::{Clock, Error, Result as MallardResult};
use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::ingest::IngestDoor;
use super::statements::{self, DataStream};
use super::status::{status, unencodable, unimplemented};
use super::tickets::Statement;
use super::transport::{FlightService as Transport, short_name};
use super::{actions, metadata, prepared, sql_info, xdbc};
use crate::engine::Engine;

/// What a client that brings a user name is given: it must get something, and nobody is told apart yet.
const ANYONE: &str = "Bearer anyone";

const NO_TRANSACTIONS: &str =
    "there are no transactions: each query reads one snapshot, each ingest is kept as a whole";
const NO_SUBSTRAIT: &str = "Substrait plans are not understood; send SQL";

type Info = Result<Response<FlightInfo>, Status>;
type Data = Result<Response<DataStream>, Status>;

/// Everything the commands are answered from.
#[derive(Clone)]
pub struct SqlService {
    pub(super) engine: Arc<Engine>,
    pub(super) door: Arc<dyn IngestDoor>,
    pub(super) clock: Arc<dyn Clock>,
    infos: Arc<SqlInfoData>,
    types: Arc<XdbcTypeInfoData>,
}

impl SqlService {
    pub(super) fn new(engine: Arc<Engine>, door: Arc<dyn IngestDoor>, clock: Arc<dyn Clock>) -> MallardResult<Self> {
        let broken = |error: FlightError| Error::internal("can't build the server's own description").because(error);
        let infos = Arc::new(sql_info::infos().map_err(broken)?);
        let types = Arc::new(xdbc::types().map_err(broken)?);
        Ok(Self { engine, door, clock, infos, types })
    }
}

fn statement(sql: String, metadata: &MetadataMap, transaction: Option<&bytes::Bytes>) -> Result<Statement, Status> {
    if transaction.is_some_and(|id| !id.is_empty()) {
        return Err(unimplemented(NO_TRANSACTIONS));
    }
    Ok(Statement { sql, schema: actions::default_schema(metadata) })
}

/// A metadata command is its own ticket.
fn info(command: &impl ProstMessageExt, schema: &SchemaRef, request: Request<FlightDescriptor>) -> Info {
    statements::describe(schema, &command.as_any().encode_to_vec(), request.into_inner())
}

fn data(batch: Result<RecordBatch, FlightError>) -> Data {
    Ok(statements::send(batch.map_err(unencodable)?))
}

#[async_trait]
impl FlightSqlService for SqlService {
    type FlightService = Transport;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        let has_user = request.metadata().contains_key("authorization");
        let answer = HandshakeResponse { protocol_version: 0, payload: bytes::Bytes::new() };
        let mut response = Response::new(stream::iter([Ok(answer)]).boxed() as Pin<Box<dyn Stream<Item = _> + Send>>);
        if has_user {
            response.metadata_mut().insert("authorization", MetadataValue::from_static(ANYONE));
        }
        Ok(response)
    }

    async fn get_flight_info_statement(&self, q: CommandStatementQuery, request: Request<FlightDescriptor>) -> Info {
        let statement = statement(q.query, request.metadata(), q.transaction_id.as_ref())?;
        statements::info(self, statement, request.into_inner()).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let statement = Statement::decode(&query.prepared_statement_handle, self.clock.as_ref()).map_err(status)?;
        statements::info(self, statement, request.into_inner()).await
    }

    async fn get_flight_info_substrait_plan(
        &self,
        _: CommandStatementSubstraitPlan,
        _: Request<FlightDescriptor>,
    ) -> Info {
        Err(unimplemented(NO_SUBSTRAIT))
    }

    async fn get_flight_info_catalogs(&self, query: CommandGetCatalogs, request: Request<FlightDescriptor>) -> Info {
        info(&query, &query.into_builder().schema(), request)
    }

    async fn get_flight_info_schemas(&self, query: CommandGetDbSchemas, request: Request<FlightDescriptor>) -> Info {
        info(&query, &query.clone().into_builder().schema(), request)
    }

    async fn get_flight_info_tables(&self, query: CommandGetTables, request: Request<FlightDescriptor>) -> Info {
        info(&query, &query.clone().into_builder().schema(), request)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(&query, &query.into_builder().schema(), request)
    }

    async fn get_flight_info_sql_info(&self, query: CommandGetSqlInfo, request: Request<FlightDescriptor>) -> Info {
        info(&query, &query.clone().into_builder(&self.infos).schema(), request)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(&query, &self.types.schema(), request)
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(&query, &metadata::PRIMARY_KEYS, request)
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(&query, &metadata::FOREIGN_KEYS, request)
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(&query, &metadata::FOREIGN_KEYS, request)
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(&query, &metadata::FOREIGN_KEYS, request)
    }

    async fn get_flight_info_fallback(&self, command: Command, _: Request<FlightDescriptor>) -> Info {
        Err(unimplemented(format!("GetFlightInfo has no {}", short_name(&command))))
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, _: Request<Ticket>) -> Data {
        statements::fetch(self, &ticket).await
    }

    async fn do_get_prepared_statement(&self, query: CommandPreparedStatementQuery, _: Request<Ticket>) -> Data {
        let statement = Statement::decode(&query.prepared_statement_handle, self.clock.as_ref()).map_err(status)?;
        statements::fetch_newest(self, &statement).await
    }

    async fn do_get_catalogs(&self, _: CommandGetCatalogs, _: Request<Ticket>) -> Data {
        data(metadata::catalogs(self.engine.definition()))
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, _: Request<Ticket>) -> Data {
        data(metadata::schemas(query, self.engine.definition()))
    }

    async fn do_get_tables(&self, query: CommandGetTables, _: Request<Ticket>) -> Data {
        let catalog = self.engine.catalog().await.map_err(status)?;
        data(metadata::tables(query, self.engine.definition(), &catalog))
    }

    async fn do_get_table_types(&self, query: CommandGetTableTypes, _: Request<Ticket>) -> Data {
        data(metadata::table_types(query))
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _: Request<Ticket>) -> Data {
        data(query.into_builder(&self.infos).build())
    }

    async fn do_get_xdbc_type_info(&self, query: CommandGetXdbcTypeInfo, _: Request<Ticket>) -> Data {
        data(query.into_builder(&self.types).build())
    }

    async fn do_get_primary_keys(&self, query: CommandGetPrimaryKeys, _: Request<Ticket>) -> Data {
        data(metadata::primary_keys(&query, self.engine.definition()))
    }

    async fn do_get_exported_keys(&self, _: CommandGetExportedKeys, _: Request<Ticket>) -> Data {
        data(Ok(metadata::no_foreign_keys()))
    }

    async fn do_get_imported_keys(&self, _: CommandGetImportedKeys, _: Request<Ticket>) -> Data {
        data(Ok(metadata::no_foreign_keys()))
    }

    async fn do_get_cross_reference(&self, _: CommandGetCrossReference, _: Request<Ticket>) -> Data {
        data(Ok(metadata::no_foreign_keys()))
    }

    async fn do_get_fallback(&self, _: Request<Ticket>, message: Any) -> Data {
        Err(unimplemented(format!("DoGet has no {}", short_name(&Command::Unknown(message)))))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let statement = statement(query.query, request.metadata(), query.transaction_id.as_ref())?;
        prepared::create(self, statement).await
    }

    /// Nothing to do: the handle was all there was.
    async fn do_action_close_prepared_statement(
        &self,
        _: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Ok(())
    }

    async fn do_action_create_prepared_substrait_plan(
        &self,
        _: ActionCreatePreparedSubstraitPlanRequest,
        _: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        Err(unimplemented(NO_SUBSTRAIT))
    }

    async fn do_action_begin_transaction(
        &self,
        _: ActionBeginTransactionRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(unimplemented(NO_TRANSACTIONS))
    }

    async fn do_action_end_transaction(
        &self,
        _: ActionEndTransactionRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Err(unimplemented(NO_TRANSACTIONS))
    }

    async fn do_action_begin_savepoint(
        &self,
        _: ActionBeginSavepointRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginSavepointResult, Status> {
        Err(unimplemented(NO_TRANSACTIONS))
    }

    async fn do_action_end_savepoint(&self, _: ActionEndSavepointRequest, _: Request<Action>) -> Result<(), Status> {
        Err(unimplemented(NO_TRANSACTIONS))
    }

    async fn do_action_cancel_query(
        &self,
        _: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        match self.do_action_fallback(request).await {
            Ok(_) => Ok(ActionCancelQueryResult::default()),
            Err(refusal) => Err(refusal),
        }
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let catalog = self.engine.definition().name.as_str();
        let answer = actions::answer(request.get_ref(), request.metadata(), catalog)?;
        Ok(answer.map(|result| stream::iter(result.map(Ok)).boxed() as <Self as FlightService>::DoActionStream))
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
