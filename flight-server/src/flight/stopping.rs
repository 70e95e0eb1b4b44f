//! Tells long calls that the server is to stop.

use std::sync::Arc;

use lakehouse::Error;
use tokio::sync::watch;

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
