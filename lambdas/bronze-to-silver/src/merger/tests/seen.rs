//! What a lab's tables hold and what their logs say, as text that is easily compared.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use lakehouse::delta::DataFile;
use serde_json::Value;

use super::*;

impl Lab {
    /// Goes on with another definition, as after a deployment.
    pub(super) fn redefine(&mut self, toml: &str) {
        self.restart(toml, self.clock.clone(), Settings::default());
    }

    /// Goes on with a merger that knows nothing of what was.
    pub(super) fn restart(&mut self, toml: &str, clock: Arc<dyn Clock>, settings: Settings) {
        std::fs::write(self.folder.path().join("lakehouse.toml"), toml).unwrap();
        let definition = Arc::new(Definition::load(self.folder.path()).unwrap());
        self.merger = Merger::new(Definitions::fixed(definition), self.lake.clone(), clock, settings);
    }

    /// Merges a frame of these columns, as an object of its own.
    pub(super) async fn step(&mut self, columns: Vec<(&str, ArrayRef)>) -> Outcome {
        let number = self.objects as u64;
        let object = self.object(&[frame_of("i", number, columns)]);
        self.merge(&[object]).await.unwrap()
    }

    /// The same of events.
    pub(super) async fn events(&mut self, events: &[Event]) -> Outcome {
        let number = self.objects as u64;
        let object = self.object(&[frame("i", number, events)]);
        self.merge(&[object]).await.unwrap()
    }

    /// Some columns of silver's rows, read by delta-rs' scan and by positions, which must agree.
    pub(super) async fn seen(&self, columns: &[&str]) -> Vec<String> {
        let by_scan = shown(&self.rows(Layer::Silver).await, columns);
        let table = self.open().await;
        let (store, schema) = (table.object_store(), Arc::new(delta::stored_schema(&table).unwrap()));
        let mut batches: Vec<RecordBatch> = Vec::new();
        for file in delta::data_files(&table).unwrap() {
            let rows = delta::live_rows(&store, &file, &schema).await.unwrap();
            let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
            batches.extend(rows);
        }
        assert_eq!(shown(&batches, columns), by_scan, "two readers do not agree");
        by_scan
    }

    /// The data files of silver.
    pub(super) async fn files(&self) -> Vec<DataFile> {
        delta::data_files(&self.open().await).unwrap()
    }

    async fn open(&self) -> deltalake::DeltaTable {
        self.lake.open(Layer::Silver, &Name::new("t").unwrap()).await.unwrap().unwrap()
    }

    /// The bodies of one kind of action in silver's newest commit.
    pub(super) fn newest(&self, kind: &str) -> Vec<Value> {
        let log = std::fs::read_dir(self.data().join("silver/t/_delta_log")).unwrap();
        let commits = log.map(|entry| entry.unwrap().path());
        let newest = commits.filter(|path| path.extension().is_some_and(|it| it == "json")).max().unwrap();
        let text = std::fs::read_to_string(newest).unwrap();
        let actions = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        actions.filter_map(|mut action| action.get_mut(kind).map(Value::take)).collect()
    }

    /// The files that silver's newest commit gave a deletion vector, with how many of their rows are gone.
    pub(super) fn marked(&self) -> BTreeMap<String, i64> {
        let added = self.newest("add").into_iter();
        let marked = added.filter(|add| !add["deletionVector"].is_null());
        let rows = |add: &Value| add["deletionVector"]["cardinality"].as_i64().unwrap();
        marked.map(|add| (add["path"].as_str().unwrap().to_owned(), rows(&add))).collect()
    }
}

/// Some columns of rows, with blanks between them and `-` for NULL, in the order of the first one.
pub(super) fn shown(batches: &[RecordBatch], columns: &[&str]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let column = |name: &&str| ArrayFormatter::try_new(batch.column_by_name(name).unwrap(), &options).unwrap();
        let columns: Vec<ArrayFormatter<'_>> = columns.iter().map(column).collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(values.join(" "));
        }
    }
    rows.sort_by_cached_key(|row: &String| {
        let first = row.split(' ').next().unwrap_or_default().parse::<i64>();
        (first.unwrap_or(i64::MAX), row.clone())
    });
    rows
}

/// A column of whole numbers.
pub(super) fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// A column of texts.
pub(super) fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}
