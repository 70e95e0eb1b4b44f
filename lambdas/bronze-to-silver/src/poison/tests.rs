use std::sync::Mutex;
use std::time::Duration;

use super::*;

const TRIES_MAX: u32 = 3;

/// A merger with faults: objects that fail, each with a kind, and how many a merge takes before its time is over.
#[derive(Default)]
struct Faulty {
    faults: BTreeMap<&'static str, Kind>,
    commits_max: Option<usize>,
    quarantine_is_down: bool,
    /// The object whose merge never ends.
    endless: Option<&'static str>,
    attempts: Mutex<Vec<Vec<String>>>,
    quarantined: Mutex<Vec<String>>,
}

#[async_trait]
impl Merging for Faulty {
    async fn attempt(&self, _: &Name, objects: &[BronzeObject], _: Option<Instant>) -> Result<Outcome> {
        let keys: Vec<String> = objects.iter().map(|object| object.key.clone()).collect();
        self.attempts.lock().unwrap().push(keys.clone());
        if keys.iter().any(|key| self.endless == Some(key.as_str())) {
            std::future::pending::<()>().await;
        }
        if let Some(kind) = keys.iter().find_map(|key| self.faults.get(key.as_str())) {
            return Err(Error::new(*kind, "broken"));
        }
        let done = keys.into_iter().take(self.commits_max.unwrap_or(usize::MAX)).collect();
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

impl Faulty {
    fn attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }
}

fn faulty(faults: &[(&'static str, Kind)]) -> Faulty {
    Faulty { faults: faults.iter().copied().collect(), ..Faulty::default() }
}

fn queued(keys: &[&str], tries: u32) -> Vec<Queued> {
    let object = |key: &&str| BronzeObject { key: (*key).to_owned(), delivered_at_us: 0 };
    keys.iter().map(|key| Queued { object: object(key), tries }).collect()
}

async fn merge_until(merging: &Faulty, queued: &[Queued], until: Option<Instant>) -> Report {
    merge_around(merging, &Name::new("t").unwrap(), queued, TRIES_MAX, until).await
}

async fn merge(merging: &Faulty, queued: &[Queued]) -> Report {
    merge_until(merging, queued, None).await
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(50))
}

fn keys(of: &BTreeSet<String>) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn good_objects_are_one_merge_and_a_repeated_one_is_merged_once() {
    let merging = faulty(&[]);
    let report = merge(&merging, &queued(&["a", "b", "a"], 1)).await;
    assert_eq!(*merging.attempts.lock().unwrap(), [["a", "b"]]);
    assert_eq!(report.version(), Some(1));
    assert!(report.is_whole(&queued(&["a", "b"], 1)) && report.failure.is_none() && report.blamed.is_none());
}

#[tokio::test]
async fn a_poison_object_comes_again_with_all_behind_it_until_it_was_tried_often_enough() {
    let merging = faulty(&[("b", Kind::Invalid)]);
    let report = merge(&merging, &queued(&["a", "b", "c"], TRIES_MAX - 1)).await;
    assert_eq!(keys(&report.done), ["a"]);
    assert_eq!(report.blamed.as_deref(), Some("b"));
    assert!(report.failure.unwrap().chain().contains("object b can't be merged: broken"));

    let report = merge(&merging, &queued(&["a", "b", "c"], TRIES_MAX)).await;
    assert_eq!(keys(&report.done), ["a", "b", "c"]);
    assert_eq!(report.set_aside, ["b"]);
    assert_eq!(*merging.quarantined.lock().unwrap(), ["b"]);
    assert!(report.failure.is_none() && report.blamed.is_none());
}

#[tokio::test]
async fn one_poison_object_among_many_is_found_in_few_merges() {
    let names: Vec<String> = (0..256).map(|number| format!("{number:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for poison in ["000", "100", "255"] {
        let merging = faulty(&[(poison, Kind::Internal)]);
        let all = queued(&names, TRIES_MAX);
        let report = merge(&merging, &all).await;
        assert!(report.is_whole(&all));
        assert_eq!(report.set_aside, [poison]);
        // All of them, then a good and a bad half eight times.
        assert_eq!(merging.attempts(), 17);
        let attempts = merging.attempts.lock().unwrap();
        let good = attempts.iter().filter(|keys| !keys.iter().any(|key| key == poison));
        let merged: Vec<&String> = good.flatten().collect();
        assert!(merged.is_sorted(), "they are merged in their order");
    }
}

#[tokio::test]
async fn several_poison_objects_are_all_set_aside() {
    let merging = faulty(&[("a", Kind::Invalid), ("c", Kind::Internal), ("d", Kind::Invalid)]);
    let all = queued(&["a", "b", "c", "d", "e"], TRIES_MAX);
    let report = merge(&merging, &all).await;
    assert_eq!(report.set_aside, ["a", "c", "d"]);
    assert!(report.is_whole(&all));
}

#[tokio::test]
async fn a_poison_object_alone_is_not_tried_twice_in_a_call_and_is_set_aside() {
    let merging = faulty(&[("a", Kind::Internal)]);
    assert!(merge(&merging, &queued(&["a"], 1)).await.failure.is_some());
    assert!(merging.quarantined.lock().unwrap().is_empty());
    assert_eq!(merge(&merging, &queued(&["a"], TRIES_MAX)).await.set_aside, ["a"]);
    assert_eq!(merging.attempts(), 2);
}

#[tokio::test]
async fn what_nobody_counts_is_never_set_aside() {
    let merging = faulty(&[("b", Kind::Invalid)]);
    let report = merge(&merging, &queued(&["a", "b", "c"], 0)).await;
    assert_eq!((keys(&report.done), report.set_aside.len()), (vec!["a"], 0));
}

#[tokio::test]
async fn nothing_is_set_aside_for_what_is_not_the_objects_fault() {
    for kind in [Kind::Unavailable, Kind::Conflict, Kind::Stopped, Kind::NotFound, Kind::Cancelled] {
        let merging = faulty(&[("b", kind)]);
        let report = merge(&merging, &queued(&["a", "b"], TRIES_MAX)).await;
        assert!(report.done.is_empty() && report.set_aside.is_empty() && report.blamed.is_none(), "{kind:?}");
        assert_eq!(report.failure.unwrap().kind(), kind);
        assert_eq!(merging.attempts(), 1, "{kind:?}: all come again, so none is tried alone");

        let report = merge(&merging, &queued(&["b"], 99)).await;
        assert!(report.set_aside.is_empty() && report.blamed.is_none(), "{kind:?}");
    }
}

#[tokio::test]
async fn an_object_that_is_too_much_for_the_memory_has_twice_as_many_tries_and_the_others_go_on() {
    let merging = faulty(&[("b", Kind::Exhausted)]);
    for tries in [1, TRIES_MAX, 2 * TRIES_MAX - 1] {
        let report = merge(&merging, &queued(&["a", "b", "c"], tries)).await;
        assert_eq!(keys(&report.done), ["a"], "{tries} tries");
        assert_eq!(report.blamed.as_deref(), Some("b"));
        assert_eq!(report.failure.unwrap().kind(), Kind::Exhausted);
    }
    let report = merge(&merging, &queued(&["a", "b", "c"], 2 * TRIES_MAX)).await;
    assert_eq!(report.set_aside, ["b"]);
    assert_eq!(keys(&report.done), ["a", "b", "c"]);
}

#[tokio::test]
async fn objects_that_never_get_through_together_are_tried_alone() {
    let merging = faulty(&[]);
    let mut all = queued(&["a", "b"], 1);
    all.extend(queued(&["c", "d"], TRIES_MAX + 1));
    all.extend(queued(&["e", "f"], 1));
    assert!(merge(&merging, &all).await.is_whole(&all));
    assert_eq!(*merging.attempts.lock().unwrap(), [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e", "f"]]);
}

#[tokio::test]
async fn an_object_whose_merge_never_ends_is_set_aside_if_it_had_all_of_the_time() {
    let merging = Faulty { endless: Some("a"), ..Faulty::default() };
    let report = merge_until(&merging, &queued(&["a", "b"], 2 * TRIES_MAX), soon()).await;
    assert_eq!(report.set_aside, ["a"]);
    assert!(report.failure.is_none() && !report.done.contains("b"), "there is no time left for another merge");
}

#[tokio::test]
async fn an_object_before_which_others_had_the_time_is_not_set_aside_for_it() {
    let merging = Faulty { endless: Some("b"), ..Faulty::default() };
    let objects = queued(&["a", "b"], 2 * TRIES_MAX);
    let merged = tokio::time::timeout(Duration::from_millis(200), merge_until(&merging, &objects, soon())).await;
    assert!(merged.is_err(), "who calls has to end it");
    assert!(merging.quarantined.lock().unwrap().is_empty());

    let merging = faulty(&[("b", Kind::Timeout)]);
    let report = merge(&merging, &objects).await;
    assert_eq!((report.set_aside.len(), report.blamed.as_deref()), (0, Some("b")));
    assert_eq!(merge(&merging, &objects[1..]).await.set_aside, ["b"], "the next time it is the first");
}

#[tokio::test]
async fn an_object_that_quarantine_does_not_take_is_not_done() {
    let merging = Faulty { quarantine_is_down: true, ..faulty(&[("a", Kind::Invalid)]) };
    let report = merge(&merging, &queued(&["a", "b"], TRIES_MAX)).await;
    assert!(report.done.is_empty() && report.set_aside.is_empty());
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
async fn behind_its_time_nothing_is_begun() {
    let merging = faulty(&[]);
    let report = merge_until(&merging, &queued(&["a"], 1), Some(Instant::now())).await;
    assert!(report.done.is_empty() && report.failure.is_none());
    assert_eq!(merging.attempts(), 0);
}
