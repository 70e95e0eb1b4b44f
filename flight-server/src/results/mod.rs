//! Results that outlive a call: queries in the background, whose rows lie in the lake until they are fetched.
//!
//! ```text
//! results/<query id>/status.json       how far it is; rewritten as it goes
//! results/<query id>/part-000000.arrow an Arrow IPC stream, whole once the status counts it
//! results/<query id>/cancelled         whoever runs this query stops
//! ```
//!
//! Whatever server a client asks reads the same objects, so none keeps a query's state for itself. A query whose server
//! dies is noticed by its status, which is not rewritten any more. Everything here is removed after
//! [`RESULT_LIFETIME`].

mod spool;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakehouse::{Clock, Context as _, Error, Kind, Lake, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The folder of the lake with all results.
const FOLDER: &str = "results";

/// How long a result is kept after its last sign of life: as long as a ticket for it lives.
pub const RESULT_LIFETIME: Duration = crate::flight::TICKET_LIFETIME;

/// How often a running query rewrites its status.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// How often a running query looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(500);

/// After how long without a sign of life a running query's server is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Arrow bytes of one part of a result.
const PART_BYTES: usize = 16 << 20;

/// What a reader of a cancelled query is told.
pub(crate) const CANCELLED: &str = "the query was cancelled";

/// Where a query in the background stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Running,
    /// All its rows are there.
    Done,
    /// It ended with an error.
    Failed,
}

/// A part of a result that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its rows.
    pub rows: u64,
    /// Its Arrow bytes.
    pub bytes: u64,
}

/// How far a query in the background is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// From 0 to 1; 1 only once it is done.
    pub progress: f64,
    /// The parts that can be fetched.
    pub parts: Vec<Part>,
    /// Whether the rows have an order, which is that of the parts.
    pub is_ordered: bool,
    /// Why it failed: the error's code, and its message.
    pub error: Option<(i32, String)>,
    schema: String,
    principal: String,
    heartbeat_us: i64,
}

impl Status {
    /// The result's schema.
    ///
    /// # Errors
    /// `Internal` if it can't be read.
    pub fn schema(&self) -> Result<SchemaRef> {
        let unreadable = || "a kept result has no readable schema".to_owned();
        let bytes = STANDARD.decode(&self.schema).context(Kind::Internal, unreadable)?;
        let mut decoder = StreamDecoder::new();
        decoder.decode(&mut bytes.into()).context(Kind::Internal, unreadable)?;
        decoder.schema().ok_or_else(|| Error::internal(unreadable()))
    }
}

/// The results of one lake.
pub struct Results {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    part_bytes: usize,
}

impl Results {
    /// The results in `lake`.
    ///
    /// # Errors
    /// `Invalid` if the lake's URI has no storage behind it.
    pub fn new(lake: &Lake, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { store: lake.object_store()?, clock, part_bytes: PART_BYTES }))
    }

    /// How far a query is.
    ///
    /// # Errors
    /// `NotFound` if nobody of this name ran it, or its result was removed; `Unavailable` if its server is gone, or the
    /// lake can't be read.
    pub async fn status(&self, query_id: &str, principal: &str) -> Result<Status> {
        let unknown = || Error::not_found("there is no such result, or it was removed; run the query again");
        let path = place(query_id, "status.json")?;
        let object = match self.store.get(&path).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Err(unknown()),
            Err(error) => return Err(unreadable(error)),
        };
        let bytes = object.bytes().await.map_err(unreadable)?;
        let status: Status =
            serde_json::from_slice(&bytes).context(Kind::Internal, || "a result's status can't be read".to_owned())?;
        if status.principal != principal {
            return Err(unknown());
        }
        let silent_us = self.clock.now_us() - status.heartbeat_us;
        if status.state == State::Running && silent_us > micros(SILENCE_MAX) {
            return Err(Error::unavailable("the server that ran the query is gone; run it again"));
        }
        Ok(status)
    }

    /// The rows of a part, decoded as they are read.
    ///
    /// # Errors
    /// `NotFound` if there is no such part; `Cancelled` if the query was; `Unavailable` if the lake can't be read.
    pub async fn read(&self, query_id: &str, principal: &str, part: u32) -> Result<SendableRecordBatchStream> {
        let status = self.status(query_id, principal).await?;
        if status.parts.get(part as usize).is_none() {
            return Err(Error::not_found(format!("the result has no part {part}")));
        }
        if self.is_cancelled(query_id).await {
            return Err(Error::new(Kind::Cancelled, CANCELLED));
        }
        let object = self.store.get(&part_place(query_id, part as usize)?).await.map_err(unreadable)?;
        let bytes = object.into_stream().map_err(|error| DataFusionError::External(Box::new(unreadable(error))));
        let batches = stream::try_unfold(
            (bytes.boxed(), StreamDecoder::new(), arrow::buffer::Buffer::default()),
            |(mut bytes, mut decoder, mut buffer)| async move {
                loop {
                    if let Some(batch) = decoder.decode(&mut buffer)? {
                        return Ok(Some((batch, (bytes, decoder, buffer))));
                    }
                    match bytes.try_next().await? {
                        Some(more) => buffer = more.into(),
                        None => return Ok::<_, DataFusionError>(None),
                    }
                }
            },
        );
        Ok(Box::pin(RecordBatchStreamAdapter::new(status.schema()?, batches)))
    }

    /// Tells whoever runs a query to stop.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be written.
    pub async fn mark_cancelled(&self, query_id: &str) -> Result<()> {
        let put = self.store.put(&place(query_id, "cancelled")?, Bytes::new().into()).await;
        put.map(drop)
            .map_err(|error| Error::unavailable("the cancel can't be told to the other servers").because(error))
    }

    /// Completes when a query is told to stop, never otherwise. It looks at once, and then again and again.
    pub async fn cancelled(&self, query_id: &str) {
        while !self.is_cancelled(query_id).await {
            tokio::time::sleep(CANCEL_INTERVAL).await;
        }
    }

    /// Whether a query was told to stop, as far as can be seen.
    pub async fn is_cancelled(&self, query_id: &str) -> bool {
        let Ok(path) = place(query_id, "cancelled") else { return false };
        match self.store.head(&path).await {
            Ok(_) => true,
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => {
                tracing::debug!(%error, query_id, "can't see whether the query is cancelled");
                false
            }
        }
    }

    /// Removes what nobody can fetch any more. How many objects that were.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read or written.
    pub async fn sweep(&self) -> Result<usize> {
        let oldest_us = self.clock.now_us() - micros(RESULT_LIFETIME);
        let objects: Vec<_> = self.store.list(Some(&Path::from(FOLDER))).try_collect().await.map_err(unreadable)?;
        let mut removed = 0;
        for object in objects.into_iter().filter(|object| object.last_modified.timestamp_micros() < oldest_us) {
            match self.store.delete(&object.location).await {
                Ok(()) => removed += 1,
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(Error::unavailable("old results can't be removed").because(error)),
            }
        }
        Ok(removed)
    }
}

/// An object of a query. Ids come out of sealed handles, and still never become a path unseen.
fn place(query_id: &str, file: &str) -> Result<Path> {
    let id = Uuid::try_parse(query_id).map_err(|error| Error::invalid("the query's id is none").because(error))?;
    Ok(Path::from(format!("{FOLDER}/{}/{file}", id.hyphenated())))
}

fn part_place(query_id: &str, part: usize) -> Result<Path> {
    place(query_id, &format!("part-{part:06}.arrow"))
}

fn unreadable(error: StoreError) -> Error {
    Error::unavailable("the result can't be read just now; try again").because(error)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A schema as the text in a status.
fn schema_text(schema: &Schema) -> Result<String> {
    let unwritable = || "the result's schema can't be written".to_owned();
    let mut bytes = Vec::new();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(&mut bytes, schema).context(Kind::Internal, unwritable)?;
    // Without an end, a decoder waits for more before it believes the schema.
    writer.finish().context(Kind::Internal, unwritable)?;
    drop(writer);
    Ok(STANDARD.encode(bytes))
}
