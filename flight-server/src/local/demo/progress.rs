//! Progress bars: rows sent, delivered to bronze, merged into silver, and models refreshed.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lakehouse::{Error, Result};

use super::super::Shared;
use crate::run::say;

/// How often the bars are looked after.
const TICK: Duration = Duration::from_millis(100);

/// How long nothing may move before the demo says that it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A stage and when it was done.
struct Stage {
    name: &'static str,
    unit: &'static str,
    bar: ProgressBar,
    ended: Mutex<Option<Duration>>,
}

/// The stages of the demo.
pub(super) struct Progress {
    started: Instant,
    sent: Stage,
    delivered: Stage,
    merged: Stage,
    refreshed: Stage,
    /// What the workers had done before: a second start begins with none.
    delivered_before: u64,
}

impl Stage {
    fn new(bars: &MultiProgress, name: &'static str, unit: &'static str) -> Self {
        let bar = bars.add(ProgressBar::new(0));
        let template = format!("{{prefix:>10}} {{bar:40}} {{human_pos:>9}} / {{human_len:>9}} {unit}  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_prefix(name);
        Self { name, unit, bar, ended: Mutex::new(None) }
    }

    fn set(&self, done: u64, total: u64, elapsed: Duration) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if done < total {
            *ended = None;
        } else if ended.is_none() {
            *ended = Some(elapsed);
        }
        self.bar.set_message(rate(done, self.unit, ended.unwrap_or(elapsed)));
    }

    fn summary(&self) -> String {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
        let done = self.bar.position();
        format!(
            "{:>10} {:>9} {:7} by {:5.1} s  {}",
            self.name,
            done,
            self.unit,
            ended.as_secs_f64(),
            rate(done, self.unit, ended)
        )
    }
}

fn rate(done: u64, unit: &str, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 0.001 || unit != "rows" {
        return String::new();
    }
    format!("{:.0} rows/s", done as f64 / seconds)
}

impl Progress {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let bars = MultiProgress::new();
        Self {
            started: Instant::now(),
            sent: Stage::new(&bars, "sent", "rows"),
            delivered: Stage::new(&bars, "delivered", "rows"),
            merged: Stage::new(&bars, "merged", "rows"),
            refreshed: Stage::new(&bars, "refreshed", "models"),
            delivered_before: shared.done().merged_rows,
        }
    }

    /// `sent` of the `made` rows are acknowledged.
    pub(super) fn sent(&self, sent: u64, made: u64) {
        self.sent.set(sent, made, self.started.elapsed());
    }

    /// Looks after the later stages while `rows` rows were sent. True once all of them are merged.
    pub(super) async fn look(&self, shared: &Shared, rows: u64) -> Result<bool> {
        use crate::system::Backlog as _;

        let waiting: u64 = {
            let delivered = shared.delivered().await?;
            let ingests = delivered.values().flatten().flat_map(|object| &object.ingests);
            ingests.map(|story| story.rows).sum()
        };
        let done = shared.done();
        let merged = done.merged_rows - self.delivered_before;
        let elapsed = self.started.elapsed();
        self.delivered.set((merged + waiting).min(rows), rows, elapsed);
        self.merged.set(merged.min(rows), rows, elapsed);
        Ok(merged >= rows)
    }

    /// Waits until all rows are merged, nothing waits, and all models have caught up: those on a timer too, which may
    /// have been computed while rows were still coming.
    pub(super) async fn wait_for_gold(&self, shared: &Shared, rows: u64) -> Result<()> {
        let mut is_last_round = false;
        let mut last_moved = (Instant::now(), shared.done());
        let is_idle = || shared.definitions.now().tables.keys().all(|table| shared.queue.pending(table).is_empty());
        loop {
            let is_merged = self.look(shared, rows).await?;
            let is_caught_up = *shared.gold_caught_up.borrow() >= *shared.silver_changed.borrow();
            let done = shared.done();
            self.refreshed.set(done.refreshes, done.refreshes + u64::from(!is_caught_up), self.started.elapsed());
            if is_merged && is_idle() && is_caught_up {
                if is_last_round {
                    return Ok(());
                }
                is_last_round = true;
                shared.refresh_all();
                continue;
            }
            if done != last_moved.1 {
                last_moved = (Instant::now(), done);
            } else if last_moved.0.elapsed() > STUCK_AFTER {
                let troubles = crate::system::Backlog::troubles(shared);
                return Err(Error::internal(format!(
                    "nothing has moved for {} s: {troubles:?}",
                    STUCK_AFTER.as_secs()
                )));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Ends the bars and says what each stage came to.
    pub(super) fn finish(&self, since_start: Duration) {
        let stages = [&self.sent, &self.delivered, &self.merged, &self.refreshed];
        for stage in stages {
            stage.bar.finish_and_clear();
        }
        if self.sent.bar.position() == 0 {
            say("all events were sent before; the data is as it was");
        } else {
            stages.iter().for_each(|stage| say(&stage.summary()));
        }
        say(&format!("{:>10} {:.1} s from start to gold", "in all", since_start.as_secs_f64()));
    }
}
