//! Which puts are under way, so that a close can refuse new ones and wait for these.

use tokio::sync::watch;

/// The puts under way, and whether more may begin.
#[derive(Debug, Default)]
pub(super) struct Traffic(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    closed: bool,
    under_way: usize,
}

/// A put under way, until it is dropped.
pub(super) struct UnderWay<'a>(&'a Traffic);

impl Traffic {
    /// Begins a put, unless the stream is closed.
    pub(super) fn begin(&self) -> Option<UnderWay<'_>> {
        let begun = self.0.send_if_modified(|state| {
            state.under_way += usize::from(!state.closed);
            !state.closed
        });
        begun.then(|| UnderWay(self))
    }

    /// From now on nothing begins.
    pub(super) fn close(&self) {
        self.0.send_modify(|state| state.closed = true);
    }

    /// How many are under way.
    pub(super) fn under_way(&self) -> usize {
        self.0.borrow().under_way
    }

    /// Returns once none is under way.
    pub(super) async fn still(&self) {
        let mut state = self.0.subscribe();
        // It fails only when there is no sender, and that is us.
        let _ = state.wait_for(|state| state.under_way == 0).await;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.under_way -= 1);
    }
}
