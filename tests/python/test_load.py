"""Many clients, slow ones, and those who leave: nothing stays behind, and who is too many is told when to come back.

What a process holds is read from /proc: memory, open files, threads. MALLARD_DEEP=1 asks a million small queries
instead of some thousands.
"""

import os
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import grpc
import pytest

from lab import logs, write_definition
from mallard import Server, wait_for
from messages import Client, command, m, query, table

CLIENT = "pyarrow, gRPC"
DEEP = bool(os.environ.get("MALLARD_DEEP"))
IDLE = 1000
BUSY = 100
QUERIES_A_ROUND = 330_000 if DEEP else 1_700
RETRY_HEADER = "grpc-retry-pushback-ms"
# Neither ends while a test waits: the first gives no row, the second rows all the time.
SILENT = "SELECT count(*) FROM generate_series(1, 1000000000000) AS t(value) WHERE value % 7 = 8"
TALKING = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 100000000) AS t(value)"
SPILLING = "SELECT value, repeat('x', 500) AS x FROM generate_series(1, 3000000) AS t(value) ORDER BY x, value DESC"
LEAVE_SECONDS = 10


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts a server with settings: `start(queries_max=2)`."""
    with ExitStack() as stack:

        def start(**settings):
            for name, value in settings.items():
                monkeypatch.setenv(f"MALLARD_{name.upper()}", str(value))
            return stack.enter_context(Server(write_definition(tmp_path / "definition"), tmp_path / "data"))

        yield start


class Held:
    """What the server's process holds now."""

    def __init__(self, server):
        process = f"/proc/{server.process.pid}"
        with open(f"{process}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file)
        self.memory_mib = int(status["VmRSS"].split()[0]) >> 10
        self.threads = int(status["Threads"])
        self.files = len(os.listdir(f"{process}/fd"))

    def __repr__(self):
        return f"{self.memory_mib} MiB, {self.threads} threads, {self.files} files"


def own_connection(server):
    """A client that shares its connection with no other of this process."""
    client = Client(server.address)
    client.channel.close()
    client.channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
    return client


def answer(client, number):
    """Asks for a number; None if it came, else the refusal. A refusal must tell when to come back, and why."""
    try:
        rows = client.rows(f"SELECT {number} AS number")
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE), error
        assert retry_ms(error) > 0
        return error
    assert rows == [{"number": number}]
    return None


def retry_ms(error):
    return int(dict(error.trailing_metadata())[RETRY_HEADER])


def unfinished(server):
    """The states of the queries that did not end, but for the one that asks."""
    others = "state IN ('running', 'queued') AND statement NOT LIKE '%system.queries%'"
    return [row["state"] for row in server.rows(f"SELECT state FROM system.queries WHERE {others}")]


@pytest.mark.feature("connections at once")
@pytest.mark.timeout(4 * 3600 if DEEP else 120)
def test_a_thousand_idle_and_a_hundred_busy_connections_leave_nothing_behind(start):
    server = start()
    server.rows("SELECT 1")
    alone = Held(server)
    with ExitStack() as connections:
        with ThreadPoolExecutor(BUSY) as threads:
            def connect(count):
                clients = [connections.enter_context(own_connection(server)) for _ in range(count)]
                assert not any(threads.map(answer, clients, range(count)))
                return clients

            def round_of_queries():
                refused = threads.map(
                    lambda n: [answer(busy[n], n * share + i) for i in range(share)], range(BUSY)
                )
                return sum(refusal is not None for refusals in refused for refusal in refusals)

            idle, busy, share = connect(IDLE), connect(BUSY), QUERIES_A_ROUND // BUSY
            refused = [round_of_queries() for _ in range(2)]
            before = Held(server)
            refused.append(round_of_queries())
            after = Held(server)
            # 100 at a time fit into the places and the queue.
            assert not any(refused)
            assert not any(threads.map(answer, idle, range(IDLE)))
        assert before.files >= IDLE + BUSY
        assert after.memory_mib < before.memory_mib * 1.2 + 32, f"{before}, then {after}"
        assert unfinished(server) == []
    wait_for(lambda: Held(server).files <= alone.files + 20, f"the closing of files, {alone} at the beginning")
    wait_for(lambda: Held(server).threads <= alone.threads + 20, f"the end of threads, {alone} at the beginning")


def hold(client, sql):
    """Begins to fetch a query; the call, whose headers come once it has its place."""
    return client.do_get(client.get_flight_info(query(sql)).endpoint[0].ticket)


def refusal_of(client, sql="SELECT 1", seconds=0.3):
    """Why a query was refused; None if it waits for its place, which it then gives up."""
    ticket = client.get_flight_info(query(sql)).endpoint[0].ticket
    call = client.channel.unary_stream(
        "/arrow.flight.protocol.FlightService/DoGet",
        request_serializer=m.Ticket.SerializeToString, response_deserializer=m.FlightData.FromString,
    )(ticket, timeout=seconds)  # fmt: skip
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return None if caught.value.details() == "Deadline Exceeded" else caught.value


def test_who_comes_too_many_is_refused_at_once_and_told_when_to_come_back(start):
    server = start(queries_max=2, queue_max=2)
    with Client(server.address) as client:
        running = [hold(client, SILENT) for _ in range(2)]
        for call in running:
            call.initial_metadata()
        waiting = [hold(client, "SELECT 7 AS number") for _ in range(2)]
        refused = wait_for(lambda: refusal_of(client), "a refusal")
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 queries run and 2 wait" in refused.details() and "try again" in refused.details()
        assert 0 < retry_ms(refused) <= 60_000
        running.pop().cancel()
        assert [table(call).to_pylist() for call in waiting] == [[{"number": 7}]] * 2
        assert client.rows("SELECT 8 AS number") == [{"number": 8}]
        running.pop().cancel()


def test_who_waits_for_too_long_is_told_so(start):
    server = start(queries_max=1, queue_wait_seconds=1)
    with Client(server.address) as client:
        running = hold(client, SILENT)
        running.initial_metadata()
        late = refusal_of(client, seconds=30)
        assert late.code() is grpc.StatusCode.UNAVAILABLE
        assert "waited 1 s for its turn" in late.details()
        assert retry_ms(late) > 0
        running.cancel()


def test_planning_goes_on_while_all_places_are_taken(start):
    server = start(queries_max=1, queue_max=0)
    with Client(server.address) as client:
        running = hold(client, SILENT)
        running.initial_metadata()
        assert client.get_schema(query("SELECT 1 AS one")).names == ["one"]
        assert client.prepare("SELECT ?").prepared_statement_handle
        assert client.read(client.get_flight_info(command(m.CommandGetTables()))).num_rows > 0
        assert refusal_of(client).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        running.cancel()


def test_one_client_that_asks_much_does_not_hold_up_another(start):
    server = start(queries_max=1)
    work = "SELECT count(*) AS n FROM generate_series(1, 3000000) AS t(value) WHERE value % 7 = 3"
    done, many = [], 20
    with own_connection(server) as greedy, own_connection(server) as modest:
        running = hold(greedy, SILENT)
        running.initial_metadata()
        tickets = [(greedy, greedy.get_flight_info(query(work)).endpoint[0].ticket) for _ in range(many)]
        tickets.append((modest, modest.get_flight_info(query(work)).endpoint[0].ticket))

        def fetch(client, ticket):
            table(client.do_get(ticket))
            done.append(client)

        with ThreadPoolExecutor(len(tickets)) as threads:
            # The modest one comes last of all.
            for client, ticket in tickets:
                threads.submit(fetch, client, ticket)
                time.sleep(0.02)
            running.cancel()
        assert len(done) == len(tickets)
        assert done.index(modest) < many // 2, "the modest client waited for all of the greedy one's queries"


def spilled(server):
    """Bytes in the folder of spill files."""
    total = 0
    for folder, _, files in os.walk(server.data / "spill"):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(folder, name))
    return total


def entry(server, mark):
    """What system.queries tells of the one statement that ends in this comment."""
    ended = "state NOT IN ('queued', 'running') AS ended"
    rows = server.rows(f"SELECT *, {ended} FROM system.queries WHERE statement LIKE '%-- {mark}'")
    return rows[0] if rows else None


def test_a_reader_who_stops_reading_holds_little_memory(start):
    server = start()
    with Client(server.address) as client:
        before = Held(server)
        call = hold(client, f"{TALKING} -- slow")
        next(iter(call))

        def given():
            """Bytes given so far, once they stay the same for a while."""
            first = entry(server, "slow")["bytes"]
            time.sleep(1)
            return first if first == entry(server, "slow")["bytes"] else None

        assert wait_for(given, "the end of giving") < 128 << 20
        assert entry(server, "slow")["state"] == "running"
        assert Held(server).memory_mib < before.memory_mib + 256, f"{before}, then {Held(server)}"
        call.cancel()
        wait_for(lambda: entry(server, "slow")["state"] == "cancelled", "the end of the query", LEAVE_SECONDS)


def leave_by_cancel(client, call, info):
    call.cancel()


def leave_by_hanging_up(client, call, info):
    client.channel.close()


def leave_by_action(client, call, info):
    assert client.cancel(info) in (1, 2)


def leave_at_the_timeout(client, call, info):
    pass


WAYS = [leave_by_cancel, leave_by_hanging_up, leave_by_action, leave_at_the_timeout]


@pytest.mark.parametrize("leave", WAYS)
def test_a_query_without_a_reader_gives_back_its_place_and_its_spill_files(start, leave):
    server = start(queries_max=1, query_memory_mib=64)
    headers = [("mallard-timeout", "4s")] if leave is leave_at_the_timeout else []
    with own_connection(server) as client:
        client.headers = headers
        info = client.get_flight_info(query(f"{SPILLING} -- spilling"))
        call = client.do_get(info.endpoint[0].ticket)
        wait_for(lambda: spilled(server) > 1 << 20, "a spill file")
        leave(client, call, info)
        # The only place is free again, or else this is not answered.
        state = wait_for(lambda: entry(server, "spilling"), "an answer", LEAVE_SECONDS)["state"]
        assert state == ("timed out" if leave is leave_at_the_timeout else "cancelled")
        wait_for(lambda: spilled(server) == 0, "the removal of spill files", LEAVE_SECONDS)


@pytest.mark.parametrize("leave", [leave_by_cancel, leave_by_hanging_up, leave_by_action])
def test_a_query_without_a_reader_gives_back_its_memory(start, leave):
    server = start(query_memory_mib=1024)
    hash_table = "SELECT value % 20000000 AS v, count(*) FROM generate_series(1, 10000000000) AS t(value) GROUP BY 1"
    server.rows("SELECT 1")
    alone = Held(server)
    for number in range(6):
        with own_connection(server) as client:
            info = client.get_flight_info(query(f"{hash_table} -- {number}"))
            call = client.do_get(info.endpoint[0].ticket)
            call.initial_metadata()
            begin = Held(server)
            wait_for(lambda: Held(server).memory_mib > begin.memory_mib + 150, "a large table")
            leave(client, call, info)
            wait_for(lambda: entry(server, number)["ended"], "the end of the query", LEAVE_SECONDS)
            wait_for(lambda: is_idle(server), "an idle processor", LEAVE_SECONDS)
    # The allocator keeps some of it for the next query; all of it would be 900 MiB.
    assert Held(server).memory_mib < alone.memory_mib + 450, alone


def test_joins_that_compare_all_rows_do_not_hold_up_others_and_end_when_they_are_cancelled(start):
    server = start()
    million = "generate_series(1, 1000000)"
    join = f"SELECT count(*) FROM {million} a(x) JOIN {million} b(y) ON x * y % 7 = 8"
    with Client(server.address) as client:
        calls = [hold(client, join) for _ in range(4)]
        for call in calls:
            call.initial_metadata()
        assert client.rows("SELECT 1 AS one") == [{"one": 1}]
        for call in calls:
            call.cancel()
        wait_for(lambda: is_idle(server), "an idle processor", LEAVE_SECONDS)


def is_idle(server):
    """Whether the process uses less than a tenth of a processor."""

    def seconds():
        with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = seconds()
    time.sleep(0.5)
    return seconds() - before < 0.05


def test_a_client_that_dies_with_many_queries_leaves_none_running(start):
    server = start()
    clients = [own_connection(server) for _ in range(8)]
    calls = [hold(client, SILENT) for client in clients]
    for call in calls:
        call.initial_metadata()
    assert unfinished(server) == ["running"] * 8
    for client in clients:
        client.channel.close()
    wait_for(lambda: unfinished(server) == [], "the end of all queries", LEAVE_SECONDS)


def test_more_connections_than_files_do_no_lasting_harm(start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # Many systems give a process 1,024 files if it does not ask for more.
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        server = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ExitStack() as connections:
        for _ in range(350):
            connections.enter_context(socket.create_connection((server.host, server.port), timeout=30))
        wait_for(lambda: Held(server).files >= 250, "all files to be in use")
        wait_for(lambda: is_idle(server), "an idle processor", LEAVE_SECONDS)
    wait_for(lambda: Held(server).files < 100, "the closing of files")
    server.ingest("logs", logs("afterwards"))
