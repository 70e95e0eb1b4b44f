//! CommandStatementIngest: Arrow rows in, a count out.
//!
//! The rows go through a door ([`IngestDoor`](crate::door::IngestDoor)) that this module knows nothing behind. The answer begins before the
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

use std::pin::Pin;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::sql::{CommandStatementIngest, DoPutUpdateResult, TableExistsOption, TableNotExistOption};
use arrow_flight::{FlightData, PutResult};
use futures::{Stream, StreamExt as _, stream};
use lakehouse::{Error, Kind, Name, NewTable, Result};
use prost::Message as _;
use proto::Receipt;
use serde_json::json;
use tokio::time::timeout;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

use super::batches::Batches;
use super::service::SqlService;
use super::status::{status, unimplemented};
use super::stopping::{LAST_WORD_MAX, Stopping};
use crate::door::{IngestOptions, OpenIngest, Rejected};
use crate::engine::SILVER;

/// The gRPC metadata that carries an ingest's id: the client's own idempotency key if it sends one, and in the answer
/// the id that the ingest has.
pub const INGEST_ID_HEADER: &str = "mallard-ingest-id";

/// The gRPC metadata, and the ingest option, that have good rows taken when others of their batch are bad.
pub const PARTIAL_HEADER: &str = "mallard-partial";
const PARTIAL: &str = "partial";

/// The ingest options for making a table: the columns of its key, and the one that orders changes.
const PRIMARY_KEY: &str = "primary_key";
const SEQUENCE_BY: &str = "sequence_by";
const OPTIONS: [&str; 3] = [PARTIAL, PRIMARY_KEY, SEQUENCE_BY];

/// How many rows that were left out wait to be told. An ingest that leaves out more ends with an error; a stream goes on
/// once its client has read of these.
const LEFT_OUT_MAX: u64 = 10_000;

/// Marks a column of the incoming schema as part of a new table's key, if it is "true".
const KEY_METADATA: &str = "mallard:primary_key";

/// What DoPut answers with.
pub(super) type PutStream = Pin<Box<dyn Stream<Item = Result<PutResult, Status>> + Send + 'static>>;

/// Answers a DoPut whose first message carries `command`; `messages` begin with that message.
pub(super) async fn put(
    service: &SqlService,
    command: &CommandStatementIngest,
    metadata: &MetadataMap,
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Response<PutStream>, Status> {
    check(command, &service.engine.definition().name)?;
    let mode = mode(command)?;
    let options = options(command, metadata)?;
    let mut batches = Batches::new(messages, service.decoding());
    let schema = batches.schema().await?;
    if mode != Mode::Append {
        make_table(service, command, mode, &schema).await.map_err(status)?;
    } else if let Some(option) = command.options.keys().filter(|option| *option != PARTIAL).min() {
        return Err(status(Error::invalid(format!("ingest option {option:?} is for making tables; leave it out"))));
    }
    let schema = without_keys(&schema);
    let ingest = service.door.begin(&command.table, schema, options).await.map_err(status)?;

    let header = MetadataValue::try_from(ingest.ingest_id()).ok();
    let results = stream::once(run(ingest, batches, service.stopping.clone())).flat_map(stream::iter).boxed();
    let mut response = Response::new(results as PutStream);
    if let Some(header) = header {
        response.metadata_mut().insert(INGEST_ID_HEADER, header);
    }
    Ok(response)
}

/// Reads all batches into the ingest; what to tell the client. Rows that were left out are told behind the count.
async fn run(
    mut ingest: Box<dyn OpenIngest>,
    mut batches: Batches,
    stopping: Stopping,
) -> Vec<Result<PutResult, Status>> {
    let mut left_out = LeftOut::default();
    match drain(ingest.as_mut(), &mut batches, &mut left_out, &stopping).await {
        Ok(receipt) => {
            let told = (left_out.count > 0).then(|| Ok(left_out.result(ingest.ingest_id())));
            std::iter::once(Ok(count(receipt.rows))).chain(told).collect()
        }
        Err(error) => {
            let rows = timeout(LAST_WORD_MAX, ingest.give_up()).await.unwrap_or_else(|_| ingest.accepted_rows());
            let told = (rows > 0).then(|| Ok(count(rows)));
            told.into_iter().chain([Err(with_kept(&error, rows))]).collect()
        }
    }
}

/// The error, with the number of rows that are kept: few clients show a count that an error follows.
fn with_kept(error: &Status, rows: u64) -> Status {
    let message = format!("{}; of this ingest, {rows} rows are kept", error.message());
    let (details, metadata) = (error.details().to_vec().into(), error.metadata().clone());
    Status::with_details_and_metadata(error.code(), message, details, metadata)
}

async fn drain(
    ingest: &mut dyn OpenIngest,
    batches: &mut Batches,
    left_out: &mut LeftOut,
    stopping: &Stopping,
) -> Result<Receipt, Status> {
    let mut rows = 0;
    loop {
        let batch = tokio::select! {
            biased;
            () = stopping.begun() => return Err(status(stopping.refusal())),
            batch = batches.next() => batch?,
        };
        let Some(arrived) = batch else { return ingest.finish().await.map_err(status) };
        let count = arrived.batch.num_rows() as u64;
        left_out.add(ingest.push(arrived.batch).await.map_err(status)?, |row| json!({ "row": rows + row + 1 }));
        rows += count;
        if left_out.is_full() {
            return Err(status(Error::invalid(format!(
                "more than {LEFT_OUT_MAX} of the first {rows} rows can't be taken, the last of them: {}; mend the rows, or \
                 send fewer at a time",
                left_out.last()
            ))));
        }
    }
}

/// Rows that were left out and not told yet.
#[derive(Default)]
pub(super) struct LeftOut {
    pub(super) count: u64,
    rows: Vec<serde_json::Value>,
}

impl LeftOut {
    /// Adds rows; `place` says where one of them (from 0) stands.
    pub(super) fn add(&mut self, rejected: Rejected, place: impl Fn(u64) -> serde_json::Value) {
        self.count += rejected.count;
        self.rows.extend(rejected.rows.into_iter().map(|bad| {
            let mut told = place(bad.row);
            (told["column"], told["reason"]) = (json!(bad.column), json!(bad.reason));
            told
        }));
    }

    /// Whether no more may be added before these are told.
    pub(super) fn is_full(&self) -> bool {
        self.count > LEFT_OUT_MAX
    }

    fn last(&self) -> String {
        self.rows.last().map(ToString::to_string).unwrap_or_default()
    }

    /// As fields of a result.
    pub(super) fn tell(&mut self, result: &mut serde_json::Value) {
        result["rejected_rows"] = json!(self.count);
        result["rejected"] = json!(std::mem::take(&mut self.rows));
        self.count = 0;
    }

    fn result(&mut self, ingest_id: &str) -> PutResult {
        let mut result = json!({ "ingest_id": ingest_id });
        self.tell(&mut result);
        PutResult { app_metadata: result.to_string().into() }
    }
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
    let sequence_by = listed(SEQUENCE_BY);
    let name = Name::new(name).map_err(|error| Error::invalid(format!("table {error}")))?;
    let table = NewTable { name, columns: SchemaRef::clone(schema), primary_key, sequence_by };
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

/// What the client says about its rows.
fn options(command: &CommandStatementIngest, metadata: &MetadataMap) -> Result<IngestOptions, Status> {
    let is_partial = match command.options.get(PARTIAL) {
        Some(text) => is_true(PARTIAL, text)?,
        None => is_partial(metadata)?,
    };
    Ok(IngestOptions { ingest_id: ingest_id(metadata)?, is_partial })
}

/// Whether a client's header asks for the good rows of a batch to be taken.
pub(super) fn is_partial(metadata: &MetadataMap) -> Result<bool, Status> {
    let Some(value) = metadata.get(PARTIAL_HEADER) else { return Ok(false) };
    is_true(PARTIAL_HEADER, value.to_str().unwrap_or_default())
}

fn is_true(what: &str, text: &str) -> Result<bool, Status> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(status(Error::invalid(format!("{what} is {text:?}; choose true or false")))),
    }
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
