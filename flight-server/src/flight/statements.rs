//! Queries: planned by GetFlightInfo, fetched by DoGet.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{ProstMessageExt as _, TicketStatementQuery};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tonic::{Response, Status};

use super::service::SqlService;
use super::status::{status, unencodable};
use super::tickets::{PlannedQuery, Statement};
use crate::engine::{self, explain};

/// What DoGet answers with.
pub(super) type DataStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;

/// After how long without a batch an empty one is sent. Load balancers drop flows that idle: AWS's network load
/// balancer after 350 s
/// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html>), many proxies after 60.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Plans `statement` and pins what it reads in the ticket.
pub(super) async fn info(
    service: &SqlService,
    statement: Statement,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let plan = service.engine.plan_in(&statement.schema, &statement.sql, None).await.map_err(status)?;
    let query = PlannedQuery { statement, versions: plan.versions().clone() };
    let ticket = TicketStatementQuery { statement_handle: query.encode(service.clock.as_ref()) };
    describe(plan.schema(), &ticket.as_any().encode_to_vec(), descriptor)
}

/// Runs the query of a ticket on the versions it pins.
pub(super) async fn fetch(service: &SqlService, ticket: &TicketStatementQuery) -> Result<Response<DataStream>, Status> {
    let query = PlannedQuery::decode(&ticket.statement_handle, service.clock.as_ref()).map_err(status)?;
    let PlannedQuery { statement, versions } = query;
    let plan = service.engine.plan_in(&statement.schema, &statement.sql, Some(&versions)).await.map_err(status)?;
    run(service, plan)
}

/// Runs a statement on the newest versions.
pub(super) async fn fetch_newest(service: &SqlService, statement: &Statement) -> Result<Response<DataStream>, Status> {
    let plan = service.engine.plan_in(&statement.schema, &statement.sql, None).await.map_err(status)?;
    run(service, plan)
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

fn run(service: &SqlService, plan: engine::Plan) -> Result<Response<DataStream>, Status> {
    let batches = service.engine.execute(plan).map_err(status)?;
    encode(batches, KEEP_ALIVE_INTERVAL).map(Response::new)
}

/// The messages of a result: its schema, its batches in pieces that fit gRPC, and signs of life in between.
fn encode(batches: SendableRecordBatchStream, keep_alive: Duration) -> Result<DataStream, Status> {
    let schema = batches.schema();
    let sign_of_life = empty_batch(&schema)?;
    // An operator that panics must not take the connection, and with it other queries, along.
    let guarded = std::panic::AssertUnwindSafe(batches).catch_unwind().map(|batch| match batch {
        Ok(batch) => batch.map_err(|error| FlightError::from(status(explain(error)))),
        Err(_) => Err(FlightError::from(Status::internal("the query failed in the middle; this is a bug"))),
    });
    let messages = FlightDataEncoderBuilder::new().with_schema(schema).build(guarded).map_err(|error| match error {
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
        let messages = encode(adapter(slow), Duration::from_millis(10)).unwrap();
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
        let messages = encode(adapter(panicking), KEEP_ALIVE_INTERVAL).unwrap();
        let results: Vec<_> = messages.collect().await;
        assert_eq!(results.len(), 2, "a schema and an error");
        assert_eq!(results[1].as_ref().unwrap_err().code(), tonic::Code::Internal);
    }
}
