use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use lakehouse::ManualClock;
use lakehouse::definition::Table;
use lakehouse::schema::{arrow_schema, known_columns};
use tempfile::TempDir;

use super::*;

struct Lab {
    _folder: TempDir,
    definition: Arc<Definition>,
    lake: Lake,
    refresher: Refresher,
}

impl Lab {
    /// Models over the table `silver.t` with the columns `k` and `n`; each model's TOML and SQL.
    fn new(models: &[(&str, &str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut toml =
            "name = \"lab\"\n[tables.t]\ncolumns = [{ name = \"k\", type = \"bigint\" }, { name = \"n\", type = \"bigint\" }]\n"
                .to_owned();
        for (name, options, sql) in models {
            std::fs::write(folder.path().join(format!("{name}.sql")), sql).unwrap();
            toml.push_str(&format!("[models.{name}]\nsql = \"{name}.sql\"\n{options}\n"));
        }
        std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let plan = Plan::of(&definition).unwrap();
        assert_eq!(plan.bind(&definition).len(), 0);
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        let clock = Arc::new(ManualClock::at(1_800_000_000_000_000));
        let refresher = Refresher::new(definition.clone(), plan, lake.clone(), clock, Settings::default());
        Self { _folder: folder, definition, lake, refresher }
    }

    fn table(&self) -> &Table {
        self.definition.table("t").unwrap()
    }

    /// Makes these the rows of `silver.t`.
    async fn silver(&self, rows: &[(i64, i64)]) {
        let schema = arrow_schema(&known_columns(self.table(), None).unwrap());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let table = delta::create(&self.lake, Layer::Silver, &self.table().name, &schema, &[], None).await.unwrap();
        delta::replace(table, vec![batch], &Commit::default()).await.unwrap();
    }

    async fn refresh(&self) -> BTreeMap<String, Result<Outcome>> {
        let due = self.definition.models.keys().cloned().collect();
        let results = self.refresher.refresh(&due).await.unwrap();
        results.into_iter().map(|(name, result)| (name.to_string(), result)).collect()
    }

    async fn gold(&self, model: &str) -> Vec<(i64, i64)> {
        let table = self.lake.open(Layer::Gold, &Name::new(model).unwrap()).await.unwrap().expect("published");
        let stream = delta::read(&table, &delta::session(64 << 20, 1 << 30), None, None).await.unwrap();
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
        let mut rows = Vec::new();
        for batch in batches {
            let number = |at: usize| batch.column(at).as_primitive::<Int64Type>().clone();
            rows.extend(number(0).values().iter().copied().zip(number(1).values().iter().copied()));
        }
        rows.sort();
        rows
    }
}

const TOTALS: (&str, &str, &str) = ("totals", "", "SELECT k, sum(n)::BIGINT AS n FROM silver.t GROUP BY k");

fn is_published(result: &Result<Outcome>) -> bool {
    matches!(result, Ok(Outcome::Published { .. }))
}

#[tokio::test]
async fn a_refresh_that_finds_nothing_new_commits_nothing() {
    let lab = Lab::new(&[TOTALS, ("twice", "", "SELECT k, n * 2 AS n FROM gold.totals")]);
    assert_eq!(lab.refresh().await["totals"].as_ref().unwrap(), &Outcome::Waiting);
    lab.silver(&[(1, 2), (1, 3), (2, 5)]).await;
    assert!(lab.refresh().await.values().all(is_published));
    assert_eq!(lab.gold("twice").await, [(1, 10), (2, 10)]);
    assert!(lab.refresh().await.values().all(|result| matches!(result, Ok(Outcome::Unchanged))));
}

#[tokio::test]
async fn every_mode_follows_its_source() {
    let lab = Lab::new(&[
        TOTALS,
        ("merged", "mode = \"merge\"\nunique_key = [\"k\"]", TOTALS.2),
        ("appended", "mode = \"append\"", "SELECT k, n FROM silver.t"),
    ]);
    for rows in [vec![(1, 2), (2, 5), (2, 5)], vec![(1, 2), (2, 7), (2, 5), (3, 1)], vec![(3, 1), (2, 5), (2, 5)]] {
        lab.silver(&rows).await;
        assert!(lab.refresh().await.values().all(is_published));
        let mut totals = BTreeMap::new();
        rows.iter().for_each(|(k, n)| *totals.entry(*k).or_insert(0) += n);
        let totals: Vec<(i64, i64)> = totals.into_iter().collect();
        assert_eq!(lab.gold("totals").await, totals);
        assert_eq!(lab.gold("merged").await, totals);
    }
    // Append keeps what it had, and adds only what is new.
    assert_eq!(lab.gold("appended").await, [(1, 2), (2, 5), (2, 5), (2, 7), (3, 1)]);
}

#[tokio::test]
async fn a_merge_rewrites_nothing_that_stayed_the_same() {
    let lab = Lab::new(&[("merged", "mode = \"merge\"\nunique_key = [\"k\"]", TOTALS.2)]);
    lab.silver(&[(1, 2)]).await;
    lab.refresh().await;
    let files = |table: DeltaTable| table.get_file_uris().unwrap().collect::<Vec<_>>();
    let name = Name::new("merged").unwrap();
    let before = files(lab.lake.open(Layer::Gold, &name).await.unwrap().unwrap());
    lab.silver(&[(1, 1), (1, 1)]).await;
    assert!(is_published(&lab.refresh().await["merged"]));
    assert_eq!(files(lab.lake.open(Layer::Gold, &name).await.unwrap().unwrap()), before);
}

#[tokio::test]
async fn a_model_that_fails_keeps_its_former_version_and_holds_up_only_what_reads_it() {
    let expect = "[models.checked.expect]\npositive = { check = \"n > 0\", on_fail = \"fail\" }";
    let lab = Lab::new(&[TOTALS, ("checked", expect, TOTALS.2), ("reader", "", "SELECT k, n FROM gold.checked")]);
    lab.silver(&[(1, 2)]).await;
    assert!(lab.refresh().await.values().all(is_published));
    lab.silver(&[(1, -2)]).await;
    let results = lab.refresh().await;
    assert!(is_published(&results["totals"]));
    let error = results["checked"].as_ref().unwrap_err().to_string();
    assert!(error.contains("\"positive\" failed for 1 rows"), "{error}");
    assert!(matches!(&results["reader"], Ok(Outcome::Skipped { failed }) if failed.as_str() == "checked"));
    assert_eq!(lab.gold("checked").await, [(1, 2)]);
    assert_eq!(lab.gold("reader").await, [(1, 2)]);
    let state = lab.refresher.states().remove(&Name::new("checked").unwrap()).unwrap();
    assert!(state.error.unwrap().contains("positive"));
    lab.silver(&[(1, 3)]).await;
    assert!(lab.refresh().await.values().all(is_published));
    assert_eq!(lab.gold("reader").await, [(1, 3)]);
}

#[tokio::test]
async fn an_error_at_run_time_names_its_line() {
    let lab = Lab::new(&[("m", "", "SELECT k,\n  error('no ' || n)::BIGINT AS n\nFROM silver.t")]);
    lab.silver(&[(1, 2)]).await;
    let error = lab.refresh().await["m"].as_ref().unwrap_err().to_string();
    assert!(error.starts_with("m.sql:1: ") && error.contains("no 2"), "{error}");
}

#[tokio::test]
async fn a_unique_key_that_is_not_unique_is_refused_by_value() {
    let lab = Lab::new(&[("m", "mode = \"merge\"\nunique_key = [\"k\"]", "SELECT k, n FROM silver.t")]);
    lab.silver(&[(7, 1), (7, 2)]).await;
    let error = lab.refresh().await["m"].as_ref().unwrap_err().to_string();
    assert!(error.contains("unique_key (7)"), "{error}");
}

#[tokio::test]
async fn an_append_model_that_gives_other_columns_keeps_its_rows() {
    let lab = Lab::new(&[("m", "mode = \"append\"", "SELECT k, n FROM silver.t")]);
    lab.silver(&[(1, 2)]).await;
    lab.refresh().await;
    let changed = Lab::new(&[("m", "mode = \"append\"", "SELECT k, n, 1 AS more FROM silver.t")]);
    let refresher = Refresher::new(
        changed.definition.clone(),
        changed.refresher.plan().clone(),
        lab.lake.clone(),
        Arc::new(ManualClock::at(1)),
        Settings::default(),
    );
    let due = changed.definition.models.keys().cloned().collect();
    let error = refresher.refresh(&due).await.unwrap().into_values().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("other columns"), "{error}");
    assert_eq!(lab.gold("m").await, [(1, 2)]);
}
