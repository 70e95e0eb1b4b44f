"""The messages of Flight and Flight SQL, and a gRPC client for the calls that pyarrow.flight has no method for.

pyarrow ships no protobuf classes, so the few messages that the tests need are listed here and built at run time. They
are those of arrow's Flight.proto and FlightSql.proto, and of gRPC's reflection.proto, with two liberties that the wire
does not show: enumerations are numbers, and maps are lists of entries.
"""

from contextlib import contextmanager
from copy import copy
from types import SimpleNamespace

import grpc
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.any_pb2 import Any

from errors import CURES

FLIGHT = "arrow.flight.protocol"
SQL = "arrow.flight.protocol.sql"
REFLECTION = "grpc.reflection.v1"
SERVICE = f"{FLIGHT}.FlightService"
TIMEOUT_SECONDS = 60

# What a cancel answers.
CANCELLED, CANCELLING, NOT_CANCELLABLE = 1, 2, 3

# Nobody waits for the end of this query.
SLOW = "SELECT count(*) AS n FROM generate_series(1, 99) JOIN generate_series(1, 90000000000) b(x) ON value * x % 7 = 8"

# A line a message: its fields, numbered from 1 on, or from the number behind "=" on. "*" is repeated.
PROTOCOL = {
    FLIGHT: """
        Empty
        HandshakeRequest: uint64 protocol_version, bytes payload
        HandshakeResponse: uint64 protocol_version, bytes payload
        FlightDescriptor: int32 type, bytes cmd, string* path
        Ticket: bytes ticket
        Location: string uri
        FlightEndpoint: Ticket ticket, Location* location, google.protobuf.Timestamp expiration_time, bytes app_metadata
        FlightInfo: bytes schema, FlightDescriptor flight_descriptor, FlightEndpoint* endpoint, int64 total_records, \
int64 total_bytes, bool ordered, bytes app_metadata
        PollInfo: FlightInfo info, FlightDescriptor flight_descriptor, double progress, \
google.protobuf.Timestamp expiration_time
        SchemaResult: bytes schema
        FlightData: FlightDescriptor flight_descriptor, bytes data_header, bytes app_metadata, bytes data_body=1000
        PutResult: bytes app_metadata
        Action: string type, bytes body
        Result: bytes body
        CancelFlightInfoRequest: FlightInfo info
        CancelFlightInfoResult: int32 status
        RenewFlightEndpointRequest: FlightEndpoint endpoint
        StringListValue: string* values
        SessionOptionValue: string string_value, bool bool_value, sfixed64 int64_value, double double_value, \
StringListValue string_list_value
        SessionOption: string key, SessionOptionValue value
        SetSessionOptionsRequest: SessionOption* session_options
        GetSessionOptionsResult: SessionOption* session_options
        SessionError: int32 value
        SessionErrorEntry: string key, SessionError value
        SetSessionOptionsResult: SessionErrorEntry* errors
        CloseSessionResult: int32 status
    """,
    SQL: """
        CommandGetSqlInfo: uint32* info
        CommandGetXdbcTypeInfo: int32 data_type
        CommandGetCatalogs
        CommandGetDbSchemas: string catalog, string db_schema_filter_pattern
        CommandGetTables: string catalog, string db_schema_filter_pattern, string table_name_filter_pattern, \
string* table_types, bool include_schema
        CommandGetTableTypes
        CommandGetPrimaryKeys: string catalog, string db_schema, string table
        CommandGetExportedKeys: string catalog, string db_schema, string table
        CommandGetImportedKeys: string catalog, string db_schema, string table
        CommandGetCrossReference: string pk_catalog, string pk_db_schema, string pk_table, string fk_catalog, \
string fk_db_schema, string fk_table
        SubstraitPlan: bytes plan, string version
        CommandStatementQuery: string query, bytes transaction_id
        CommandStatementSubstraitPlan: SubstraitPlan plan, bytes transaction_id
        CommandStatementUpdate: string query, bytes transaction_id
        CommandPreparedStatementQuery: bytes prepared_statement_handle
        CommandPreparedStatementUpdate: bytes prepared_statement_handle
        TableDefinitionOptions: int32 if_not_exist, int32 if_exists
        IngestOption: string key, string value
        CommandStatementIngest: TableDefinitionOptions table_definition_options, string table, string schema, \
string catalog, bool temporary, bytes transaction_id, IngestOption* options=1000
        DoPutUpdateResult: int64 record_count
        DoPutPreparedStatementResult: bytes prepared_statement_handle
        ActionCreatePreparedStatementRequest: string query, bytes transaction_id
        ActionCreatePreparedSubstraitPlanRequest: SubstraitPlan plan, bytes transaction_id
        ActionCreatePreparedStatementResult: bytes prepared_statement_handle, bytes dataset_schema, \
bytes parameter_schema, bool is_update
        ActionClosePreparedStatementRequest: bytes prepared_statement_handle
        ActionBeginTransactionRequest
        ActionEndTransactionRequest: bytes transaction_id, int32 action
        ActionBeginSavepointRequest: bytes transaction_id, string name
        ActionEndSavepointRequest: bytes savepoint_id, int32 action
        ActionCancelQueryRequest: bytes info
        ActionCancelQueryResult: int32 result
    """,
    REFLECTION: """
        ServerReflectionRequest: string file_by_filename=3, string file_containing_symbol, string list_services=7
        FileDescriptorResponse: bytes* file_descriptor_proto
        ServiceResponse: string name
        ListServiceResponse: ServiceResponse* service
        ServerReflectionResponse: FileDescriptorResponse file_descriptor_response=4, \
ListServiceResponse list_services_response=6
    """,
}

_SCALARS = {
    kind: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
    for kind in ("int32", "int64", "uint32", "uint64", "sfixed64", "double", "bool", "string", "bytes")
}


def _describe(file, line):
    """Adds the message that a line of PROTOCOL tells of; in proto2 all fields can be absent, as optional ones can."""
    name, _, fields = line.partition(":")
    message, number = file.message_type.add(name=name), 0
    for text in filter(None, fields.split(",")):
        kind, field = text.split()
        field, _, given = field.partition("=")
        number = int(given or number + 1)
        many, kind = kind.endswith("*"), kind.rstrip("*")
        added = message.field.add(name=field, number=number, label=3 if many else 1)
        if kind in _SCALARS:
            added.type = _SCALARS[kind]
        else:
            added.type_name = f".{kind}" if "." in kind else f".{file.package}.{kind}"


def _build():
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    classes = {}
    for package, lines in PROTOCOL.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
        file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
        for line in lines.strip().splitlines():
            _describe(file, line.strip())
        pool.Add(file)
        messages = pool.FindFileByName(file.name).message_types_by_name
        classes.update((name, message_factory.GetMessageClass(message)) for name, message in messages.items())
    return SimpleNamespace(**classes)


m = _build()


def pack(message):
    """A message as it travels: those of Flight SQL inside an Any, others as they are."""
    if message.DESCRIPTOR.file.package != SQL:
        return message.SerializeToString()
    packed = Any()
    packed.Pack(message)
    return packed.SerializeToString()


def unpack(body, kind):
    """The message of class `kind` that came in `body`."""
    if kind.DESCRIPTOR.file.package != SQL:
        return kind.FromString(body)
    packed, message = Any.FromString(body), kind()
    assert packed.Unpack(message), f"{packed.type_url} is no {kind.DESCRIPTOR.full_name}"
    return message


def command(message):
    return m.FlightDescriptor(type=2, cmd=pack(message))


def query(sql):
    return command(m.CommandStatementQuery(query=sql))


def schema(ipc):
    """A schema from the bytes that messages carry it in."""
    return pa.ipc.read_schema(pa.py_buffer(ipc))


def flight_data(rows, descriptor, batch_rows=None):
    """A table as the messages of a DoPut, the first of which has the descriptor."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, batch_rows)
    for message in pa.ipc.MessageReader.open_stream(sink.getvalue()):
        body = message.body.to_pybytes() if message.body else b""
        yield m.FlightData(flight_descriptor=descriptor, data_header=message.metadata.to_pybytes(), data_body=body)
        descriptor = None


def table(messages):
    """The rows of a DoGet."""
    sink = pa.BufferOutputStream()
    for message in messages:
        header = message.data_header + bytes(-len(message.data_header) % 8)
        sink.write(b"\xff\xff\xff\xff" + len(header).to_bytes(4, "little") + header + message.data_body)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


class Client:
    """Flight over plain gRPC. `headers` go with every call; use it in `with`."""

    def __init__(self, address, headers=(), timeout=TIMEOUT_SECONDS):
        self.headers, self.timeout = list(headers), timeout
        self.channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.channel.close()

    def sending(self, *headers):
        """A client on the same connection with these headers instead."""
        other = copy(self)
        other.headers = list(headers)
        return other

    def call(self, arity, method, request, answer):
        """Calls a method, such as a "unary_stream", and decodes its answers as messages of class `answer`."""
        method = getattr(self.channel, arity)(
            f"/{method}", request_serializer=lambda it: it.SerializeToString(), response_deserializer=answer.FromString
        )
        return method(request, metadata=self.headers, timeout=self.timeout)

    def handshake(self, basic):
        """The authorization that a login gives."""
        login, request = self.sending(("authorization", f"Basic {basic}")), iter([m.HandshakeRequest()])
        call = login.call("stream_stream", f"{SERVICE}/Handshake", request, m.HandshakeResponse)
        list(call)
        return dict(call.initial_metadata())["authorization"]

    def get_flight_info(self, descriptor):
        return self.call("unary_unary", f"{SERVICE}/GetFlightInfo", descriptor, m.FlightInfo)

    def poll_flight_info(self, descriptor):
        return self.call("unary_unary", f"{SERVICE}/PollFlightInfo", descriptor, m.PollInfo)

    def get_schema(self, descriptor):
        return schema(self.call("unary_unary", f"{SERVICE}/GetSchema", descriptor, m.SchemaResult).schema)

    def do_get(self, ticket):
        """The call, to iterate over or to cancel."""
        return self.call("unary_stream", f"{SERVICE}/DoGet", ticket, m.FlightData)

    def read(self, info):
        """The rows of all endpoints, in their order."""
        return pa.concat_tables(table(self.do_get(endpoint.ticket)) for endpoint in info.endpoint)

    def rows(self, sql):
        return self.read(self.get_flight_info(query(sql))).to_pylist()

    def do_put(self, messages):
        """The call, to iterate over: its answers, and then its error."""
        return self.call("stream_stream", f"{SERVICE}/DoPut", iter(messages), m.PutResult)

    def put(self, message, rows, answer=m.DoPutUpdateResult):
        """A DoPut that gives one answer."""
        (result,) = self.do_put(flight_data(rows, command(message)))
        return answer.FromString(result.app_metadata)

    def action(self, kind, request):
        """The call of an action, to iterate over."""
        action = m.Action(type=kind, body=pack(request))
        return self.call("unary_stream", f"{SERVICE}/DoAction", action, m.Result)

    def ask(self, kind, request, answer):
        """An action that gives one answer."""
        (result,) = self.action(kind, request)
        return unpack(result.body, answer)

    def prepare(self, sql):
        request = m.ActionCreatePreparedStatementRequest(query=sql)
        return self.ask("CreatePreparedStatement", request, m.ActionCreatePreparedStatementResult)

    def bind(self, handle, values):
        """The descriptor of a prepared query with values for its parameters."""
        message = m.CommandPreparedStatementQuery(prepared_statement_handle=handle)
        bound = self.put(message, values, m.DoPutPreparedStatementResult)
        return command(m.CommandPreparedStatementQuery(prepared_statement_handle=bound.prepared_statement_handle))

    def cancel(self, info):
        """Stops a query; whether that is done, under way or impossible."""
        request = m.CancelFlightInfoRequest(info=info)
        return self.ask("CancelFlightInfo", request, m.CancelFlightInfoResult).status


@contextmanager
def rpc_refused(code, *words, cure=True):
    """The block must fail with the gRPC code of that name, and a message with each of `words` and a cure."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = caught.value
    assert error.code() is grpc.StatusCode[code], f"{error.code()}: {error.details()}"
    for word in words:
        assert word in error.details(), f"{word!r} is not named in: {error.details()}"
    assert not cure or CURES.search(error.details()), f"no cure in: {error.details()}"
