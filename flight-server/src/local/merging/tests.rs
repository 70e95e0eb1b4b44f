//! How tries are counted, and what is taken off the queue.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use async_trait::async_trait;
use bronze_to_silver::Outcome;
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Error, Kind, Lake, SystemClock};

use super::super::{Local, check};
use super::*;

/// A merger with objects that fail, each with a kind.
#[derive(Default)]
struct Faulty {
    faults: Mutex<BTreeMap<&'static str, Kind>>,
    quarantined: Mutex<Vec<String>>,
}

impl Faulty {
    fn set(&self, key: &'static str, fault: Option<Kind>) {
        let mut faults = self.faults.lock().unwrap();
        match fault {
            Some(kind) => _ = faults.insert(key, kind),
            None => _ = faults.remove(key),
        }
    }
}

#[async_trait]
impl Merging for Faulty {
    async fn attempt(&self, _: &Name, objects: &[BronzeObject], _: Option<Instant>) -> Result<Outcome> {
        let faults = self.faults.lock().unwrap();
        if let Some(kind) = objects.iter().find_map(|object| faults.get(object.key.as_str())) {
            return Err(Error::new(*kind, "broken"));
        }
        let done = objects.iter().map(|object| object.key.clone()).collect();
        let mut outcome = Outcome { version: Some(1), done, ..Outcome::default() };
        outcome.story.rows_in = objects.len() as u64;
        Ok(outcome)
    }

    async fn give_up(&self, _: &Name, object: &BronzeObject, _: &str) -> Result<()> {
        self.quarantined.lock().unwrap().push(object.key.clone());
        Ok(())
    }
}

/// The workers' state, with a queue of a table that none of them merges.
struct Lab {
    folder: tempfile::TempDir,
    table: Name,
    local: Local,
    failures: Failures,
}

impl Lab {
    async fn with_queue(keys: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), "name = \"lab\"\n[tables.other]\n").unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let plan = check(&definition).unwrap();
        let data = folder.path().join("data");
        let lake = Lake::in_folder(&data).unwrap();
        let definitions = Definitions::fixed(definition);
        let local = Local::start(&definitions, plan, lake, &data, Arc::new(SystemClock)).await.unwrap();
        let lab = Self { folder, table: Name::new("t").unwrap(), local, failures: Failures::new() };
        std::fs::create_dir_all(lab.entries()).unwrap();
        for object in lab.batch(keys) {
            std::fs::write(lab.entries().join(format!("{:020}", object.id)), "").unwrap();
        }
        lab
    }

    fn entries(&self) -> PathBuf {
        self.folder.path().join("data/queue/t")
    }

    fn batch(&self, keys: &[&str]) -> Vec<QueuedObject> {
        let object = |key: &&str| QueuedObject {
            table: self.table.clone(),
            id: u64::from(key.as_bytes()[0]),
            key: (*key).to_owned(),
            bytes: 1,
            delivered_at_us: 0,
        };
        keys.iter().map(object).collect()
    }

    async fn merge(&mut self, merging: &Faulty, keys: &[&str]) -> Result<()> {
        let (batch, shared) = (self.batch(keys), self.local.shared());
        merge(&self.table, &shared, merging, &batch, &mut self.failures).await
    }

    fn waiting(&self) -> usize {
        std::fs::read_dir(self.entries()).unwrap().count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_can_not_be_merged_is_set_aside_after_some_tries_and_the_others_go_on() {
    let (mut lab, merging) = (Lab::with_queue(&["a", "b", "c"]).await, Faulty::default());
    merging.set("b", Some(Kind::Invalid));
    let error = lab.merge(&merging, &["a", "b", "c"]).await.unwrap_err();
    assert!(error.chain().contains("object b can't be merged: broken"), "{error:?}");
    assert_eq!(lab.waiting(), 2, "a is done, and what is behind b waits for it");
    assert_eq!(*lab.local.shared().silver_changed.borrow(), 2, "models are to look at what was merged");

    lab.merge(&merging, &["b", "c"]).await.unwrap_err();
    assert!(merging.quarantined.lock().unwrap().is_empty());
    lab.merge(&merging, &["b", "c"]).await.unwrap();
    assert_eq!(*merging.quarantined.lock().unwrap(), ["b"]);
    assert_eq!(lab.waiting(), 0);
    assert!(lab.failures.is_empty(), "what is done is forgotten");
    let done = lab.local.shared().done();
    assert_eq!((done.merged_rows, done.merges), (2, 2));
    lab.local.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_an_objects_fault_does_not_count_as_a_try_of_it() {
    let (mut lab, merging) = (Lab::with_queue(&["a"]).await, Faulty::default());
    for kind in [Kind::Unavailable, Kind::Conflict, Kind::Stopped, Kind::NotFound] {
        merging.set("a", Some(kind));
        for _ in 0..3 * OBJECT_TRIES_MAX {
            assert_eq!(lab.merge(&merging, &["a"]).await.unwrap_err().kind(), kind);
        }
    }
    merging.set("a", Some(Kind::Internal));
    for _ in 1..OBJECT_TRIES_MAX {
        lab.merge(&merging, &["a"]).await.unwrap_err();
    }
    assert_eq!((lab.waiting(), merging.quarantined.lock().unwrap().len()), (1, 0));
    merging.set("a", None);
    lab.merge(&merging, &["a"]).await.unwrap();
    assert_eq!((lab.waiting(), merging.quarantined.lock().unwrap().len()), (0, 0));
    lab.local.stop().await.unwrap();
}
