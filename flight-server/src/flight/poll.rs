//! PollFlightInfo: a query in the background, whose result lies in the lake as it comes.
//!
//! The first call plans and starts the query; each answer has a descriptor to ask again with, until all is there. What
//! is there can be fetched meanwhile. Any server answers the next call ([`results`](crate::results)).

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::{Any, Command, ProstMessageExt as _, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, Ticket};
use futures::FutureExt as _;
use lakehouse::Error;
use prost::Message as _;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::service::{self, SqlService};
use super::session::{self, Caller};
use super::statements::{self, Asked, timestamp};
use super::status::{status, unencodable};
use super::tickets::{Polled, ResultPart};
use super::transport::select_all;
use crate::engine::Who;
use crate::results::{State, Status as Progress};

/// How long a call waits for news.
const POLL_WAIT: Duration = Duration::from_secs(1);

/// How often the lake is asked for news meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn poll(
    service: &SqlService,
    request: Request<FlightDescriptor>,
) -> Result<Response<PollInfo>, Status> {
    let caller = session::caller(&request);
    let descriptor = request.get_ref().clone();
    let polled = Polled::decode(&descriptor.cmd, service.seals(&caller.principal)).map_err(status)?;
    if let Some(polled) = polled {
        let before = service.results.status(&polled.query_id, &caller.principal).await.map_err(status)?;
        let now = news(service, &polled, &caller, before).await?;
        return answer(service, &polled, &caller, now, descriptor);
    }
    match asked(service, &descriptor, request.metadata(), &caller)? {
        Some(asked) => start(service, asked, caller, descriptor).await,
        // Metadata is there at once.
        None => {
            let info = arrow_flight::flight_service_server::FlightService::get_flight_info(service, request).await?;
            Ok(Response::new(complete(info.into_inner(), None)))
        }
    }
}

/// The statement in a descriptor; `None` if it holds another command.
fn asked(
    service: &SqlService,
    descriptor: &FlightDescriptor,
    metadata: &MetadataMap,
    caller: &Caller,
) -> Result<Option<Asked>, Status> {
    if descriptor.r#type() == DescriptorType::Path {
        let text = service::sql(select_all(&descriptor.path)?);
        return service.asked(text, None, metadata, caller).map(Some);
    }
    let command = Any::decode(descriptor.cmd.as_ref()).ok().and_then(|any| Command::try_from(any).ok());
    match command {
        Some(Command::CommandStatementQuery(query)) => {
            service.asked(service::sql(query.query), query.transaction_id.as_ref(), metadata, caller).map(Some)
        }
        Some(Command::CommandStatementSubstraitPlan(query)) => {
            service.asked(service::substrait(query.plan), query.transaction_id.as_ref(), metadata, caller).map(Some)
        }
        Some(Command::CommandPreparedStatementQuery(query)) => {
            service.asked_prepared(&query.prepared_statement_handle, metadata, caller).map(Some)
        }
        Some(_) => Ok(None),
        None => Err(status(Error::invalid(
            "the descriptor holds neither a Flight SQL command nor a poll handle of this lakehouse's; run the query again",
        ))),
    }
}

/// Plans a query and lets it run by itself.
async fn start(
    service: &SqlService,
    asked: Asked,
    caller: Caller,
    descriptor: FlightDescriptor,
) -> Result<Response<PollInfo>, Status> {
    let compression = asked.statement.session.compression.clone();
    let who: Who = caller.clone().into();
    let (plan, query) = statements::planned(service, asked).await?;
    if plan.change().is_some() {
        // What writes does so when it is fetched, once.
        let info = statements::describe_planned(service, &plan, &query, &who, descriptor)?;
        return Ok(Response::new(complete(info, None)));
    }
    let polled = Polled { query_id: plan.id().to_owned(), compression };
    let (schema, is_ordered) = (Arc::clone(plan.schema()), plan.is_ordered());
    let announced =
        service.results.announce(&polled.query_id, &who.principal, &schema, is_ordered).await.map_err(status)?;
    let (results, engine, id) = (Arc::clone(&service.results), Arc::clone(&service.engine), polled.query_id.clone());
    let first = announced.clone();
    tokio::spawn(async move {
        let run = async {
            match engine.run_with_progress(plan, &who).await {
                Ok((batches, progress)) => results.spool(&id, announced, Ok(batches), progress).await,
                Err(error) => results.spool(&id, announced, Err(error), || 0.0).await,
            }
        };
        let cancel = async {
            results.cancelled(&id).await;
            engine.cancel(&id, &who.principal);
            // The run ends by itself now, and tells so.
            futures::future::pending::<()>().await
        };
        tokio::select! { () = run => {}, () = cancel => {} }
    });
    let now = news(service, &polled, &caller, first).await?;
    answer(service, &polled, &caller, now, descriptor)
}

/// Waits until there is something new, for a while.
async fn news(service: &SqlService, polled: &Polled, caller: &Caller, before: Progress) -> Result<Progress, Status> {
    let deadline = Instant::now() + POLL_WAIT;
    let mut now = before.clone();
    while now.state == State::Running && now.parts.len() == before.parts.len() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_INTERVAL).await;
        now = service.results.status(&polled.query_id, &caller.principal).map(|now| now.map_err(status)).await?;
    }
    Ok(now)
}

fn answer(
    service: &SqlService,
    polled: &Polled,
    caller: &Caller,
    now: Progress,
    descriptor: FlightDescriptor,
) -> Result<Response<PollInfo>, Status> {
    if let Some((code, message)) = now.error {
        return Err(Status::new(Code::from_i32(code), message));
    }
    let seals = service.seals(&caller.principal);
    let schema = now.schema().map_err(status)?;
    let mut info = FlightInfo::new().try_with_schema(&schema).map_err(unencodable)?;
    for part in (0..).zip(&now.parts).map(|(part, _)| part) {
        let part = ResultPart { query_id: polled.query_id.clone(), part, compression: polled.compression.clone() };
        let (handle, expires_at_us) = part.encode(seals).map_err(status)?;
        let ticket = TicketStatementQuery { statement_handle: handle };
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
        info = info.with_endpoint(endpoint.with_expiration_time(timestamp(expires_at_us)));
    }
    info = info.with_ordered(now.is_ordered).with_app_metadata(polled.query_id.clone());
    if now.state == State::Done {
        let sum = |value: fn(&crate::results::Part) -> u64| {
            i64::try_from(now.parts.iter().map(value).sum::<u64>()).unwrap_or(i64::MAX)
        };
        info = info.with_total_records(sum(|part| part.rows)).with_total_bytes(sum(|part| part.bytes));
        info = info.with_descriptor(descriptor);
        return Ok(Response::new(complete(info, None)));
    }
    let (handle, expires_at_us) = polled.encode(seals).map_err(status)?;
    let next = FlightDescriptor::new_cmd(handle);
    // In the info too: it is what clients cancel with, and it may have no endpoint yet.
    info = info.with_descriptor(next.clone());
    let poll =
        PollInfo::new().with_info(info).with_descriptor(next).try_with_progress(now.progress).map_err(unencodable)?;
    Ok(Response::new(poll.with_expiration_time(timestamp(expires_at_us))))
}

fn complete(info: FlightInfo, expiration_time: Option<prost_types::Timestamp>) -> PollInfo {
    PollInfo { info: Some(info), flight_descriptor: None, progress: Some(1.0), expiration_time }
}
