"""Queries as they run: in parts, in the background, read half or cancelled; and what `system.queries` tells of them."""

import threading
from contextlib import closing
from datetime import datetime, timedelta, timezone

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from adbc_driver_flightsql import StatementOptions as FlightSqlStatementOptions
from adbc_driver_manager import StatementOptions

from errors import refused
from lab import readings, write_definition
from mallard import Server, wait_for

CLIENT = "ADBC, Python"
CANCELLED = adbc_driver_manager.AdbcStatusCode.CANCELLED
ROWS = 400_000
# Far more than any test waits for, the first without a row, the second with rows all the time.
SILENT = "SELECT sum(value) FROM generate_series(1, 1000000000000) AS t(value)"
TALKING = "SELECT value, repeat('x', 100) AS text FROM generate_series(1, 1000000000) AS t(value)"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on the lab definition that gives an endpoint for each MiB of files, with one large table."""
    folder = tmp_path_factory.mktemp("running")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MALLARD_SLICE_MIB", "1")
        with Server(write_definition(folder / "definition"), folder / "data") as server:
            large = pa.table({"line": range(ROWS), "text": [f"{n * 2654435761 % 2**32:x}" for n in range(ROWS)]})
            # Each is a file of its own: parts are cut between the row groups of files.
            for start in range(0, ROWS, ROWS // 4):
                server.ingest("logs", large.slice(start, ROWS // 4))
            yield server


@pytest.fixture
def cursor(server):
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def whole(server):
    """A cursor whose results come in one part, so that each query is one row of system.queries."""
    with closing(server.connect({"mallard-max-endpoints": "1"})) as connection, connection.cursor() as cursor:
        yield cursor


def told(server, mark):
    """The rows of system.queries about statements that end in this comment."""
    return server.rows(f"SELECT * FROM system.queries WHERE statement LIKE '%-- {mark}' ORDER BY started_at")


def told_once(server, mark, state):
    """The one row about a statement, once it is in this state."""
    rows = wait_for(
        lambda: [row for row in told(server, mark) if row["state"] == state], f"the state {state!r} of {mark!r}"
    )
    assert len(rows) == 1
    return rows[0]


@pytest.mark.feature("schema ahead of the rows (GetSchema, ExecuteSchema)")
def test_the_schema_is_told_without_running_the_query(server, cursor):
    mark = "only its schema"
    schema = cursor.adbc_execute_schema(f"SELECT line, upper(text) AS loud FROM silver.logs -- {mark}")
    assert (schema.names, schema.types) == (["line", "loud"], [pa.int64(), pa.string()])
    assert cursor.adbc_execute_schema("SELECT id FROM silver.readings WHERE id = ?").names == ["id"]
    with refused("txet", cure=False):
        cursor.adbc_execute_schema("SELECT txet FROM silver.logs")
    assert told(server, mark) == []


@pytest.mark.feature("results in several endpoints", "any server answers any call")
def test_a_large_result_is_read_in_parts_over_other_connections(server, cursor):
    partitions, schema = cursor.adbc_execute_partitions("SELECT line, text FROM silver.logs")
    assert len(partitions) > 1
    assert schema.names == ["line", "text"]
    read = []
    for partition in reversed(partitions):
        with closing(server.connect()) as other, other.cursor() as reader:
            reader.adbc_read_partition(partition)
            read.append(reader.fetch_arrow_table())
    assert sum(part.num_rows > 0 for part in read) > 1
    assert sorted(pa.concat_tables(read)["line"].to_pylist()) == list(range(ROWS))


@pytest.mark.feature("results in several endpoints", "order of endpoints")
def test_an_ordered_result_comes_in_its_order(cursor):
    cursor.execute("SELECT line FROM silver.logs ORDER BY line")
    assert cursor.fetch_arrow_table()["line"].to_pylist() == list(range(ROWS))


@pytest.mark.feature("results in several endpoints", "session options")
def test_a_client_may_want_fewer_parts(server):
    with closing(server.connect({"mallard-max-endpoints": "1"})) as connection, connection.cursor() as cursor:
        partitions, _ = cursor.adbc_execute_partitions("SELECT line FROM silver.logs")
        assert len(partitions) == 1
        cursor.adbc_read_partition(partitions[0])
        assert cursor.fetch_arrow_table().num_rows == ROWS


@pytest.mark.feature("results in several endpoints")
def test_parts_keep_to_the_snapshot_they_were_planned_on(server, cursor):
    partitions, _ = cursor.adbc_execute_partitions("SELECT sensor FROM silver.readings WHERE sensor = 'late'")
    server.ingest("readings", readings({"id": 1, "sensor": "late"}))
    for partition in partitions:
        cursor.adbc_read_partition(partition)
        assert cursor.fetchall() == []
    assert server.rows("SELECT sensor FROM silver.readings WHERE sensor = 'late'") == [{"sensor": "late"}]


@pytest.mark.feature("results in several endpoints", "errors with their codes")
def test_a_part_that_is_none_is_refused(cursor):
    with pytest.raises(adbc_driver_manager.Error) as caught:
        cursor.adbc_read_partition(b"not a partition")
        cursor.fetchall()
    assert caught.value.status_code != adbc_driver_manager.AdbcStatusCode.INTERNAL


def incremental(cursor, sql):
    """Runs a query in the background; its partitions as they come, and the progress behind each answer."""
    cursor.adbc_statement.set_options(**{StatementOptions.INCREMENTAL.value: "true"})
    while True:
        partitions, schema = cursor.adbc_execute_partitions(sql)
        progress = cursor.adbc_statement.get_option_float(StatementOptions.PROGRESS.value)
        if not partitions:
            return
        yield partitions, schema, progress


@pytest.mark.feature("long-running queries (PollFlightInfo)")
def test_a_query_in_the_background_gives_its_rows_and_ends(server, cursor):
    found, last = [], 0.0
    for partitions, schema, progress in incremental(cursor, "SELECT line FROM silver.logs WHERE line % 2 = 0"):
        assert schema.names == ["line"]
        assert last <= progress <= 1.0
        last = progress
        found += partitions
    assert last == 1.0
    lines = []
    for partition in found:
        with closing(server.connect()) as other, other.cursor() as reader:
            reader.adbc_read_partition(partition)
            lines += reader.fetch_arrow_table()["line"].to_pylist()
    assert sorted(lines) == list(range(0, ROWS, 2))


@pytest.mark.feature("long-running queries (PollFlightInfo)")
def test_a_query_in_the_background_shows_its_flight_info(cursor):
    list(incremental(cursor, "SELECT line FROM silver.logs LIMIT 7"))
    raw = cursor.adbc_statement.get_option_bytes(FlightSqlStatementOptions.LAST_FLIGHT_INFO.value)
    assert raw == b"" or flight.FlightInfo.deserialize(raw).schema.names == ["line"]


@pytest.mark.feature("long-running queries (PollFlightInfo)", "errors with their codes")
def test_a_query_that_fails_in_the_background_says_so(cursor):
    with refused("divide by zero", cure=False):
        list(incremental(cursor, "SELECT 1 / (line - line) FROM silver.logs"))
    assert [p for p, _, _ in incremental(cursor, "SELECT 1 AS one")] != []


@pytest.mark.feature("long-running queries (PollFlightInfo)", "cancel")
def test_a_query_in_the_background_is_cancelled_from_another_thread(server, cursor):
    mark = "polled, then cancelled"
    cancelling = threading.Thread(target=lambda: (told_once(server, mark, "running"), cursor.adbc_cancel()))
    cancelling.start()
    with pytest.raises(adbc_driver_manager.Error) as caught:
        list(incremental(cursor, f"{SILENT} -- {mark}"))
    cancelling.join()
    assert caught.value.status_code == CANCELLED


@pytest.mark.feature("cancel")
@pytest.mark.parametrize("what", [SILENT, TALKING], ids=["silent", "talking"])
def test_a_cancel_from_another_thread_stops_the_query(server, cursor, what):
    mark = f"cancelled {what[7]}"

    def read():
        cursor.execute(f"{what} -- {mark}")
        while cursor.fetchmany(10_000):
            pass

    cancelling = threading.Thread(target=lambda: (told_once(server, mark, "running"), cursor.adbc_cancel()))
    cancelling.start()
    with pytest.raises(adbc_driver_manager.Error) as caught:
        read()
    cancelling.join()
    assert caught.value.status_code == CANCELLED
    row = told_once(server, mark, "cancelled")
    assert row["error"]


@pytest.mark.feature("cancel", "connections at once")
def test_a_join_that_finds_nothing_holds_up_nobody_and_stops_when_it_is_cancelled(fresh_server):
    server, mark = fresh_server(), "joined in vain"
    join = "SELECT count(*) FROM generate_series(1, 300000) a(x) JOIN generate_series(1, 300000) b(y) ON x * y % 7 = 8"
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"{join} -- {mark}")
        told_once(server, mark, "running")
        cursor.adbc_cancel()
        with pytest.raises(adbc_driver_manager.Error):
            cursor.fetchall()
    told_once(server, mark, "cancelled")
    assert server.rows("SELECT count(*) AS n FROM generate_series(1, 1000)") == [{"n": 1000}]
    assert server.stop() == 0


@pytest.mark.feature("cancel")
def test_a_cursor_is_usable_after_a_cancel(server, cursor):
    cursor.execute(TALKING)
    cursor.fetchone()
    cursor.adbc_cancel()
    with pytest.raises(adbc_driver_manager.Error):
        while cursor.fetchmany(10_000):
            pass
    cursor.execute("SELECT 1")
    assert cursor.fetchall() == [(1,)]


@pytest.mark.feature("cancel")
def test_a_reader_that_leaves_ends_its_query(server, cursor):
    mark = "half read"
    cursor.execute(f"{TALKING} -- {mark}")
    reader = cursor.fetch_record_batch()
    assert reader.read_next_batch().num_rows > 0
    assert told_once(server, mark, "running")["rows"] > 0
    reader.close()
    cursor.close()
    row = told_once(server, mark, "cancelled")
    assert 0 < row["rows"] < 1_000_000_000
    assert row["error"] == "its reader left"


@pytest.mark.feature("queries")
def test_batches_are_streamed_before_the_query_has_ended(server, cursor):
    cursor.execute(f"{TALKING} -- streamed")
    reader = cursor.fetch_record_batch()
    first = reader.read_next_batch()
    assert first["value"][0].as_py() == 1
    assert told(server, "streamed")[0]["state"] == "running"
    reader.close()


@pytest.mark.feature("queries", "errors with their codes")
def test_an_error_in_the_middle_comes_behind_the_rows_before_it(cursor):
    cursor.execute("SELECT 1 / (100000 - value) AS inverse, value FROM generate_series(1, 200000) AS t(value)")
    assert cursor.fetchone()
    with pytest.raises(adbc_driver_manager.Error, match="(?i)divide by zero") as caught:
        while cursor.fetchmany(10_000):
            pass
    assert caught.value.status_code == adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT


@pytest.mark.feature("errors with their codes", "connections at once")
def test_more_queries_than_the_server_takes_are_refused_with_a_hint(fresh_server, monkeypatch):
    monkeypatch.setenv("MALLARD_QUERIES_MAX", "1")
    monkeypatch.setenv("MALLARD_QUEUE_MAX", "0")
    server = fresh_server()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(TALKING)
        cursor.fetchone()
        with pytest.raises(adbc_driver_manager.Error, match="try again") as caught:
            server.rows("SELECT 1")
        assert "ResourceExhausted" in str(caught.value)
        details = dict(caught.value.details)
        assert int(details[b"grpc-retry-pushback-ms"]) > 0
        assert b"google.rpc.RetryInfo" in details[b"grpc-status-details-bin"]
    wait_for(lambda: answers(server), "room for a query")


def answers(server):
    try:
        return server.rows("SELECT 1 AS one") == [{"one": 1}]
    except adbc_driver_manager.Error:
        return False


@pytest.mark.feature("connections at once")
def test_many_connections_read_at_once(server):
    sums, errors = [], []

    def read(number):
        try:
            with closing(server.connect()) as connection, connection.cursor() as cursor:
                for _ in range(3):
                    cursor.execute("SELECT sum(line) FROM silver.logs WHERE line % ? = 0", (number,))
                    sums.append((number, cursor.fetchone()[0]))
        except adbc_driver_manager.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(sums) == sorted((n, sum(range(0, ROWS, n))) for n in range(1, 17) for _ in range(3))


def test_the_log_tells_who_asked_what_and_what_it_took(server, whole):
    mark = "logged"
    before = datetime.now(timezone.utc)
    sql = f"SELECT text, count(*) FROM silver.logs GROUP BY text ORDER BY text -- {mark}"
    whole.execute(sql)
    table = whole.fetch_arrow_table()
    row = told_once(server, mark, "done")
    assert (row["kind"], row["statement"], row["error"]) == ("select", sql, None)
    assert row["query_id"] and row["principal"] and row["peer"].startswith("127.0.0.1:")
    assert before - timedelta(seconds=1) <= row["started_at"] <= datetime.now(timezone.utc)
    assert 0 <= row["queued_ms"] <= row["duration_ms"]
    assert row["rows"] == table.num_rows
    assert row["bytes"] >= table.nbytes // 2
    assert row["peak_memory_bytes"] > 0
    assert row["files_read"] > 0
    assert row["bytes_scanned"] > 0
    assert row["files_pruned"] == 0


def test_the_log_tells_which_files_were_read_and_which_were_not(server, whole):
    for number in (1000, 2000):
        server.ingest("readings", readings({"id": number, "sensor": "pruned", "value": 1.0}))
    mark = "pruned"
    whole.execute(f"SELECT id FROM silver.readings WHERE id = 2000 -- {mark}")
    assert whole.fetchall() == [(2000,)]
    row = told_once(server, mark, "done")
    assert row["files_read"] >= 1
    assert row["files_pruned"] >= 1


def test_the_log_tells_what_was_spilled(server):
    mark = "spilled"
    texts = "SELECT md5(value::varchar) AS text, value FROM generate_series(1, 600000) AS t(value)"
    groups = f"SELECT text, count(*) AS n, max(value) AS last FROM ({texts}) GROUP BY text"
    with closing(server.connect({"mallard-memory-limit": "48MiB"})) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT sum(n), max(last) FROM ({groups}) -- {mark}")
        assert cursor.fetchall() == [(600000, 600000)]
    row = told_once(server, mark, "done")
    assert row["spilled_bytes"] > 0
    assert row["peak_memory_bytes"] <= 48 << 20


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1", "select"),
        ("EXPLAIN SELECT 1", "explain"),
        ("SHOW TABLES", "show"),
        ("INSERT INTO silver.logs VALUES (-1, 'x')", "insert"),
        ("UPDATE silver.readings SET value = 1 WHERE id = -1", "update"),
        ("DELETE FROM silver.readings WHERE id = -1", "delete"),
    ],
)
def test_the_log_tells_what_kind_a_statement_is(server, whole, sql, kind):
    mark = f"kind {kind}"
    whole.execute(f"{sql} -- {mark}")
    whole.fetchall()
    assert told_once(server, mark, "done")["kind"] == kind


def test_the_log_tells_how_a_query_failed(server, whole):
    mark = "failed"
    with pytest.raises(adbc_driver_manager.Error):
        whole.execute(f"SELECT 1 / (line - line) FROM silver.logs -- {mark}")
        whole.fetchall()
    assert "divide by zero" in told_once(server, mark, "failed")["error"].lower()


def test_the_log_tells_what_ran_out_of_time(server):
    mark = "timed out"
    with closing(server.connect({"mallard-timeout": "200ms"})) as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error):
            cursor.execute(f"{SILENT} -- {mark}")
            cursor.fetchall()
    row = told_once(server, mark, "timed out")
    assert row["duration_ms"] >= 200
    assert "0.2 s" in row["error"]


def test_the_log_tells_a_query_of_many_runs_once_each(server, whole):
    mark = "bound"
    sql = f"SELECT line FROM silver.logs WHERE line = ? -- {mark}"
    for number in range(3):
        whole.execute(sql, (number,))
        assert whole.fetchall() == [(number,)]
    wait_for(lambda: len(told(server, mark)) == 3, "three rows")
    assert len({row["query_id"] for row in told(server, mark)}) == 3
