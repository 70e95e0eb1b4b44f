//! DoPut beside ingest: statements that write, and values for prepared ones.

use arrow::array::RecordBatch;
use arrow_flight::sql::DoPutPreparedStatementResult;
use arrow_flight::{FlightData, PutResult};
use futures::{Stream, StreamExt as _, stream};
use lakehouse::Error;
use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::{Response, Status};

use super::batches::{Arrived, Batches, Decoding};
use super::ingest::{self, INGEST_ID_HEADER, PutStream};
use super::service::SqlService;
use super::session::Caller;
use super::statements::{self, Asked};
use super::status::status;
use super::updates;
use crate::engine::one_batch;

/// The most bytes of values that one DoPut may bind, as they lie in memory.
const BOUND_BYTES_MAX: usize = 256 << 20;

/// Runs a statement that writes; answers with the number of rows it sent.
pub(super) async fn update(service: &SqlService, asked: Asked, caller: Caller) -> Result<Response<PutStream>, Status> {
    let who = caller.into();
    let (plan, query) = statements::planned(service, asked).await?;
    let applied = updates::apply(service, plan, query.ingest_id, &who).await?;
    let mut response = Response::new(one(ingest::count(applied.rows)));
    if let Ok(id) = MetadataValue::try_from(&applied.ingest_id) {
        response.metadata_mut().insert(INGEST_ID_HEADER, id);
    }
    Ok(response)
}

/// Runs a prepared statement that writes, once for each row of values that came with the call, or else with those
/// that were bound before.
pub(super) async fn prepared_update(
    service: &SqlService,
    mut asked: Asked,
    caller: Caller,
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Response<PutStream>, Status> {
    if let Some(values) = values(messages, service.decoding()).await? {
        asked.statement.parameters = Some(values);
    }
    update(service, asked, caller).await
}

/// Puts values into a prepared query's handle: the client goes on with the new one.
pub(super) async fn bind(
    service: &SqlService,
    asked: Asked,
    caller: Caller,
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Response<PutStream>, Status> {
    let mut statement = asked.statement;
    statement.parameters = values(messages, service.decoding()).await?;
    let handle = statement.encode(service.seals(&caller.principal)).map_err(status)?;
    let result = DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) };
    Ok(Response::new(one(PutResult { app_metadata: result.encode_to_vec().into() })))
}

fn one(result: PutResult) -> PutStream {
    stream::iter([Ok(result)]).boxed()
}

/// The rows of values in a DoPut; `None` if it has no columns or no rows.
async fn values(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
    decoding: Decoding,
) -> Result<Option<RecordBatch>, Status> {
    let mut batches = Batches::new(messages, decoding);
    let Some(schema) = batches.schema_if_any().await? else { return Ok(None) };
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(Arrived { batch, .. }) = batches.next().await? {
        bytes += batch.get_array_memory_size();
        if bytes > BOUND_BYTES_MAX {
            return Err(status(Error::exhausted(format!(
                "the values to bind have more than {BOUND_BYTES_MAX} bytes; bind fewer rows at a time, or send them by \
                 ingest"
            ))));
        }
        rows.push(batch);
    }
    let all = one_batch(&schema, &rows).map_err(status)?;
    Ok((all.num_columns() > 0 && all.num_rows() > 0).then_some(all))
}
