use std::sync::Barrier;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::{Duck, Settings};

/// Its rows never end, and take no memory.
const ENDLESS: &str = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) AS n FROM t";

/// Ends a test that would run for ever if a stop were lost.
const NET: Duration = Duration::from_secs(30);

fn capped(time_max: Duration) -> Duck {
    Duck::open(&Settings { time_max: Some(time_max), ..Settings::default() }).unwrap()
}

fn stoppable_by(stopper: &Stopper) -> Duck {
    let settings = Settings { time_max: Some(NET), stop: Some(stopper.clone()), ..Settings::default() };
    Duck::open(&settings).unwrap()
}

fn numbers(rows: usize) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![7; rows]))]).unwrap()
}

#[test]
fn endless_sql_ends_when_its_time_is_up_and_nothing_begins_after_it() {
    type Call = fn(&Duck) -> Result<()>;
    let calls: [Call; 4] = [
        |duck| duck.execute(&format!("CREATE TABLE endless AS {ENDLESS}")),
        |duck| duck.count(ENDLESS).map(drop),
        |duck| duck.text(ENDLESS).map(drop),
        |duck| duck.query(ENDLESS).map(drop),
    ];
    for (position, call) in calls.iter().enumerate() {
        let duck = capped(Duration::from_millis(500));
        let error = call(&duck).unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout, "call {position}: {error}");
        assert!(error.to_string().contains("took longer than 0.5 s"), "call {position}: {error}");
        assert_eq!(duck.execute("SELECT 1").unwrap_err().kind(), Kind::Timeout, "call {position}");
    }
}

#[test]
fn the_time_of_all_statements_together_is_capped() {
    const CHEAP: &str = "SELECT count(*) FROM range(100000) t(n) WHERE n % 7 = 3";
    let duck = capped(Duration::from_secs(1));
    assert_eq!(duck.count(CHEAP).unwrap(), 14_286);
    let error = (0..10_000_000).find_map(|_| duck.count(CHEAP).err()).unwrap();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
}

#[test]
fn the_time_of_who_gives_rows_and_of_who_takes_them_does_not_count() {
    let nap = Duration::from_millis(1200);
    let mut duck = capped(Duration::from_secs(1));
    let batch = numbers(3);
    let slow = std::iter::once_with(move || {
        thread::sleep(nap);
        Ok(batch)
    });
    duck.load("t", numbers(0).schema(), slow).unwrap();
    let mut rows = 0;
    duck.query_each("SELECT n FROM t", |batch| {
        thread::sleep(nap);
        rows += batch.num_rows();
        Ok(())
    })
    .unwrap();
    assert_eq!((rows, duck.count("SELECT max(n) FROM t").unwrap()), (3, 7));
}

#[test]
fn a_statement_that_fails_by_itself_tells_its_own_error() {
    let duck = capped(NET);
    let error = duck.execute("SELECT no_such_column").unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(duck.count("SELECT 42").unwrap(), 42);
}

#[test]
fn who_takes_the_rows_may_give_up_and_ask_for_others() {
    let duck = capped(NET);
    let given_up = duck.query_each("SELECT range AS n FROM range(1000000)", |_| Err(Error::invalid("enough")));
    assert_eq!(given_up.unwrap_err().to_string(), "enough");
    assert_eq!(duck.count("SELECT count(*) FROM range(1000000)").unwrap(), 1_000_000);
}

#[test]
fn a_stop_from_another_thread_ends_what_runs() {
    let duck = stoppable_by(&Stopper::default());
    let stopper = duck.stopper();
    let stopping = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        stopper.stop();
    });
    let error = duck.execute(ENDLESS).unwrap_err();
    stopping.join().unwrap();
    assert_eq!(error.kind(), Kind::Cancelled, "{error}");
}

#[test]
fn a_stop_just_as_a_statement_begins_is_not_lost() {
    for round in 0..40 {
        let stopper = Stopper::default();
        let duck = stoppable_by(&stopper);
        let start = Barrier::new(2);
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // DuckDB parses, plans and prepares within the first millisecond.
                thread::sleep(Duration::from_micros(25 * round));
                stopper.stop();
            });
            start.wait();
            duck.count(ENDLESS).unwrap_err()
        });
        assert_eq!(error.kind(), Kind::Cancelled, "round {round}: {error}");
    }
}

#[test]
fn nothing_begins_after_a_stop() {
    let stopper = Stopper::default();
    let (mut duck, other) = (stoppable_by(&stopper), stoppable_by(&stopper));
    duck.execute("CREATE TABLE t AS SELECT 1 AS n").unwrap();
    let guard = stopper.stop_on_drop();
    assert_eq!(duck.count("SELECT n FROM t").unwrap(), 1);
    drop(guard);
    assert_eq!(duck.count("SELECT n FROM t").unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(duck.describe("SELECT n FROM t").unwrap_err().kind(), Kind::Cancelled);
    let loaded = duck.load("u", numbers(1).schema(), vec![Ok(numbers(1))]);
    assert_eq!(loaded.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(other.execute("SELECT 1").unwrap_err().kind(), Kind::Cancelled);
    let late = Duck::open(&Settings { stop: Some(stopper), ..Settings::default() });
    assert_eq!(late.err().map(|error| error.kind()), Some(Kind::Cancelled));
}

#[test]
fn a_stop_between_two_batches_of_a_result_ends_it() {
    let stopper = Stopper::default();
    let duck = stoppable_by(&stopper);
    let mut batches = 0;
    let error = duck
        .query_each("SELECT range AS n FROM range(1000000)", |_| {
            batches += 1;
            stopper.stop();
            Ok(())
        })
        .unwrap_err();
    assert_eq!((batches, error.kind()), (1, Kind::Cancelled), "{error}");
}

#[test]
fn a_stop_ends_a_load_of_full_and_of_empty_batches() {
    for rows in [1, 0] {
        let stopper = Stopper::default();
        let mut duck = stoppable_by(&stopper);
        let batch = numbers(rows);
        let schema = batch.schema();
        let mut given = 0;
        let many = std::iter::repeat_with(move || {
            given += 1;
            if given == 3 {
                stopper.stop();
            }
            Ok(batch.clone())
        });
        let error = duck.load("t", schema, many.take(1_000_000)).unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled, "batches of {rows} rows: {error}");
    }
}

#[test]
fn the_thread_ends_with_its_watch() {
    let stopper = Stopper::default();
    let watch = Watch::new(|| (), Some(NET), &stopper).unwrap();
    drop(watch.sql().unwrap());
    let shared = Arc::downgrade(&watch.shared);
    drop(watch);
    assert_eq!(shared.strong_count(), 0);
    stopper.stop();
}
