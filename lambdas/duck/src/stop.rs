//! A stop for SQL that nobody waits for any more.
//!
//! DuckDB computes on a thread that blocks, and a future that waits for it can be dropped, at a deadline for example,
//! without that thread noticing. A [`Stopper`] is made before the database and given to it in its
//! [`Settings`](crate::Settings); who waits holds its [`StopOnDrop`]:
//!
//! ```text
//!  a future ── holds ──► StopOnDrop ── drop ──► Stopper ──► the databases opened with it, on whatever threads
//! ```

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::watch::Shared;

/// Stops all databases that were opened with it, now and later.
#[derive(Clone, Debug, Default)]
pub struct Stopper {
    ducks: Arc<Mutex<Ducks>>,
}

#[derive(Debug, Default)]
struct Ducks {
    is_stopped: bool,
    open: Vec<Weak<Shared>>,
}

impl Stopper {
    /// Ends what runs, and makes all that comes later fail: with `Cancelled`, both. It doesn't wait for the end.
    pub fn stop(&self) {
        let mut ducks = self.ducks.lock().unwrap_or_else(PoisonError::into_inner);
        ducks.is_stopped = true;
        for duck in ducks.open.drain(..).filter_map(|duck| duck.upgrade()) {
            duck.stop();
        }
    }

    /// A guard that stops when it is dropped, as it is with the future that holds it.
    #[must_use]
    pub fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }

    /// Adds a database; it is stopped at once if this was stopped before.
    pub(crate) fn add(&self, duck: &Arc<Shared>) {
        let mut ducks = self.ducks.lock().unwrap_or_else(PoisonError::into_inner);
        if ducks.is_stopped {
            duck.stop();
        } else {
            ducks.open.retain(|open| open.strong_count() > 0);
            ducks.open.push(Arc::downgrade(duck));
        }
    }
}

/// Calls [`Stopper::stop`] when it is dropped.
#[derive(Debug)]
pub struct StopOnDrop(Stopper);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
