//! One case from its seed to its end: objects are delivered, merged, delivered again, and what goes wrong on the way is
//! drawn like all else.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bronze_to_silver::{BronzeObject, Merger, Outcome, Settings};
use bytes::Bytes;
use deltalake::Path;
use deltalake::logstore::object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutOptions};
use fastrand::Rng;
use futures::TryStreamExt as _;
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Kind, Lake, ManualClock, Name};

use crate::actual::{self, State};
use crate::events::{self, RECEIVED_US, Rows};
use crate::expected;
use crate::shape::Shape;
use crate::storage::{Access, Fault, Faulty, Planned, Signal, Storage};

/// Merges that may go wrong, a case.
const FAULTY_MERGES_MAX: usize = 7;
/// More than any case needs.
const MERGES_MAX: usize = 200;
/// A merge of a few rows that takes longer hangs.
const MERGE_TIME_MAX: Duration = Duration::from_secs(120);

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The faults that were met.
    pub met: BTreeSet<(Access, Fault)>,
    /// A line a merge.
    pub trace: Vec<String>,
    /// Objects of text.
    pub texts: usize,
    /// Commits to silver that gave a file a deletion vector.
    pub vectors: usize,
}

/// Runs a case, in which `accesses` to storage may fail.
pub fn run(seed: u64, accesses: &'static [Access]) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::draw(seed, accesses).await;
        run.deliver().await;
        run.check().await;
        run.report.vectors = run.count_vectors().await;
        std::mem::take(&mut run.report)
    })
}

/// A process that merges: it keeps what it has learnt of tables until it dies.
struct Process {
    merger: Merger,
    lake: Lake,
    storage: Arc<Faulty>,
}

/// How a merge ended.
#[derive(Debug)]
enum End {
    Done(Box<Outcome>),
    Failed(lakehouse::Error),
    Dropped,
    Died,
}

struct Run {
    seed: u64,
    rng: Rng,
    accesses: &'static [Access],
    shape: Shape,
    frames: Vec<Rows>,
    objects: Vec<BronzeObject>,
    /// The objects that have a stretch of bytes that is no frame.
    damaged: Vec<String>,
    definitions: Arc<Definitions>,
    clock: Arc<ManualClock>,
    storage: Storage,
    table: Name,
    /// Objects to be merged together, by their places in `objects`.
    pending: VecDeque<Vec<usize>>,
    /// Those that a merge called done.
    done: BTreeSet<usize>,
    faulty_merges: usize,
    report: Report,
}

impl Run {
    async fn draw(seed: u64, accesses: &'static [Access]) -> Self {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::draw(&mut rng);
        let frames = events::draw(&shape, &mut rng);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), shape.toml()).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let mut run = Self {
            seed,
            rng,
            accesses,
            shape,
            frames,
            objects: Vec::new(),
            damaged: Vec::new(),
            definitions: Definitions::fixed(definition),
            clock: Arc::new(ManualClock::at(RECEIVED_US + 3_600_000_000)),
            storage: Storage::new(),
            table: Name::new("t").unwrap(),
            pending: VecDeque::new(),
            done: BTreeSet::new(),
            faulty_merges: 0,
            report: Report::default(),
        };
        run.write_objects().await;
        run.queue_all();
        run
    }

    /// Packs the frames into objects, some of them into several. Text has no number that would tell it again, so it is
    /// in one.
    async fn write_objects(&mut self) {
        let mut packed: Vec<Vec<usize>> = Vec::new();
        let mut next = 0;
        while next < self.frames.len() {
            let end = (next + self.rng.usize(1..=3)).min(self.frames.len());
            let text = (next..end).find(|at| self.frames[*at].is_text);
            let end = text.map_or(end, |text| text.max(next + 1));
            let mut object: Vec<usize> = (next..end).collect();
            if self.rng.u8(0..3) == 0 && text != Some(next) {
                // In order, a frame comes again only behind itself.
                let last = if self.shape.in_order() { end } else { self.frames.len() };
                object.push(self.rng.usize(0..last));
                object.retain(|at| !self.frames[*at].is_text);
            }
            packed.push(object);
            next = end;
        }
        for _ in 0..self.rng.usize(0..3) {
            let mut frames: Vec<usize> =
                (0..self.rng.usize(1..=3)).map(|_| self.rng.usize(0..self.frames.len())).collect();
            frames.retain(|at| !self.frames[*at].is_text);
            if !frames.is_empty() {
                packed.push(frames);
            }
        }
        for object in packed {
            let key = format!("bronze/t/{:04}", self.objects.len());
            let is_text = self.frames[object[0]].is_text;
            let bytes = if is_text { self.text_of(&key, object[0]) } else { self.frames_of(&key, &object) };
            let path = Path::from(key.as_str());
            self.storage.inner.put_opts(&path, Bytes::from(bytes).into(), PutOptions::default()).await.unwrap();
            self.objects.push(BronzeObject { key, delivered_at_us: RECEIVED_US + 1 });
        }
    }

    fn frames_of(&mut self, key: &str, frames: &[usize]) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> =
            frames.iter().map(|at| events::encode(&self.shape, &self.frames[*at]).to_vec()).collect();
        if self.rng.u8(0..8) == 0 {
            let no_frame = vec![b'?'; self.rng.usize(1..60)];
            parts.insert(self.rng.usize(0..=parts.len()), no_frame);
            self.damaged.push(key.to_owned());
        }
        parts.concat()
    }

    /// Of one frame, which is known by the object's key and checksum from then on.
    fn text_of(&mut self, key: &str, frame: usize) -> Vec<u8> {
        let rows = &mut self.frames[frame];
        let text = events::write_text(&self.shape, rows, &mut self.rng);
        rows.ingest_id = format!("object:{key}#{:08x}", crc32c::crc32c(&text));
        self.report.texts += 1;
        text
    }

    fn queue_all(&mut self) {
        let mut all: Vec<usize> = (0..self.objects.len()).collect();
        if !self.shape.in_order() {
            self.rng.shuffle(&mut all);
        }
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.rng.usize(1..=rest.len().min(3)));
            self.pending.push_back(now.to_vec());
            rest = later;
        }
    }

    /// Merges until every object was called done.
    async fn deliver(&mut self) {
        let mut process = self.start();
        while let Some(chosen) = self.pending.pop_front() {
            assert!(self.report.trace.len() < MERGES_MAX, "the merges come to no end");
            if self.rng.u8(0..5) == 0 {
                process = self.start();
            }
            let plan = self.draw_plan();
            let until = (self.rng.u8(0..10) == 0).then(Instant::now);
            let end = self.merge(&process, &chosen, &plan, until).await;
            self.report.met.extend(process.storage.met());
            let (told, left) = match end {
                End::Done(outcome) => {
                    let is_in = |at: &usize| outcome.done.contains(&self.objects[*at].key);
                    let (done, left): (Vec<usize>, Vec<usize>) = chosen.iter().copied().partition(is_in);
                    assert!(left.is_empty() || until.is_some(), "a merge went well and left {left:?} of {chosen:?}");
                    self.done.extend(done);
                    (format!("version {:?}, left {left:?}", outcome.version), left)
                }
                End::Failed(error) => {
                    // What is not called again may be taken for the object's own fault.
                    assert!(error.kind().is_retriable(), "storage failed ({plan:?}), and the merge said: {error:?}");
                    (format!("{:?}", error.kind()), chosen.clone())
                }
                End::Dropped => ("dropped".to_owned(), chosen.clone()),
                End::Died => {
                    process = self.start();
                    ("died".to_owned(), chosen.clone())
                }
            };
            self.report.trace.push(format!("{chosen:?} under {plan:?} in a hurry: {}: {told}", until.is_some()));
            self.queue_again(left);
        }
    }

    /// Puts back what is left, and now and then what was merged already.
    fn queue_again(&mut self, left: Vec<usize>) {
        if !left.is_empty() {
            let at = if self.shape.in_order() { 0 } else { self.rng.usize(0..=self.pending.len()) };
            self.pending.insert(at, left);
        } else if self.rng.u8(0..4) == 0 {
            let mut again: Vec<usize> = self.done.iter().copied().filter(|_| self.rng.bool()).collect();
            self.rng.shuffle(&mut again);
            if !again.is_empty() {
                self.pending.push_back(again);
            }
        }
    }

    fn start(&mut self) -> Arc<Process> {
        let (url, storage) = self.storage.process();
        let lake = Lake::at(url, HashMap::new());
        let settings =
            Settings { duck: duck::Settings { threads: 1, ..duck::Settings::default() }, ..Settings::default() };
        let merger = Merger::new(Arc::clone(&self.definitions), lake.clone(), self.clock.clone(), settings);
        Arc::new(Process { merger, lake, storage })
    }

    fn draw_plan(&mut self) -> Vec<Planned> {
        if self.accesses.is_empty() || self.faulty_merges >= FAULTY_MERGES_MAX || self.rng.u8(0..4) == 0 {
            return Vec::new();
        }
        self.faulty_merges += 1;
        let rng = &mut self.rng;
        let count = rng.usize(1..=2);
        let draw = || {
            let commits = rng.u8(0..4) != 0 && self.accesses.contains(&Access::Commit);
            let access = if commits { Access::Commit } else { self.accesses[rng.usize(0..self.accesses.len())] };
            let (most, faults): (u32, &[Fault]) = match access {
                Access::Commit => (5, &Fault::OF_COMMITS),
                Access::Write => (4, &Fault::OF_OTHERS),
                Access::Read => (25, &Fault::OF_OTHERS),
                Access::List => (10, &Fault::OF_OTHERS),
            };
            Planned { access, nth: rng.u32(1..=most), fault: faults[rng.usize(0..faults.len())] }
        };
        std::iter::repeat_with(draw).take(count).collect()
    }

    /// Merges the `chosen` objects while `plan` goes wrong.
    async fn merge(
        &mut self,
        process: &Arc<Process>,
        chosen: &[usize],
        plan: &[Planned],
        until: Option<Instant>,
    ) -> End {
        self.clock.advance_us(1_000_000);
        let objects: Vec<BronzeObject> = chosen.iter().map(|at| self.objects[*at].clone()).collect();
        // Another process merges the same, or what is still to come.
        let races = plan.iter().any(|planned| planned.fault == Fault::Raced);
        let rival = races.then(|| self.start());
        let others: Vec<BronzeObject> = match self.pending.front().filter(|_| !self.shape.in_order()) {
            Some(others) if self.rng.bool() => others.iter().map(|at| self.objects[*at].clone()).collect(),
            _ => objects.clone(),
        };
        let mut signals = process.storage.arm(plan);
        let mut merge = Box::pin(process.merger.merge_until(&self.table, &objects, until));
        let deadline = tokio::time::Instant::now() + MERGE_TIME_MAX;
        let result = loop {
            tokio::select! {
                biased;
                Some(signal) = signals.recv() => match signal {
                    Signal::Drop => break None,
                    Signal::Race(done) => {
                        let rival = rival.as_ref().unwrap();
                        rival.merger.merge(&self.table, &others).await.unwrap();
                        // If the merge is gone, nobody waits.
                        let _ = done.send(());
                    }
                },
                result = &mut merge => break Some(result),
                () = tokio::time::sleep_until(deadline) => break Some(Err(hangs())),
            }
        };
        drop(merge);
        match result {
            _ if process.storage.is_dead() => End::Died,
            None => End::Dropped,
            Some(Ok(outcome)) => End::Done(Box::new(outcome)),
            Some(Err(error)) => End::Failed(error),
        }
    }

    async fn count_vectors(&self) -> usize {
        let all: Vec<ObjectMeta> = self.storage.inner.list(None).try_collect().await.unwrap();
        let mut count = 0;
        for path in all.into_iter().map(|found| found.location) {
            if path.as_ref().contains("silver/t/_delta_log/") && path.as_ref().ends_with(".json") {
                let commit = self.storage.inner.get(&path).await.unwrap().bytes().await.unwrap();
                let mut actions = serde_json::Deserializer::from_slice(&commit).into_iter::<serde_json::Value>();
                count += usize::from(actions.any(|action| action.unwrap()["add"]["deletionVector"].is_object()));
            }
        }
        count
    }

    /// Compares silver and quarantine with the model, and merges everything once more, which must change nothing.
    async fn check(&mut self) {
        let process = self.start();
        let state = actual::state(&process.lake).await;
        assert_eq!(state.silver, expected::silver(&self.shape, &self.frames), "silver is not what the model says");
        let bad = expected::quarantine(&self.shape, &self.frames);
        assert_eq!(state.quarantine, bad, "quarantine is not what the model says");
        assert_eq!(state.damaged, self.damaged, "damage is not in quarantine once");
        let unmerged = process.merger.unmerged(&self.table, self.objects.clone()).await.unwrap();
        assert_eq!(unmerged, [], "all were merged");
        self.queue_all();
        while let Some(chosen) = self.pending.pop_front() {
            let end = self.merge(&process, &chosen, &[], None).await;
            let is_nothing = matches!(&end, End::Done(outcome) if outcome.version.is_none());
            assert!(is_nothing, "{chosen:?} were merged before, and now: {end:?}");
        }
        let again: State = actual::state(&process.lake).await;
        assert_eq!(again, state, "merging everything again changed something");
    }
}

impl Drop for Run {
    /// A case that fails says how to repeat it, and what it was.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            eprintln!("seed {seed} failed; alone: MALLARD_SEED={seed} cargo test -p bronze-to-silver --test model");
            eprintln!("{}\n{}", self.shape.toml(), self.report.trace.join("\n"));
            for rows in &self.frames {
                eprintln!("frame {} {} at {}:", rows.ingest_id, rows.number, rows.received_at_us);
                rows.events.iter().for_each(|event| eprintln!("  {event:?}"));
            }
        }
    }
}

fn hangs() -> lakehouse::Error {
    lakehouse::Error::new(Kind::Internal, format!("the merge takes more than {MERGE_TIME_MAX:?}"))
}
