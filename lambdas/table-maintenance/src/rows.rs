//! The rows of data files that are still there, in the columns that the table has now.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use deltalake::DeltaTable;
use deltalake::kernel::LogicalFileView;
use deltalake::logstore::object_store::ObjectStore;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakehouse::delta::vectors::{self, Positions};
use lakehouse::delta::{self, DataFile, Rows};
use lakehouse::{Error, Result};
use serde_json::Value;

use crate::plan::Candidate;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8 << 10;

/// A data file that may be rewritten.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) file: DataFile,
    view: LogicalFileView,
}

impl Source {
    /// What the plan must know of it.
    pub(crate) fn candidate(&self) -> Candidate {
        Candidate {
            partition: self.file.partition_values().into_iter().collect(),
            bytes: self.file.bytes(),
            rows: self.file.rows(),
            deleted_rows: self.file.deleted_rows(),
            modified_ms: self.view.modification_time(),
        }
    }

    /// When it was written, in microseconds since the epoch.
    pub(crate) fn modified_us(&self) -> i64 {
        self.view.modification_time().saturating_mul(1_000)
    }

    /// How many of its rows have no value in a column, if the log tells.
    pub(crate) fn nulls(&self, column: &str) -> Option<u64> {
        let stats: Value = serde_json::from_str(&self.view.stats()?).ok()?;
        stats.get("nullCount")?.get(column)?.as_u64()
    }
}

/// The data files of the version that `table` is loaded at.
pub(crate) fn sources(table: &DeltaTable) -> Result<Vec<Source>> {
    let files = delta::data_files(table)?;
    let snapshot = table.snapshot().map_err(|error| delta::convert("the table is not loaded", error))?;
    let views = snapshot.log_data().iter().collect::<Vec<_>>();
    Ok(files.into_iter().zip(views).map(|(file, view)| Source { file, view }).collect())
}

/// The rows of some files, one file after the other. Where `dated` names a column, rows without a time there get that of
/// their file: a new file would make them look young.
pub(crate) fn of_files(
    store: &Arc<dyn ObjectStore>,
    sources: &[Source],
    schema: &SchemaRef,
    dated: Option<&str>,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (store, schema, dated) = (Arc::clone(store), Arc::clone(schema), dated.map(str::to_owned));
    stream::iter(sources.to_vec())
        .then(move |source| {
            let (store, schema, dated) = (Arc::clone(&store), Arc::clone(&schema), dated.clone());
            async move { of_file(&store, &source, &schema, dated).await }
        })
        .try_flatten()
        .boxed()
}

async fn of_file(
    store: &Arc<dyn ObjectStore>,
    source: &Source,
    schema: &SchemaRef,
    dated: Option<String>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let gone = match source.file.vector() {
        Some(vector) => vectors::read(store, &vector).await?,
        None => Positions::default(),
    };
    let modified_us = source.modified_us();
    let rows = delta::read_rows(store, &source.file, schema, Rows::All, BATCH_ROWS).await?;
    let mut next = 0_u64;
    let live = rows.map(move |batch| {
        let batch = batch?;
        let start = next;
        next += batch.num_rows() as u64;
        let live = without(batch, &gone, start)?;
        match &dated {
            Some(column) => with_dates(&live, column, modified_us),
            None => Ok(live),
        }
    });
    Ok(live.boxed())
}

/// The batch, which begins at the position `start` of its file, without the rows that are gone.
fn without(batch: RecordBatch, gone: &Positions, start: u64) -> Result<RecordBatch> {
    let end = start + batch.num_rows() as u64;
    if gone.count_in(start, end) == 0 {
        return Ok(batch);
    }
    let kept: BooleanArray = (start..end).map(|position| Some(!gone.contains(position))).collect();
    filtered(&batch, &kept)
}

/// The rows of a batch where `kept` is true.
pub(crate) fn filtered(batch: &RecordBatch, kept: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(batch, kept).map_err(|error| Error::internal("can't take rows out of a batch").because(error))
}

/// The times in a column of times; `None` if it is none, or not there.
pub(crate) fn times<'a>(batch: &'a RecordBatch, column: &str) -> Option<&'a TimestampMicrosecondArray> {
    batch.column_by_name(column)?.as_primitive_opt::<TimestampMicrosecondType>()
}

fn with_dates(batch: &RecordBatch, column: &str, modified_us: i64) -> Result<RecordBatch> {
    let Some(known) = times(batch, column).filter(|known| known.null_count() > 0) else { return Ok(batch.clone()) };
    let filled: TimestampMicrosecondArray = known.iter().map(|time| Some(time.unwrap_or(modified_us))).collect();
    let filled = filled.with_data_type(known.data_type().clone());
    let mut columns = batch.columns().to_vec();
    if let Some((position, _)) = batch.schema_ref().column_with_name(column) {
        columns[position] = Arc::new(filled);
    }
    RecordBatch::try_new(batch.schema(), columns)
        .map_err(|error| Error::internal("can't date the rows of a batch").because(error))
}
