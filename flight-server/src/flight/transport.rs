//! The Flight service itself: what arrow-flight's Flight SQL layer does is left to it, what it can't do is done here.
//!
//! Here are GetSchema, PollFlightInfo, ListFlights (the layer has none), DoPut (the layer can't answer with a header, nor
//! with a count *and* an error), actions (the layer knows half of them), and refusals that say what to do instead.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService as Protocol;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo,
    SchemaResult, Ticket,
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use lakehouse::Error;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::service::{self, Parts, SqlService};
use super::status::{status, unencodable, unimplemented};
use super::stopping::Stopping;
use super::{actions, ingest, poll, prepared, put, session, statements, stream as numbered};
use crate::replays::Replays;

/// Mallard's Flight SQL service.
#[derive(Clone)]
pub struct FlightService {
    sql: SqlService,
}

impl FlightService {
    /// A service of these parts.
    ///
    /// # Errors
    /// `Internal` if the server's description of itself can't be built.
    pub fn new(parts: Parts) -> lakehouse::Result<Self> {
        Ok(Self { sql: SqlService::new(parts)? })
    }

    /// The same, with what merges quarantine's rows; without, it refuses to.
    #[must_use]
    pub fn with_replays(mut self, replays: Option<Arc<dyn Replays>>) -> Self {
        self.sql.replays = replays;
        self
    }
}

#[async_trait]
impl Protocol for FlightService {
    type HandshakeStream = <SqlService as Protocol>::HandshakeStream;
    type ListFlightsStream = <SqlService as Protocol>::ListFlightsStream;
    type DoGetStream = <SqlService as Protocol>::DoGetStream;
    type DoPutStream = <SqlService as Protocol>::DoPutStream;
    type DoActionStream = <SqlService as Protocol>::DoActionStream;
    type ListActionsStream = <SqlService as Protocol>::ListActionsStream;
    type DoExchangeStream = <SqlService as Protocol>::DoExchangeStream;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.sql.handshake(request).await
    }

    /// All tables that have columns, as flights: the criteria are a prefix of `schema.table`.
    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let prefix = String::from_utf8(request.get_ref().expression.to_vec())
            .map_err(|_| invalid("the criteria are no UTF-8; give the beginning of schema.table, or nothing"))?;
        let tables = self.sql.engine.catalog().await.map_err(status)?;
        let flights = tables.into_iter().filter_map(|table| {
            let schema = table.arrow_schema?;
            let name = format!("{}.{}", table.schema, table.name);
            name.starts_with(&prefix).then(|| flight(table.schema, &table.name, &schema))
        });
        let flights: Vec<_> = flights.collect();
        Ok(Response::new(stream::iter(flights).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.known(&request)?;
        if request.get_ref().r#type() == DescriptorType::Path {
            let caller = session::caller(&request);
            let text = service::sql(select_all(&request.get_ref().path)?);
            let asked = self.sql.asked(text, None, request.metadata(), &caller)?;
            return statements::info(&self.sql, asked, &caller.into(), request.into_inner()).await;
        }
        command_of(request.get_ref())?;
        self.sql.get_flight_info(request).await
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        self.known(&request)?;
        poll::poll(&self.sql, request).await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        self.known(&request)?;
        // ODBC asks before it binds values.
        if request.get_ref().r#type() != DescriptorType::Path
            && let Command::CommandPreparedStatementQuery(query) = command_of(request.get_ref())?
        {
            let caller = session::caller(&request);
            let asked = self.sql.asked_prepared(&query.prepared_statement_handle, request.metadata(), &caller)?;
            if asked.statement.parameters.is_none() {
                let description = prepared::describe(&self.sql, &asked.statement).await?;
                return Ok(Response::new(SchemaResult { schema: prepared::message(&description.schema)? }));
            }
        }
        let info = self.get_flight_info(request).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.known(&request)?;
        decode(&request.get_ref().ticket, "ticket")?;
        self.sql.do_get(request).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.known(&request)?;
        let caller = session::caller(&request);
        let (metadata, _, mut messages) = request.into_parts();
        let first = messages.message().await?;
        // Go's ingest writer sends its command with the first batch: of an ingest without batches, nothing arrives,
        // and yet it waits for a count.
        let Some(first) = first else { return Ok(Response::new(stream::iter([Ok(ingest::count(0))]).boxed())) };
        let descriptor =
            first.flight_descriptor.clone().ok_or_else(|| invalid("the first message of a DoPut has no descriptor"))?;
        let messages = stream::iter([Ok(first)]).chain(messages);
        if descriptor.r#type() == DescriptorType::Path {
            return numbered::put(&self.sql, &descriptor.path, &metadata, messages).await;
        }
        match command_of(&descriptor)? {
            Command::CommandStatementIngest(command) => ingest::put(&self.sql, &command, &metadata, messages).await,
            Command::CommandStatementUpdate(update) => {
                let transaction = update.transaction_id.as_ref();
                let asked = self.sql.asked(service::sql(update.query), transaction, &metadata, &caller)?;
                put::update(&self.sql, asked, caller).await
            }
            Command::CommandStatementSubstraitPlan(update) => {
                let transaction = update.transaction_id.as_ref();
                let asked = self.sql.asked(service::substrait(update.plan), transaction, &metadata, &caller)?;
                put::update(&self.sql, asked, caller).await
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let asked = self.sql.asked_prepared(&update.prepared_statement_handle, &metadata, &caller)?;
                put::prepared_update(&self.sql, asked, caller, messages).await
            }
            Command::CommandPreparedStatementQuery(query) => {
                let asked = self.sql.asked_prepared(&query.prepared_statement_handle, &metadata, &caller)?;
                put::bind(&self.sql, asked, caller, messages).await
            }
            other => Err(unimplemented(format!("DoPut has no {}", short_name(&other)))),
        }
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.known(&request)?;
        let answer = actions::answer(&self.sql, &request).await?;
        Ok(answer.map(|results| stream::iter(results.into_iter().map(Ok)).boxed()))
    }

    async fn list_actions(&self, _request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions: Vec<Result<ActionType, Status>> = actions::all().into_iter().map(Ok).collect();
        Ok(Response::new(stream::iter(actions).boxed()))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(unimplemented("DoExchange is not there; send rows by DoPut, read them by DoGet"))
    }
}

impl FlightService {
    /// Tells calls that go on for long, and those that come, that the server is to stop.
    pub(super) fn stopping(&self) -> Stopping {
        self.sql.stopping.clone()
    }

    /// Refuses a call whose session token is not, or not any more, one of ours, and all calls once a stop has begun.
    fn known<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.sql.stopping.has_begun() {
            return Err(status(self.sql.stopping.refusal()));
        }
        session::check_token(request.metadata(), self.sql.seals(session::ANYONE)).map_err(status)
    }
}

/// A table as a flight, without a ticket: GetFlightInfo of its descriptor plans the reading.
fn flight(schema_name: &str, name: &str, schema: &Schema) -> Result<FlightInfo, Status> {
    let descriptor = FlightDescriptor::new_path(vec![schema_name.to_owned(), name.to_owned()]);
    Ok(FlightInfo::new().try_with_schema(schema).map_err(unencodable)?.with_descriptor(descriptor))
}

/// The query for the table that a path names.
pub(super) fn select_all(path: &[String]) -> Result<String, Status> {
    let quoted = path.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    match path.len() {
        1..=3 => Ok(format!("SELECT * FROM {}", quoted.collect::<Vec<_>>().join("."))),
        _ => Err(invalid("a descriptor's path names a table: [\"table\"] or [\"schema\", \"table\"]")),
    }
}

fn invalid(message: &str) -> Status {
    status(Error::invalid(message))
}

/// The Flight SQL command of a descriptor.
fn command_of(descriptor: &FlightDescriptor) -> Result<Command, Status> {
    decode(&descriptor.cmd, "descriptor")
}

/// What arrow-flight decodes again; here, so that a client's nonsense is called its own and not an internal error.
fn decode(bytes: &[u8], what: &str) -> Result<Command, Status> {
    let foreign = || Error::invalid(format!("the {what} holds no Flight SQL command"));
    let any = Any::decode(bytes).map_err(|error| status(foreign().because(error)))?;
    if any.type_url.is_empty() {
        return Err(status(foreign()));
    }
    Command::try_from(any).map_err(|error| status(foreign().because(error)))
}

/// `CommandGetTables` of `type.googleapis.com/arrow.flight.protocol.sql.CommandGetTables`.
pub(super) fn short_name(command: &Command) -> String {
    let name = command.type_url().rsplit(['.', '/']).next().unwrap_or_default();
    if name.is_empty() { "command without a type".to_owned() } else { name.to_owned() }
}
