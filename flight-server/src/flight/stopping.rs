//! Tells long calls that the server is to stop.

use std::sync::Arc;
use std::time::Duration;

use lakehouse::Error;
use tokio::sync::watch;

/// How long a call that ends with an error waits for what it had under way, so that the client learns what is kept: less
/// than calls are given when the server stops.
pub(super) const LAST_WORD_MAX: Duration = Duration::from_secs(7);

/// Whether a stop has begun; all clones know the same.
#[derive(Clone, Debug)]
pub(super) struct Stopping(Arc<watch::Sender<bool>>);

impl Stopping {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Begins the stop.
    pub(super) fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes once it has begun.
    pub(super) async fn begun(&self) {
        // The sender is in `self`, so there is no error.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }

    /// What a call that can't go on is told.
    pub(super) fn refusal(&self) -> Error {
        Error::unavailable("the server is stopping; go on with another one, behind what was acknowledged")
    }
}
