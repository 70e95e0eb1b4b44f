use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt as _;
use lakehouse::{Kind, Layer, Name};

use super::fixture::{Fixture, events};
use super::*;

/// 2026-01-01, in microseconds since the epoch.
const MIDNIGHT_US: i64 = 1_767_225_600_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// Three versions of `silver.events`, with 6, 12 and 18 rows, of 0, 1 and 2 o'clock; `gold.delays` is of 1 o'clock.
async fn three_versions() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.append(Layer::Silver, "events", events(6..12)).await;
    fixture.append(Layer::Silver, "events", events(12..18)).await;
    for hour in 0..3 {
        set_commit_time(&fixture, Layer::Silver, "events", hour, hour);
    }
    set_commit_time(&fixture, Layer::Gold, "delays", 0, 1);
    fixture
}

fn set_commit_time(fixture: &Fixture, layer: Layer, name: &str, version: u64, hour: u64) {
    let folder = fixture.lake.table_url(layer, &Name::new(name).unwrap()).to_file_path().unwrap();
    let commit = File::options().write(true).open(folder.join(format!("_delta_log/{version:020}.json"))).unwrap();
    let midnight = Duration::from_micros(MIDNIGHT_US.unsigned_abs());
    commit.set_modified(UNIX_EPOCH + midnight + Duration::from_secs(hour * 3_600)).unwrap();
}

fn as_of(us: i64, sql: &str) -> Request {
    let session = proto::Session { as_of_us: Some(us), ..proto::Session::default() };
    Request { session, ..Request::sql("id", sql) }
}

async fn rows(fixture: &Fixture, request: Request) -> Vec<RecordBatch> {
    let asked = format!("{:?}", request.text);
    let plan = fixture.engine.plan(request).await.unwrap_or_else(|error| panic!("{asked}: {error:?}"));
    fixture.run(plan).await.unwrap().try_collect().await.unwrap_or_else(|error| panic!("{asked}: {error}"))
}

async fn number(fixture: &Fixture, request: Request) -> i64 {
    rows(fixture, request).await[0].column(0).as_primitive::<Int64Type>().value(0)
}

async fn text(fixture: &Fixture, sql: &str) -> String {
    pretty_format_batches(&rows(fixture, Request::sql("id", sql)).await).unwrap().to_string()
}

async fn refusal(fixture: &Fixture, request: Request) -> (Kind, String) {
    let error = fixture.engine.plan(request).await.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn a_version_is_read_as_it_was_beside_others() {
    let fixture = three_versions().await;
    for (version, expected) in [(0, 6), (1, 12), (2, 18)] {
        let sql = format!("SELECT count(*) FROM silver.events FOR VERSION AS OF {version} WHERE events.id >= 0");
        assert_eq!(number(&fixture, Request::sql("id", sql)).await, expected);
    }
    let sql = "SELECT count(*) FROM silver.events LEFT JOIN silver.events VERSION AS OF 0 AS old USING (id) \
               WHERE old.id IS NULL";
    assert_eq!(number(&fixture, Request::sql("id", sql)).await, 12);
    let plan = fixture.plan(sql, None).await.unwrap();
    let expected = Versions::from([("silver.events".into(), 2), ("silver.events@v0".into(), 0)]);
    assert_eq!(plan.versions(), &expected);
}

#[tokio::test]
async fn a_time_means_the_newest_version_of_then() {
    let fixture = three_versions().await;
    let cases = [
        ("'2026-01-01'", 6),
        ("'2026-01-01 00:59:59.999'", 6),
        ("TIMESTAMP '2026-01-01 01:00:00'", 12),
        ("'2026-01-01T03:30:00+02:00'", 12),
        ("'2026-01-01 02:00'", 18),
        ("DATE '2100-01-01'", 18),
    ];
    for (time, expected) in cases {
        let sql = format!("SELECT count(*) FROM silver.events FOR TIMESTAMP AS OF {time}");
        assert_eq!(number(&fixture, Request::sql("id", sql)).await, expected, "{time}");
    }
}

#[tokio::test]
async fn states_that_never_were_are_not_found() {
    let fixture = three_versions().await;
    let cases = [
        ("silver.events FOR VERSION AS OF 7", "table silver.events has no version 7; its newest is 2"),
        ("silver.carriers FOR VERSION AS OF 0", "table silver.carriers has no version yet"),
        (
            "silver.events FOR TIMESTAMP AS OF '2025-12-31'",
            "did not exist yet at 2025-12-31T00:00:00Z: its first version is of 2026-01-01T00:00:00Z",
        ),
        ("silver.carriers FOR TIMESTAMP AS OF '2026-01-01'", "table silver.carriers has no rows yet"),
        ("gold.unrefreshed FOR TIMESTAMP AS OF '2026-01-01'", "table gold.unrefreshed has no rows yet"),
    ];
    for (table, expected) in cases {
        let (kind, message) = refusal(&fixture, Request::sql("id", format!("SELECT * FROM {table}"))).await;
        assert_eq!(kind, Kind::NotFound, "{table}: {message}");
        assert!(message.contains(expected), "{table}: {message}");
    }
    let (kind, message) = refusal(&fixture, Request::sql("id", "SELECT * FROM silver.evnts FOR VERSION AS OF 0")).await;
    assert_eq!(
        (kind, message.as_str()),
        (Kind::Invalid, "there is no table silver.evnts; did you mean silver.events?")
    );
    let (kind, message) = refusal(&fixture, Request::sql("id", "SELECT * FROM system.numbers VERSION AS OF 0")).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(message.contains("leave AS OF out"), "{message}");
}

#[tokio::test]
async fn a_second_planning_reads_what_a_time_meant_at_the_first() {
    let fixture = three_versions().await;
    let sql = "SELECT count(*) FROM silver.events FOR TIMESTAMP AS OF '2100-01-01'";
    let pinned = fixture.plan(sql, None).await.unwrap().versions().clone();
    fixture.append(Layer::Silver, "events", events(18..24)).await;
    assert_eq!(number(&fixture, Request::sql("id", sql)).await, 24);
    let pinned = Some(Pinned { versions: pinned, ..Pinned::default() });
    assert_eq!(number(&fixture, Request { pinned, ..Request::sql("id", sql) }).await, 18);
}

#[tokio::test]
async fn a_session_reads_all_tables_as_of_its_time() {
    let fixture = three_versions().await;
    let half_past_one = MIDNIGHT_US + HOUR_US * 3 / 2;
    let sql = "SELECT count(*) FROM silver.events, delays, system.numbers";
    assert_eq!(number(&fixture, as_of(half_past_one, sql)).await, 12);
    let plan = fixture.engine.plan(as_of(half_past_one, sql)).await.unwrap();
    assert_eq!(plan.versions(), &Versions::from([("silver.events".into(), 1), ("gold.delays".into(), 0)]));

    let own = "SELECT count(*) FROM silver.events FOR VERSION AS OF 0";
    assert_eq!(number(&fixture, as_of(half_past_one, own)).await, 6);
    let (kind, message) = refusal(&fixture, as_of(MIDNIGHT_US, "SELECT * FROM delays")).await;
    assert_eq!(kind, Kind::NotFound);
    assert!(message.contains("gold.delays did not exist yet"), "{message}");
}

#[tokio::test]
async fn a_session_in_the_past_lists_what_there_was_and_does_not_write() {
    let fixture = three_versions().await;
    let names = "SELECT count(*) FROM information_schema.tables WHERE table_schema IN ('gold', 'silver')";
    assert_eq!(number(&fixture, as_of(MIDNIGHT_US, names)).await, 1);
    assert_eq!(number(&fixture, as_of(MIDNIGHT_US + HOUR_US, names)).await, 2);
    for sql in ["INSERT INTO silver.carriers VALUES ('AA', 'x')", "DELETE FROM silver.carriers WHERE code = 'AA'"] {
        let (kind, message) = refusal(&fixture, as_of(MIDNIGHT_US, sql)).await;
        assert_eq!(kind, Kind::Invalid);
        assert!(message.contains("unset as_of"), "{sql}: {message}");
    }
}

#[tokio::test]
async fn information_schema_has_the_comments_of_the_definition() {
    let fixture = Fixture::new().await;
    let tables = "SELECT table_name, comment FROM information_schema.tables WHERE table_name IN ('delays', 'events')";
    let tables = text(&fixture, tables).await;
    assert!(tables.contains("one row an event") && tables.contains("what people look at"), "{tables}");
    let columns = "SELECT column_name AS c, comment FROM information_schema.columns \
                   WHERE table_name = 'carriers' AND comment IS NOT NULL";
    let columns = text(&fixture, columns).await;
    assert!(columns.contains("| code | two letters |") && columns.lines().count() == 5, "{columns}");
}

#[tokio::test]
async fn the_rest_of_information_schema_is_the_engines_own() {
    let fixture = Fixture::new().await;
    for (sql, expected) in [
        ("SHOW FUNCTIONS LIKE 'abs'", "abs"),
        ("SHOW ALL", "datafusion.execution.batch_size"),
        ("SHOW TIMEZONE", "datafusion.execution.time_zone"),
        ("SELECT schema_name FROM information_schema.schemata", "silver"),
        ("SELECT table_name FROM information_schema.views", "events"),
        ("SELECT routine_name FROM information_schema.routines WHERE routine_name = 'sum'", "sum"),
        ("SELECT count(*) > 0 AS has_any FROM information_schema.parameters", "true"),
    ] {
        let found = text(&fixture, sql).await;
        assert!(found.contains(expected), "{sql}: {found}");
    }
}

#[tokio::test]
async fn the_target_of_an_insert_is_not_to_be_seen() {
    let fixture = Fixture::new().await;
    let (kind, message) = refusal(&fixture, Request::sql("id", "SELECT * FROM \"$target\".events")).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(message.starts_with("there is no schema \"$target\""), "{message}");
}
