//! Faults by chance, each of a seed: whatever happens, acked is delivered, and nothing is delivered that nobody put.
//!
//! `MALLARD_DEEP=1` tries thousands of seeds. A seed that fails is named by the panic, and meets the same faults again.

use std::collections::{BTreeMap, BTreeSet};
use std::env;

use futures::StreamExt;
use futures::future::join_all;

use super::*;
use crate::delivery::firehose::fake::Seen;

/// How many seeds are tried at a time.
const AT_ONCE: usize = 8;

fn seeds() -> u64 {
    if env::var("MALLARD_DEEP").is_ok_and(|deep| deep == "1") { 2_000 } else { 64 }
}

/// What producers did under one seed.
struct Outcome {
    put: BTreeSet<Bytes>,
    acked: BTreeSet<Bytes>,
    seen: Vec<Seen>,
    kept: BTreeSet<Bytes>,
}

/// One to three producers put calls of random records, under random faults and sometimes a short deadline.
async fn run(fake: &Fake, client: &Client, seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let names = StreamNames::parse(&format!("seed{seed}-{{table}}-{{n}}"), rng.usize(1..3)).unwrap();
    let streams = names.of(&table()).unwrap();
    for stream in &streams {
        fake.plan(stream, Plan { seed: rng.u64(..), percent: rng.u8(0..80), late: Some(LATE) });
    }
    let deadline = if rng.u8(0..4) == 0 { Duration::from_millis(rng.u64(5..50)) } else { PUT_DEADLINE };
    let options = FirehoseOptions { streams: names, deadline, ..impatient() };
    let firehose = Firehose::with_client(client.clone(), options, rng.fork());
    let producers = (0..rng.usize(1..4)).map(|producer| produce(&firehose, producer, rng.fork(), deadline));
    let producers: Vec<_> = producers.collect();

    let mut outcome = Outcome { put: BTreeSet::new(), acked: BTreeSet::new(), seen: Vec::new(), kept: BTreeSet::new() };
    for (put, acked) in join_all(producers).await {
        outcome.put.extend(put);
        outcome.acked.extend(acked);
    }
    firehose.close().await.unwrap();
    for stream in &streams {
        outcome.seen.extend(fake.seen(stream));
        outcome.kept.extend(fake.kept(stream));
    }
    outcome
}

/// What one producer put, and what of it was acked.
async fn produce(firehose: &Firehose, producer: usize, mut rng: Rng, deadline: Duration) -> (Vec<Bytes>, Vec<Bytes>) {
    let (mut put, mut acked) = (Vec::new(), Vec::new());
    for call in 0..rng.usize(1..7) {
        let record = |n: usize, bytes: usize| Bytes::from(format!("{producer}/{call}/{n}/{}", "x".repeat(bytes)));
        let records: Vec<_> = (0..rng.usize(0..13)).map(|n| record(n, rng.usize(0..300))).collect();
        put.extend(records.clone());
        match firehose.put(&table(), records.clone()).await {
            Ok(()) => acked.extend(records),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                assert!(deadline < PUT_DEADLINE, "given up without need: {error}");
            }
        }
    }
    (put, acked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_acked_records_are_delivered_and_no_others_that_nobody_put() {
    let fake = fake().await;
    let client = client_of(fake.address());
    let outcomes = futures::stream::iter(0..seeds()).map(|seed| {
        let (fake, client) = (&fake, &client);
        async move { (seed, run(fake, client, seed).await) }
    });
    let outcomes: BTreeMap<u64, Outcome> = outcomes.buffer_unordered(AT_ONCE).collect().await;
    let (mut faults, mut given_up) = (0, 0);
    for (seed, Outcome { put, acked, seen, kept }) in &outcomes {
        assert!(acked.is_subset(kept), "seed {seed}: acked, but not delivered");
        assert!(kept.is_subset(put), "seed {seed}: delivered, but not put");
        sends_again_only_what_failed(*seed, seen);
        faults += seen.iter().filter(|seen| seen.fault != Fault::None).count();
        given_up += usize::from(acked.len() < put.len());
    }
    // Otherwise it showed nothing.
    assert!(faults > outcomes.len(), "{faults} faults");
    assert!(given_up > 0, "no put was given up");
}

/// A record that was taken, and told to be, is not sent again.
fn sends_again_only_what_failed(seed: u64, seen: &[Seen]) {
    let mut told = BTreeSet::new();
    for call in seen {
        for record in &call.records {
            assert!(!told.contains(record), "seed {seed}: {record:?} was sent again");
        }
        if call.fault.is_told() {
            let taken = call.records.iter().zip(&call.taken).filter(|(_, taken)| **taken);
            told.extend(taken.map(|(record, _)| record.clone()));
        }
    }
}

#[tokio::test]
async fn the_same_seed_makes_the_same_calls_meet_the_same_faults() {
    async fn trace(seed: u64) -> Vec<Seen> {
        let fake = fake().await;
        // No answer is late: when that is noticed depends on the machine.
        fake.plan(STREAM, Plan { seed, percent: 60, late: None });
        let firehose = over(&fake, options());
        for call in 0..20 {
            firehose.put(&table(), records(call * 10..call * 10 + 10)).await.unwrap();
        }
        fake.seen(STREAM)
    }
    for seed in 0..4 {
        let first = trace(seed).await;
        assert_eq!(first, trace(seed).await, "seed {seed}");
        assert_ne!(first, trace(seed + 100).await, "seed {seed}");
    }
}

#[test]
fn a_plan_has_faults_of_each_kind() {
    let plan = Plan { seed: 1, percent: 50, late: Some(LATE) };
    let faults: Vec<_> = (0..2_000).map(|call| plan.fault(call, 3)).collect();
    let kinds: BTreeSet<_> = faults.iter().map(std::mem::discriminant).map(|d| format!("{d:?}")).collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    let none = faults.iter().filter(|fault| **fault == Fault::None).count();
    assert!((800..1_200).contains(&none), "{none} of 2,000 calls go well");
}
