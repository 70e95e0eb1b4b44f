"""What the Flight and gRPC protocols themselves promise, through plain clients without a driver."""

import grpc
import pyarrow.flight as flight
import pytest
from google.protobuf import any_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lab import readings
from mallard import wait_for

TYPE_URL = "type.googleapis.com/arrow.flight.protocol.sql."
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


@pytest.fixture(scope="module")
def client(lab):
    lab.ingest("readings", readings(*({"id": n, "sensor": f"s{n % 3}", "value": float(n)} for n in range(50))))
    wait_for(
        lambda: lab.rows("SELECT rows FROM system.models WHERE model_name = 'totals'") == [{"rows": 3}],
        "the refresh of totals",
    )
    with flight.connect(lab.uri.replace("grpc://", "grpc+tcp://")) as client:
        yield client


def message(name, text):
    """A Flight SQL command with one string field, of number 1, packed as the protocol wants it."""
    data = text.encode()
    length, size = b"", len(data)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    length += bytes([size])
    command = any_pb2.Any(type_url=TYPE_URL + name, value=b"\x0a" + length + data)
    return flight.FlightDescriptor.for_command(command.SerializeToString())


def statement(sql):
    return message("CommandStatementQuery", sql)


@pytest.mark.parametrize("sql", QUERIES)
def test_the_announced_schema_is_the_schema_of_the_stream(client, sql):
    info = client.get_flight_info(statement(sql))
    assert info.endpoints
    for endpoint in info.endpoints:
        reader = client.do_get(endpoint.ticket)
        assert reader.schema.equals(info.schema, check_metadata=True)
        assert reader.read_all().schema.equals(info.schema, check_metadata=True)


def test_a_ticket_can_be_redeemed_twice_with_the_same_result(client):
    info = client.get_flight_info(statement("SELECT id FROM silver.readings ORDER BY id"))
    first, second = (client.do_get(info.endpoints[0].ticket).read_all() for _ in range(2))
    assert first.num_rows == 50
    assert first.equals(second)


def test_a_ticket_reads_the_snapshot_it_was_made_for(client, lab):
    info = client.get_flight_info(statement("SELECT id FROM silver.readings WHERE id >= 1000"))
    lab.ingest("readings", readings({"id": 1000, "value": 1.0}))
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == 0
    assert lab.rows("SELECT id FROM silver.readings WHERE id >= 1000") == [{"id": 1000}]


@pytest.mark.parametrize(
    "ticket", [b"", b"not a ticket", b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x7f"], ids=["empty", "text", "ff", "length"]
)
def test_a_ticket_that_the_server_did_not_make_is_refused(client, ticket):
    with pytest.raises((flight.FlightError, NotImplementedError, ValueError)) as caught:
        client.do_get(flight.Ticket(ticket)).read_all()
    assert not isinstance(caught.value, (flight.FlightInternalError, flight.FlightUnavailableError)), caught.value


def test_an_unknown_command_is_refused_by_name(client):
    with pytest.raises((flight.FlightError, NotImplementedError, ValueError), match="CommandNobodyKnows"):
        client.get_flight_info(message("CommandNobodyKnows", "x"))


def test_the_health_service_says_serving(lab):
    with grpc.insecure_channel(lab.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_an_unknown_service_is_not_found(lab):
    with grpc.insecure_channel(lab.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
