//! What a call's time does to a merge; the search for poison objects is tested where it is.

use std::sync::Mutex;
use std::time::Duration;

use super::*;

/// A merger that is too slow for one object.
#[derive(Default)]
struct Slow {
    endless: Option<&'static str>,
    attempts: Mutex<Vec<usize>>,
    quarantined: Mutex<Vec<String>>,
}

#[async_trait]
impl Merging for Slow {
    async fn attempt(&self, _: &Name, objects: &[BronzeObject], _: Option<Instant>) -> Result<Outcome> {
        self.attempts.lock().unwrap().push(objects.len());
        if objects.iter().any(|object| self.endless == Some(object.key.as_str())) {
            std::future::pending::<()>().await;
        }
        let done = objects.iter().map(|object| object.key.clone()).collect();
        Ok(Outcome { version: Some(1), done, ..Outcome::default() })
    }

    async fn give_up(&self, _: &Name, object: &BronzeObject, _: &str) -> Result<()> {
        self.quarantined.lock().unwrap().push(object.key.clone());
        Ok(())
    }
}

fn queued(keys: &[&str], tries: u32) -> Vec<Queued> {
    let object = |key: &&str| BronzeObject { key: (*key).to_owned(), delivered_at_us: 0 };
    keys.iter().map(|key| Queued { object: object(key), tries }).collect()
}

async fn merge(merging: &Slow, queued: &[Queued], call: &Call) -> Report {
    merge_all(merging, &Name::new("t").unwrap(), queued, 3, call).await
}

/// A call with so many milliseconds for work, and again as many until its answer.
fn call(ms: u64) -> Call {
    let until = Instant::now() + Duration::from_millis(ms);
    Call { request_id: "x".to_owned(), until: Some(until), end: Some(until + Duration::from_millis(ms)) }
}

#[tokio::test]
async fn a_call_without_a_deadline_merges_all() {
    let (merging, all) = (Slow::default(), queued(&["a", "b"], 1));
    let report = merge(&merging, &all, &Call::without_deadline("x")).await;
    assert!(report.is_whole(&all) && report.failure.is_none());
    assert_eq!(*merging.attempts.lock().unwrap(), [2]);
}

#[tokio::test]
async fn a_call_that_is_late_begins_nothing() {
    let merging = Slow::default();
    let report = merge(&merging, &queued(&["a"], 1), &Call::ends_at("x", 0, 0)).await;
    assert!(report.done.is_empty() && report.failure.is_none());
    assert!(merging.attempts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_merge_that_does_not_end_is_left_so_that_the_answer_is_in_time() {
    let merging = Slow { endless: Some("b"), ..Slow::default() };
    for tries in [1, 3] {
        let report = merge(&merging, &queued(&["a", "b"], tries), &call(50)).await;
        assert_eq!(report.failure.unwrap().kind(), Kind::Timeout);
        assert!(report.done.is_empty() && report.set_aside.is_empty());
    }
    assert_eq!(*merging.attempts.lock().unwrap(), [2, 2], "there is no time left for halves");
}

#[tokio::test]
async fn an_object_that_never_ends_in_time_is_found_over_some_calls_and_set_aside() {
    let merging = Slow { endless: Some("b"), ..Slow::default() };
    let report = merge(&merging, &queued(&["a", "b", "c"], 4), &call(50)).await;
    assert!(report.done.contains("a") && report.set_aside.is_empty(), "each is tried alone now");
    assert_eq!(report.failure.unwrap().kind(), Kind::Timeout);

    let report = merge(&merging, &queued(&["b", "c"], 6), &call(50)).await;
    assert_eq!(report.set_aside, ["b"]);
    assert_eq!(*merging.quarantined.lock().unwrap(), ["b"]);

    let report = merge(&merging, &queued(&["c"], 7), &call(50)).await;
    assert!(report.done.contains("c") && report.failure.is_none());
}
