use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimeUnit};
use lakehouse::Kind;

use super::*;

fn duck() -> Duck {
    Duck::open(&Settings::default()).unwrap()
}

fn load(duck: &mut Duck, table: &str, batch: &RecordBatch) {
    duck.load(table, batch.schema(), vec![Ok(batch.clone())]).unwrap();
}

fn round_trip(column: ArrayRef) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("c", column.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(schema, vec![column]).unwrap();
    let mut duck = duck();
    load(&mut duck, "t", &batch);
    let (_, batches) = duck.query("SELECT c FROM t").unwrap();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[test]
fn arrow_columns_survive_the_way_through_duckdb() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![Some(1), None, Some(-3)])),
        Arc::new(StringArray::from(vec![Some("a"), None, Some("über")])),
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(Decimal128Array::from(vec![Some(12345), None]).with_precision_and_scale(20, 3).unwrap()),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(1_357_034_400_000_000), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(1_357_034_400_000_000), None]).with_timezone("UTC")),
        Arc::new(list),
    ];
    for column in columns {
        let batch = round_trip(Arc::clone(&column));
        // DuckDB names the inner field of a list "l".
        let returned = arrow::compute::cast(batch.column(0), column.data_type()).unwrap();
        assert_eq!(&returned, &column, "{}", column.data_type());
    }
}

#[test]
fn an_instant_of_another_zone_and_unit_arrives_in_utc_microseconds() {
    let column =
        arrow::array::TimestampMillisecondArray::from(vec![1_357_034_400_123]).with_timezone("America/New_York");
    let batch = round_trip(Arc::new(column));
    assert_eq!(batch.schema().field(0).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let values = batch.column(0).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    assert_eq!(values.value(0), 1_357_034_400_123_000);
}

#[test]
fn a_result_of_many_batches_is_handed_over_in_order() {
    let duck = duck();
    let mut next = 0_i64;
    duck.query_each("SELECT range AS n FROM range(10000) ORDER BY n", |batch| {
        for value in batch.column(0).as_primitive::<Int64Type>().values() {
            assert_eq!(*value, next);
            next += 1;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(next, 10_000);
}

#[test]
fn a_loaded_table_outlives_its_stream_and_can_be_read_twice() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let batches: Vec<_> = (0..5)
        .map(
            |i| Ok(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![i; 5000]))]).unwrap()),
        )
        .collect();
    let mut duck = duck();
    duck.load("silver.t", schema, batches).unwrap();
    assert_eq!(
        duck.count("SELECT count(*) FROM silver.t a JOIN (SELECT DISTINCT n FROM silver.t) b USING (n)").unwrap(),
        25_000
    );
}

#[test]
fn an_error_in_the_stream_is_an_error_of_the_load() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let mut duck = duck();
    let error = duck.load("t", schema, vec![Err(ArrowError::ComputeError("torn".into()))]).unwrap_err();
    assert!(error.to_string().contains("torn"), "{error}");
}

#[test]
fn sql_reaches_no_file_no_extension_and_no_setting() {
    let duck = duck();
    for sql in [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/mallard-must-not-exist.csv'",
        "ATTACH '/tmp/mallard-must-not-exist.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
        "SELECT * FROM 'http://127.0.0.1:1/x.parquet'",
    ] {
        assert!(duck.execute(sql).is_err(), "{sql} was not refused");
    }
}

#[test]
fn a_query_beyond_its_memory_without_spill_is_exhausted() {
    let duck = Duck::open(&Settings { memory_bytes: 32 << 20, ..Settings::default() }).unwrap();
    let error =
        duck.execute("CREATE TABLE t AS SELECT range AS a, md5(range::VARCHAR) AS b FROM range(5000000)").unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
}

#[test]
fn references_are_the_tables_read_and_not_the_names_defined() {
    let duck = duck();
    let sql = "WITH a AS (SELECT * FROM silver.flights), b AS (SELECT * FROM a JOIN gold.x USING (id))
               SELECT (SELECT max(n) FROM Silver.Weather) FROM b WHERE EXISTS (SELECT 1 FROM plain) -- gold.comment";
    let found: Vec<_> = duck
        .references(sql)
        .unwrap()
        .into_iter()
        .map(|r| format!("{}.{}", r.schema.unwrap_or_default(), r.table))
        .collect();
    assert_eq!(found, [".plain", "gold.x", "silver.flights", "silver.weather"]);
}

#[test]
fn references_refuse_what_is_not_one_select() {
    let duck = duck();
    for sql in ["DROP TABLE x", "SELECT 1; SELECT 2", "SELECT FROM WHERE", ""] {
        assert_eq!(duck.references(sql).unwrap_err().kind(), Kind::Invalid, "{sql}");
    }
}
