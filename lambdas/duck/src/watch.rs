//! The end of SQL that takes too long, or that nobody waits for any more.
//!
//! DuckDB knows no time cap, and forgets an interrupt whenever it begins to parse, to prepare or to run: one that comes
//! just then is lost. So each database has a thread that watches it, and that interrupts again and again for as long
//! as a statement runs that must end:
//!
//! ```text
//!  who computes     sql() ──────────────── DuckDB ────────────────┐ error       sql(): error
//!                     │ wakes                      ▲  ▲  ▲        │
//!  the watch thread   └── sleeps ── time is up ────┘  │  │        └── sleeps ── close: ends
//!                                   or a stop ────────┴──┘ every 20 ms
//! ```
//!
//! DuckDB looks for an interrupt between vectors of 2,048 rows, so one vector is computed to its end. The interrupts
//! are given under the lock that a statement's end takes too, and the thread ends before the connection: none reaches
//! a connection that is gone.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use lakehouse::{Context, Error, Kind, Result};

use crate::stop::Stopper;

/// How long an interrupt is waited for before it is given again.
const INTERRUPT_AGAIN_MS: u64 = 20;

/// What watches one database. Its thread ends with it.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread that computes, the one that watches and those that stop share.
#[derive(Debug)]
pub(crate) struct Shared {
    time_max: Option<Duration>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    doing: Doing,
    /// The time that SQL took, without what runs.
    spent: Duration,
    /// Why nothing may run any more.
    end: Option<End>,
    is_closing: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Doing {
    #[default]
    Nothing,
    /// Taking in rows, at the pace of who gives them: the time doesn't count.
    Loading,
    /// SQL, since then.
    Computing(Instant),
}

#[derive(Clone, Copy, Debug)]
enum End {
    TimeIsUp,
    Stopped,
}

impl Watch {
    /// Watches the database that `interrupt` interrupts, which must be safe to call until this is dropped.
    pub(crate) fn new(
        interrupt: impl Fn() + Send + 'static,
        time_max: Option<Duration>,
        stopper: &Stopper,
    ) -> Result<Self> {
        let shared = Arc::new(Shared { time_max, state: Mutex::default(), changed: Condvar::new() });
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("duck-watch".to_owned())
            .spawn(move || watched.watch(&interrupt))
            .context(Kind::Unavailable, || "can't start the thread that watches DuckDB".to_owned())?;
        stopper.add(&shared);
        Ok(Self { shared, thread: Some(thread) })
    }

    /// SQL begins, and ends when what this gives is dropped. Its time counts.
    pub(crate) fn sql(&self) -> Result<Running<'_>> {
        self.begin(Doing::Computing(Instant::now()))
    }

    /// A load begins, and ends when what this gives is dropped. Its time doesn't count.
    pub(crate) fn load(&self) -> Result<Running<'_>> {
        self.begin(Doing::Loading)
    }

    fn begin(&self, doing: Doing) -> Result<Running<'_>> {
        let mut state = self.shared.lock();
        state.time_left(self.shared.time_max);
        if let Some(end) = state.end {
            return Err(self.shared.error(end));
        }
        state.doing = doing;
        // The thread sleeps till somebody stops or something runs whose time is counted.
        if self.shared.time_max.is_some() {
            self.shared.changed.notify_all();
        }
        Ok(Running(&self.shared))
    }

    /// The error of a statement, or why it was interrupted.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let end = self.shared.lock().end;
        match end {
            Some(End::Stopped) => self.shared.error(End::Stopped),
            Some(End::TimeIsUp) if error.kind() == Kind::Cancelled => self.shared.error(End::TimeIsUp),
            _ => error,
        }
    }

    /// The same rows, up to a stop. DuckDB looks for no interrupt while it gets nothing but empty batches.
    pub(crate) fn stoppable(&self, reader: Box<dyn RecordBatchReader + Send>) -> Box<dyn RecordBatchReader + Send> {
        Box::new(Stoppable { reader, shared: Arc::clone(&self.shared) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It can only have died of a panic in DuckDB's interrupt, and is gone then, too.
            let _ = thread.join();
        }
    }
}

/// Something runs until this is dropped.
pub(crate) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.spent = state.spent_by_now();
        state.doing = Doing::Nothing;
    }
}

impl Shared {
    /// Ends what runs, and lets nothing begin.
    pub(crate) fn stop(&self) {
        self.lock().end_with(End::Stopped);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, interrupt: &dyn Fn()) {
        let mut state = self.lock();
        while !state.is_closing {
            let left = state.time_left(self.time_max);
            let wait = match (state.doing, state.end) {
                (Doing::Nothing, _) | (Doing::Loading, None) => None,
                (Doing::Computing(_), None) => left,
                (Doing::Loading | Doing::Computing(_), Some(_)) => {
                    interrupt();
                    Some(Duration::from_millis(INTERRUPT_AGAIN_MS))
                }
            };
            state = match wait {
                Some(wait) => self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn error(&self, end: End) -> Error {
        match end {
            End::TimeIsUp => Error::new(
                Kind::Timeout,
                format!(
                    "DuckDB: all SQL together took longer than {} s; make the transform cheaper, or give the Lambda \
                     more time",
                    self.time_max.unwrap_or_default().as_secs_f64()
                ),
            ),
            End::Stopped => {
                Error::new(Kind::Cancelled, "DuckDB: stopped, as nobody waits for the result any more; call again")
            }
        }
    }
}

impl State {
    fn spent_by_now(&self) -> Duration {
        match self.doing {
            Doing::Computing(since) => self.spent + since.elapsed(),
            Doing::Nothing | Doing::Loading => self.spent,
        }
    }

    /// The time that SQL still has; `None` if it may take any. If it is zero, that is the end.
    fn time_left(&mut self, time_max: Option<Duration>) -> Option<Duration> {
        let left = time_max?.saturating_sub(self.spent_by_now());
        if left.is_zero() {
            self.end_with(End::TimeIsUp);
        }
        Some(left)
    }

    /// The first end stays.
    fn end_with(&mut self, end: End) {
        self.end = self.end.or(Some(end));
    }
}

struct Stoppable {
    reader: Box<dyn RecordBatchReader + Send>,
    shared: Arc<Shared>,
}

impl Iterator for Stoppable {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.shared.lock().end;
        match end {
            Some(end) => Some(Err(ArrowError::ExternalError(Box::new(self.shared.error(end))))),
            None => self.reader.next(),
        }
    }
}

impl RecordBatchReader for Stoppable {
    fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }
}

#[cfg(test)]
mod tests;
