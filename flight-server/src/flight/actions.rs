//! Actions: prepared statements, the session, cancelling, renewing.

use std::collections::HashMap;

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedSubstraitPlanRequest, Any, Command, ProstMessageExt as _,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo,
    RenewFlightEndpointRequest, Result as ActionResult, Ticket,
};
use bytes::Bytes;
use lakehouse::{Error, Name};
use prost::{Message, Name as _};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::prepared::{self, Prepared};
use super::service::{self, NO_TRANSACTIONS, SqlService};
use super::session::{self, Caller, SessionOptionValue, SessionOptions};
use super::statements::{Asked, timestamp};
use super::status::{status, unencodable, unimplemented};
use super::tickets::{PlannedQuery, Polled, ResultPart};
use crate::replays::{self, Asked as AskedReplay};

/// The actions there are.
pub(super) fn all() -> Vec<ActionType> {
    let action = |name: &str, description: &str| ActionType { r#type: name.into(), description: description.into() };
    vec![
        action("CancelFlightInfo", "Stops a query, on whichever server it runs."),
        action("CancelQuery", "The same, as older clients ask for it."),
        action("ClosePreparedStatement", "Forgets a prepared statement."),
        action("CloseSession", "Forgets the session's options."),
        action("CreatePreparedStatement", "Prepares a statement in SQL."),
        action("CreatePreparedSubstraitPlan", "Prepares a Substrait plan."),
        action("GetSessionOptions", "Tells the session's options."),
        action("RenewFlightEndpoint", "Lets an endpoint live longer."),
        action("SetSessionOptions", "Sets session options, which are kept in a cookie."),
        action(replays::ACTION, "Merges what lies in a table's quarantine, after a fix: {\"table\": …, \"where\": …}."),
    ]
}

pub(super) type Answer = Response<Vec<ActionResult>>;

/// What an action answers.
pub(super) async fn answer(service: &SqlService, request: &Request<Action>) -> Result<Answer, Status> {
    let caller = session::caller(request);
    let body = &request.get_ref().body;
    let answer = match request.get_ref().r#type.as_str() {
        "CreatePreparedStatement" => {
            let asked: ActionCreatePreparedStatementRequest = unpacked(body)?;
            let text = service::sql(asked.query);
            let asked = service.asked(text, asked.transaction_id.as_ref(), request.metadata(), &caller)?;
            prepare(service, asked, caller).await?
        }
        "CreatePreparedSubstraitPlan" => {
            let asked: ActionCreatePreparedSubstraitPlanRequest = unpacked(body)?;
            let text = service::substrait(asked.plan);
            let asked = service.asked(text, asked.transaction_id.as_ref(), request.metadata(), &caller)?;
            prepare(service, asked, caller).await?
        }
        "SetSessionOptions" => set_options(service, request, &caller)?,
        "GetSessionOptions" => {
            let session = service.session(request.metadata(), &caller)?;
            let options = session::all(&session, &service.engine.definition().name).into_iter();
            let options = options.map(|(name, value)| (name, SessionOptionValue { value: Some(value) }));
            plain(&SessionOptions { session_options: options.collect() })
        }
        "CloseSession" => {
            let closed = CloseSessionResult { status: CloseSessionResult::CLOSED };
            with_cookie(plain(&closed), &format!("{}=; Max-Age=0", session::COOKIE))?
        }
        "CancelFlightInfo" => {
            let asked: CancelFlightInfoRequest = decoded(body)?;
            let cancelled = cancel(service, asked.info.unwrap_or_default(), &caller).await?;
            plain(&CancelFlightInfoResult { status: cancelled.into() })
        }
        "CancelQuery" => {
            let asked: ActionCancelQueryRequest = unpacked(body)?;
            let cancelled = cancel(service, decoded(&asked.info)?, &caller).await?;
            packed(ActionCancelQueryResult { result: cancelled.into() }.as_any())
        }
        "RenewFlightEndpoint" => renew(service, decoded(body)?, &caller)?,
        replays::ACTION => replay(service, body).await?,
        // Nothing to do: the handle was all there was.
        "ClosePreparedStatement" => {
            unpacked::<ActionClosePreparedStatementRequest>(body)?;
            Response::new(Vec::new())
        }
        "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => {
            return Err(unimplemented(NO_TRANSACTIONS));
        }
        other => return Err(unimplemented(format!("there is no action {other:?}; ListActions tells those there are"))),
    };
    Ok(answer)
}

async fn prepare(service: &SqlService, asked: Asked, caller: Caller) -> Result<Answer, Status> {
    let prepared = prepared::create(service, asked.statement, &caller.into()).await?;
    Ok(packed(Any { type_url: Prepared::type_url(), value: prepared.encode_to_vec().into() }))
}

fn set_options(service: &SqlService, request: &Request<Action>, caller: &Caller) -> Result<Answer, Status> {
    let asked: SessionOptions = decoded(&request.get_ref().body)?;
    // A session that is lost begins anew.
    let mut session = service.session(request.metadata(), caller).unwrap_or_default();
    let mut errors = HashMap::new();
    let definition = service.engine.definition();
    for (name, value) in asked.session_options {
        if let Err(refusal) = session::set(&mut session, &name, value.value.as_ref(), &definition.name) {
            let value = match refusal {
                session::Refusal::Name => OptionError::INVALID_NAME,
                session::Refusal::Value(_) => OptionError::INVALID_VALUE,
            };
            errors.insert(name, OptionError { value });
        }
    }
    let cookie = session::cookie_of(&session, service.seals(&caller.principal)).map_err(status)?;
    with_cookie(plain(&SetSessionOptionsResult { errors }), &cookie)
}

/// Stops the queries whose tickets or handles a FlightInfo holds.
async fn cancel(service: &SqlService, info: FlightInfo, caller: &Caller) -> Result<CancelStatus, Status> {
    let mut ids = Vec::new();
    for endpoint in &info.endpoint {
        let ticket = endpoint.ticket.as_ref().map(|ticket| ticket.ticket.clone()).unwrap_or_default();
        ids.push(query_id(service, &ticket, caller).map_err(status)?);
    }
    if let Some(descriptor) = &info.flight_descriptor
        && let Ok(Some(polled)) = Polled::decode(&descriptor.cmd, service.seals(&caller.principal))
    {
        ids.push(Some(polled.query_id));
    }
    let mut ids: Vec<String> = ids.into_iter().flatten().collect();
    ids.sort();
    ids.dedup();
    let mut result = CancelStatus::NotCancellable;
    for id in ids {
        result = service.cancel(&id, &caller.principal).await.map_err(status)?;
    }
    Ok(result)
}

/// The query that a ticket belongs to; `None` for what can't be cancelled.
fn query_id(service: &SqlService, ticket: &Bytes, caller: &Caller) -> lakehouse::Result<Option<String>> {
    let Some(handle) = statement_handle(ticket) else { return Ok(None) };
    let seals = service.seals(&caller.principal);
    if let Some(part) = ResultPart::decode(&handle, seals)? {
        return Ok(Some(part.query_id));
    }
    PlannedQuery::decode(&handle, seals).map(|query| Some(query.request.id))
}

fn statement_handle(ticket: &Bytes) -> Option<Bytes> {
    match Any::decode(ticket.as_ref()).ok().and_then(|any| Command::try_from(any).ok()) {
        Some(Command::TicketStatementQuery(ticket)) => Some(ticket.statement_handle),
        _ => None,
    }
}

/// The same endpoint with a ticket that ends later.
fn renew(service: &SqlService, asked: RenewFlightEndpointRequest, caller: &Caller) -> Result<Answer, Status> {
    let mut endpoint = asked.endpoint.unwrap_or_default();
    let ticket = endpoint.ticket.take().unwrap_or_default().ticket;
    let Some(handle) = statement_handle(&ticket) else {
        return Err(status(Error::invalid(
            "the endpoint's ticket does not end, or is none; only queries' are renewed",
        )));
    };
    let seals = service.seals(&caller.principal);
    let renewed = match ResultPart::decode(&handle, seals).map_err(status)? {
        Some(part) => part.encode(seals),
        None => PlannedQuery::decode(&handle, seals).and_then(|query| query.encode(seals)),
    };
    let (handle, expires_at_us) = renewed.map_err(status)?;
    let ticket = arrow_flight::sql::TicketStatementQuery { statement_handle: handle };
    endpoint.ticket = Some(Ticket::new(ticket.as_any().encode_to_vec()));
    endpoint.expiration_time = Some(timestamp(expires_at_us));
    Ok(plain(&endpoint))
}

/// Merges rows of quarantine. The body and the answer are JSON.
async fn replay(service: &SqlService, body: &[u8]) -> Result<Answer, Status> {
    let Some(replays) = &service.replays else {
        let what = "this server merges nothing, so it can't replay; run `flight-server replay --lake …`, or invoke the \
                    Lambda bronze-to-silver with {\"table\": …, \"replay\": {\"where\": …}}";
        return Err(unimplemented(what));
    };
    let asked: AskedReplay = serde_json::from_slice(body).map_err(|error| {
        let what = "the action's body is no JSON object with a table, and perhaps a where";
        status(Error::invalid(what).because(error))
    })?;
    let table = Name::new(&asked.table).map_err(status)?;
    let replayed = replays.replay(&table, asked.filter.as_deref()).await.map_err(status)?;
    let body = serde_json::to_vec(&replayed).map_err(unencodable)?;
    Ok(Response::new(vec![ActionResult { body: body.into() }]))
}

fn plain(message: &impl Message) -> Answer {
    Response::new(vec![ActionResult { body: message.encode_to_vec().into() }])
}

fn packed(any: Any) -> Answer {
    plain(&any)
}

fn with_cookie(mut response: Answer, cookie: &str) -> Result<Answer, Status> {
    let value = MetadataValue::try_from(cookie).map_err(unencodable)?;
    response.metadata_mut().insert("set-cookie", value);
    Ok(response)
}

fn decoded<T: Message + Default>(body: &[u8]) -> Result<T, Status> {
    T::decode(body).map_err(|error| status(Error::invalid("the action's body can't be decoded").because(error)))
}

/// A Flight SQL message, which comes inside an Any.
fn unpacked<T: arrow_flight::sql::ProstMessageExt>(body: &[u8]) -> Result<T, Status> {
    let any: Any = decoded(body)?;
    let foreign = || status(Error::invalid("the action's body holds another message than its type says"));
    any.unpack().map_err(|_| foreign())?.ok_or_else(foreign)
}

#[derive(Clone, PartialEq, Message)]
struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, OptionError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct OptionError {
    #[prost(int32, tag = "1")]
    value: i32,
}

impl OptionError {
    const INVALID_NAME: i32 = 1;
    const INVALID_VALUE: i32 = 2;
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl CloseSessionResult {
    const CLOSED: i32 = 1;
}
