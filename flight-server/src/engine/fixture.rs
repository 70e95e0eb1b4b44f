//! A small lakehouse for tests: a definition, some Delta tables, an engine over them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListBuilder,
    RecordBatch, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use deltalake::protocol::SaveMode;
use futures::future::pending;
use lakehouse::definition::Definition;
use lakehouse::{Clock, Definitions, Error, Lake, Layer, Name, Result, SystemClock};
use tempfile::TempDir;

use super::{AdmissionOptions, Engine, EngineOptions, Pinned, Plan, QueryLog, Request, SystemTables, Versions, Who};

const DEFINITION: &str = r#"
name = "flights"

[tables.events]
description = "one row an event"

[tables.carriers]
description = "who flies"
primary_key = ["code"]
[[tables.carriers.columns]]
name = "code"
type = "varchar"
description = "two letters"
[[tables.carriers.columns]]
name = "name"
type = "varchar"

[tables.untouched]

[models.delays]
description = "what people look at"
sql = "gold/delays.sql"
mode = "merge"
unique_key = ["name"]

[models.unrefreshed]
sql = "gold/delays.sql"
"#;

/// A lakehouse in a folder that goes when this does.
pub(crate) struct Fixture {
    folder: TempDir,
    pub(crate) lake: Lake,
    pub(crate) system: Arc<FakeSystem>,
    pub(crate) engine: Arc<Engine>,
}

impl Fixture {
    /// With six rows in `silver.events` (version 0) and one in `gold.delays`; nothing was committed to
    /// `silver.carriers` (declared columns), `silver.untouched` (none) and `gold.unrefreshed`.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut EngineOptions)) -> Self {
        let folder = TempDir::new().unwrap();
        let declared = folder.path().join("definition");
        std::fs::create_dir_all(declared.join("gold")).unwrap();
        std::fs::write(declared.join("lakehouse.toml"), DEFINITION).unwrap();
        std::fs::write(declared.join("gold/delays.sql"), "SELECT 1 AS name").unwrap();
        let definition = Arc::new(Definition::load(&declared).unwrap_or_else(|problems| panic!("{problems}")));
        let lake = Lake::in_folder(&folder.path().join("lake")).unwrap();
        let mut options = EngineOptions {
            memory_bytes: 256 << 20,
            spill_dir: folder.path().join("spill"),
            spill_bytes_max: 64 << 20,
            admission: AdmissionOptions { running_max: 100, waiting_max: 100, wait_max: Duration::from_secs(60) },
            timeout: None,
            result_bytes_max: None,
            slice_bytes: 64 << 20,
        };
        change(&mut options);
        let system = Arc::new(FakeSystem::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = QueryLog::new(Arc::clone(&clock));
        let definitions = Definitions::fixed(definition);
        let engine = Engine::new(definitions, lake.clone(), Arc::clone(&system) as _, clock, log, options).unwrap();
        let fixture = Self { folder, lake, system, engine: Arc::new(engine) };
        fixture.append(Layer::Silver, "events", events(0..6)).await;
        let delays = RecordBatch::try_from_iter([("name", Arc::new(StringArray::from(vec!["AA"])) as ArrayRef)]);
        fixture.append(Layer::Gold, "delays", delays.unwrap()).await;
        fixture
    }

    pub(crate) async fn append(&self, layer: Layer, name: &str, batch: RecordBatch) {
        let name = Name::new(name).unwrap();
        let table = match self.lake.open(layer, &name).await.unwrap() {
            Some(table) => table,
            None => self.lake.handle(layer, &name).unwrap(),
        };
        let partition: Vec<&str> = batch.schema().column_with_name("month").map(|_| "month").into_iter().collect();
        table.write([batch]).with_save_mode(SaveMode::Append).with_partition_columns(partition).await.unwrap();
    }

    /// Plans `sql`, with names without a schema from gold.
    pub(crate) async fn plan(&self, sql: &str, versions: Option<&Versions>) -> Result<Plan> {
        let pinned = versions.map(|versions| Pinned { versions: versions.clone(), ..Pinned::default() });
        self.engine.plan(Request { pinned, ..Request::sql("id", sql) }).await
    }

    pub(crate) async fn run(&self, plan: Plan) -> Result<SendableRecordBatchStream> {
        self.engine.run(plan, &Who::default()).await
    }

    pub(crate) fn spill_dir(&self) -> PathBuf {
        self.folder.path().join("spill")
    }
}

/// Rows of every type that tables can have; nullable columns have a NULL in every third row.
pub(crate) fn events(ids: std::ops::Range<i64>) -> RecordBatch {
    let place = Fields::from(vec![Field::new("city", DataType::Utf8, true), Field::new("zip", DataType::Int64, true)]);
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("month", DataType::Utf8, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("local", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("day", DataType::Date32, true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("ratio", DataType::Float64, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("tags", DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true),
        Field::new("place", DataType::Struct(place.clone()), true),
    ]);
    let ids: Vec<i64> = ids.collect();
    let unless_third = |id: &i64| (id % 3 != 2).then_some(*id);
    let some: Vec<Option<i64>> = ids.iter().map(unless_third).collect();
    let names: StringArray = some.iter().map(|id| id.map(|id| format!("name {id}"))).collect();
    let months: StringArray = ids.iter().map(|id| Some(format!("2013-{:02}", id % 2 + 1))).collect();
    let raw: BinaryArray = some.iter().map(|id| id.map(|id| id.to_le_bytes())).collect();
    let mut tags =
        ListBuilder::new(StringBuilder::new()).with_field(Arc::new(Field::new("element", DataType::Utf8, true)));
    for id in &some {
        match id {
            Some(id) => tags.append_value([Some(format!("tag {id}")), None]),
            None => tags.append_null(),
        }
    }
    let cities: ArrayRef = Arc::new(names.clone());
    let zips: ArrayRef = Arc::new(Int64Array::from(some.clone()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(months),
        Arc::new(names),
        Arc::new(
            some.iter()
                .map(|id| id.map(i128::from))
                .collect::<Decimal128Array>()
                .with_data_type(DataType::Decimal128(10, 2)),
        ),
        Arc::new(TimestampMicrosecondArray::from(some.clone()).with_timezone("UTC")),
        Arc::new(TimestampMicrosecondArray::from(some.clone())),
        Arc::new(some.iter().map(|id| id.and_then(|id| i32::try_from(id).ok())).collect::<Date32Array>()),
        Arc::new(some.iter().map(|id| id.map(|id| id % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(some.iter().map(|id| id.map(|id| id as f64 / 2.0)).collect::<Float64Array>()),
        Arc::new(raw),
        Arc::new(tags.finish()),
        Arc::new(StructArray::new(place, vec![cities, zips], None)),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// `system.numbers` has one row more each time it is read; `system.endless` never has any.
#[derive(Default)]
pub(crate) struct FakeSystem {
    pub(crate) scans: AtomicUsize,
    /// Whoever reads `endless` holds a clone while doing so.
    pub(crate) reading: Arc<Mutex<()>>,
}

#[async_trait]
impl SystemTables for FakeSystem {
    fn schemas(&self) -> Vec<(String, SchemaRef)> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        vec![("numbers".to_owned(), Arc::clone(&schema)), ("endless".to_owned(), schema)]
    }

    async fn scan(&self, name: &str) -> Result<Vec<RecordBatch>> {
        let (_, schema) = self.schemas().into_iter().next().unwrap();
        match name {
            "numbers" => {
                let scans = self.scans.fetch_add(1, Ordering::SeqCst) + 1;
                let numbers = Int64Array::from_iter_values(0..i64::try_from(scans).unwrap());
                Ok(vec![RecordBatch::try_new(schema, vec![Arc::new(numbers)]).unwrap()])
            }
            "endless" => {
                let _reading = Arc::clone(&self.reading);
                pending().await
            }
            other => Err(Error::not_found(format!("there is no table system.{other}"))),
        }
    }
}
