//! One worker a table: merges bronze objects as soon as they are announced, many in one merge.
//!
//! An object that can't be merged holds up its table for some tries only, as in the Lambda
//! ([`bronze_to_silver::merge_around`]). They are counted in memory: a restart counts anew.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bronze_to_silver::{BronzeObject, Merger, Merging, Queued, Settings, merge_around};
use lakehouse::{Layer, Name, Result};
use tracing::warn;

use super::Shared;
use crate::delivery::QueuedObject;

/// Bytes of bronze in one merge; their rows take several times as much in DuckDB, which spills.
const MERGE_BYTES_MAX: u64 = 48 << 20;
/// Objects in one merge.
const MERGE_OBJECTS_MAX: usize = 500;

/// After how many tries an object that can't be merged is set aside: what the Lambda has if it is not told otherwise.
const OBJECT_TRIES_MAX: u32 = 3;

/// The first pause after a failed merge; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause between tries of a merge that fails.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Time that the SQL of one commit may take.
const SQL_TIME_MAX: Duration = Duration::from_secs(5 * 60);

/// How often an object failed by its own fault, by its key.
type Failures = HashMap<String, u32>;

/// Budgets of a merge on a laptop.
pub(super) fn settings(spill_folder: Option<PathBuf>) -> Settings {
    Settings {
        duck: duck::Settings {
            memory_bytes: 400 << 20,
            spill_folder,
            time_max: Some(SQL_TIME_MAX),
            ..duck::Settings::default()
        },
        delta_memory_bytes: 256 << 20,
        ..Settings::default()
    }
}

/// Merges a table's objects until the process stops.
pub(super) async fn run(table: Name, shared: Arc<Shared>, merger: Arc<Merger>) {
    let mut announced = shared.queue.subscribe();
    let (mut pause, mut failures) = (PAUSE_MIN, Failures::new());
    loop {
        announced.mark_unchanged();
        let batch = first(shared.queue.pending(&table));
        if batch.is_empty() {
            tokio::select! {
                changed = announced.changed() => if changed.is_err() { return },
                () = shared.stopped() => return,
            }
            continue;
        }
        if *shared.stop.borrow() {
            return;
        }
        match merge(&table, &shared, &*merger, &batch, &mut failures).await {
            Ok(()) => {
                pause = PAUSE_MIN;
                shared.note(|troubles, _| drop(troubles.tables.remove(&table)));
            }
            Err(error) => {
                warn!(%table, error = error.chain(), pause_ms = pause.as_millis(), "the merge failed; its objects stay queued");
                shared.note(|troubles, _| drop(troubles.tables.insert(table.clone(), error.chain())));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shared.stopped() => return,
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The oldest objects, up to the limits of one merge; at least one.
fn first(pending: Vec<QueuedObject>) -> Vec<QueuedObject> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    for object in pending.into_iter().take(MERGE_OBJECTS_MAX) {
        bytes += object.bytes;
        if !batch.is_empty() && bytes > MERGE_BYTES_MAX {
            break;
        }
        batch.push(object);
    }
    batch
}

/// Merges a batch, takes what is done off the queue, and gives the error for which the rest stays there.
async fn merge(
    table: &Name,
    shared: &Shared,
    merging: &dyn Merging,
    batch: &[QueuedObject],
    failures: &mut Failures,
) -> Result<()> {
    let queued = |object: &QueuedObject| Queued {
        object: BronzeObject { key: object.key.clone(), delivered_at_us: object.delivered_at_us },
        tries: failures.get(&object.key).copied().unwrap_or_default() + 1,
    };
    let queued: Vec<Queued> = batch.iter().map(queued).collect();
    let permit = shared.merges.acquire().await;
    let report = merge_around(merging, table, &queued, OBJECT_TRIES_MAX, None).await;
    drop(permit);
    shared.note(|_, done| {
        for outcome in &report.outcomes {
            done.merged_rows += outcome.story.rows_in;
            done.merges += u64::from(outcome.version.is_some());
        }
    });
    if let Some(version) = report.version() {
        shared.due.committed(Layer::Silver, table, version);
        shared.silver_changed.send_modify(|count| *count += 1);
    }
    failures.retain(|key, _| !report.done.contains(key));
    if let Some(key) = &report.blamed {
        *failures.entry(key.clone()).or_default() += 1;
    }
    for object in batch.iter().filter(|object| report.done.contains(&object.key)) {
        shared.queue.done(object).await?;
    }
    report.failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
