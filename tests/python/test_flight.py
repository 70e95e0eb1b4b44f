"""What the Flight and gRPC protocols themselves promise, through plain clients without a driver."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lab import LOGS, readings
from mallard import wait_for
from messages import (
    CANCELLED,
    CANCELLING,
    NOT_CANCELLABLE,
    REFLECTION,
    SERVICE,
    SLOW,
    Client,
    command,
    m,
    query,
    rpc_refused,
    schema,
    table,
)

CLIENT = "pyarrow, gRPC"
QUERIES = [
    "SELECT * FROM silver.readings",
    "SELECT min(id) AS low, max(value) AS high, count(*) AS n FROM silver.readings",
    "SELECT sensor, sum(value) AS total FROM silver.readings GROUP BY sensor",
    "SELECT id, NULL AS nothing, 1 AS one, 'x' AS letter FROM silver.readings WHERE id < 0",
    "SELECT a.id, b.value FROM silver.readings a LEFT JOIN silver.readings b ON a.id = b.id + 1",
    "SELECT id, row_number() OVER (ORDER BY id) AS place FROM silver.readings",
    "SELECT sensor FROM silver.readings UNION ALL SELECT text FROM silver.logs",
    "SELECT * FROM gold.totals",
    "SELECT * FROM system.ingests",
    "SELECT * FROM system.tables",
    "SELECT * FROM information_schema.tables",
]
# Types that not every client can read, behind columns, and inside of others.
FANCY = """
SELECT arrow_cast('a', 'Utf8View') AS a, arrow_cast('b', 'Dictionary(Int32, Utf8)') AS b,
       arrow_cast(X'63', 'BinaryView') AS c, make_array(arrow_cast('d', 'Utf8View')) AS d,
       named_struct('x', arrow_cast('e', 'Dictionary(Int8, Utf8)')) AS e, sensor AS f
FROM silver.readings
"""
# Each step of it compares 8,192 rows with a million.
HOG = "SELECT count(*) FROM generate_series(1, 1000000) JOIN generate_series(1, 1000000) b(x) ON value * x % 7 = 8"
PATIENCE_SECONDS = 10
LINES, INGESTS = 120_000, 4
LARGE = "SELECT line, text FROM silver.logs"
# What SetSessionOptions says of a bad option, and CloseSession of a session.
INVALID_NAME, INVALID_VALUE, CLOSED = 1, 2, 1
CODECS = {"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}


@pytest.fixture(scope="module", autouse=True)
def small_slices():
    """A megabyte of files is enough for an endpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLARD_SLICE_MIB", "1")
        yield


@pytest.fixture(scope="module")
def filled(lab):
    """The lab with 50 readings, and logs that are too large for one endpoint."""
    lab.ingest("readings", readings(*({"id": n, "sensor": f"s{n % 3}", "value": float(n)} for n in range(50))))
    noise = random.Random(7).randbytes(20 * LINES).hex()
    lines = pa.table({"line": range(LINES), "text": [noise[40 * n : 40 * n + 40] for n in range(LINES)]}, schema=LOGS)
    for n in range(INGESTS):
        lab.ingest("logs", lines.slice(n * LINES // INGESTS, LINES // INGESTS))
    wait_for(
        lambda: lab.rows("SELECT rows FROM system.models WHERE model_name = 'totals'") == [{"rows": 3}],
        "the refresh of totals",
    )
    return lab


@pytest.fixture(scope="module")
def client(filled):
    with flight.connect(filled.uri.replace("grpc://", "grpc+tcp://")) as client:
        yield client


@pytest.fixture(scope="module")
def raw(filled):
    with Client(filled.address) as raw:
        yield raw


def statement(sql):
    return flight.FlightDescriptor.deserialize(query(sql).SerializeToString())


@pytest.mark.feature("schema ahead of the rows (GetSchema, ExecuteSchema)", "queries")
@pytest.mark.parametrize("sql", QUERIES)
def test_the_announced_schema_is_the_schema_of_the_stream(client, sql):
    info = client.get_flight_info(statement(sql))
    assert client.get_schema(statement(sql)).schema.equals(info.schema, check_metadata=True)
    assert info.endpoints
    for endpoint in info.endpoints:
        reader = client.do_get(endpoint.ticket)
        assert reader.schema.equals(info.schema, check_metadata=True)
        assert reader.read_all().schema.equals(info.schema, check_metadata=True)


@pytest.mark.feature("scalar types", "nested types")
def test_views_and_dictionaries_do_not_reach_a_client(client):
    info = client.get_flight_info(statement(FANCY))
    told = client.do_get(info.endpoints[0].ticket).read_all()
    assert told.schema.equals(info.schema, check_metadata=True)
    assert "view" not in str(told.schema) and "dictionary" not in str(told.schema), told.schema
    assert told.to_pylist()[0] | {"f": "s"} == {"a": "a", "b": "b", "c": b"c", "d": ["d"], "e": {"x": "e"}, "f": "s"}


def test_a_ticket_can_be_redeemed_twice_with_the_same_result(client):
    info = client.get_flight_info(statement("SELECT id FROM silver.readings WHERE id < 50 ORDER BY id"))
    first, second = (client.do_get(info.endpoints[0].ticket).read_all() for _ in range(2))
    assert first.num_rows == 50
    assert first.equals(second)


def test_a_ticket_reads_the_snapshot_it_was_made_for(client, lab):
    info = client.get_flight_info(statement("SELECT id FROM silver.readings WHERE id >= 1000"))
    lab.ingest("readings", readings({"id": 1000, "value": 1.0}))
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == 0
    assert lab.rows("SELECT id FROM silver.readings WHERE id >= 1000") == [{"id": 1000}]


@pytest.mark.feature("results in several endpoints", "connections at once")
def test_a_large_result_has_endpoints_that_are_read_at_the_same_time_and_together_are_the_whole(client, lab):
    info = client.get_flight_info(statement(LARGE))
    assert len(info.endpoints) > 1
    assert not info.ordered
    # All have begun before one ends, and none of them waits for another.
    readers = [client.do_get(endpoint.ticket) for endpoint in info.endpoints]
    parts = [reader.read_all() for reader in reversed(readers)]
    assert sum(part.num_rows > 0 for part in parts) > 1
    whole = lab.table(f"{LARGE} ORDER BY line")
    assert pa.concat_tables(parts).sort_by("line").equals(whole)
    assert whole["line"].to_pylist() == list(range(LINES))


@pytest.mark.feature("results in several endpoints", "connections at once")
def test_endpoints_are_read_over_connections_of_their_own(client, lab):
    def read(endpoint):
        with Client(lab.address) as own:
            return own.read(m.FlightInfo(endpoint=[m.FlightEndpoint.FromString(endpoint.serialize())]))

    info = client.get_flight_info(statement(LARGE))
    with ThreadPoolExecutor() as threads:
        parts = list(threads.map(read, info.endpoints))
    assert sorted(pa.concat_tables(parts)["line"].to_pylist()) == list(range(LINES))


@pytest.mark.feature("results in several endpoints")
def test_each_endpoint_gives_the_same_rows_again(client):
    for endpoint in client.get_flight_info(statement(LARGE)).endpoints:
        first, again = (client.do_get(endpoint.ticket).read_all().sort_by("line") for _ in range(2))
        assert first.equals(again)


@pytest.mark.feature("results in several endpoints", "session options")
def test_a_client_says_how_many_endpoints_it_takes(raw):
    assert len(raw.get_flight_info(query(LARGE)).endpoint) > 2
    for most in (1, 2):
        info = raw.sending(("mallard-max-endpoints", str(most))).get_flight_info(query(LARGE))
        assert len(info.endpoint) == most
        assert raw.read(info).num_rows == LINES


@pytest.mark.feature("order of endpoints")
def test_a_sorted_result_is_in_order_over_all_endpoints_and_says_so(client):
    info = client.get_flight_info(statement(f"{LARGE} ORDER BY text"))
    assert info.ordered
    texts = pa.concat_tables(client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints)["text"]
    assert texts.to_pylist() == sorted(texts.to_pylist())
    assert len(texts) == LINES


def test_endpoints_name_no_location_and_are_read_over_the_connection_that_got_them(raw):
    for descriptor in (query(LARGE), query("SELECT 1"), command(m.CommandGetCatalogs())):
        info = raw.get_flight_info(descriptor)
        assert [list(endpoint.location) for endpoint in info.endpoint] == [[]] * len(info.endpoint)
        assert raw.read(info).num_rows > 0


@pytest.mark.feature("expiry and renewal of endpoints")
def test_endpoints_tell_when_they_end_and_renewed_ones_end_later_with_the_same_rows(raw):
    info = raw.get_flight_info(query(LARGE))
    for endpoint in info.endpoint:
        assert endpoint.expiration_time.ToNanoseconds() > time.time_ns()
        renewed = raw.ask("RenewFlightEndpoint", m.RenewFlightEndpointRequest(endpoint=endpoint), m.FlightEndpoint)
        assert renewed.expiration_time.ToNanoseconds() > endpoint.expiration_time.ToNanoseconds()
        assert renewed.ticket != endpoint.ticket
        old, new = (raw.read(m.FlightInfo(endpoint=[it])).sort_by("line") for it in (endpoint, renewed))
        assert old.equals(new)


@pytest.mark.feature("expiry and renewal of endpoints", "errors with their codes")
@pytest.mark.parametrize("ticket", [None, b"", b"not a ticket"], ids=["no ticket", "empty", "text"])
def test_an_endpoint_of_no_query_is_not_renewed(raw, ticket):
    endpoint = m.FlightEndpoint(ticket=None if ticket is None else m.Ticket(ticket=ticket))
    with rpc_refused("INVALID_ARGUMENT", "ticket"):
        raw.ask("RenewFlightEndpoint", m.RenewFlightEndpointRequest(endpoint=endpoint), m.FlightEndpoint)


@pytest.mark.feature("cancel", "expiry and renewal of endpoints")
def test_a_ticket_of_a_cancelled_query_can_not_be_fetched_any_more(raw):
    info = raw.get_flight_info(query(LARGE))
    assert raw.read(info).num_rows == LINES
    assert raw.cancel(info) in (CANCELLED, CANCELLING)
    for endpoint in info.endpoint:
        with rpc_refused("CANCELLED", cure=False):
            table(raw.do_get(endpoint.ticket))
    other = raw.get_flight_info(query(LARGE))
    assert raw.read(other).num_rows == LINES, "another query with the same text is cancelled too"


@pytest.mark.feature("cancel")
def test_a_running_query_is_cancelled(raw, lab):
    info = raw.get_flight_info(query(SLOW))
    call = raw.do_get(info.endpoint[0].ticket)
    running = f"SELECT 1 FROM system.queries WHERE query_id = '{info.app_metadata.decode()}' AND state = 'running'"
    wait_for(lambda: lab.rows(running), "the query's start")
    assert raw.cancel(info) == CANCELLED
    with rpc_refused("CANCELLED", cure=False):
        table(call)
    assert not lab.rows(running)


def cpu_seconds(server):
    """How long the server's process has computed so far."""
    numbers = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, numbers[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.feature("connections at once")
@pytest.mark.parametrize("count", [1, 3])
def test_queries_that_compute_for_long_hold_up_no_other(fresh_server, count):
    server = fresh_server()
    with Client(server.address) as busy, Client(server.address, timeout=PATIENCE_SECONDS) as other:
        infos, idle = [busy.get_flight_info(query(HOG)) for _ in range(count)], cpu_seconds(server)
        calls = [busy.do_get(info.endpoint[0].ticket) for info in infos]
        wait_for(lambda: cpu_seconds(server) > idle + 2, "their computing")
        assert other.rows("SELECT 1 AS one") == [{"one": 1}]
        for call in calls:
            assert call.is_active()
            call.cancel()
        assert other.rows("SELECT 1 AS one") == [{"one": 1}], "they go on without their reader"


@pytest.mark.feature("cancel")
def test_what_is_no_query_is_not_cancellable(raw):
    assert raw.cancel(raw.get_flight_info(command(m.CommandGetCatalogs()))) == NOT_CANCELLABLE
    assert raw.cancel(m.FlightInfo()) == NOT_CANCELLABLE


@pytest.mark.feature("compression of results")
@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_result_takes_fewer_bytes_and_says_the_same(raw, codec):
    asked = query("SELECT repeat('mallard ', 100) AS text FROM generate_series(1, 1000)")
    plain = list(raw.do_get(raw.get_flight_info(asked).endpoint[0].ticket))
    info = raw.sending(("mallard-compression", codec)).get_flight_info(asked)
    compressed = list(raw.do_get(info.endpoint[0].ticket))
    assert table(compressed).equals(table(plain))
    few, many = (sum(len(message.data_body) for message in messages) for messages in (compressed, plain))
    assert few < many / 4
    for other, magic in CODECS.items():
        assert any(magic in message.data_body for message in compressed) == (other == codec), other
        assert not any(magic in message.data_body for message in plain), other


@pytest.mark.feature("errors with their codes")
@pytest.mark.parametrize(
    "ticket", [b"", b"not a ticket", b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x7f"], ids=["empty", "text", "ff", "length"]
)
def test_a_ticket_that_the_server_did_not_make_is_refused(client, ticket):
    with pytest.raises((flight.FlightError, NotImplementedError, ValueError)) as caught:
        client.do_get(flight.Ticket(ticket)).read_all()
    assert not isinstance(caught.value, (flight.FlightInternalError, flight.FlightUnavailableError)), caught.value


@pytest.mark.feature("errors with their codes")
def test_an_unknown_command_is_refused_by_name(client):
    unknown = query("x").cmd.replace(b"CommandStatementQuery", b"CommandThatNobodyKnow")
    with pytest.raises((flight.FlightError, NotImplementedError, ValueError), match="CommandThatNobodyKnow"):
        client.get_flight_info(flight.FlightDescriptor.for_command(unknown))


def test_tables_are_flights_that_are_read_by_their_path(client):
    flights = {tuple(part.decode() for part in info.descriptor.path): info for info in client.list_flights()}
    assert {("silver", "readings"), ("silver", "logs"), ("gold", "totals"), ("system", "tables")} <= set(flights)
    assert ("silver", "notes") not in flights, "it has no columns yet"
    info = client.get_flight_info(flights["silver", "readings"].descriptor)
    assert info.schema.equals(flights["silver", "readings"].schema)
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows >= 50
    assert {tuple(info.descriptor.path) for info in client.list_flights(b"silver.r")} == {(b"silver", b"readings")}


def test_the_actions_are_listed(client):
    listed = {action.type: action.description for action in client.list_actions()}
    assert {"CancelFlightInfo", "RenewFlightEndpoint", "SetSessionOptions", "CreatePreparedStatement"} <= set(listed)
    assert all(listed.values())
    with pytest.raises(NotImplementedError, match="ListActions"):
        list(client.do_action("Dance"))


def test_an_exchange_is_refused_with_what_to_do_instead(client):
    writer, reader = client.do_exchange(statement("SELECT 1"))
    with pytest.raises(NotImplementedError, match="DoPut"), writer:
        reader.read_all()


class Session(Client):
    """A client that keeps the cookie, as JDBC does."""

    def set(self, **values):
        """Sets options, and returns what is wrong with which."""
        kinds = {str: "string_value", bool: "bool_value", int: "int64_value", float: "double_value"}
        request = m.SetSessionOptionsRequest()
        for name, value in values.items():
            option = request.session_options.add(key=name)
            option.value.SetInParent()
            if isinstance(value, list):
                option.value.string_list_value.values.extend(value)
            elif value is not None:
                setattr(option.value, kinds[type(value)], value)
        call = self.action("SetSessionOptions", request)
        (result,) = call
        self.keep_cookie(call)
        return {entry.key: entry.value.value for entry in m.SetSessionOptionsResult.FromString(result.body).errors}

    def get(self):
        options = self.ask("GetSessionOptions", m.Empty(), m.GetSessionOptionsResult).session_options
        return {entry.key: next(value for _, value in entry.value.ListFields()) for entry in options}

    def close_session(self):
        call = self.action("CloseSession", m.Empty())
        (result,) = call
        self.keep_cookie(call)
        return m.CloseSessionResult.FromString(result.body).status

    def keep_cookie(self, call):
        cookie = dict(call.initial_metadata())["set-cookie"]
        pair, *attributes = (part.strip() for part in cookie.split(";"))
        self.headers = [] if "Max-Age=0" in attributes else [("cookie", pair)]


@pytest.fixture
def session(filled):
    with Session(filled.address) as session:
        yield session


@pytest.mark.feature("session options")
def test_session_options_of_every_type_are_set_told_and_forgotten(session):
    assert session.get() == {"catalog": "lab", "schema": "gold"}
    assert session.set(catalog="lab", schema="silver", timeout=1.5, max_endpoints=2, compression="zstd") == {}
    assert session.set(memory_limit=1 << 20, as_of="2026-01-02 03:04:05") == {}
    assert session.get() == {
        "catalog": "lab", "schema": "silver", "timeout": 1.5, "max_endpoints": 2, "compression": "zstd",
        "memory_limit": 1 << 20, "as_of": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    assert session.set(as_of=None, timeout=None, compression="none", memory_limit="2 MiB", max_endpoints="3") == {}
    assert session.get() == {"catalog": "lab", "schema": "silver", "memory_limit": 2 << 20, "max_endpoints": 3}
    assert session.close_session() == CLOSED
    assert session.headers == []
    assert session.get() == {"catalog": "lab", "schema": "gold"}


@pytest.mark.feature("session options", "errors with their codes")
def test_bad_session_options_are_told_apart_and_good_ones_are_kept(session):
    assert session.set(colour="red", Schema="gold", schema="silver") == {"colour": INVALID_NAME, "Schema": INVALID_NAME}
    assert session.get()["schema"] == "silver"
    for name, values in {
        "catalog": ["elsewhere", 1, True],
        "schema": ["bronze", 1, ["silver"]],
        "timeout": ["soon", -1, 0, 0.0, float("nan"), float("inf"), True, ["1s"]],
        "memory_limit": ["much", 0, -1, 1.5, True],
        "compression": ["gzip", 1],
        "max_endpoints": [0, -1, 1.5, "few"],
        "as_of": ["yesterday", 1, ["now"]],
    }.items():
        for value in values:
            assert session.set(**{name: value}) == {name: INVALID_VALUE}, (name, value)
    assert session.get() == {"catalog": "lab", "schema": "silver"}


@pytest.mark.feature("session options", "time travel")
def test_session_options_do_what_they_say(session, lab):
    assert session.set(schema="silver") == {}
    value = "SELECT value FROM readings WHERE id = 2000"
    before = lab.ingest("readings", readings({"id": 2000, "value": 1.0}))["merged_at"]
    lab.ingest("readings", readings({"id": 2000, "seq": 2, "value": 2.0}))
    assert session.rows(value) == session.rows(value.replace("readings", "lab.silver.readings")) == [{"value": 2.0}]
    assert session.set(as_of=before.isoformat()) == {}
    assert session.rows(value) == [{"value": 1.0}]
    assert session.set(as_of=(before - timedelta(days=1)).isoformat()) == {}
    with rpc_refused("NOT_FOUND", "readings", cure=False):
        session.rows(value)
    assert session.set(as_of=None, timeout="200ms") == {}
    with rpc_refused("DEADLINE_EXCEEDED", "0.2 s", "timeout"):
        session.rows(SLOW)
    hungry = "SELECT count(*) AS n FROM silver.logs a JOIN silver.logs b ON a.text = b.text"
    assert session.set(timeout=None, memory_limit="1MiB") == {}
    with rpc_refused("RESOURCE_EXHAUSTED", "memory_limit"):
        session.rows(hungry)
    assert session.set(memory_limit="200MiB") == {}
    assert session.rows(hungry) == [{"n": LINES}]


@pytest.mark.feature("session options", "prepared statements")
def test_a_prepared_statement_keeps_the_options_it_was_prepared_with(session, raw):
    session.set(schema="silver")
    handle = session.prepare("SELECT count(*) AS n FROM logs").prepared_statement_handle
    run = command(m.CommandPreparedStatementQuery(prepared_statement_handle=handle))
    assert raw.read(raw.get_flight_info(run)).to_pylist() == [{"n": LINES}]


@pytest.mark.feature("session options", "errors with their codes")
def test_a_cookie_that_is_none_of_ours_is_refused_and_those_of_others_are_left_alone(raw):
    with rpc_refused("INVALID_ARGUMENT", "session"):
        raw.sending(("cookie", "mallard_session=AAAA")).rows("SELECT 1")
    assert raw.sending(("cookie", "theirs=1; other=2")).rows("SELECT 1 AS one") == [{"one": 1}]


def poll_to_the_end(raw, descriptor):
    """All answers, the last of which is complete."""
    answers = [raw.poll_flight_info(descriptor)]
    while answers[-1].HasField("flight_descriptor"):
        answers.append(raw.poll_flight_info(answers[-1].flight_descriptor))
        assert len(answers) < 1000
    return answers


# Several parts of 16 MiB, in order; the same and something that takes for ever, or some seconds.
NUMBERS = 3_000_000
IN_PARTS = f"SELECT value AS n FROM generate_series(1, {NUMBERS}) ORDER BY n DESC"
ENDLESS = f"SELECT value AS n FROM generate_series(1, {NUMBERS}) UNION ALL {SLOW}"
SECONDS = ENDLESS.replace("90000000000)", "5000000)")


@pytest.mark.feature("long-running queries (PollFlightInfo)", "order of endpoints", "results in several endpoints")
def test_a_polled_query_grows_until_it_is_complete(raw):
    answers = poll_to_the_end(raw, query(IN_PARTS))
    progress = [answer.progress for answer in answers]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0 and all(0.0 <= value < 1.0 for value in progress[:-1])
    for earlier, later in zip(answers, answers[1:]):
        assert len(earlier.info.endpoint) <= len(later.info.endpoint), "an endpoint was taken back"
        assert earlier.expiration_time.ToDatetime(timezone.utc) > datetime.now(timezone.utc)
    info = answers[-1].info
    assert len(info.endpoint) > 1 and info.ordered
    assert all(endpoint.HasField("expiration_time") and not endpoint.location for endpoint in info.endpoint)
    rows = raw.read(info)
    assert rows["n"].equals(pa.chunked_array([pa.array(range(NUMBERS, 0, -1))]))
    assert rows.schema == schema(info.schema)
    assert info.total_records == NUMBERS
    assert raw.read(info).equals(rows), "a second time"


@pytest.mark.feature("long-running queries (PollFlightInfo)", "cancel")
def test_what_a_polled_query_has_so_far_is_read_while_it_runs(raw):
    answer = raw.poll_flight_info(query(ENDLESS))
    while not answer.info.endpoint:
        answer = raw.poll_flight_info(answer.flight_descriptor)
    assert answer.HasField("flight_descriptor") and answer.progress < 1.0
    assert table(raw.do_get(answer.info.endpoint[0].ticket)).num_rows > 0
    assert raw.cancel(answer.info) in (CANCELLED, CANCELLING)
    with rpc_refused("CANCELLED", cure=False):
        poll_to_the_end(raw, answer.flight_descriptor)
    with rpc_refused("CANCELLED", cure=False):
        table(raw.do_get(answer.info.endpoint[0].ticket))


@pytest.mark.feature("long-running queries (PollFlightInfo)")
def test_a_polled_query_tells_how_much_of_its_input_it_has_read(raw):
    sql = "SELECT count(*) FROM generate_series(1, 20000) JOIN silver.logs ON value * line % 7 = 8"
    answer = raw.poll_flight_info(query(sql))
    while answer.progress == 0.0:
        answer = raw.poll_flight_info(answer.flight_descriptor)
    assert answer.HasField("flight_descriptor") and answer.progress < 1.0
    raw.cancel(m.FlightInfo(flight_descriptor=answer.flight_descriptor))


@pytest.mark.feature("long-running queries (PollFlightInfo)", "cancel")
def test_a_polled_query_without_rows_yet_is_cancelled_by_what_the_poll_gave(raw):
    answer = raw.poll_flight_info(query(SLOW))
    assert not answer.info.endpoint
    assert raw.cancel(answer.info) in (CANCELLED, CANCELLING)
    with rpc_refused("CANCELLED", cure=False):
        poll_to_the_end(raw, answer.flight_descriptor)


@pytest.mark.feature("long-running queries (PollFlightInfo)")
def test_a_complete_query_stays_so_when_it_is_polled_again(raw):
    first = raw.poll_flight_info(query(SECONDS))
    assert first.HasField("flight_descriptor"), "it was over too soon: let it take longer"
    last = poll_to_the_end(raw, first.flight_descriptor)[-1]
    again = raw.poll_flight_info(first.flight_descriptor)
    assert not again.HasField("flight_descriptor") and again.progress == 1.0
    assert raw.read(again.info).equals(raw.read(last.info))


@pytest.mark.feature("long-running queries (PollFlightInfo)")
def test_a_poll_of_a_metadata_command_or_of_few_rows_is_complete(raw):
    catalogs = raw.poll_flight_info(command(m.CommandGetCatalogs()))
    assert not catalogs.HasField("flight_descriptor") and catalogs.progress == 1.0
    assert raw.read(catalogs.info).to_pylist() == [{"catalog_name": "lab"}]
    for sql, rows in [("SELECT 1 AS n", [{"n": 1}]), ("SELECT 1 AS n WHERE false", [])]:
        info = poll_to_the_end(raw, query(sql))[-1].info
        assert raw.read(info).to_pylist() == rows
        assert info.total_records == len(rows)


@pytest.mark.feature("long-running queries (PollFlightInfo)", "prepared statements", "bound parameters")
def test_a_prepared_query_is_polled_with_its_values(raw):
    handle = raw.prepare("SELECT value FROM silver.readings WHERE id = $1").prepared_statement_handle
    info = poll_to_the_end(raw, raw.bind(handle, pa.table({"1": [2]})))[-1].info
    assert raw.read(info).to_pylist() == [{"value": 2.0}]


@pytest.mark.feature("long-running queries (PollFlightInfo)", "errors with their codes")
def test_a_polled_query_that_fails_tells_why(raw):
    with rpc_refused("INVALID_ARGUMENT", "valu"):
        raw.poll_flight_info(query("SELECT valu FROM silver.readings"))
    with rpc_refused("INVALID_ARGUMENT", "zero", cure=False):
        poll_to_the_end(raw, query("SELECT 1 / (value - 5) FROM generate_series(1, 10)"))
    with rpc_refused("INVALID_ARGUMENT", "command", cure=False):
        raw.poll_flight_info(m.FlightDescriptor(type=2, cmd=b"nonsense"))


@pytest.mark.feature("connect, handshake")
def test_the_handshake_gives_a_token_that_is_known_again_and_a_forged_one_is_not(client):
    name, token = client.authenticate_basic_token("ann", "secret")
    assert (name, token[:15]) == (b"authorization", b"Bearer mallard.")
    options = flight.FlightCallOptions(headers=[(name, token)])
    info = client.get_flight_info(statement("SELECT 1 AS one"), options)
    assert client.do_get(info.endpoints[0].ticket, options).read_all().to_pylist() == [{"one": 1}]
    forged = flight.FlightCallOptions(headers=[(name, token[:-8] + b"AAAAAAAA")])
    with pytest.raises(flight.FlightUnauthenticatedError, match="connect again"):
        client.get_flight_info(statement("SELECT 1"), forged)


@pytest.mark.feature("gRPC reflection, health")
def test_the_health_service_says_serving(lab):
    with grpc.insecure_channel(lab.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.feature("gRPC reflection, health")
def test_the_health_of_an_unknown_service_is_not_found(lab):
    with grpc.insecure_channel(lab.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def reflect(raw, **asked):
    method = f"{REFLECTION}.ServerReflection/ServerReflectionInfo"
    (answer,) = raw.call(
        "stream_stream", method, iter([m.ServerReflectionRequest(**asked)]), m.ServerReflectionResponse
    )
    return answer


def described(raw, pool, **asked):
    """Adds a file and those that it needs to the pool."""
    for data in reflect(raw, **asked).file_descriptor_response.file_descriptor_proto:
        file = FileDescriptorProto.FromString(data)
        for needed in file.dependency:
            described(raw, pool, file_by_filename=needed)
        pool.Add(file)


@pytest.mark.feature("gRPC reflection, health")
def test_reflection_lists_the_services_and_describes_them_whole(raw):
    names = {service.name for service in reflect(raw, list_services="").list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    pool = DescriptorPool()
    described(raw, pool, file_containing_symbol=SERVICE)
    methods = {method.name: method for method in pool.FindServiceByName(SERVICE).methods}
    assert set(methods) == {
        "Handshake", "ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoGet", "DoPut", "DoExchange",
        "DoAction", "ListActions",
    }  # fmt: skip
    assert methods["PollFlightInfo"].output_type.fields_by_name["progress"].number == 3


@pytest.mark.feature("gRPC reflection, health")
def test_reflection_does_not_know_what_is_not_there(raw):
    with rpc_refused("NOT_FOUND", cure=False):
        reflect(raw, file_containing_symbol="nobody.Knows")
