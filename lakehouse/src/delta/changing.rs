//! Commits that change some files of a table: rows out of files by deletion vector or by rewriting, rows into new files,
//! all in one version.
//!
//! ```text
//!  file A ── few rows deleted ──► A with a deletion vector
//!  file B ── many, or small  ──► B' (what is left, with replacements in the places of what they replace)
//!  file C ── all of them     ──► gone
//!  new rows ───────────────────► D, E, …
//! ```
//!
//! The commit is made on exactly the version that was read: whoever committed in between makes it fail with `Conflict`.
//! A rebase would be wrong: compaction may have moved the rows that a deletion vector names into another file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, MutableArrayData, RecordBatch, make_array};
use arrow::datatypes::SchemaRef;
use deltalake::DeltaTable;
use deltalake::kernel::transaction::CommitBuilder;
use deltalake::kernel::{Action, Add};
use deltalake::logstore::object_store::ObjectStore;
use deltalake::parquet::file::properties::WriterProperties;
use deltalake::protocol::DeltaOperation;
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use futures::TryStreamExt as _;

use super::files::{DataFile, Rows, read_rows};
use super::vectors::{self, Positions};
use super::{Commit, convert, stored_schema, writer_properties};
use crate::error::{Error, Result};

/// Rows that are decoded at once when a file is rewritten.
const BATCH_ROWS: usize = 8 << 10;

/// Rows of a Parquet row group. Each begins dictionaries of its columns, in vain where values differ.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// Bytes of a row group, encoded: it is held in memory until it is written.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Bytes at which a data file is full, unless a table says otherwise.
pub const TARGET_FILE_BYTES: u64 = 128 << 20;

/// Writes rows into new data files of a table.
pub struct FileWriter {
    writer: RecordBatchWriter,
    schema: SchemaRef,
    what: String,
}

impl FileWriter {
    /// A writer of files that are full at `target_bytes`.
    ///
    /// # Errors
    /// `Internal` if the table is not loaded.
    pub fn new(table: &DeltaTable, target_bytes: u64) -> Result<Self> {
        let what = format!("can't write to {}", table.table_url().path());
        let writer = RecordBatchWriter::for_table(table)
            .map_err(|error| convert(&what, error))?
            .with_writer_properties(file_properties())
            .with_target_file_size(target_bytes);
        let schema = writer.arrow_schema();
        Ok(Self { writer, schema, what })
    }

    /// Adds rows: all columns of the table, in its order.
    ///
    /// # Errors
    /// `Invalid` if they are not rows of the table, `Unavailable` if the storage fails.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = crate::schema::conform(batch, &self.schema)?;
        self.writer.write(batch).await.map_err(|error| convert(&self.what, error))
    }

    /// Bytes written so far, roughly.
    pub fn bytes(&self) -> u64 {
        self.writer.buffer_len() as u64
    }

    /// Ends the files; gives the actions that add them.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn finish(mut self) -> Result<Vec<Add>> {
        self.writer.flush().await.map_err(|error| convert(&self.what, error))
    }
}

fn file_properties() -> WriterProperties {
    writer_properties()
        .into_builder()
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .build()
}

/// What becomes of a file's rows.
#[derive(Clone, Debug, Default)]
pub struct FileChange {
    /// Those that go, besides those that are deleted already.
    pub removed: Positions,
    /// Rows of the table that take the places of some that go, ascending by place.
    pub replacements: Option<(Vec<u64>, RecordBatch)>,
}

/// Actions of one commit, and what they cost.
#[derive(Debug, Default)]
pub struct Changes {
    actions: Vec<Action>,
    /// Bytes of new files.
    pub bytes_written: u64,
    /// Files that are new.
    pub files_added: u64,
    /// Files that were rewritten, or are gone.
    pub files_rewritten: u64,
    /// Files with a new deletion vector.
    pub vectors_written: u64,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Adds new files.
    pub fn add(&mut self, added: Vec<Add>) {
        self.files_added += added.len() as u64;
        self.bytes_written += added.iter().map(|add| u64::try_from(add.size).unwrap_or_default()).sum::<u64>();
        self.actions.extend(added.into_iter().map(Action::Add));
    }

    /// Takes a file out, with all of its rows.
    pub fn remove(&mut self, file: &DataFile, data_change: bool) {
        self.files_rewritten += 1;
        self.actions.push(Action::Remove(file.remove(data_change)));
    }

    /// Marks rows of files as deleted. `removed` are all that are, from before too.
    ///
    /// # Errors
    /// As [`vectors::write`].
    pub async fn mark(&mut self, store: &Arc<dyn ObjectStore>, removed: Vec<(DataFile, Positions)>) -> Result<()> {
        let (files, positions): (Vec<_>, Vec<_>) = removed.into_iter().unzip();
        let (descriptors, bytes) = vectors::write(store, &positions).await?;
        self.bytes_written += bytes;
        for (file, descriptor) in files.iter().zip(descriptors) {
            self.vectors_written += 1;
            self.actions.push(Action::Remove(file.remove(true)));
            self.actions.push(Action::Add(file.add_with(descriptor)));
        }
        Ok(())
    }

    /// Commits them, on exactly the version that `table` is loaded at, with what `commit` says.
    ///
    /// # Errors
    /// `Conflict` if there is a newer version, otherwise as the module [`super`] says. After any other error the commit
    /// may be there all the same.
    pub async fn commit(self, table: DeltaTable, operation: DeltaOperation, commit: &Commit) -> Result<DeltaTable> {
        commit_actions(table, self.actions, operation, commit).await
    }
}

/// Commits actions on exactly the version that `table` is loaded at.
pub(super) async fn commit_actions(
    mut table: DeltaTable,
    actions: Vec<Action>,
    operation: DeltaOperation,
    commit: &Commit,
) -> Result<DeltaTable> {
    let what = format!("can't commit to {}", table.table_url().path());
    let snapshot = table.snapshot().map_err(|error| convert(&what, error))?.snapshot().clone();
    let committed = CommitBuilder::from(commit.properties())
        .with_actions(actions)
        .build(Some(&snapshot), table.log_store(), operation)
        .await
        .map_err(|error| convert(&what, error))?;
    table.state = Some(committed.snapshot());
    Ok(table)
}

/// Writes what is left of a file, with the replacements in their places, through `writer`.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub async fn rewrite(
    table: &DeltaTable,
    store: &Arc<dyn ObjectStore>,
    file: &DataFile,
    change: &FileChange,
    writer: &mut FileWriter,
) -> Result<()> {
    let schema = Arc::new(stored_schema(table)?);
    let mut gone = change.removed.clone();
    if let Some(vector) = file.vector() {
        gone.extend(vectors::read(store, &vector).await?.iter());
    }
    let (places, replacements) = match &change.replacements {
        Some((places, rows)) => (places.as_slice(), Some(rows)),
        None => (&[][..], None),
    };
    let mut stream = Box::pin(read_rows(store, file, &schema, Rows::All, BATCH_ROWS).await?);
    let (mut position, mut place) = (0_u64, 0_usize);
    while let Some(batch) = stream.try_next().await? {
        let end = position + batch.num_rows() as u64;
        if gone.count_in(position, end) == 0 {
            writer.write(&batch).await?;
        } else {
            let mut picked = Picked::default();
            for (row, at) in (position..end).enumerate() {
                if !gone.contains(at) {
                    picked.push(Source::File, row);
                } else if places.get(place) == Some(&at) {
                    picked.push(Source::Replacements, place);
                    place += 1;
                }
            }
            writer.write(&picked.rows(&batch, replacements)?).await?;
        }
        position = end;
    }
    if place < places.len() {
        return Err(Error::internal(format!("data file {} has fewer rows than the merge counted", file.path())));
    }
    Ok(())
}

/// Where a row of a rewritten file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    File,
    Replacements,
}

/// Rows in their order, as runs of one source: copying a run costs little more than copying a row.
#[derive(Debug, Default)]
struct Picked {
    runs: Vec<(Source, Range<usize>)>,
    rows: usize,
}

impl Picked {
    fn push(&mut self, source: Source, row: usize) {
        self.rows += 1;
        match self.runs.last_mut() {
            Some((last, run)) if *last == source && run.end == row => run.end += 1,
            _ => self.runs.push((source, row..row + 1)),
        }
    }

    fn rows(&self, file: &RecordBatch, replacements: Option<&RecordBatch>) -> Result<RecordBatch> {
        let failed = |error| Error::internal("replacements have other columns than their file").because(error);
        let columns = file.columns().iter().enumerate().map(|(position, column)| {
            let its = column.to_data();
            let others = replacements.map_or_else(|| its.slice(0, 0), |rows| rows.column(position).to_data());
            let mut copy = MutableArrayData::new(vec![&its, &others], false, self.rows);
            for (source, run) in &self.runs {
                let source = usize::from(*source == Source::Replacements);
                copy.try_extend(source, run.start, run.end).map_err(failed)?;
            }
            Ok(make_array(copy.freeze()))
        });
        RecordBatch::try_new(file.schema(), columns.collect::<Result<Vec<_>>>()?).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, StringArray};

    use super::*;

    fn batch(numbers: &[i32]) -> RecordBatch {
        let words: StringArray = numbers.iter().map(|number| (number % 2 == 0).then(|| format!("w{number}"))).collect();
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int32Array::from(numbers.to_vec()))), ("w", Arc::new(words))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn rows_are_picked_from_both_in_order() {
        let mut picked = Picked::default();
        for (source, row) in [
            (Source::File, 0),
            (Source::File, 1),
            (Source::Replacements, 0),
            (Source::File, 3),
            (Source::Replacements, 1),
        ] {
            picked.push(source, row);
        }
        assert_eq!(picked.runs.len(), 4);
        let rows = picked.rows(&batch(&[0, 1, 2, 3]), Some(&batch(&[20, 21]))).unwrap();
        assert_eq!(rows, batch(&[0, 1, 20, 3, 21]));
        let none = Picked::default().rows(&batch(&[0, 1]), None).unwrap();
        assert_eq!(none.num_rows(), 0);
    }
}
