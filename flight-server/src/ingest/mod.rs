//! Ingest: rows that a client sent become frames, and frames are kept by the delivery stream.
//!
//! ```text
//!  begin: table? schema fits? ─► push: rows fit? ─► frames ─► records, shared by all producers ─► DeliveryStream
//!  (Door)                        (intake)           (framing)  (shipping, packing)                      │
//!  receipt ◄─── all of it is kept (underway, sending) ◄─────────────────────────────────────────────────┘
//! ```
//!
//! The frames are a pure function of the batches that came ([`framing`]), so a client that sends an ingest again under
//! the same id sends the same frames again, and silver takes each once. An ingest with an end is in [`bulk`], a stream
//! of numbered batches in [`stream`].

mod accepted;
mod billing;
mod bulk;
mod framing;
mod intake;
mod packing;
mod sending;
mod shipping;
mod stream;
mod underway;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use lakehouse::definition::{Column, Table};
use lakehouse::name::same_column;
use lakehouse::{Clock, Definitions, Error, Kind, Lake, Layer, NewTable, Result, SqlType, delta, schema};
use proto::frame::Compression;
use tokio::sync::Semaphore;
use uuid::{NoContext, Timestamp, Uuid};

pub use accepted::{AcceptedIngest, AcceptedIngests};
pub use billing::{Bill, Billing};
pub use shipping::{LANE_BYTES_MAX, SHIPPING_BYTES_MAX};
pub use stream::OFFSET_MAX;

use crate::delivery::DeliveryStream;
use crate::door::{DoorColumn, IngestDoor, IngestOptions, OpenIngest, OpenStream};
use bulk::Ingest;
use intake::Intake;
use sending::{Sending, Shared};
use shipping::Shipping;
use stream::Stream;

/// The longest ingest id that a client may choose, in bytes.
pub const INGEST_ID_BYTES_MAX: usize = 128;

/// How many threads frame rows at once; each holds a batch.
const FRAMINGS_MAX: usize = 8;

/// The door for all ingests into one lakehouse.
pub struct Door {
    definitions: Arc<Definitions>,
    lake: Lake,
    shared: Arc<Shared>,
}

/// What a door's rows leave behind, for system tables to tell.
#[derive(Clone, Default)]
pub struct Traces {
    /// The ingests that were accepted.
    pub accepted: Arc<AcceptedIngests>,
    /// What their delivery costs.
    pub billing: Arc<Billing>,
}

impl Door {
    /// A door whose frames go to `stream`, where they wait for others at most for `linger`.
    pub fn new(
        definitions: Arc<Definitions>,
        lake: Lake,
        stream: Arc<dyn DeliveryStream>,
        linger: Duration,
        clock: Arc<dyn Clock>,
        traces: Traces,
    ) -> Self {
        let shared = Arc::new(Shared {
            shipping: Shipping::new(stream, linger, Arc::clone(&traces.billing)),
            clock,
            compression: Compression::Lz4,
            accepted: traces.accepted,
            billing: traces.billing,
            framings: Arc::new(Semaphore::new(FRAMINGS_MAX)),
            last_received_us: AtomicI64::new(0),
        });
        Self { definitions, lake, shared }
    }

    async fn table(&self, table: &str) -> Result<Arc<Table>> {
        let definition = match self.definitions.now() {
            known if known.tables.contains_key(table) => known,
            // Another server may have made it.
            _ => self.definitions.refresh().await?,
        };
        definition.table(table).cloned()
    }

    async fn known_columns(&self, table: &Table) -> Result<(Vec<Column>, Option<Schema>)> {
        let stored = match self.lake.open(Layer::Silver, &table.name).await? {
            Some(silver) => Some(delta::stored_schema(&silver)?),
            None => None,
        };
        Ok((schema::known_columns(table, stored.as_ref())?, stored))
    }

    /// Checks what is known before the first row.
    async fn open(&self, table: &str, incoming: SchemaRef, options: IngestOptions) -> Result<(Intake, Sending)> {
        let table = self.table(table).await?;
        let ingest_id = match options.ingest_id {
            Some(id) => checked(id)?,
            None => new_id(self.shared.clock.now_us()),
        };
        let (columns, stored) = self.known_columns(&table).await?;
        schema::admit(&table, stored.as_ref(), &incoming)?;
        // What clients note beside names and types (pandas does so at length) would come with each frame.
        let plain = without_metadata(&incoming);
        let sending = Sending::new(Arc::clone(&self.shared), table.name.clone(), plain, ingest_id)?;
        let (is_partial, compression) = (options.is_partial, self.shared.compression);
        Ok((Intake { table, columns, is_partial, compression }, sending))
    }
}

#[async_trait]
impl IngestDoor for Door {
    async fn begin(&self, table: &str, schema: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenIngest>> {
        let (intake, sending) = self.open(table, schema, options).await?;
        Ok(Box::new(Ingest::new(intake, sending)))
    }

    async fn stream(&self, table: &str, schema: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenStream>> {
        let (intake, sending) = self.open(table, schema, options).await?;
        Ok(Box::new(Stream::new(intake, sending)))
    }

    async fn columns(&self, table: &str) -> Result<Vec<DoorColumn>> {
        let table = self.table(table).await?;
        if table.transform.is_some() {
            // What comes in is the transform's affair.
            return Ok(Vec::new());
        }
        let known = self.known_columns(&table).await?.0.into_iter().map(|column| door_column(&table, column));
        let dropped = table.columns.iter().filter(|column| table.drops(&column.name));
        let dropped = dropped.map(|column| Column { nullable: true, ..column.clone() });
        Ok(known.chain(dropped.map(|column| DoorColumn { column, is_declared: true })).collect())
    }

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
}

/// A column that the table has, as rows for it are to have it.
fn door_column(table: &Table, mut column: Column) -> DoorColumn {
    let declared = table.column(&column.name);
    // Delta has JSON as text.
    if declared.is_some_and(|declared| declared.data_type == SqlType::Json) {
        column.data_type = SqlType::Json;
    }
    // What tells rows apart, and what orders them, is never NULL, whatever the stored type says.
    let is_sequence = table.sequence_by.iter().any(|name| same_column(name, &column.name));
    column.nullable &= !is_sequence && !table.is_key(&column.name);
    DoorColumn { column, is_declared: declared.is_some() }
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
    async fn begin(&self, table: &str, _: SchemaRef, _: IngestOptions) -> Result<Box<dyn OpenIngest>> {
        Err(shut(table))
    }

    async fn stream(&self, table: &str, _: SchemaRef, _: IngestOptions) -> Result<Box<dyn OpenStream>> {
        Err(shut(table))
    }

    async fn columns(&self, table: &str) -> Result<Vec<DoorColumn>> {
        Err(shut(table))
    }

    fn is_open(&self) -> bool {
        false
    }

    async fn create(&self, table: NewTable) -> Result<bool> {
        Err(shut(&table.name))
    }

    async fn has(&self, table: &str) -> Result<bool> {
        Err(shut(table))
    }
}

/// The schema's names, types and nullability alone.
fn without_metadata(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// An id that a client chose: it becomes part of Delta's transaction ids, and of what a query waits for, so it is plain.
fn checked(id: String) -> Result<String> {
    // A slash divides the parts of a transaction id; commas and `@7` mean something in `wait_for`.
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ',';
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let names_a_batch = id.rsplit_once('@').is_some_and(|(_, behind)| is_number(behind));
    if id.is_empty() || id.len() > INGEST_ID_BYTES_MAX || !id.chars().all(is_plain) || names_a_batch {
        return Err(Error::invalid(format!(
            "ingest id {id:?} must have 1 to {INGEST_ID_BYTES_MAX} visible ASCII characters, none of them '/' or ',', \
             and not end in '@' and digits; choose another"
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

#[cfg(test)]
mod tests;
