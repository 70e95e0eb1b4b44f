"""What no honest client sends: damaged and invented bytes wherever the server takes bytes, over real gRPC.

A test is a burst of cases, made from a seed, so a failure can be repeated; MALLARD_DEEP=1 takes more seeds. A case may
be refused or answered, but not by the server's own failure (INTERNAL, UNKNOWN), nor by silence. Behind each burst the
server must be the same process, answer, and have had no more memory than MEMORY_MIB_MAX at any time.
"""

import os
import random
import resource
import socket
from collections import Counter, namedtuple
from contextlib import suppress
from itertools import islice

import adbc_driver_manager
import grpc
import pyarrow as pa
import pytest
from google.protobuf.any_pb2 import Any

from lab import logs, readings, write_definition
from messages import SERVICE, Client, command, flight_data, m, pack, query
from mallard import Server, wait_for

SEEDS = range(40 if os.environ.get("MALLARD_DEEP") else 2)
CASES = 150
MEMORY_MIB_MAX = 1536
# Far above that: an allocation without bounds must fail in the server, not on the whole machine.
ADDRESS_SPACE_BYTES = 16 << 30
# The server ends a query after the first; a call that takes the second hangs.
QUERY_TIMEOUT = ("mallard-timeout", "1s")
HANG_SECONDS = 10
MESSAGES_READ = 20
OWN_FAILURES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
# A field that claims to be longer than its message.
CUT_OFF = b"\x0a\xff\xff\xff\xff\x0f"
TYPE_URL = b"type.googleapis.com/arrow.flight.protocol.sql."
INTEGERS = [0, 1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
ACTIONS = [
    "BeginSavepoint", "BeginTransaction", "CancelFlightInfo", "CancelQuery", "ClosePreparedStatement", "CloseSession",
    "CreatePreparedStatement", "CreatePreparedSubstraitPlan", "EndSavepoint", "EndTransaction", "GetSessionOptions",
    "RenewFlightEndpoint", "SetSessionOptions",
]  # fmt: skip
COMMANDS = [name for name in vars(m) if name.startswith(("Command", "Action"))] + ["TicketStatementQuery"]


def mutated(rng, data, others=(b"",)):
    """`data` with one to four of the things that happen to bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice([1, 2, 8, 64]))
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at:until]
            case 3:
                data[at:at] = data[at:until]
            case 4:
                data[at:at] = rng.randbytes(rng.randint(1, 16))
            case 5:
                data[at : at + 4] = (rng.choice(INTEGERS) & 0xFFFFFFFF).to_bytes(4, "little")
            case 6:
                data[at : at + 8] = rng.choice(INTEGERS).to_bytes(8, "little")
            case 7:
                other = rng.choice(others)
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


# What became of a call: its gRPC error, or None, and the beginning of its answer.
Outcome = namedtuple("Outcome", ["error", "answers"])


class Hostile:
    """Sends bytes as they are, and counts what becomes of them."""

    def __init__(self, server):
        self.server = server
        self.channel = grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)])
        self.codes = Counter()
        self.failures = []

    def send(self, method, *bodies, headers=(QUERY_TIMEOUT,), unary=True):
        """One call; `bodies` are the request's messages, encoded."""
        arity = self.channel.unary_stream if unary else self.channel.stream_stream
        request = bodies[0] if unary else iter(bodies)
        call = arity(f"/{SERVICE}/{method}")(request, metadata=headers, timeout=HANG_SECONDS)
        error, answers = None, []
        try:
            # Of a result without end the beginning is enough.
            answers.extend(islice(call, MESSAGES_READ))
            call.cancel()
        except grpc.RpcError as failed:
            error = failed
        code = error.code() if error else grpc.StatusCode.OK
        self.codes[code.name] += 1
        hangs = error and error.details() == "Deadline Exceeded"
        if code in OWN_FAILURES or hangs or self.server.process.poll() is not None:
            shown = b" | ".join(bodies)
            details = error.details() if error else "the server is gone"
            self.failures.append(f"{method} {code.name}: {details}\n  {headers} {shown[:600]!r}")
        return Outcome(error, answers)

    def check(self):
        """Fails if a case did, or if the server is not as it was before."""
        server = self.server
        assert server.process.poll() is None, f"the server died; log:\n{server.log()}"
        assert not self.failures, f"{len(self.failures)} of {self.codes}:\n" + "\n".join(self.failures[:20])
        with Client(server.address, timeout=HANG_SECONDS) as client:
            assert client.rows("SELECT 1 AS one") == [{"one": 1}]
        assert peak_memory_mib(server) < MEMORY_MIB_MAX, f"log:\n{server.log()}"


def peak_memory_mib(server):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10


@pytest.fixture(scope="module")
def running():
    """The server that runs, with the folder it is in; one that a burst harmed is replaced by another."""
    running = {}
    yield running
    if server := running.get("server"):
        server.__exit__()


@pytest.fixture
def server(running, tmp_path_factory):
    if "server" not in running:
        folder = tmp_path_factory.mktemp("hostile")
        # Any server with the key opens what the one before it sealed.
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MALLARD_KEY", "5a" * 32)
            server = running["server"] = Server(write_definition(folder / "definition"), folder / "data").__enter__()
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        server.ingest("readings", readings(*({"id": n, "sensor": f"s{n % 3}", "value": float(n)} for n in range(100))))
    return running["server"]


@pytest.fixture
def hostile(running, server):
    hostile = Hostile(server)
    yield hostile
    hostile.channel.close()
    harmed = running.pop("server")
    try:
        hostile.check()
    except BaseException:
        harmed.kill()
        raise
    running["server"] = harmed


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture(params=SEEDS)
def rng(request):
    return random.Random(request.param)


@pytest.fixture
def honest(client):
    """Messages that the server knows, by kind."""
    info = client.get_flight_info(query("SELECT * FROM silver.readings"))
    poll = client.poll_flight_info(query("SELECT id FROM silver.readings"))
    prepared = client.prepare("SELECT * FROM silver.readings WHERE id = ?").prepared_statement_handle
    writes = client.prepare("INSERT INTO silver.logs (line, text) VALUES (?, ?)").prepared_statement_handle
    options = [m.SessionOption(key="timeout", value=m.SessionOptionValue(string_value="10s"))]
    ingest = m.CommandStatementIngest(
        table="logs", table_definition_options=m.TableDefinitionOptions(if_not_exist=2, if_exists=2)
    )
    return {
        "tickets": [endpoint.ticket.ticket for endpoint in [*info.endpoint, *poll.info.endpoint]],
        "info": info,
        "commands": [
            m.CommandStatementQuery(query="SELECT id FROM silver.readings"),
            m.CommandStatementUpdate(query="DELETE FROM silver.readings WHERE id = 0"),
            m.CommandPreparedStatementQuery(prepared_statement_handle=prepared),
            m.CommandPreparedStatementUpdate(prepared_statement_handle=writes),
            m.CommandGetTables(table_name_filter_pattern="%", table_types=["TABLE"], include_schema=True),
            m.CommandGetDbSchemas(db_schema_filter_pattern="s%"),
            m.CommandGetSqlInfo(info=[0, 1, 500]),
            m.CommandGetXdbcTypeInfo(data_type=4),
            m.CommandGetPrimaryKeys(table="readings"),
            m.CommandGetImportedKeys(table="readings"),
            m.CommandGetCrossReference(pk_table="readings", fk_table="logs"),
            ingest,
        ],
        "actions": [
            m.ActionCreatePreparedStatementRequest(query="SELECT ?"),
            m.ActionClosePreparedStatementRequest(prepared_statement_handle=prepared),
            m.ActionCancelQueryRequest(info=info.SerializeToString()),
            m.CancelFlightInfoRequest(info=info),
            m.RenewFlightEndpointRequest(endpoint=info.endpoint[0]),
            m.SetSessionOptionsRequest(session_options=options),
        ],
        "prepared": prepared,
        "writes": writes,
        "ingest": ingest,
    }


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number, value):
    """A field of bytes, as protobuf has it."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(name, value):
    """A message of Flight SQL of that name, inside an Any."""
    return field(1, TYPE_URL + name.encode()) + field(2, value)


def test_a_ticket_with_any_byte_changed_is_refused(hostile, honest):
    value = Any.FromString(honest["tickets"][0]).value
    # The handle is the only field of its message, behind a tag and a length of one byte or two.
    begin = 2 if value[1] < 0x80 else 3
    for at in range(begin, len(value)):
        changed = value[:at] + bytes([value[at] ^ 0x41]) + value[at + 1 :]
        request = m.Ticket(ticket=packed("TicketStatementQuery", changed))
        error = hostile.send("DoGet", request.SerializeToString()).error
        assert error and error.code() is grpc.StatusCode.INVALID_ARGUMENT, f"byte {at} of {len(value)}: {error}"


def test_damaged_and_invented_tickets(hostile, honest, rng):
    known = [*honest["tickets"], *map(pack, honest["commands"])]
    for _ in range(CASES):
        ticket = rng.choice([mutated(rng, rng.choice(known), known), rng.randbytes(rng.randrange(200))])
        hostile.send("DoGet", m.Ticket(ticket=ticket).SerializeToString())


def invented_command(rng):
    """A command of a known or an unknown type, with a body that may fit."""
    name = rng.choice([*COMMANDS, "CommandNobodyKnows", "", "\N{DUCK}" * 50])
    return packed(name, rng.choice([b"", rng.randbytes(rng.randrange(64)), field(1, b"abc"), CUT_OFF]))


def test_damaged_and_invented_descriptors(hostile, honest, rng):
    known = list(map(pack, honest["commands"]))
    parts = ["", "silver", "gold", "system", "readings", "readings@v0", "..", "a\0b", '"; --', "\N{DUCK}" * 300]
    for _ in range(CASES):
        match rng.randrange(4):
            case 0:
                descriptor = m.FlightDescriptor(type=1, path=rng.choices(parts, k=rng.randrange(5)))
            case 1:
                damaged = mutated(rng, rng.choice(known), known)
                descriptor = m.FlightDescriptor(type=rng.choice([0, 2, 3, -1]), cmd=damaged)
            case 2:
                descriptor = m.FlightDescriptor(type=2, cmd=invented_command(rng), path=rng.choices(parts, k=2))
            case 3:
                descriptor = m.FlightDescriptor(type=2, cmd=rng.randbytes(rng.randrange(300)))
        for method in ("GetFlightInfo", "GetSchema", "PollFlightInfo"):
            hostile.send(method, descriptor.SerializeToString())


@pytest.mark.parametrize("kind", ACTIONS)
def test_an_action_whose_body_is_damaged(hostile, kind):
    own = f"Action{kind}Request"
    for body in (b"", b"\xff" * 8, packed(own, b""), packed(own, CUT_OFF), packed("CommandGetTables", b"")):
        hostile.send("DoAction", m.Action(type=kind, body=body).SerializeToString())


def test_damaged_and_invented_actions(hostile, honest, rng):
    known = list(map(pack, [*honest["actions"], *honest["commands"]]))
    for _ in range(CASES):
        kind = rng.choice([*ACTIONS, *ACTIONS, "", "NobodyKnows", "\N{DUCK}"])
        body = rng.choice([mutated(rng, rng.choice(known), known), invented_command(rng), rng.choice(known)])
        hostile.send("DoAction", m.Action(type=kind, body=body).SerializeToString())


def test_damaged_handles(hostile, honest, client, rng):
    poll = client.poll_flight_info(query("SELECT count(*) FROM generate_series(1, 100000000)")).flight_descriptor.cmd
    handles = [honest["prepared"], honest["writes"], poll, *honest["tickets"]]
    rows = next(flight_data(pa.table({"$1": [1]}), None)).SerializeToString()
    for _ in range(CASES):
        handle = mutated(rng, rng.choice(handles), handles)
        prepared = command(m.CommandPreparedStatementQuery(prepared_statement_handle=handle))
        hostile.send("GetFlightInfo", prepared.SerializeToString())
        hostile.send("PollFlightInfo", m.FlightDescriptor(type=2, cmd=handle).SerializeToString())
        put = rng.choice([m.CommandPreparedStatementQuery, m.CommandPreparedStatementUpdate])
        first = m.FlightData(flight_descriptor=command(put(prepared_statement_handle=handle)))
        hostile.send("DoPut", first.SerializeToString(), rows, unary=False)
        close = m.ActionClosePreparedStatementRequest(prepared_statement_handle=handle)
        hostile.send("DoAction", m.Action(type="ClosePreparedStatement", body=pack(close)).SerializeToString())


def test_headers_and_cookies(hostile, rng):
    names = [
        "mallard-as-of", "mallard-catalog", "mallard-compression", "mallard-ingest-id", "mallard-max-endpoints",
        "mallard-memory-limit", "mallard-schema", "mallard-timeout", "mallard-nobody-knows", "authorization", "cookie",
        "user-agent", "x-bytes-bin",
    ]  # fmt: skip
    values = [
        "", " ", "0", "-1", "1e400", "NaN", "99999999999999999999", "lz4", "silver", "1000h", "0.0000001ms", "9e18GiB",
        "9999-12-31T23:59:59.999999999999Z", "-9999-01-01", "+262143-12-31", "mallard_session=", "mallard_session=;;=;",
        'mallard_session="AAAA"; mallard_session=%ff', "Bearer mallard.", "Bearer mallard.AAAA", "Bearer x",
        "Basic Og==", "a/b", "x" * 5000,
    ]  # fmt: skip
    bodies = [("GetFlightInfo", query("SELECT 1")), ("DoAction", m.Action(type="GetSessionOptions"))]
    for _ in range(CASES):
        headers = []
        for name in rng.sample(names, rng.randint(1, 4)):
            text = rng.choice([rng.choice(values), "".join(map(chr, rng.choices(range(32, 127), k=30)))])
            headers.append((name, text.encode() if name.endswith("-bin") else text))
        method, body = rng.choice(bodies)
        hostile.send(method, body.SerializeToString(), headers=headers)


def test_handshakes_and_the_calls_that_are_rarely_made(hostile, rng):
    for _ in range(CASES // 3):
        payloads = [
            m.HandshakeRequest(protocol_version=rng.choice(INTEGERS), payload=rng.randbytes(rng.randrange(1000)))
            for _ in range(rng.randrange(4))
        ]
        hostile.send("Handshake", *(payload.SerializeToString() for payload in payloads), unary=False)
        hostile.send("ListFlights", field(1, rng.randbytes(40)))
        hostile.send("ListActions", b"\x0a\x01x")
        hostile.send("DoExchange", *(rng.randbytes(0) for _ in range(rng.randrange(3))), unary=False)


def test_bytes_that_are_no_message_at_all(hostile, rng):
    methods = ["GetFlightInfo", "GetSchema", "PollFlightInfo", "DoGet", "DoAction", "ListFlights"]
    for _ in range(CASES):
        error = hostile.send(rng.choice(methods), b"\x0a\xff" + rng.randbytes(rng.randrange(100))).error
        # That a message can't be decoded is INTERNAL by gRPC's own rules, said by the library ahead of the service.
        assert error and error.code() is not grpc.StatusCode.UNKNOWN
    hostile.failures.clear()


def test_connections_that_speak_no_http(hostile, rng):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for _ in range(CASES // 3):
        with socket.create_connection((hostile.server.host, hostile.server.port), timeout=HANG_SECONDS) as connection:
            start = rng.choice([b"", b"GET / HTTP/1.1\r\n\r\n", preface, preface + bytes(9), preface[:10]])
            connection.sendall(start + rng.randbytes(rng.randrange(500)))


# The values of the types that a schema can have; the server declares none of them for these columns.
ODD_COLUMNS = [
    pa.array([None, None]),
    pa.array([1, 2], pa.uint8()),
    pa.array([1.5, None], pa.float16()),
    pa.array([1, 2], pa.duration("ns")),
    pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    pa.array([1, 2], pa.time64("ns")),
    pa.array([b"ab", None], pa.binary(2)),
    pa.array(["a", "b"], pa.string_view()),
    pa.array([[1], [2, 3]], pa.list_view(pa.int32())),
    pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
    pa.array([[], []], pa.list_(pa.null())),
    pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
    pa.array(["a", "a"]).dictionary_encode(),
    pa.array([["a"], ["b", None]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"])),
    pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), pa.array([0, 1], pa.int32()), [pa.array([1, 2])]),
    pa.StructArray.from_arrays([pa.array([1, 2])], ["a"]),
    pa.array([1, 2], pa.timestamp("s", tz="Mars/Olympus")),
    pa.array([2**62, -(2**62)], pa.timestamp("s", tz="UTC")),
    pa.array([2**31 - 1, -(2**31)], pa.date32()),
    pa.array([1, None], pa.decimal256(76, 38)),
]


def encoded(rows, compression=None):
    """The messages of a DoPut without descriptor, as pairs of header and body."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(rows)
    messages = pa.ipc.MessageReader.open_stream(sink.getvalue())
    return [(it.metadata.to_pybytes(), it.body.to_pybytes() if it.body else b"") for it in messages]


def put(hostile, first, pairs):
    messages = [m.FlightData(data_header=header, data_body=body) for header, body in pairs]
    if messages:
        messages[0].flight_descriptor.CopyFrom(command(first))
    else:
        messages = [m.FlightData(flight_descriptor=command(first))]
    return hostile.send("DoPut", *(message.SerializeToString() for message in messages), unary=False)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_damaged_batches(hostile, honest, rng, compression):
    rows = pa.table({"line": range(1000), "text": [f"line {n}" for n in range(1000)]})
    whole = encoded(rows, compression)
    targets = [honest["ingest"], m.CommandPreparedStatementUpdate(prepared_statement_handle=honest["writes"]),
               m.CommandPreparedStatementQuery(prepared_statement_handle=honest["prepared"])]
    for _ in range(CASES):
        pairs = list(whole)
        at = rng.randrange(len(pairs))
        header, body = pairs[at]
        if rng.random() < 0.7:
            header = mutated(rng, header, [header for header, _ in whole])
        else:
            body = mutated(rng, body)
        pairs[at] = (header, body)
        match rng.randrange(6):
            case 0:
                del pairs[rng.randrange(len(pairs))]
            case 1:
                pairs.insert(rng.randrange(len(pairs)), rng.choice(pairs))
        put(hostile, rng.choice(targets), pairs)


def test_a_compressed_buffer_that_claims_to_be_huge_is_refused(hostile, honest):
    (schema, none), (header, body) = encoded(pa.table({"line": pa.array([7] * 10_000)}), "lz4")
    for length in (2**33, 2**40, 2**62, 2**63 - 1, -2, -(2**63), 2**31):
        forged = length.to_bytes(8, "little", signed=True) + body[8:]
        error = put(hostile, honest["ingest"], [(schema, none), (header, forged)]).error
        assert error and error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED), length


def test_schemas_of_odd_types(hostile, honest):
    for column in ODD_COLUMNS:
        for names in (["line"], ["text"], ["other"], ["line", "LINE"], ["_row"], [""], ["\N{DUCK}\0"]):
            put(hostile, honest["ingest"], encoded(pa.Table.from_arrays([column] * len(names), names)))
        bind = m.CommandPreparedStatementQuery(prepared_statement_handle=honest["prepared"])
        put(hostile, bind, encoded(pa.Table.from_arrays([column], ["$1"])))


def test_damaged_schemas_of_odd_types(hostile, honest, rng):
    for _ in range(CASES):
        pairs = encoded(pa.Table.from_arrays([rng.choice(ODD_COLUMNS)], ["line"]))
        at = rng.randrange(len(pairs))
        pairs[at] = (mutated(rng, pairs[at][0], [header for header, _ in pairs]), pairs[at][1])
        put(hostile, honest["ingest"], pairs)


def test_schemas_that_are_very_deep(hostile, honest):
    deep = pa.int64()
    for _ in range(60):
        deep = pa.struct([("a", deep)])
    put(hostile, honest["ingest"], encoded(pa.schema([("line", deep)]).empty_table()))
    deep = pa.int64()
    for _ in range(60):
        deep = pa.list_(deep)
    put(hostile, honest["ingest"], encoded(pa.schema([("line", deep)]).empty_table()))


def test_dictionaries_that_are_missing_doubled_or_out_of_range(hostile, honest):
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    schema, dictionary, batch = encoded(pa.table({"text": words}))
    for pairs in (
        [schema, batch],
        [dictionary, schema, batch],
        [schema, dictionary, dictionary, batch],
        [schema, dictionary],
        [dictionary],
        [schema, batch, dictionary],
        [schema, dictionary, (batch[0], b"\xff" * len(batch[1]))],
        [schema, (dictionary[0], b""), batch],
    ):
        put(hostile, honest["ingest"], pairs)


def test_what_was_let_in_does_not_hold_up_the_table(server):
    server.ingest("logs", logs("honest"))
    wait_for(
        lambda: server.rows("SELECT 1 FROM system.tables WHERE table_name = 'logs' AND last_error IS NULL"),
        "a merge without an error",
    )


def test_very_many_columns_are_merged_or_refused(fresh_server):
    server = fresh_server()
    wide = pa.table({f"column {n}": pa.array([n]) for n in range(5000)})
    with suppress(adbc_driver_manager.ProgrammingError, adbc_driver_manager.OperationalError):
        server.ingest("logs", wide)
    server.ingest("logs", logs("honest"))
    assert peak_memory_mib(server) < MEMORY_MIB_MAX


WORDS = """SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET JOIN LEFT FULL CROSS LATERAL ON USING UNION ALL EXCEPT
INTERSECT WITH RECURSIVE AS OF FOR VERSION TIMESTAMP VALUES INSERT INTO UPDATE SET DELETE CASE WHEN THEN ELSE END CAST
NULL NOT AND OR IN EXISTS BETWEEN LIKE SIMILAR TO IS DISTINCT OVER PARTITION ROWS RANGE PRECEDING CURRENT ROW FILTER
EXPLAIN ANALYZE VERBOSE DESCRIBE SHOW TABLES COPY CREATE TABLE VIEW EXTERNAL DROP ALTER PREPARE EXECUTE MERGE TRUNCATE
INTERVAL DATE ARRAY STRUCT MAP UNNEST EXTRACT GROUPING SETS ROLLUP CUBE QUALIFY WINDOW PIVOT TABLESAMPLE FETCH
silver.readings silver.logs gold.totals system.queries information_schema.columns readings id value sensor at t x
count( sum( avg( row_number() coalesce( generate_series( make_array( unnest( date_trunc( arrow_cast( regexp_replace(
( ) ( ) [ ] { } , , , . ; * + - / % || = < > <> >= :: -> ->> @> ~ !~ ? ?1 $1 $2 $x : @ # ^ & | ! \\ ' " ` -- /* */ $$
0 1 -1 2 1.5 1e400 9223372036854775808 0x 'x' '' 'a''b' "id" N'x' E'\\n' X'0g' U&'\\+10FFFF' true NULL ä 漢 \N{DUCK}
\x00 \x01 \N{NO-BREAK SPACE} \N{ZERO WIDTH SPACE} \N{RIGHT-TO-LEFT OVERRIDE} \ufeff\n\t""".split(" ")
STATEMENTS = [
    "SELECT id, value FROM silver.readings WHERE sensor = 's1' ORDER BY id LIMIT 3",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t",
    "SELECT count(*) FILTER (WHERE true) OVER (PARTITION BY sensor ORDER BY at ROWS CURRENT ROW) FROM silver.readings",
    "SELECT a.id FROM silver.readings FOR VERSION AS OF 1 a JOIN silver.logs b ON a.id = b.line WHERE b.text LIKE '%x'",
    "UPDATE silver.readings SET value = value + 1 WHERE id IN (1, 2)",
    "INSERT INTO silver.logs SELECT id, sensor FROM silver.readings WHERE id < 0",
    "SELECT CASE WHEN id > 1 THEN make_array(id)[1] ELSE cast('1' AS int) END FROM silver.readings ORDER BY at::date",
    "EXPLAIN ANALYZE SELECT DISTINCT ON (sensor) * FROM silver.readings GROUP BY GROUPING SETS ((id), ()) HAVING true",
]


def send_sql(hostile, sql):
    """Plans a statement, and runs it if it could be planned."""
    descriptor = command(m.CommandStatementQuery(query=sql))
    prepare = m.ActionCreatePreparedStatementRequest(query=sql)
    hostile.send("DoAction", m.Action(type="CreatePreparedStatement", body=pack(prepare)).SerializeToString())
    for answer in hostile.send("GetFlightInfo", descriptor.SerializeToString()).answers:
        for endpoint in m.FlightInfo.FromString(answer).endpoint:
            hostile.send("DoGet", endpoint.ticket.SerializeToString())


def test_words_of_sql_in_any_order(hostile, rng):
    for _ in range(CASES):
        sql = rng.choice([" ", "", "\n"]).join(rng.choices(WORDS, k=rng.randint(1, 25)))
        send_sql(hostile, rng.choice(["", "SELECT "]) + sql)


def test_statements_with_words_changed(hostile, rng):
    for _ in range(CASES):
        words = rng.choice(STATEMENTS).split(" ")
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(words))
            match rng.randrange(4):
                case 0:
                    words[at] = rng.choice(WORDS)
                case 1:
                    words.insert(at, rng.choice(WORDS))
                case 2 if len(words) > 1:
                    del words[at]
                case 3:
                    words[at:at] = rng.choice(STATEMENTS).split(" ")[: rng.randint(1, 8)]
        send_sql(hostile, " ".join(words))


def nested(before, after, depth, core="1"):
    return before * depth + core + after * depth


# Each is too long, too deep or too much in its own way.
BOMBS = {
    "parentheses": "SELECT " + nested("(", ")", 100_000),
    "subqueries": nested("SELECT * FROM (", ") t", 20_000, "SELECT 1"),
    "scalar subqueries": "SELECT " + nested("(SELECT ", ")", 5_000),
    "negations": "SELECT " + "- " * 100_000 + "1",
    "nots": "SELECT " + "NOT " * 100_000 + "true",
    "sums": "SELECT 1" + " + 1" * 15_000,
    "concatenations": "SELECT 'a'" + " || 'a'" * 15_000,
    "ors": "SELECT * FROM silver.readings WHERE " + " OR ".join(f"id = {n}" for n in range(5_000)),
    "list": f"SELECT * FROM silver.readings WHERE id IN ({', '.join(map(str, range(100_000)))})",
    "cases": "SELECT " + nested("CASE WHEN true THEN ", " END", 5_000),
    "casts": "SELECT 1" + "::BIGINT" * 15_000,
    "subscripts": "SELECT make_array(1)" + "[1]" * 15_000,
    "arrays": "SELECT " + nested("[", "]", 20_000),
    "structs": "SELECT " + nested("{'a': ", "}", 5_000),
    "functions": "SELECT " + nested("abs(", ")", 20_000),
    "unions": "SELECT 1" + " UNION SELECT 1" * 7_000,
    "values": "VALUES " + ", ".join(["(1)"] * 15_000),
    "columns": "SELECT " + ", ".join(["1"] * 100_000),
    "joins": "SELECT 1 FROM silver.logs" + "".join(f" JOIN silver.logs a{n} USING (line)" for n in range(1, 2_000)),
    "commas": "SELECT count(*) FROM " + ", ".join(f"silver.readings a{n}" for n in range(100)),
    "with": f"WITH t0 AS (SELECT 1){''.join(f', t{n + 1} AS (FROM t{n}, t{n} b)' for n in range(25))} TABLE t25",
    "comments": "/*" * 300_000,
    "closed comments": "SELECT " + nested("/*", "*/", 100_000, "") + "1",
    "line comments": "-- x\n" * 200_000 + "SELECT 1",
    "semicolons": ";" * 500_000,
    "question marks": "SELECT " + ", ".join("?" * 60_000),
    "parameter number": "SELECT $18446744073709551616",
    "text": "SELECT '" + "x" * 1_000_000 + "'",
    "too much text": "SELECT '" + "x" * 3_000_000 + "'",
    "open text": "SELECT '" + "''" * 300_000,
    "identifier": 'SELECT "' + "x" * 500_000 + '"',
    "digits": "SELECT " + "9" * 500_000,
    "fraction": "SELECT 0." + "0" * 500_000 + "1",
    "exponent": "SELECT 1e999999999999",
    "dots": "SELECT " + "a." * 50_000 + "a",
    "types": "SELECT arrow_cast(1, '" + "List(" * 20_000 + "Int8" + ")" * 20_000 + "')",
    "array types": "SELECT NULL::INT" + "[]" * 20_000,
    "regex": "SELECT regexp_like('a', '" + nested("(", ")", 10_000, "a") + "')",
    "regex repetition": "SELECT regexp_like(repeat('a', 30), '(a{1,1000}){1,1000}$')",
    "windows": f"SELECT {', '.join(f'sum(line) OVER (ROWS {n} PRECEDING)' for n in range(500))} FROM silver.logs",
    "grouping sets": f"SELECT count(*) FROM silver.readings GROUP BY CUBE ({', '.join(['id'] * 40)})",
    "cube": f"SELECT count(*) FROM silver.readings GROUP BY CUBE ({', '.join(f'id + {n}' for n in range(14))})",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_statements_that_are_too_much(hostile, bomb):
    send_sql(hostile, bomb)


# Small statements whose result, or a single value of it, would fill any memory.
LARGE = [
    "SELECT repeat('x', 2000000000)",
    "SELECT repeat(repeat('x', 1000000), 1000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT rpad('x', 2147483647, 'y')",
    "SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 100000), 'g')",
    "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 100000))",
    "SELECT encode(repeat('a', 500000000)::BYTEA, 'hex')",
    "SELECT concat(repeat('x', 500000000), repeat('x', 500000000), repeat('x', 500000000), repeat('x', 500000000))",
    "SELECT array_to_string(array_repeat(repeat('x', 1000000), 1000), ',')",
    "SELECT unnest(range(0, 1000000000))",
    "SELECT range(0, 100000000000)",
    "SELECT generate_series(0, 9223372036854775807)",
    "SELECT array_repeat(1, 10000000000)",
    "SELECT array_repeat(array_repeat('x', 100000), 100000)",
    "SELECT array_resize([1], 10000000000, 0)",
    "SELECT array_agg(value) FROM generate_series(1, 1000000000)",
    "SELECT string_agg(repeat('x', 1000), '') FROM generate_series(1, 100000000)",
    "SELECT * FROM generate_series(1, 100000000) a, generate_series(1, 100000000) b ORDER BY 1 DESC, 2",
    "SELECT a.value, count(*) FROM generate_series(1, 100000000) a GROUP BY a.value",
    "SELECT DISTINCT repeat('x', 100) || value FROM generate_series(1, 100000000)",
    "SELECT count(*) FROM generate_series(1, 100000000) a JOIN generate_series(1, 100000000) b USING (value)",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n FROM t, (SELECT 1 UNION ALL SELECT 2)) TABLE t",
    "SELECT count(*) OVER (ORDER BY value) FROM generate_series(1, 100000000)",
    "SELECT translate(repeat('a', 100000000), 'a', 'b')",
    "SELECT factorial(9223372036854775807)",
    "SELECT * FROM generate_series(DATE '0001-01-01', DATE '9999-12-31', INTERVAL '1 microsecond')",
]


@pytest.mark.parametrize("sql", LARGE)
def test_results_that_would_be_too_large(hostile, sql):
    send_sql(hostile, sql)


def test_damaged_substrait_plans(hostile, rng):
    for _ in range(CASES):
        plan = rng.choice([rng.randbytes(rng.randrange(100)), mutated(rng, bytes.fromhex("1a0a0a080a060a020a001200"))])
        substrait = m.SubstraitPlan(plan=plan, version="0.1")
        descriptor = command(m.CommandStatementSubstraitPlan(plan=substrait))
        hostile.send("GetFlightInfo", descriptor.SerializeToString())
        request = m.ActionCreatePreparedSubstraitPlanRequest(plan=substrait)
        hostile.send("DoAction", m.Action(type="CreatePreparedSubstraitPlan", body=pack(request)).SerializeToString())
