"""Read your ingest: queries that wait until what they read contains certain ingests, and the receipts that tell it."""

import json
import uuid
from contextlib import closing

import adbc_driver_manager
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions

from errors import refused
from lab import TOML, logs, readings, write_definition
from mallard import wait_for

CLIENT = "ADBC, Python"
COOKIES = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
ALL_OPTIONS = ConnectionOptions.OPTION_SESSION_OPTIONS.value
OPTION = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
ERASE = ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value
TIMEOUT = adbc_driver_manager.AdbcStatusCode.TIMEOUT

# A model whose second refresh no test lives to see.
SLOW = """
[models.slow]
sql = "gold/slow.sql"
refresh = "rate(366 days)"
"""


def new_id():
    return f"receipt-{uuid.uuid4()}"


def read(server, sql, *ingests, **headers):
    """The rows of a query that waits for ingests: ids, or `id@batch` of streams; `timeout="1s"` is a header more."""
    headers = {f"mallard-{name.replace('_', '-')}": value for name, value in headers.items()}
    headers["mallard-wait-for"] = ",".join(ingests)
    with closing(server.connect(headers)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


@pytest.mark.feature("bulk ingest: append", "session options")
def test_a_query_reads_an_ingest_of_another_connection_at_once(lab, own):
    ingest = new_id()
    lab.send("readings", readings({"id": own.id(1), "sensor": own.sensor, "value": 1.5}), ingest_id=ingest)
    assert read(lab, f"SELECT value FROM silver.readings WHERE id = {own.id(1)}", ingest) == [(1.5,)]


@pytest.mark.feature("session options")
def test_a_query_of_models_waits_until_they_were_refreshed(lab, own):
    ingest = new_id()
    lab.send("readings", readings({"id": own.id(1), "sensor": own.sensor, "value": 1e9 * own.base}), ingest_id=ingest)
    totals = f"SELECT readings, total FROM gold.totals WHERE sensor = '{own.sensor}'"
    assert read(lab, totals, ingest) == [(1, 1e9 * own.base)]
    again = new_id()
    lab.send("readings", readings({"id": own.id(2), "sensor": own.sensor, "value": 1e9 * own.base}), ingest_id=again)
    # Through gold.totals.
    assert read(lab, "SELECT sensor, total FROM gold.loudest", again) == [(own.sensor, 2e9 * own.base)]


@pytest.mark.feature("session options")
def test_the_first_ingest_of_a_table_without_columns_is_waited_for(fresh_server):
    server = fresh_server()
    ingest = new_id()
    server.send("notes", logs("a", "b"), ingest_id=ingest)
    assert read(server, "SELECT text FROM silver.notes ORDER BY line", ingest) == [("a",), ("b",)]


@pytest.mark.feature("session options")
def test_a_model_that_was_never_refreshed_is_waited_for(fresh_server):
    server = fresh_server()
    ingest = new_id()
    server.send("readings", readings({"id": 1, "sensor": "first", "value": 2.0}), ingest_id=ingest)
    assert read(server, "SELECT sensor, total FROM gold.loudest", ingest) == [("first", 2.0)]


@pytest.mark.feature("session options")
def test_several_ingests_are_waited_for_together(lab, own):
    first, second, third = new_id(), new_id(), new_id()
    lab.send("readings", readings({"id": own.id(1), "value": 1.0}), ingest_id=first)
    lab.send("logs", logs(own.sensor), ingest_id=second)
    lab.send("readings", readings({"id": own.id(2), "value": 2.0}), ingest_id=third)
    sql = (
        f"SELECT (SELECT sum(value) FROM silver.readings WHERE {own.where()}), "
        f"(SELECT count(*) FROM silver.logs WHERE text = '{own.sensor}')"
    )
    assert read(lab, sql, first, second, third) == [(3.0, 1)]


@pytest.mark.feature("session options", "errors with their codes")
def test_an_unknown_ingest_is_waited_for_in_vain(lab):
    with refused("nobody-sent-this", "unknown", "0.4 s", status=TIMEOUT):
        read(lab, "SELECT count(*) FROM silver.logs", "nobody-sent-this", timeout="400ms")


@pytest.mark.feature("session options", "errors with their codes")
def test_what_is_lacking_is_told_by_model(fresh_server, tmp_path):
    folder = write_definition(tmp_path / "slow", TOML + SLOW)
    (folder / "gold" / "slow.sql").write_text("SELECT count(*)::BIGINT AS n FROM silver.logs")
    server = fresh_server(folder)
    first, second = new_id(), new_id()
    server.send("logs", logs("a"), ingest_id=first)
    assert read(server, "SELECT n FROM gold.slow", first) == [(1,)]
    server.send("logs", logs("b"), ingest_id=second)
    assert read(server, "SELECT count(*) FROM silver.logs", second) == [(2,)]
    with refused(second, "silver.logs", "gold.slow", "rate(366 days", cure=False, status=TIMEOUT):
        read(server, "SELECT n FROM gold.slow", second, timeout="1s")
    assert read(server, "SELECT n FROM gold.slow", first, timeout="5s") == [(1,)], "it still contains the first"


@pytest.mark.feature("session options")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT count(*) FROM system.tables",
        "SELECT count(*) FROM information_schema.tables",
        "SHOW TABLES",
    ],
)
def test_what_reads_no_table_does_not_wait(lab, sql):
    assert read(lab, sql, "nobody-sent-this", timeout="1s")


@pytest.mark.feature("session options")
def test_an_ingest_into_a_table_that_is_not_read_is_not_waited_for(lab, own):
    ingest = new_id()
    lab.send("readings", readings({"id": own.id(1), "value": 1.0}), ingest_id=ingest)
    assert read(lab, "SELECT count(*) >= 0 FROM silver.logs", ingest, timeout="5s") == [(True,)]


@pytest.mark.feature("session options", "updates (INSERT, UPDATE, DELETE)")
def test_a_statement_that_writes_waits_for_what_it_reads(lab, own):
    ingest = new_id()
    lab.send("readings", readings({"id": own.id(1), "value": 1.0}), ingest_id=ingest)
    headers = {"mallard-wait-for": ingest}
    with closing(lab.connect(headers)) as connection, connection.cursor() as cursor:
        cursor.executemany(f"UPDATE silver.readings SET value = 2.0 WHERE id = {own.id(1)}", None)
        assert cursor.rowcount == 1
    headers = {"mallard-wait-for": "nobody-sent-this", "mallard-timeout": "5s"}
    with closing(lab.connect(headers)) as connection, connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO silver.readings (id, seq, value) VALUES ({own.id(2)}, 1, 3.0)", None)
        assert cursor.rowcount == 1


@pytest.mark.feature("session options", "prepared statements", "bound parameters")
def test_a_prepared_statement_waits_when_it_runs(lab, own):
    ingest = new_id()
    with closing(lab.connect({"mallard-wait-for": ingest})) as connection, connection.cursor() as cursor:
        sql = "SELECT value FROM silver.readings WHERE id = ?"
        cursor.adbc_prepare(sql)
        lab.send("readings", readings({"id": own.id(1), "value": 4.0}), ingest_id=ingest)
        cursor.execute(sql, (own.id(1),))
        assert cursor.fetchall() == [(4.0,)]


@pytest.mark.feature("session options")
def test_a_session_waits_until_the_option_is_erased(lab, own):
    ingest = new_id()
    lab.send("readings", readings({"id": own.id(1), "value": 5.0}), ingest_id=ingest)
    with closing(lab.connect(**COOKIES)) as session, session.cursor() as cursor:
        session.adbc_connection.set_options(**{OPTION + "wait_for": f"{ingest}, {ingest}"})
        assert json.loads(session.adbc_connection.get_option(ALL_OPTIONS))["wait_for"] == ingest
        cursor.execute(f"SELECT value FROM silver.readings WHERE id = {own.id(1)}")
        assert cursor.fetchall() == [(5.0,)]
        session.adbc_connection.set_options(**{ERASE + "wait_for": ""})
        assert "wait_for" not in json.loads(session.adbc_connection.get_option(ALL_OPTIONS))


@pytest.mark.feature("session options", "errors with their codes")
@pytest.mark.parametrize("text", ["a b", "a,,b", "a/b", "@5", "a@99999999999999999999"])
def test_what_names_no_ingest_is_refused(lab, text):
    with refused("mallard-wait-for"):
        read(lab, "SELECT 1", text)


@pytest.mark.feature("session options", "time travel", "errors with their codes")
def test_the_past_is_not_waited_for(lab):
    with refused("as_of", "wait_for", cure=False):
        read(lab, "SELECT count(*) FROM silver.logs", "a", as_of="2026-01-01")


def test_a_receipt_tells_the_versions_of_silver_and_of_the_models(lab, own):
    # An own value, so that each model changes.
    row = {"id": own.id(1), "sensor": own.sensor, "value": 1e12 * own.base}
    ingest = lab.ingest("readings", readings(row))
    assert ingest["merged_at"] is not None and ingest["silver_version"] is not None
    sql = f"SELECT gold_versions FROM system.ingests WHERE ingest_id = '{ingest['ingest_id']}'"

    def versions():
        told = json.loads(lab.rows(sql)[0]["gold_versions"])
        return told if set(told) == {"totals", "loudest"} else None

    told = wait_for(versions, "both models with the ingest")
    totals = f"SELECT count(*) FROM gold.totals FOR VERSION AS OF {told['totals']} WHERE sensor = '{own.sensor}'"
    assert read(lab, totals, ingest["ingest_id"]) == [(1,)]
    loudest = f"SELECT sensor FROM gold.loudest FOR VERSION AS OF {told['loudest']}"
    assert read(lab, loudest, ingest["ingest_id"]) == [(own.sensor,)]
    if told["totals"] > 0:
        before = totals.replace(f"AS OF {told['totals']}", f"AS OF {told['totals'] - 1}")
        assert read(lab, before, ingest["ingest_id"]) == [(0,)], "it is the first version with the ingest"
