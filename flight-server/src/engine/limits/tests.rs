use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::TryStreamExt as _;
use lakehouse::Kind;

use super::*;
use crate::engine::fixture::Fixture;
use crate::engine::{Request, Who, explain};

/// Plans and runs `sql` on a worker thread, with the stack that the server has.
async fn run(fixture: &Fixture, sql: String) -> Result<Vec<RecordBatch>> {
    let engine = Arc::clone(&fixture.engine);
    let running = tokio::spawn(async move {
        let plan = engine.plan(Request::sql("id", sql)).await?;
        engine.run(plan, &Who::default()).await?.try_collect().await.map_err(explain)
    });
    running.await.unwrap()
}

/// `0 OR id = 1 OR id = 2 …`, as deep as `depth`.
fn alternatives(depth: usize) -> String {
    let alternatives: String = (2..depth).map(|n| format!(" OR id = {n}")).collect();
    format!("id = 0{alternatives}")
}

fn joins(tables: usize, condition: &str) -> String {
    let joined: String = (1..tables).map(|n| format!(" JOIN (VALUES (1)) t{n}(a{n}) ON a{n} = t.id")).collect();
    format!("SELECT count(*) FROM (VALUES (1)) t(id){joined} WHERE {condition}")
}

/// Each statement is as long or deep as it may be (`exceeded` false), or by one more.
fn chains(exceeded: bool) -> Vec<String> {
    let more = usize::from(exceeded);
    let depth = EXPRESSION_DEPTH_MAX + more;
    let repeated = |head: &str, link: &str, times: usize| format!("{head}{}", link.repeat(times));
    vec![
        repeated("SELECT 1", " + 1", depth - 1),
        repeated("SELECT 'a'", " || 'a'", depth - 1),
        repeated("SELECT 1", " IS NULL", depth - 1),
        repeated("SELECT 1", "::bigint", depth - 1),
        format!("SELECT count(*) FROM silver.events WHERE {}", alternatives(depth)),
        repeated("SELECT 1", " UNION ALL SELECT 1", SET_OPERATIONS_MAX + more),
        joins(TABLES_MAX + more, "TRUE"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_run_at_the_limits_and_are_refused_beyond_them() {
    let fixture = Fixture::new().await;
    for sql in chains(false) {
        let start: String = sql.chars().take(60).collect();
        run(&fixture, sql).await.unwrap_or_else(|error| panic!("{start}: {error}"));
    }
    for sql in chains(true) {
        let start: String = sql.chars().take(60).collect();
        let error = run(&fixture, sql).await.expect_err(&start);
        assert_eq!(error.kind(), Kind::Exhausted, "{start}: {error}");
        assert!(error.to_string().contains("; the most is "), "{start}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_limits_can_be_met_at_once() {
    let fixture = Fixture::new().await;
    let condition = alternatives(EXPRESSION_DEPTH_MAX).replace("id", "t.id");
    let unions = " UNION ALL SELECT 1".repeat(SET_OPERATIONS_MAX);
    run(&fixture, format!("{}{unions}", joins(TABLES_MAX, &condition))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn monstrous_statements_are_refused_before_they_are_parsed() {
    let fixture = Fixture::new().await;
    let monsters = [
        format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX)),
        format!("SELECT 1{}", " + 1".repeat(200_000)),
        format!("SELECT 1{}", "::int".repeat(150_000)),
        format!("SELECT {} 1", "NOT ".repeat(200_000)),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(60_000)),
    ];
    for sql in monsters {
        let start: String = sql.chars().take(30).collect();
        assert_eq!(run(&fixture, sql).await.expect_err(&start).kind(), Kind::Exhausted, "{start}");
    }
    let parentheses = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(run(&fixture, parentheses).await.unwrap_err().kind(), Kind::Invalid);
    let brackets = format!("SELECT {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(run(&fixture, brackets).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_short_text_makes_large_is_measured() {
    let fixture = Fixture::new().await;
    let doubled: String = (1..25).map(|n| format!(", t{n} AS (SELECT a.* FROM t{} a, t{0} b)", n - 1)).collect();
    let list: Vec<String> = (0..=LIST_VALUES_MAX).map(|n| n.to_string()).collect();
    let depth = TYPE_DEPTH_MAX + 1;
    for sql in [
        format!("WITH t0 AS (SELECT * FROM silver.events){doubled} SELECT * FROM t24"),
        format!("SELECT * FROM silver.events WHERE id IN ({})", list.join(", ")),
        format!("SELECT arrow_cast(NULL, '{}Int8{}')", "List(".repeat(depth), ")".repeat(depth)),
    ] {
        let start: String = sql.chars().take(60).collect();
        assert_eq!(run(&fixture, sql).await.expect_err(&start).kind(), Kind::Exhausted, "{start}");
    }
    let used =
        "WITH t AS (SELECT * FROM silver.events) SELECT count(*) FROM t a JOIN t b USING (id) JOIN t c USING (id)";
    run(&fixture, used.to_owned()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_and_wide_statements_are_not_deep() {
    let fixture = Fixture::new().await;
    let values: String = (0..20_000).map(|n| format!("{n}, ")).collect();
    run(&fixture, format!("SELECT count(*) FROM silver.events WHERE id IN ({values}0)")).await.unwrap();
    let cases: String = (0..1_000).map(|n| format!(" WHEN id = {n} THEN 'case {n}'")).collect();
    run(&fixture, format!("SELECT CASE{cases} END FROM silver.events")).await.unwrap();
    let columns: String = (0..500).map(|n| format!(", id * {n} + 1 AS c{n}")).collect();
    run(&fixture, format!("SELECT id{columns} FROM silver.events")).await.unwrap();
}
