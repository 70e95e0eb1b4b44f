//! Seeded runs of the whole way in: producers, a delivery stream that fails, a process that is killed, the merge.
//!
//! Each seed decides everything: what is sent in which batches, which calls fail and how much of them lands all the
//! same, when the process dies, how bronze is cut into objects and in which order, how often each is merged. Producers
//! go on, under the same ids, until all is acknowledged. Then what was acknowledged was delivered, and silver holds
//! each row once. The stream is one in memory, or the real [`Firehose`] in front of a fake service that throttles, fails
//! in part, answers late or not at all, and breaks connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, BinaryArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use async_trait::async_trait;
use bronze_to_silver::{BronzeObject, Merger, Settings};
use bytes::Bytes;
use fastrand::Rng;
use futures::TryStreamExt as _;
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Error, Lake, Layer, ManualClock, Name, Result, delta};
use proto::frame::{FrameReader, Item};

use crate::delivery::fake::{Fake, FakeOptions, Plan};
use crate::delivery::{DeliveryStream, Firehose, FirehoseOptions, StreamNames, client_of};
use crate::door::{IngestDoor, IngestOptions, OpenStream};
use crate::ingest::{Door, Traces};

const TOML: &str = r#"
name = "lab"
[tables.keyed]
primary_key = ["id"]
[tables.open]
"#;

/// Lives that a process has at most in one run; a producer that is not done by then never will be.
const LIVES_MAX: usize = 500;

/// A stream whose calls fail as a seed says. What landed outlives the process.
struct Faulty {
    rng: Mutex<Rng>,
    landed: Arc<Mutex<Vec<(Name, Bytes)>>>,
    fault_share: f64,
}

#[async_trait]
impl DeliveryStream for Faulty {
    async fn put(&self, table: &Name, records: Vec<Bytes>) -> Result<()> {
        let (fails, lands, before, after) = {
            let mut rng = self.rng.lock().unwrap();
            let fails = rng.f64() < self.fault_share;
            let lands: Vec<bool> = records.iter().map(|_| !fails || rng.bool()).collect();
            (fails, lands, rng.usize(0..20), rng.usize(0..20))
        };
        turns(before).await;
        let landed = records.into_iter().zip(lands).filter(|(_, lands)| *lands);
        self.landed.lock().unwrap().extend(landed.map(|(record, _)| (table.clone(), record)));
        turns(after).await;
        if fails { Err(Error::unavailable("the call failed, as far as one knows")) } else { Ok(()) }
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Lets others go on some times.
async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// One producer and what it knows, whatever happens to servers.
struct Producer {
    table: &'static str,
    id: String,
    is_stream: bool,
    batches: Vec<RecordBatch>,
    /// Batches that were acknowledged.
    acked: usize,
}

impl Producer {
    fn new(number: usize, rng: &mut Rng) -> Self {
        let mut next = (number as i64) << 32;
        let mut batch = || {
            let rows = if rng.u8(0..8) == 0 { 0 } else { rng.i64(1..40) };
            let ids = Int64Array::from_iter_values(next..next + rows);
            next += rows;
            // Now and then a batch of several frames.
            let size = if rng.u8(0..6) == 0 { 6_000 } else { 20 };
            let noise: Vec<Vec<u8>> = (0..rows).map(|_| (0..size).map(|_| rng.u8(..)).collect()).collect();
            let noise = BinaryArray::from_iter_values(noise);
            RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("v", Arc::new(noise) as _)]).unwrap()
        };
        let batches = (0..8).map(|_| batch()).collect();
        let (table, is_stream) = (["keyed", "open"][number % 2], number % 4 < 2);
        Self { table, id: format!("producer-{number}"), is_stream, batches, acked: 0 }
    }

    fn is_done(&self) -> bool {
        self.acked == self.batches.len()
    }

    /// Sends what was not acknowledged, until something fails. Dropped at any point, it knows what it was told.
    async fn send(&mut self, door: &Door) -> Result<()> {
        let options = IngestOptions { ingest_id: Some(self.id.clone()), is_partial: false };
        let schema = self.batches[0].schema();
        if !self.is_stream {
            let mut ingest = door.begin(self.table, schema, options).await?;
            for batch in &self.batches {
                ingest.push(batch.clone()).await?;
            }
            ingest.finish().await?;
            self.acked = self.batches.len();
            return Ok(());
        }
        let mut stream = door.stream(self.table, schema, options).await?;
        let sent = self.stream(stream.as_mut()).await;
        // Whatever happened, the client is told how far all is kept, as it would be over the wire.
        let flushed = stream.flush().await;
        if let Some(offset) = stream.take_kept() {
            self.acked = self.acked.max(offset as usize + 1);
        }
        sent.and(flushed)
    }

    async fn stream(&mut self, stream: &mut dyn OpenStream) -> Result<()> {
        for offset in self.acked..self.batches.len() {
            stream.push(offset as u64, self.batches[offset].clone()).await?;
            if offset % 3 == 0 {
                self.acked = self.acked.max(stream.kept().await? as usize + 1);
            }
        }
        Ok(())
    }

    /// The ids of the rows that were acknowledged.
    fn acked_rows(&self) -> Vec<i64> {
        self.batches[..self.acked].iter().flat_map(ids).collect()
    }
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    let column = cast(batch.column_by_name("id").unwrap(), &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

/// The tables, and what their delivery streams are called.
const TABLES: [&str; 2] = ["keyed", "open"];

/// A fake Firehose that outlives the processes.
struct Service {
    fake: Fake,
    _runtime: tokio::runtime::Runtime,
}

impl Service {
    fn start(rng: &mut Rng) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let streams = Some(TABLES.map(str::to_owned).to_vec());
            Fake::start(listener, FakeOptions { streams, keep: true, ..FakeOptions::default() }).unwrap()
        });
        for stream in TABLES {
            let late = Some(Duration::from_millis(150));
            fake.plan(stream, Plan { seed: rng.u64(..), percent: rng.u8(10..70), late });
        }
        Self { fake, _runtime: runtime }
    }

    /// A stream of a process that has just begun, in its runtime.
    fn stream(&self, seed: u64) -> Firehose {
        let options = FirehoseOptions {
            deadline: Duration::from_millis(400),
            call_timeout: Duration::from_millis(60),
            backoff_first: Duration::from_millis(1),
            backoff_most: Duration::from_millis(5),
            ..FirehoseOptions::new(StreamNames::parse("{table}", 1).unwrap())
        };
        Firehose::with_client(client_of(self.fake.address()), options, Rng::with_seed(seed))
    }

    fn landed(&self) -> Vec<(Name, Bytes)> {
        let of = |table: &str| (table.parse::<Name>().unwrap(), self.fake.kept(table));
        TABLES
            .into_iter()
            .map(of)
            .flat_map(|(table, kept)| kept.into_iter().map(move |it| (table.clone(), it)))
            .collect()
    }
}

struct Run {
    /// None: the stream is one in memory.
    service: Option<Service>,
    folder: tempfile::TempDir,
    lake: Lake,
    definitions: Arc<Definitions>,
    landed: Arc<Mutex<Vec<(Name, Bytes)>>>,
    producers: Vec<Producer>,
    rng: Rng,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), TOML).unwrap();
        let definitions = Definitions::fixed(Arc::new(Definition::load(folder.path()).unwrap()));
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        let producers = (0..rng.usize(1..5)).map(|number| Producer::new(number, &mut rng)).collect();
        Self { service: None, folder, lake, definitions, landed: Arc::default(), producers, rng }
    }

    fn with_firehose(seed: u64) -> Self {
        let mut run = Self::new(seed);
        run.service = Some(Service::start(&mut run.rng));
        run
    }

    /// Lets processes live and die until every producer is done; after each, what was acknowledged must have landed.
    fn deliver(&mut self) {
        let fault_share = self.rng.f64() * 0.5;
        for _ in 0..LIVES_MAX {
            if self.producers.iter().all(Producer::is_done) {
                return;
            }
            self.live(fault_share);
            if let Some(service) = &self.service {
                *self.landed.lock().unwrap() = service.landed();
            }
            let landed = self.frames();
            let rows: BTreeSet<i64> = landed.values().flatten().copied().collect();
            for producer in &self.producers {
                assert!(producer.acked_rows().iter().all(|id| rows.contains(id)), "acknowledged, and not delivered");
            }
        }
        panic!("the producers are not done after {LIVES_MAX} lives");
    }

    /// One process: it dies at some moment, or when all have sent what they have.
    fn live(&mut self, fault_share: f64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (seed, service) = (self.rng.u64(..), self.service.as_ref());
        let faulty = Faulty { rng: Mutex::new(Rng::with_seed(seed)), landed: Arc::clone(&self.landed), fault_share };
        let most_ms = if service.is_some() { 300 } else { 4 };
        let (dies_after, then) = (self.rng.usize(0..400), Duration::from_millis(self.rng.u64(0..most_ms)));
        let linger = Duration::from_millis(u64::from(self.rng.u8(0..8) == 0));
        let (definitions, lake, producers) = (Arc::clone(&self.definitions), self.lake.clone(), &mut self.producers);
        runtime.block_on(async move {
            let clock = Arc::new(ManualClock::at(1_800_000_000_000_000));
            let stream: Arc<dyn DeliveryStream> = match service {
                Some(service) => Arc::new(service.stream(seed)),
                None => Arc::new(faulty),
            };
            let door = Door::new(definitions, lake, stream, linger, clock, Traces::default());
            let sending = producers.iter_mut().filter(|producer| !producer.is_done()).map(async |producer| {
                // It goes on at another server, at the latest in the next life.
                while producer.send(&door).await.is_err() {
                    turns(1).await;
                }
            });
            tokio::select! {
                biased;
                _ = futures::future::join_all(sending) => {}
                // Large batches are framed on other threads, which takes time and not turns.
                () = async { turns(dies_after).await; tokio::time::sleep(then).await } => {}
            }
        });
        // What still runs dies here, wherever it waits.
        runtime.shutdown_background();
    }

    /// All frames that landed, each once: its rows. The same frame must always have the same rows.
    fn frames(&self) -> BTreeMap<(String, u64), Vec<i64>> {
        let mut frames = BTreeMap::new();
        for (_, record) in self.landed.lock().unwrap().iter() {
            for item in FrameReader::new(record.clone()) {
                let Item::Frame { frame, .. } = item else { panic!("damage in a record") };
                let rows: Vec<i64> = frame.decode_batches().unwrap().1.iter().flat_map(ids).collect();
                let key = (frame.header.ingest_id.clone(), frame.header.frame);
                let known = frames.entry(key).or_insert_with(|| rows.clone());
                assert_eq!(*known, rows, "a frame that was sent again has other rows");
            }
        }
        frames
    }

    /// Each row is in exactly one frame.
    fn check_frames(&self) {
        let mut found: Vec<i64> = self.frames().into_values().flatten().collect();
        found.sort_unstable();
        assert_eq!(found, self.sent());
    }

    fn sent(&self) -> Vec<i64> {
        let mut sent: Vec<i64> = self.producers.iter().flat_map(|it| it.batches.iter().flat_map(ids)).collect();
        sent.sort_unstable();
        sent
    }

    /// Merges what landed, in objects of any size and order, each perhaps twice.
    async fn check_silver(&mut self) {
        let clock = Arc::new(ManualClock::at(1_800_000_000_000_000));
        let merger = Merger::new(Arc::clone(&self.definitions), self.lake.clone(), clock, Settings::default());
        let mut found = Vec::new();
        for table in TABLES {
            let name: Name = table.parse().unwrap();
            let objects = self.objects(&name);
            let mut rest = objects.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(self.rng.usize(1..=rest.len()));
                merger.merge(&name, now).await.unwrap();
                rest = later;
            }
            let Some(silver) = self.lake.open(Layer::Silver, &name).await.unwrap() else { continue };
            let session = delta::session(64 << 20, 1 << 30);
            let rows: Vec<RecordBatch> =
                delta::read(&silver, &session, None, None).await.unwrap().try_collect().await.unwrap();
            found.extend(rows.iter().flat_map(ids));
        }
        found.sort_unstable();
        assert_eq!(found, self.sent(), "silver holds each row once");
    }

    /// The records of a table as bronze objects, shuffled, some of them twice.
    fn objects(&mut self, table: &Name) -> Vec<BronzeObject> {
        let records: Vec<Bytes> = self
            .landed
            .lock()
            .unwrap()
            .iter()
            .filter(|(of, _)| of == table)
            .map(|(_, record)| record.clone())
            .collect();
        let mut objects = Vec::new();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.rng.usize(1..=rest.len()));
            let key = format!("bronze/{table}/{:04}", objects.len());
            let path = self.folder.path().join("data").join(&key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, now.concat()).unwrap();
            objects.push(BronzeObject { key, delivered_at_us: 1 });
            rest = later;
        }
        let again: Vec<_> = objects.iter().filter(|_| self.rng.u8(0..4) == 0).cloned().collect();
        objects.extend(again);
        self.rng.shuffle(&mut objects);
        objects
    }
}

/// How many seeds a test runs: `MALLARD_DEEP` asks for many more.
fn seeds(few: u64, many: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("MALLARD_DEEP").is_some() { many } else { few }
}

#[test]
fn what_was_acknowledged_was_delivered_and_each_row_is_in_one_frame() {
    for seed in seeds(300, 5_000) {
        let mut run = Run::new(seed);
        run.deliver();
        run.check_frames();
    }
}

#[test]
fn silver_holds_each_row_once_whatever_failed_on_the_way() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in seeds(12, 2_000) {
        let mut run = Run::new(seed ^ 0x5eed_0000);
        run.deliver();
        runtime.block_on(run.check_silver());
    }
}

#[test]
fn silver_holds_each_row_once_behind_a_firehose_that_fails_in_every_way() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut calls, mut refused) = (0, 0);
    for seed in seeds(6, 500) {
        let mut run = Run::with_firehose(seed ^ 0xf1fe_0000);
        run.deliver();
        run.check_frames();
        runtime.block_on(run.check_silver());
        let stats = run.service.as_ref().unwrap().fake.stats();
        calls += stats.calls;
        refused += stats.refused_records;
    }
    // Otherwise it showed nothing.
    assert!(calls > 0 && refused > 0, "{calls} calls, {refused} records refused");
}
