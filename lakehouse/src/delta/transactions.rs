//! All `txn` actions of a table at once.
//!
//! Delta's libraries look one application id up at a time, and read the log anew for each. A merge asks for as many as
//! it has producers, so they are read together: from the newest checkpoint, then from the commits behind it; and a
//! table that is used again only reads the commits that it does not know yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use deltalake::logstore::LogStore;
use deltalake::logstore::object_store::{ObjectStore, ObjectStoreExt as _};
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use deltalake::{DeltaTable, Path};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

use super::convert;
use crate::error::{Context, Error, Kind, Result};

/// Commits that are read at once.
const COMMITS_AT_ONCE: usize = 16;

/// The column of a checkpoint that holds them.
const COLUMN: &str = "txn";

/// The newest version of every application id, as of one version of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    /// The table's version, once something was read.
    as_of: Option<u64>,
    versions: HashMap<String, i64>,
}

/// A line of a commit, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    txn: Option<Txn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

impl Transactions {
    /// The version last committed under an application id.
    pub fn version(&self, app_id: &str) -> Option<i64> {
        self.versions.get(app_id).copied()
    }

    /// Goes on to the version that `table` is loaded at.
    ///
    /// # Errors
    /// `Unavailable` if the log can't be read.
    pub async fn advance(&mut self, table: &DeltaTable) -> Result<()> {
        let Some(newest) = table.version() else { return Ok(()) };
        let log = table.log_store();
        if self.as_of.is_none_or(|as_of| as_of > newest) {
            *self = Self::at_checkpoint(log.object_store(None).as_ref(), newest).await?;
        }
        let first = self.as_of.map_or(0, |as_of| as_of + 1);
        let lines = stream::iter(first..=newest).map(|version| {
            let log = Arc::clone(&log);
            async move { commit(log.as_ref(), version).await }
        });
        let mut lines = lines.buffered(COMMITS_AT_ONCE);
        while let Some(transactions) = lines.try_next().await? {
            self.versions.extend(transactions);
        }
        self.as_of = Some(newest);
        Ok(())
    }

    /// Those of the newest checkpoint up to a version; nothing if there is none.
    async fn at_checkpoint(store: &dyn ObjectStore, newest: u64) -> Result<Self> {
        let log = Path::from("_delta_log");
        let unreadable = || "can't list the Delta log".to_owned();
        let listed: Vec<_> = store.list(Some(&log)).try_collect().await.context(Kind::Unavailable, unreadable)?;
        let mut checkpoints: BTreeMap<u64, BTreeMap<u64, Vec<Path>>> = BTreeMap::new();
        for object in listed {
            if let Some((version, parts)) = object.location.filename().and_then(checkpoint).filter(|at| at.0 <= newest)
            {
                checkpoints.entry(version).or_default().entry(parts).or_default().push(object.location);
            }
        }
        // One whose parts are not all there is still being written, or was left behind.
        let whole = checkpoints.into_iter().rev().find_map(|(version, by_parts)| {
            by_parts.into_iter().find(|(parts, paths)| paths.len() as u64 >= *parts).map(|(_, paths)| (version, paths))
        });
        let Some((version, parts)) = whole else { return Ok(Self::default()) };
        let mut versions = HashMap::new();
        for part in parts {
            let what = || format!("can't read the checkpoint {part}");
            let object = store.get(&part).await.context(Kind::Unavailable, what)?;
            let bytes = object.bytes().await.context(Kind::Unavailable, what)?;
            let read = tokio::task::spawn_blocking(move || of_checkpoint(bytes));
            let read = read.await.map_err(|error| Error::internal("reading a checkpoint died").because(error))?;
            versions.extend(read.map_err(|error| Error::new(error.kind(), what()).because(error))?);
        }
        Ok(Self { as_of: Some(version), versions })
    }
}

/// The version of a checkpoint, and in how many files it is, by the name of one. The sidecars of newer checkpoints have
/// names of another kind; they hold no transactions.
fn checkpoint(name: &str) -> Option<(u64, u64)> {
    let (version, rest) = name.split_once(".checkpoint.")?;
    let rest = rest.strip_suffix("parquet")?.trim_end_matches('.');
    // `0000000002.0000000003`: the second of three.
    let parts = rest.split_once('.').and_then(|(_, parts)| parts.parse().ok()).unwrap_or(1);
    Some((version.parse().ok()?, parts))
}

fn of_checkpoint(bytes: Bytes) -> Result<Vec<(String, i64)>> {
    let failed = || "it is no checkpoint".to_owned();
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(
        bytes,
        ArrowReaderOptions::new().with_skip_arrow_metadata(true),
    )
    .context(Kind::Internal, failed)?;
    let Some((position, _)) = builder.schema().column_with_name(COLUMN) else { return Ok(Vec::new()) };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [position]);
    let reader = builder.with_projection(mask).build().context(Kind::Internal, failed)?;
    let mut found = Vec::new();
    for batch in reader {
        let batch = batch.context(Kind::Internal, failed)?;
        let its = of_batch(&batch).ok_or_else(|| Error::internal("its transactions have columns of other types"))?;
        found.extend(its);
    }
    Ok(found)
}

fn of_batch(batch: &RecordBatch) -> Option<Vec<(String, i64)>> {
    let transactions = batch.column_by_name(COLUMN)?.as_struct_opt()?;
    let ids = transactions.column_by_name("appId")?.as_string_opt::<i32>()?;
    let versions = transactions.column_by_name("version")?.as_primitive_opt::<Int64Type>()?;
    let is_one = |row: &usize| transactions.is_valid(*row) && ids.is_valid(*row) && versions.is_valid(*row);
    let rows = (0..batch.num_rows()).filter(is_one);
    Some(rows.map(|row| (ids.value(row).to_owned(), versions.value(row))).collect())
}

async fn commit(log: &dyn LogStore, version: u64) -> Result<Vec<(String, i64)>> {
    let what = || format!("can't read commit {version} of {}", log.root_url().path());
    let bytes = log.read_commit_entry(version).await.map_err(|error| convert(&what(), error))?;
    let bytes = bytes.ok_or_else(|| Error::unavailable(format!("{}: it is gone", what())))?;
    let mut found = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"txn\"")) {
        let line: Line = serde_json::from_slice(line).context(Kind::Internal, what)?;
        found.extend(line.txn.map(|txn| (txn.app_id, txn.version)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_known_by_their_names() {
        assert_eq!(checkpoint("00000000000000000010.checkpoint.parquet"), Some((10, 1)));
        let part = "00000000000000000010.checkpoint.0000000002.0000000003.parquet";
        assert_eq!(checkpoint(part), Some((10, 3)));
        let named = "00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet";
        assert_eq!(checkpoint(named), Some((10, 1)));
        assert_eq!(checkpoint("00000000000000000010.json"), None);
        assert_eq!(checkpoint("_last_checkpoint"), None);
    }
}
