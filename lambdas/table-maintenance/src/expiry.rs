//! Takes rows out of a table that have outlived their use: tombstones, and what is told of former runs.
//!
//! Rows have a time in a column; those without one, from before there was such a column, count from when their file was
//! written. Files in which all rows are old go without being read; those in which some are, are written anew when these
//! are enough to be worth it: an old tombstone does no harm but the room that it takes.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use deltalake::DeltaTable;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use lakehouse::delta;
use lakehouse::schema::cast_strictly;
use lakehouse::{Error, Result};

use crate::job::Job;
use crate::landing::{Landing, land};
use crate::rewriting::{Rewritten, write};
use crate::rows::{self, Source, filtered, times};
use crate::tally::Tally;

/// The share of a file's rows that must be old before it is written anew, in percent.
const OLD_PERCENT_MIN: u64 = 5;

/// Statistics have times in whole milliseconds, cut.
const STATISTICS_US: i64 = 1_000;

/// When rows are old.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    /// The column with their time.
    pub(crate) column: &'static str,
    /// How long after it.
    pub(crate) after: Duration,
}

/// What a file's statistics say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    AllOld,
    AllYoung,
    Unknown,
}

/// Takes old rows out.
pub(crate) async fn expire(job: &Job<'_>, expiry: &Expiry) -> Result<Tally> {
    let table = job.open().await?;
    let sources = rows::sources(&table)?;
    let mut tally = Tally::of(&sources);
    let oldest_us = job.before_us(expiry.after);
    let has_column = delta::stored_schema(&table)?.column_with_name(expiry.column).is_some();
    let mut ready = Vec::new();
    let mut old_rows = 0;
    for source in sources {
        if job.is_late() {
            tally.is_late = true;
            break;
        }
        let age = if has_column { age_of(&source, expiry.column, oldest_us) } else { age_of_file(&source, oldest_us) };
        match age {
            Age::AllYoung => {}
            Age::AllOld => {
                old_rows += live_rows(&source);
                ready.push(Rewritten { sources: vec![source], added: Vec::new() });
            }
            Age::Unknown => {
                let old = count_old(&table, &source, expiry.column, oldest_us).await?;
                if old == 0 || old * 100 < live_rows(&source) * OLD_PERCENT_MIN {
                    continue;
                }
                let young = young_rows(&table, &source, expiry.column, oldest_us)?;
                let Some(added) = write(job, &table, young, u64::MAX, true).await? else {
                    tally.is_late = true;
                    break;
                };
                old_rows += old;
                ready.push(Rewritten { sources: vec![source], added });
            }
        }
    }
    let landing = Landing::fewer_rows(format!("{} is older than {} s", expiry.column, expiry.after.as_secs()));
    land(job, &table, ready, &landing, &mut tally).await?;
    // Of a file that is written anew, only the rows that went count.
    tally.rows = if tally.is_done { old_rows } else { 0 };
    Ok(tally)
}

fn live_rows(source: &Source) -> u64 {
    source.file.rows().unwrap_or_default().saturating_sub(source.file.deleted_rows())
}

fn age_of(source: &Source, column: &str, oldest_us: i64) -> Age {
    let bounds = source
        .file
        .bounds(&[column])
        .remove(0)
        .and_then(|(least, greatest)| Some((instant(&least)?, instant(&greatest)?)));
    match (bounds, source.nulls(column)) {
        (Some(bounds), Some(0)) => judged(bounds, oldest_us),
        _ => Age::Unknown,
    }
}

fn judged((least_us, greatest_us): (i64, i64), oldest_us: i64) -> Age {
    if least_us >= oldest_us {
        Age::AllYoung
    } else if greatest_us.saturating_add(STATISTICS_US) < oldest_us {
        Age::AllOld
    } else {
        Age::Unknown
    }
}

fn age_of_file(source: &Source, oldest_us: i64) -> Age {
    if source.modified_us() < oldest_us { Age::AllOld } else { Age::AllYoung }
}

/// A time as statistics write it, in microseconds since the epoch.
fn instant(text: &str) -> Option<i64> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let time = cast_strictly(&text, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))).ok()?;
    let time = time.as_primitive_opt::<TimestampMicrosecondType>()?;
    time.is_valid(0).then(|| time.value(0))
}

async fn count_old(table: &DeltaTable, source: &Source, column: &str, oldest_us: i64) -> Result<u64> {
    let schema = delta::stored_schema(table)?;
    let field = schema.field_with_name(column).cloned();
    let field = field.map_err(|error| Error::internal("a table lost its column of times").because(error))?;
    let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
    let mut batches = rows::of_files(&table.object_store(), std::slice::from_ref(source), &schema, Some(column));
    let mut old = 0;
    while let Some(batch) = batches.try_next().await? {
        old += young(&batch, column, oldest_us)?.iter().filter(|is_young| *is_young == Some(false)).count() as u64;
    }
    Ok(old)
}

fn young_rows(
    table: &DeltaTable,
    source: &Source,
    column: &'static str,
    oldest_us: i64,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let schema: SchemaRef = Arc::new(delta::stored_schema(table)?);
    let batches = rows::of_files(&table.object_store(), std::slice::from_ref(source), &schema, Some(column));
    let kept = batches.map(move |batch| {
        let batch = batch?;
        filtered(&batch, &young(&batch, column, oldest_us)?)
    });
    Ok(kept.boxed())
}

/// Which rows are young.
fn young(batch: &RecordBatch, column: &str, oldest_us: i64) -> Result<BooleanArray> {
    let times = times(batch, column).ok_or_else(|| Error::internal(format!("column {column:?} has no times")))?;
    Ok(times.iter().map(|time| Some(time.is_none_or(|time| time >= oldest_us))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_statistics_are_read() {
        assert_eq!(instant("1970-01-01T00:00:01.500Z"), Some(1_500_000));
        assert_eq!(instant("1970-01-01T00:00:01.500000Z"), Some(1_500_000));
        assert_eq!(instant("soon"), None);
    }

    #[test]
    fn rows_within_the_millisecond_that_statistics_cut_are_looked_at() {
        assert_eq!(judged((5_000, 9_000), 5_000), Age::AllYoung);
        assert_eq!(judged((5_000, 9_000), 5_001), Age::Unknown);
        assert_eq!(judged((5_000, 9_000), 10_000), Age::Unknown);
        assert_eq!(judged((5_000, 9_000), 10_001), Age::AllOld);
    }
}
