"""Parameters, statements that write, time travel, options and limits, through the ADBC driver."""

import time
from contextlib import closing

import adbc_driver_manager
import pyarrow as pa
import pytest

from errors import INVALID, NOT_FOUND, refused
from lab import logs, readings
from mallard import wait_for

ALLOW_CREATE = """\
name = "shop"
allow_create = true
"""


def run(server, sql, parameters=None, headers=None):
    with closing(server.connect(headers)) as connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def change(server, sql, rows):
    """Runs a statement that writes, once for each row of parameters; the number of rows that it says it sent."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.executemany(sql, rows)
        return cursor.rowcount


def test_a_query_takes_parameters_of_both_kinds(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "value": 1.5}, {"id": own.id(2), "value": 2.5}))
    assert run(lab, "SELECT value FROM silver.readings WHERE id = ?", (own.id(2),)) == [(2.5,)]
    assert run(lab, "SELECT value + $2 FROM silver.readings WHERE id = $1", (own.id(1), 10.0)) == [(11.5,)]


def test_a_statement_says_which_parameters_it_wants(lab):
    with closing(lab.connect()) as connection, connection.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT * FROM silver.readings WHERE id = ? AND sensor = ? LIMIT ?")
        assert schema.types == [pa.int64(), pa.string(), pa.int64()]
    with refused("parameters", "bound", status=INVALID, cure=False):
        run(lab, "SELECT ? + 1")


def test_inserted_updated_and_deleted_rows_are_merged_as_ingested_ones(lab, own):
    first, second = own.id(1), own.id(2)
    assert change(lab, "INSERT INTO silver.readings (id, seq, sensor, value) VALUES (?, ?, ?, ?)",
                  [(first, 1, own.sensor, 1.0), (second, 1, own.sensor, 2.0)]) == 2
    found = f"SELECT id, seq, value FROM silver.readings WHERE {own.where()} ORDER BY id"
    wait_for(lambda: len(run(lab, found)) == 2, "the insert")
    assert change(lab, "UPDATE silver.readings SET value = ? WHERE id = ?", [(7.0, first)]) == 1
    wait_for(lambda: run(lab, found)[0] == (first, 2, 7.0), "the update")
    assert change(lab, "DELETE FROM silver.readings WHERE id = ?", [(second,)]) == 1
    wait_for(lambda: run(lab, found) == [(first, 2, 7.0)], "the delete")


def test_an_insert_that_is_fetched_tells_its_count(lab):
    before = lab.rows("SELECT count(*) AS n FROM silver.logs")[0]["n"]
    assert run(lab, "INSERT INTO silver.logs SELECT 1, 'a' UNION ALL SELECT 2, 'b'") == [(2,)]
    wait_for(lambda: lab.rows("SELECT count(*) AS n FROM silver.logs")[0]["n"] == before + 2, "the insert")


def test_a_change_names_rows_by_key(lab):
    with refused("id", "primary key", status=INVALID):
        run(lab, "UPDATE silver.readings SET value = 0 WHERE sensor = 'x'")
    with refused("primary_key", status=INVALID):
        run(lab, "DELETE FROM silver.logs WHERE line = 1")


def test_a_table_is_read_as_it_was(lab, own):
    first = lab.ingest("readings", readings({"id": own.id(1), "value": 1.0}))["silver_version"]
    lab.ingest("readings", readings({"id": own.id(1), "seq": 2, "value": 2.0}))
    then = f"SELECT value FROM silver.readings FOR VERSION AS OF {first} WHERE id = {own.id(1)}"
    assert run(lab, then) == [(1.0,)]
    assert run(lab, f"SELECT value FROM silver.readings WHERE id = {own.id(1)}") == [(2.0,)]
    with refused("readings", "version", status=NOT_FOUND, cure=False):
        run(lab, "SELECT * FROM silver.readings FOR VERSION AS OF 999999")
    with refused("readings", status=NOT_FOUND, cure=False):
        run(lab, "SELECT * FROM silver.readings FOR TIMESTAMP AS OF '2001-01-01'")


def test_options_come_as_headers(lab):
    lab.ingest("logs", logs("a"))
    assert run(lab, "SELECT count(*) > 0 FROM logs", headers={"mallard-schema": "silver"}) == [(True,)]
    with refused("mallard-timeout", status=INVALID):
        run(lab, "SELECT 1", headers={"mallard-timeout": "soon"})
    for compression in ("lz4", "zstd"):
        assert run(lab, "SELECT 'x'", headers={"mallard-compression": compression}) == [("x",)]


SLOW = "SELECT count(*) FROM generate_series(1, 100000) a(x) JOIN generate_series(1, 1000000) b(y) ON x * y % 7 = 8"


def test_a_query_ends_at_its_timeout(lab):
    with pytest.raises(adbc_driver_manager.Error) as caught:
        run(lab, SLOW, headers={"mallard-timeout": "500ms"})
    assert caught.value.status_code == adbc_driver_manager.AdbcStatusCode.TIMEOUT, caught.value
    assert "timed out" in [row["state"] for row in lab.rows("SELECT state FROM system.queries")]


def test_comments_are_in_information_schema(lab):
    assert run(lab, "SELECT comment FROM information_schema.tables WHERE table_name = 'readings'") == [
        ("newest value of each sensor",)
    ]
    assert run(
        lab,
        "SELECT comment FROM information_schema.columns WHERE table_name = 'readings' AND column_name = 'id'",
    ) == [("identifies the reading",)]


def test_an_ingest_may_make_a_table_where_that_is_allowed(fresh_server, tmp_path):
    definition = tmp_path / "shop"
    definition.mkdir()
    (definition / "lakehouse.toml").write_text(ALLOW_CREATE)
    key = pa.field("id", pa.int64(), nullable=False, metadata={"mallard:primary_key": "true"})
    orders = pa.table({"id": [1, 2, 2], "item": ["a", "b", "c"]}, schema=pa.schema([key, ("item", pa.string())]))
    with fresh_server(definition) as server:
        server.ingest("orders", orders, mode="create")
        assert server.rows("SELECT * FROM silver.orders ORDER BY id") == [
            {"id": 1, "item": "a", "_sequence": server.rows("SELECT _sequence FROM silver.orders ORDER BY id")[0]["_sequence"]},
            {"id": 2, "item": "c", "_sequence": server.rows("SELECT _sequence FROM silver.orders ORDER BY id")[1]["_sequence"]},
        ]
        server.ingest("orders", orders.slice(0, 1), mode="create_append")
    with fresh_server(definition) as server:
        assert server.rows("SELECT count(*) AS n FROM silver.orders") == [{"n": 2}]
        time.sleep(0)
