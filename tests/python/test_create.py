"""Tables that an ingest makes where the definition allows it, through `adbc_ingest` of the ADBC driver."""

import threading
from contextlib import closing

import pyarrow as pa
import pytest

from errors import ALREADY_EXISTS, INVALID, NOT_FOUND, NOT_IMPLEMENTED, UNAUTHORIZED, refused
from mallard import Server

CLIENT = "ADBC, Python"
DEFINITION = """\
name = "shop"
allow_create = true

[tables.declared]
primary_key = ["id"]
columns = [{ name = "id", type = "bigint" }]
"""
KEY = pa.field("id", pa.int64(), nullable=False, metadata={"mallard:primary_key": "true"})
KEYED = pa.schema([KEY, ("item", pa.string())])
PLAIN = pa.schema([("id", pa.int64()), ("item", pa.string())])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "lakehouse.toml").write_text(DEFINITION)
    with Server(folder, folder / "data") as server:
        yield server


def rows(*pairs, schema=PLAIN):
    return pa.Table.from_pylist([{"id": number, "item": item} for number, item in pairs], schema=schema)


def items(server, table):
    return [tuple(row.values()) for row in server.rows(f"SELECT id, item FROM silver.{table} ORDER BY id, item")]


@pytest.mark.feature("bulk ingest: create, create_append")
def test_create_makes_a_table_and_then_refuses_to(shop):
    shop.ingest("made", rows((1, "a"), (1, "b")), mode="create")
    assert items(shop, "made") == [(1, "a"), (1, "b")]
    with refused("made", "append", status=ALREADY_EXISTS):
        shop.send("made", rows((2, "c")), mode="create")
    shop.ingest("made", rows((3, "d")))
    assert items(shop, "made") == [(1, "a"), (1, "b"), (3, "d")]


@pytest.mark.feature("bulk ingest: create, create_append")
def test_create_append_makes_a_table_once_and_then_adds(shop):
    for item in ("a", "b"):
        shop.ingest("grown", rows((1, item)), mode="create_append")
    assert items(shop, "grown") == [(1, "a"), (1, "b")]
    shop.ingest("declared", pa.table({"id": [1]}), mode="create_append")
    assert shop.rows("SELECT id FROM silver.declared") == [{"id": 1}]


@pytest.mark.feature("bulk ingest: create, create_append")
def test_a_column_that_says_so_is_the_key(shop):
    shop.ingest("keyed", rows((1, "a"), (2, "b"), (2, "c"), schema=KEYED), mode="create")
    shop.ingest("keyed", rows((1, "d")))
    assert items(shop, "keyed") == [(1, "d"), (2, "c")]


@pytest.mark.feature("bulk ingest: create, create_append")
def test_a_made_table_is_listed_with_its_columns(shop):
    sent = pa.table({"price": pa.array([None], pa.decimal128(9, 2)), "tags": [["a", "b"]]})
    shop.ingest("listed", sent, mode="create")
    with shop.connect() as connection:
        schema = connection.adbc_get_table_schema("listed", db_schema_filter="silver")
    assert schema.field("price").type == pa.decimal128(9, 2)
    assert schema.field("tags").type == shop.table("SELECT tags FROM silver.listed").schema.field("tags").type
    listed = "SELECT column_name FROM information_schema.columns WHERE table_name = 'listed' ORDER BY ordinal_position"
    assert [row["column_name"] for row in shop.rows(listed)] == ["price", "tags"]


@pytest.mark.feature("bulk ingest: create, create_append")
def test_a_made_table_is_there_after_a_restart(fresh_server, tmp_path):
    definition = tmp_path / "shop"
    definition.mkdir()
    (definition / "lakehouse.toml").write_text('name = "shop"\nallow_create = true\n')
    server = fresh_server(definition)
    server.ingest("kept", rows((1, "a"), schema=KEYED), mode="create")
    assert server.stop() == 0
    server = fresh_server(definition)
    server.ingest("kept", rows((1, "b"), (2, "c")))
    assert items(server, "kept") == [(1, "b"), (2, "c")]


@pytest.mark.feature("bulk ingest: create, create_append")
def test_an_empty_table_can_be_made(shop):
    # Without a batch, the driver sends nothing at all, not even the schema.
    nothing = pa.RecordBatchReader.from_batches(KEYED, [pa.RecordBatch.from_pylist([], schema=KEYED)])
    assert shop.send("empty", nothing, mode="create") == 0
    shop.ingest("empty", rows((1, "a"), (1, "b")))
    assert items(shop, "empty") == [(1, "b")]


def test_what_is_told_of_a_tables_first_ingest_is_true_however_often_it_is_asked(shop):
    done = threading.Event()

    def ask():
        with closing(shop.connect()) as connection, connection.cursor() as cursor:
            while not done.is_set():
                cursor.execute("SELECT count(*) FROM system.ingests")
                cursor.fetchall()

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        ids = [f"first-of-asked_{number}" for number in range(15)]
        for ingest_id in ids:
            shop.send(ingest_id.removeprefix("first-of-"), rows((1, "a"), (2, "b")), mode="create", ingest_id=ingest_id)
        for ingest_id in ids:
            shop.wait_merged(ingest_id)
    finally:
        done.set()
        for asker in askers:
            asker.join()
    told = shop.rows("SELECT ingest_id, rows, frames FROM system.ingests WHERE ingest_id LIKE 'first-of-%'")
    assert sorted((row["ingest_id"], row["rows"], row["frames"]) for row in told) == sorted((i, 2, 1) for i in ids)


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
@pytest.mark.parametrize("name", ["Orders", "2nd", "a-b", "ta ble", "_hidden", "x" * 65], ids=str)
def test_a_name_that_can_be_no_table_is_refused(shop, name):
    with refused(name, cure=False):
        shop.send(name, rows((1, "a")), mode="create")


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
def test_columns_that_can_be_no_table_are_refused(shop):
    with refused("_id", cure=False):
        shop.send("odd", pa.table({"_id": [1]}), mode="create")
    with refused("took", status=(INVALID, NOT_IMPLEMENTED), cure=False):
        shop.send("odd", pa.table({"took": pa.array([1], pa.duration("s"))}), mode="create")
    float_key = pa.field("id", pa.float64(), metadata={"mallard:primary_key": "true"})
    with refused("id", cure=False):
        shop.send("odd", pa.table({"id": [1.0]}, schema=pa.schema([float_key])), mode="create")
    with refused("odd", status=NOT_FOUND):
        shop.send("odd", rows((1, "a")))


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
def test_append_does_not_make_a_table(shop):
    with refused("nowhere", status=NOT_FOUND):
        shop.send("nowhere", rows((1, "a")))


@pytest.mark.feature("bulk ingest: replace is refused", "errors with their codes")
@pytest.mark.parametrize("table", ["declared", "never_seen"])
def test_replace_is_refused_with_the_reason(shop, table):
    with refused(table, "replace", "append", status=NOT_IMPLEMENTED):
        shop.send(table, pa.table({"id": [1]}), mode="replace")


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
def test_a_table_is_not_made_unless_the_definition_allows_it(lab):
    for mode in ("create", "create_append"):
        with refused("letters", "allow_create", status=UNAUTHORIZED):
            lab.send("letters", rows((1, "a")), mode=mode)
