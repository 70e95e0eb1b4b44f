//! How the changes of a merge get into the files of its table.
//!
//! Rows that go are marked by a deletion vector, or their file is rewritten. A vector costs a few bytes now and a little
//! at each read until compaction; rewriting costs the whole file now. So a file is rewritten if it is small, or if much
//! of it is gone, and then only a few a merge, so that a merge costs what its changes cost: the files of a table whose
//! rows change evenly would otherwise all come due at once.
//!
//! ```text
//!  deletion_vectors = "auto"                    = true     = false
//!  file of less than 4 MiB: rewritten           vector     every file that loses a row: rewritten
//!  a third of its rows gone: rewritten, if
//!    it is one of the two that lost most
//!  otherwise: vector
//! ```
//!
//! Each merge adds a small file. Once a partition that loses rows has many, some are written together, with the rows of
//! this merge, so that the next merges do not have ever more files to look into.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use deltalake::DeltaTable;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakehouse::definition::{DeletionVectors, Table};
use lakehouse::delta::vectors::{self, Positions};
use lakehouse::delta::{self, Changes, DataFile, FileChange, FileWriter};
use lakehouse::{Error, Result};
use tokio::sync::mpsc;

use crate::merger::{blocking, spawned};
use crate::scan::Scan;
use crate::stage::Stage;

/// A file below this is rewritten rather than marked: reading it with a vector costs more than writing it.
const SMALL_FILE_BYTES: u64 = 4 << 20;

/// Of a hundred rows of a file, how many are gone when it is rewritten rather than marked.
const GONE_PERCENT: u64 = 33;

/// How many files are rewritten by one merge because much of them is gone.
const FOLDS_MAX: usize = 2;

/// Files below [`SMALL_FILE_BYTES`] in one partition, from which on they are written together.
const SMALL_FILES_MAX: usize = 12;

/// How many of them, the smallest first, are written together by one merge.
const GATHERED_FILES_MAX: usize = 16;

/// Bytes that are gathered by one merge.
const GATHERED_BYTES_MAX: u64 = 32 << 20;

/// Files that are rewritten at once: each holds a row group in memory.
const REWRITES_AT_ONCE: usize = 2;

/// Deletion vectors that are read at once.
const VECTORS_AT_ONCE: usize = 16;

/// Batches that wait to be written.
const BATCHES_WAITING: usize = 2;

/// What becomes of the files of a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FilePlan {
    /// Rewritten, replacements in their places.
    pub(crate) rewritten: BTreeSet<usize>,
    /// Written together with the new rows; they need not lose any.
    pub(crate) gathered: BTreeSet<usize>,
    /// Marked.
    pub(crate) marked: BTreeSet<usize>,
    /// Gone, since all of their rows are.
    pub(crate) emptied: BTreeSet<usize>,
}

/// The values of a partition, by column.
type Partition = BTreeMap<String, Option<String>>;

/// What the plan needs to know of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileFacts {
    pub(crate) bytes: u64,
    /// All of its rows; none if the log does not tell.
    pub(crate) rows: Option<u64>,
    /// Of these, how many were deleted before.
    pub(crate) deleted: u64,
    /// How many this merge removes.
    pub(crate) removed: u64,
    /// The values of its partition.
    pub(crate) partition: Partition,
}

impl FileFacts {
    fn of(file: &DataFile, removed: u64) -> Self {
        Self {
            bytes: file.bytes(),
            rows: file.rows(),
            deleted: file.deleted_rows(),
            removed,
            partition: file.partition_values().into_iter().collect(),
        }
    }

    fn gone(&self) -> u64 {
        self.deleted + self.removed
    }

    fn is_empty(&self) -> bool {
        self.rows.is_some_and(|rows| self.gone() >= rows)
    }

    fn gone_percent(&self) -> u64 {
        self.gone() * 100 / self.rows.unwrap_or(1).max(1)
    }
}

impl FilePlan {
    /// Decides about every file of a table.
    pub(crate) fn new(files: &[FileFacts], mode: DeletionVectors, will_write: bool) -> Self {
        let mut plan = Self::default();
        let losing = || files.iter().enumerate().filter(|(_, file)| file.removed > 0);
        for (number, _) in losing().filter(|(_, file)| file.is_empty()) {
            plan.emptied.insert(number);
        }
        let mut worn: Vec<(u64, usize)> = Vec::new();
        for (number, file) in losing().filter(|(_, file)| !file.is_empty()) {
            // A vector needs the number of rows in the log.
            let is_small = mode == DeletionVectors::Auto && file.bytes < SMALL_FILE_BYTES;
            if mode == DeletionVectors::Off || is_small || file.rows.is_none() {
                plan.rewritten.insert(number);
                continue;
            }
            plan.marked.insert(number);
            if mode == DeletionVectors::Auto && file.gone_percent() >= GONE_PERCENT {
                worn.push((file.gone_percent(), number));
            }
        }
        worn.sort_unstable_by(|a, b| b.cmp(a));
        for (_, number) in worn.into_iter().take(FOLDS_MAX) {
            plan.marked.remove(&number);
            plan.rewritten.insert(number);
        }
        if will_write {
            plan.gather(files);
        }
        plan
    }

    fn gather(&mut self, files: &[FileFacts]) {
        let touched: BTreeSet<_> = files.iter().filter(|file| file.removed > 0).map(|file| &file.partition).collect();
        let mut small: BTreeMap<&Partition, Vec<(u64, usize)>> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            // Without partitions, there is one, and it gets the rows.
            let is_touched = file.partition.is_empty() || touched.contains(&file.partition);
            if is_touched && file.bytes < SMALL_FILE_BYTES && !self.emptied.contains(&number) {
                small.entry(&file.partition).or_default().push((file.bytes, number));
            }
        }
        let mut small: Vec<(u64, usize)> =
            small.into_values().filter(|numbers| numbers.len() > SMALL_FILES_MAX).flatten().collect();
        small.sort_unstable();
        let mut bytes = 0;
        for (its, number) in small.into_iter().take(GATHERED_FILES_MAX) {
            bytes += its;
            if bytes > GATHERED_BYTES_MAX {
                break;
            }
            self.rewritten.remove(&number);
            self.marked.remove(&number);
            self.gathered.insert(number);
        }
    }
}

/// Decides what becomes of the table's files, and writes all but the commit.
pub(crate) async fn write_changes(
    mut silver: DeltaTable,
    table: &Table,
    scan: &Scan,
    stage: Stage,
) -> Result<(DeltaTable, Changes)> {
    let (stage, removed, has_rows) = blocking(move || {
        let (removed, has_rows) = (stage.removed()?, stage.writes_rows()?);
        Ok((stage, removed, has_rows))
    })
    .await?;
    let count = |number: usize| removed.get(&number).map_or(0, Positions::len);
    let facts: Vec<FileFacts> =
        scan.files.iter().enumerate().map(|(number, file)| FileFacts::of(file, count(number))).collect();
    let plan = FilePlan::new(&facts, table.deletion_vectors, has_rows);

    let rewritten: Vec<usize> = plan.rewritten.iter().copied().collect();
    let its = rewritten.clone();
    let (stage, replacements) = blocking(move || {
        let found: Result<Vec<_>> = its.iter().map(|number| stage.replacements(*number)).collect();
        found.map(|found| (stage, found))
    })
    .await?;
    let mut changes = Changes::default();
    let target_bytes = table.maintenance.target_file_bytes;
    let mut rewrites = Vec::new();
    for (number, replacements) in rewritten.iter().zip(replacements) {
        let change = FileChange { removed: removed.get(number).cloned().unwrap_or_default(), replacements };
        rewrites.push(rewrite(silver.clone(), scan.clone(), *number, change, target_bytes));
    }
    let written: Vec<_> = stream::iter(rewrites).buffered(REWRITES_AT_ONCE).try_collect().await?;
    for (number, added) in rewritten.iter().zip(written) {
        changes.remove(&scan.files[*number], true);
        changes.add(added);
    }
    for number in &plan.emptied {
        changes.remove(&scan.files[*number], true);
    }
    if !plan.marked.is_empty() {
        silver = delta::allow_vectors(silver).await?;
    }
    let mut marking = Vec::new();
    for number in &plan.marked {
        marking.push(all_gone(scan.clone(), *number, removed.get(number).cloned().unwrap_or_default()));
    }
    let marked: Vec<_> = stream::iter(marking).buffered(VECTORS_AT_ONCE).try_collect().await?;
    changes.mark(&scan.store, marked).await?;

    let mut writer = FileWriter::new(&silver, target_bytes)?;
    for number in &plan.gathered {
        let file = &scan.files[*number];
        let change = FileChange { removed: removed.get(number).cloned().unwrap_or_default(), replacements: None };
        delta::rewrite(&silver, &scan.store, file, &change, &mut writer).await?;
        changes.remove(file, true);
    }
    if has_rows {
        let write = move |each: &mut dyn FnMut(RecordBatch) -> Result<()>| stage.each_written(&rewritten, each);
        writer = write_each(writer, write).await?;
    }
    changes.add(writer.finish().await?);
    Ok((silver, changes))
}

/// Writes the rows of a table without a key.
pub(crate) async fn write_good(silver: &DeltaTable, table: &Table, stage: Stage) -> Result<Changes> {
    let writer = FileWriter::new(silver, table.maintenance.target_file_bytes)?;
    let writer =
        write_each(writer, move |each: &mut dyn FnMut(RecordBatch) -> Result<()>| stage.each_good(each)).await?;
    let mut changes = Changes::default();
    changes.add(writer.finish().await?);
    Ok(changes)
}

/// A file with all of its rows that are gone, those from before too.
async fn all_gone(scan: Scan, number: usize, mut gone: Positions) -> Result<(DataFile, Positions)> {
    let file = scan.files[number].clone();
    if let Some(vector) = file.vector() {
        gone.extend(vectors::read(&scan.store, &vector).await?.iter());
    }
    Ok((file, gone))
}

async fn rewrite(
    silver: DeltaTable,
    scan: Scan,
    number: usize,
    change: FileChange,
    target_bytes: u64,
) -> Result<Vec<deltalake::kernel::Add>> {
    let work = async move {
        let mut writer = FileWriter::new(&silver, target_bytes)?;
        delta::rewrite(&silver, &scan.store, &scan.files[number], &change, &mut writer).await?;
        writer.finish().await
    };
    spawned("rewrites a file", work).await
}

/// Writes batches while DuckDB computes the next ones.
async fn write_each(
    mut writer: FileWriter,
    compute: impl FnOnce(&mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> + Send + 'static,
) -> Result<FileWriter> {
    let (sender, mut batches) = mpsc::channel(BATCHES_WAITING);
    let computing = blocking(move || {
        compute(&mut |batch| {
            sender.blocking_send(batch).map_err(|_| Error::unavailable("the rows of a merge can't be written"))
        })
    });
    let writing = async move {
        while let Some(batch) = batches.recv().await {
            writer.write(&batch).await?;
        }
        Ok::<_, Error>(writer)
    };
    let (computed, written) = tokio::join!(computing, writing);
    // If writing failed, computing did because of it.
    let writer = written?;
    computed?;
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mib: u64, rows: u64, deleted: u64, removed: u64) -> FileFacts {
        FileFacts { bytes: mib << 20, rows: Some(rows), deleted, removed, partition: BTreeMap::new() }
    }

    fn plan(files: &[FileFacts], mode: DeletionVectors) -> FilePlan {
        FilePlan::new(files, mode, true)
    }

    fn set(numbers: &[usize]) -> BTreeSet<usize> {
        numbers.iter().copied().collect()
    }

    #[test]
    fn a_large_file_that_loses_little_is_marked_and_a_small_one_rewritten() {
        let files = [file(100, 1_000, 0, 10), file(1, 1_000, 0, 10), file(100, 1_000, 0, 0)];
        let made = plan(&files, DeletionVectors::Auto);
        assert_eq!((made.marked, made.rewritten), (set(&[0]), set(&[1])));
    }

    #[test]
    fn without_deletion_vectors_every_file_that_loses_a_row_is_rewritten() {
        let files = [file(100, 1_000, 0, 10), file(100, 1_000, 0, 0), file(100, 10, 0, 10)];
        let made = plan(&files, DeletionVectors::Off);
        assert_eq!((made.rewritten, made.emptied), (set(&[0]), set(&[2])));
    }

    #[test]
    fn of_files_that_are_mostly_gone_the_worst_two_are_rewritten() {
        let files = [file(9, 100, 30, 10), file(9, 100, 30, 30), file(9, 100, 30, 20), file(9, 100, 60, 0)];
        let made = plan(&files, DeletionVectors::Auto);
        assert_eq!((made.rewritten, made.marked), (set(&[1, 2]), set(&[0])));
    }

    #[test]
    fn a_table_that_asks_for_vectors_has_small_and_worn_files_marked_too() {
        let files = [file(9, 100, 30, 60), file(1, 100, 0, 1), file(1, 100, 0, 100)];
        let made = plan(&files, DeletionVectors::On);
        assert_eq!((made.marked, made.emptied, made.rewritten), (set(&[0, 1]), set(&[2]), set(&[])));
    }

    #[test]
    fn many_small_files_of_a_partition_are_written_together() {
        let mut files: Vec<FileFacts> = (0..=SMALL_FILES_MAX).map(|_| file(1, 10, 0, 1)).collect();
        let mut other = file(1, 10, 0, 1);
        other.partition.insert("p".to_owned(), Some("1".to_owned()));
        files.extend([file(100, 10, 0, 0), other]);
        let made = plan(&files, DeletionVectors::Auto);
        assert_eq!(made.gathered, (0..=SMALL_FILES_MAX).collect());
        assert_eq!(
            plan(&files, DeletionVectors::On).marked,
            set(&[SMALL_FILES_MAX + 2]),
            "not those that are gathered"
        );
        assert_eq!(made.rewritten, set(&[SMALL_FILES_MAX + 2]));
        assert_eq!(FilePlan::new(&files, DeletionVectors::Auto, false).gathered, set(&[]));
    }
}
