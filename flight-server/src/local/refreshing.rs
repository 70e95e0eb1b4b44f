//! One worker for all models: refreshes those on change behind silver commits, and the others by their timers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gold_refresh::{Outcome, Refresher, Settings};
use lakehouse::definition::Refresh;
use lakehouse::{Clock, Layer, Name};
use tracing::error;

use super::Shared;

/// Silver must have been still for this long, so that a burst of merges is one refresh …
const QUIET: Duration = Duration::from_millis(300);
/// … but a steady stream of them does not put it off for longer than this.
const PUT_OFF_MAX: Duration = Duration::from_secs(8);
/// How often timers are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long after a failed refresh it is tried again.
const RETRY: Duration = Duration::from_secs(15);

/// Budgets of a round on a laptop.
pub(super) fn settings(spill_folder: Option<PathBuf>) -> Settings {
    Settings {
        duck: duck::Settings { memory_bytes: 400 << 20, spill_folder, ..duck::Settings::default() },
        delta_memory_bytes: 128 << 20,
        ..Settings::default()
    }
}

/// Refreshes models until the process stops.
pub(super) async fn run(shared: Arc<Shared>, refresher: Arc<Refresher>, clock: Arc<dyn Clock>) {
    let mut changed = shared.silver_changed.subscribe();
    let mut timers = Timers::new(&shared, clock.now());
    let mut unpublished: BTreeSet<Name> = shared.definitions.now().models.keys().cloned().collect();
    let mut seen = 0;
    let mut retry_at = None;
    loop {
        let now = clock.now();
        let count = *changed.borrow_and_update();
        let is_retry = retry_at.is_some_and(|at| now >= at);
        let mut due = timers.due(now);
        if count > seen || is_retry {
            quiet(&shared, &mut changed).await;
            due.extend(on_change(&shared));
            // A model on a timer is not left empty until its first time comes.
            due.extend(unpublished.iter().cloned());
        }
        if shared.all_due.swap(false, Ordering::SeqCst) {
            due.extend(shared.definitions.now().models.keys().cloned());
        }
        let count = (*changed.borrow_and_update()).max(count);
        if !due.is_empty() {
            let is_well = round(&shared, &refresher, &due, &mut unpublished).await;
            retry_at = (!is_well).then(|| clock.now() + RETRY);
        }
        seen = count;
        shared.gold_caught_up.send_replace(count);
        tokio::select! {
            still_there = changed.changed() => if still_there.is_err() { return },
            () = tokio::time::sleep(TICK) => {}
            () = shared.stopped() => return,
        }
    }
}

fn on_change(shared: &Shared) -> impl Iterator<Item = Name> + use<> {
    let definition = shared.definitions.now();
    let models = definition.models.iter();
    let due = models.filter(|(_, model)| matches!(model.refresh, Refresh::OnChange)).map(|(name, _)| name.clone());
    due.collect::<Vec<_>>().into_iter()
}

/// Waits until no merge waits and silver is still, or for [`PUT_OFF_MAX`].
async fn quiet(shared: &Shared, changed: &mut tokio::sync::watch::Receiver<u64>) {
    let is_still = async {
        loop {
            tokio::select! {
                still_there = changed.changed() => if still_there.is_err() { return },
                () = tokio::time::sleep(QUIET) => {
                    if shared.definitions.now().tables.keys().all(|table| shared.queue.pending(table).is_empty()) {
                        return;
                    }
                }
                () = shared.stopped() => return,
            }
        }
    };
    // Elapsed is as good as still.
    let _ = tokio::time::timeout(PUT_OFF_MAX, is_still).await;
}

/// Refreshes the due models; whether all are well.
async fn round(shared: &Shared, refresher: &Refresher, due: &BTreeSet<Name>, unpublished: &mut BTreeSet<Name>) -> bool {
    let permit = shared.merges.acquire().await;
    let results = match refresher.refresh(due).await {
        Ok(results) => results,
        Err(error) => {
            error!(error = error.chain(), "no model could be refreshed");
            return false;
        }
    };
    drop(permit);
    for (name, result) in &results {
        let is_published = matches!(result, Ok(Outcome::Published { .. } | Outcome::Unchanged));
        if is_published {
            unpublished.remove(name);
        }
        if let Ok(Outcome::Published { version, .. }) = result {
            shared.due.committed(Layer::Gold, name, *version);
        }
    }
    let published = results.values().filter(|result| matches!(result, Ok(Outcome::Published { .. }))).count();
    let failed: BTreeMap<Name, String> =
        refresher.states().into_iter().filter_map(|(name, state)| state.error.map(|error| (name, error))).collect();
    let is_well = failed.is_empty();
    shared.note(|troubles, done| {
        troubles.models = failed;
        done.refreshes += published as u64;
    });
    is_well
}

/// The next time of each model that has a timer.
struct Timers(BTreeMap<Name, (Refresh, DateTime<Utc>)>);

impl Timers {
    fn new(shared: &Shared, now: DateTime<Utc>) -> Self {
        let definition = shared.definitions.now();
        let models = definition.models.iter();
        let next = models.filter_map(|(name, model)| {
            let next = model.refresh.next_after(now)?;
            Some((name.clone(), (model.refresh.clone(), next)))
        });
        Self(next.collect())
    }

    /// The models whose time has come; each gets its next time.
    fn due(&mut self, now: DateTime<Utc>) -> BTreeSet<Name> {
        let mut due = BTreeSet::new();
        self.0.retain(|name, (refresh, next)| {
            if *next > now {
                return true;
            }
            due.insert(name.clone());
            match refresh.next_after(now) {
                Some(later) => {
                    *next = later;
                    true
                }
                None => false,
            }
        });
        due
    }
}
