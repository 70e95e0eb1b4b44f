//! A table gets other columns: more of them, wider ones, such as may be NULL.
//!
//! New columns, new fields inside of structs and NULLs are a matter of the log alone. A wider type is not, for what is
//! written here: the table's files are written anew, row by row as they are read, in one commit. So this costs what the
//! table is large, once.

use std::fmt;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::{StructField, StructType};
use deltalake::logstore::object_store::ObjectStore;
use deltalake::operations::write::SchemaMode;
use deltalake::protocol::SaveMode;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tracing::warn;

use super::files::{DataFile, Rows, data_files, read_rows};
use super::vectors::{self, Positions};
use super::{columns_with_statistics, convert, set_property, size, stored_schema, unrebased, writer_properties};
use crate::error::{Context, Error, Kind, Result};

/// Rows that are read at once when a table is written anew.
const BATCH_ROWS: usize = 8 << 10;

/// Gives a table the columns of `schema`, besides those that it has: wider types, NULLs, new columns behind its own.
/// Nothing is committed if it has them. `indexed` are columns whose bounds the log has to tell.
///
/// # Errors
/// `Conflict` if another writer was quicker, otherwise as the module [`super`] says.
pub async fn evolve(
    table: DeltaTable,
    session: &Arc<SessionState>,
    schema: &Schema,
    indexed: &[String],
) -> Result<DeltaTable> {
    let stored = stored_schema(&table)?;
    // The table's own order, then what is new.
    let now =
        |field: &FieldRef| schema.fields().iter().find(|other| other.name() == field.name()).unwrap_or(field).clone();
    let mut fields: Vec<FieldRef> = stored.fields().iter().map(now).collect();
    fields.extend(schema.fields().iter().filter(|field| stored.column_with_name(field.name()).is_none()).cloned());
    let schema = Schema::new(fields);
    let pairs = || stored.fields().iter().zip(schema.fields());
    let changed: Vec<(&FieldRef, &FieldRef)> = pairs().filter(|(was, is)| was.data_type() != is.data_type()).collect();
    let is_more = schema.fields().len() > stored.fields().len();
    let mut table =
        if changed.is_empty() && !is_more { table } else { allow_statistics(table, &schema, indexed).await? };
    if changed.iter().any(|(was, is)| !has_only_more_fields(was.data_type(), is.data_type())) {
        return write_anew(table, session, &schema, &changed).await;
    }
    for (was, _) in pairs().filter(|(was, is)| is.is_nullable() && !was.is_nullable()) {
        let what = format!("can't let column {:?} of {} be NULL", was.name(), table.table_url().path());
        let drop = table.drop_column_not_null().with_column(was.name()).with_commit_properties(unrebased());
        table = drop.await.map_err(|error| convert(&what, error))?;
    }
    let added = schema.fields().iter().skip(stored.fields().len());
    let fields: Vec<FieldRef> = changed.iter().map(|(_, is)| *is).chain(added).cloned().collect();
    if fields.is_empty() {
        return Ok(table);
    }
    add_fields(table, fields).await
}

/// Gives a table new columns, which are NULL in the rows that are there.
///
/// # Errors
/// As [`evolve`].
pub async fn add_columns(table: DeltaTable, columns: &Schema) -> Result<DeltaTable> {
    let stored = stored_schema(&table)?;
    let all: Vec<FieldRef> = stored.fields().iter().chain(columns.fields()).cloned().collect();
    let table = allow_statistics(table, &Schema::new(all), &[]).await?;
    add_fields(table, columns.fields().to_vec()).await
}

/// New columns, or columns with new fields.
async fn add_fields(table: DeltaTable, fields: Vec<FieldRef>) -> Result<DeltaTable> {
    let what = format!("can't add columns to {}", table.table_url().path());
    let nullable: Vec<Field> = fields.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let fields: StructType =
        (&Schema::new(nullable)).try_into_kernel().map_err(|error| Error::invalid(what.clone()).because(error))?;
    let fields: Vec<StructField> = fields.fields().cloned().collect();
    let add = table.add_columns().with_fields(fields).with_commit_properties(unrebased());
    add.await.map_err(|error| convert(&what, error))
}

/// Keeps wide decimals out of the statistics, before there are any, and `indexed` columns in.
async fn allow_statistics(table: DeltaTable, schema: &Schema, indexed: &[String]) -> Result<DeltaTable> {
    let Some(columns) = columns_with_statistics(schema, indexed) else { return Ok(table) };
    set_property(table, deltalake::TableProperty::DataSkippingStatsColumns, columns).await
}

/// Whether a type differs from another only in fields of structs that the other has not, so that files without them can
/// be read as they are.
fn has_only_more_fields(was: &DataType, is: &DataType) -> bool {
    match (was, is) {
        (DataType::Struct(was), DataType::Struct(is)) => was.iter().all(|field| {
            let same = is.iter().find(|other| other.name() == field.name());
            same.is_some_and(|same| has_only_more_fields(field.data_type(), same.data_type()))
        }),
        (DataType::List(was), DataType::List(is)) | (DataType::Map(was, _), DataType::Map(is, _)) => {
            has_only_more_fields(was.data_type(), is.data_type())
        }
        _ => was == is,
    }
}

async fn write_anew(
    table: DeltaTable,
    session: &Arc<SessionState>,
    schema: &Schema,
    changed: &[(&FieldRef, &FieldRef)],
) -> Result<DeltaTable> {
    let what = format!("can't widen columns of {}", table.table_url().path());
    let (rows, bytes) = size(&table)?;
    let columns: Vec<String> =
        changed.iter().map(|(was, is)| format!("{} ({} to {})", was.name(), was.data_type(), is.data_type())).collect();
    warn!(
        table = table.table_url().path(),
        columns = columns.join(", "),
        rows,
        bytes,
        "columns become wider: all files are written anew"
    );
    let schema: SchemaRef = Arc::new(schema.clone());
    let source =
        AllRows { store: table.object_store(), files: Arc::new(data_files(&table)?), schema: Arc::clone(&schema) };
    let streaming = StreamingTable::try_new(schema, vec![Arc::new(source)]).context(Kind::Internal, || what.clone())?;
    let context = SessionContext::new_with_state(session.as_ref().clone());
    let plan = context.read_table(Arc::new(streaming)).context(Kind::Internal, || what.clone())?;
    let (_, plan) = plan.into_parts();
    table
        .write(Vec::new())
        .with_input_plan(plan)
        .with_session_state(Arc::clone(session) as _)
        .with_save_mode(SaveMode::Overwrite)
        .with_schema_mode(SchemaMode::Overwrite)
        .with_writer_properties(writer_properties())
        .with_commit_properties(unrebased())
        .await
        .map_err(|error| convert(&what, error))
}

/// All rows of a version, in the columns of another schema.
struct AllRows {
    store: Arc<dyn ObjectStore>,
    files: Arc<Vec<DataFile>>,
    schema: SchemaRef,
}

impl fmt::Debug for AllRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllRows").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl PartitionStream for AllRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (store, schema, files) = (Arc::clone(&self.store), Arc::clone(&self.schema), Arc::clone(&self.files));
        let rows = stream::iter(0..files.len()).then(move |number| {
            let (store, schema, files) = (Arc::clone(&store), Arc::clone(&schema), Arc::clone(&files));
            async move { live_rows(&store, &files[number], &schema).await }
        });
        let rows = rows.try_flatten().map_err(|error| DataFusionError::External(Box::new(error)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// The rows of a file that are not deleted, as columns of `schema`.
///
/// # Errors
/// As [`read_rows`], and if its deletion vector can't be read.
pub async fn live_rows(
    store: &Arc<dyn ObjectStore>,
    file: &DataFile,
    schema: &SchemaRef,
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + 'static + use<>> {
    let deleted = match file.vector() {
        Some(vector) => vectors::read(store, &vector).await?,
        None => Positions::default(),
    };
    let rows = read_rows(store, file, schema, Rows::All, BATCH_ROWS).await?;
    let (mut start, schema) = (0, Arc::clone(schema));
    Ok(rows.map(move |batch| {
        let batch = batch?;
        let (first, end) = (start, start + batch.num_rows() as u64);
        start = end;
        let failed = |error| Error::internal("rows of a data file can't be taken apart").because(error);
        let live = if deleted.count_in(first, end) == 0 {
            batch
        } else {
            let is_live: BooleanArray = (first..end).map(|at| Some(!deleted.contains(at))).collect();
            filter_record_batch(&batch, &is_live).map_err(failed)?
        };
        RecordBatch::try_new(Arc::clone(&schema), live.columns().to_vec()).map_err(failed)
    }))
}
