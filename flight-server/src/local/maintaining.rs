//! Keeps tables in good order between merges, as the Lambda `table-maintenance` does on a schedule.
//!
//! ```text
//!  a merge's version passes 32 ───► due: the table, its tombstones, its quarantine ─┐
//!  a refresh's version passes 32 ─► due: the model ─────────────────────────────────┼─► one a turn, where a merge
//!  an hour has passed ────────────► due: all that there are ────────────────────────┘   would have its turn
//! ```
//!
//! What is due is told by versions, not by counting merges: a process that ends after a few of them has its part in it,
//! and nothing is to be remembered. Maintenance could run beside merges, but not in the memory of a laptop, so it waits
//! for its turn as they do, and gives it back in time. A stop drops what it does, as a death would: that leaves nothing
//! but files that a later vacuum takes away.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use lakehouse::{Clock, Error, Lake, Layer, Name, Result, delta};
use table_maintenance::{Action, Maintainer, RUNS, Report, Settings};
use tokio::sync::Notify;
use tracing::warn;

use super::{Shared, supervise};

/// A table is due when its version passes a multiple of this. Fewer small files are no burden to a reader.
const VERSIONS: u64 = 32;

/// How long after the start all tables are due, merged into or not …
const FIRST_ROUND: Duration = Duration::from_secs(10 * 60);
/// … and how often from then on: logs and files that are too old go, though nothing is merged.
const ROUND: Duration = Duration::from_secs(60 * 60);

/// How long merges may have to wait for maintenance. Files that are rewritten together, at most 512 MiB by default,
/// take a part of this time; what a turn does not come to is left to the next one.
const TURN_MAX: Duration = Duration::from_secs(120);

/// Memory for sorting rows on a laptop, in bytes; what needs more is spilled.
const SORT_MEMORY_BYTES: usize = 128 << 20;

/// A table of a layer.
type Table = (Layer, Name);

/// The tables that wait for maintenance.
#[derive(Debug, Default)]
pub(crate) struct Due {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they came to be due, each once.
    waiting: VecDeque<Table>,
    /// The newest version of each table, as far as it is known.
    versions: BTreeMap<Table, u64>,
}

impl Due {
    /// Takes note of a version of a table, which has to be its newest. With a silver table, what lies beside it is due.
    pub(crate) fn committed(&self, layer: Layer, name: &Name, version: u64) {
        let before = self.lock().versions.insert((layer, name.clone()), version);
        let before = before.unwrap_or(version.saturating_sub(1));
        if before / VERSIONS < version / VERSIONS {
            let beside: &[Layer] = if layer == Layer::Silver { &[Layer::Tombstones, Layer::Quarantine] } else { &[] };
            self.add(std::iter::once(&layer).chain(beside).map(|layer| (*layer, name.clone())));
        }
    }

    fn add(&self, tables: impl IntoIterator<Item = Table>) {
        let mut state = self.lock();
        for table in tables {
            if !state.waiting.contains(&table) {
                state.waiting.push_back(table);
            }
        }
        drop(state);
        self.woken.notify_one();
    }

    /// The table that has waited longest, as soon as there is one.
    async fn next(&self) -> Table {
        loop {
            let next = self.lock().waiting.pop_front();
            if let Some(table) = next {
                return table;
            }
            self.woken.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maintains the tables of `lake` until the process stops.
pub(super) async fn keep(shared: Arc<Shared>, lake: Lake, clock: Arc<dyn Clock>) {
    let settings = Settings { sort_memory_bytes: SORT_MEMORY_BYTES, ..Settings::default() };
    let maintainer = Maintainer::new(Arc::clone(&shared.definitions), lake.clone(), clock, settings);
    let maintainer = Arc::new(maintainer);
    supervise("turns of maintenance".to_owned(), move || {
        run(Arc::clone(&shared), Arc::clone(&maintainer), lake.clone())
    })
    .await;
}

async fn run(shared: Arc<Shared>, maintainer: Arc<Maintainer>, lake: Lake) {
    tokio::select! {
        () = rounds(&shared, &maintainer) => {}
        () = turns(&shared, &maintainer, &lake) => {}
        () = shared.stopped() => {}
    }
}

/// Has all tables maintained by a timer.
async fn rounds(shared: &Shared, maintainer: &Maintainer) {
    let mut pause = FIRST_ROUND;
    loop {
        tokio::time::sleep(pause).await;
        pause = ROUND;
        match maintainer.tables().await {
            Ok(tables) => shared.due.add(tables),
            Err(error) => warn!(error = error.chain(), "it can't be told which tables are to be maintained"),
        }
    }
}

/// Maintains what is due, one table after the other. One that fails is due again when its next version or round is; the
/// others need not wait for that.
async fn turns(shared: &Shared, maintainer: &Maintainer, lake: &Lake) {
    loop {
        let (layer, name) = shared.due.next().await;
        let ended = match turn(shared, maintainer, layer, &name).await {
            Ok(report) if report.steps.is_empty() => continue,
            Ok(report) => {
                tell(shared, layer, &name, &report);
                note_runs(shared, lake).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            warn!(%layer, table = %name, error = error.chain(), "a table was not maintained; it is tried again later");
        }
    }
}

/// Maintains one table while nothing is merged.
async fn turn(shared: &Shared, maintainer: &Maintainer, layer: Layer, name: &Name) -> Result<Report> {
    let permit = shared.merges.acquire().await;
    let until = Some(Instant::now() + TURN_MAX);
    let ended = AssertUnwindSafe(maintainer.maintain_until(layer, name, until)).catch_unwind().await;
    drop(permit);
    ended.map_err(|_| Error::internal("maintenance panicked (see the log)"))?
}

fn tell(shared: &Shared, layer: Layer, name: &Name, report: &Report) {
    let moved = report.step(Action::Compact).is_some_and(|step| step.version.is_some());
    if moved && matches!(layer, Layer::Silver | Layer::Gold) {
        // Models go by their inputs' versions: without a look they would seem to be behind until the next merge.
        shared.silver_changed.send_modify(|count| *count += 1);
    }
    // Only if it got on: work that never fits a turn would be begun for ever.
    if report.is_late && report.steps.iter().any(|step| step.files_after < step.files_before) {
        shared.due.add([(layer, name.clone())]);
    }
}

/// What is told of turns is a table too, which grows with each of them.
async fn note_runs(shared: &Shared, lake: &Lake) -> Result<()> {
    let runs = Name::new(RUNS)?;
    if let Some(table) = lake.open(Layer::Maintenance, &runs).await? {
        shared.due.committed(Layer::Maintenance, &runs, delta::version(&table));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
