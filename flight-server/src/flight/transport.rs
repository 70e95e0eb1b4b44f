//! The Flight service itself: what arrow-flight's Flight SQL layer does is left to it, what it can't do is done here.
//!
//! Here are GetSchema (the layer has none), DoPut (the layer can't answer with a header, nor with a count *and* an
//! error), a true list of actions, and refusals that say what to do instead.

use std::sync::Arc;

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService as Protocol;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo,
    SchemaResult, Ticket,
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use lakehouse::{Clock, Error};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::actions;
use super::ingest::{self, IngestDoor};
use super::service::SqlService;
use super::status::{status, unimplemented};
use crate::engine::Engine;

/// Mallard's Flight SQL service.
#[derive(Clone)]
pub struct FlightService {
    sql: SqlService,
}

impl FlightService {
    /// A service that queries with `engine` and takes rows in through `door`; handles expire by `clock`.
    ///
    /// # Errors
    /// `Internal` if the server's description of itself can't be built.
    pub fn new(engine: Arc<Engine>, door: Arc<dyn IngestDoor>, clock: Arc<dyn Clock>) -> lakehouse::Result<Self> {
        Ok(Self { sql: SqlService::new(engine, door, clock)? })
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

    async fn list_flights(&self, _request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(unimplemented("ListFlights is not there; list tables with the Flight SQL command GetTables"))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        command_of(request.get_ref())?;
        self.sql.get_flight_info(request).await
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(unimplemented("PollFlightInfo is not there; use GetFlightInfo: planning is quick, and DoGet streams"))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let info = self.get_flight_info(request).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        decode(&request.get_ref().ticket, "ticket")?;
        self.sql.do_get(request).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let (metadata, _, mut messages) = request.into_parts();
        let first = messages.message().await?;
        // Go's ingest writer sends its command with the first batch: of an ingest without batches, nothing arrives,
        // and yet it waits for a count.
        let Some(first) = first else { return Ok(Response::new(stream::iter([Ok(ingest::count(0))]).boxed())) };
        let descriptor = first.flight_descriptor.as_ref();
        let command = command_of(descriptor.ok_or_else(|| invalid("the first message of a DoPut has no descriptor"))?)?;
        match command {
            Command::CommandStatementIngest(command) => {
                let messages = stream::iter([Ok(first)]).chain(messages);
                ingest::put(&self.sql, &command, &metadata, messages).await
            }
            Command::CommandStatementUpdate(_) | Command::CommandPreparedStatementUpdate(_) => Err(invalid(
                "updates are refused: Mallard is read-only over SQL; send rows, changed rows and deletions by ingest \
                 (CommandStatementIngest, append mode)",
            )),
            Command::CommandPreparedStatementQuery(_) => Err(unimplemented(
                "parameters of prepared statements can't be bound yet; write the values into the SQL",
            )),
            other => Err(unimplemented(format!("DoPut has no {}", short_name(&other)))),
        }
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.sql.do_action(request).await
    }

    async fn list_actions(&self, _request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions: Vec<Result<ActionType, Status>> = actions::all().into_iter().map(Ok).collect();
        Ok(Response::new(stream::iter(actions).boxed()))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(unimplemented("DoExchange is not there; send rows by DoPut (CommandStatementIngest), read them by DoGet"))
    }
}

fn invalid(message: &str) -> Status {
    status(Error::invalid(message))
}

/// The Flight SQL command of a descriptor.
fn command_of(descriptor: &FlightDescriptor) -> Result<Command, Status> {
    if descriptor.r#type() == DescriptorType::Path {
        return Err(unimplemented(
            "descriptors with a path are not understood; send rows with the Flight SQL command \
             CommandStatementIngest, and queries with CommandStatementQuery",
        ));
    }
    decode(&descriptor.cmd, "descriptor")
}

/// What arrow-flight decodes again; here, so that a client's nonsense is called its own and not an internal error.
fn decode(bytes: &[u8], what: &str) -> Result<Command, Status> {
    let foreign = || Error::invalid(format!("the {what} holds no Flight SQL command"));
    let any = Any::decode(bytes).map_err(|error| status(foreign().because(error)))?;
    Command::try_from(any).map_err(|error| status(foreign().because(error)))
}

/// `CommandGetTables` of `type.googleapis.com/arrow.flight.protocol.sql.CommandGetTables`.
pub(super) fn short_name(command: &Command) -> String {
    let name = command.type_url().rsplit(['.', '/']).next().unwrap_or_default();
    if name.is_empty() { "command without a type".to_owned() } else { name.to_owned() }
}
