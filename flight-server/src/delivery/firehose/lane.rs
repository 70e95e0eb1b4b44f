//! A lane: the way to one delivery stream, with at most one call under way.
//!
//! Puts take turns, in the order in which they came, so the records of a producer that waits for its answers arrive in
//! its order as long as nothing fails. A put has the lane until all its records are taken, or it gives up; what it
//! waits for, the others wait for as well, and so their producers: this is how a full stream slows them down.
//!
//! A put that is dropped gives its turn back. A call that it had under way may still land; nobody was told so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lakehouse::{Error, Result};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Counters;
use super::load::{Load, Taken};
use super::pace::{Call, Pace};
use super::service::Service;

/// What the service made of a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// It took every record.
    Taken,
    /// The records at the positions `failed`, which ascend, were not taken, or nobody knows.
    Failed { failed: Vec<usize>, trouble: Trouble, reason: String },
    /// It will take none of them, however often it is asked.
    Refused(Error),
}

/// Why records may not have been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The stream has its fill for now.
    Full,
    /// Something broke, here, there or between.
    Broken,
    /// No answer came in time.
    Late,
}

/// How long a put may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// When it gives up.
    pub(super) deadline: Instant,
    /// How long that was, from its start.
    pub(super) patience: Duration,
    /// How long one call may take.
    pub(super) call_timeout: Duration,
}

/// The way to one delivery stream.
pub(super) struct Lane {
    stream: String,
    puts: AtomicUsize,
    pace: Mutex<Pace>,
}

/// Counts a put among those of a lane, until it is dropped.
struct Present<'a>(&'a AtomicUsize);

impl Lane {
    pub(super) fn new(stream: String, pace: Pace) -> Self {
        Self { stream, puts: AtomicUsize::new(0), pace: Mutex::new(pace) }
    }

    /// How many puts have the lane, or wait for it.
    pub(super) fn puts(&self) -> usize {
        self.puts.load(Ordering::Relaxed)
    }

    /// Sends `load` until the stream has taken all of it.
    pub(super) async fn put(&self, service: &Service, mut load: Load, terms: Terms, counters: &Counters) -> Result<()> {
        let _present = Present::among(&self.puts);
        let Ok(mut pace) = timeout_at(terms.deadline, self.pace.lock()).await else {
            return Err(self.too_late(&load, terms, "earlier ones were still under way"));
        };
        let mut reason = None;
        while !load.is_empty() {
            let begun = Instant::now();
            let due = pace.next(begun);
            sleep_until(due.min(terms.deadline)).await;
            if due.max(Instant::now()) >= terms.deadline {
                return Err(self.too_late(&load, terms, reason.as_deref().unwrap_or("the stream was full before")));
            }
            let head = load.head(pace.call_bytes());
            let (count, bytes) = (head.records.len(), head.bytes);
            counters.called(head.resent);
            let sent = Instant::now();
            let within = terms.call_timeout.min(terms.deadline.saturating_duration_since(sent));
            let answer = match timeout(within, service.call(&self.stream, head.records)).await {
                Ok(answer) => answer,
                Err(_) => Answer::late(count, within),
            };
            let call = Call { begun, sent, ended: Instant::now(), bytes };
            let (taken, failure) = weigh(answer, count, call, &mut load, &mut pace)?;
            counters.taken(taken);
            if let Some((trouble, why)) = failure {
                counters.troubled(trouble);
                tracing::debug!(stream = %self.stream, ?trouble, %why, left = load.len(), "not all records were taken");
                // A call that the deadline cut short says less than the one before.
                if trouble != Trouble::Late || within == terms.call_timeout || reason.is_none() {
                    reason = Some(why);
                }
            }
        }
        Ok(())
    }

    fn too_late(&self, load: &Load, terms: Terms, reason: &str) -> Error {
        Error::unavailable(format!(
            "delivery stream {:?} did not take {} of {} records within {:?} ({reason}); send them again later, and if \
             that lasts, give the table more streams or raise the stream's quota",
            self.stream,
            load.len(),
            load.put(),
            terms.patience,
        ))
    }
}

/// Takes what was taken off the load, and lets the pace know. Gives also what went wrong.
fn weigh(
    answer: Answer,
    count: usize,
    call: Call,
    load: &mut Load,
    pace: &mut Pace,
) -> Result<(Taken, Option<(Trouble, String)>)> {
    match answer {
        Answer::Taken => {
            pace.taken(call);
            Ok((load.settle(count, &[]), None))
        }
        Answer::Failed { failed, trouble, reason } => {
            let taken = load.settle(count, &failed);
            match trouble {
                Trouble::Full => pace.full(call, taken.bytes),
                Trouble::Broken => pace.failed(call, taken.bytes, false),
                Trouble::Late => pace.failed(call, taken.bytes, true),
            }
            Ok((taken, Some((trouble, reason))))
        }
        Answer::Refused(error) => Err(error),
    }
}

impl Answer {
    /// A call of `count` records of which nothing is known.
    pub(super) fn unknown(count: usize, trouble: Trouble, reason: impl Into<String>) -> Self {
        Self::Failed { failed: (0..count).collect(), trouble, reason: reason.into() }
    }

    fn late(count: usize, within: Duration) -> Self {
        Self::unknown(count, Trouble::Late, format!("no answer came within {within:?}"))
    }
}

impl<'a> Present<'a> {
    fn among(puts: &'a AtomicUsize) -> Self {
        puts.fetch_add(1, Ordering::Relaxed);
        Self(puts)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
