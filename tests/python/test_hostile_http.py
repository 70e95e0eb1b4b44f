"""What no honest client sends over HTTP: each is refused for what it is, and an honest one beside it does not notice.

Behind each test the server is the same process, has had no more memory than MEMORY_MIB_MAX at any time, and a client
that has been sending rows since before goes on. It does what docs/http.md says: after a 429 or a 503 it waits as long
as Retry-After says, and sends the same body under the same id again.
"""

import gzip
import http.client
import json
import random
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from lab import write_definition
from mallard import wait_for
from test_hostile import ADDRESS_SPACE_BYTES, MEMORY_MIB_MAX, peak_memory_mib
from test_http import TOML, HttpServer
from test_load import Held

# As docs/http.md has them.
BODY_BYTES_MAX = 16 << 20
DECODED_BYTES_MAX = 64 << 20
ROOM_BYTES = 256 << 20
SLOW_CLIENTS = 300
BODIES_AT_ONCE = 12
CONNECTIONS_DROPPED = 2_000
ANSWERS_HELD = 8
# The most of tokio's pool for what blocks are 512; some others do the work.
THREADS_MAX = 600
ANSWER_SECONDS = 60
HONEST_PAUSE_SECONDS = 0.05
COME_AGAIN = (429, 503)
REFUSED = (400, 408, 413, *COME_AGAIN)


class Honest:
    """Sends a row again and again, and counts those that were taken."""

    def __init__(self, server):
        self.server, self.taken, self.error, self.is_stopped = server, 0, None, False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.is_stopped:
                self.send(json.dumps({"line": self.taken, "text": f"honest-{self.taken}"}), f"honest-{self.taken}")
                time.sleep(HONEST_PAUSE_SECONDS)
        except (AssertionError, OSError, http.client.HTTPException) as error:
            self.error = error

    def send(self, body, ingest_id):
        while True:
            headers = {"content-type": "application/json", "mallard-ingest-id": ingest_id}
            status, told, answer = self.server.request("POST", "/v1/ingest/logs", body.encode(), headers)
            if status == 200:
                self.taken += 1
                return
            assert status in COME_AGAIN, (status, answer)
            time.sleep(int(told["retry-after"]))

    def goes_on(self):
        """Waits until some more rows are taken."""
        before = self.taken
        wait_for(lambda: self.error or self.taken > before + 2, "an answer to the honest client", timeout=60)
        assert self.error is None

    def stop(self):
        self.is_stopped = True
        self.thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile-http")
    server = HttpServer(write_definition(folder / "definition", TOML), folder / "data").__enter__()
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def honest(server):
    """What the honest client sent is all there in the end, each row once."""
    honest = Honest(server)
    yield honest
    honest.stop()
    assert honest.error is None
    sql = "SELECT count(*) AS n, count(DISTINCT text) AS once FROM silver.logs WHERE text LIKE 'honest-%'"
    want = {"n": honest.taken, "once": honest.taken}
    wait_for(lambda: server.result(sql)[0]["n"] >= honest.taken, "the merge of all honest rows", timeout=60)
    assert server.result(sql) == [want]


@pytest.fixture(autouse=True)
def nobody_notices(server, honest):
    yield
    assert server.process.poll() is None, f"the server died; log:\n{server.log()}"
    honest.goes_on()
    assert server.result("SELECT 1 AS one") == [{"one": 1}]
    assert peak_memory_mib(server) < MEMORY_MIB_MAX, f"log:\n{server.log()}"


def connect(server):
    host, _, port = server.http_address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS)


def head(length, path="/v1/ingest/logs"):
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def answered(connection):
    """The status that comes back before the server closes; None if none does."""
    answer = b""
    with suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            answer += piece
    return int(answer.split(b" ", 2)[1]) if answer else None


def wide(rows):
    """Lines of eight new columns: the most values for their bytes."""
    line = "{" + ",".join(f'"{name}":1' for name in "abcdefgh") + "}\n"
    return line * rows


def far(rows):
    """Lines without values, then one with very many: each column is as long as all lines."""
    return "{}\n" * rows + json.dumps({f"k{key}": 1 for key in range(1_900)}) + "\n"


def nested(rows):
    """Lines of very many objects without anything in them."""
    return ('{"id":1,"seq":1,"raw":[' + "{}," * 200_000 + "{}]}\n") * rows


def long(rows):
    """Lines of which each is too large for a frame."""
    return ('{"text":"' + "".join(random.choices("abcdefgh0123456789", k=1 << 20)) + '"}\n') * rows


# The last line is broken, so all is read and nothing is kept.
BODIES = {
    "wide": ("notes", lambda: wide(480_000) + "{"),
    "far": ("notes", lambda: far(990_000) + "{"),
    "nested": ("things", lambda: nested(90) + "{"),
    "long": ("logs", lambda: long(24) + "{"),
    "blank": ("logs", lambda: " " * (DECODED_BYTES_MAX + 1)),
    "deep": ("logs", lambda: '{"text":' + "[" * 10_000_000),
    "keys": ("notes", lambda: "".join(f'{{"k{key}":null,"n":1}}\n' for key in range(900_000)) + "{"),
}


@pytest.mark.parametrize("shape", BODIES)
def test_many_large_bodies_at_once(server, honest, shape):
    table, text = BODIES[shape]
    body = gzip.compress(text().encode(), compresslevel=1)
    assert len(body) <= BODY_BYTES_MAX

    def send(number):
        headers = {"content-encoding": "gzip", "content-type": "application/x-ndjson"}
        partial = "?partial=true" if number % 2 and shape in ("long", "deep", "blank") else ""
        status, told, answer = server.request("POST", f"/v1/ingest/{table}{partial}", body, headers)
        assert len(answer) < 1 << 20
        assert status not in COME_AGAIN or int(told["retry-after"]) > 0
        return status

    with ThreadPoolExecutor(BODIES_AT_ONCE) as threads:
        sent = [threads.submit(send, number) for number in range(BODIES_AT_ONCE)]
        honest.goes_on()
        statuses = {one.result() for one in sent}
    assert statuses <= set(REFUSED), statuses
    # Some were looked at.
    assert statuses - set(COME_AGAIN), statuses


def test_very_many_slow_clients(server, honest):
    body = b'{"line": 1, "text": "slow"'
    with ExitStack() as stack:
        in_head = [stack.enter_context(connect(server)) for _ in range(SLOW_CLIENTS)]
        in_body = [stack.enter_context(connect(server)) for _ in range(SLOW_CLIENTS)]
        for connection in in_head:
            connection.sendall(head(len(body))[:40])
        for connection in in_body:
            connection.sendall(head(len(body) + 1) + body)
        honest.goes_on()
        assert {answered(connection) for connection in in_body} == {408}
        honest.goes_on()
    assert server.result("SELECT count(*) AS n FROM silver.logs WHERE text = 'slow'") == [{"n": 0}]


def test_a_body_that_trickles_in_holds_up_nobody(server, honest):
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(SLOW_CLIENTS)]
        for connection in connections:
            connection.sendall(head(1_000))
        for _ in range(5):
            for connection in connections:
                connection.sendall(b" ")
            honest.goes_on()


def test_bodies_that_hold_all_the_room_are_given_up(server, honest):
    piece = b" " * (1 << 20)
    count = ROOM_BYTES // BODY_BYTES_MAX + 8

    def hold(_):
        with connect(server) as connection:
            with suppress(ConnectionError):
                connection.sendall(head(BODY_BYTES_MAX))
                for _ in range((BODY_BYTES_MAX >> 20) - 1):
                    connection.sendall(piece)
            return answered(connection)

    with ThreadPoolExecutor(count) as threads:
        statuses = list(threads.map(hold, range(count)))
    # Whoever found no room may be gone before the answer was read.
    assert set(statuses) <= {408, 429, None} and 408 in statuses, statuses
    honest.goes_on()


def test_thousands_of_connections_that_are_dropped(server, honest):
    body = b'{"line": 1, "text": "dropped"}'
    whole = head(len(body)) + body

    def drop(number):
        with connect(server) as connection:
            if number % 4 == 3:
                # All of it, and gone before the answer.
                connection.sendall(whole.replace(b"dropped", b"is gone"))
            else:
                connection.sendall(whole[: number * 7 % len(whole)])

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(drop, range(200)))
        before = Held(server)
        list(threads.map(drop, range(200, CONNECTIONS_DROPPED)))
    wait_for(lambda: Held(server).files <= before.files + 20, f"the closing of files, {before} before")
    held = Held(server)
    # Threads that block are a pool, which the honest client keeps awake.
    assert held.threads < THREADS_MAX, held
    assert held.memory_mib < before.memory_mib + 300, f"{before}, then {held}"
    assert server.result("SELECT count(*) AS n FROM silver.logs WHERE text = 'dropped'") == [{"n": 0}]


def test_answers_that_nobody_takes(server, honest):
    sql = b"SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 100000000) AS t(value)"
    with ExitStack() as stack:
        for _ in range(ANSWERS_HELD):
            connection = stack.enter_context(connect(server))
            connection.sendall(head(len(sql), "/v1/query?format=ndjson") + sql)
            assert connection.recv(12) == b"HTTP/1.1 200"
        honest.goes_on()
        held = Held(server)
        assert held.memory_mib < MEMORY_MIB_MAX, held
    running = "SELECT count(*) AS n FROM system.queries WHERE state = 'running' AND statement LIKE '%repeat(''x''%'"
    running += " AND statement NOT LIKE '%system.queries%'"
    wait_for(lambda: server.result(running) == [{"n": 0}], "the end of the queries")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 1_000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /%zz%00 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /v1/query?sql=%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + b"a: b\r\n" * 5_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\na: " + b"b" * 2_000_000 + b"\r\n\r\n",
        b"POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}",
        b"POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n{}",
        b"POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
        b"POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n{}",
        b"POST /v1/ingest/" + b"%2e%2e%2f" * 100 + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\n{}",
    ],
    ids=lambda it: repr(it[:50]),
)
def test_what_is_no_request_is_refused_or_cut_off(server, request_bytes):
    with connect(server) as connection:
        # The server may have hung up already.
        with suppress(OSError):
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
        status = answered(connection)
    assert status is None or 400 <= status < 500 or status == 505, status
    assert server.result("SELECT count(*) AS n FROM silver.logs WHERE text IS NULL AND line IS NULL") == [{"n": 0}]


def test_bodies_of_random_bytes(server):
    chance = random.Random(7)
    row = b'{"line": 1, "text": "random", "x": [1, {"y": null}]}'
    for _ in range(200):
        body = bytearray(row)
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
        status, _, answer = server.request("POST", "/v1/ingest/logs", bytes(body))
        assert status in (200, 400), (body, answer)
        assert json.loads(answer)
