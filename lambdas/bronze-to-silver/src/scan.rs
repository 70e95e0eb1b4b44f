//! Reads what a merge needs of the stored rows: key and sequence of all that may be hit, and some rows in full.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch};
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::SchemaRef;
use deltalake::logstore::object_store::ObjectStore;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakehouse::delta::vectors::{self, Positions};
use lakehouse::delta::{DataFile, Rows, read_rows};
use lakehouse::{Error, Result};

use crate::keys::KeySet;
use crate::merger::spawned;
use crate::stage::placed;

/// Files that are read at once.
const FILES_AT_ONCE: usize = 4;

/// Rows that are decoded at once of few columns.
const KEY_BATCH_ROWS: usize = 64 << 10;

/// Rows that are decoded at once of all columns.
const BATCH_ROWS: usize = 8 << 10;

/// Reads from the data files of one version.
#[derive(Clone)]
pub(crate) struct Scan {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) files: Arc<Vec<DataFile>>,
}

impl Scan {
    /// The rows of some files that may have one of the keys, without those that are deleted: the columns of `schema`,
    /// of which the first `key_columns` are the key, then file and position.
    pub(crate) async fn rows_with(
        &self,
        files: Vec<usize>,
        schema: SchemaRef,
        key_columns: usize,
        keys: Arc<KeySet>,
    ) -> Result<Vec<RecordBatch>> {
        let found = stream::iter(files).map(|file| {
            let (scan, schema, keys) = (self.clone(), Arc::clone(&schema), Arc::clone(&keys));
            spawned("reads a data file", async move { scan.rows_of(file, &schema, key_columns, &keys).await })
        });
        let found: Vec<Vec<RecordBatch>> = found.buffered(FILES_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn rows_of(
        &self,
        number: usize,
        schema: &SchemaRef,
        key_columns: usize,
        keys: &KeySet,
    ) -> Result<Vec<RecordBatch>> {
        let file = self.file(number)?;
        let deleted = match file.vector() {
            Some(vector) => vectors::read(&self.store, &vector).await?,
            None => Positions::default(),
        };
        let mut stream = Box::pin(read_rows(&self.store, file, schema, Rows::All, KEY_BATCH_ROWS).await?);
        let mut found = Vec::new();
        let mut start = 0;
        while let Some(batch) = stream.try_next().await? {
            let end = start + batch.num_rows() as u64;
            if let Some(mut mask) = keys.may_contain(&batch.columns()[..key_columns], batch.num_rows())? {
                if deleted.count_in(start, end) > 0 {
                    let live: BooleanArray = (start..end).map(|at| Some(!deleted.contains(at))).collect();
                    mask = and(&mask, &live).map_err(odd)?;
                }
                let placed = place(&batch, number, start..end)?;
                found.push(filter_record_batch(&placed, &mask).map_err(odd)?);
            }
            start = end;
        }
        Ok(found)
    }

    /// Some rows in full: the columns of `schema`, then file and position.
    pub(crate) async fn rows_at(
        &self,
        wanted: BTreeMap<usize, Positions>,
        schema: SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        let found = stream::iter(wanted).map(|(file, positions)| {
            let (scan, schema) = (self.clone(), Arc::clone(&schema));
            spawned("reads a data file", async move { scan.rows_of_at(file, positions, &schema).await })
        });
        let found: Vec<Vec<RecordBatch>> = found.buffered(FILES_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn rows_of_at(&self, number: usize, positions: Positions, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let positions = Arc::new(positions);
        let rows = Rows::At(Arc::clone(&positions));
        let mut stream = Box::pin(read_rows(&self.store, self.file(number)?, schema, rows, BATCH_ROWS).await?);
        let mut places = positions.iter();
        let mut found = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            let its: Vec<u64> = places.by_ref().take(batch.num_rows()).collect();
            found.push(place(&batch, number, its.into_iter())?);
        }
        Ok(found)
    }

    fn file(&self, number: usize) -> Result<&DataFile> {
        self.files.get(number).ok_or_else(|| Error::internal(format!("the plan has no file {number}")))
    }
}

fn odd(error: arrow::error::ArrowError) -> Error {
    Error::internal("stored rows can't be taken apart").because(error)
}

/// The batch with each row's file and position behind its columns.
fn place(batch: &RecordBatch, file: usize, positions: impl Iterator<Item = u64>) -> Result<RecordBatch> {
    let number = i32::try_from(file).map_err(|_| Error::exhausted("the table has more than two billion files"))?;
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(Int32Array::from(vec![number; batch.num_rows()])));
    let positions: Int64Array = positions.map(|position| i64::try_from(position).ok()).collect();
    if positions.null_count() > 0 || positions.len() != batch.num_rows() {
        return Err(Error::internal("a data file has other rows than were asked for"));
    }
    columns.push(Arc::new(positions) as ArrayRef);
    RecordBatch::try_new(placed(&batch.schema()), columns).map_err(odd)
}
