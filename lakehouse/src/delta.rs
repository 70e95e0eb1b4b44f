//! Every write to a Delta table goes through here, with its transactions and its story in the same commit.
//!
//! A [`Commit`] carries application transactions (`txn` actions: what has been done already, so that it is done once)
//! and a JSON story (under [`STORY_KEY`] in the commit's info: ingests, versions read, counts), from which the system
//! tables are told. Errors are told apart by what a caller can do: a lost race is `Conflict`, storage is
//! `Unavailable`, a broken rule is `Invalid`.

mod changing;
mod evolving;
mod files;
mod transactions;
pub mod vectors;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::Column;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::create_session_state_with_spill_config;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake::kernel::transaction::{CommitProperties, TransactionError};
use deltalake::kernel::{Action, CommitInfo, StructType, Transaction};
use deltalake::logstore::{LogStore, get_actions};
use deltalake::operations::write::SchemaMode;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError, TableProperty};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Context, Error, Kind, Result};
use crate::lake::{Lake, Layer};
use crate::name::Name;

pub use changing::{Changes, FileChange, FileWriter, TARGET_FILE_BYTES, rewrite};
pub use evolving::{add_columns, evolve, live_rows};
pub use files::{DataFile, Rows, data_files, read_rows};
pub use transactions::Transactions;

/// How long Delta keeps `txn` actions: a frame that comes again after this is merged again.
pub const TRANSACTION_RETENTION: &str = "interval 30 days";

/// The same in days.
pub const TRANSACTION_RETENTION_DAYS: u32 = 30;

/// The key in a commit's info under which [`Commit::story`] lies.
pub const STORY_KEY: &str = "mallard";

/// zstd's level for Parquet: the fastest one, smaller than snappy all the same.
const ZSTD_LEVEL: i32 = 1;

/// What a commit says besides its data.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Application ids with their new versions.
    pub transactions: Vec<(String, i64)>,
    /// What happened, for the system tables.
    pub story: Value,
    /// When, in microseconds since the epoch.
    pub at_us: i64,
}

impl Commit {
    /// The properties that delta-rs writes with the commit. It is made on the version that was read, or not at all: one
    /// that is rebased may name rows that another writer has moved (see [`Changes`]).
    pub fn properties(&self) -> CommitProperties {
        let transactions = self
            .transactions
            .iter()
            .map(|(id, version)| Transaction::new_with_last_update(id, *version, Some(self.at_us / 1000)))
            .collect();
        unrebased()
            .with_metadata([(STORY_KEY.to_owned(), self.story.clone())])
            .with_application_transactions(transactions)
    }
}

/// A DataFusion session for delta-rs' own plans, which spills instead of growing past `memory_bytes`.
pub fn session(memory_bytes: usize, spill_bytes_max: u64) -> Arc<SessionState> {
    Arc::new(create_session_state_with_spill_config(Some(memory_bytes), Some(spill_bytes_max)))
}

/// How Parquet files are written.
pub fn writer_properties() -> WriterProperties {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default();
    WriterProperties::builder().set_compression(Compression::ZSTD(level)).build()
}

/// A delta-rs error as ours; `what` says what was being done.
pub fn convert(what: &str, error: DeltaTableError) -> Error {
    let kind = match &error {
        DeltaTableError::Transaction { source } => match source {
            TransactionError::VersionAlreadyExists(_)
            | TransactionError::CommitConflict(_)
            | TransactionError::MaxCommitAttempts(_) => Kind::Conflict,
            TransactionError::ObjectStore { .. } | TransactionError::LogStoreError { .. } => Kind::Unavailable,
            _ => Kind::Internal,
        },
        // A version that was said to be there, and is not.
        DeltaTableError::VersionAlreadyExists(_)
        | DeltaTableError::VersionMismatch(..)
        | DeltaTableError::InvalidVersion(_) => Kind::Conflict,
        // The kernel reads the log; what fails there is storage nearly always, and it doesn't say so. Some of it comes as
        // text alone.
        DeltaTableError::ObjectStore { .. }
        | DeltaTableError::Io { .. }
        | DeltaTableError::KernelError(_)
        | DeltaTableError::Kernel { .. }
        | DeltaTableError::Generic(_)
        | DeltaTableError::GenericError { .. } => Kind::Unavailable,
        other if is_from_storage(other) => Kind::Unavailable,
        DeltaTableError::SchemaMismatch { .. } | DeltaTableError::InvalidData { .. } => Kind::Invalid,
        _ => Kind::Internal,
    };
    Error::new(kind, what.to_owned()).because(error)
}

/// Whether storage failed below layers that do not say so.
fn is_from_storage(error: &DeltaTableError) -> bool {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if error.is::<deltalake::ObjectStoreError>() || error.is::<std::io::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// What every commit is made with: on the version that was read, and without a look through the log for what is old,
/// which is maintenance's.
fn unrebased() -> CommitProperties {
    CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(false))
}

/// Creates an empty table. If another writer was quicker, gives that one's.
///
/// # Errors
/// `Invalid` if Delta can't store the schema, `Unavailable` if the storage fails.
pub async fn create(
    lake: &Lake,
    layer: Layer,
    name: &Name,
    schema: &Schema,
    partition_by: &[String],
    description: Option<&str>,
) -> Result<DeltaTable> {
    create_indexed(lake, layer, name, schema, partition_by, &[], description).await
}

/// As [`create`]; the log will tell the bounds of the columns `indexed`, wherever they stand.
///
/// # Errors
/// As [`create`].
pub async fn create_indexed(
    lake: &Lake,
    layer: Layer,
    name: &Name,
    schema: &Schema,
    partition_by: &[String],
    indexed: &[String],
    description: Option<&str>,
) -> Result<DeltaTable> {
    let fields: StructType = schema
        .try_into_kernel()
        .map_err(|error| Error::invalid(format!("Delta can't store the schema of {layer}.{name}")).because(error))?;
    let mut create = lake
        .handle(layer, name)?
        .create()
        .with_table_name(name.as_str())
        .with_columns(fields.fields().cloned())
        .with_partition_columns(partition_by)
        .with_save_mode(SaveMode::Ignore)
        .with_commit_properties(unrebased())
        .with_configuration_property(TableProperty::SetTransactionRetentionDuration, Some(TRANSACTION_RETENTION));
    if let Some(description) = description {
        create = create.with_comment(description);
    }
    if let Some(columns) = columns_with_statistics(schema, indexed).filter(|_| layer == Layer::Silver) {
        create = create.with_configuration_property(TableProperty::DataSkippingStatsColumns, Some(columns));
    }
    match create.await {
        Ok(table) => Ok(table),
        Err(error) => match lake.open(layer, name).await? {
            Some(table) => Ok(table),
            None => Err(convert(&format!("can't create table {layer}.{name}"), error)),
        },
    }
}

/// How many columns Delta keeps minima and maxima of, unless it is told otherwise:
/// <https://docs.delta.io/latest/optimizations-oss.html> (`delta.dataSkippingNumIndexedCols`)
const INDEXED_COLUMNS_DEFAULT: usize = 32;

/// The columns whose minima and maxima are kept, if they are not simply the first ones: those that are needed come
/// first, and those of which they can't be kept not at all. delta-rs cuts those of whole decimals to 64 bits and rounds
/// others to floats, and a wrong maximum makes readers skip files that they should read.
fn columns_with_statistics(schema: &Schema, indexed: &[String]) -> Option<String> {
    let is_narrow = |field: &&FieldRef| !has_wide_decimal(field.data_type());
    let first = schema.fields().iter().take(INDEXED_COLUMNS_DEFAULT);
    let is_told = |name: &String| first.clone().any(|field| field.name() == name);
    if schema.fields().iter().all(|field| is_narrow(&field)) && indexed.iter().all(is_told) {
        return None;
    }
    let is_indexed = |field: &&FieldRef| indexed.contains(field.name());
    let needed = schema.fields().iter().filter(is_indexed);
    let others = schema.fields().iter().filter(|field| !is_indexed(field));
    let names = needed.chain(others).filter(is_narrow).take(INDEXED_COLUMNS_DEFAULT.max(indexed.len()));
    Some(names.map(|field| format!("`{}`", field.name().replace('`', "``"))).collect::<Vec<_>>().join(","))
}

fn has_wide_decimal(data_type: &DataType) -> bool {
    const WHOLE_DIGITS_MAX: u8 = 18;
    const DIGITS_MAX: u8 = 15;
    match data_type {
        DataType::Decimal128(digits, scale) => *digits > if *scale == 0 { WHOLE_DIGITS_MAX } else { DIGITS_MAX },
        DataType::Struct(fields) => fields.iter().any(|field| has_wide_decimal(field.data_type())),
        DataType::List(field) | DataType::Map(field, _) => has_wide_decimal(field.data_type()),
        _ => false,
    }
}

/// The Arrow schema that a table stores.
///
/// # Errors
/// `Internal` if the table is not loaded.
pub fn stored_schema(table: &DeltaTable) -> Result<Schema> {
    let snapshot = table.snapshot().map_err(|error| convert("the table is not loaded", error))?;
    snapshot
        .schema()
        .as_ref()
        .try_into_arrow()
        .map_err(|error| Error::internal("a Delta schema is no Arrow schema").because(error))
}

/// The version that a table is loaded at.
pub fn version(table: &DeltaTable) -> u64 {
    table.version().unwrap_or_default()
}

/// Adds batches to a table.
///
/// # Errors
/// See the module's description.
pub async fn append(table: DeltaTable, batches: Vec<RecordBatch>, commit: &Commit) -> Result<DeltaTable> {
    write(table, batches, commit, SaveMode::Append, None).await
}

/// Replaces a table's rows, and its schema by that of the batches, in one commit.
///
/// # Errors
/// See the module's description.
pub async fn replace(table: DeltaTable, batches: Vec<RecordBatch>, commit: &Commit) -> Result<DeltaTable> {
    write(table, batches, commit, SaveMode::Overwrite, Some(SchemaMode::Overwrite)).await
}

async fn write(
    table: DeltaTable,
    batches: Vec<RecordBatch>,
    commit: &Commit,
    mode: SaveMode,
    schema_mode: Option<SchemaMode>,
) -> Result<DeltaTable> {
    let what = format!("can't write to {}", table.table_url().path());
    let mut write = table
        .write(batches)
        .with_save_mode(mode)
        .with_commit_properties(commit.properties())
        .with_writer_properties(writer_properties());
    if let Some(schema_mode) = schema_mode {
        write = write.with_schema_mode(schema_mode);
    }
    write.await.map_err(|error| convert(&what, error))
}

/// Commits transactions and a story without data.
///
/// # Errors
/// See the module's description.
pub async fn commit_only(table: DeltaTable, commit: &Commit) -> Result<DeltaTable> {
    let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
    Changes::default().commit(table, operation, commit).await
}

/// Lets a table have deletion vectors: from then on, only readers that know them can read it.
///
/// # Errors
/// See the module's description.
pub async fn allow_vectors(table: DeltaTable) -> Result<DeltaTable> {
    set_property(table, TableProperty::EnableDeletionVectors, "true".to_owned()).await
}

async fn set_property(table: DeltaTable, property: TableProperty, value: String) -> Result<DeltaTable> {
    let what = format!("can't set {} of {}", property.as_ref(), table.table_url().path());
    let snapshot = table.snapshot().map_err(|error| convert(&what, error))?;
    if snapshot.metadata().configuration().get(property.as_ref()) == Some(&value) {
        return Ok(table);
    }
    let set = table.set_tbl_properties().with_properties(HashMap::from([(property.as_ref().to_owned(), value)]));
    set.with_commit_properties(unrebased()).await.map_err(|error| convert(&what, error))
}

/// The version last committed under an application id.
///
/// # Errors
/// `Unavailable` if the log can't be read.
pub async fn transaction_version(table: &DeltaTable, id: &str) -> Result<Option<i64>> {
    let what = || format!("can't read the transactions of {}", table.table_url().path());
    let snapshot = table.snapshot().map_err(|error| convert(&what(), error))?;
    snapshot.transaction_version(table.log_store().as_ref(), id).await.map_err(|error| convert(&what(), error))
}

/// One commit of a table's history.
#[derive(Clone, Debug)]
pub struct Told<T> {
    /// The version that the commit made.
    pub version: u64,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Its story, if it has one of this kind.
    pub story: Option<T>,
}

/// How many commits of a log are read at once.
const COMMITS_AT_ONCE: usize = 16;

/// The newest commits of `table` up to its loaded version, with their stories, newest first, at most `limit` of them.
/// Those whose log was cleaned away are left out.
///
/// Each is read by its number: delta-rs's own history begins with what is newest in storage, which may be newer than
/// `table`, and does not say which version a commit is.
///
/// # Errors
/// `Unavailable` if the log can't be read.
pub async fn history<T: DeserializeOwned>(table: &DeltaTable, limit: usize) -> Result<Vec<Told<T>>> {
    let Some(newest) = table.version() else { return Ok(Vec::new()) };
    let log = table.log_store();
    let told = stream::iter((0..=newest).rev().take(limit)).map(|version| {
        let log = Arc::clone(&log);
        async move { Ok::<_, Error>((version, commit_info(log.as_ref(), version).await?)) }
    });
    let told: Vec<(u64, Option<CommitInfo>)> = told.buffered(COMMITS_AT_ONCE).try_collect().await?;
    let told = told.into_iter().filter_map(|(version, info)| {
        let mut info = info?;
        let story = info.info.remove(STORY_KEY).and_then(|story| serde_json::from_value(story).ok());
        Some(Told { version, at_ms: info.timestamp.unwrap_or_default(), story })
    });
    Ok(told.collect())
}

/// When a version was committed, in microseconds since the epoch, as the commit itself says; `None` if it is not there.
pub(crate) async fn committed_us(log: &dyn LogStore, version: u64) -> Result<Option<i64>> {
    let info = commit_info(log, version).await?;
    Ok(info.and_then(|info| info.timestamp).map(|ms| ms.saturating_mul(1_000)))
}

async fn commit_info(log: &dyn LogStore, version: u64) -> Result<Option<CommitInfo>> {
    let what = || format!("can't read commit {version} of {}", log.root_url().path());
    let Some(bytes) = log.read_commit_entry(version).await.map_err(|error| convert(&what(), error))? else {
        return Ok(None);
    };
    let actions = get_actions(version, &bytes).map_err(|error| convert(&what(), error))?;
    Ok(actions.into_iter().find_map(|action| match action {
        Action::CommitInfo(info) => Some(info),
        _ => None,
    }))
}

/// Rows and bytes of a table's files, from the log's statistics.
///
/// # Errors
/// `Internal` if the table is not loaded.
pub fn size(table: &DeltaTable) -> Result<(u64, u64)> {
    let snapshot = table.snapshot().map_err(|error| convert("the table is not loaded", error))?;
    let (mut rows, mut bytes) = (0, 0);
    for file in snapshot.log_data().iter() {
        let deleted = file.deletion_vector_descriptor().map_or(0, |vector| vector.cardinality);
        let its_rows = file.num_records().unwrap_or_default() as u64;
        rows += its_rows.saturating_sub(u64::try_from(deleted).unwrap_or_default());
        bytes += u64::try_from(file.size()).unwrap_or_default();
    }
    Ok((rows, bytes))
}

/// Reads some columns of a table's rows, those that may pass `filter`, as a stream.
///
/// # Errors
/// `Internal` if the scan can't be planned.
pub async fn read(
    table: &DeltaTable,
    session: &Arc<SessionState>,
    columns: Option<&[String]>,
    filter: Option<Expr>,
) -> Result<SendableRecordBatchStream> {
    let what = || format!("can't read {}", table.table_url().path());
    table.update_datafusion_session(session.as_ref()).map_err(|error| convert(&what(), error))?;
    let provider = table.table_provider().await.context(Kind::Internal, what)?;
    let context = SessionContext::new_with_state(session.as_ref().clone());
    let mut frame = context.read_table(provider).context(Kind::Internal, what)?;
    if let Some(filter) = filter {
        frame = frame.filter(filter).context(Kind::Internal, what)?;
    }
    if let Some(columns) = columns {
        let columns: Vec<Expr> = columns.iter().map(|name| Expr::Column(Column::new_unqualified(name))).collect();
        frame = frame.select(columns).context(Kind::Internal, what)?;
    }
    frame.execute_stream().await.context(Kind::Unavailable, what)
}
