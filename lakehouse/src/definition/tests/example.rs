//! Definitions that are right.

use std::time::Duration;

use super::*;

pub(super) const FULL: &str = r#"name = "flights"

[tables.flights]                       # ingest target and silver table
description = "one row a scheduled flight, newest state"
primary_key = ["Flight_ID"]
sequence_by = "updated_at"
delete_when = "op = 'delete'"
drop_columns = ["op"]
partition_by = ["month"]
on_new_column = "rescue"
ignore_null_updates = false
transform = "silver/flights.sql"
[[tables.flights.columns]]
name = "flight_id"
type = "bigint"
nullable = false
description = "who it is"
[[tables.flights.columns]]
name = "carrier"
type = "varchar"
[[tables.flights.columns]]
name = "op"
type = "varchar"
[[tables.flights.columns]]
name = "month"
type = "integer"
[[tables.flights.columns]]
name = "updated_at"
type = "timestamp"
[tables.flights.expect]
carrier_known = { check = "carrier IS NOT NULL", on_fail = "quarantine" }

[models.carrier_delays]
description = "delays"
sql = "gold/delays.sql"
mode = "merge"
unique_key = ["carrier", "month"]
refresh = "rate(15 minutes)"
[models.carrier_delays.expect]
no_empty = { check = "flights > 0", on_fail = "fail" }
"#;

fn origin(file: &str, line: usize) -> Origin {
    Origin { file: file.into(), line }
}

#[test]
fn every_key_of_a_table_is_read() {
    let definition = load(FULL);
    assert_eq!(definition.name, "flights");
    let table = definition.table("flights").unwrap();
    assert_eq!(table.description.as_deref(), Some("one row a scheduled flight, newest state"));
    assert_eq!(table.primary_key, ["flight_id"], "spelt as declared");
    assert_eq!(table.sequence_by, ["updated_at"]);
    let delete_when = Sql { text: "op = 'delete'".into(), origin: origin("lakehouse.toml", 7) };
    assert_eq!(table.delete_when, Some(delete_when));
    assert_eq!(table.drop_columns, ["op"]);
    assert_eq!(table.partition_by, ["month"]);
    assert_eq!(table.on_new_column, OnNewColumn::Rescue);
    assert!(!table.ignore_null_updates);
    let transform = Sql { text: "SELECT * FROM incoming".into(), origin: origin("silver/flights.sql", 1) };
    assert_eq!(table.transform, Some(transform));
    assert_eq!(table.columns.len(), 5);
    let expected = Expectation {
        name: Name::new("carrier_known").unwrap(),
        check: Sql { text: "carrier IS NOT NULL".into(), origin: origin("lakehouse.toml", 31) },
        on_fail: OnFail::Quarantine,
    };
    assert_eq!(table.expect, [expected]);
    assert_eq!(table.origin, origin("lakehouse.toml", 3));
    assert!(table.is_keyed());
}

#[test]
fn every_key_of_a_model_is_read() {
    let definition = load(FULL);
    let model = definition.model("carrier_delays").unwrap();
    assert_eq!(model.description.as_deref(), Some("delays"));
    assert_eq!(model.sql.text, "SELECT carrier, 1 AS flights FROM silver.flights");
    assert_eq!(model.sql.origin, origin("gold/delays.sql", 1));
    assert_eq!(model.mode, Mode::Merge);
    assert_eq!(model.unique_key, ["carrier", "month"]);
    assert_eq!(model.refresh, Refresh::Rate(Duration::from_secs(900)));
    assert_eq!(model.expect[0].on_fail, OnFail::Fail);
    assert_eq!(model.origin, origin("lakehouse.toml", 33));
}

#[test]
fn what_is_left_out_has_its_default() {
    let definition = load("name = \"f\"\n[tables.t]\n[models.m]\nsql = \"./gold/delays.sql\"\n");
    let table = definition.table("t").unwrap();
    assert!(!table.is_keyed());
    assert_eq!(table.on_new_column, OnNewColumn::Add);
    assert_eq!(table.declared_schema(), None);
    let model = definition.model("m").unwrap();
    assert_eq!((model.mode, &model.refresh), (Mode::Replace, &Refresh::OnChange));
    assert_eq!(model.sql.origin.file, Path::new("gold/delays.sql"));
}

#[test]
fn the_declared_schema_has_stored_columns_only_with_their_comments_and_a_key_that_is_not_null() {
    let definition = load(&FULL.replace("nullable = false\n", ""));
    let schema = definition.table("flights").unwrap().declared_schema().unwrap();
    let fields: Vec<_> = schema.fields().iter().map(|field| (field.name().as_str(), field.is_nullable())).collect();
    assert_eq!(fields, [("flight_id", false), ("carrier", true), ("month", true), ("updated_at", true)]);
    assert_eq!(schema.field(0).metadata().get(COMMENT).map(String::as_str), Some("who it is"));
    assert!(schema.field(1).metadata().is_empty());
    assert_eq!(schema.field(3).data_type(), &SqlType::Timestamp.to_arrow());
}

#[test]
fn a_table_with_history_has_times_of_its_sequences_type_and_a_key_with_them() {
    let toml = FULL.replace("on_new_column", "history = true\non_new_column");
    let table = Arc::clone(load(&toml).table("flights").unwrap());
    let schema = table.declared_schema().unwrap();
    let times: Vec<_> =
        schema.fields().iter().skip(4).map(|field| (field.name().as_str(), field.data_type())).collect();
    let (instant, boolean) = (SqlType::Timestamp.to_arrow(), SqlType::Boolean.to_arrow());
    assert_eq!(times, [("_valid_from", &instant), ("_valid_to", &instant), ("_is_current", &boolean)]);
    assert_eq!(table.row_key().collect::<Vec<_>>(), ["flight_id", "_valid_from"]);

    let numbered = load(&toml.replace("\"timestamp\"", "\"bigint\"")).table("flights").unwrap().declared_schema();
    assert_eq!(numbered.unwrap().field(4).data_type(), &SqlType::BigInt.to_arrow());
    let arriving =
        load(&toml.replace("sequence_by = \"updated_at\"\n", "")).table("flights").unwrap().declared_schema();
    assert_eq!(arriving.unwrap().field(4).data_type(), &instant);
}

#[test]
fn columns_are_found_whatever_their_case() {
    let definition = load(FULL);
    let table = definition.table("flights").unwrap();
    assert_eq!(table.column("CARRIER").map(|column| column.name.as_str()), Some("carrier"));
    assert_eq!(table.column("carriers"), None);
    assert!(table.drops("OP") && !table.drops("carrier"));
    assert!(table.is_key("FLIGHT_id") && !table.is_key("carrier"));
}

#[test]
fn a_table_or_model_that_is_not_there_is_named_with_those_that_are() {
    let definition = load(FULL);
    let error = definition.table("flihgts").unwrap_err();
    assert_eq!(error.kind(), crate::Kind::NotFound);
    assert_eq!(error.to_string(), r#"there is no table "flihgts"; did you mean "flights"?"#);
    let message = |name| definition.model(name).unwrap_err().to_string();
    assert_eq!(message("x"), r#"there is no model "x"; there are: carrier_delays"#);
    let bare = load("name = \"f\"\n[tables.t]\n");
    let message = bare.model("x").unwrap_err().to_string();
    assert_eq!(message, r#"there is no model "x"; the definition has no models"#);
}

#[test]
fn a_table_and_a_model_may_share_a_name() {
    let definition = load("name = \"f\"\n[tables.t]\n[models.t]\nsql = \"gold/delays.sql\"\n");
    assert_eq!(definition.table("t").unwrap().name, definition.model("t").unwrap().name);
}

#[test]
fn the_example_that_comes_with_the_product_is_right() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flights");
    let definition = Definition::load(&dir).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(definition.name, "flights");
    assert_eq!(definition.table("flights").unwrap().primary_key, ["flight_id"]);
    assert_eq!(definition.model("carrier_delays").unwrap().mode, Mode::Merge);
}
