//! How many queries run at once, and in which order the others wait: round robin over who asks (a user's connection),
//! first come first served within one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakehouse::{Error, Kind, Result};
use tokio::sync::oneshot;

/// When a client that was refused should try again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How many queries run and wait.
#[derive(Clone, Debug)]
pub struct AdmissionOptions {
    /// The most that run at once.
    pub running_max: usize,
    /// The most that wait.
    pub waiting_max: usize,
    /// The longest that one waits.
    pub wait_max: Duration,
}

/// Lets queries in.
pub(super) struct Admission {
    options: AdmissionOptions,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: usize,
    /// Who waits, whose turn is next first.
    turns: VecDeque<String>,
    queues: BTreeMap<String, VecDeque<oneshot::Sender<Permit>>>,
}

/// A place among the running queries; given back when dropped.
pub(super) struct Permit(Option<Arc<Mutex<State>>>);

impl Admission {
    pub(super) fn new(options: AdmissionOptions) -> Self {
        Self { options, state: Arc::default() }
    }

    /// Waits for a place. Dropping the future leaves the queue.
    pub(super) async fn enter(&self, who: &str) -> Result<Permit> {
        let turn = {
            let mut state = lock(&self.state);
            if state.running < self.options.running_max && state.waiting == 0 {
                state.running += 1;
                return Ok(Permit(Some(Arc::clone(&self.state))));
            }
            state.forget_the_gone();
            if state.waiting >= self.options.waiting_max {
                return Err(Error::new(
                    Kind::Exhausted,
                    format!(
                        "{} queries run and {} wait, which is as many as this server takes; try again soon",
                        state.running, state.waiting
                    ),
                )
                .retry_after(RETRY_AFTER));
            }
            let turn = state.queue(who);
            // A place may have become free while those that waited for it went away.
            state.fill(&self.state, self.options.running_max);
            turn
        };
        match tokio::time::timeout(self.options.wait_max, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::unavailable("the server is stopping; try again elsewhere, or later")),
            Err(_) => Err(Error::unavailable(format!(
                "the query waited {} s for its turn; try again later",
                self.options.wait_max.as_secs_f64()
            ))
            .retry_after(RETRY_AFTER)),
        }
    }
}

impl State {
    fn queue(&mut self, who: &str) -> oneshot::Receiver<Permit> {
        let (sender, receiver) = oneshot::channel();
        let queue = self.queues.entry(who.to_owned()).or_default();
        if queue.is_empty() {
            self.turns.push_back(who.to_owned());
        }
        queue.push_back(sender);
        self.waiting += 1;
        receiver
    }

    /// Those whose futures were dropped wait no more.
    fn forget_the_gone(&mut self) {
        let Self { waiting, queues, turns, .. } = self;
        queues.retain(|_, queue| {
            let before = queue.len();
            queue.retain(|sender| !sender.is_closed());
            *waiting -= before - queue.len();
            !queue.is_empty()
        });
        turns.retain(|who| queues.contains_key(who));
    }

    /// Takes who is next out of the queue.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let who = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&who)?;
        let sender = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&who);
        } else {
            self.turns.push_back(who);
        }
        self.waiting -= usize::from(sender.is_some());
        sender
    }

    /// Gives free places to those that wait.
    fn fill(&mut self, shared: &Arc<Mutex<Self>>, running_max: usize) {
        while self.running < running_max {
            let Some(sender) = self.next() else { return };
            match sender.send(Permit(Some(Arc::clone(shared)))) {
                Ok(()) => self.running += 1,
                // Gone meanwhile: its permit must not come back as a place.
                Err(mut permit) => permit.0 = None,
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut state = lock(&shared);
        state.running -= 1;
        let running_max = state.running + 1;
        state.fill(&shared, running_max);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn admission(running_max: usize, waiting_max: usize) -> Arc<Admission> {
        Arc::new(Admission::new(AdmissionOptions { running_max, waiting_max, wait_max: Duration::from_secs(60) }))
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
        let admission = admission(1, 1);
        let running = admission.enter("a").await.unwrap();
        let mut waiting = Box::pin(admission.enter("a"));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        let Err(refused) = admission.enter("b").await else { panic!("let in") };
        assert_eq!((refused.kind(), refused.retry_hint()), (Kind::Exhausted, Some(RETRY_AFTER)));
        drop(running);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_so_and_leaves_its_place() {
        let wait_max = Duration::from_millis(100);
        let admission = Admission::new(AdmissionOptions { running_max: 1, waiting_max: 1, wait_max });
        let running = admission.enter("a").await.unwrap();
        let Err(late) = admission.enter("a").await else { panic!("let in") };
        assert_eq!((late.kind(), late.retry_hint()), (Kind::Unavailable, Some(RETRY_AFTER)));
        let mut waiting = Box::pin(admission.enter("a"));
        assert!(futures::poll!(waiting.as_mut()).is_pending(), "the place in the queue is free again");
        drop(running);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn one_who_asks_much_does_not_hold_up_the_others() {
        let admission = admission(1, 100);
        let running = admission.enter("greedy").await.unwrap();
        let (order, mut waiting) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
        for who in ["greedy", "greedy", "greedy", "modest"] {
            let (admission, order) = (Arc::clone(&admission), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _permit = admission.enter(who).await.unwrap();
                order.lock().unwrap().push(who);
            }));
            tokio::task::yield_now().await;
        }
        drop(running);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["greedy", "modest", "greedy", "greedy"]);
    }

    /// One who is inside; counted until dropped.
    struct Inside(Arc<AtomicUsize>);

    impl Drop for Inside {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_place_is_lost_or_given_twice_whoever_gives_up() {
        let admission = admission(3, 1_000);
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..500_u64).map(|n| {
            let (admission, inside, most) = (Arc::clone(&admission), Arc::clone(&inside), Arc::clone(&most));
            tokio::spawn(async move {
                let visit = async {
                    let _permit = admission.enter(["a", "b", "c"][n as usize % 3]).await.unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let _inside = Inside(inside);
                    tokio::time::sleep(Duration::from_micros(n * 7919 % 400)).await;
                };
                // A third of them give up, while they wait or when they are inside.
                let patience = if n % 3 == 0 { Duration::from_micros(n * 104_729 % 3_000) } else { Duration::MAX };
                let _ = tokio::time::timeout(patience, visit).await;
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            tokio::time::timeout(Duration::from_secs(30), task).await.expect("a place was lost").unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 3, "a place was given twice");
        let places = [admission.enter("x").await, admission.enter("x").await, admission.enter("x").await];
        assert!(places.iter().all(Result::is_ok), "all places are free again");
    }
}
