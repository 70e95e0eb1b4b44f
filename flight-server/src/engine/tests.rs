use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use futures::{StreamExt as _, TryStreamExt as _};
use lakehouse::{Kind, Layer};

use super::fixture::{Fixture, events};
use super::*;

async fn rows(fixture: &Fixture, sql: &str) -> Vec<RecordBatch> {
    let plan = fixture.plan(sql, None).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let stream = fixture.run(plan).await.unwrap();
    stream.try_collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn text(fixture: &Fixture, sql: &str) -> String {
    pretty_format_batches(&rows(fixture, sql).await).unwrap().to_string()
}

async fn number(fixture: &Fixture, sql: &str) -> i64 {
    rows(fixture, sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
}

async fn refusal(fixture: &Fixture, sql: &str) -> (Kind, String) {
    let error = fixture.plan(sql, None).await.expect_err(sql);
    (error.kind(), error.to_string())
}

/// Queries of many shapes; shared with the tests of the transport.
pub(crate) const QUERIES: [&str; 22] = [
    "SELECT * FROM silver.events",
    "SELECT * FROM silver.events WHERE id < 0",
    "SELECT month, name FROM silver.events ORDER BY id",
    "SELECT count(*), min(id), max(id), min(name), max(price), avg(ratio) FROM silver.events",
    "SELECT min(id), max(at) FROM silver.events WHERE id < 0",
    "SELECT month, count(*) AS n, sum(price) AS total FROM silver.events GROUP BY month ORDER BY month",
    "SELECT month, array_agg(name ORDER BY id) AS names FROM silver.events GROUP BY month",
    "SELECT place['city'] AS city, tags[1] AS tag, cardinality(tags) AS n FROM silver.events",
    "SELECT struct(month, name) AS both, make_array(month, name) AS list FROM silver.events",
    "SELECT a.month, b.name FROM silver.events a LEFT JOIN silver.events b ON a.id = b.id + 1",
    "SELECT id, row_number() OVER (PARTITION BY month ORDER BY id) AS place, lag(name) OVER (ORDER BY id) FROM silver.events",
    "SELECT month FROM silver.events UNION ALL SELECT name FROM silver.events",
    "SELECT id FROM silver.events UNION SELECT NULL",
    "SELECT NULL AS nothing, 1 AS one, 'x' AS text, TRUE AS yes, 1.5 AS half, X'00' AS bytes",
    "SELECT cast('2013-01-01' AS date) AS day, now() AS at, interval '1 day' AS step, cast('10:00' AS time) AS t",
    "SELECT arrow_cast('a', 'Dictionary(Int32, Utf8)') AS d, arrow_cast('b', 'Utf8View') AS v, arrow_cast('c', 'LargeUtf8') AS l",
    "SELECT arrow_cast(make_array('a'), 'LargeList(Utf8View)') AS l, arrow_cast(1.5, 'Decimal64(5, 1)') AS d",
    "SELECT coalesce(name, month) AS label, CASE WHEN ok THEN name ELSE month END FROM silver.events",
    "WITH recent AS (SELECT * FROM silver.events WHERE id > 2) SELECT upper(name), at, local, day, raw FROM recent",
    "SELECT * FROM silver.carriers",
    "SELECT n FROM system.numbers WHERE n >= 0",
    "EXPLAIN SELECT count(*) FROM silver.events",
];

#[tokio::test]
async fn a_result_has_the_schema_that_was_announced() {
    let fixture = Fixture::new().await;
    for sql in QUERIES {
        let plan = fixture.plan(sql, None).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let announced = Arc::clone(plan.schema());
        assert_eq!(plain_schema(&announced), announced, "{sql}");
        let stream = fixture.run(plan).await.unwrap();
        assert_eq!(stream.schema(), announced, "{sql}");
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        for batch in batches {
            assert_eq!(batch.schema(), announced, "{sql}");
        }
    }
}

#[tokio::test]
async fn values_survive_the_way_through() {
    let fixture = Fixture::new().await;
    let batches = rows(&fixture, "SELECT * FROM silver.events ORDER BY id").await;
    let found = pretty_format_batches(&batches).unwrap().to_string();
    let written = events(0..6);
    let order: Vec<&str> = batches[0].schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let columns = order.iter().map(|name| written.schema().index_of(name).unwrap()).collect::<Vec<_>>();
    let expected = pretty_format_batches(&[written.project(&columns).unwrap()]).unwrap().to_string();
    assert_eq!(found, expected);
    assert_eq!(batches[0].schema().field_with_name("month").unwrap().data_type(), &DataType::Utf8);
}

#[tokio::test]
async fn a_plan_with_pinned_versions_reads_the_old_rows() {
    let fixture = Fixture::new().await;
    let sql = "SELECT count(*) FROM silver.events a JOIN silver.events b USING (id), silver.carriers";
    let before = fixture.plan(sql, None).await.unwrap();
    let pinned = before.versions().clone();
    assert_eq!(pinned, Versions::from([("silver.events".into(), 0), ("silver.carriers".into(), NEVER_COMMITTED)]));

    // More commits than are kept loaded.
    for start in 1..7 {
        fixture.append(Layer::Silver, "events", events(start * 6..start * 6 + 6)).await;
        assert_eq!(number(&fixture, "SELECT count(*) FROM silver.events").await, start * 6 + 6);
    }
    let plan = fixture.plan("SELECT count(*) FROM silver.events", Some(&pinned)).await.unwrap();
    assert_eq!(plan.versions()["silver.events"], 0);
    let batches: Vec<RecordBatch> = fixture.run(plan).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 6);
}

#[tokio::test]
async fn a_pinned_version_that_is_gone_is_said_to_be() {
    let fixture = Fixture::new().await;
    let pinned = Versions::from([("silver.events".to_owned(), 99)]);
    let error = fixture.plan("SELECT * FROM silver.events", Some(&pinned)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[tokio::test]
async fn gold_is_the_default_schema_and_another_can_be_chosen() {
    let fixture = Fixture::new().await;
    assert_eq!(number(&fixture, "SELECT count(*) FROM delays").await, 1);
    assert_eq!(number(&fixture, "SELECT count(*) FROM flights.gold.delays").await, 1);
    let session = proto::Session { schema: SILVER.to_owned(), ..proto::Session::default() };
    let request = Request { session, ..Request::sql("id", "SELECT count(*) FROM events") };
    fixture.engine.plan(request).await.unwrap();
}

#[tokio::test]
async fn writes_are_refused_with_what_to_do_instead() {
    let fixture = Fixture::new().await;
    let writes = [
        "INSERT INTO gold.delays VALUES ('x')",
        "INSERT INTO silver.events (nosuch) VALUES (1)",
        "UPDATE silver.events SET id = 1",
        "DELETE FROM silver.events",
        "CREATE TABLE x (a int)",
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "COPY (SELECT 1) TO 'x.csv'",
        "DROP TABLE silver.events",
        "EXPLAIN ANALYZE INSERT INTO silver.events (id) VALUES (1)",
        "TRUNCATE TABLE silver.events",
    ];
    for sql in writes {
        let (kind, message) = refusal(&fixture, sql).await;
        assert_eq!(kind, Kind::Invalid, "{sql}");
        assert!(message.contains("refused") || message.contains("has no column"), "{sql}: {message}");
    }
    let (_, message) = refusal(&fixture, "BEGIN").await;
    assert!(message.starts_with("there are no transactions over SQL"), "{message}");
    let (_, message) = refusal(&fixture, "SET datafusion.execution.batch_size = 1").await;
    assert!(message.starts_with("a session has no settings over SQL"), "{message}");
    assert_eq!(number(&fixture, "SELECT count(*) FROM silver.events").await, 6);
}

#[tokio::test]
async fn files_and_urls_are_no_tables() {
    let fixture = Fixture::new().await;
    for sql in ["SELECT * FROM '/etc/passwd'", "SELECT * FROM 'https://example.org/x.csv'"] {
        assert_eq!(refusal(&fixture, sql).await.0, Kind::Invalid);
    }
}

#[tokio::test]
async fn errors_in_sql_name_the_error_once() {
    let fixture = Fixture::new().await;
    let cases = [
        ("SELEC 1", "SQL: Expected: an SQL statement, found: SELEC at Line: 1, Column: 1"),
        ("SELECT 1; SELECT 2", "send one at a time"),
        ("SELECT nam FROM silver.events", "No field named nam"),
        ("SELECT * FROM silver.event", "there is no table silver.event; did you mean silver.events?"),
        ("SELECT * FROM events", "there is no table gold.events; did you mean silver.events?"),
        (
            "SELECT * FROM bronze.events",
            "there is no schema \"bronze\"; there are gold, silver, system and information_schema",
        ),
        ("SELECT * FROM other.gold.delays", "there is no catalog \"other\"; the only one is \"flights\""),
        ("SELECT * FROM gold.zzzzzz", "there is no table gold.zzzzzz; SHOW TABLES lists all there are"),
        ("SELECT nosuch(1)", "Invalid function 'nosuch'"),
        ("SELECT * FROM silver.events WHERE id = $1", "parameters: the statement has 1, and 0 were bound"),
    ];
    for (sql, expected) in cases {
        let (kind, message) = refusal(&fixture, sql).await;
        assert_eq!(kind, Kind::Invalid, "{sql}");
        assert!(message.contains(expected), "{sql}: {message}");
        assert!(!message.contains("Error during planning"), "{sql}: {message}");
    }
}

#[tokio::test]
async fn errors_of_values_are_the_statements_own() {
    let fixture = Fixture::new().await;
    for sql in ["SELECT id / (id - id) FROM silver.events", "SELECT cast(name AS int) FROM silver.events"] {
        let plan = fixture.plan(sql, None).await.unwrap();
        let results: Result<Vec<RecordBatch>, _> = fixture.run(plan).await.unwrap().try_collect().await;
        assert_eq!(explain(results.unwrap_err()).kind(), Kind::Invalid, "{sql}");
    }
}

#[tokio::test]
async fn tables_without_rows_are_empty_or_say_what_is_missing() {
    let fixture = Fixture::new().await;
    assert_eq!(number(&fixture, "SELECT count(*) FROM silver.carriers").await, 0);
    let (kind, message) = refusal(&fixture, "SELECT * FROM silver.untouched").await;
    assert_eq!(kind, Kind::NotFound);
    assert_eq!(message, "table silver.untouched has no rows and no declared columns yet; ingest into it first");
    let (kind, message) = refusal(&fixture, "SELECT * FROM unrefreshed").await;
    assert_eq!(kind, Kind::NotFound);
    assert!(message.starts_with("model gold.unrefreshed has not been refreshed yet"), "{message}");
}

#[tokio::test]
async fn the_catalog_lists_every_table_with_the_columns_that_queries_give() {
    let fixture = Fixture::new().await;
    let catalog = fixture.engine.catalog().await.unwrap();
    let listed: Vec<String> = catalog.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect();
    let expected = [
        "gold.delays",
        "gold.unrefreshed",
        "silver.carriers",
        "silver.events",
        "silver.untouched",
        "system.endless",
        "system.numbers",
    ];
    assert_eq!(listed, expected);
    for table in &catalog {
        let sql = format!("SELECT * FROM {}.{}", table.schema, table.name);
        match &table.arrow_schema {
            Some(schema) => {
                let plan = fixture.plan(&sql, None).await.unwrap();
                assert_eq!(plan.schema().fields(), schema.fields(), "{sql}");
            }
            None => assert_eq!(refusal(&fixture, &sql).await.0, Kind::NotFound),
        }
    }
    assert_eq!(catalog[3].description.as_deref(), Some("one row an event"));
    assert_eq!(catalog[3].table_type, "TABLE");
    assert_eq!(catalog[6].table_type, "SYSTEM TABLE");
}

#[tokio::test]
async fn information_schema_lists_the_tables_that_have_columns() {
    let fixture = Fixture::new().await;
    let names = "SELECT table_schema || '.' || table_name FROM information_schema.tables \
                 WHERE table_schema <> 'information_schema' ORDER BY 1";
    let found = text(&fixture, names).await;
    for name in ["gold.delays", "silver.carriers", "silver.events", "system.numbers"] {
        assert!(found.contains(name), "{found}");
    }
    assert!(!found.contains("untouched") && !found.contains("unrefreshed"), "{found}");
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'events'";
    assert_eq!(number(&fixture, columns).await, 12);
    assert!(text(&fixture, "SHOW TABLES").await.contains("carriers"));
    assert!(text(&fixture, "DESCRIBE silver.events").await.contains("price"));
    assert!(text(&fixture, "SHOW COLUMNS FROM silver.events").await.contains("ratio"));
}

#[tokio::test]
async fn system_tables_are_computed_when_they_are_read() {
    let fixture = Fixture::new().await;
    let plan = fixture.plan("SELECT count(*) FROM system.numbers", None).await.unwrap();
    assert_eq!(fixture.system.scans.load(Ordering::SeqCst), 0);
    assert!(plan.versions().is_empty());
    let _batches: Vec<RecordBatch> = fixture.run(plan).await.unwrap().try_collect().await.unwrap();
    assert_eq!(fixture.system.scans.load(Ordering::SeqCst), 1);
    assert_eq!(number(&fixture, "SELECT count(*) FROM system.numbers").await, 2);
}

#[tokio::test]
async fn dropping_a_stream_stops_its_work() {
    let fixture = Fixture::new().await;
    let sql = "SELECT a.n, count(*) FROM system.endless a JOIN system.numbers b ON a.n = b.n GROUP BY a.n";
    let plan = fixture.plan(sql, None).await.unwrap();
    let mut stream = fixture.run(plan).await.unwrap();
    let reading = || Arc::strong_count(&fixture.system.reading) - 1;
    assert!(tokio::time::timeout(Duration::from_millis(200), stream.next()).await.is_err(), "it ended");
    assert_eq!(reading(), 1);
    drop(stream);
    for _ in 0..100 {
        if reading() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the query still runs");
}

#[tokio::test]
async fn slices_hold_each_row_of_a_result_once() {
    let fixture = Fixture::with(|options| options.slice_bytes = 1 << 20).await;
    // Values that don't compress, so that there is something to cut.
    let values = (0..400_000_i64).map(|n| n.wrapping_mul(0x1E37_79B9_7F4A_7C15));
    let values: Int64Array = values.collect();
    let rows = RecordBatch::try_from_iter([("n", Arc::new(values) as ArrayRef)]).unwrap();
    fixture.append(Layer::Silver, "untouched", rows).await;
    let scan = "SELECT n FROM silver.untouched WHERE n % 2 = 0";
    // Ids from 0 to 5, of which the scan has the 0 too.
    let union = format!("{scan} UNION ALL SELECT id FROM silver.events");
    for (sql, expected) in [(scan.to_owned(), (200_000, 200_000)), (union, (200_006, 200_005))] {
        let planned = fixture.plan(&sql, None).await.unwrap();
        let slices: Vec<Slice> = planned.slices().collect();
        assert!(slices.len() > 1, "it is not sliced: {sql}");
        let (mut count, mut distinct) = (0, HashSet::<i64>::new());
        for slice in slices {
            let versions = planned.versions().clone();
            let pinned = Pinned { versions, planned_at_us: planned.planned_at_us(), slice: Some(slice) };
            let request = Request { pinned: Some(pinned), ..Request::sql("slice", &sql) };
            let stream = fixture.run(fixture.engine.plan(request).await.unwrap()).await.unwrap();
            for batch in stream.try_collect::<Vec<_>>().await.unwrap() {
                count += batch.num_rows();
                distinct.extend(batch.column(0).as_primitive::<Int64Type>().values());
            }
        }
        assert_eq!((count, distinct.len()), expected, "{sql}");
    }
}

#[tokio::test]
async fn functions_that_make_much_of_little_have_a_limit() {
    let fixture = Fixture::new().await;
    let huge = [
        "repeat('x', 2000000000)",
        "repeat(repeat('x', 1000000), 1000000)",
        "lpad('x', 2000000000, 'y')",
        "rpad('x', 2147483647)",
        "replace(repeat('a', 1000000), 'a', repeat('b', 100000))",
        "regexp_replace(repeat('a', 1000000), 'a', repeat('b', 100000), 'g')",
        "range(0, 1000000000)",
        "generate_series(1, 9000000000, 2)",
        "array_repeat(repeat('x', 1000000), 1000)",
    ];
    for value in huge {
        // Of what differs by row too, which is not computed ahead.
        let of_rows = format!("SELECT CASE WHEN id < 0 THEN NULL ELSE {value} END FROM silver.events");
        for sql in [format!("SELECT {value}"), of_rows] {
            let plan = fixture.plan(&sql, None).await.unwrap();
            let error = fixture.run(plan).await.unwrap().try_collect::<Vec<_>>().await.unwrap_err();
            let error = explain(error);
            assert!(error.kind() == Kind::Exhausted && error.to_string().contains("the most is"), "{sql}: {error}");
        }
    }
    let usual = "SELECT repeat('ab', 3), lpad('x', 3, 'y'), replace('aba', 'a', 'c'), range(0, 3), \
                 regexp_replace('aba', 'a', 'c', 'g'), generate_series(1, 5, 2), array_repeat(1, 2), list_repeat('x', 1)";
    let row = &rows(&fixture, usual).await[0];
    let shown = |at: usize| arrow::util::display::array_value_to_string(row.column(at), 0).unwrap();
    let shown: Vec<String> = (0..row.num_columns()).map(shown).collect();
    assert_eq!(shown, ["ababab", "yyx", "cbc", "[0, 1, 2]", "cbc", "[1, 3, 5]", "[1, 1]", "[x]"]);
    let days = "SELECT cardinality(range(DATE '2024-01-01', DATE '2024-02-01', INTERVAL '1 day'))";
    rows(&fixture, days).await;
}

#[tokio::test]
async fn a_limit_holds_where_no_column_is_read() {
    let fixture = Fixture::new().await;
    assert_eq!(number(&fixture, "SELECT count(*) FROM (SELECT 1 FROM silver.events LIMIT 2)").await, 2);
    let rows = rows(&fixture, "SELECT 1 FROM silver.events LIMIT 3 OFFSET 4").await;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    assert_eq!(number(&fixture, "SELECT count(*) FROM silver.events").await, 6);
}

#[tokio::test]
async fn instants_have_a_zone() {
    let fixture = Fixture::new().await;
    let sql = "SELECT now() AS a, cast('2024-02-29 12:00:00+01:00' AS TIMESTAMPTZ) AS b";
    let plan = fixture.plan(sql, None).await.unwrap();
    for field in plan.schema().fields() {
        assert!(matches!(field.data_type(), DataType::Timestamp(_, Some(zone)) if **zone == *"UTC"), "{field}");
    }
    let local = fixture.plan("SELECT timestamp '2024-02-29 12:00:00' AS c", None).await.unwrap();
    assert!(matches!(local.schema().field(0).data_type(), DataType::Timestamp(_, None)));
}

#[tokio::test]
async fn a_join_that_nobody_wants_any_more_ends_soon() {
    let fixture = Fixture::new().await;
    let (left, right) = ("generate_series(1, 300000) AS a(x)", "generate_series(1, 1000000) AS b(y)");
    for sql in [
        // No pair qualifies, so neither gives a row; each alone would compute for minutes between two waits.
        format!("SELECT count(*) FROM {left} JOIN {right} ON x * y % 7 = 8"),
        format!("SELECT count(*) FROM {left} JOIN {right} ON x % 2 = y % 2 AND x * y % 7 = 8"),
        format!("SELECT sum(x * y) FROM {left} CROSS JOIN {right}"),
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n % 7 FROM t) SELECT count(*) FROM t".to_owned(),
    ] {
        let plan = fixture.plan(&sql, None).await.unwrap();
        let memory = Arc::clone(&plan.memory);
        let mut stream = fixture.run(plan).await.unwrap();
        let first = tokio::time::timeout(Duration::from_millis(500), stream.next()).await;
        assert!(first.is_err() && memory.peak_bytes() > 0, "it does not compute: {sql}");
        drop(stream);
        let mut polls = 0..100;
        // What computes holds on to its memory, and to the pool itself.
        while Arc::strong_count(&memory) > 1 {
            assert!(polls.next().is_some(), "it still computes: {sql}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_query_that_needs_too_much_memory_says_so() {
    let fixture = Fixture::with(|options| (options.memory_bytes, options.spill_bytes_max) = (1 << 20, 1 << 20)).await;
    let sql = "SELECT value, array_agg(repeat('x', 100)) FROM generate_series(1, 2000000) GROUP BY value ORDER BY 2";
    let plan = fixture.plan(sql, None).await.unwrap();
    let results: Result<Vec<RecordBatch>, _> = fixture.run(plan).await.unwrap().try_collect().await;
    let error = explain(results.unwrap_err());
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    assert!(error.to_string().contains("read fewer rows"), "{error}");
    assert!(fixture.spill_dir().is_dir());
}

#[tokio::test]
async fn filters_and_columns_reach_the_scan() {
    let fixture = Fixture::new().await;
    let plan = text(&fixture, "EXPLAIN SELECT name FROM silver.events WHERE month = '2013-01' AND id > 3").await;
    let scan = plan.lines().find(|line| line.contains("DataSourceExec")).unwrap_or_else(|| panic!("{plan}"));
    assert!(scan.contains("id@") && !scan.contains("price"), "{scan}");
    assert!(!plan.contains("month=2013-02"), "the other month's files are read: {plan}");
}
