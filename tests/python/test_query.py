"""Queries through the ADBC driver: what comes back, and what is refused."""

from contextlib import closing

import pytest

from errors import INVALID, NOT_FOUND, refused
from lab import logs, readings
from mallard import wait_for

CLIENT = "ADBC, Python"
ROWS = 500


@pytest.fixture(scope="module", autouse=True)
def filled(lab):
    lab.ingest("readings", readings(*({"id": n, "sensor": f"s{n % 7}", "value": n / 2} for n in range(ROWS))))
    lab.ingest("logs", logs("a", "b", "c"))
    wait_for(
        lambda: lab.rows("SELECT sum(readings) AS n FROM totals")[0]["n"] == ROWS, "the refresh of the model totals"
    )


@pytest.mark.feature("connect, handshake")
def test_a_connection_opens_and_closes(lab):
    connection = lab.connect()
    connection.close()


@pytest.mark.feature("queries")
def test_the_default_schema_is_gold(lab):
    assert lab.rows("SELECT * FROM totals ORDER BY sensor") == lab.rows("SELECT * FROM gold.totals ORDER BY sensor")


@pytest.mark.feature("queries")
def test_the_catalog_has_the_name_of_the_definition(lab):
    assert lab.rows("SELECT count(*) AS n FROM lab.silver.readings") == [{"n": ROWS}]


@pytest.mark.feature("queries")
def test_schemas_join(lab):
    rows = lab.rows(
        "SELECT count(*) AS n FROM gold.totals t JOIN silver.readings r ON r.sensor = t.sensor "
        "WHERE EXISTS (SELECT 1 FROM system.tables WHERE table_name = 'readings')"
    )
    assert rows == [{"n": ROWS}]


@pytest.mark.feature("queries")
def test_two_executes_of_one_cursor_give_their_own_results(lab):
    with closing(lab.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchall() == [(1,)]
        cursor.execute("SELECT text FROM silver.logs ORDER BY text")
        assert cursor.fetchall() == [("a",), ("b",), ("c",)]


@pytest.mark.feature("connections at once")
def test_two_connections_at_once_do_not_disturb_each_other(lab):
    with closing(lab.connect()) as one, closing(lab.connect()) as two:
        with one.cursor() as first, two.cursor() as second:
            first.execute("SELECT id FROM silver.readings ORDER BY id")
            second.execute("SELECT line FROM silver.logs ORDER BY line")
            assert first.fetchone() == (0,)
            assert second.fetchall() == [(1,), (2,), (3,)]
            assert len(first.fetchall()) == ROWS - 1


@pytest.mark.feature("queries")
def test_a_result_of_no_rows_has_its_columns(lab):
    table = lab.table("SELECT id, value FROM silver.readings WHERE id < 0")
    assert table.num_rows == 0
    assert table.column_names == ["id", "value"]


@pytest.mark.feature("prepared statements")
def test_a_prepared_query_can_run_again(lab):
    with closing(lab.connect()) as connection, connection.cursor() as cursor:
        cursor.adbc_prepare("SELECT count(*) AS n FROM silver.logs")
        for _ in range(2):
            cursor.execute("SELECT count(*) AS n FROM silver.logs")
            assert cursor.fetchall() == [(3,)]


@pytest.mark.feature("scalar types")
def test_strings_come_as_plain_utf8(lab):
    schema = lab.table("SELECT sensor, upper(sensor) AS loud FROM silver.readings LIMIT 1").schema
    assert [str(field.type) for field in schema] == ["string", "string"]


@pytest.mark.feature("errors with their codes")
def test_a_syntax_error_is_told_with_the_place(lab):
    with refused("SELEC", cure=False):
        lab.rows("SELEC 1")


@pytest.mark.feature("errors with their codes")
def test_an_unknown_column_is_told_by_name(lab):
    with refused("valeu"):
        lab.rows("SELECT valeu FROM silver.readings")


@pytest.mark.feature("errors with their codes")
def test_an_unknown_table_is_told_by_name(lab):
    with refused("silver.readingz", status=(INVALID, NOT_FOUND), cure=False):
        lab.rows("SELECT * FROM silver.readingz")


@pytest.mark.feature("errors with their codes")
def test_a_failing_expression_is_an_error_and_the_connection_stays_usable(lab):
    with closing(lab.connect()) as connection, connection.cursor() as cursor:
        with pytest.raises(Exception) as caught:
            cursor.execute("SELECT 1 / (id - id) AS boom FROM silver.readings")
            cursor.fetchall()
        assert "divide by zero" in str(caught.value).lower()
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


@pytest.mark.feature("errors with their codes")
@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE gold.mine AS SELECT 1 AS x",
        "CREATE VIEW gold.mine AS SELECT 1 AS x",
        "CREATE SCHEMA mine",
        "CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '/etc/passwd'",
        "DROP TABLE silver.readings",
        "UPDATE silver.logs SET text = 'z'",
        "DELETE FROM silver.logs",
        "COPY (SELECT 1) TO 'mine.csv'",
    ],
    ids=lambda sql: " ".join(sql.split()[:2]),
)
def test_a_statement_that_writes_is_refused(lab, sql):
    with refused("refused", status=INVALID, cure=False):
        lab.rows(sql)
    assert lab.rows("SELECT count(*) AS n FROM silver.logs") == [{"n": 3}]


@pytest.mark.feature("errors with their codes")
def test_a_file_of_the_server_cannot_be_read(lab):
    with refused("/etc/passwd", status=(INVALID, NOT_FOUND), cure=False):
        lab.rows("SELECT * FROM '/etc/passwd'")
