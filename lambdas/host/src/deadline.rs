//! One call of a Lambda: its id, and how long it may work.
//!
//! Lambda ends a call that takes too long, and its answer is lost with it: all messages come again, done or not. So
//! there are two times before Lambda's own:
//!
//! ```text
//!  begin ─────── work ───────► until ── end what runs, begin nothing ──► end ── answer ──► Lambda's deadline
//! ```

use std::time::{Duration, Instant};

/// The least time that is kept for ending what runs: a commit over the network.
const ENDING_MIN: Duration = Duration::from_secs(2);

/// The most of it: a commit that takes longer is too large.
const ENDING_MAX: Duration = Duration::from_secs(60);

/// What part of the time is kept for ending, between the two.
const ENDING_SHARE: u32 = 5;

/// The time that is kept for the answer.
const ANSWER: Duration = Duration::from_millis(500);

/// A call and its time.
#[derive(Clone, Debug)]
pub struct Call {
    /// The id that Lambda gave it.
    pub request_id: String,
    /// When nothing new is begun any more; `None`: there is no hurry.
    pub until: Option<Instant>,
    /// When what still runs is left as it is, so that the answer is in time.
    pub end: Option<Instant>,
}

impl Call {
    /// A call that may take as long as it likes.
    pub fn without_deadline(request_id: impl Into<String>) -> Self {
        Self { request_id: request_id.into(), until: None, end: None }
    }

    /// A call that Lambda ends at `deadline_ms` (since the epoch); it is `now_us` (in microseconds) now.
    pub fn ends_at(request_id: impl Into<String>, deadline_ms: u64, now_us: i64) -> Self {
        let now_ms = u64::try_from(now_us / 1_000).unwrap_or_default();
        let left = Duration::from_millis(deadline_ms.saturating_sub(now_ms));
        let now = Instant::now();
        Self {
            request_id: request_id.into(),
            until: now.checked_add(left.saturating_sub(ending(left))),
            end: now.checked_add(left.saturating_sub(ANSWER)),
        }
    }

    /// Whether nothing new should be begun.
    pub fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// What `work` gives, or `None` if it does not end in time; it is dropped then.
    pub async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.end {
            None => Some(work.await),
            Some(end) => tokio::time::timeout_at(end.into(), work).await.ok(),
        }
    }
}

/// How much of the time that is left is kept for ending what runs.
fn ending(left: Duration) -> Duration {
    (left / ENDING_SHARE).clamp(ENDING_MIN, ENDING_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_time_is_for_ending_within_bounds() {
        let kept = |seconds| ending(Duration::from_secs(seconds)).as_secs();
        assert_eq!([3, 10, 60, 300, 900].map(kept), [2, 2, 12, 60, 60]);
    }

    #[test]
    fn a_call_without_the_time_to_end_begins_nothing() {
        assert!(Call::ends_at("a", 1_002_000, 1_000_000_000).is_late());
        assert!(!Call::ends_at("a", 1_060_000, 1_000_000_000).is_late());
        assert!(!Call::without_deadline("a").is_late());
        // A deadline that has passed is no reason to panic.
        assert!(Call::ends_at("a", 1, 1_000_000_000).is_late());
    }

    #[tokio::test]
    async fn what_takes_too_long_is_left() {
        let call = Call::ends_at("a", 1_600, 1_000_000);
        assert_eq!(call.in_time(std::future::ready(7)).await, Some(7));
        assert_eq!(call.in_time(std::future::pending::<()>()).await, None);
        assert_eq!(Call::without_deadline("a").in_time(std::future::ready(7)).await, Some(7));
    }
}
