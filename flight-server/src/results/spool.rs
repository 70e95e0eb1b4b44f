//! Writes a query's rows to the lake while it runs.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use datafusion::execution::SendableRecordBatchStream;
use deltalake::logstore::object_store::ObjectStoreExt as _;
use futures::StreamExt as _;
use lakehouse::{Context as _, Error, Kind, Result};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Part, Results, STATUS_INTERVAL, State, Status, part_place, place, schema_text};
use crate::engine::{batch_bytes, explain};
use crate::flight::code;

impl Results {
    /// Announces a query that is about to run.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be written.
    pub async fn announce(
        &self,
        query_id: &str,
        principal: &str,
        schema: &SchemaRef,
        is_ordered: bool,
    ) -> Result<Status> {
        let status = Status {
            state: State::Running,
            progress: 0.0,
            parts: Vec::new(),
            is_ordered,
            error: None,
            schema: schema_text(schema)?,
            principal: principal.to_owned(),
            heartbeat_us: self.clock.now_us(),
        };
        self.write(query_id, &status).await?;
        Ok(status)
    }

    /// Runs `batches` to their end, and keeps them. `progress` tells how much of the input was read.
    pub async fn spool(
        &self,
        query_id: &str,
        mut status: Status,
        batches: Result<SendableRecordBatchStream>,
        progress: impl Fn() -> f64 + Send,
    ) {
        let spooled = match batches {
            Ok(batches) => self.spool_parts(query_id, &mut status, batches, progress).await,
            Err(error) => Err(error),
        };
        match spooled {
            Ok(()) => (status.state, status.progress) = (State::Done, 1.0),
            Err(error) => {
                status.state = State::Failed;
                status.error = Some((code(error.kind()) as i32, error.chain()));
            }
        }
        if let Err(error) = self.write(query_id, &status).await {
            tracing::warn!(query_id, error = error.chain(), "the end of a query in the background can't be told");
        }
    }

    async fn spool_parts(
        &self,
        query_id: &str,
        status: &mut Status,
        mut batches: SendableRecordBatchStream,
        progress: impl Fn() -> f64 + Send,
    ) -> Result<()> {
        let schema = batches.schema();
        let mut signs = tokio::time::interval_at(Instant::now() + STATUS_INTERVAL, STATUS_INTERVAL);
        signs.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut gathered, mut bytes) = (Vec::new(), 0);
        loop {
            tokio::select! {
                biased;
                _ = signs.tick() => {
                    // What is read is not given yet: the end alone is 1.
                    status.progress = progress().min(0.99).max(status.progress);
                    self.write(query_id, status).await?;
                }
                batch = batches.next() => match batch {
                    Some(batch) => {
                        let batch = batch.map_err(explain)?;
                        bytes += batch_bytes(&batch);
                        gathered.push(batch);
                        if bytes >= self.part_bytes {
                            self.write_part(query_id, status, &schema, std::mem::take(&mut gathered), bytes).await?;
                            bytes = 0;
                        }
                    }
                    None => break,
                },
            }
        }
        // A result of no rows has one part too, so that there is something to fetch.
        if !gathered.is_empty() || status.parts.is_empty() {
            self.write_part(query_id, status, &schema, gathered, bytes).await?;
        }
        Ok(())
    }

    async fn write_part(
        &self,
        query_id: &str,
        status: &mut Status,
        schema: &SchemaRef,
        batches: Vec<RecordBatch>,
        bytes: usize,
    ) -> Result<()> {
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let schema = SchemaRef::clone(schema);
        let encoded = tokio::task::spawn_blocking(move || encode(&schema, &batches));
        let encoded = encoded.await.context(Kind::Internal, || "encoding a result was stopped".to_owned())??;
        let path = part_place(query_id, status.parts.len())?;
        let kept = self.store.put(&path, encoded.into()).await;
        kept.map_err(|error| Error::unavailable("the result can't be kept in the lake").because(error))?;
        status.parts.push(Part { rows, bytes: bytes as u64 });
        self.write(query_id, status).await
    }

    async fn write(&self, query_id: &str, status: &Status) -> Result<()> {
        let status = Status { heartbeat_us: self.clock.now_us(), ..status.clone() };
        let json = serde_json::to_vec(&status).context(Kind::Internal, || "a status can't be written".to_owned())?;
        let put = self.store.put(&place(query_id, "status.json")?, json.into()).await;
        put.map(drop).map_err(|error| {
            Error::unavailable("results of queries in the background can't be kept in the lake; use GetFlightInfo")
                .because(error)
        })
    }
}

fn encode(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let unwritable = |error| Error::internal("the result can't be encoded").because(error);
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME));
    let mut bytes = Vec::new();
    let mut writer =
        StreamWriter::try_new_with_options(&mut bytes, schema, options.map_err(unwritable)?).map_err(unwritable)?;
    for batch in batches {
        writer.write(batch).map_err(unwritable)?;
    }
    writer.finish().map_err(unwritable)?;
    drop(writer);
    Ok(bytes)
}
