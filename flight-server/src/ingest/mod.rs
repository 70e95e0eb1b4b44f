//! Ingest: rows that a client sent become frames, and frames are kept by the delivery stream.
//!
//! ```text
//!  DoPut ─► begin: table? schema fits? ─► push: keys there? ─► frames ─► records ─► DeliveryStream ─► receipt
//! ```
//!
//! The frames are a pure function of the batches that came ([`framing`]), so a client that sends an ingest again under
//! the same id sends the same frames again, and silver takes each once.

mod accepted;
mod framing;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use lakehouse::definition::Table;
use lakehouse::{Clock, Definitions, Error, Kind, Lake, Layer, NewTable, Result, delta, schema};
use proto::Receipt;
use proto::frame::{Compression, FrameOrigin};
use uuid::{NoContext, Timestamp, Uuid};

pub use accepted::{AcceptedIngest, AcceptedIngests};

use crate::delivery::{CALL_BYTES_MAX, CALL_RECORDS_MAX, DeliveryStream, RECORD_BYTES_MAX};
use crate::flight::{IngestDoor, OpenIngest};
use framing::Framer;

/// The longest ingest id that a client may choose, in bytes.
pub const INGEST_ID_BYTES_MAX: usize = 128;

/// The door for all ingests into one lakehouse.
pub struct Door {
    definitions: Arc<Definitions>,
    lake: Lake,
    stream: Arc<dyn DeliveryStream>,
    clock: Arc<dyn Clock>,
    compression: Compression,
    accepted: Arc<AcceptedIngests>,
    /// The newest time that a frame was given: no two have the same, so frames have an order even if the clock jumps.
    last_received_us: Arc<AtomicI64>,
}

impl Door {
    /// A door whose frames go to `stream`, and whose receipts are noted in `accepted`.
    pub fn new(
        definitions: Arc<Definitions>,
        lake: Lake,
        stream: Arc<dyn DeliveryStream>,
        clock: Arc<dyn Clock>,
        accepted: Arc<AcceptedIngests>,
    ) -> Self {
        let last_received_us = Arc::new(AtomicI64::new(0));
        Self { definitions, lake, stream, clock, compression: Compression::Lz4, accepted, last_received_us }
    }
}

#[async_trait]
impl IngestDoor for Door {
    fn is_open(&self) -> bool {
        true
    }

    async fn create(&self, table: NewTable) -> Result<bool> {
        self.definitions.create(&table).await
    }

    async fn has(&self, table: &str) -> Result<bool> {
        let is_known = self.definitions.now().tables.contains_key(table);
        Ok(is_known || self.definitions.refresh().await?.tables.contains_key(table))
    }

    async fn begin(&self, table: &str, incoming: SchemaRef, ingest_id: Option<String>) -> Result<Box<dyn OpenIngest>> {
        let definition = match self.definitions.now() {
            known if known.tables.contains_key(table) => known,
            // Another server may have made it.
            _ => self.definitions.refresh().await?,
        };
        let table = Arc::clone(definition.table(table)?);
        let ingest_id = match ingest_id {
            Some(id) => checked(id)?,
            None => new_id(self.clock.now_us()),
        };
        let stored = match self.lake.open(Layer::Silver, &table.name).await? {
            Some(silver) => Some(delta::stored_schema(&silver)?),
            None => None,
        };
        schema::admit(&table, stored.as_ref(), &incoming)?;
        Ok(Box::new(Ingest {
            receipt: Receipt { ingest_id, table: table.name.to_string(), ..Receipt::default() },
            table,
            framer: Framer::new(incoming, self.compression),
            stream: Arc::clone(&self.stream),
            clock: Arc::clone(&self.clock),
            accepted: Arc::clone(&self.accepted),
            last_received_us: Arc::clone(&self.last_received_us),
            rows_seen: 0,
            framed_rows: 0,
            waiting: Vec::new(),
            accepted_at_us: 0,
        }))
    }
}

/// The door of a server that only reads.
pub struct ShutDoor;

fn shut(table: &str) -> Error {
    Error::new(
        Kind::Forbidden,
        format!("this server only reads, so it takes no rows for table {table:?}; send them to one that writes"),
    )
}

#[async_trait]
impl IngestDoor for ShutDoor {
    fn is_open(&self) -> bool {
        false
    }

    async fn create(&self, table: NewTable) -> Result<bool> {
        Err(shut(&table.name))
    }

    async fn has(&self, table: &str) -> Result<bool> {
        Err(shut(table))
    }

    async fn begin(&self, table: &str, _: SchemaRef, _: Option<String>) -> Result<Box<dyn OpenIngest>> {
        Err(shut(table))
    }
}

/// An id that a client chose: it becomes part of Delta's transaction ids, so it is kept plain.
fn checked(id: String) -> Result<String> {
    // A slash divides the parts of a transaction id.
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/';
    if id.is_empty() || id.len() > INGEST_ID_BYTES_MAX || !id.chars().all(is_plain) {
        return Err(Error::invalid(format!(
            "ingest id {id:?} must have 1 to {INGEST_ID_BYTES_MAX} visible ASCII characters, none of them '/'; choose another"
        )));
    }
    Ok(id)
}

/// An id: a UUIDv7 of this time.
pub(crate) fn new_id(now_us: i64) -> String {
    let now_us = u64::try_from(now_us).unwrap_or_default();
    let nanos = u32::try_from(now_us % 1_000_000).unwrap_or_default() * 1_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, now_us / 1_000_000, nanos)).to_string()
}

/// An ingest under way.
struct Ingest {
    table: Arc<Table>,
    framer: Framer,
    stream: Arc<dyn DeliveryStream>,
    clock: Arc<dyn Clock>,
    accepted: Arc<AcceptedIngests>,
    last_received_us: Arc<AtomicI64>,
    /// What is kept so far.
    receipt: Receipt,
    rows_seen: u64,
    /// Rows of the frames in `waiting`.
    framed_rows: u64,
    /// Encoded frames that are not put yet.
    waiting: Vec<Bytes>,
    accepted_at_us: i64,
}

impl Ingest {
    fn check_keys(&self, batch: &RecordBatch) -> Result<()> {
        if self.table.transform.is_some() {
            return Ok(());
        }
        match schema::null_key(&self.table, batch) {
            None => Ok(()),
            Some((row, column)) => Err(Error::invalid(format!(
                "row {} of the ingest into table {:?}: column {column:?} is part of the primary key and is NULL; \
                 give it a value. {} rows before it were accepted",
                self.rows_seen + row as u64 + 1,
                self.table.name.as_str(),
                self.receipt.rows,
            ))),
        }
    }

    /// Frames what the framer gives out, and puts it once a call's worth waits.
    async fn take_frames(&mut self, batches: Vec<Vec<RecordBatch>>) -> Result<()> {
        for rows in batches {
            let now_us = self.clock.now_us();
            let previous = self.last_received_us.fetch_max(now_us, Ordering::SeqCst);
            let received_at_us =
                if previous < now_us { now_us } else { self.last_received_us.fetch_add(1, Ordering::SeqCst) + 1 };
            let table = self.table.name.to_string();
            let origin = FrameOrigin { table, ingest_id: self.receipt.ingest_id.clone(), frame: 0, received_at_us };
            let next = self.receipt.frames + self.waiting.len() as u64;
            for (frame, rows) in self.framer.encode(origin, next, rows)? {
                let waiting: usize = self.waiting.iter().map(Bytes::len).sum();
                if waiting + frame.len() > CALL_BYTES_MAX || self.waiting.len() >= CALL_RECORDS_MAX {
                    self.put().await?;
                }
                self.waiting.push(frame);
                self.framed_rows += rows;
            }
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let frames = std::mem::take(&mut self.waiting);
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        let count = frames.len() as u64;
        self.stream.put(&self.table.name, framing::records(frames, RECORD_BYTES_MAX)).await?;
        self.receipt.rows += std::mem::take(&mut self.framed_rows);
        self.receipt.frames += count;
        self.receipt.bytes += bytes as u64;
        if self.accepted_at_us == 0 {
            self.accepted_at_us = self.clock.now_us();
        }
        self.accepted.note(AcceptedIngest { receipt: self.receipt.clone(), accepted_at_us: self.accepted_at_us });
        Ok(())
    }
}

#[async_trait]
impl OpenIngest for Ingest {
    fn ingest_id(&self) -> &str {
        &self.receipt.ingest_id
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        self.check_keys(&batch)?;
        schema::check_values(&self.table, &batch)?;
        self.rows_seen += batch.num_rows() as u64;
        let ready = self.framer.push(batch);
        self.take_frames(ready).await
    }

    async fn finish(&mut self) -> Result<Receipt> {
        let rest = self.framer.rest();
        self.take_frames(rest).await?;
        self.put().await?;
        Ok(self.receipt.clone())
    }

    fn accepted_rows(&self) -> u64 {
        self.receipt.rows
    }
}

#[cfg(test)]
mod tests;
