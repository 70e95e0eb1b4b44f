"""Polars over an ADBC connection: `read_database`, batch by batch or at once, and `write_database`."""

from contextlib import closing

import adbc_driver_manager
import polars as pl
import pytest

from lab import NOON, logs, readings
from mallard import wait_for

CLIENT = "Polars"


@pytest.fixture
def connection(lab):
    with closing(lab.connect()) as connection:
        yield connection


@pytest.mark.feature("connect, handshake", "queries", "scalar types", "NULLs")
def test_a_query_becomes_a_data_frame(lab, own, connection):
    rows = {"id": own.id(1), "sensor": own.sensor, "value": 2.5}, {"id": own.id(2), "at": None}
    lab.ingest("readings", readings(*rows))
    sql = f"SELECT id, sensor, value, at FROM silver.readings WHERE {own.where()} ORDER BY id"
    frame = pl.read_database(sql, connection)
    assert frame.schema == {
        "id": pl.Int64,
        "sensor": pl.String,
        "value": pl.Float64,
        "at": pl.Datetime("us", "UTC"),
    }
    assert frame.rows() == [(own.id(1), own.sensor, 2.5, NOON), (own.id(2), None, None, None)]


@pytest.mark.feature("queries", "nested types")
def test_nested_values_arrive(connection):
    frame = pl.read_database("SELECT [1, 2] AS list, {'a': 1, 'b': 'x'} AS struct", connection)
    assert frame.row(0) == ([1, 2], {"a": 1, "b": "x"})


@pytest.mark.feature("bound parameters")
def test_a_query_takes_parameters(lab, own, connection):
    lab.ingest("readings", readings(*({"id": own.id(n), "value": float(n)} for n in range(3))))
    frame = pl.read_database(
        "SELECT value FROM silver.readings WHERE id = ? OR id = ? ORDER BY id",
        connection,
        execute_options={"parameters": (own.id(0), own.id(2))},
    )
    assert frame["value"].to_list() == [0.0, 2.0]


@pytest.mark.feature("queries")
def test_a_large_result_comes_in_batches(connection):
    sql = "SELECT value FROM generate_series(1, 50000) AS t(value)"
    frames = list(pl.read_database(sql, connection, iter_batches=True))
    assert len(frames) > 1
    assert pl.concat(frames)["value"].sum() == 50000 * 50001 // 2


@pytest.mark.feature("bulk ingest: append")
def test_a_data_frame_is_appended(lab, own, connection):
    frame = pl.DataFrame(
        {
            "id": [own.id(1), own.id(2)],
            "seq": [1, 1],
            "sensor": [own.sensor, None],
            "value": [0.5, None],
            "at": [NOON, None],
        }
    )
    assert frame.write_database("silver.readings", connection, engine="adbc", if_table_exists="append") == 2
    sql = f"SELECT id, seq, sensor, value, at FROM silver.readings WHERE {own.where()} ORDER BY id"
    wait_for(lambda: len(lab.rows(sql)) == 2, "the merge of the frame")
    assert pl.read_database(sql, connection).rows() == frame.rows()


@pytest.mark.feature("bulk ingest: replace is refused", "errors with their codes")
def test_a_table_is_not_replaced(lab, connection):
    lab.ingest("logs", logs("stays"))
    with pytest.raises(adbc_driver_manager.NotSupportedError, match="replace is refused"):
        pl.DataFrame({"line": [1]}).write_database("silver.logs", connection, engine="adbc", if_table_exists="replace")
    with pytest.raises(adbc_driver_manager.Error, match="there already"):
        pl.DataFrame({"line": [1]}).write_database("silver.logs", connection, engine="adbc", if_table_exists="fail")
    assert {"text": "stays"} in lab.rows("SELECT text FROM silver.logs")


@pytest.mark.feature("errors with their codes")
def test_an_append_to_a_table_that_is_not_there_says_what_to_do(connection):
    frame = pl.DataFrame({"line": [1]})
    with pytest.raises(adbc_driver_manager.Error, match="allow_create"):
        frame.write_database("silver.letters", connection, engine="adbc", if_table_exists="append")
