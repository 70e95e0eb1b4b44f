//! Pace against a simulated stream: no clock, no chance but the seed.

use fastrand::Rng;
use proptest::prelude::*;

use super::*;
use crate::delivery::RECORD_BYTES_MAX;

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };

const MIB: usize = 1024 * 1024;

/// A stream that takes `quota` bytes a second, and may be ahead by one second's worth.
struct Stream {
    quota: f64,
    tokens: f64,
    at: Instant,
}

impl Stream {
    /// How many of `count` records of `bytes` it takes at `now`.
    fn take(&mut self, now: Instant, count: usize, bytes: usize) -> usize {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * self.quota;
        self.tokens = (self.tokens + grown).min(self.quota.max(bytes as f64));
        self.at = now;
        let taken = count.min((self.tokens / bytes as f64) as usize);
        self.tokens -= (taken * bytes) as f64;
        taken
    }
}

/// What came of a minute of sending as fast as the pace allows, the first ten seconds left out.
struct Minute {
    /// Bytes that the stream took, as a part of its quota.
    used: f64,
    /// Bytes sent for each byte taken.
    sent: f64,
}

fn minute(quota: usize, record: usize, rng: Rng) -> Minute {
    let start = Instant::now();
    let warm = start + Duration::from_secs(10);
    let end = start + Duration::from_secs(60);
    let mut stream = Stream { quota: quota as f64, tokens: quota as f64, at: start };
    let mut pace = Pace::new(BACKOFF, rng);
    let (mut now, mut left, mut taken_bytes, mut sent_bytes) = (start, 0, 0, 0);
    while now < end {
        if left == 0 {
            left = (CALL_BYTES_MAX / record).clamp(1, 500);
        }
        let (begun, sent) = (now, pace.next(now));
        let count = (pace.call_bytes() / record).clamp(1, left);
        let arrived = sent + Duration::from_millis(5) + Duration::from_nanos(4 * (count * record) as u64);
        let taken = stream.take(arrived, count, record);
        now = arrived + Duration::from_millis(5);
        let call = Call { begun, sent, ended: now, bytes: count * record };
        if taken == count {
            pace.taken(call)
        } else {
            pace.full(call, taken * record)
        }
        left -= taken;
        if now > warm {
            taken_bytes += taken * record;
            sent_bytes += count * record;
        }
    }
    Minute { used: taken_bytes as f64 / (50.0 * quota as f64), sent: sent_bytes as f64 / taken_bytes as f64 }
}

#[test]
fn a_quota_is_used_to_the_full_and_little_is_sent_in_vain() {
    for quota in [MIB, 2 * MIB, 5 * MIB, 20 * MIB, 60 * MIB] {
        for record in [5 * 1024, 200 * 1024, RECORD_BYTES_MAX] {
            if quota < 2 * record {
                // One record a second and a stream that saves up no more than one: that is luck.
                continue;
            }
            for seed in 0..5 {
                let minute = minute(quota, record, Rng::with_seed(seed));
                let case = format!("{quota} B/s, records of {record}, seed {seed}");
                assert!(minute.used >= 0.95, "{case}: {:.3} of the quota", minute.used);
                assert!(minute.sent <= 1.5, "{case}: {:.2} bytes sent a byte taken", minute.sent);
            }
        }
    }
}

fn call(at: Instant, bytes: usize) -> Call {
    Call { begun: at, sent: at, ended: at + Duration::from_millis(10), bytes }
}

#[test]
fn a_stream_that_was_never_full_is_not_slowed_down() {
    let mut pace = Pace::new(BACKOFF, Rng::with_seed(1));
    let now = Instant::now();
    for _ in 0..100 {
        assert_eq!(pace.call_bytes(), CALL_BYTES_MAX);
        assert_eq!(pace.next(now), now);
        pace.taken(call(now, CALL_BYTES_MAX));
    }
}

#[test]
fn a_stream_that_takes_all_again_is_soon_given_all() {
    let mut pace = Pace::new(BACKOFF, Rng::with_seed(1));
    let mut now = Instant::now();
    pace.full(call(now, CALL_BYTES_MAX), 1);
    assert!(pace.call_bytes() < MIB);
    let started = now;
    while pace.call_bytes() < CALL_BYTES_MAX {
        now = pace.next(now);
        pace.taken(call(now, pace.call_bytes()));
        now += Duration::from_millis(10);
    }
    assert!(now - started < Duration::from_secs(30), "{:?} of simulated time", now - started);
}

#[test]
fn calls_that_come_too_late_shrink_and_grow_back() {
    let mut pace = Pace::new(BACKOFF, Rng::with_seed(1));
    let now = Instant::now();
    for _ in 0..100 {
        pace.failed(call(now, pace.call_bytes()), 0, true);
    }
    assert_eq!(pace.call_bytes(), 1);
    for _ in 0..100 {
        pace.taken(call(now, 1));
    }
    assert_eq!(pace.call_bytes(), CALL_BYTES_MAX);
}

#[test]
fn a_record_that_was_taken_ends_the_doubling_of_waits() {
    let mut pace = Pace::new(BACKOFF, Rng::with_seed(1));
    let now = Instant::now();
    for _ in 0..10 {
        pace.failed(call(now, 1_000), 0, false);
    }
    pace.failed(call(now, 1_000), 500, false);
    let ended = call(now, 1_000).ended;
    assert!(pace.next(now) <= ended + BACKOFF.first);
}

proptest! {
    #[test]
    fn waits_stay_below_a_ceiling_that_doubles_up_to_the_cap(failures in 1_u32.., seed in any::<u64>()) {
        let wait = BACKOFF.wait(failures, &mut Rng::with_seed(seed));
        let doubled = BACKOFF.first.saturating_mul(2_u32.saturating_pow(failures - 1));
        prop_assert!(wait <= doubled.min(BACKOFF.most));
    }

    #[test]
    fn no_history_makes_a_pace_panic_or_stop(
        calls in prop::collection::vec((0_u8..4, 0_usize..=CALL_BYTES_MAX, 0_u64..100_000), 0..200),
        seed in any::<u64>(),
    ) {
        let mut pace = Pace::new(BACKOFF, Rng::with_seed(seed));
        let mut now = Instant::now();
        for (kind, bytes, took_ms) in calls {
            let sent = pace.next(now);
            prop_assert!(sent - now <= BACKOFF.most.max(PACE_WAIT_MAX));
            prop_assert!(pace.call_bytes() > 0);
            let ended = sent + Duration::from_millis(took_ms);
            let call = Call { begun: now, sent, ended, bytes };
            match kind {
                0 => pace.taken(call),
                1 => pace.full(call, bytes / 3),
                2 => pace.full(call, 0),
                _ => pace.failed(call, 0, took_ms > 15_000),
            }
            now = ended;
        }
    }

    #[test]
    fn waits_are_drawn_from_all_of_their_range(seed in any::<u64>()) {
        let mut rng = Rng::with_seed(seed);
        let waits: Vec<_> = (0..200).map(|_| BACKOFF.wait(20, &mut rng)).collect();
        prop_assert!(waits.iter().any(|wait| *wait < BACKOFF.most / 4));
        prop_assert!(waits.iter().any(|wait| *wait > BACKOFF.most * 3 / 4));
    }
}
