"""Flight SQL command by command, as its specification words it, through pyarrow.flight and plain gRPC.

The scenarios are those that Arrow's implementations test against each other: metadata, statements, prepared ones,
Substrait plans, ingestion, session options, long-running queries.
"""

import json
import random
import threading

import pyarrow as pa
import pyarrow.dataset
import pyarrow.flight as flight
import pytest
from datafusion import SessionContext
from datafusion.catalog import Schema
from datafusion.substrait import Serde

from lab import logs
from mallard import INGEST_ID_HEADER, Server, wait_for
from messages import CANCELLED, SLOW, Client, command, flight_data, m, query, rpc_refused, schema, table

CLIENT = "pyarrow, gRPC"
DEFINITION = """\
name = "shop"
allow_create = true

[tables.customers]
primary_key = ["id"]
columns = [{ name = "id", type = "bigint" }, { name = "name", type = "varchar" }]

[tables.orders]
description = "what was sold"
primary_key = ["id"]
sequence_by = "seq"
partition_by = ["region"]
columns = [
  { name = "id", type = "bigint", nullable = false },
  { name = "seq", type = "bigint" },
  { name = "customer", type = "bigint" },
  { name = "region", type = "varchar" },
  { name = "amount", type = "double" },
]

[[tables.orders.foreign_keys]]
columns = ["customer"]
references = "customers"

[tables.events]
columns = [{ name = "text", type = "varchar" }]
"""
ORDERS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("seq", pa.int64()),
        ("customer", pa.int64()),
        ("region", pa.string()),
        ("amount", pa.float64()),
    ]
)
NO_ROWS = pa.table({})

# What GetSqlInfo calls things.
SERVER_NAME, READ_ONLY, SUBSTRAIT, TRANSACTION, CANCEL, BULK_INGESTION, INGEST_TRANSACTIONS = 0, 3, 5, 8, 9, 10, 11
TRANSACTIONS_SUPPORTED, SAVEPOINTS_SUPPORTED = 563, 573
# What an ingest does if there is no table, and if there is one.
CREATE, FAIL_WITHOUT = 1, 2
FAIL_WITH, APPEND, REPLACE = 1, 2, 3
MODES = {"append": (FAIL_WITHOUT, APPEND), "create": (CREATE, FAIL_WITH), "create_append": (CREATE, APPEND)}


def orders(*rows):
    full = [{"seq": 1, "customer": 1, "region": "north", "amount": 1.0, **row} for row in rows]
    return pa.Table.from_pylist(full, schema=ORDERS)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A server with orders 1 to 3 of customers 1 and 2."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "definition").mkdir()
    (folder / "definition" / "lakehouse.toml").write_text(DEFINITION)
    with Server(folder / "definition", folder / "data") as server:
        server.ingest("customers", pa.table({"id": [1, 2], "name": ["ann", "bob"]}))
        server.ingest("orders", orders({"id": 1}, {"id": 2, "region": "south"}, {"id": 3, "customer": 2}))
        yield server


@pytest.fixture(scope="module")
def raw(shop):
    with Client(shop.address) as raw:
        yield raw


@pytest.fixture(scope="module")
def client(shop):
    with flight.connect(shop.uri.replace("grpc://", "grpc+tcp://")) as client:
        yield client


def required(name, kind):
    return pa.field(name, kind, nullable=False)


FOREIGN_KEYS = [
    ("pk_catalog_name", pa.string()),
    ("pk_db_schema_name", pa.string()),
    required("pk_table_name", pa.string()),
    required("pk_column_name", pa.string()),
    ("fk_catalog_name", pa.string()),
    ("fk_db_schema_name", pa.string()),
    required("fk_table_name", pa.string()),
    required("fk_column_name", pa.string()),
    required("key_sequence", pa.int32()),
    ("fk_key_name", pa.string()),
    ("pk_key_name", pa.string()),
    required("update_rule", pa.uint8()),
    required("delete_rule", pa.uint8()),
]
TABLES = [
    ("catalog_name", pa.string()),
    ("db_schema_name", pa.string()),
    required("table_name", pa.string()),
    required("table_type", pa.string()),
]
# Each metadata command with its columns, and by how many of them its rows are sorted.
METADATA = {
    "catalogs": (m.CommandGetCatalogs(), [required("catalog_name", pa.string())], 1),
    "schemas": (m.CommandGetDbSchemas(), [("catalog_name", pa.string()), required("db_schema_name", pa.string())], 2),
    "tables": (m.CommandGetTables(), TABLES, 4),
    "tables with schemas": (
        m.CommandGetTables(include_schema=True),
        [*TABLES, required("table_schema", pa.binary())],
        4,
    ),
    "table types": (m.CommandGetTableTypes(), [required("table_type", pa.string())], 1),
    "primary keys": (
        m.CommandGetPrimaryKeys(table="orders"),
        [
            ("catalog_name", pa.string()),
            ("db_schema_name", pa.string()),
            required("table_name", pa.string()),
            required("column_name", pa.string()),
            ("key_name", pa.string()),
            required("key_sequence", pa.int32()),
        ],
        3,
    ),
    "exported keys": (m.CommandGetExportedKeys(table="customers"), FOREIGN_KEYS, 1),
    "imported keys": (m.CommandGetImportedKeys(table="orders"), FOREIGN_KEYS, 1),
    "cross reference": (m.CommandGetCrossReference(pk_table="customers", fk_table="orders"), FOREIGN_KEYS, 1),
    "type info": (
        m.CommandGetXdbcTypeInfo(),
        [
            required("type_name", pa.string()),
            required("data_type", pa.int32()),
            ("column_size", pa.int32()),
            ("literal_prefix", pa.string()),
            ("literal_suffix", pa.string()),
            ("create_params", pa.list_(required("item", pa.string()))),
            required("nullable", pa.int32()),
            required("case_sensitive", pa.bool_()),
            required("searchable", pa.int32()),
            ("unsigned_attribute", pa.bool_()),
            required("fixed_prec_scale", pa.bool_()),
            ("auto_increment", pa.bool_()),
            ("local_type_name", pa.string()),
            ("minimum_scale", pa.int32()),
            ("maximum_scale", pa.int32()),
            required("sql_data_type", pa.int32()),
            ("datetime_subcode", pa.int32()),
            ("num_prec_radix", pa.int32()),
            ("interval_precision", pa.int32()),
        ],
        0,
    ),
    "server info": (
        m.CommandGetSqlInfo(),
        [
            required("info_name", pa.uint32()),
            required(
                "value",
                pa.dense_union(
                    [
                        required("string_value", pa.string()),
                        required("bool_value", pa.bool_()),
                        required("bigint_value", pa.int64()),
                        required("int32_bitmask", pa.int32()),
                        pa.field("string_list", pa.list_(pa.string())),
                        pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
                    ]
                ),
            ),
        ],
        0,
    ),
}


def ask(raw, message):
    """The rows that a metadata command gives."""
    return raw.read(raw.get_flight_info(command(message))).to_pylist()


@pytest.mark.feature("catalogs, schemas, tables, table types", "schema ahead of the rows (GetSchema, ExecuteSchema)")
@pytest.mark.parametrize("name", METADATA)
def test_a_metadata_command_answers_with_the_columns_that_the_protocol_tells(client, name):
    message, fields, sorted_by = METADATA[name]
    descriptor = flight.FlightDescriptor.for_command(command(message).cmd)
    info = client.get_flight_info(descriptor)
    rows = client.do_get(info.endpoints[0].ticket).read_all()
    expected = pa.schema(fields)
    for told in (info.schema, client.get_schema(descriptor).schema, rows.schema):
        assert [str(field) for field in told] == [str(field) for field in expected]
        assert [field.nullable for field in told] == [field.nullable for field in expected]
    assert rows.num_rows > 0
    keys = [tuple(row.values())[:sorted_by] for row in rows.to_pylist()]
    assert keys == sorted(keys)


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_catalog_and_schema_filters_hold(raw):
    def schemas(**filters):
        return [row["db_schema_name"] for row in ask(raw, m.CommandGetDbSchemas(**filters))]

    assert {"gold", "silver", "system"} <= set(schemas(catalog="shop"))
    assert schemas(db_schema_filter_pattern="s%r") == ["silver"]
    assert schemas(catalog="elsewhere") == schemas(catalog="") == []

    def tables(**filters):
        return [row["table_name"] for row in ask(raw, m.CommandGetTables(**filters))]

    assert tables(db_schema_filter_pattern="silver", table_name_filter_pattern="_rders") == ["orders"]
    assert "orders" not in tables(table_types=["SYSTEM TABLE"])
    assert tables(table_types=["VIEW"]) == tables(catalog="") == []


@pytest.mark.feature("columns, types and remarks")
def test_the_schema_of_a_listed_table_is_that_of_its_rows(raw):
    listed = ask(raw, m.CommandGetTables(table_name_filter_pattern="orders", include_schema=True))
    told = schema(listed[0]["table_schema"])
    assert told.equals(raw.get_schema(query("SELECT * FROM silver.orders")))
    assert told.types == ORDERS.types


@pytest.mark.feature("primary and foreign keys")
def test_keys_are_told_from_both_sides(raw):
    assert [(row["column_name"], row["key_sequence"]) for row in ask(raw, METADATA["primary keys"][0])] == [("id", 1)]
    link = {"pk_table_name": "customers", "pk_column_name": "id", "fk_table_name": "orders"}
    for name in ("exported keys", "imported keys", "cross reference"):
        (row,) = ask(raw, METADATA[name][0])
        assert link.items() <= row.items()
        assert (row["fk_column_name"], row["key_sequence"]) == ("customer", 1)
    assert ask(raw, m.CommandGetExportedKeys(table="orders")) == []
    assert ask(raw, m.CommandGetImportedKeys(table="customers")) == []
    assert ask(raw, m.CommandGetCrossReference(pk_table="orders", fk_table="customers")) == []
    assert ask(raw, m.CommandGetPrimaryKeys(table="orders", catalog="elsewhere")) == []


@pytest.mark.feature("type info (XdbcTypeInfo)")
def test_types_are_filtered_by_their_number_and_sorted_by_it(raw):
    everything = [(row["data_type"], row["type_name"]) for row in ask(raw, m.CommandGetXdbcTypeInfo())]
    assert everything == sorted(everything)
    assert [row["type_name"] for row in ask(raw, m.CommandGetXdbcTypeInfo(data_type=12))] == ["VARCHAR"]
    assert ask(raw, m.CommandGetXdbcTypeInfo(data_type=-999)) == []


def infos(raw, *codes):
    rows = ask(raw, m.CommandGetSqlInfo(info=codes))
    return {row["info_name"]: row["value"] for row in rows}


@pytest.mark.feature("server info (SqlInfo)")
def test_the_server_tells_what_is_asked_and_no_more(raw):
    assert infos(raw, SERVER_NAME, READ_ONLY) == {SERVER_NAME: "Mallard", READ_ONLY: False}
    features = infos(raw, SUBSTRAIT, CANCEL, BULK_INGESTION)
    assert features == {SUBSTRAIT: True, CANCEL: True, BULK_INGESTION: True}
    assert len(infos(raw)) > 80


@pytest.mark.feature("queries", "errors with their codes")
def test_statements_are_answered_or_refused_with_code_and_reason(raw):
    assert raw.rows("SELECT count(*) AS n FROM silver.customers WHERE id <= 2") == [{"n": 2}]
    for code, words, sql in [
        ("INVALID_ARGUMENT", ["amont"], "SELECT amont FROM silver.orders"),
        ("INVALID_ARGUMENT", ["ordres", "orders"], "SELECT * FROM silver.ordres"),
        ("INVALID_ARGUMENT", ["CREATE", "lakehouse.toml"], "CREATE TABLE t (a INT)"),
        ("INVALID_ARGUMENT", ["transactions"], "BEGIN"),
        ("INVALID_ARGUMENT", ["one at a time"], "SELECT 1; SELECT 2"),
        ("INVALID_ARGUMENT", ["SELEC", "Line: 1, Column: 1"], "SELEC 1"),
        ("RESOURCE_EXHAUSTED", ["2000009 bytes", "1048576"], f"SELECT '{'x' * 2_000_000}'"),
    ]:
        with rpc_refused(code, *words, cure=False):
            raw.get_flight_info(query(sql))


@pytest.mark.feature("scalar types")
def test_a_partition_column_comes_as_plain_text(raw):
    info = raw.get_flight_info(query("SELECT region FROM silver.orders WHERE id <= 3 ORDER BY id"))
    rows = raw.read(info)
    assert rows.schema == schema(info.schema) == pa.schema([("region", pa.string())])
    assert rows["region"].to_pylist() == ["north", "south", "north"]


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_updates_tell_how_many_rows_they_sent(raw):
    def update(sql):
        return raw.put(m.CommandStatementUpdate(query=sql), NO_ROWS).record_count

    found = "SELECT seq, amount FROM silver.orders WHERE id IN (100, 101) ORDER BY id"
    assert update("INSERT INTO silver.orders (id, seq, amount) VALUES (100, 1, 1), (101, 1, 2)") == 2
    wait_for(lambda: len(raw.rows(found)) == 2, "the insert")
    assert update("UPDATE silver.orders SET amount = amount * 10 WHERE id IN (100, 101)") == 2
    wait_for(lambda: raw.rows(found) == [{"seq": 2, "amount": 10.0}, {"seq": 2, "amount": 20.0}], "the update")
    assert update("UPDATE silver.orders SET amount = 0 WHERE id = -1") == 0
    assert update("INSERT INTO silver.orders (id, seq, amount) SELECT 102, 1, 3 WHERE false") == 0


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_an_insert_that_is_sent_as_a_query_is_done_once_however_often_it_is_fetched(raw):
    info = raw.get_flight_info(query("INSERT INTO silver.events VALUES ('fetched twice')"))
    assert [raw.read(info).to_pylist() for _ in range(2)] == [[{"count": 1}]] * 2
    raw.put(m.CommandStatementUpdate(query="INSERT INTO silver.events VALUES ('sent later')"), NO_ROWS)
    wait_for(lambda: raw.rows("SELECT * FROM silver.events WHERE text = 'sent later'"), "the last insert")
    assert len(raw.rows("SELECT * FROM silver.events WHERE text = 'fetched twice'")) == 1


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
def test_a_query_is_no_update(raw):
    with rpc_refused("INVALID_ARGUMENT", "GetFlightInfo"):
        raw.put(m.CommandStatementUpdate(query="SELECT 1"), NO_ROWS)


@pytest.mark.feature("prepared statements", "schema ahead of the rows (GetSchema, ExecuteSchema)")
def test_a_prepared_query_tells_its_columns_and_is_run_as_often_as_one_likes(raw):
    prepared = raw.prepare("SELECT id, region FROM silver.orders WHERE id <= 3 ORDER BY id")
    assert prepared.HasField("is_update") and not prepared.is_update
    assert len(schema(prepared.parameter_schema)) == 0
    run = command(m.CommandPreparedStatementQuery(prepared_statement_handle=prepared.prepared_statement_handle))
    for _ in range(2):
        info = raw.get_flight_info(run)
        rows = raw.read(info)
        assert rows["id"].to_pylist() == [1, 2, 3]
        for told in (schema(info.schema), schema(prepared.dataset_schema), raw.get_schema(run)):
            assert told.equals(rows.schema, check_metadata=True)
    assert table(raw.do_get(m.Ticket(ticket=run.cmd))).equals(rows), "without a FlightInfo before"
    close = m.ActionClosePreparedStatementRequest(prepared_statement_handle=prepared.prepared_statement_handle)
    assert list(raw.action("ClosePreparedStatement", close)) == []


@pytest.mark.feature("prepared statements", "bound parameters")
def test_a_prepared_query_takes_one_or_many_rows_of_parameters(raw):
    prepared = raw.prepare("SELECT id, CAST($2 AS VARCHAR) AS note FROM silver.orders WHERE id = $1")
    assert schema(prepared.parameter_schema).types == [pa.int64(), pa.string()]

    def run(ids, notes):
        bound = raw.bind(prepared.prepared_statement_handle, pa.table({"1": ids, "2": notes}))
        info = raw.get_flight_info(bound)
        assert schema(info.schema).equals(schema(prepared.dataset_schema), check_metadata=True)
        return [tuple(row.values()) for row in raw.read(info).to_pylist()]

    assert run([2], ["a"]) == [(2, "a")]
    assert run([3, 1, -1], ["b", None, "c"]) == [(3, "b"), (1, None)]
    assert run(pa.array([1], pa.int32()), ["narrower"]) == [(1, "narrower")]


@pytest.mark.feature("prepared statements", "schema ahead of the rows (GetSchema, ExecuteSchema)")
def test_the_columns_of_a_prepared_query_are_told_before_values_are_bound(raw):
    prepared = raw.prepare("SELECT id, region FROM silver.orders WHERE id = ?")
    run = command(m.CommandPreparedStatementQuery(prepared_statement_handle=prepared.prepared_statement_handle))
    assert raw.get_schema(run).equals(schema(prepared.dataset_schema), check_metadata=True)


@pytest.mark.feature("prepared statements", "bound parameters", "NULLs")
def test_a_row_of_parameters_may_have_a_null_where_others_have_none(raw):
    handle = raw.prepare("SELECT $1 AS note").prepared_statement_handle
    for notes in (["a", None], [None, "a"], [None]):
        info = raw.get_flight_info(raw.bind(handle, pa.table({"1": pa.array(notes, pa.string())})))
        assert raw.read(info)["note"].to_pylist() == notes


@pytest.mark.feature("prepared statements", "bound parameters", "errors with their codes")
def test_values_that_do_not_fit_are_refused(raw):
    handle = raw.prepare("SELECT id FROM silver.orders WHERE id = ?").prepared_statement_handle
    with rpc_refused("INVALID_ARGUMENT", "0 were bound", cure=False):
        raw.get_flight_info(command(m.CommandPreparedStatementQuery(prepared_statement_handle=handle)))
    for values, word in [
        (pa.table({"1": [1], "2": [2]}), "2 were bound"),
        (pa.table({"1": ["one"]}), "one"),
        (pa.table({"1": [[1]]}), "Int64"),
    ]:
        with rpc_refused("INVALID_ARGUMENT", word, cure=False):
            raw.get_flight_info(raw.bind(handle, values))


@pytest.mark.feature("prepared statements", "updates (INSERT, UPDATE, DELETE)")
def test_a_prepared_update_runs_for_each_row_of_parameters(raw):
    prepared = raw.prepare("INSERT INTO silver.orders (id, seq, amount) VALUES (?, 1, ?)")
    assert prepared.is_update and prepared.dataset_schema == b""
    assert schema(prepared.parameter_schema).types == [pa.int64(), pa.float64()]
    message = m.CommandPreparedStatementUpdate(prepared_statement_handle=prepared.prepared_statement_handle)
    assert raw.put(message, pa.table({"1": [200, 201, 202], "2": [1.0, 2.0, None]})).record_count == 3
    assert raw.put(message, pa.table({"1": [203], "2": [4.0]})).record_count == 1
    found = "SELECT amount FROM silver.orders WHERE id BETWEEN 200 AND 203 ORDER BY id"
    wait_for(lambda: [row["amount"] for row in raw.rows(found)] == [1.0, 2.0, None, 4.0], "the inserts")


def substrait(sql):
    """A plan as DataFusion's Python package makes it, which knows the tables by their columns alone."""
    context = SessionContext()
    context.catalog().register_schema("silver", Schema.memory_schema())
    context.catalog().schema("silver").register_table("orders", pa.dataset.dataset(ORDERS.empty_table()))
    return m.SubstraitPlan(plan=Serde.serialize_bytes(sql, context))


@pytest.mark.feature("Substrait plans")
def test_a_substrait_plan_is_a_query(raw):
    plan = substrait("SELECT region, count(*) AS n FROM silver.orders WHERE id <= 3 GROUP BY region ORDER BY region")
    asked = command(m.CommandStatementSubstraitPlan(plan=plan))
    info = raw.get_flight_info(asked)
    rows = raw.read(info)
    assert rows.to_pylist() == [{"region": "north", "n": 2}, {"region": "south", "n": 1}]
    assert rows.schema.equals(schema(info.schema), check_metadata=True)
    assert raw.get_schema(asked).equals(rows.schema, check_metadata=True)


@pytest.mark.feature("Substrait plans", "prepared statements", "bound parameters")
def test_a_substrait_plan_is_prepared_and_bound(raw):
    request = m.ActionCreatePreparedSubstraitPlanRequest(
        plan=substrait("SELECT region FROM silver.orders WHERE id = $1")
    )
    prepared = raw.ask("CreatePreparedSubstraitPlan", request, m.ActionCreatePreparedStatementResult)
    assert schema(prepared.dataset_schema).names == ["region"]
    assert not prepared.is_update
    assert schema(prepared.parameter_schema).types == [pa.int64()]
    bound = raw.bind(prepared.prepared_statement_handle, pa.table({"1": [2]}))
    assert raw.read(raw.get_flight_info(bound)).to_pylist() == [{"region": "south"}]


@pytest.mark.feature("Substrait plans", "errors with their codes")
def test_a_bad_substrait_plan_is_refused(raw):
    lost = substrait("SELECT region FROM silver.orders").plan.replace(b"orders", b"ordres")
    for plan in (b"", b"no plan", lost):
        with rpc_refused("INVALID_ARGUMENT", "Substrait", cure=False):
            raw.get_flight_info(command(m.CommandStatementSubstraitPlan(plan=m.SubstraitPlan(plan=plan))))


@pytest.mark.feature("transactions are refused", "errors with their codes")
def test_transactions_and_savepoints_are_refused_and_the_server_says_so_before(raw):
    said = infos(raw, TRANSACTION, INGEST_TRANSACTIONS, TRANSACTIONS_SUPPORTED, SAVEPOINTS_SUPPORTED)
    assert not any(said.values()) and len(said) == 4
    for kind, request in [
        ("BeginTransaction", m.ActionBeginTransactionRequest()),
        ("EndTransaction", m.ActionEndTransactionRequest(transaction_id=b"1", action=1)),
        ("BeginSavepoint", m.ActionBeginSavepointRequest(transaction_id=b"1", name="here")),
        ("EndSavepoint", m.ActionEndSavepointRequest(savepoint_id=b"1", action=1)),
    ]:
        with rpc_refused("UNIMPLEMENTED", "transactions", "snapshot"):
            list(raw.action(kind, request))
    with rpc_refused("UNIMPLEMENTED", "transactions"):
        raw.get_flight_info(command(m.CommandStatementQuery(query="SELECT 1", transaction_id=b"1")))
    with rpc_refused("UNIMPLEMENTED", "transactions"):
        insert = "INSERT INTO silver.events VALUES ('x')"
        raw.put(m.CommandStatementUpdate(query=insert, transaction_id=b"1"), NO_ROWS)


@pytest.mark.feature("cancel")
def test_a_running_query_is_cancelled_as_older_clients_ask_for_it(raw):
    info = raw.get_flight_info(query(SLOW))
    call = raw.do_get(info.endpoint[0].ticket)
    running = f"SELECT 1 FROM system.queries WHERE query_id = '{info.app_metadata.decode()}' AND state = 'running'"
    wait_for(lambda: raw.rows(running), "the query's start")
    request = m.ActionCancelQueryRequest(info=info.SerializeToString())
    assert raw.ask("CancelQuery", request, m.ActionCancelQueryResult).result == CANCELLED
    with rpc_refused("CANCELLED", cure=False):
        list(call)


def ingest(name, mode="append", **fields):
    missing, existing = MODES.get(mode, (CREATE, REPLACE))
    options = m.TableDefinitionOptions(if_not_exist=missing, if_exists=existing)
    return m.CommandStatementIngest(table=name, table_definition_options=options, **fields)


@pytest.mark.feature("bulk ingest: append")
def test_an_ingest_is_counted(raw, client):
    named = ingest("orders", catalog="shop", schema="silver")
    assert raw.put(named, orders({"id": 300}, {"id": 301})).record_count == 2
    descriptor = flight.FlightDescriptor.for_command(command(ingest("orders")).cmd)
    writer, reader = client.do_put(descriptor, ORDERS)
    with writer:
        for id in (302, 303, 304):
            writer.write_table(orders({"id": id}))
        writer.done_writing()
        assert m.DoPutUpdateResult.FromString(reader.read().to_pybytes()).record_count == 3
    ids = "SELECT id FROM silver.orders WHERE id BETWEEN 300 AND 304 ORDER BY id"
    wait_for(lambda: [row["id"] for row in raw.rows(ids)] == [300, 301, 302, 303, 304], "the merges")


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_part_way_failure_tells_the_count_of_what_is_kept_and_then_the_error(shop):
    # Much more than is gathered before it is kept.
    names = [random.Random(n).randbytes(50_000).hex() for n in range(101)]
    sent = pa.table({"id": [*range(1_000, 1_100), None], "name": names})
    with Client(shop.address, [(INGEST_ID_HEADER, "part-way")]) as client:
        call = client.do_put(flight_data(sent, command(ingest("customers")), batch_rows=20))
        kept = m.DoPutUpdateResult.FromString(next(call).app_metadata).record_count
        with rpc_refused("INVALID_ARGUMENT", "row 101", "id"):
            next(call)
        assert dict(call.initial_metadata())[INGEST_ID_HEADER] == "part-way"
    assert 0 < kept <= 100
    assert shop.wait_merged("part-way")["rows"] == kept
    assert shop.rows("SELECT count(*) AS n FROM silver.customers WHERE id >= 1000") == [{"n": kept}]


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
@pytest.mark.parametrize("how", ["header", "option"])
def test_a_partial_ingest_takes_the_good_rows_and_names_the_bad_ones_behind_the_count(shop, how):
    id = f"partial-{how}"
    first = 2_000 if how == "header" else 2_100
    sent = pa.table({"id": [*range(first, first + 40), None, first + 40, None], "name": [str(n) for n in range(43)]})
    headers = [(INGEST_ID_HEADER, id), *([("mallard-partial", "true")] if how == "header" else [])]
    options = [m.IngestOption(key="partial", value="true")] if how == "option" else []
    with Client(shop.address, headers) as client:
        call = client.do_put(flight_data(sent, command(ingest("customers", options=options)), batch_rows=20))
        count, told = (result.app_metadata for result in call)
    assert m.DoPutUpdateResult.FromString(count).record_count == 41
    told = json.loads(told)
    assert (told["ingest_id"], told["rejected_rows"]) == (id, 2)
    assert [(row["row"], row["column"]) for row in told["rejected"]] == [(41, "id"), (43, "id")]
    assert shop.wait_merged(id)["rows"] == 41
    with Client(shop.address, headers) as client:
        assert len(list(client.do_put(flight_data(sent, command(ingest("customers", options=options)), 20)))) == 2
    found = f"SELECT count(*) AS n FROM silver.customers WHERE id BETWEEN {first} AND {first + 99}"
    assert shop.rows(found) == [{"n": 41}]


@pytest.mark.feature("bulk ingest: append")
def test_what_delivery_costs_is_told(shop):
    shop.ingest("customers", pa.table({"id": range(3_000, 4_000), "name": ["x"] * 1_000}))
    (cost,) = shop.rows("SELECT * FROM system.delivery WHERE table_name = 'customers'")
    assert cost["rows"] >= 1_000
    assert 0 < cost["puts"] <= cost["records"] <= cost["rows"]
    assert cost["bytes"] <= cost["billed_bytes"] and cost["billed_bytes"] % 5_120 == 0
    assert cost["billed_bytes_unpacked"] == cost["rows"] * -(-(cost["row_bytes"] // cost["rows"]) // 5_120) * 5_120


@pytest.mark.feature("bulk ingest: create, create_append")
def test_a_table_is_made_by_an_ingest_with_the_key_that_its_options_name(raw):
    options = [m.IngestOption(key="primary_key", value="id"), m.IngestOption(key="sequence_by", value="seq")]
    made = pa.table({"id": [1, 1, 2], "seq": [2, 1, 1], "text": ["new", "old", "x"]})
    assert raw.put(ingest("made", "create", options=options), made).record_count == 3
    found = "SELECT id, text FROM silver.made ORDER BY id"
    expected = [{"id": 1, "text": "new"}, {"id": 2, "text": "x"}]
    wait_for(lambda: raw.rows("SELECT 1 FROM system.tables WHERE table_name = 'made' AND rows = 2"), "the merge")
    assert raw.rows(found) == expected
    assert [row["column_name"] for row in ask(raw, m.CommandGetPrimaryKeys(table="made"))] == ["id"]
    with rpc_refused("ALREADY_EXISTS", "made", "append"):
        raw.put(ingest("made", "create", options=options), made)
    more = pa.table({"id": [3], "seq": [1], "text": ["y"]})
    assert raw.put(ingest("made", "create_append", options=options), more).record_count == 1
    wait_for(lambda: raw.rows(found) == [*expected, {"id": 3, "text": "y"}], "the second merge")
    assert raw.put(ingest("made_too", "create_append"), made).record_count == 3
    wait_for(lambda: raw.rows("SELECT 1 FROM system.tables WHERE table_name = 'made_too' AND rows = 3"), "the merge")


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
@pytest.mark.parametrize(
    ("options", "words"),
    [({"primary_key": "idd"}, ["idd"]), ({"sequence_by": "id"}, ["primary_key"]), ({"colour": "red"}, ["colour"]),
     ({"primary_key": "id", "sequence_by": "id, texts"}, ["sequence_by", "texts"]), ({"primary_key": "weight"}, ["weight"])],
    ids=["no such column", "a sequence without a key", "an unknown option", "a sequence that is no column", "a float as key"],
)  # fmt: skip
def test_a_table_with_bad_options_is_not_made(raw, options, words):
    listed = [m.IngestOption(key=key, value=value) for key, value in options.items()]
    with rpc_refused("INVALID_ARGUMENT", *words, cure="sequence" not in words[0]):
        raw.put(ingest("never", "create", options=listed), pa.table({"id": [1], "text": ["x"], "weight": [1.0]}))
    with rpc_refused("INVALID_ARGUMENT", "never"):
        raw.get_flight_info(query("SELECT * FROM silver.never"))


@pytest.mark.feature("bulk ingest: replace is refused", "errors with their codes")
@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        ("UNIMPLEMENTED", ["replace", "orders", "append"], ingest("orders", "replace")),
        ("UNIMPLEMENTED", ["temporary"], ingest("orders", temporary=True)),
        ("UNIMPLEMENTED", ["transactions"], ingest("orders", transaction_id=b"1")),
        ("INVALID_ARGUMENT", ["elsewhere", "shop"], ingest("orders", catalog="elsewhere")),
        ("INVALID_ARGUMENT", ["gold", "silver"], ingest("orders", schema="gold")),
        ("INVALID_ARGUMENT", ["mode", "append"], m.CommandStatementIngest(table="orders")),
        ("NOT_FOUND", ["ordres", "orders"], ingest("ordres")),
    ],
    ids=["replace", "temporary", "transaction", "catalog", "schema", "no mode", "no table"],
)
def test_an_ingest_that_can_not_be_is_refused(raw, code, words, message):
    with rpc_refused(code, *words):
        raw.put(message, orders({"id": 1}))


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
@pytest.mark.parametrize("mode", ["create", "create_append"])
def test_no_table_is_made_where_the_definition_does_not_allow_it(lab, mode):
    with Client(lab.address) as client, rpc_refused("PERMISSION_DENIED", "allow_create", "letters"):
        client.put(ingest("letters", mode), logs("x"))


@pytest.mark.feature("connections at once")
def test_many_connections_get_their_own_answers(shop):
    answers = {}

    def ask_for(n):
        with Client(shop.address) as own:
            answers[n] = own.rows(f"SELECT {n} AS n, count(*) AS c FROM silver.customers WHERE id <= 2")

    threads = [threading.Thread(target=ask_for, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [{"n": n, "c": 2}] for n in range(20)}
