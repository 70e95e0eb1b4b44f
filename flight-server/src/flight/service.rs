//! Flight SQL's commands, routed: which module answers what.
//!
//! What arrow-flight's layer can't do (DoPut with headers, prepared statements that say whether they write, actions on
//! FlightInfos) comes by way of [`transport`](super::transport) and never reaches this layer.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::server::FlightSqlService;
use arrow_flight::sql::{
    Any, Command, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandStatementQuery, CommandStatementSubstraitPlan,
    ProstMessageExt, SqlInfo, SubstraitPlan, TicketStatementQuery,
};
use arrow_flight::{CancelStatus, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket};
use async_trait::async_trait;
use futures::{Stream, StreamExt as _, stream};
use lakehouse::{Clock, Error, Result as MallardResult};
use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::batches::Decoding;
use super::ingest;
use super::seal::Sealer;
use super::session::{self, Caller};
use super::statements::{self, Asked, DataStream};
use super::status::{status, unencodable, unimplemented};
use super::stopping::Stopping;
use super::tickets::{Seals, Statement};
use super::transport::{FlightService as Transport, short_name};
use super::{metadata, sql_info, xdbc};
use crate::door::IngestDoor;
use crate::engine::{Engine, QueryText};
use crate::replays::Replays;
use crate::results::Results;

pub(super) const NO_TRANSACTIONS: &str =
    "there are no transactions: each query reads one snapshot, each ingest is kept as a whole; use autocommit";

/// Memory that decoded batches of all producers may take together, in bytes.
const INCOMING_BYTES_MAX: u64 = 512 << 20;

type Info = Result<Response<FlightInfo>, Status>;
type Data = Result<Response<DataStream>, Status>;

/// Everything the commands are answered from.
#[derive(Clone)]
pub struct SqlService {
    pub(super) engine: Arc<Engine>,
    pub(super) door: Arc<dyn IngestDoor>,
    pub(super) results: Arc<Results>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stopping: Stopping,
    /// None: this server merges nothing.
    pub(super) replays: Option<Arc<dyn Replays>>,
    decoding: Decoding,
    infos: Arc<SqlInfoData>,
    types: Arc<XdbcTypeInfoData>,
}

impl SqlService {
    pub(super) fn new(parts: Parts) -> MallardResult<Self> {
        let Parts { engine, door, results, sealer, clock } = parts;
        let broken = |error: FlightError| Error::internal("can't build the server's own description").because(error);
        let infos = Arc::new(sql_info::infos(engine.timeout(), door.is_open()).map_err(broken)?);
        let types = Arc::new(xdbc::types().map_err(broken)?);
        let (stopping, decoding) = (Stopping::new(), Decoding::new(INCOMING_BYTES_MAX));
        Ok(Self { engine, door, results, sealer, clock, stopping, replays: None, decoding, infos, types })
    }

    /// Memory for incoming batches.
    pub(super) fn decoding(&self) -> Decoding {
        self.decoding.clone()
    }

    /// What seals for `principal`.
    pub(super) fn seals<'a>(&'a self, principal: &'a str) -> Seals<'a> {
        Seals { sealer: &self.sealer, principal, clock: self.clock.as_ref() }
    }

    /// An id for a query or an ingest: a UUIDv7.
    pub(super) fn new_id(&self) -> String {
        crate::ingest::new_id(self.clock.now_us())
    }

    pub(super) fn session(&self, metadata: &MetadataMap, caller: &Caller) -> Result<proto::Session, Status> {
        let catalog = &self.engine.definition().name;
        session::session(metadata, self.seals(&caller.principal), catalog).map_err(status)
    }

    /// A statement that came by itself.
    pub(super) fn asked(
        &self,
        text: QueryText,
        transaction: Option<&bytes::Bytes>,
        metadata: &MetadataMap,
        caller: &Caller,
    ) -> Result<Asked, Status> {
        if transaction.is_some_and(|id| !id.is_empty()) {
            return Err(unimplemented(NO_TRANSACTIONS));
        }
        let session = self.session(metadata, caller)?;
        let statement = Statement { text, session, parameters: None, is_update: false };
        Ok(Asked { statement, ingest_id: ingest::ingest_id(metadata)? })
    }

    /// A statement that was prepared.
    pub(super) fn asked_prepared(
        &self,
        handle: &[u8],
        metadata: &MetadataMap,
        caller: &Caller,
    ) -> Result<Asked, Status> {
        let statement = Statement::decode(handle, self.seals(&caller.principal));
        Ok(Asked { statement: statement.map_err(status)?, ingest_id: ingest::ingest_id(metadata)? })
    }

    /// Stops a query, wherever it runs. It is over at once on this server, and within a second on others.
    pub(super) async fn cancel(&self, query_id: &str, principal: &str) -> MallardResult<CancelStatus> {
        let was_here = self.engine.cancel(query_id, principal);
        self.results.mark_cancelled(query_id).await?;
        Ok(if was_here { CancelStatus::Cancelled } else { CancelStatus::Cancelling })
    }
}

/// What the service is made of.
pub struct Parts {
    /// Answers queries.
    pub engine: Arc<Engine>,
    /// Takes rows in.
    pub door: Arc<dyn IngestDoor>,
    /// Keeps results that outlive a call.
    pub results: Arc<Results>,
    /// Seals what clients carry.
    pub sealer: Arc<Sealer>,
    /// Tells when handles end.
    pub clock: Arc<dyn Clock>,
}

pub(super) fn sql(text: String) -> QueryText {
    QueryText::Sql(text)
}

pub(super) fn substrait(plan: Option<SubstraitPlan>) -> QueryText {
    QueryText::Substrait(plan.unwrap_or_default().plan)
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
        let caller = session::caller(&request);
        let has_user = request.metadata().contains_key("authorization");
        let answer = HandshakeResponse { protocol_version: 0, payload: bytes::Bytes::new() };
        let mut response = Response::new(stream::iter([Ok(answer)]).boxed() as Pin<Box<dyn Stream<Item = _> + Send>>);
        if has_user {
            let token = session::token(self.seals(&caller.principal)).map_err(status)?;
            let bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(unencodable)?;
            response.metadata_mut().insert("authorization", bearer);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(&self, q: CommandStatementQuery, request: Request<FlightDescriptor>) -> Info {
        let caller = session::caller(&request);
        let asked = self.asked(sql(q.query), q.transaction_id.as_ref(), request.metadata(), &caller)?;
        statements::info(self, asked, &caller.into(), request.into_inner()).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let caller = session::caller(&request);
        let asked = self.asked_prepared(&query.prepared_statement_handle, request.metadata(), &caller)?;
        statements::info(self, asked, &caller.into(), request.into_inner()).await
    }

    async fn get_flight_info_substrait_plan(
        &self,
        query: CommandStatementSubstraitPlan,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let caller = session::caller(&request);
        let asked = self.asked(substrait(query.plan), query.transaction_id.as_ref(), request.metadata(), &caller)?;
        statements::info(self, asked, &caller.into(), request.into_inner()).await
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
        let rows = sql_info::rows(&self.infos, query.clone()).map_err(unencodable)?;
        info(&query, &rows.schema(), request)
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

    async fn do_get_statement(&self, ticket: TicketStatementQuery, request: Request<Ticket>) -> Data {
        statements::fetch(self, &ticket.statement_handle, &session::caller(&request).into()).await
    }

    async fn do_get_prepared_statement(&self, query: CommandPreparedStatementQuery, request: Request<Ticket>) -> Data {
        let caller = session::caller(&request);
        let asked = self.asked_prepared(&query.prepared_statement_handle, request.metadata(), &caller)?;
        statements::fetch_newest(self, asked, &caller.into()).await
    }

    async fn do_get_catalogs(&self, _: CommandGetCatalogs, _: Request<Ticket>) -> Data {
        data(metadata::catalogs(&self.engine.definition()))
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, _: Request<Ticket>) -> Data {
        data(metadata::schemas(query, &self.engine.definition()))
    }

    async fn do_get_tables(&self, query: CommandGetTables, _: Request<Ticket>) -> Data {
        let catalog = self.engine.catalog().await.map_err(status)?;
        data(metadata::tables(query, &self.engine.definition(), &catalog))
    }

    async fn do_get_table_types(&self, query: CommandGetTableTypes, _: Request<Ticket>) -> Data {
        data(metadata::table_types(query))
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _: Request<Ticket>) -> Data {
        data(sql_info::rows(&self.infos, query))
    }

    async fn do_get_xdbc_type_info(&self, query: CommandGetXdbcTypeInfo, _: Request<Ticket>) -> Data {
        data(query.into_builder(&self.types).build())
    }

    async fn do_get_primary_keys(&self, query: CommandGetPrimaryKeys, _: Request<Ticket>) -> Data {
        data(metadata::primary_keys(&query, &self.engine.definition()))
    }

    async fn do_get_exported_keys(&self, query: CommandGetExportedKeys, _: Request<Ticket>) -> Data {
        data(metadata::exported_keys(&query, &self.engine.definition()))
    }

    async fn do_get_imported_keys(&self, query: CommandGetImportedKeys, _: Request<Ticket>) -> Data {
        data(metadata::imported_keys(&query, &self.engine.definition()))
    }

    async fn do_get_cross_reference(&self, query: CommandGetCrossReference, _: Request<Ticket>) -> Data {
        data(metadata::cross_reference(&query, &self.engine.definition()))
    }

    async fn do_get_fallback(&self, _: Request<Ticket>, message: Any) -> Data {
        Err(unimplemented(format!("DoGet has no {}", short_name(&Command::Unknown(message)))))
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
