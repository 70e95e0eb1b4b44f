"""What no honest producer streams: each is refused for what it is, and an honest one beside it does not notice.

All of it goes through plain DoPut over real gRPC, and over HTTP/2 by hand where no gRPC library would send it. Behind
each test the server is the same process, has had no more memory than MEMORY_MIB_MAX at any time, and a producer that
has been streaming since before is still being answered, on the stream that it began with.
"""

import json
import random
import resource
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.config
import h2.connection
import h2.events
import pyarrow as pa
import pytest

from lab import LOGS, logs, write_definition
from mallard import INGEST_ID_HEADER, Server, wait_for
from messages import SERVICE, Client, command, flight_data, m
from streams import Put
from test_hostile import (
    ADDRESS_SPACE_BYTES,
    CASES,
    MEMORY_MIB_MAX,
    OWN_FAILURES,
    SEEDS,
    encoded,
    mutated,
    peak_memory_mib,
)
from test_load import Held

MESSAGE_SECONDS = 2
CALL_SECONDS = 60
# The limits of a message, as the server has them: as it is sent, and decompressed.
MESSAGE_BYTES_MAX = 64 << 20
DECODED_BYTES_MAX = 256 << 20
BOMBS_AT_ONCE = 12
STREAMS_DROPPED = 3_000
STREAMS_HELD = 1_000
HONEST_PAUSE_SECONDS = 0.05
OK, INVALID, EXHAUSTED, LATE = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Honest:
    """A producer that streams a batch again and again, and notes how far it is durable."""

    def __init__(self, server):
        self.put = Put(server, ingest_id="honest", seconds=None)
        self.durable, self.error, self.stopped = -1, None, False
        self.put_forever = threading.Thread(target=self.write)
        self.read_forever = threading.Thread(target=self.read)
        self.put_forever.start()
        self.read_forever.start()

    def write(self):
        offset = 0
        try:
            while not self.stopped:
                self.put.send(logs(f"honest-{offset}"), offset)
                offset += 1
                time.sleep(HONEST_PAUSE_SECONDS)
            self.sent = offset
            self.put.writer.done_writing()
        except (pa.ArrowException, OSError) as error:
            self.error = error

    def read(self):
        try:
            while (answer := self.put.read()) is not None:
                self.durable = answer["offset"]
        except (pa.ArrowException, OSError) as error:
            self.error = error

    def stop(self):
        self.stopped = True
        self.put_forever.join()
        self.read_forever.join()
        self.put.client.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile-ingest")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MALLARD_INGEST_MESSAGE_SECONDS", str(MESSAGE_SECONDS))
        server = Server(write_definition(folder / "definition"), folder / "data").__enter__()
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def honest(server):
    """What the honest producer sent is all there in the end, each line once."""
    honest = Honest(server)
    yield honest
    honest.stop()
    assert honest.error is None
    assert honest.durable == honest.sent - 1
    sql = "SELECT count(*) AS n, count(DISTINCT text) AS once FROM silver.logs WHERE text LIKE 'honest-%'"
    want = {"n": honest.sent, "once": honest.sent}
    wait_for(lambda: server.rows(sql)[0]["n"] >= honest.sent, "the merge of all honest lines", timeout=60)
    assert server.rows(sql) == [want]
    assert server.rows("SELECT last_error FROM system.tables WHERE last_error IS NOT NULL") == []


@pytest.fixture(autouse=True)
def nobody_notices(server, honest):
    before = honest.durable
    yield
    assert server.process.poll() is None, f"the server died; log:\n{server.log()}"
    wait_for(lambda: honest.error or honest.durable > before + 2, "an answer to the honest producer")
    assert honest.error is None
    assert server.rows("SELECT 1 AS one") == [{"one": 1}]
    assert peak_memory_mib(server) < MEMORY_MIB_MAX, f"log:\n{server.log()}"


class Outcome:
    """What became of a DoPut: its code, its message, and its answers."""

    def __init__(self, call):
        self.answers = []
        try:
            for answer in call:
                self.answers.append(json.loads(m.PutResult.FromString(answer).app_metadata))
            self.code, self.details = OK, ""
        except grpc.RpcError as error:
            self.code, self.details = error.code(), error.details()
        assert self.code not in OWN_FAILURES, self
        assert self.details != "Deadline Exceeded", "the server did not answer"

    def __repr__(self):
        return f"{self.code.name}: {self.details} after {self.answers}"

    def durable(self):
        return max((answer["offset"] for answer in self.answers), default=-1)


class Hostile:
    """Sends messages as they are given."""

    def __init__(self, server):
        self.channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])

    def call(self, messages, headers=()):
        encoded = (it if isinstance(it, bytes) else it.SerializeToString() for it in messages)
        return self.channel.stream_stream(f"/{SERVICE}/DoPut")(encoded, metadata=headers, timeout=CALL_SECONDS)

    def send(self, messages, headers=()):
        return Outcome(self.call(messages, headers))


@pytest.fixture
def hostile(server):
    hostile = Hostile(server)
    yield hostile
    hostile.channel.close()


@pytest.fixture(params=SEEDS)
def rng(request):
    return random.Random(request.param)


def path(*parts):
    return m.FlightDescriptor(type=1, path=parts)


def messages(pairs, metadata=(), descriptor=path("logs")):
    """Pairs of header and body as the messages of a DoPut; `metadata` of them, the schema's first, or else offsets."""
    for number, (header, body) in enumerate(pairs):
        given = metadata[number] if number < len(metadata) else None
        message = m.FlightData(flight_descriptor=descriptor, data_header=header, data_body=body)
        if given is not None:
            message.app_metadata = given
        yield message
        descriptor = None


def put_lines(*texts):
    """The schema and one batch of log lines, as pairs of header and body."""
    return encoded(logs(*texts))


def lines_of(server, mark):
    return server.rows(f"SELECT count(*) AS n FROM silver.logs WHERE text LIKE '{mark}%'")[0]["n"]


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_damaged_messages(hostile, rng, compression):
    whole = encoded(pa.table({"line": range(500), "text": [f"damaged {n}" for n in range(500)]}), compression)
    codes = Counter()
    for _ in range(CASES):
        pairs = whole + whole[1:]
        at = rng.randrange(len(pairs))
        header, body = pairs[at]
        if rng.random() < 0.7:
            header = mutated(rng, header, [header for header, _ in whole])
        else:
            body = mutated(rng, body)
        pairs[at] = (header, body)
        if rng.random() < 0.2:
            rng.shuffle(pairs)
        codes[hostile.send(messages(pairs, [None, b"0", b"1"])).code] += 1
    assert codes[INVALID] > CASES / 4, codes
    assert set(codes) <= {OK, INVALID, EXHAUSTED}, codes


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("length", [100 << 30, 2**33, 2**62, 2**63 - 1, -2, -(2**63), DECODED_BYTES_MAX + 1])
def test_a_buffer_that_claims_to_be_huge(hostile, compression, length):
    (schema, none), (header, body) = encoded(pa.table({"line": pa.array([7] * 10_000)}), compression)
    forged = struct.pack("<q", length) + body[8:]
    outcome = hostile.send(messages([(schema, none), (header, forged)]))
    assert outcome.code in (INVALID, EXHAUSTED), outcome
    assert outcome.durable() == -1


def test_a_buffer_that_claims_less_than_it_holds(hostile):
    (schema, none), (header, body) = encoded(pa.table({"line": pa.array([7] * 10_000)}), "lz4")
    for length in (0, 1, 8, 79_999, 80_001):
        outcome = hostile.send(messages([(schema, none), (header, struct.pack("<q", length) + body[8:])]))
        assert outcome.code is INVALID, f"{length}: {outcome}"


def bomb(mebibytes):
    """Readings whose keys are so many zero bytes, the last of them NULL, so that none may be kept."""
    count = mebibytes << 16
    keys = pa.Array.from_buffers(
        pa.int64(), count, [pa.py_buffer(b"\xff" * (count // 8 - 1) + b"\x7f"), pa.py_buffer(bytes(8 * count))], 1
    )
    pairs = encoded(pa.table({"id": keys, "seq": pa.nulls(count, pa.int64())}), "zstd")
    assert sum(len(body) for _, body in pairs) * 1_000 < mebibytes << 20
    return pairs


def test_a_bomb_over_the_limit_is_refused(hostile):
    outcome = hostile.send(messages(bomb(300), descriptor=path("readings")))
    assert outcome.code is EXHAUSTED, outcome


def test_many_bombs_at_once_share_a_budget(server, hostile):
    pairs = bomb(200)
    with ThreadPoolExecutor(BOMBS_AT_ONCE) as threads:
        outcomes = list(
            threads.map(lambda _: hostile.send(messages(pairs, descriptor=path("readings"))), range(BOMBS_AT_ONCE))
        )
    for outcome in outcomes:
        assert outcome.code in (INVALID, EXHAUSTED, grpc.StatusCode.UNAVAILABLE), outcome
        assert outcome.durable() == -1


def test_one_row_that_is_huge_when_decompressed(server, hostile):
    pairs = encoded(pa.table({"line": [1], "text": ["x" * (150 << 20)]}, schema=LOGS), "zstd")
    outcome = hostile.send(messages(pairs))
    assert outcome.code in (OK, INVALID, EXHAUSTED), outcome
    # If it was taken, the table's merge must get by with it; the honest lines show whether it does.
    server.ingest("logs", logs("after the huge row"))


def test_a_schema_of_a_hundred_thousand_columns(hostile):
    wide = pa.schema([(f"column {n}", pa.int64()) for n in range(100_000)])
    outcome = hostile.send(messages(encoded(wide.empty_table())))
    assert outcome.code in (INVALID, EXHAUSTED), outcome


@pytest.mark.parametrize("depth", [40, 100, 1_000])
@pytest.mark.parametrize("wrap", [lambda it: pa.struct([("a", it)]), pa.list_], ids=["structs", "lists"])
def test_a_schema_that_is_very_deep(hostile, depth, wrap):
    deep = pa.int64()
    for _ in range(depth):
        deep = wrap(deep)
    # Behind a mark and a length; pyarrow's own reader would refuse it.
    header = pa.schema([("line", deep)]).serialize().to_pybytes()[8:]
    outcome = hostile.send(messages([(header, b"")]))
    assert outcome.code in (INVALID, EXHAUSTED), outcome


def test_a_schema_with_much_to_say(hostile):
    text = "x" * (8 << 20)
    for schema in (
        pa.schema([("line", pa.int64())], metadata={"note": text}),
        pa.schema([pa.field("line", pa.int64(), metadata={f"key {n}": "v" for n in range(100_000)})]),
        pa.schema([(text, pa.int64())]),
        pa.schema([("line", pa.timestamp("us", tz=text))]),
    ):
        outcome = hostile.send(messages(encoded(schema.empty_table())))
        assert outcome.code in (OK, INVALID, EXHAUSTED), outcome
        assert len(outcome.details) < 4_096


# As they come with a batch: none of them says which batch it is.
NO_OFFSETS = [
    b"-1", b"-0.5", b"1.5", b"0.0", b"1e3", b"1e400", b"NaN", b"Infinity", b"true", b'"0"', b"[]", b"[0]", b"zero",
    b"0x10", b"00", b"0 0", b"\xff\xfe", b"\x00", b"\xef\xbb\xbf0", b"18446744073709551616", b"9" * 100_000,
    b"[" * 100_000, b"{" * 100_000, b'{"offset": -1}', b'{"offset": "0"}', b'{"offset": 1.5}', b'{"offset": [0]}',
    b'{"offset": {"offset": 0}}', b'{"offset": 0', b'{"offset": 18446744073709551616}',
]  # fmt: skip


@pytest.mark.parametrize("metadata", NO_OFFSETS, ids=lambda it: ascii(it[:30])[2:-1])
def test_metadata_that_is_no_offset(hostile, metadata):
    outcome = hostile.send(messages(put_lines("no offset"), [None, metadata]))
    assert outcome.code is INVALID, outcome
    assert "offset" in outcome.details
    assert outcome.durable() == -1
    assert len(outcome.details) < 4_096


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 2**62, 2**48, 2**47, 2**46, 2**45, 2**40, 2**32])
def test_an_offset_that_is_huge_is_refused_or_works(server, hostile, offset):
    mark = f"huge offset {offset}."
    pairs = put_lines(mark)
    outcome = hostile.send(messages(pairs, [None, b"%d" % offset]), [(INGEST_ID_HEADER, f"huge-{offset}")])
    if offset <= 2**32:
        # More batches than a producer sends in a year.
        assert outcome.code is OK, outcome
    if outcome.code is OK:
        assert outcome.durable() == offset
        again = hostile.send(messages(pairs, [None, b"%d" % offset]), [(INGEST_ID_HEADER, f"huge-{offset}")])
        assert again.durable() == offset
        server.ingest("logs", logs("after the huge offset"))
        assert lines_of(server, mark) == 1
    else:
        assert outcome.code is INVALID, outcome
        assert "offset" in outcome.details


def test_the_last_offset_of_all_has_no_next(hostile):
    pairs = put_lines("the last")
    for offset in (2**64 - 1, 2**63 - 1, 2**48 - 1, 2**47 - 1, 2**46 - 1):
        outcome = hostile.send(messages(pairs + pairs[1:], [None, b"%d" % offset, b"%d" % (offset + 1)]))
        assert outcome.code is INVALID, f"{offset}: {outcome}"


NO_OPTIONS = [
    b"garbage", b"[]", b"7", b'{"ingest_id": 5}', b'{"ingest_id": ""}', b'{"ingest_id": "a/b"}',
    b'{"ingest_id": "\\u0000"}', b'{"ingest_id": ["x"]}', b'{"partial": "yes"}', b'{"partial": 1}', b'{"ingest_id": "x',
    b"\xff", b'{"ingest_id": "' + b"x" * 129 + b'"}', b'{"ingest_id": "' + b"x" * 1_000_000 + b'"}', b"{" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("metadata", NO_OPTIONS, ids=lambda it: ascii(it[:30])[2:-1])
def test_metadata_of_a_schema_that_is_no_option(hostile, metadata):
    outcome = hostile.send(messages(put_lines("no option"), [metadata, b"0"]))
    assert outcome.code is INVALID, outcome
    assert outcome.answers == []
    assert len(outcome.details) < 4_096


def test_a_batch_of_another_schema(server, hostile):
    (schema, none), (header, body) = put_lines("another schema")
    other = encoded(pa.table({"a": [1.5], "b": [[1, 2]], "c": ["x"]}))[1]
    fewer = encoded(pa.table({"line": [1]}))[1]
    swapped = encoded(pa.table({"text": ["another schema"], "line": [1]}))[1]
    for batch in (other, fewer, swapped):
        outcome = hostile.send(messages([(schema, none), batch], [None, b"0"]))
        assert outcome.code is INVALID, outcome
        outcome = hostile.send(messages([(schema, none), (header, body), batch], [None, b"0", b"1"]))
        assert outcome.code is INVALID, outcome
        assert outcome.durable() <= 0


def test_a_second_schema(hostile):
    pairs = put_lines("a second schema")
    for second in (pairs[0], encoded(pa.table({"a": [1]}))[0]):
        outcome = hostile.send(messages([*pairs, second, pairs[1]], [None, b"0", None, b"1"]))
        assert outcome.code is INVALID, outcome
        assert "schema" in outcome.details


def words(*batches, deltas=False):
    """Batches of dictionary-encoded log lines, with dictionaries that replace or add to the one before."""
    schema = pa.schema([("line", pa.int64()), ("text", pa.dictionary(pa.int32(), pa.string()))])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)) as writer:
        for dictionary, indices in batches:
            text = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(dictionary))
            writer.write_batch(pa.record_batch([pa.array(range(len(indices)), pa.int64()), text], schema=schema))
    read = pa.ipc.MessageReader.open_stream(sink.getvalue())
    return [(it.metadata.to_pybytes(), it.body.to_pybytes() if it.body else b"") for it in read]


@pytest.mark.parametrize("deltas", [False, True], ids=["replaced", "added to"])
def test_dictionaries_that_change_give_the_right_words_or_none(server, hostile, deltas):
    mark = f"dictionary {deltas}"
    first = [f"{mark} a", f"{mark} b"]
    second = [*first, f"{mark} c"] if deltas else [f"{mark} c", f"{mark} d"]
    outcome = hostile.send(messages(words((first, [0, 1]), (second, [1, 2] if deltas else [0, 1]), deltas=deltas)))
    assert outcome.code in (OK, INVALID), outcome
    server.ingest("logs", logs("after the dictionaries"))
    rows = server.rows(f"SELECT text FROM silver.logs WHERE text LIKE '{mark}%' ORDER BY text")
    want = ["a", "b", "b", "c"] if deltas else ["a", "b", "c", "d"]
    got = [row["text"].removeprefix(f"{mark} ") for row in rows]
    taken = outcome.durable() + 1
    assert sorted(got) == sorted(want[: 2 * taken])


def test_dictionaries_that_are_missing_or_out_of_range(hostile):
    schema, dictionary, batch = words((["missing a", "missing b"], [0, 1]))
    beyond = words((["missing a", "missing b"], [0, 1]))[2]
    beyond = (beyond[0], beyond[1].replace(struct.pack("<ii", 0, 1), struct.pack("<ii", 0, 9)))
    negative = (batch[0], batch[1].replace(struct.pack("<ii", 0, 1), struct.pack("<ii", 0, -1)))
    for pairs in ([schema, batch], [schema, dictionary, beyond], [schema, dictionary, negative], [dictionary, batch]):
        outcome = hostile.send(messages(pairs))
        assert outcome.code is INVALID, outcome
        assert outcome.durable() == -1


def test_dictionaries_without_end(server, hostile):
    schema, dictionary, _ = words((["x" * 1_000_000], [0]))
    outcome = hostile.send(messages([schema, *[dictionary] * 500]))
    assert outcome.code in (OK, INVALID, EXHAUSTED), outcome


def test_messages_that_say_nothing(server, hostile):
    schema, batch = put_lines("said nothing")
    nothing = [(b"", b"")] * 20_000
    outcome = hostile.send(messages([schema, *nothing, batch]))
    assert outcome.code in (OK, INVALID, EXHAUSTED), outcome
    assert outcome.durable() == (0 if outcome.code is OK else -1)


@pytest.mark.parametrize(
    "descriptor",
    [
        m.FlightDescriptor(),
        m.FlightDescriptor(type=0, path=["logs"]),
        m.FlightDescriptor(type=7, path=["logs"]),
        m.FlightDescriptor(type=2, path=["logs"]),
        m.FlightDescriptor(type=2, cmd=b"logs"),
        path(),
        path(""),
        path("", "logs"),
        path("silver", "logs", "logs"),
        path("lab", "silver", "logs", "more"),
        path("logs\0"),
        path("LOGS;--"),
        path("../logs"),
        path("\N{DUCK}" * 100),
        path("x" * 1_000_000),
        path(*["silver"] * 10_000),
    ],
    ids=lambda it: str(it)[:40],
)
def test_a_descriptor_that_leads_nowhere(hostile, descriptor):
    outcome = hostile.send(messages(put_lines("led nowhere"), descriptor=descriptor))
    assert outcome.code in (INVALID, grpc.StatusCode.NOT_FOUND), outcome
    assert outcome.answers == []
    assert len(outcome.details) < 4_096


def test_no_descriptor_at_all(hostile):
    assert hostile.send(messages(put_lines("no descriptor"), descriptor=None)).code is INVALID
    assert hostile.send([m.FlightData()]).code is INVALID


def test_a_descriptor_that_changes_on_the_way_leads_nowhere_else(server, hostile):
    sent = list(messages(put_lines("changed its mind"), [None, b"0"]))
    sent[1].flight_descriptor.CopyFrom(path("notes"))
    outcome = hostile.send(sent)
    assert outcome.code in (OK, INVALID), outcome
    server.ingest("logs", logs("after the change of mind"))
    assert lines_of(server, "changed its mind") == outcome.durable() + 1
    assert server.rows("SELECT 1 FROM system.ingests WHERE table_name = 'notes'") == []


def test_a_message_that_is_too_large(hostile):
    rows = pa.table({"line": [1], "text": ["x" * (MESSAGE_BYTES_MAX + 1)]}, schema=LOGS)
    for sent in (messages(encoded(rows)), messages([(b"", bytes(MESSAGE_BYTES_MAX + 1))])):
        outcome = hostile.send(sent)
        assert outcome.code in (EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE), outcome


class Wire:
    """One DoPut over HTTP/2 by hand."""

    def __init__(self, server):
        self.socket = socket.create_connection((server.host, server.port), timeout=CALL_SECONDS)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        headers = {
            ":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/DoPut", ":authority": server.address,
            "content-type": "application/grpc", "te": "trailers",
        }  # fmt: skip
        self.http.send_headers(1, list(headers.items()))
        self.code, self.is_over = None, False
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def send(self, data):
        """Sends bytes, as far as the other side lets us."""
        while data and not self.is_over:
            room = min(self.http.local_flow_control_window(1), self.http.max_outbound_frame_size)
            if room > 0:
                self.http.send_data(1, data[:room])
                data = data[room:]
                self.flush()
            else:
                self.hear(CALL_SECONDS)

    def say(self, message):
        """A whole message."""
        body = message.SerializeToString()
        self.send(struct.pack(">BI", 0, len(body)) + body)

    def hear(self, seconds):
        """Takes what comes within so many seconds."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return
        if not data:
            self.is_over = True
            return
        for event in self.http.receive_data(data):
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                status = dict(event.headers).get("grpc-status")
                self.code = CODES[int(status)] if status else self.code
            if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                self.is_over = True
        self.flush()

    def outcome(self, meanwhile=lambda: None, pause=0.2):
        """The code that the call ends with; `meanwhile` is called until then."""
        wait_for(lambda: self.is_over or self.hear(pause) or meanwhile() or self.is_over, "the end of the call")
        return self.code


def begun():
    """The schema's message, and the beginning of the batch's: it says how long it is and has a half of that."""
    schema, batch = (message.SerializeToString() for message in messages(put_lines("slow " * 1_000)))
    framed = [struct.pack(">BI", 0, len(message)) + message for message in (schema, batch)]
    return framed[0], framed[1][: len(framed[1]) // 2]


@pytest.mark.parametrize("ahead", [True, False], ids=["a batch", "the schema"])
def test_a_message_that_is_begun_and_never_ended_is_given_up(server, ahead):
    schema, half = begun()
    with Wire(server) as wire:
        wire.send(schema + half if ahead else schema[: len(schema) // 2])
        assert wire.outcome() is LATE


def test_a_message_that_trickles_in_is_given_up(server):
    schema, half = begun()
    with Wire(server) as wire:
        wire.send(schema + half)
        assert wire.outcome(lambda: wire.is_over or wire.send(b"x")) is LATE


def test_silence_between_messages_is_no_slowness(server):
    schema, half = begun()
    with Put(server) as patient, Wire(server) as wire:
        patient.send(logs("patient"), 0)
        patient.durable(0)
        wire.send(schema + half)
        assert wire.outcome() is LATE
        time.sleep(MESSAGE_SECONDS)
        patient.send(logs("patient"), 1)
        patient.durable(1)


def test_very_many_slow_messages_hold_little_memory(server):
    schema, _ = begun()
    large = struct.pack(">BI", 0, MESSAGE_BYTES_MAX - 1) + bytes(32 << 10)
    wires = [Wire(server) for _ in range(200)]
    try:
        for wire in wires:
            wire.send(schema + large)
        assert {wire.outcome() for wire in wires} <= {LATE, EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    finally:
        for wire in wires:
            wire.socket.close()


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, MESSAGE_BYTES_MAX + 1])
@pytest.mark.parametrize("ahead", [True, False], ids=["a batch", "the schema"])
def test_a_message_that_claims_to_be_larger_than_the_limit(server, length, ahead):
    schema, _ = begun()
    with Wire(server) as wire:
        wire.send((schema if ahead else b"") + struct.pack(">BI", 0, length) + bytes(1_000))
        assert wire.outcome() in (EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)


def test_a_message_that_claims_to_be_compressed(server):
    schema, _ = begun()
    with Wire(server) as wire:
        wire.send(b"\x01" + schema[1:])
        assert wire.outcome() not in (None, OK)


def test_thousands_of_streams_that_are_opened_and_dropped(server, hostile):
    def drop(number):
        schema, batch = put_lines(f"dropped-{number}")
        sent = [schema] if number % 3 == 0 else [schema, batch]
        hold = threading.Event()

        def keep_open():
            yield from (it.SerializeToString() for it in messages(sent))
            hold.wait(CALL_SECONDS)

        call = hostile.channel.stream_stream(f"/{SERVICE}/DoPut")(keep_open(), timeout=CALL_SECONDS)
        if number % 2:
            next(iter(call))
        call.cancel()
        hold.set()

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(drop, range(200)))
        before = Held(server)
        list(threads.map(drop, range(200, STREAMS_DROPPED)))
    wait_for(lambda: Held(server).files <= before.files + 20, f"the closing of files, {before} before")
    wait_for(lambda: Held(server).threads <= before.threads + 150, f"the end of threads, {before} before")
    assert Held(server).memory_mib < before.memory_mib + 300, f"{before}, then {Held(server)}"
    sql = "SELECT count(*) AS n, count(DISTINCT text) AS once FROM silver.logs WHERE text LIKE 'dropped-%'"
    (rows,) = server.rows(sql)
    assert rows["n"] == rows["once"]


def test_very_many_streams_that_stay_open(server):
    schema = next(messages(put_lines("open")))
    wires = []
    try:
        for _ in range(STREAMS_HELD):
            wires.append(Wire(server))
            wires[-1].say(schema)
        held = Held(server)
        assert held.memory_mib < MEMORY_MIB_MAX, held
        # Whoever is one too many is told so; the others are open still.
        for wire in wires:
            wire.hear(0.001)
        assert {wire.code for wire in wires} <= {None, EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    finally:
        for wire in wires:
            wire.socket.close()
    wait_for(lambda: Held(server).files < held.files / 2, "the closing of files")


def test_what_was_let_in_does_not_hold_up_the_tables(server):
    for table in ("logs", "readings"):
        wait_for(
            lambda: server.rows(f"SELECT 1 FROM system.tables WHERE table_name = '{table}' AND last_error IS NULL"),
            f"a merge of {table} without an error",
        )
    server.ingest("logs", logs("and so on"))


def test_ingests_by_command_meet_the_same_limits(server):
    ingest = m.CommandStatementIngest(
        table="logs", table_definition_options=m.TableDefinitionOptions(if_not_exist=2, if_exists=2)
    )
    with Client(server.address) as client:
        (call_schema, *_) = flight_data(logs("by command"), None)
        assert client.put(ingest, logs("by command")).record_count == 1
    call_schema.flight_descriptor.CopyFrom(command(ingest))
    for rest in (bytes(10), bytes(1_000)):
        with Wire(server) as wire:
            wire.say(call_schema)
            wire.send(struct.pack(">BI", 0, 2_000) + rest)
            assert wire.outcome() is LATE
    with Wire(server) as wire:
        wire.say(call_schema)
        wire.send(struct.pack(">BI", 0, 2**32 - 1) + bytes(10))
        assert wire.outcome() in (EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)
