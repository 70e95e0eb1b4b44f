//! Puts that are dropped at any of their awaits.

use std::future::poll_fn;
use std::task::Poll;

use super::*;

/// Polls `future` so many times at most, then drops it.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polled == polls => Poll::Ready(None),
        Poll::Pending => {
            polled += 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn a_put_that_is_dropped_at_any_await_loses_nothing_of_others_and_gives_its_turn_back() {
    let (mut dropped, mut finished) = (0, 0);
    for polls in (0..60).chain([usize::MAX]) {
        let fake = fake().await;
        fake.script(STREAM, [Fault::Records(vec![0, 2]), Fault::full(), Fault::Reset, Fault::AnswerLost]);
        let stream = over(&fake, options());
        let table = table();
        let cut = dropped_after(polls, stream.put(&table, records(0..4)));
        let (cut, other) = tokio::join!(cut, stream.put(&table, records(4..8)));
        other.unwrap();
        stream.put(&table, records(8..10)).await.unwrap();
        stream.close().await.unwrap();

        let mut acked = records(4..10);
        match cut {
            Some(outcome) => {
                outcome.unwrap();
                acked.extend(records(0..4));
                finished += 1;
            }
            None => dropped += 1,
        }
        let kept = fake.kept(STREAM);
        assert!(acked.iter().all(|record| kept.contains(record)), "after {polls} polls: {kept:?}");
        assert!(kept.iter().all(|record| records(0..10).contains(record)), "after {polls} polls: {kept:?}");
    }
    assert!(dropped > 0 && finished > 0, "{dropped} dropped, {finished} finished");
}
