"""DuckDB over a stream of Arrow from the ADBC driver: joined with local tables, and sent back."""

from contextlib import closing

import duckdb
import pytest

from lab import readings
from mallard import wait_for

CLIENT = "DuckDB"


@pytest.fixture
def connection(lab):
    with closing(lab.connect()) as connection:
        yield connection


@pytest.fixture
def local():
    with closing(duckdb.connect()) as local:
        local.execute("SET TimeZone = 'UTC'")
        yield local


@pytest.mark.feature("connect, handshake", "queries", "scalar types", "NULLs")
def test_a_stream_is_joined_with_a_local_table(lab, own, connection, local):
    values = [{"id": own.id(n), "sensor": own.sensor, "value": v} for n, v in enumerate((1.5, None, 4.0))]
    lab.ingest("readings", readings(*values))
    local.execute("CREATE TABLE rooms AS SELECT ? AS sensor, 'kitchen' AS room", [own.sensor])
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM silver.readings WHERE {own.where()}")
        local.register("readings", cursor.fetch_record_batch())
        rows = local.execute(
            'SELECT room, count(*), count(value), sum(value), max("at")::VARCHAR '
            "FROM readings JOIN rooms USING (sensor) GROUP BY room"
        ).fetchall()
    assert rows == [("kitchen", 3, 2, 5.5, "2024-02-29 12:00:00.123456+00")]


@pytest.mark.feature("queries", "nested types")
def test_nested_values_arrive(connection, local):
    with connection.cursor() as cursor:
        cursor.execute("SELECT [1, 2] AS list, {'a': 1, 'b': 'x'} AS struct")
        local.register("nested", cursor.fetch_record_batch())
        assert local.execute("SELECT list[2], struct.b, typeof(list) FROM nested").fetchall() == [(2, "x", "BIGINT[]")]


@pytest.mark.feature("queries")
def test_a_stream_that_is_larger_than_a_batch_is_read_to_its_end(connection, local):
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM generate_series(1, 200000) AS t(value)")
        local.register("numbers", cursor.fetch_record_batch())
        assert local.execute("SELECT count(*), sum(value) FROM numbers").fetchall() == [(200000, 20000100000)]


@pytest.mark.feature("bulk ingest: append")
def test_a_local_result_is_ingested(lab, own, connection, local):
    local.execute(
        f"CREATE TABLE measured AS SELECT {own.base} + n AS id, 1::BIGINT AS seq, n / 2 AS value FROM range(1000) t(n)"
    )
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("readings", local.table("measured").to_arrow_reader(), mode="append") == 1000
    summed = f"SELECT count(*) AS n, sum(value) AS total FROM silver.readings WHERE {own.where()}"
    wait_for(lambda: lab.rows(summed) == [{"n": 1000, "total": 249750.0}], "the merge of the result")
