"""Streams of numbered batches over plain Flight DoPut: durable in order, resumed behind what is, each row once."""

import json
import random
import signal
import sys
import threading
import time
from contextlib import suppress

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from lab import LOGS, READINGS, readings
from mallard import INGEST_ID_HEADER, REPO, wait_for
from messages import Client, flight_data, m, query, rpc_refused
from streams import PARTIAL_HEADER, READY, Put, refused_by

sys.path.insert(0, str(REPO / "examples" / "producer"))

from producer import Producer  # noqa: E402

CLIENT = "pyarrow, gRPC"
STREAMS = "streams of numbered batches (plain DoPut)"
# The table's key may not be NULL; a schema that lets it be is taken, its NULLs are not.
OPEN_READINGS = pa.schema([field.with_nullable(True) for field in READINGS])
SMALL_BATCHES = 2_000
LARGE_BYTES = 60_000_000
IDLE_SECONDS = 4
BAD_ROWS_TOLD_MAX = 1_000

pytestmark = pytest.mark.feature(STREAMS)


def batch(texts, first=0):
    """A batch of log lines, numbered from `first`."""
    return pa.record_batch([pa.array(range(first, first + len(texts)), pa.int64()), pa.array(texts)], schema=LOGS)


def lines(mark, offset, count=3):
    """The log lines of one numbered batch."""
    return batch([f"{mark}-{offset}-{row}" for row in range(count)], first=count * offset)


def texts(mark, offsets, count=3):
    return [f"{mark}-{offset}-{row}" for offset in offsets for row in range(count)]


def stored(server, mark):
    """The lines of a mark in silver, in the order of their numbers."""
    rows = server.rows(f"SELECT text FROM silver.logs WHERE text LIKE '{mark}-%' ORDER BY line, text")
    return [row["text"] for row in rows]


def merged(server, mark, want):
    """Waits until silver has as many lines of the mark as wanted; then it must have just these."""
    sql = f"SELECT count(*) AS n FROM silver.logs WHERE text LIKE '{mark}-%'"
    wait_for(lambda: server.rows(sql)[0]["n"] >= len(want), f"the merge of {len(want)} lines of {mark}")
    # A table is merged in order: what could double a row was before this one.
    server.ingest("logs", pa.table({"line": [0], "text": ["the last word"]}, schema=LOGS))
    assert stored(server, mark) == want


def readings_batch(*rows):
    """A batch of readings in which keys may be NULL; sequence 1 unless a row says otherwise."""
    return pa.Table.from_pylist([{"seq": 1, **row} for row in rows], schema=OPEN_READINGS)


@pytest.fixture(scope="module")
def raw(lab):
    with Client(lab.address) as raw:
        yield raw


def messages(rows, metadata, path=("logs",)):
    """The messages of a DoPut: the schema and one batch a slice, each with its metadata."""
    descriptor = m.FlightDescriptor(type=1, path=path)
    for message, own in zip(flight_data(rows, descriptor, batch_rows=1), metadata):
        if own is not None:
            message.app_metadata = own if isinstance(own, bytes) else json.dumps(own).encode()
        yield message


def test_batches_are_said_to_be_durable_while_the_stream_stays_open(lab):
    with Put(lab, ingest_id="open-stream") as put:
        assert put.answers == [{"offset": READY, "ingest_id": "open-stream", "rows": 0}]
        for offset in range(3):
            put.send(lines("open", offset), offset)
            answer = put.durable(offset)
            assert answer["offset"] == offset
            assert answer["rows"] == 3 * (offset + 1)
        merged(lab, "open", texts("open", range(3)))
        assert put.finish()["offset"] == 2
    row = lab.wait_merged("open-stream")
    assert (row["table_name"], row["rows"]) == ("logs", 9)


def test_a_stream_may_end_without_a_batch(lab):
    with Put(lab) as put:
        assert put.finish()["offset"] == READY


def test_a_stream_without_an_id_gets_one_of_its_own(lab):
    with Put(lab) as one, Put(lab) as other:
        assert one.ingest_id and other.ingest_id
        assert one.ingest_id != other.ingest_id


def test_the_id_comes_back_in_a_header(raw):
    call = raw.sending((INGEST_ID_HEADER, "in-a-header")).do_put(messages(LOGS.empty_table(), [None]))
    assert dict(call.initial_metadata())[INGEST_ID_HEADER] == "in-a-header"
    assert [json.loads(result.app_metadata)["ingest_id"] for result in call][0] == "in-a-header"


def test_id_and_partial_may_come_with_the_schema(lab, raw, own):
    rows = readings_batch({"id": own.id(0), "value": 1.0}, {"id": None, "value": 2.0})
    metadata = [{"ingest_id": "with-the-schema", "partial": True}, 0, 1]
    results = [json.loads(result.app_metadata) for result in raw.do_put(messages(rows, metadata, ["readings"]))]
    assert results[0] == {"offset": READY, "ingest_id": "with-the-schema", "rows": 0}
    assert results[-1]["offset"] == 1
    assert [bad["offset"] for result in results for bad in result.get("rejected", [])] == [1]
    assert lab.wait_merged("with-the-schema")["rows"] == 1


@pytest.mark.parametrize("path", [["logs"], ["silver", "logs"], ["lab", "silver", "logs"]], ids=".".join)
@pytest.mark.parametrize("form", [b"%d", b'{"offset": %d}', None], ids=["number", "object", "none"])
def test_the_table_and_the_offset_have_more_than_one_form(lab, path, form):
    mark = f"form{len(path)}{len(form or b'')}"
    with Put(lab, path=path) as put:
        for offset in range(3):
            put.send(lines(mark, offset), form and form % offset)
        assert put.durable(2)["rows"] == 9
    merged(lab, mark, texts(mark, range(3)))


def test_batches_without_a_number_are_counted_from_the_first(lab):
    with Put(lab) as put:
        put.send(lines("counted", 7), 7)
        put.send(lines("counted", 8))
        put.send(lines("counted", 9))
        put.send(lines("counted", 10), 10)
        assert put.durable(10)["offset"] == 10
    merged(lab, "counted", texts("counted", range(7, 11)))


@pytest.mark.parametrize("first, second", [(0, 2), (0, 0), (5, 4), (5, 0), (0, 2**63)])
def test_an_offset_out_of_order_is_refused_with_the_one_expected(lab, first, second):
    mark = f"order{first}{second}"
    with Put(lab) as put:
        put.send(lines(mark, first), first)
        put.durable(first)
        put.send(lines(mark, 99), second)
        refused_by(put.refusal(), pa.ArrowInvalid, second, first + 1)
        assert put.last() == first
        # What was refused was not taken, and the stream goes on under its id.
        with Put(lab, ingest_id=put.ingest_id) as again:
            again.send(lines(mark, first + 1), first + 1)
            again.durable(first + 1)
        merged(lab, mark, texts(mark, [first, first + 1]))
        put.lose()


def test_what_came_before_a_wrong_offset_is_kept_though_nobody_waited(lab):
    with Put(lab) as put:
        for offset in (0, 1, 2, 9):
            with suppress(pa.ArrowException, OSError):
                put.send(lines("before", offset), offset)
        refused_by(put.refusal(), pa.ArrowInvalid, 9, 3)
        assert put.last() == 2
        put.lose()
    merged(lab, "before", texts("before", range(3)))


def resend(lab, offsets, ends, make, **options):
    """Sends the batches of `offsets` in streams of one id; each gives way to the next at its end. The last id."""
    ingest_id = options.pop("ingest_id")
    for begin, end in zip(offsets, ends):
        put = Put(lab, ingest_id=ingest_id, **options)
        for offset in range(begin, end):
            put.send(make(offset), offset)
        assert put.durable(end - 1)["offset"] == end - 1
        put.lose()


# Where the streams of one id begin and end: without a gap, over what is durable, from the start, and again.
RESUMED = {
    "behind": ([0, 4], [4, 8]),
    "over": ([0, 2], [4, 8]),
    "all": ([0, 0], [4, 8]),
    "thrice": ([0, 0, 3], [6, 6, 8]),
}


@pytest.mark.parametrize("begins, ends", RESUMED.values(), ids=RESUMED.keys())
def test_a_resumed_stream_adds_each_row_once_to_an_append_only_table(lab, begins, ends):
    mark = f"resumed{sum(begins)}{sum(ends)}"
    resend(lab, begins, ends, lambda offset: lines(mark, offset), ingest_id=mark)
    merged(lab, mark, texts(mark, range(8)))


@pytest.mark.parametrize("begins, ends", RESUMED.values(), ids=RESUMED.keys())
def test_a_resumed_stream_adds_each_row_once_to_a_keyed_table(lab, own, begins, ends):
    def make(offset):
        rows = [{"id": own.id(2 * offset + n), "sensor": own.sensor, "value": float(offset)} for n in range(2)]
        return readings_batch(*rows)

    resend(lab, begins, ends, make, table="readings", schema=OPEN_READINGS, ingest_id=own.sensor)
    sql = f"SELECT id, value FROM silver.readings WHERE {own.where()} ORDER BY id"
    want = [{"id": own.id(n), "value": float(n // 2)} for n in range(16)]
    wait_for(lambda: lab.rows(sql) == want, "the merge of all rows")
    assert lab.wait_merged(own.sensor)["rows"] == 16


def test_batches_of_more_than_one_frame_are_not_doubled_either(lab):
    noise = random.Random(5)
    whole = [batch([f"frames-{n}-" + noise.randbytes(400).hex() for n in range(4_000)]) for _ in range(2)]
    resend(lab, [0, 0, 1], [2, 1, 2], whole.__getitem__, ingest_id="frames")
    sql = "SELECT count(*) AS n FROM silver.logs WHERE text LIKE 'frames-%'"
    wait_for(lambda: lab.rows(sql)[0]["n"] >= 8_000, "the merge")
    lab.ingest("logs", pa.table({"line": [0], "text": ["the last word"]}, schema=LOGS))
    assert lab.rows(sql) == [{"n": 8_000}]


@pytest.mark.feature("errors with their codes", "NULLs")
def test_a_bad_row_ends_the_stream_and_none_of_its_batch_is_taken(lab, own):
    with Put(lab, "readings", OPEN_READINGS) as put:
        put.send(readings_batch({"id": own.id(0)}), 0)
        with suppress(pa.ArrowException, OSError):
            put.send(readings_batch({"id": own.id(1)}, {"id": own.id(2)}, {"id": None}), 1)
            put.send(readings_batch({"id": own.id(3)}), 2)
        refused_by(put.refusal(), pa.ArrowInvalid, "row 3", "id")
        assert put.last() == 0
        put.lose()
    lab.ingest("readings", readings({"id": own.id(9)}))
    rows = lab.rows(f"SELECT id FROM silver.readings WHERE {own.where()} ORDER BY id")
    assert [row["id"] for row in rows] == [own.id(0), own.id(9)]


@pytest.mark.feature("NULLs")
def test_a_partial_stream_takes_the_good_rows_and_tells_of_the_bad(lab, own):
    with Put(lab, "readings", OPEN_READINGS, ingest_id=own.sensor, partial=True) as put:
        put.send(readings_batch({"id": own.id(0)}, {"id": None}, {"id": own.id(1)}, {"id": None}), 0)
        put.send(readings_batch({"id": own.id(2)}), 1)
        put.send(readings_batch({"id": None}), 2)
        put.send(readings_batch({"id": own.id(3)}), 3)
        assert put.durable(3)["rows"] == 4
        bad = [row for answer in put.answers for row in answer.get("rejected", [])]
        assert [(row["offset"], row["row"], row["column"]) for row in bad] == [(0, 2, "id"), (0, 4, "id"), (2, 1, "id")]
        assert all(row["reason"] for row in bad)
        assert sum(answer.get("rejected_rows", 0) for answer in put.answers) == 3
    assert lab.wait_merged(own.sensor)["rows"] == 4
    rows = lab.rows(f"SELECT id FROM silver.readings WHERE {own.where()} ORDER BY id")
    assert [row["id"] for row in rows] == [own.id(n) for n in range(4)]


def test_all_rows_that_are_left_out_are_told_and_what_can_not_be_told_is_not_left_out(lab, own):
    most = readings_batch(*[{"id": None}] * BAD_ROWS_TOLD_MAX, {"id": own.id(0)})
    more = readings_batch(*[{"id": None}] * (BAD_ROWS_TOLD_MAX + 1), {"id": own.id(1)})
    with Put(lab, "readings", OPEN_READINGS, partial=True) as put:
        put.send(most, 0)
        assert put.durable(0)["rows"] == 1
        bad = [row for answer in put.answers for row in answer.get("rejected", [])]
        assert [row["row"] for row in bad] == list(range(1, BAD_ROWS_TOLD_MAX + 1))
        assert sum(answer.get("rejected_rows", 0) for answer in put.answers) == BAD_ROWS_TOLD_MAX
        put.send(more, 1)
        refused_by(put.refusal(), pa.ArrowInvalid, BAD_ROWS_TOLD_MAX + 1, "and 991 more")
        assert put.last() == 0
        put.lose()


def test_a_partial_batch_that_is_sent_again_leaves_out_the_same_rows(lab, own):
    rows = readings_batch({"id": own.id(0)}, {"id": None}, {"id": own.id(1)})
    for _ in range(2):
        with Put(lab, "readings", OPEN_READINGS, ingest_id=own.sensor, partial=True) as put:
            put.send(rows, 0)
            put.durable(0)
            assert sum(answer.get("rejected_rows", 0) for answer in put.answers) == 1
    assert lab.wait_merged(own.sensor)["rows"] == 2


def test_very_many_small_batches_are_answered_with_the_highest_offset(lab):
    with Put(lab) as put:
        writer = threading.Thread(
            target=lambda: [put.send(lines("small", offset, 1), offset) for offset in range(SMALL_BATCHES)]
        )
        writer.start()
        assert put.durable(SMALL_BATCHES - 1)["rows"] == SMALL_BATCHES
        writer.join()
        offsets = [answer["offset"] for answer in put.answers]
        assert offsets == sorted(set(offsets)), "an offset was told twice, or fell"
    merged(lab, "small", texts("small", range(SMALL_BATCHES), 1))


def test_batches_without_rows_are_durable_too(lab):
    with Put(lab) as put:
        for offset in range(50):
            put.send(lines("empty", offset, 2 if offset % 10 == 0 else 0), offset)
        assert put.durable(49)["rows"] == 10
    merged(lab, "empty", [f"empty-{offset}-{row}" for offset in range(0, 50, 10) for row in range(2)])


def test_a_producer_that_reads_no_answer_until_the_end_gets_the_last(lab):
    with Put(lab) as put:
        for offset in range(5 * SMALL_BATCHES):
            put.send(lines("unread", offset, 1), offset)
        assert put.finish()["offset"] == 5 * SMALL_BATCHES - 1


def test_a_batch_of_60_megabytes_is_taken(lab):
    noise = random.Random(60)
    count = LARGE_BYTES // 1_000
    large = batch([f"large-{n}-" + noise.randbytes(480).hex() for n in range(count)])
    assert LARGE_BYTES * 0.95 < large.nbytes < 64 << 20
    with Put(lab, ingest_id="large") as put:
        put.send(large, 0)
        assert put.durable(0)["rows"] == count
    lab.wait_merged("large")
    assert lab.rows("SELECT count(*) AS n FROM silver.logs WHERE text LIKE 'large-%'") == [{"n": count}]


def test_a_stream_that_was_silent_goes_on(lab):
    with Put(lab) as put:
        for offset in range(2):
            put.send(lines("silent", offset), offset)
            put.durable(offset)
            time.sleep(IDLE_SECONDS)
        put.send(lines("silent", 2), 2)
        put.durable(2)
    merged(lab, "silent", texts("silent", range(3)))


def test_two_streams_at_once_do_not_mix(lab, own):
    with Put(lab, ingest_id="one") as one, Put(lab, ingest_id="two") as two, Put(
        lab, "readings", OPEN_READINGS
    ) as other:
        for offset in range(20):
            one.send(lines("one", offset), offset)
            two.send(lines("two", 100 + offset), 100 + offset)
            other.send(readings_batch({"id": own.id(offset)}), offset)
        assert one.durable(19)["rows"] == 60
        assert two.durable(119)["rows"] == 60
        assert other.durable(19)["rows"] == 20
    merged(lab, "one", texts("one", range(20)))
    merged(lab, "two", texts("two", range(100, 120)))


def test_dictionaries_come_with_the_stream(lab):
    schema = pa.schema([("line", pa.int64()), ("text", pa.dictionary(pa.int32(), pa.string()))])
    with Put(lab, schema=schema) as put:
        for offset in range(3):
            plain = lines("dictionary", offset)
            encoded = [plain.column(0), plain.column(1).dictionary_encode()]
            put.send(pa.record_batch(encoded, schema=schema), offset)
        put.durable(2)
    merged(lab, "dictionary", texts("dictionary", range(3)))


@pytest.mark.feature("errors with their codes")
def test_a_schema_that_does_not_fit_is_refused_before_a_batch(lab):
    with pytest.raises(pa.ArrowInvalid, match="line"):
        Put(lab, schema=pa.schema([("line", pa.string())]))
    with pytest.raises(pa.ArrowInvalid, match="id"):
        Put(lab, "readings", pa.schema([("value", pa.float64())]))


@pytest.mark.feature("errors with their codes")
@pytest.mark.parametrize(
    "path, code, word",
    [
        (["lags"], "NOT_FOUND", "logs"),
        (["totals"], "NOT_FOUND", "totals"),
        (["silver", "lags"], "NOT_FOUND", "logs"),
        (["gold", "totals"], "INVALID_ARGUMENT", "silver"),
        (["system", "tables"], "INVALID_ARGUMENT", "silver"),
        ([], "INVALID_ARGUMENT", "table"),
        (["a", "b", "c", "d"], "INVALID_ARGUMENT", "table"),
    ],
)
def test_a_path_that_names_no_table_is_refused(raw, path, code, word):
    with rpc_refused(code, word):
        list(raw.do_put(messages(LOGS.empty_table(), [None], path)))


@pytest.mark.feature("errors with their codes")
@pytest.mark.parametrize(
    "name, value, word",
    [(INGEST_ID_HEADER, "a/b", "id"), (INGEST_ID_HEADER, "x" * 129, "id"), (PARTIAL_HEADER, "perhaps", PARTIAL_HEADER)],
)
def test_headers_that_make_no_sense_are_refused(raw, name, value, word):
    with rpc_refused("INVALID_ARGUMENT", word):
        list(raw.sending((name, value)).do_put(messages(LOGS.empty_table(), [None])))


def test_a_reader_waits_for_an_offset(lab, raw):
    with Put(lab, ingest_id="awaited") as put:
        for offset in range(4):
            put.send(lines("awaited", offset), offset)
        put.durable(3)
        reader = raw.sending(("mallard-wait-for", "awaited@3"))
        assert reader.rows("SELECT count(*) AS n FROM silver.logs WHERE text LIKE 'awaited-%'") == [{"n": 12}]
        late = raw.sending(("mallard-wait-for", "awaited@4"), ("mallard-timeout", "1s"))
        with rpc_refused("DEADLINE_EXCEEDED", "awaited", cure=False):
            late.rows("SELECT count(*) AS n FROM silver.logs")
        # It waits for what is yet to come, and then reads it.
        answers = []
        patient = raw.sending(("mallard-wait-for", "awaited@4"))
        waiting = threading.Thread(
            target=lambda: answers.extend(
                patient.rows("SELECT count(*) AS n FROM silver.logs WHERE text LIKE 'awaited-%'")
            )
        )
        waiting.start()
        put.send(lines("awaited", 4), 4)
        put.durable(4)
        waiting.join()
        assert answers == [{"n": 15}]


def stream_until_it_ends(put, mark, offset):
    """Sends batches until the stream breaks; the reader takes the answers meanwhile. The error that it ended with."""
    reader = threading.Thread(target=lambda: iter_answers(put))
    reader.start()
    with suppress(pa.ArrowException, OSError):
        while True:
            put.send(lines(mark, offset, 1), offset)
            offset += 1
            # Not more than the server takes, so that the batches in between are few.
            wait_for(lambda: offset - put.last() < 200 or not reader.is_alive(), "an answer")
    reader.join()
    return put.refusal()


def iter_answers(put):
    with suppress(pa.ArrowException, OSError):
        while put.read() is not None:
            pass


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_stops_in_mid_stream_loses_and_doubles_nothing(fresh_server, how):
    server = fresh_server()
    put = Put(server, ingest_id="cut")
    errors = []
    sender = threading.Thread(target=lambda: errors.append(stream_until_it_ends(put, "cut", 0)))
    sender.start()
    wait_for(lambda: put.last() >= 100, "the first durable batches")
    if how == signal.SIGTERM:
        assert server.stop() == 0
    else:
        server.kill()
    sender.join()
    durable = put.last()
    if how == signal.SIGTERM:
        refused_by(errors[0], flight.FlightUnavailableError)
    again = fresh_server()
    end = durable + 50
    with Put(again, ingest_id="cut") as resumed:
        for offset in range(durable + 1, end):
            resumed.send(lines("cut", offset, 1), offset)
        resumed.durable(end - 1)
        # What had landed behind the last durable offset is there once, and all before it.
    merged_beyond(again, "cut", end)


def merged_beyond(server, mark, end):
    """Silver has each line up to `end` once; and of those behind it, none twice."""
    sql = f"SELECT count(*) AS n, count(DISTINCT text) AS once FROM silver.logs WHERE text LIKE '{mark}-%'"
    wait_for(lambda: server.rows(f"{sql} AND line < {end}")[0]["n"] >= end, f"the merge of {end} lines")
    server.ingest("logs", pa.table({"line": [0], "text": ["the last word"]}, schema=LOGS))
    assert server.rows(f"{sql} AND line < {end}") == [{"n": end, "once": end}]
    (all_lines,) = server.rows(sql)
    assert all_lines["n"] == all_lines["once"]


def test_a_stopping_server_refuses_new_streams_as_unavailable(fresh_server):
    server = fresh_server()
    with Client(server.address) as raw:
        raw.rows("SELECT 1 AS one")
        put = Put(server)
        put.send(lines("stopping", 0), 0)
        put.durable(0)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        refused_by(put.refusal(), flight.FlightUnavailableError)
        with pytest.raises(grpc.RpcError) as refused:
            list(raw.do_put(messages(LOGS.empty_table(), [None])))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        stopping.join()


def test_the_example_producer_outlives_its_server(fresh_server):
    server = fresh_server()
    results = []
    with Producer(server.uri, "logs", LOGS, "producer", on_result=results.append) as producer:
        for offset in range(300):
            if offset == 100:
                producer.flush()
            if offset == 150:
                server.kill()
                server = fresh_server(listen=server.address)
            if offset == 250:
                assert server.stop() == 0
                server = fresh_server(listen=server.address)
            assert producer.send(lines("producer", offset)) == offset
        assert producer.flush() == 299
    assert max(result["offset"] for result in results) == 299
    merged(server, "producer", texts("producer", range(300)))


def test_the_example_producer_says_what_can_never_work(lab):
    with pytest.raises(pa.ArrowKeyError, match="logs"):
        with Producer(lab.uri, "lags", LOGS, "never") as producer:
            producer.send(lines("never", 0))
            producer.flush()


def test_the_example_producer_goes_on_in_another_process(lab):
    for begin, end in ((0, 10), (7, 20)):
        with Producer(lab.uri, "silver.logs", LOGS, "another", next_offset=begin) as producer:
            for offset in range(begin, end):
                producer.send(lines("another", offset))
    merged(lab, "another", texts("another", range(20)))


def test_other_calls_go_on_beside_an_open_stream(lab, raw):
    with Put(lab) as put:
        put.send(lines("beside", 0), 0)
        put.durable(0)
        assert raw.read(raw.get_flight_info(query("SELECT 1 AS one"))).to_pylist() == [{"one": 1}]
        lab.ingest("readings", readings({"id": 990_001, "value": 1.0}))
        put.send(lines("beside", 1), 1)
        put.durable(1)
