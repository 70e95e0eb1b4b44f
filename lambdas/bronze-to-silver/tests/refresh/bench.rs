//! DuckDB's tables, and the same rows on their way through bronze into silver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bronze_to_silver::{BronzeObject, Merger, Settings};
use bytes::Bytes;
use duck::{Duck, quote};
use fastrand::Rng;
use futures::StreamExt as _;
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Lake, Layer, ManualClock, Name, delta};
use proto::frame::{Compression, Frame, FrameOrigin};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::sql;

const RECEIVED_US: i64 = 1_799_996_400_000_000;
/// Some 10 MB of lines.
const FRAMES_PER_OBJECT: usize = 64;
const OBJECTS_PER_MERGE: usize = 4;
/// Slices in which tables are compared, so that little is in memory.
const SLICES: u64 = 8;

const DEFINITION: &str = r#"
name = "tpch"
[tables.orders]
primary_key = ["o_orderkey"]
sequence_by = "seq"
delete_when = "op = 'd'"
drop_columns = ["op"]
[tables.lineitem]
primary_key = ["l_orderkey", "l_linenumber"]
sequence_by = "seq"
delete_when = "op = 'd'"
drop_columns = ["op"]
"#;

/// A table: its name, its key's first column and its whole key.
const TABLES: [(&str, &str, &str); 2] =
    [("orders", "o_orderkey", "o_orderkey"), ("lineitem", "l_orderkey", "l_orderkey, l_linenumber")];

/// Objects, each with its table.
pub type Objects = Vec<(&'static str, BronzeObject)>;

pub struct Bench {
    folder: TempDir,
    duck: Duck,
    lake: Lake,
    merger: Merger,
    runtime: Runtime,
    objects: usize,
    /// The number of each table's next frame.
    frames: BTreeMap<&'static str, u64>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), DEFINITION).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        let spill = |name: &str| duck::Settings {
            spill_folder: Some(folder.path().join(name)),
            memory_bytes: 1 << 30,
            ..duck::Settings::default()
        };
        let settings = Settings { duck: spill("spill-merge"), ..Settings::default() };
        let clock = Arc::new(ManualClock::at(RECEIVED_US + 3_600_000_000));
        let merger = Merger::new(Definitions::fixed(definition), lake.clone(), clock, settings);
        let duck = Duck::open(&spill("spill-alone")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { folder, duck, lake, merger, runtime, objects: 0, frames: BTreeMap::new() }
    }

    /// Changes DuckDB's tables; gives what has `sequence` then as objects.
    pub fn change(&mut self, statements: &str, sequence: u64) -> Objects {
        self.duck.execute(statements).unwrap();
        let of = |(table, ..): (&'static str, &str, &str)| {
            (table, format!("SELECT *, 'u' AS op FROM {table} WHERE seq = {sequence}"))
        };
        TABLES.map(of).into_iter().flat_map(|(table, query)| self.send(table, &query)).collect()
    }

    /// Deletes from DuckDB's tables what a stream deletes; gives the keys and sequences as objects.
    pub fn delete(&mut self, stream: u64, sequence: u64) -> Objects {
        let mut objects = Objects::new();
        for (table, first_key, key) in TABLES {
            let which = sql::is_deleted(first_key, stream);
            let query = format!("SELECT {key}, {sequence}::BIGINT AS seq, 'd' AS op FROM {table} WHERE {which}");
            objects.extend(self.send(table, &query));
            self.duck.execute(&format!("DELETE FROM {table} WHERE {which}")).unwrap();
        }
        objects
    }

    /// Writes the rows of a query as frames of `table` into objects.
    fn send(&mut self, table: &'static str, query: &str) -> Objects {
        let next = self.frames.entry(table).or_default();
        let mut frames: Vec<Bytes> = Vec::new();
        let encode = |batch: RecordBatch| {
            let origin = FrameOrigin {
                table: table.to_owned(),
                ingest_id: "refresh".to_owned(),
                frame: *next,
                received_at_us: RECEIVED_US,
            };
            *next += 1;
            let schema = batch.schema();
            let frame = Frame::from_batches(origin, &schema, std::slice::from_ref(&batch), Compression::Lz4).unwrap();
            frames.push(frame.encode().unwrap());
            Ok(())
        };
        self.duck.query_each(query, encode).unwrap();
        assert!(!frames.is_empty(), "no rows of {table}, so that nothing is shown: {query}");
        let folder = self.folder.path().join("data/bronze").join(table);
        std::fs::create_dir_all(&folder).unwrap();
        let mut objects = Objects::new();
        for frames in frames.chunks(FRAMES_PER_OBJECT) {
            let name = format!("{:06}", self.objects);
            self.objects += 1;
            std::fs::write(folder.join(&name), frames.concat()).unwrap();
            let key = format!("bronze/{table}/{name}");
            objects.push((table, BronzeObject { key, delivered_at_us: RECEIVED_US + 1 }));
        }
        objects
    }

    pub fn merge_in_order(&self, objects: &[(&'static str, BronzeObject)]) {
        for (table, ..) in TABLES {
            let of_table = objects.iter().filter(|(of, _)| *of == table).map(|(_, object)| object.clone());
            let of_table: Vec<BronzeObject> = of_table.collect();
            for now in of_table.chunks(OBJECTS_PER_MERGE) {
                self.merge(table, now);
            }
        }
    }

    /// Merges objects in a random order, a third of them twice.
    pub fn merge_mixed(&self, mut objects: Objects) {
        let mut rng = Rng::with_seed(22);
        let again: Objects = objects.iter().filter(|_| rng.u8(0..3) == 0).cloned().collect();
        objects.extend(again);
        rng.shuffle(&mut objects);
        self.merge_in_order(&objects);
    }

    fn merge(&self, table: &str, objects: &[BronzeObject]) {
        let name = Name::new(table).unwrap();
        self.runtime.block_on(self.merger.merge(&name, objects)).unwrap();
    }

    /// Compares each silver table with DuckDB's.
    pub fn compare(&mut self) {
        for (table, first_key, _) in TABLES {
            self.load_silver(table);
            let schema = self.duck.describe(&format!("SELECT * FROM {table}")).unwrap();
            let columns = schema.fields().iter().map(|field| quote(field.name())).collect::<Vec<_>>().join(", ");
            for slice in 0..SLICES {
                let rows = |from: &str| format!("SELECT {columns} FROM {from} WHERE {first_key} % {SLICES} = {slice}");
                let (alone, merged) = (rows(table), rows("merged"));
                for (one, other) in [(&alone, &merged), (&merged, &alone)] {
                    let count = format!("SELECT count(*) FROM ({one} EXCEPT ALL {other})");
                    assert_eq!(self.duck.count(&count).unwrap(), 0, "rows that only one side has, of {table}: {count}");
                }
            }
            assert!(self.duck.count("SELECT count(*) FROM merged").unwrap() > 0);
            self.duck.execute("DROP TABLE merged").unwrap();
        }
    }

    /// Loads a silver table into DuckDB, as `merged`, a batch at a time.
    fn load_silver(&mut self, table: &str) {
        let session = delta::session(256 << 20, 1 << 30);
        let name = Name::new(table).unwrap();
        let mut stream = self.runtime.block_on(async {
            let silver = self.lake.open(Layer::Silver, &name).await.unwrap().unwrap();
            delta::read(&silver, &session, None, None).await.unwrap()
        });
        let schema: SchemaRef = stream.schema();
        let (sender, batches) = sync_channel(4);
        let reading = self.runtime.spawn(async move {
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(|error| ArrowError::ExternalError(Box::new(error)));
                // Waits for DuckDB; the other worker goes on reading.
                if tokio::task::block_in_place(|| sender.send(batch)).is_err() {
                    break;
                }
            }
        });
        self.duck.load("merged", schema, batches).unwrap();
        self.runtime.block_on(reading).unwrap();
    }
}
