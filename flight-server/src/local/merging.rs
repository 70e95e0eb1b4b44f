//! One worker a table: merges bronze objects as soon as they are announced, many in one merge.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bronze_to_silver::{BronzeObject, Merger, Outcome, Settings};
use futures::FutureExt as _;
use lakehouse::{Error, Name, Result};
use tracing::warn;

use super::Shared;
use crate::delivery::QueuedObject;

/// Bytes of bronze in one merge; their rows take several times as much in DuckDB, which spills.
const MERGE_BYTES_MAX: u64 = 48 << 20;
/// Objects in one merge.
const MERGE_OBJECTS_MAX: usize = 500;

/// The first pause after a failed merge; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause between tries of a merge that fails.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Budgets of a merge on a laptop.
pub(super) fn settings(spill_folder: Option<PathBuf>) -> Settings {
    Settings {
        duck: duck::Settings { memory_bytes: 400 << 20, spill_folder, ..duck::Settings::default() },
        delta_memory_bytes: 256 << 20,
        ..Settings::default()
    }
}

/// Merges a table's objects until the process stops.
pub(super) async fn run(table: Name, shared: Arc<Shared>, merger: Arc<Merger>) {
    let mut announced = shared.queue.subscribe();
    let mut pause = PAUSE_MIN;
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
        match merge(&table, &shared, &merger, &batch).await {
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

async fn merge(table: &Name, shared: &Shared, merger: &Merger, batch: &[QueuedObject]) -> Result<()> {
    let objects: Vec<BronzeObject> = batch
        .iter()
        .map(|object| BronzeObject { key: object.key.clone(), delivered_at_us: object.delivered_at_us })
        .collect();
    let permit = shared.merges.acquire().await;
    // A panic in a library is an error of this merge: it shows in system.tables, and is tried again.
    let merged = AssertUnwindSafe(merger.merge(table, &objects)).catch_unwind().await;
    let Outcome { version, story, .. } = merged.map_err(|_| Error::internal("the merge panicked (see the log)"))??;
    drop(permit);
    shared.note(|_, done| {
        done.merged_rows += story.rows_in;
        done.merges += u64::from(version.is_some());
    });
    if version.is_some() {
        shared.silver_changed.send_modify(|count| *count += 1);
    }
    for object in batch {
        shared.queue.done(object).await?;
    }
    Ok(())
}
