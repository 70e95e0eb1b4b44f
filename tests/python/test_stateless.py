"""Any server answers any call: of two servers over one lake, what one gave is always brought to the other.

The writer takes rows and merges them, the reader only reads the same lake; they share a key and nothing else. The
stranger reads it too, with a key of its own, and must refuse all that the others gave.
"""

import random
import subprocess
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import ExitStack
from types import SimpleNamespace

import grpc
import pyarrow as pa
import pytest

from lab import LOGS, TOML, logs, readings, write_definition
from mallard import Server, binary, wait_for
from messages import CANCELLED, CANCELLING, SLOW, Client, command, m, query, rpc_refused, schema, table

CLIENT = "pyarrow, gRPC"
KEY, ANOTHER_KEY = "5a" * 32, "a5" * 32
LINES, INGESTS = 120_000, 4
LARGE = "SELECT line, text FROM silver.logs WHERE line >= 0"
READINGS = "SELECT id, value FROM silver.readings ORDER BY id"
READ_ONLY, BULK_INGESTION = 3, 10
# How long a query may go on after another server was told to cancel it.
CANCEL_TIMEOUT_SECONDS = 10
SEEDS = 48
REFUSALS = {grpc.StatusCode[code] for code in ("INVALID_ARGUMENT", "UNIMPLEMENTED", "UNAUTHENTICATED", "NOT_FOUND")}


class Reader(Server):
    """`flight-server serve` over the lake in another server's data folder."""

    def __init__(self, definition, lake, key):
        super().__init__(definition, lake)
        self.key = key

    def __enter__(self):
        line = [binary(), "serve", "--definition", self.definition, "--lake", self.data, "--key", self.key]
        self.log_path = self.data.parent / "readers.log"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                list(map(str, [*line, "--listen", self.listen])),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        first = self.process.stdout.readline().strip()
        assert first.startswith("listening on "), f"the first line is {first!r}; log:\n{self.log()}"
        self.host, _, port = first.removeprefix("listening on ").rpartition(":")
        self.port = int(port)
        self.drain = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.drain.start()
        return self


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The three servers, over 50 readings and logs that take several endpoints."""
    folder = tmp_path_factory.mktemp("lab")
    definition = write_definition(folder / "definition", TOML.replace("\n", "\nallow_create = true\n", 1))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("MALLARD_SLICE_MIB", "1")
        patch.setenv("MALLARD_KEY", KEY)
        writer = stack.enter_context(Server(definition, folder / "data"))
        patch.delenv("MALLARD_KEY")
        reader = stack.enter_context(Reader(definition, folder / "data", KEY))
        stranger = stack.enter_context(Reader(definition, folder / "data", ANOTHER_KEY))
        writer.ingest("readings", readings(*({"id": n, "value": float(n)} for n in range(50))))
        noise = random.Random(7).randbytes(20 * LINES).hex()
        lines = pa.table({"line": range(LINES), "text": [noise[40 * n : 40 * n + 40] for n in range(LINES)]}, LOGS)
        for n in range(INGESTS):
            writer.ingest("logs", lines.slice(n * LINES // INGESTS, LINES // INGESTS))
        yield SimpleNamespace(writer=writer, reader=reader, stranger=stranger)


@pytest.fixture(scope="module")
def clients(servers):
    """A client for each server."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Client(server.address)) for name, server in vars(servers).items()}


@pytest.fixture(params=[("writer", "reader"), ("reader", "writer")], ids=" to ".join)
def pair(request, clients):
    """One server's client and the other's, both ways."""
    return [clients[name] for name in request.param]


def prepared(handle):
    return command(m.CommandPreparedStatementQuery(prepared_statement_handle=handle))


@pytest.mark.feature("any server answers any call", "queries")
def test_a_ticket_is_fetched_from_the_other_server(pair):
    one, other = pair
    info = one.get_flight_info(query(READINGS))
    rows = other.read(info)
    assert rows.schema == schema(info.schema)
    assert rows["id"].to_pylist()[:50] == list(range(50))
    assert one.read(info).equals(rows)


@pytest.mark.feature("any server answers any call", "results in several endpoints")
def test_endpoints_of_a_large_result_are_fetched_from_both_servers_at_once(pair):
    one, other = pair
    info = one.get_flight_info(query(LARGE))
    assert len(info.endpoint) > 2
    calls = [(one, other)[n % 2].do_get(endpoint.ticket) for n, endpoint in enumerate(info.endpoint)]
    rows = pa.concat_tables(table(call) for call in calls)
    assert sorted(rows["line"].to_pylist()) == list(range(LINES))


@pytest.mark.feature("any server answers any call")
def test_a_ticket_gives_the_same_rows_from_either_server_after_new_ones_came(pair, servers):
    one, other = pair
    info = one.get_flight_info(query(READINGS))
    before = one.read(info)
    fresh = max(before["id"].to_pylist()) + 1000
    servers.writer.ingest("readings", readings({"id": fresh, "value": 1.0}))
    assert other.read(info).equals(before)
    assert one.read(info).equals(before)
    for client in pair:
        assert client.rows(READINGS)[-1] == {"id": fresh, "value": 1.0}


@pytest.mark.feature("any server answers any call", "prepared statements", "bound parameters")
def test_a_statement_is_prepared_bound_and_executed_on_different_servers(pair):
    one, other = pair
    made = one.prepare("SELECT id, value FROM silver.readings WHERE id = $1")
    bound = other.bind(made.prepared_statement_handle, pa.table({"1": [7]}))
    for first, second in (pair, pair[::-1]):
        assert first.read(second.get_flight_info(bound)).to_pylist() == [{"id": 7, "value": 7.0}]
    assert other.get_schema(bound).equals(schema(made.dataset_schema), check_metadata=True)


@pytest.mark.feature("any server answers any call", "prepared statements", "updates (INSERT, UPDATE, DELETE)")
def test_an_insert_that_the_reader_prepared_or_planned_is_done_by_the_writer(clients):
    reader, writer = clients["reader"], clients["writer"]
    made = reader.prepare("INSERT INTO silver.logs (line, text) VALUES (?, ?)")
    message = m.CommandPreparedStatementUpdate(prepared_statement_handle=made.prepared_statement_handle)
    values = pa.table({"1": [-1, -2], "2": ["prepared", "elsewhere"]})
    assert writer.put(message, values).record_count == 2
    info = reader.get_flight_info(query("INSERT INTO silver.logs (line, text) VALUES (-3, 'planned elsewhere')"))
    assert [writer.read(info).to_pylist() for _ in range(2)] == [[{"count": 1}]] * 2
    found = "SELECT line FROM silver.logs WHERE line < 0 ORDER BY line"
    wait_for(lambda: reader.rows(found) == [{"line": -3}, {"line": -2}, {"line": -1}], "the inserts")


def cookie_of(client):
    """The cookie of a session in schema silver."""
    request = m.SetSessionOptionsRequest()
    request.session_options.add(key="schema").value.string_value = "silver"
    call = client.action("SetSessionOptions", request)
    list(call)
    return dict(call.initial_metadata())["set-cookie"]


@pytest.mark.feature("any server answers any call", "session options")
def test_a_session_goes_on_at_the_other_server(pair):
    one, other = pair
    session = other.sending(("cookie", cookie_of(one)))
    assert session.rows("SELECT value FROM readings WHERE id = 1") == [{"value": 1.0}]
    options = session.ask("GetSessionOptions", m.Empty(), m.GetSessionOptionsResult).session_options
    assert ("schema", "silver") in {(entry.key, entry.value.string_value) for entry in options}
    with rpc_refused("INVALID_ARGUMENT", "gold.readings", "silver.readings"):
        other.rows("SELECT value FROM readings WHERE id = 1")


@pytest.mark.feature("any server answers any call", "connect, handshake")
def test_a_login_holds_at_the_other_server(pair):
    one, other = pair
    known = other.sending(("authorization", one.handshake("YW5uOnNlY3JldA==")))
    assert known.rows("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.feature("any server answers any call", "long-running queries (PollFlightInfo)")
def test_a_query_is_polled_and_its_parts_are_read_on_different_servers(pair):
    one, other = pair
    count = 3_000_000
    answer = one.poll_flight_info(query(f"SELECT value AS n FROM generate_series(1, {count}) ORDER BY n DESC"))
    while answer.HasField("flight_descriptor"):
        one, other = other, one
        answer = one.poll_flight_info(answer.flight_descriptor)
    assert len(answer.info.endpoint) > 1
    calls = [pair[n % 2].do_get(endpoint.ticket) for n, endpoint in enumerate(answer.info.endpoint)]
    assert pa.concat_tables(table(call) for call in calls)["n"].equals(
        pa.chunked_array([pa.array(range(count, 0, -1))])
    )


def running(client, query_id):
    return client.rows(f"SELECT 1 AS one FROM system.queries WHERE query_id = '{query_id}' AND state = 'running'")


@pytest.mark.feature("any server answers any call", "cancel")
def test_a_query_that_runs_on_one_server_is_cancelled_on_the_other(pair):
    one, other = pair
    info = one.get_flight_info(query(SLOW))
    call = one.do_get(info.endpoint[0].ticket)
    query_id = info.app_metadata.decode()
    wait_for(lambda: running(one, query_id), "the query's start")
    assert other.cancel(info) in (CANCELLED, CANCELLING)
    wait_for(lambda: not running(one, query_id), "the query's end", CANCEL_TIMEOUT_SECONDS)
    with rpc_refused("CANCELLED", cure=False):
        list(call)


@pytest.mark.feature("any server answers any call", "cancel", "long-running queries (PollFlightInfo)")
def test_a_polled_query_that_runs_on_one_server_is_cancelled_on_the_other(pair):
    one, other = pair
    sql = f"SELECT value AS n FROM generate_series(1, 3000000) UNION ALL {SLOW}"
    answer = one.poll_flight_info(query(sql))
    while not answer.info.endpoint:
        answer = one.poll_flight_info(answer.flight_descriptor)
    query_id = answer.info.app_metadata.decode()
    assert running(one, query_id)
    assert other.cancel(answer.info) in (CANCELLED, CANCELLING)
    wait_for(lambda: not running(one, query_id), "the query's end", CANCEL_TIMEOUT_SECONDS)
    for client in pair:
        with rpc_refused("CANCELLED", cure=False):
            while True:
                client.poll_flight_info(answer.flight_descriptor)


@pytest.mark.feature("any server answers any call", "cancel")
def test_a_ticket_that_was_cancelled_on_one_server_is_refused_by_the_other(pair):
    one, other = pair
    # Short ones: they must not be over before the other server has looked.
    for _ in range(20):
        info = one.get_flight_info(query("SELECT 1 AS one"))
        assert one.cancel(info) in (CANCELLED, CANCELLING)
        with rpc_refused("CANCELLED", cure=False):
            other.read(info)


@pytest.mark.feature("any server answers any call", "expiry and renewal of endpoints")
def test_an_endpoint_is_renewed_on_the_other_server(pair):
    one, other = pair
    endpoint = one.get_flight_info(query(LARGE)).endpoint[1]
    renewed = other.ask("RenewFlightEndpoint", m.RenewFlightEndpointRequest(endpoint=endpoint), m.FlightEndpoint)
    assert renewed.expiration_time.ToNanoseconds() > endpoint.expiration_time.ToNanoseconds()
    old, new = (one.read(m.FlightInfo(endpoint=[it])).sort_by("line") for it in (endpoint, renewed))
    assert old.equals(new)


@pytest.mark.feature("any server answers any call", "bulk ingest: create, create_append")
def test_a_table_that_the_writer_made_is_known_to_the_reader(clients):
    options = m.TableDefinitionOptions(if_not_exist=1, if_exists=1)
    made = m.CommandStatementIngest(table="made", table_definition_options=options)
    assert clients["writer"].put(made, logs("x")).record_count == 1
    wait_for(lambda: clients["writer"].rows("SELECT * FROM system.tables WHERE table_name = 'made' AND rows = 1"), "it")
    assert clients["reader"].rows("SELECT text FROM silver.made") == [{"text": "x"}]


def ticket(client):
    return client.get_flight_info(query(READINGS)).endpoint[0].ticket.ticket


def slice_ticket(client):
    return client.get_flight_info(query(LARGE)).endpoint[0].ticket.ticket


def part_ticket(client):
    answer = client.poll_flight_info(query("SELECT 1 AS n"))
    return answer.info.endpoint[0].ticket.ticket


def fetch(client, given):
    list(client.do_get(m.Ticket(ticket=given)))


def prepared_handle(client):
    return client.prepare(READINGS).prepared_statement_handle


def execute(client, given):
    client.get_flight_info(prepared(given))


def poll_handle(client):
    return client.poll_flight_info(query(SLOW)).flight_descriptor.cmd


def poll(client, given):
    client.poll_flight_info(m.FlightDescriptor(type=2, cmd=given))


def sealed_cookie(client):
    return plain(cookie_of(client).removeprefix("mallard_session="))


def come_with_cookie(client, given):
    client.sending(("cookie", f"mallard_session={coded(given)}")).rows("SELECT 1")


def sealed_token(client):
    return plain(client.handshake("YW5uOnNlY3JldA==").removeprefix("Bearer mallard."))


def come_with_token(client, given):
    client.sending(("authorization", f"Bearer mallard.{coded(given)}")).rows("SELECT 1")


def plain(text):
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def coded(data):
    return urlsafe_b64encode(data).decode().rstrip("=")


# How it is made, how it is brought, and what the refusal of another's says.
GIVEN = {
    "ticket": (ticket, fetch, "INVALID_ARGUMENT", "get a new one"),
    "ticket of a slice": (slice_ticket, fetch, "INVALID_ARGUMENT", "get a new one"),
    "ticket of a part": (part_ticket, fetch, "INVALID_ARGUMENT", "get a new one"),
    "prepared statement": (prepared_handle, execute, "INVALID_ARGUMENT", "get a new one"),
    "poll handle": (poll_handle, poll, "INVALID_ARGUMENT", "run the query again"),
    "cookie": (sealed_cookie, come_with_cookie, "INVALID_ARGUMENT", "set its options again"),
    "token": (sealed_token, come_with_token, "UNAUTHENTICATED", "connect again"),
}


@pytest.fixture(params=GIVEN)
def given(request, clients):
    """What the reader gave, the call that brings it to a server, and how it is refused there."""
    make, bring, code, cure = GIVEN[request.param]
    made = make(clients["reader"])
    yield made, bring, code, cure
    if make is poll_handle:
        descriptor = m.FlightDescriptor(type=2, cmd=made)
        clients["reader"].cancel(m.FlightInfo(flight_descriptor=descriptor))


@pytest.mark.feature("any server answers any call", "errors with their codes")
def test_what_another_key_sealed_is_refused(given, clients):
    made, bring, code, cure = given
    bring(clients["writer"], made)
    with rpc_refused(code, "of this lakehouse's", cure, cure=False):
        bring(clients["stranger"], made)


@pytest.mark.feature("any server answers any call")
def test_keys_are_changed_while_what_the_old_one_sealed_is_still_used(servers, clients):
    changing = Reader(servers.writer.definition, servers.writer.data, f"{ANOTHER_KEY},{KEY}")
    with changing, Client(changing.address) as changed:
        for name in ("writer", "stranger"):
            assert changed.read(clients[name].get_flight_info(query("SELECT 1 AS one"))).num_rows == 1
        info = changed.get_flight_info(query("SELECT 1 AS one"))
    # It is sealed with the first of them, and outlives the server that gave it.
    assert clients["stranger"].read(info).num_rows == 1
    with rpc_refused("INVALID_ARGUMENT", "of this lakehouse's", cure=False):
        clients["writer"].read(info)


@pytest.mark.feature("any server answers any call", "errors with their codes")
def test_what_was_altered_or_cut_is_refused(given, clients):
    made, bring, *_ = given
    chance = random.Random(7)
    bring(clients["writer"], made)
    for _ in range(SEEDS):
        at = chance.randrange(len(made))
        altered = made[:at] + bytes([made[at] ^ chance.randrange(1, 256)]) + made[at + 1 :]
        for damaged in (altered, made[:at]):
            with pytest.raises(grpc.RpcError) as caught:
                bring(clients["writer"], damaged)
            assert caught.value.code() in REFUSALS, f"at {at}: {caught.value}"


@pytest.mark.feature("bulk ingest: append", "updates (INSERT, UPDATE, DELETE)", "errors with their codes")
def test_the_reader_takes_no_rows_and_says_who_does(clients, servers):
    options = m.TableDefinitionOptions(if_not_exist=2, if_exists=2)
    append = m.CommandStatementIngest(table="logs", table_definition_options=options)
    insert = m.CommandStatementUpdate(query="INSERT INTO silver.logs (line, text) VALUES (-9, 'x')")
    for message in (append, insert):
        with rpc_refused("PERMISSION_DENIED", "logs", "only reads"):
            clients["reader"].put(message, logs("x"))


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
def test_the_reader_makes_no_table(clients):
    options = m.TableDefinitionOptions(if_not_exist=1, if_exists=2)
    create = m.CommandStatementIngest(table="unmade", table_definition_options=options)
    with rpc_refused("PERMISSION_DENIED", "unmade", "only reads"):
        clients["reader"].put(create, logs("x"))
    tables = command(m.CommandGetTables(table_name_filter_pattern="unmade"))
    for client in clients.values():
        assert client.read(client.get_flight_info(tables)).num_rows == 0


@pytest.mark.feature("server info (SqlInfo)")
def test_the_reader_says_that_it_only_reads(clients):
    def says(client):
        info = client.get_flight_info(command(m.CommandGetSqlInfo(info=[READ_ONLY, BULK_INGESTION])))
        return {row["info_name"]: row["value"] for row in client.read(info).to_pylist()}

    assert says(clients["writer"]) == {READ_ONLY: False, BULK_INGESTION: True}
    assert says(clients["reader"]) == {READ_ONLY: True, BULK_INGESTION: False}
