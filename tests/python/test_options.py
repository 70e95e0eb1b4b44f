"""Session options and time travel through the ADBC driver, which sends options as headers, or keeps them in cookies."""

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import adbc_driver_manager
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions

from errors import INVALID, NOT_FOUND, refused
from lab import logs, readings
from mallard import wait_for

CLIENT = "ADBC, Python"
COOKIES = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
ALL_OPTIONS = ConnectionOptions.OPTION_SESSION_OPTIONS.value
OPTION = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
ERASE = ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value
TIMEOUT = adbc_driver_manager.AdbcStatusCode.TIMEOUT
# What the driver makes of RESOURCE_EXHAUSTED.
EXHAUSTED = adbc_driver_manager.AdbcStatusCode.INTERNAL
# The id of a reading that no other test writes.
TRAVELLER = 1
# Far more than any test waits for.
ENDLESS = "SELECT sum(value) FROM generate_series(1, 1000000000000) AS t(value)"


@pytest.fixture
def session(lab):
    """A connection that keeps cookies, and with them its session."""
    with closing(lab.connect(**COOKIES)) as connection:
        yield connection


def run(server, sql, headers=None):
    with closing(server.connect(headers)) as connection:
        return fetched(connection, sql)


def fetched(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


@dataclass
class Past:
    """A reading that was 1.0 and is 2.0: its table's versions, and a time between them."""

    first: int
    between: datetime
    second: int


@pytest.fixture(scope="module")
def past(lab):
    first = lab.ingest("readings", readings({"id": TRAVELLER, "seq": 1, "value": 1.0}))["silver_version"]
    between = datetime.now(timezone.utc)
    second = lab.ingest("readings", readings({"id": TRAVELLER, "seq": 2, "value": 2.0}))["silver_version"]
    return Past(first, between, second)


def value(travel="", number=TRAVELLER):
    return f"SELECT value FROM silver.readings {travel} WHERE id = {number}"


@pytest.mark.feature("time travel")
@pytest.mark.parametrize("clause", ["FOR VERSION AS OF {}", "VERSION AS OF {}", "for system_version as of {}"])
def test_a_table_is_read_in_an_older_version(lab, past, clause):
    assert run(lab, value(clause.format(past.first))) == [(1.0,)]
    assert run(lab, value(clause.format(past.second))) == [(2.0,)]
    assert run(lab, value()) == [(2.0,)]


@pytest.mark.feature("time travel")
def test_two_versions_of_a_table_join(lab, past):
    sql = (
        f"SELECT was.value, now.value FROM silver.readings FOR VERSION AS OF {past.first} AS was "
        f"JOIN silver.readings FOR VERSION AS OF {past.second} AS now ON was.id = now.id WHERE now.id = {TRAVELLER}"
    )
    assert run(lab, sql) == [(1.0, 2.0)]


@pytest.mark.feature("time travel")
@pytest.mark.parametrize("clause", ["FOR TIMESTAMP AS OF '{}'", "FOR SYSTEM_TIME AS OF TIMESTAMP '{}'"])
def test_a_table_is_read_as_it_was_at_a_time(lab, past, clause):
    berlin = past.between.astimezone(timezone(timedelta(hours=1)))
    for time in (past.between.strftime("%Y-%m-%d %H:%M:%S.%f"), past.between.isoformat(), berlin.isoformat()):
        assert run(lab, value(clause.format(time))) == [(1.0,)], time
    assert run(lab, value(clause.format("2999-01-01"))) == [(2.0,)]


@pytest.mark.feature("time travel")
def test_the_time_of_a_merge_reads_what_it_merged(lab, own):
    for seq in range(1, 7):
        lab.ingest("readings", readings({"id": own.id(1), "seq": seq, "value": float(seq)}))
    merges = lab.rows(
        "SELECT merged_at FROM system.ingests WHERE table_name = 'readings' ORDER BY silver_version DESC LIMIT 6"
    )
    times = [row["merged_at"].isoformat() for row in reversed(merges)]
    read = [run(lab, value(f"FOR TIMESTAMP AS OF '{time}'", own.id(1))) for time in times]
    assert read == [[(float(seq),)] for seq in range(1, 7)]


@pytest.mark.feature("time travel", "session options")
def test_a_session_reads_all_tables_as_of_its_time(lab, past):
    then = {"mallard-as-of": past.between.isoformat()}
    assert run(lab, value(), then) == [(1.0,)]
    assert run(lab, value(f"FOR VERSION AS OF {past.second}"), then) == [(2.0,)], "the statement's own word wins"
    with refused("as_of", "write", cure=False):
        run(lab, "INSERT INTO silver.logs VALUES (1, 'x')", then)


@pytest.mark.feature("time travel", "errors with their codes")
@pytest.mark.parametrize(
    ("clause", "words", "status"),
    [
        ("FOR VERSION AS OF 999999", ("readings", "999999"), NOT_FOUND),
        ("FOR TIMESTAMP AS OF '2001-01-01'", ("readings", "2001-01-01T00:00:00Z"), NOT_FOUND),
        ("FOR VERSION AS OF 'three'", ("whole number",), INVALID),
        ("FOR VERSION AS OF ?", ("parameter",), INVALID),
        ("FOR TIMESTAMP AS OF 'yesterday'", ("yesterday", "write"), INVALID),
        ("FOR TIMESTAMP AS OF 3", ("time as text",), INVALID),
    ],
)
def test_a_state_that_is_none_is_refused(lab, past, clause, words, status):
    with refused(*words, status=status, cure=False):
        run(lab, value(clause))


@pytest.mark.feature("time travel", "errors with their codes")
def test_a_system_table_has_no_past(lab):
    with refused("system.ingests", status=(INVALID, NOT_FOUND), cure=False):
        run(lab, "SELECT * FROM system.ingests FOR VERSION AS OF 1")


@pytest.mark.feature("session options")
def test_an_option_comes_as_a_header(lab):
    lab.ingest("logs", logs("a"))
    assert run(lab, "SELECT count(*) > 0 FROM logs", {"mallard-schema": "silver"}) == [(True,)]
    with refused("gold.logs", "silver.logs", status=(INVALID, NOT_FOUND)):
        run(lab, "SELECT count(*) FROM logs")


@pytest.mark.feature("session options")
def test_a_session_begins_with_its_defaults(session):
    assert session.adbc_current_catalog == "lab"
    assert session.adbc_current_db_schema == "gold"
    assert json.loads(session.adbc_connection.get_option(ALL_OPTIONS)) == {"catalog": "lab", "schema": "gold"}


@pytest.mark.feature("session options")
def test_a_session_keeps_its_options_in_a_cookie(lab, session):
    lab.ingest("logs", logs("a"))
    session.adbc_current_db_schema = "silver"
    session.adbc_connection.set_options(**{OPTION + "timeout": "5m", OPTION + "memory_limit": "64MiB"})
    assert fetched(session, "SELECT count(*) > 0 FROM logs") == [(True,)]
    options = json.loads(session.adbc_connection.get_option(ALL_OPTIONS))
    assert options == {"catalog": "lab", "schema": "silver", "timeout": 300, "memory_limit": 64 << 20}
    session.adbc_connection.set_options(**{ERASE + "schema": ""})
    assert session.adbc_current_db_schema == "gold"


@pytest.mark.feature("session options")
def test_sessions_do_not_see_each_others_options(lab, session):
    session.adbc_current_db_schema = "system"
    with closing(lab.connect(**COOKIES)) as other:
        assert other.adbc_current_db_schema == "gold"
    assert session.adbc_current_db_schema == "system"


@pytest.mark.feature("session options", "errors with their codes")
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("schema", "bronze", ("gold", "silver", "system")),
        ("catalog", "elsewhere", ("lab",)),
        ("timeout", "soon", ("seconds",)),
        ("timeout", "0", ("seconds",)),
        ("memory-limit", "much", ("bytes",)),
        ("compression", "gzip", ("lz4", "zstd")),
        ("as-of", "yesterday", ("yesterday", "write")),
        ("max-endpoints", "0", ("whole number",)),
    ],
)
def test_a_bad_value_is_refused_with_the_header_it_came_in(lab, name, text, words):
    with refused(f"mallard-{name}", *words, cure=False):
        run(lab, "SELECT 1", {f"mallard-{name}": text})


@pytest.mark.feature("session options", "errors with their codes")
@pytest.mark.parametrize(("name", "text"), [("schema", "bronze"), ("timezone", "UTC"), ("timeout", "soon")])
def test_a_bad_option_of_a_session_is_refused_and_changes_nothing(session, name, text):
    before = session.adbc_connection.get_option(ALL_OPTIONS)
    with pytest.raises(adbc_driver_manager.Error, match=name):
        session.adbc_connection.set_options(**{OPTION + name: text})
    assert session.adbc_connection.get_option(ALL_OPTIONS) == before


@pytest.mark.feature("session options", "errors with their codes")
@pytest.mark.parametrize("sql", ["SET datafusion.execution.batch_size = 1", "USE silver"])
def test_settings_over_sql_are_refused_with_the_way_to_set_them(lab, sql):
    with refused("session options"):
        run(lab, sql)


@pytest.mark.feature("session options", "errors with their codes")
def test_a_query_ends_at_its_timeout(lab):
    with refused("0.3 s", "timeout", status=TIMEOUT, cure=False):
        run(lab, ENDLESS, {"mallard-timeout": "300ms"})


@pytest.mark.feature("session options", "errors with their codes")
def test_the_drivers_own_timeout_ends_the_query_too(lab):
    fetch = {DatabaseOptions.TIMEOUT_FETCH.value: "0.3"}
    with closing(lab.connect(**fetch)) as connection:
        with pytest.raises(adbc_driver_manager.Error) as caught:
            fetched(connection, ENDLESS + " -- fetched for 0.3 s")
        assert caught.value.status_code == TIMEOUT
        assert fetched(connection, "SELECT 1") == [(1,)]
    state = "SELECT state FROM system.queries WHERE statement LIKE '%-- fetched for 0.3 s'"
    wait_for(lambda: lab.rows(state) in ([{"state": "cancelled"}], [{"state": "timed out"}]), "the end of the query")


@pytest.mark.feature("session options", "errors with their codes")
def test_a_query_stays_within_its_memory(lab):
    # The state of one group can't be spilled; test_running.py has what can.
    sql = "SELECT array_length(array_agg(value)) FROM generate_series(1, {}) AS t(value)"
    limit = {"mallard-memory-limit": "4MiB"}
    with refused("memory_limit", "rows", status=EXHAUSTED, cure=False):
        run(lab, sql.format(5_000_000), limit)
    assert run(lab, sql.format(1000), limit) == [(1000,)]


@pytest.mark.feature("compression of results", "session options")
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_a_compressed_result_is_the_same(lab, compression):
    sql = "SELECT value, repeat('x', 20) AS text FROM generate_series(1, 20000) AS t(value) ORDER BY value"
    plain = lab.table(sql)
    with closing(lab.connect({"mallard-compression": compression})) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        assert cursor.fetch_arrow_table().equals(plain)


@pytest.mark.feature("columns, types and remarks")
def test_comments_are_in_information_schema(lab):
    tables = "SELECT comment FROM information_schema.tables WHERE table_name = '{}'"
    assert run(lab, tables.format("readings")) == [("newest value of each sensor",)]
    assert run(lab, tables.format("loudest")) == [(None,)]
    columns = "SELECT comment FROM information_schema.columns WHERE table_name = 'readings' AND column_name = '{}'"
    assert run(lab, columns.format("id")) == [("identifies the reading",)]
    assert run(lab, columns.format("value")) == [(None,)]
