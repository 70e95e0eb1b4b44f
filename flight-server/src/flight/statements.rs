//! Queries: planned by GetFlightInfo, fetched by DoGet.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{ProstMessageExt as _, TicketStatementQuery};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use lakehouse::{Error, Kind};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::{Response, Status};

use super::service::SqlService;
use super::status::{status, unencodable};
use super::tickets::{PlannedQuery, ResultPart, Statement};
use super::updates;
use crate::engine::{Pinned, Plan, Request, Who, explain};
use crate::results::CANCELLED;

/// What DoGet answers with.
pub(super) type DataStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;

/// After how long without a batch an empty one is sent. Load balancers drop flows that idle: AWS's network load
/// balancer after 350 s
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html>), many proxies after 60.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A statement that a client sent, with what surrounds it.
pub(super) struct Asked {
    pub(super) statement: Statement,
    /// The client's own id for the rows that the statement may write.
    pub(super) ingest_id: Option<String>,
}

/// Plans a statement; with what makes a second planning give the same.
pub(super) async fn planned(service: &SqlService, asked: Asked) -> Result<(Plan, PlannedQuery), Status> {
    let Asked { statement, ingest_id } = asked;
    let request = Request {
        id: service.new_id(),
        text: statement.text,
        session: statement.session,
        parameters: statement.parameters,
        pinned: None,
    };
    let plan = service.engine.plan(request.clone()).await.map_err(status)?;
    let pinned = Pinned { versions: plan.versions().clone(), planned_at_us: plan.planned_at_us(), slice: None };
    // Chosen now, so that a fetch that is tried again adds nothing.
    let ingest_id = plan.change().map(|_| ingest_id.unwrap_or_else(|| service.new_id()));
    let query = PlannedQuery { request: Request { pinned: Some(pinned), ..request }, ingest_id };
    Ok((plan, query))
}

/// Plans a statement and pins what it reads in a ticket for each slice of its result.
pub(super) async fn info(
    service: &SqlService,
    asked: Asked,
    who: &Who,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let (plan, query) = planned(service, asked).await?;
    describe_planned(service, &plan, &query, who, descriptor).map(Response::new)
}

/// A FlightInfo with a ticket for each slice of a planned query.
pub(super) fn describe_planned(
    service: &SqlService,
    plan: &Plan,
    query: &PlannedQuery,
    who: &Who,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Status> {
    let schema = if plan.change().is_some() { &*updates::COUNT } else { plan.schema() };
    let whole = plan.slices().count() == 1;
    let mut info = FlightInfo::new().try_with_schema(schema).map_err(unencodable)?;
    for slice in plan.slices() {
        let mut query = query.clone();
        if let Some(pinned) = &mut query.request.pinned {
            pinned.slice = (!whole).then_some(slice);
        }
        info = info.with_endpoint(endpoint(service, &query, who)?);
    }
    info = info.with_ordered(plan.is_ordered()).with_app_metadata(query.request.id.clone());
    Ok(info.with_descriptor(descriptor))
}

/// The endpoint for a planned query: any server, until the ticket ends.
fn endpoint(service: &SqlService, query: &PlannedQuery, who: &Who) -> Result<FlightEndpoint, Status> {
    let (handle, expires_at_us) = query.encode(service.seals(&who.principal)).map_err(status)?;
    let ticket = TicketStatementQuery { statement_handle: handle };
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
    Ok(endpoint.with_expiration_time(timestamp(expires_at_us)))
}

/// Microseconds since the epoch, as Flight has times.
pub(super) fn timestamp(us: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(us.rem_euclid(1_000_000) * 1_000).unwrap_or_default();
    prost_types::Timestamp { seconds: us.div_euclid(1_000_000), nanos }
}

/// Runs the query of a ticket on what it pins.
pub(super) async fn fetch(service: &SqlService, handle: &[u8], who: &Who) -> Result<Response<DataStream>, Status> {
    if let Some(part) = ResultPart::decode(handle, service.seals(&who.principal)).map_err(status)? {
        let batches = service.results.read(&part.query_id, &who.principal, part.part).await.map_err(status)?;
        return encode(batches, &part.compression, KEEP_ALIVE_INTERVAL).map(Response::new);
    }
    let query = PlannedQuery::decode(handle, service.seals(&who.principal)).map_err(status)?;
    let PlannedQuery { request, ingest_id } = query;
    let compression = request.session.compression.clone();
    let plan = service.engine.plan(request).await.map_err(status)?;
    if plan.change().is_some() {
        let applied = updates::apply(service, plan, ingest_id, who).await?;
        return Ok(send(updates::counted(applied.rows)?));
    }
    run(service, plan, &compression, who).await
}

/// Runs a statement on the newest versions, without a ticket.
pub(super) async fn fetch_newest(
    service: &SqlService,
    asked: Asked,
    who: &Who,
) -> Result<Response<DataStream>, Status> {
    let compression = asked.statement.session.compression.clone();
    let (plan, query) = planned(service, asked).await?;
    if plan.change().is_some() {
        let applied = updates::apply(service, plan, query.ingest_id, who).await?;
        return Ok(send(updates::counted(applied.rows)?));
    }
    run(service, plan, &compression, who).await
}

/// A FlightInfo with one endpoint: this server, `ticket`.
pub(super) fn describe(
    schema: &SchemaRef,
    ticket: &[u8],
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.to_vec()));
    let info = FlightInfo::new().try_with_schema(schema).map_err(unencodable)?;
    Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
}

/// An answer that is there already.
pub(super) fn send(batch: RecordBatch) -> Response<DataStream> {
    let schema = batch.schema();
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema).build(stream::iter([Ok(batch)]));
    Response::new(encoder.map_err(unencodable).boxed())
}

async fn run(service: &SqlService, plan: Plan, compression: &str, who: &Who) -> Result<Response<DataStream>, Status> {
    let id = plan.id().to_owned();
    let batches = service.engine.run(plan, who).await.map_err(status)?;
    let messages = encode(batches, compression, KEEP_ALIVE_INTERVAL)?;
    // A cancel may have reached another server; this one learns of it from the lake.
    let mut listening = JoinSet::new();
    let (results, engine, principal) =
        (Arc::clone(&service.results), Arc::clone(&service.engine), who.principal.clone());
    let (looked, first_look) = oneshot::channel();
    listening.spawn(async move {
        let was_cancelled = results.is_cancelled(&id).await;
        // Nobody waits for it if the reader has left.
        let _ = looked.send(was_cancelled);
        if !was_cancelled {
            results.cancelled(&id).await;
        }
        engine.cancel(&id, &principal);
    });
    // A short result may be over before the first look is.
    let end = stream::once(first_look).filter_map(|was_cancelled| {
        let cancelled = || Err(status(Error::new(Kind::Cancelled, CANCELLED)));
        future::ready(was_cancelled.unwrap_or(false).then(cancelled))
    });
    let messages = messages.chain(end).boxed();
    Ok(Response::new(Listening { messages, _listening: listening }.boxed()))
}

/// A result that is listened for cancels as long as it is read.
struct Listening {
    messages: DataStream,
    _listening: JoinSet<()>,
}

impl Stream for Listening {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.as_mut().poll_next(cx)
    }
}

/// The messages of a result: its schema, its batches in pieces that fit gRPC, and signs of life in between.
fn encode(batches: SendableRecordBatchStream, compression: &str, keep_alive: Duration) -> Result<DataStream, Status> {
    let schema = batches.schema();
    let sign_of_life = empty_batch(&schema)?;
    // An operator that panics must not take the connection, and with it other queries, along.
    let guarded = std::panic::AssertUnwindSafe(batches).catch_unwind().map(|batch| match batch {
        Ok(batch) => batch.map_err(|error| FlightError::from(status(explain(error)))),
        Err(_) => Err(FlightError::from(Status::internal("the query failed in the middle; this is a bug"))),
    });
    let encoder = FlightDataEncoderBuilder::new().with_options(options(compression)?).with_schema(schema);
    let messages = encoder.build(guarded).map_err(|error| match error {
        FlightError::Tonic(status) => *status,
        other => unencodable(other),
    });
    Ok(stream::unfold(messages, move |mut messages| {
        let sign_of_life = sign_of_life.clone();
        async move {
            match tokio::time::timeout(keep_alive, messages.next()).await {
                Ok(message) => Some((message?, messages)),
                Err(_elapsed) => Some((Ok(sign_of_life), messages)),
            }
        }
    })
    .boxed())
}

fn options(compression: &str) -> Result<IpcWriteOptions, Status> {
    let compression = match compression {
        "lz4" => Some(CompressionType::LZ4_FRAME),
        "zstd" => Some(CompressionType::ZSTD),
        _ => None,
    };
    IpcWriteOptions::default().try_with_compression(compression).map_err(unencodable)
}

fn empty_batch(schema: &SchemaRef) -> Result<FlightData, Status> {
    let batch = RecordBatch::new_empty(Arc::clone(schema));
    let mut messages = batches_to_flight_data(schema, vec![batch]).map_err(unencodable)?;
    messages.pop().ok_or_else(|| Status::internal("an empty batch has no message; this is a bug"))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow_flight::decode::FlightRecordBatchStream;
    use datafusion::error::DataFusionError;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
    }

    fn adapter(
        batches: impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    ) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(schema(), batches))
    }

    fn one_row() -> RecordBatch {
        RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![7]))]).unwrap()
    }

    #[tokio::test]
    async fn a_query_that_takes_its_time_shows_signs_of_life() {
        let slow = stream::once(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(one_row())
        });
        let messages = encode(adapter(slow), "", Duration::from_millis(10)).unwrap();
        let decoded = FlightRecordBatchStream::new_from_flight_data(messages.map_err(FlightError::from));
        let batches: Vec<RecordBatch> = decoded.try_collect().await.unwrap();
        assert!(batches.len() > 1, "only the row came");
        let (last, before) = batches.split_last().unwrap();
        assert_eq!(last, &one_row());
        assert!(before.iter().all(|batch| batch.num_rows() == 0 && batch.schema() == schema()));
    }

    #[tokio::test]
    async fn an_operator_that_panics_ends_its_own_query_only() {
        let panicking = stream::iter([1]).map(|_| -> Result<RecordBatch, DataFusionError> { panic!("on purpose") });
        let messages = encode(adapter(panicking), "", KEEP_ALIVE_INTERVAL).unwrap();
        let results: Vec<_> = messages.collect().await;
        assert_eq!(results.len(), 2, "a schema and an error");
        assert_eq!(results[1].as_ref().unwrap_err().code(), tonic::Code::Internal);
    }
}
