//! The contract over a fake that behaves and one that does not, and what the contract can't see: calls, errors, waits.

mod cancelled;
mod errors;
mod faults;

use std::net::Ipv4Addr;
use std::pin::pin;

use tokio::net::TcpListener;

use super::fake::{Fake, FakeOptions, Fault, Plan};
use super::service::client_of;
use super::*;
use crate::delivery::contract::{self, Subject};

/// The stream of the table below.
const STREAM: &str = "mallard-flights";

/// Longer than an answer takes on a busy machine; an answer that is later than this is lost.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than that.
const LATE: Duration = Duration::from_secs(10);

fn table() -> Name {
    "flights".parse().unwrap()
}

/// Goes on at once where a real one would wait.
fn options() -> FirehoseOptions {
    FirehoseOptions {
        backoff_first: Duration::from_millis(1),
        backoff_most: Duration::from_millis(8),
        ..FirehoseOptions::new(StreamNames::parse("mallard-{table}", 1).unwrap())
    }
}

/// Takes no late answers.
fn impatient() -> FirehoseOptions {
    FirehoseOptions { call_timeout: TIMEOUT, ..options() }
}

async fn fake_with(options: FakeOptions) -> Fake {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    Fake::start(listener, FakeOptions { keep: true, ..options }).unwrap()
}

async fn fake() -> Fake {
    fake_with(FakeOptions::default()).await
}

fn over(fake: &Fake, options: FirehoseOptions) -> Firehose {
    Firehose::with_client(client_of(fake.address()), options, Rng::with_seed(1))
}

fn records(numbers: impl IntoIterator<Item = usize>) -> Vec<Bytes> {
    numbers.into_iter().map(|number| Bytes::from(format!("record {number}"))).collect()
}

async fn subject(plan: Option<Plan>) -> Subject {
    let fake = fake_with(FakeOptions { streams: Some(vec![STREAM.to_owned()]), ..FakeOptions::default() }).await;
    let faulty = plan.is_some();
    if let Some(plan) = plan {
        fake.plan(STREAM, plan);
    }
    let stream = Arc::new(over(&fake, if faulty { impatient() } else { options() }));
    Subject { stream, table: table(), bronze: Box::new(move || fake.kept(STREAM)), faulty }
}

macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod behaved {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                contract::$name(subject(None).await).await;
            })+
        }

        mod faulty {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                for seed in 0..4 {
                    contract::$name(subject(Some(Plan { seed, percent: 40, late: Some(LATE) })).await).await;
                }
            })+
        }
    };
}

contract!(
    an_empty_put_delivers_nothing,
    the_order_of_a_producer_is_kept,
    what_is_over_a_limit_is_refused_and_what_meets_it_is_kept,
    a_closed_stream_refuses_and_can_be_closed_again,
    what_concurrent_producers_were_acked_is_in_bronze_after_a_close,
);

/// Only over one that behaves: whether a stream exists is known by an answer, and the first answer may be another.
#[tokio::test]
async fn a_table_that_is_not_carried_is_refused() {
    contract::a_table_that_is_not_carried_is_refused(subject(None).await).await;
}

#[tokio::test]
async fn only_the_failed_positions_are_sent_again_and_first() {
    let fake = fake().await;
    fake.script(STREAM, [Fault::Records(vec![1, 3]), Fault::Records(vec![0]), Fault::None]);
    let stream = over(&fake, options());
    stream.put(&table(), records(0..5)).await.unwrap();
    let sent: Vec<_> = fake.seen(STREAM).into_iter().map(|seen| seen.records).collect();
    assert_eq!(sent, [records(0..5), records([1, 3]), records([1])]);
    assert_eq!(fake.kept(STREAM), records([0, 2, 4, 3, 1]));
    let bytes = records(0..5).iter().map(Bytes::len).sum::<usize>() as u64;
    let stats = FirehoseStats { records: 5, bytes, billed_bytes: 5 * 5_120, calls: 3, resent_records: 3, throttles: 2 };
    assert_eq!(stream.stats(), stats);
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_made_again() {
    for fault in [Fault::AnswerLost, Fault::AnswerLate(LATE), Fault::BrokenAfter] {
        let fake = fake().await;
        fake.script(STREAM, [fault]);
        let stream = over(&fake, impatient());
        stream.put(&table(), records(0..3)).await.unwrap();
        assert_eq!(fake.kept(STREAM), records([0, 1, 2, 0, 1, 2]));
        assert_eq!(stream.stats().records, 3);
    }
}

#[tokio::test]
async fn a_call_that_did_not_arrive_is_made_again() {
    for fault in [Fault::Reset, Fault::full(), Fault::broken()] {
        let fake = fake().await;
        fake.script(STREAM, [fault]);
        over(&fake, options()).put(&table(), records(0..3)).await.unwrap();
        assert_eq!(fake.kept(STREAM), records(0..3));
    }
}

#[tokio::test]
async fn a_stream_over_its_quota_takes_all_in_the_end() {
    let fake = fake_with(FakeOptions { quota_bytes_per_second: Some(4 << 20), ..FakeOptions::default() }).await;
    let waits = FirehoseOptions { backoff_first: BACKOFF_FIRST, backoff_most: BACKOFF_MOST, ..options() };
    let stream = over(&fake, waits);
    // Three seconds' worth, of which one is there at once.
    let large: Vec<_> = (0..12).map(|n| Bytes::from(vec![n; 1_000 * 1024])).collect();
    for call in large.chunks(4) {
        stream.put(&table(), call.to_vec()).await.unwrap();
    }
    assert_eq!(fake.kept(STREAM), large);
    assert!(stream.stats().throttles > 0);
    // Tries one after the other would be hundreds.
    assert!(fake.stats().refused_records <= 60, "{:?}", fake.stats());
}

#[tokio::test]
async fn a_tables_streams_share_its_puts() {
    let fake = fake().await;
    let streams = StreamNames::parse("{table}.{n}", 3).unwrap();
    let stream = over(&fake, FirehoseOptions { streams, ..options() });
    assert_eq!(stream.calls_at_once(&table()), 3);
    for n in 0..6 {
        stream.put(&table(), records([n])).await.unwrap();
    }
    for n in 0..3 {
        assert_eq!(fake.kept(&format!("flights.{n}")), records([n, n + 3]));
    }
}

#[tokio::test]
async fn a_put_passes_by_a_stream_that_is_stuck() {
    let fake = fake().await;
    fake.script("flights.0", [Fault::Slow(Duration::from_secs(3_600))]);
    let streams = StreamNames::parse("{table}.{n}", 2).unwrap();
    let stream = over(&fake, FirehoseOptions { streams, ..options() });
    let table = table();
    let stuck = stream.put(&table, records([0]));
    let others = async {
        for n in 1..5 {
            stream.put(&table, records([n])).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        outcome = stuck => panic!("it is not stuck: {outcome:?}"),
        () = others => {}
    }
    assert_eq!(fake.kept("flights.1"), records(1..5));
}

#[tokio::test]
async fn a_stream_has_one_call_under_way_at_a_time_and_puts_take_turns() {
    let fake = fake().await;
    let slow = Fault::Slow(Duration::from_millis(20));
    fake.script(STREAM, [slow.clone(), slow.clone(), slow]);
    let stream = over(&fake, options());
    let table = table();
    let puts = (0..10).map(|n| stream.put(&table, records([n])));
    for outcome in futures::future::join_all(puts).await {
        outcome.unwrap();
    }
    assert_eq!(fake.kept(STREAM), records(0..10));
}

#[tokio::test]
async fn a_close_waits_for_puts_under_way() {
    let fake = fake().await;
    fake.script(STREAM, [Fault::Slow(Duration::from_millis(200))]);
    let stream = Arc::new(over(&fake, options()));
    let put = tokio::spawn({
        let stream = stream.clone();
        async move { stream.put(&table(), records(0..3)).await }
    });
    while stream.stats().calls == 0 {
        tokio::task::yield_now().await;
    }
    stream.close().await.unwrap();
    assert_eq!(fake.kept(STREAM), records(0..3));
    put.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_close_that_waits_in_vain_says_so() {
    let fake = fake().await;
    fake.stall(Duration::from_secs(3_600));
    let stream = over(&fake, FirehoseOptions { deadline: Duration::from_millis(200), ..options() });
    let table = table();
    // It is begun, and never gets on.
    let mut put = pin!(stream.put(&table, records(0..3)));
    assert!(futures::poll!(put.as_mut()).is_pending());
    let refusal = stream.close().await.unwrap_err();
    assert_eq!(refusal.kind(), Kind::Unavailable);
    assert!(refusal.to_string().contains("1 puts"), "{refusal}");
}
