//! How much a call to a delivery stream carries, and when it is made: pure, time and chance come from outside.
//!
//! A stream that is not full is given what there is, in calls as large as they may be. Once it says that it is full,
//! what it took since it last said so, over the time that this took, is the rate of its quota. From then on calls are
//! spread over time at a little less than that, each with [`SLICE`] worth of bytes; every call that is taken whole
//! raises the rate, first slowly, then faster, until the stream is full again:
//!
//! ```text
//!  rate     full                 full            full
//!   ▲        │      ..·''         │      ..·''    │
//!   │  ┄┄┄┄┄┄┼─..·'┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┼─..·'┄┄┄┄┄┄┄┄┄┄┼┄┄┄  the quota
//!   └────────┴────────────────────┴───────────────┴────► time
//! ```
//!
//! So a quota is used to the full, a record is seldom sent in vain, and a quota that was raised is found within seconds.
//! Where nothing is taken at all, waits double up to a cap, each drawn anew from zero to its ceiling (full jitter), so
//! that servers that were refused together don't come back together.

#[cfg(test)]
mod tests;

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::delivery::CALL_BYTES_MAX;

/// How much of a second one call carries of a stream that was full. A stream's quota is counted by the second, so
/// several calls share one.
pub(super) const SLICE: Duration = Duration::from_millis(250);

/// The longest that a call waits for the sake of its stream's rate. A wrong rate costs no more than this a call.
pub(super) const PACE_WAIT_MAX: Duration = Duration::from_secs(1);

/// The least time over which a known rate is measured anew: in less, what one record more or less makes is too much.
const MEASURE_MIN: Duration = Duration::from_millis(500);

/// The lowest rate, in bytes a second: a quarter of the smallest default quota of a stream, 1 MiB/s
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>). What little traffic measured is no quota.
const RATE_MIN: f64 = 256.0 * 1024.0;

/// The highest rate, in bytes a second: more than any network gives.
const RATE_MAX: f64 = 1e11;

/// The part of the measured rate with which to go on.
const CUT: f64 = 0.97;

/// By which part the rate rises for a second's worth of bytes, at first; after n such seconds, by 1 + n times as much.
const RISE: f64 = 0.03;

/// By which part one call raises the rate at most.
const RISE_MAX: f64 = 0.5;

/// How waits grow while nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    /// The ceiling of the first wait.
    pub(super) first: Duration,
    /// The highest ceiling.
    pub(super) most: Duration,
}

impl Backoff {
    /// The wait after the `failures`th failure in a row, counted from 1.
    pub(super) fn wait(self, failures: u32, rng: &mut Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most).mul_f64(rng.f64())
    }
}

/// A call that was answered, or given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// When there was something to send; from then on the stream is what is waited for.
    pub(super) begun: Instant,
    /// When it was sent.
    pub(super) sent: Instant,
    /// When its outcome was known.
    pub(super) ended: Instant,
    /// The bytes that it carried.
    pub(super) bytes: usize,
}

/// What a stream has shown of itself, and what follows from that for the next call.
#[derive(Debug)]
pub(super) struct Pace {
    backoff: Backoff,
    rng: Rng,
    /// The next call is made no sooner.
    next: Option<Instant>,
    /// In bytes a second; none as long as the stream was never full.
    rate: Option<f64>,
    /// The bytes taken since the rate was last measured.
    taken_bytes: u64,
    /// The time spent on the stream since then; time in which there was nothing to send is none of it.
    busy: Duration,
    /// Seconds' worth of bytes that were taken at the rate since then.
    clean_seconds: f64,
    /// How often nothing was taken, in a row.
    failures: u32,
    /// Smaller where the network is too slow for large calls.
    call_bytes_max: usize,
}

impl Pace {
    pub(super) fn new(backoff: Backoff, rng: Rng) -> Self {
        Self {
            backoff,
            rng,
            next: None,
            rate: None,
            taken_bytes: 0,
            busy: Duration::ZERO,
            clean_seconds: 0.0,
            failures: 0,
            call_bytes_max: CALL_BYTES_MAX,
        }
    }

    /// The most bytes of the next call; one record is sent even if it has more.
    pub(super) fn call_bytes(&self) -> usize {
        // A float that is too large for an integer becomes the largest one.
        let slice = self.rate.map_or(usize::MAX, |rate| (rate * SLICE.as_secs_f64()) as usize);
        slice.min(self.call_bytes_max)
    }

    /// When the next call may be made, seen from `now`.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.next.map_or(now, |next| next.max(now))
    }

    /// The stream took all of a call.
    pub(super) fn taken(&mut self, call: Call) {
        self.count(call, call.bytes);
        self.call_bytes_max = self.call_bytes_max.saturating_mul(2).min(CALL_BYTES_MAX);
        let Some(rate) = self.rate else { return };
        let seconds = call.bytes as f64 / rate;
        self.clean_seconds += seconds;
        let rise = (RISE * seconds * (1.0 + self.clean_seconds)).min(RISE_MAX);
        self.rate = Some((rate * (1.0 + rise)).min(RATE_MAX));
        let pause = Duration::from_secs_f64(seconds.min(PACE_WAIT_MAX.as_secs_f64()));
        let due = self.next(call.sent) + pause;
        self.next = Some(due.min(call.sent + PACE_WAIT_MAX));
    }

    /// The stream was full: it took `taken` bytes of a call.
    pub(super) fn full(&mut self, call: Call, taken: usize) {
        self.count(call, taken);
        self.measure();
        let wait = match self.rate {
            Some(rate) if self.failures <= 1 => {
                let missing = call.bytes.saturating_sub(taken).min(self.call_bytes()) as f64;
                let seconds = missing / rate * (1.0 + self.rng.f64() / 4.0);
                Duration::from_secs_f64(seconds.min(PACE_WAIT_MAX.as_secs_f64() / 2.0))
            }
            _ => self.backoff.wait(self.failures.max(1), &mut self.rng),
        };
        self.next = Some(call.ended + wait);
    }

    /// A call went wrong for another reason, with `taken` bytes taken for certain; `late`: it took too long.
    pub(super) fn failed(&mut self, call: Call, taken: usize, late: bool) {
        self.count(call, taken);
        if late {
            self.call_bytes_max = (self.call_bytes_max / 2).max(1);
        }
        self.next = Some(call.ended + self.backoff.wait(self.failures.max(1), &mut self.rng));
    }

    fn count(&mut self, call: Call, taken: usize) {
        self.taken_bytes += taken as u64;
        self.busy += call.ended.saturating_duration_since(call.begun);
        self.failures = if taken > 0 { 0 } else { self.failures.saturating_add(1) };
    }

    /// Takes what was taken since the stream was last full for its quota.
    fn measure(&mut self) {
        self.clean_seconds = 0.0;
        let is_enough = self.busy >= MEASURE_MIN || (self.rate.is_none() && !self.busy.is_zero());
        if self.taken_bytes == 0 || !is_enough {
            return;
        }
        let measured = self.taken_bytes as f64 / self.busy.as_secs_f64();
        self.rate = Some((measured * CUT).clamp(RATE_MIN, RATE_MAX));
        self.taken_bytes = 0;
        self.busy = Duration::ZERO;
    }
}
