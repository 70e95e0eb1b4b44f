//! The data files of a table's version, and their rows by position.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use deltalake::kernel::schema::cast::cast_record_batch;
use deltalake::kernel::{Add, DeletionVectorDescriptor, LogicalFileView, Remove};
use deltalake::logstore::object_store::{ObjectStore, ObjectStoreExt as _};
use deltalake::parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection, RowSelector};
use deltalake::parquet::arrow::async_reader::AsyncFileReader;
use deltalake::parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use deltalake::parquet::errors::{ParquetError, Result as ParquetResult};
use deltalake::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use deltalake::{DeltaTable, Path};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, TryFutureExt as _};
use serde_json::Value;

use super::convert;
use super::vectors::Positions;
use crate::error::{Context, Error, Kind, Result};
use crate::schema::cast_strictly;

/// Bytes that are read from a file's end at first: enough for the footer of most.
const FOOTER_BYTES: usize = 64 << 10;

/// A data file of a version.
#[derive(Clone)]
pub struct DataFile {
    view: LogicalFileView,
    /// Bytes that were read of it, through any copy of this.
    read: Arc<AtomicU64>,
}

impl DataFile {
    fn new(view: LogicalFileView) -> Self {
        Self { view, read: Arc::default() }
    }

    /// What the log tells of it: too much to be kept of every file.
    fn stats(&self) -> Value {
        self.view.stats().and_then(|stats| serde_json::from_str(&stats).ok()).unwrap_or_default()
    }

    /// Its path, relative to the table.
    pub fn path(&self) -> Path {
        self.view.object_store_path()
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.view.size()).unwrap_or_default()
    }

    /// How many bytes of it were read so far, through this and its clones.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Its rows, those that are deleted included, if the log tells.
    pub fn rows(&self) -> Option<u64> {
        self.view.num_records().map(|rows| rows as u64)
    }

    /// Which of its rows are deleted, if any are.
    pub fn vector(&self) -> Option<DeletionVectorDescriptor> {
        self.view.deletion_vector_descriptor()
    }

    /// How many of its rows are deleted.
    pub fn deleted_rows(&self) -> u64 {
        self.vector().map_or(0, |vector| u64::try_from(vector.cardinality).unwrap_or_default())
    }

    /// The values of the partition columns that all of its rows have, as text.
    pub fn partition_values(&self) -> HashMap<String, Option<String>> {
        self.view.partition_values_map()
    }

    /// Of each of some columns, the least and the greatest value, as text, where the log tells them. The values of its
    /// rows lie between the two.
    pub fn bounds<S: AsRef<str>>(&self, columns: &[S]) -> Vec<Option<(String, String)>> {
        let stats = self.stats();
        let text = |kind: &str, column: &str| match stats.get(kind)?.get(column)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        };
        let bounds =
            columns.iter().map(AsRef::as_ref).map(|column| text("minValues", column).zip(text("maxValues", column)));
        bounds.collect()
    }

    /// The action that takes it out of the table, as it is now.
    pub fn remove(&self, data_change: bool) -> Remove {
        self.view.remove_action(data_change)
    }

    /// The action that adds it again, with another deletion vector.
    #[expect(deprecated, reason = "delta-rs has no other way from a file to its action yet")]
    pub fn add_with(&self, vector: DeletionVectorDescriptor) -> Add {
        let mut stats = self.stats();
        if let Value::Object(stats) = &mut stats {
            // The bounds may be those of rows that are deleted now.
            stats.insert("tightBounds".to_owned(), Value::Bool(false));
        }
        Add { deletion_vector: Some(vector), stats: Some(stats.to_string()), ..self.view.add_action() }
    }
}

/// The data files of the version that `table` is loaded at.
///
/// # Errors
/// `Internal` if the table is not loaded.
pub fn data_files(table: &DeltaTable) -> Result<Vec<DataFile>> {
    let snapshot = table.snapshot().map_err(|error| convert("the table is not loaded", error))?;
    Ok(snapshot.log_data().iter().map(DataFile::new).collect())
}

/// Which rows of a file are read.
#[derive(Clone, Debug)]
pub enum Rows {
    /// All, those that are deleted too.
    All,
    /// Those at these positions, ascending.
    At(Arc<Positions>),
}

/// Reads rows of a file as columns of `schema`, which is a part of the table's: what the file was written without is
/// NULL, what it has in a narrower type is cast, partition columns have the file's value.
///
/// # Errors
/// `Unavailable` if the file can't be read; the stream's errors are of the same kinds.
pub async fn read_rows(
    store: &Arc<dyn ObjectStore>,
    file: &DataFile,
    schema: &SchemaRef,
    rows: Rows,
    batch_rows: usize,
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + 'static + use<>> {
    let path = file.path();
    let unreadable = || format!("can't read data file {path}");
    let (bytes, read) = (file.bytes(), Arc::clone(&file.read));
    let reader = FileReader { store: Arc::clone(store), path: path.clone(), bytes, read };
    // What other writers put into the file's metadata about Arrow types must not change how it is read.
    let pages = match &rows {
        Rows::All => PageIndexPolicy::Skip,
        // Only the pages that some of them are in.
        Rows::At(_) => PageIndexPolicy::Optional,
    };
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(pages);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options)
        .await
        .context(Kind::Unavailable, unreadable)?;
    let values = file.partition_values();
    let roots = builder.schema().fields().iter().enumerate();
    let wanted = roots
        .filter(|(_, field)| schema.column_with_name(field.name()).is_some() && !values.contains_key(field.name()));
    let mask =
        ProjectionMask::roots(builder.parquet_schema(), wanted.map(|(position, _)| position).collect::<Vec<_>>());
    let total: i64 = builder.metadata().row_groups().iter().map(|group| group.num_rows()).sum();
    let mut builder = builder.with_projection(mask).with_batch_size(batch_rows);
    if let Rows::At(positions) = &rows {
        builder = builder.with_row_selection(selection(positions, u64::try_from(total).unwrap_or_default()));
    }
    let stream = builder.build().context(Kind::Unavailable, unreadable)?;
    let (schema, its_path) = (Arc::clone(schema), path.clone());
    Ok(stream.map(move |batch| {
        let batch = batch.context(Kind::Unavailable, || format!("can't read data file {its_path}"))?;
        complete(&batch, &schema, &values)
            .map_err(|error| Error::new(error.kind(), format!("data file {its_path}")).because(error))
    }))
}

fn selection(positions: &Positions, total: u64) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0;
    for position in positions.iter().take_while(|position| *position < total) {
        if position > next {
            selectors.push(RowSelector::skip(usize::try_from(position - next).unwrap_or(usize::MAX)));
        }
        match selectors.last_mut() {
            Some(last) if !last.skip => last.row_count += 1,
            _ => selectors.push(RowSelector::select(1)),
        }
        next = position + 1;
    }
    RowSelection::from(selectors)
}

/// The batch with all columns of `schema`, in its order.
fn complete(batch: &RecordBatch, schema: &SchemaRef, values: &HashMap<String, Option<String>>) -> Result<RecordBatch> {
    let failed = |error| Error::internal("its columns don't fit those of the table").because(error);
    let rows = batch.num_rows();
    let columns = schema
        .fields()
        .iter()
        .map(|field| match (values.get(field.name()), batch.column_by_name(field.name())) {
            (Some(value), _) => partition_column(value.as_deref(), field.data_type(), rows),
            (None, Some(column)) => evolved(column, field),
            (None, None) => Ok(new_null_array(field.data_type(), rows)),
        })
        .collect::<Result<Vec<_>>>()?;
    let schema: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema)), columns).map_err(failed)
}

/// A stored column in the type that it has by now.
fn evolved(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let failed = |what: String| Error::internal(format!("column {:?}: {what}", field.name()));
    if !field.data_type().is_nested() {
        return cast_strictly(column, field.data_type()).map_err(|error| failed(error.to_string()));
    }
    // Fields of structs are found by their names, and may be missing.
    let stored = Schema::new(vec![Field::new(field.name(), column.data_type().clone(), true)]);
    let batch =
        RecordBatch::try_new(Arc::new(stored), vec![Arc::clone(column)]).map_err(|error| failed(error.to_string()))?;
    let target = Arc::new(Schema::new(vec![field.clone().with_nullable(true)]));
    let cast = cast_record_batch(&batch, target, false, true).map_err(|error| failed(error.to_string()))?;
    Ok(Arc::clone(cast.column(0)))
}

/// A partition's value, which the log has as text, in the type of its column.
fn partition_column(value: Option<&str>, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let Some(text) = value.filter(|text| !text.is_empty() || *data_type == DataType::Utf8) else {
        return Ok(new_null_array(data_type, rows));
    };
    let one: ArrayRef = match data_type {
        // The log has bytes as characters of the same numbers.
        DataType::Binary => {
            let bytes: Vec<u8> = text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap_or(b'?')).collect();
            Arc::new(arrow::array::BinaryArray::from(vec![bytes.as_slice()]))
        }
        _ => Arc::new(StringArray::from(vec![text])),
    };
    let odd = |error: arrow::error::ArrowError| {
        Error::internal(format!("the log has a partition of {text:?}, which is no {data_type}")).because(error)
    };
    let value = cast_strictly(&one, data_type).map_err(odd)?;
    let repeated = arrow::array::UInt32Array::from(vec![0; rows]);
    arrow::compute::take(value.as_ref(), &repeated, None).map_err(odd)
}

/// A file in the table's storage.
struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    read: Arc<AtomicU64>,
}

impl FileReader {
    fn note(&self, range: &Range<u64>) {
        self.read.fetch_add(range.end.saturating_sub(range.start), Ordering::Relaxed);
    }
}

fn external(error: deltalake::ObjectStoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.note(&range);
        self.store.get_range(&self.path, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        ranges.iter().for_each(|range| self.note(range));
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            let reader =
                ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(FOOTER_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}
