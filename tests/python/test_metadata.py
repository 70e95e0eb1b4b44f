"""What a client that explores the lakehouse sees: catalogs, schemas, tables, columns, types, facts about the server."""

from contextlib import closing

import pyarrow as pa
import pytest

from lab import LOGS, logs, readings
from mallard import wait_for

CLIENT = "ADBC, Python"
SYSTEM = {
    "tables": {"schema_name", "table_name", "rows", "bytes", "version", "changed_at", "lag_seconds"},
    "models": {
        "model_name",
        "mode",
        "refresh",
        "state",
        "last_refresh_at",
        "duration_ms",
        "rows",
        "version",
        "last_error",
    },
    "ingests": {
        "ingest_id",
        "table_name",
        "rows",
        "frames",
        "bytes",
        "accepted_at",
        "delivered_at",
        "merged_at",
        "silver_version",
    },
    "maintenance": {
        "at",
        "layer",
        "table",
        "action",
        "files_before",
        "files_after",
        "bytes_before",
        "bytes_after",
        "rows",
        "version",
        "duration_ms",
        "result",
        "message",
    },
    "quarantine": {
        "table_name",
        "reason",
        "rule",
        "row_json",
        "ingest_id",
        "frame",
        "object",
        "quarantined_at",
    },
    "queries": {
        "query_id",
        "principal",
        "peer",
        "kind",
        "statement",
        "state",
        "started_at",
        "queued_ms",
        "duration_ms",
        "rows",
        "bytes",
        "peak_memory_bytes",
        "spilled_bytes",
        "files_read",
        "files_pruned",
        "bytes_scanned",
        "error",
    },
}
MADE_IN = {"silver": {"readings", "logs"}, "gold": {"totals", "loudest"}, "system": set(SYSTEM)}


@pytest.fixture(scope="module", autouse=True)
def filled(lab):
    lab.ingest("readings", readings({"id": 1, "sensor": "a", "value": 1.0}, {"id": 2, "sensor": "b", "value": -1.0}))
    lab.ingest("logs", logs("x", "y"))
    sql = "SELECT count(*) AS n FROM system.models WHERE last_refresh_at IS NOT NULL"
    wait_for(lambda: lab.rows(sql)[0]["n"] == 2, "the refresh of both models")


@pytest.fixture
def connection(lab):
    with closing(lab.connect()) as connection:
        yield connection


def objects(connection, **options):
    return connection.adbc_get_objects(**options).read_all().to_pylist()


def schemas_of(catalogs):
    return {schema["db_schema_name"]: schema for schema in catalogs[0]["catalog_db_schemas"]}


def tables_of(schema):
    return {table["table_name"]: table for table in schema["db_schema_tables"]}


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_there_is_one_catalog_with_the_name_of_the_definition(connection):
    assert [catalog["catalog_name"] for catalog in objects(connection, depth="catalogs")] == ["lab"]


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_the_schemas_are_gold_silver_and_system(connection):
    schemas = schemas_of(objects(connection, depth="db_schemas"))
    assert {"gold", "silver", "system"} <= set(schemas)


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_each_table_is_listed_in_its_schema(connection):
    schemas = schemas_of(objects(connection, depth="tables"))
    for schema, names in MADE_IN.items():
        assert names <= set(tables_of(schemas[schema])), schema


@pytest.mark.feature("columns, types and remarks")
def test_each_column_is_listed_with_its_place_in_the_table(connection):
    catalogs = objects(connection, depth="all", db_schema_filter="silver", table_name_filter="readings")
    columns = tables_of(schemas_of(catalogs)["silver"])["readings"]["table_columns"]
    visible = [column["column_name"] for column in columns if not column["column_name"].startswith("_")]
    assert visible == ["id", "seq", "sensor", "value", "at"]
    assert [column["ordinal_position"] for column in columns] == list(range(1, len(columns) + 1))


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_filters_are_patterns(connection):
    schemas = schemas_of(objects(connection, depth="tables", db_schema_filter="s%", table_name_filter="lo_s"))
    found = {(name, table) for name, schema in schemas.items() for table in tables_of(schema)}
    assert found == {("silver", "logs")}


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_a_filter_that_nothing_fits_gives_no_table(connection):
    catalogs = objects(connection, depth="tables", table_name_filter="nothing_like_this")
    assert not any(
        schema["db_schema_tables"] for catalog in catalogs for schema in catalog["catalog_db_schemas"] or []
    )


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_the_type_of_a_table_is_among_the_table_types(connection):
    types = connection.adbc_get_table_types()
    assert "TABLE" in types
    schemas = schemas_of(objects(connection, depth="tables"))
    assert {table["table_type"] for schema in schemas.values() for table in tables_of(schema).values()} <= set(types)


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_a_table_type_filter_holds(connection):
    catalogs = objects(connection, depth="tables", table_types_filter=["TABLE"])
    tables = [table for schema in schemas_of(catalogs).values() for table in tables_of(schema).values()]
    assert tables
    assert {table["table_type"] for table in tables} == {"TABLE"}


@pytest.mark.feature("columns, types and remarks")
def test_the_schema_of_a_table_is_that_of_its_rows(connection, lab):
    for schema, name in [("silver", "readings"), ("gold", "totals"), ("system", "ingests")]:
        told = connection.adbc_get_table_schema(name, db_schema_filter=schema)
        read = lab.table(f"SELECT * FROM {schema}.{name} LIMIT 1").schema
        assert told.names == read.names, name
        assert told.types == read.types, name
        assert [field.nullable for field in told] == [field.nullable for field in read], name


@pytest.mark.feature("columns, types and remarks")
def test_the_key_is_not_nullable_and_the_description_is_told(connection):
    field = connection.adbc_get_table_schema("readings", db_schema_filter="silver").field("id")
    assert not field.nullable
    assert b"identifies the reading" in (field.metadata or {}).values()


@pytest.mark.feature("columns, types and remarks")
def test_declared_types_are_told_as_arrow_types(connection):
    schema = connection.adbc_get_table_schema("readings", db_schema_filter="silver")
    assert schema.field("at").type == pa.timestamp("us", tz="UTC")
    told = connection.adbc_get_table_schema("logs", db_schema_filter="silver")
    assert [told.field(name).type for name in LOGS.names] == LOGS.types


@pytest.mark.feature("errors with their codes")
def test_the_schema_of_an_unknown_table_is_an_error(connection):
    with pytest.raises(Exception, match="nothing_like_this|not.found|[Nn]o table"):
        connection.adbc_get_table_schema("nothing_like_this", db_schema_filter="silver")


@pytest.mark.feature("server info (SqlInfo)")
def test_the_server_says_who_it_is(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Mallard"
    assert info["vendor_version"]
    assert info["vendor_arrow_version"]


@pytest.mark.parametrize("name", SYSTEM)
def test_a_system_table_has_its_columns(lab, name):
    assert SYSTEM[name] <= set(lab.table(f"SELECT * FROM system.{name}").column_names)


def test_the_system_tables_tell_what_happened(lab):
    tables = {(row["schema_name"], row["table_name"]): row for row in lab.rows("SELECT * FROM system.tables")}
    assert tables["silver", "readings"]["rows"] == 1
    assert tables["silver", "logs"]["rows"] == 2
    assert tables["silver", "logs"]["bytes"] > 0
    assert tables["silver", "logs"]["changed_at"] is not None
    ingest = lab.rows("SELECT * FROM system.ingests WHERE table_name = 'readings'")[0]
    assert (ingest["rows"], ingest["frames"]) == (2, 1)
    assert ingest["accepted_at"] <= ingest["delivered_at"] <= ingest["merged_at"]
    assert ingest["silver_version"] is not None
    model = lab.rows("SELECT * FROM system.models WHERE model_name = 'totals'")[0]
    assert (model["mode"], model["refresh"], model["rows"]) == ("replace", "on-change", 1)
    assert model["last_error"] is None
    assert lab.rows("SELECT rule FROM system.quarantine") == [{"rule": "not_negative"}]
