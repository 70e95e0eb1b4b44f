use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::*;

/// A merger with faults: objects that fail, each with a kind, and how many a merge takes before its time is over.
#[derive(Default)]
struct Faulty {
    faults: BTreeMap<&'static str, Kind>,
    commits_max: Option<usize>,
    quarantine_is_down: bool,
    is_stuck: bool,
    merged: Mutex<Vec<String>>,
    quarantined: Mutex<Vec<String>>,
}

#[async_trait]
impl Merging for Faulty {
    async fn attempt(&self, _: &Name, objects: &[BronzeObject], _: Option<Instant>) -> Result<Outcome> {
        if self.is_stuck {
            std::future::pending::<()>().await;
        }
        if let Some(kind) = objects.iter().find_map(|object| self.faults.get(object.key.as_str())) {
            return Err(Error::new(*kind, "broken"));
        }
        let taken = objects.iter().take(self.commits_max.unwrap_or(usize::MAX));
        let done: Vec<String> = taken.map(|object| object.key.clone()).collect();
        self.merged.lock().unwrap().extend(done.iter().cloned());
        Ok(Outcome { version: Some(1), done, ..Outcome::default() })
    }

    async fn give_up(&self, _: &Name, object: &BronzeObject, _: &str) -> Result<()> {
        if self.quarantine_is_down {
            return Err(Error::unavailable("storage is down"));
        }
        self.quarantined.lock().unwrap().push(object.key.clone());
        Ok(())
    }
}

fn faulty(faults: &[(&'static str, Kind)]) -> Faulty {
    Faulty { faults: faults.iter().copied().collect(), ..Faulty::default() }
}

fn queued(keys: &[&str], tries: u32) -> Vec<Queued> {
    let object = |key: &&str| BronzeObject { key: (*key).to_owned(), delivered_at_us: 0 };
    keys.iter().map(|key| Queued { object: object(key), tries }).collect()
}

async fn merge(merging: &Faulty, queued: &[Queued]) -> Report {
    merge_all(merging, &Name::new("t").unwrap(), queued, 3, &Call::without_deadline("x")).await
}

fn keys(of: &BTreeSet<String>) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn good_objects_are_one_merge_and_a_repeated_one_is_merged_once() {
    let merging = faulty(&[]);
    let report = merge(&merging, &queued(&["a", "b", "a"], 1)).await;
    assert_eq!(report.outcomes.len(), 1);
    assert_eq!(*merging.merged.lock().unwrap(), ["a", "b"]);
    assert!(report.is_whole(&queued(&["a", "b"], 1)));
}

#[tokio::test]
async fn a_poison_object_comes_again_with_all_behind_it_until_it_was_tried_often_enough() {
    let merging = faulty(&[("b", Kind::Invalid)]);
    let report = merge(&merging, &queued(&["a", "b", "c"], 2)).await;
    assert_eq!(keys(&report.done), ["a"]);
    assert!(report.failure.unwrap().chain().contains("object b can't be merged: broken"));

    let report = merge(&merging, &queued(&["a", "b", "c"], 3)).await;
    assert_eq!(keys(&report.done), ["a", "b", "c"]);
    assert_eq!(report.set_aside, ["b"]);
    assert_eq!(*merging.quarantined.lock().unwrap(), ["b"]);
    assert!(report.failure.is_none());
}

#[tokio::test]
async fn a_poison_object_alone_is_not_tried_twice_in_a_call_and_is_set_aside() {
    let merging = faulty(&[("a", Kind::Internal)]);
    assert!(merge(&merging, &queued(&["a"], 1)).await.failure.is_some());
    assert!(merging.quarantined.lock().unwrap().is_empty());
    assert_eq!(merge(&merging, &queued(&["a"], 3)).await.set_aside, ["a"]);
}

#[tokio::test]
async fn nothing_is_set_aside_for_what_is_not_the_objects_fault() {
    for kind in [Kind::Unavailable, Kind::Conflict, Kind::Exhausted, Kind::Stopped, Kind::NotFound, Kind::Timeout] {
        let merging = faulty(&[("b", kind)]);
        let report = merge(&merging, &queued(&["a", "b"], 99)).await;
        assert!(report.done.is_empty() && report.set_aside.is_empty(), "{kind:?}");
        assert_eq!(report.failure.unwrap().kind(), kind);
        assert!(merging.merged.lock().unwrap().is_empty(), "{kind:?}: all come again, so none is tried alone");
    }
}

#[tokio::test]
async fn an_object_that_quarantine_does_not_take_is_not_done() {
    let merging = Faulty { quarantine_is_down: true, ..faulty(&[("a", Kind::Invalid)]) };
    let report = merge(&merging, &queued(&["a", "b"], 3)).await;
    assert!(report.done.is_empty());
    assert_eq!(report.failure.unwrap().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn what_a_merge_had_no_time_for_is_not_done() {
    let merging = Faulty { commits_max: Some(2), ..Faulty::default() };
    let all = queued(&["a", "b", "c"], 1);
    let report = merge(&merging, &all).await;
    assert_eq!(keys(&report.done), ["a", "b"]);
    assert!(report.failure.is_none() && !report.is_whole(&all));
}

#[tokio::test]
async fn a_call_that_is_late_begins_nothing() {
    let merging = faulty(&[]);
    let call = Call::ends_at("x", 0, 0);
    let report = merge_all(&merging, &Name::new("t").unwrap(), &queued(&["a"], 1), 3, &call).await;
    assert!(report.done.is_empty() && report.failure.is_none());
    assert!(merging.merged.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_merge_that_does_not_end_is_left_so_that_the_answer_is_in_time() {
    let merging = Faulty { is_stuck: true, ..Faulty::default() };
    let end = Instant::now() + Duration::from_millis(50);
    let call = Call { request_id: "x".to_owned(), until: None, end: Some(end) };
    let report = merge_all(&merging, &Name::new("t").unwrap(), &queued(&["a"], 9), 3, &call).await;
    assert_eq!(report.failure.unwrap().kind(), Kind::Timeout);
    assert!(report.done.is_empty() && report.set_aside.is_empty());
}
