//! CommandStatementIngest: Arrow rows in, a count out.
//!
//! The rows go through a door ([`IngestDoor`]) that this module knows nothing behind. The answer begins before the
//! rows have been read, so that the ingest's id reaches the client in a header; the count, or what went wrong, follows
//! when all is kept:
//!
//! ```text
//! client  ── command, schema ──► decode ── begin ──► door
//!         ◄── header mallard-ingest-id ──┘
//!         ── batches ──────────► decode ── push ───► OpenIngest
//!         ── end ──────────────►           finish ─►
//!         ◄── count ─────────────────────────────┘      failed part-way: count of what is kept, then the error
//! ```

use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementIngest, DoPutUpdateResult, TableExistsOption, TableNotExistOption};
use arrow_flight::{FlightData, PutResult};
use async_trait::async_trait;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future, stream};
use lakehouse::{Error, Kind, Name, NewTable, Result};
use prost::Message as _;
use proto::Receipt;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Response, Status};

use super::preflight;
use super::server::MESSAGE_BYTES_MAX;
use super::service::SqlService;
use super::status::{status, unimplemented};
use crate::engine::SILVER;

/// The gRPC metadata that carries an ingest's id: the client's own idempotency key if it sends one, and in the answer
/// the id that the ingest has.
pub const INGEST_ID_HEADER: &str = "mallard-ingest-id";

/// The ingest options: the columns of a new table's key, and the one that orders changes.
const OPTIONS: [&str; 2] = [PRIMARY_KEY, SEQUENCE_BY];
const PRIMARY_KEY: &str = "primary_key";
const SEQUENCE_BY: &str = "sequence_by";

/// Marks a column of the incoming schema as part of a new table's key, if it is "true".
const KEY_METADATA: &str = "mallard:primary_key";

/// What DoPut answers with.
pub(super) type PutStream = Pin<Box<dyn Stream<Item = Result<PutResult, Status>> + Send + 'static>>;

/// Where rows go in.
#[async_trait]
pub trait IngestDoor: Send + Sync + 'static {
    /// Opens an ingest into the silver table `table`, of batches of `schema`. `ingest_id` is the client's own
    /// idempotency key; without one, the ingest gets an id.
    ///
    /// # Errors
    /// `NotFound` if there is no such table, `Invalid` if the schema or the id doesn't fit, `Exhausted` or
    /// `Unavailable` if no ingest can be taken now.
    async fn begin(&self, table: &str, schema: SchemaRef, ingest_id: Option<String>) -> Result<Box<dyn OpenIngest>>;

    /// Whether it takes rows at all.
    fn is_open(&self) -> bool;

    /// Whether there is a silver table of this name.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read.
    async fn has(&self, table: &str) -> Result<bool>;

    /// Makes a silver table, unless it is there. Whether it was made.
    ///
    /// # Errors
    /// `Forbidden` if the definition does not allow it, `Invalid` if it can't be a table.
    async fn create(&self, table: NewTable) -> Result<bool>;
}

/// An ingest under way. Dropped without [`OpenIngest::finish`], it is given up; what was accepted stays so.
#[async_trait]
pub trait OpenIngest: Send {
    /// Its id.
    fn ingest_id(&self) -> &str;

    /// Takes a batch. It may be accepted only later, at the latest by `finish`.
    ///
    /// # Errors
    /// `Invalid` if the rows don't fit, `Exhausted` or `Unavailable` if they can't be kept now.
    async fn push(&mut self, batch: RecordBatch) -> Result<()>;

    /// Returns once all rows are kept. Called once; nothing is pushed after it.
    ///
    /// # Errors
    /// As [`OpenIngest::push`].
    async fn finish(&mut self) -> Result<Receipt>;

    /// Rows that are kept so far, whatever becomes of the rest.
    fn accepted_rows(&self) -> u64;
}

/// Answers a DoPut whose first message carries `command`; `messages` begin with that message.
pub(super) async fn put(
    service: &SqlService,
    command: &CommandStatementIngest,
    metadata: &MetadataMap,
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Response<PutStream>, Status> {
    check(command, &service.engine.definition().name)?;
    let mode = mode(command)?;
    let ingest_id = ingest_id(metadata)?;
    let mut batches = Batches::new(messages);
    let schema = batches.schema().await?;
    if mode != Mode::Append {
        make_table(service, command, mode, &schema).await.map_err(status)?;
    } else if let Some(option) = command.options.keys().min() {
        return Err(status(Error::invalid(format!("ingest option {option:?} is for making tables; leave it out"))));
    }
    let schema = without_keys(&schema);
    let ingest = service.door.begin(&command.table, schema, ingest_id).await.map_err(status)?;

    let header = MetadataValue::try_from(ingest.ingest_id()).ok();
    let results = stream::once(run(ingest, batches)).flat_map(stream::iter).boxed();
    let mut response = Response::new(results as PutStream);
    if let Some(header) = header {
        response.metadata_mut().insert(INGEST_ID_HEADER, header);
    }
    Ok(response)
}

/// Reads all batches into the ingest; what to tell the client.
async fn run(mut ingest: Box<dyn OpenIngest>, mut batches: Batches) -> Vec<Result<PutResult, Status>> {
    match drain(ingest.as_mut(), &mut batches).await {
        Ok(receipt) => vec![Ok(count(receipt.rows))],
        Err(error) => match ingest.accepted_rows() {
            0 => vec![Err(error)],
            rows => vec![Ok(count(rows)), Err(error)],
        },
    }
}

async fn drain(ingest: &mut dyn OpenIngest, batches: &mut Batches) -> Result<Receipt, Status> {
    while let Some(batch) = batches.next().await? {
        ingest.push(batch).await.map_err(status)?;
    }
    ingest.finish().await.map_err(status)
}

/// The result that tells how many rows were kept.
pub(super) fn count(rows: u64) -> PutResult {
    let result = DoPutUpdateResult { record_count: i64::try_from(rows).unwrap_or(i64::MAX) };
    PutResult { app_metadata: result.encode_to_vec().into() }
}

/// Refuses what an ingest can't be; what is left is: append to a silver table.
fn check(command: &CommandStatementIngest, catalog: &str) -> Result<(), Status> {
    let invalid = |message: String| Err(status(Error::invalid(message)));
    if command.temporary {
        return Err(unimplemented(format!(
            "temporary table {:?} is refused, since there are none; ingest into a table of the definition",
            command.table
        )));
    }
    if command.transaction_id.as_ref().is_some_and(|id| !id.is_empty()) {
        return Err(unimplemented("there are no transactions: each ingest is kept as a whole once it is acknowledged"));
    }
    if let Some(other) = command.catalog.as_deref().filter(|name| !name.is_empty() && *name != catalog) {
        return invalid(format!("there is no catalog {other:?}; leave it out or say {catalog:?}"));
    }
    if let Some(other) = command.schema.as_deref().filter(|name| !name.is_empty() && *name != SILVER) {
        return invalid(format!("rows go into tables of schema silver, not {other:?}; leave the schema out"));
    }
    if let Some(option) = command.options.keys().filter(|option| !OPTIONS.contains(&option.as_str())).min() {
        return invalid(format!("ingest option {option:?} is unknown; there are: {}", OPTIONS.join(", ")));
    }
    Ok(())
}

/// What an ingest does about its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It must be there.
    Append,
    /// It must not be there.
    Create,
    /// It is made if it is not there.
    CreateAppend,
}

fn mode(command: &CommandStatementIngest) -> Result<Mode, Status> {
    let options = command.table_definition_options.unwrap_or_default();
    match (options.if_not_exist(), options.if_exists()) {
        (TableNotExistOption::Fail, TableExistsOption::Append) => Ok(Mode::Append),
        (TableNotExistOption::Create, TableExistsOption::Append) => Ok(Mode::CreateAppend),
        (TableNotExistOption::Create, TableExistsOption::Fail) => Ok(Mode::Create),
        (_, TableExistsOption::Replace) => Err(unimplemented(format!(
            "mode replace is refused for table {:?}, since an ingest only adds rows: with a primary key, rows replace \
             those of their key; use append mode, or another table",
            command.table
        ))),
        _ => Err(status(Error::invalid(format!(
            "the ingest's mode is not said, or makes no sense; use append mode for table {:?}",
            command.table
        )))),
    }
}

async fn make_table(
    service: &SqlService,
    command: &CommandStatementIngest,
    mode: Mode,
    schema: &SchemaRef,
) -> Result<()> {
    let name = &command.table;
    let exists = || {
        let message = format!("table {name:?} is there already; use append mode, or another name");
        if mode == Mode::Create { Err(Error::new(Kind::AlreadyExists, message)) } else { Ok(()) }
    };
    if service.door.has(name).await? {
        return exists();
    }
    let listed = |option: &str| {
        let names = command.options.get(option).into_iter().flat_map(|names| names.split(','));
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect::<Vec<_>>()
    };
    let marked =
        schema.fields().iter().filter(|field| field.metadata().get(KEY_METADATA).is_some_and(|it| it == "true"));
    let primary_key = match listed(PRIMARY_KEY) {
        listed if listed.is_empty() => marked.map(|field| field.name().clone()).collect(),
        listed => listed,
    };
    let mut sequence_by = listed(SEQUENCE_BY);
    if sequence_by.len() > 1 {
        return Err(Error::invalid(format!("ingest option {SEQUENCE_BY} names one column, not {}", sequence_by.len())));
    }
    let name = Name::new(name).map_err(|error| Error::invalid(format!("table {error}")))?;
    let table = NewTable { name, columns: SchemaRef::clone(schema), primary_key, sequence_by: sequence_by.pop() };
    // Another ingest may have been quicker.
    if service.door.create(table).await? { Ok(()) } else { exists() }
}

/// The schema without the marks that were for making the table: frames of the same rows are the same.
fn without_keys(schema: &SchemaRef) -> SchemaRef {
    if schema.fields().iter().all(|field| !field.metadata().contains_key(KEY_METADATA)) {
        return SchemaRef::clone(schema);
    }
    let fields = schema.fields().iter().map(|field| {
        let mut metadata = field.metadata().clone();
        metadata.remove(KEY_METADATA);
        field.as_ref().clone().with_metadata(metadata)
    });
    SchemaRef::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// The id that a client chose for its rows.
pub(super) fn ingest_id(metadata: &MetadataMap) -> Result<Option<String>, Status> {
    let Some(value) = metadata.get(INGEST_ID_HEADER) else { return Ok(None) };
    let text = value.to_str().map_err(|error| {
        status(
            Error::invalid(format!("header {INGEST_ID_HEADER} is not plain ASCII; choose another id")).because(error),
        )
    })?;
    Ok(Some(text.to_owned()))
}

/// Decodes a client's messages, trusting none of them.
pub(super) struct Batches {
    decoder: FlightDataDecoder,
}

impl Batches {
    pub(super) fn new(messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static) -> Self {
        // The first message may carry the command alone.
        let messages = messages.try_filter(|message| future::ready(!message.data_header.is_empty()));
        let checked = messages.map(|message| {
            let message = message.map_err(from_transport)?;
            preflight::check(&message).map_err(status)?;
            Ok::<_, FlightError>(message)
        });
        Self { decoder: FlightDataDecoder::new(checked) }
    }

    async fn schema(&mut self) -> Result<SchemaRef, Status> {
        self.schema_if_any().await?.ok_or_else(|| damaged("it does not begin with a schema"))
    }

    /// `None` if there is no message at all.
    pub(super) async fn schema_if_any(&mut self) -> Result<Option<SchemaRef>, Status> {
        match self.payload().await? {
            Some(DecodedPayload::Schema(schema)) => Ok(Some(schema)),
            Some(_) => Err(damaged("it does not begin with a schema")),
            None => Ok(None),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, Status> {
        match self.payload().await? {
            Some(DecodedPayload::RecordBatch(batch)) => Ok(Some(batch)),
            Some(_) => Err(damaged("it has a second schema; send batches of one schema an ingest")),
            None => Ok(None),
        }
    }

    /// The next message that says something.
    async fn payload(&mut self) -> Result<Option<DecodedPayload>, Status> {
        loop {
            // The decoder can panic on a hostile schema or batch; it is not used again after that.
            let decoded = AssertUnwindSafe(self.decoder.next()).catch_unwind().await;
            match decoded.map_err(|_| damaged("a message can't be decoded"))?.transpose().map_err(undecodable)? {
                Some(data) if matches!(data.payload, DecodedPayload::None) => {}
                Some(data) => return Ok(Some(data.payload)),
                None => return Ok(None),
            }
        }
    }
}

fn damaged(how: &str) -> Status {
    status(Error::invalid(format!("the Arrow stream is damaged: {}", how.trim_end())))
}

fn undecodable(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => damaged(&other.to_string()),
    }
}

/// gRPC's own refusal of a large message does not say what to do about it.
fn from_transport(refusal: Status) -> Status {
    if refusal.code() == Code::OutOfRange {
        return status(Error::exhausted(format!(
            "a message has more than {MESSAGE_BYTES_MAX} bytes; send smaller batches"
        )));
    }
    refusal
}
