"""The server in front of an emulated AWS, over real HTTP: what is acknowledged lies in the bucket, as whole frames.

The emulator takes what Firehose's interface takes, writes each record to S3 at once, and has no quota. Throttling,
partial failures and lost answers are tested against a fake of our own, in Rust.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import adbc_driver_manager
import boto3
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from errors import UNAVAILABLE, refused
from frames import read_frames
from lab import LOGS, READINGS, logs, readings, write_definition
from mallard import Server, binary, wait_for
from streams import Put, refused_by

CLIENT = "ADBC, Python"
BUCKET = "lake"
REGION = "us-east-1"
STREAMS = "mallard-{table}"
RECORD_BYTES_MAX = 1_000 << 10
FULL_RECORD_BYTES = 900 << 10
START_SECONDS = 60
# Nothing of the machine's own AWS set-up, and no search for it on the network.
BARE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class Aws:
    """The emulator's process, and clients of it."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        program = Path(sys.executable).with_name("ministack")
        own = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "s3,firehose", "TMPDIR": str(folder)}
        self.log_path = folder / "aws.log"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([program], stdout=log, stderr=log, env={**os.environ, **own}, cwd=folder)
        access = {
            "endpoint_url": self.endpoint, "region_name": REGION, "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }  # fmt: skip
        self.s3, self.firehose = boto3.client("s3", **access), boto3.client("firehose", **access)
        wait_for(lambda: self.is_listening(port), "the start of the emulator", START_SECONDS)
        self.s3.create_bucket(Bucket=BUCKET)

    def is_listening(self, port):
        assert self.process.poll() is None, f"the emulator ended:\n{self.log_path.read_text()}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def make_stream(self, table):
        self.firehose.create_delivery_stream(
            DeliveryStreamName=STREAMS.format(table=table),
            DeliveryStreamType="DirectPut",
            ExtendedS3DestinationConfiguration={
                "RoleARN": "arn:aws:iam::000000000000:role/firehose",
                "BucketARN": f"arn:aws:s3:::{BUCKET}",
                "Prefix": f"bronze/{table}/",
                "ErrorOutputPrefix": "failed/",
                "BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 0},
            },
        )

    def objects(self, table):
        """What lies in the bucket for a table: here an object is a record."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"bronze/{table}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]

    def frames(self, table, ingest_id):
        """The frames of one ingest, each once, by their number; repeated ones must be equal."""
        found = {}
        for record in self.objects(table):
            assert len(record) <= RECORD_BYTES_MAX
            for frame in read_frames(record):
                assert frame.table == table
                if frame.ingest_id == ingest_id:
                    known = found.setdefault(frame.frame, frame)
                    assert known.rows.equals(frame.rows), f"frame {frame.frame} came twice, with other rows"
        return [found[number] for number in sorted(found)]

    def rows(self, table, ingest_id):
        frames = self.frames(table, ingest_id)
        return pa.concat_tables(frame.rows for frame in frames) if frames else None


class Serving(Server):
    """A server that delivers to Firehose instead of to itself."""

    def __init__(self, definition, lake, environment, **options):
        super().__init__(definition, lake, **options)
        self.environment = {**os.environ, **BARE, **environment}

    def command_line(self):
        lake = ["--lake", self.data, "--firehose-stream", STREAMS]
        return [binary(), "serve", "--definition", self.definition, *lake, "--listen", self.listen]


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    with ExitStack() as stack:
        aws = Aws(tmp_path_factory.mktemp("aws"))
        stack.callback(aws.stop)
        for table in ("readings", "logs"):
            aws.make_stream(table)
        yield aws


def environment(aws, **changes):
    access = {
        "AWS_ENDPOINT_URL": aws.endpoint, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    return {name: value for name, value in {**access, **changes}.items() if value is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A definition and an empty lake."""
    folder = tmp_path_factory.mktemp("serving")
    write_definition(folder / "definition")
    (folder / "lake").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(aws, folder):
    with Serving(folder / "definition", folder / "lake", environment(aws)) as server:
        yield server


@pytest.fixture
def start(aws, folder):
    """A function that starts another server, with other variables."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(
            Serving(folder / "definition", folder / "lake", environment(aws, **changes))
        )


def lines(offset, count=10):
    first = count * offset
    return pa.table({"line": range(first, first + count), "text": [f"text {first + n}" for n in range(count)]}, LOGS)


def test_rows_of_an_ingest_lie_in_the_bucket_once_it_is_acknowledged(aws, server):
    sent = readings(*({"id": n, "sensor": f"s{n % 3}", "value": float(n)} for n in range(1_000)))
    assert server.send("readings", sent, ingest_id="by-command") == 1_000
    frames = aws.frames("readings", "by-command")
    assert [frame.frame for frame in frames] == list(range(len(frames)))
    assert [frame.is_last for frame in frames] == [False] * (len(frames) - 1) + [True]
    rows = pa.concat_tables(frame.rows for frame in frames)
    assert rows.select(READINGS.names).to_pylist() == sent.to_pylist()


def test_batches_of_a_stream_lie_in_the_bucket_once_they_are_durable(aws, server):
    with Put(server, ingest_id="by-stream") as put:
        for offset in range(10):
            put.send(lines(offset), offset)
            if offset % 3 == 0:
                put.durable(offset)
                rows = aws.rows("logs", "by-stream")
                assert rows.column("line").to_pylist()[: 10 * (offset + 1)] == list(range(10 * (offset + 1)))
    assert aws.rows("logs", "by-stream").column("line").to_pylist() == list(range(100))


def test_many_rows_are_packed_into_full_records(aws, server):
    noise = random.Random(4)
    count = 30_000
    sent = pa.table({"line": range(count), "text": [noise.randbytes(300).hex() for _ in range(count)]}, LOGS)
    assert server.send("logs", sent.to_reader(max_chunksize=10_000), ingest_id="packed") == count
    assert aws.rows("logs", "packed").select(LOGS.names).equals(sent)
    packed = [len(record) for record in aws.objects("logs") if read_frames(record)[0].ingest_id == "packed"]
    full = [size for size in packed if size > FULL_RECORD_BYTES]
    assert len(full) >= len(packed) - 1, f"of {len(packed)} records {len(full)} are full: {sorted(packed)}"


def test_batches_that_are_sent_again_are_the_same_frames(aws, server):
    for begin, end in ((0, 6), (3, 9), (0, 9)):
        put = Put(server, ingest_id="again")
        for offset in range(begin, end):
            put.send(lines(offset), offset)
        put.durable(end - 1)
        put.lose()
    # `frames` has compared the repeated ones.
    assert aws.rows("logs", "again").column("line").to_pylist() == list(range(90))


def test_an_ingest_that_is_sent_again_is_the_same_frames(aws, server):
    for _ in range(2):
        assert server.send("logs", lines(7), ingest_id="twice") == 10
    assert aws.rows("logs", "twice").column("line").to_pylist() == list(range(70, 80))


def test_small_batches_share_a_record(aws, server):
    before = len(aws.objects("logs"))
    with Put(server, ingest_id="small") as put:
        for offset in range(1_000):
            put.send(lines(offset, 1), offset)
        put.finish()
    records = len(aws.objects("logs")) - before
    assert aws.rows("logs", "small").column("line").to_pylist() == list(range(1_000))
    assert records < 500, f"1,000 batches of a row made {records} records"


def test_a_bad_row_reaches_no_stream(aws, server):
    keyless = readings({"id": 1}, {"id": 2}).drop_columns(["id"]).append_column("id", pa.array([1, None], pa.int64()))
    with refused("id"):
        server.send("readings", keyless, ingest_id="bad")
    assert aws.frames("readings", "bad") == []


def test_a_stream_that_is_not_there_is_named_with_the_cure(aws, server):
    with refused("mallard-notes", "--firehose-stream", status=UNAVAILABLE):
        server.send("notes", pa.table({"topic": ["duck"]}))
    with Put(server, "notes", pa.schema([("topic", pa.string())])) as put:
        put.send(pa.table({"topic": ["duck"]}), 0)
        refused_by(put.refusal(), flight.FlightUnavailableError, "mallard-notes", "--firehose-stream")
        assert put.last() == -1
        put.lose()
    assert server.send("logs", logs("others go on"), ingest_id="others") == 1
    assert aws.rows("logs", "others").num_rows == 1


def test_another_region_has_other_streams(aws, start):
    elsewhere = start(AWS_REGION="eu-central-1")
    with refused("mallard-logs", "eu-central-1", status=UNAVAILABLE):
        elsewhere.send("logs", logs("elsewhere"))


@pytest.mark.parametrize(
    "missing, words",
    [
        (["AWS_REGION"], ["region", "AWS_REGION"]),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], ["credentials", "AWS_ACCESS_KEY_ID"]),
    ],
    ids=["region", "credentials"],
)
def test_what_is_missing_is_said_at_the_start(aws, folder, missing, words):
    variables = {**os.environ, **BARE, **environment(aws)}
    for name in [*missing, "AWS_DEFAULT_REGION", "AWS_PROFILE"]:
        variables.pop(name, None)
    line = Serving(folder / "definition", folder / "lake", {}).command_line()
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, env=variables, timeout=START_SECONDS)
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr
    assert "listening" not in done.stdout


@pytest.mark.parametrize("template", ["mallard", "mallard-{tabel}", "mallard {table}", "{table}-" + "x" * 64])
def test_a_template_that_can_name_no_stream_is_refused_at_the_start(aws, folder, template):
    line = Serving(folder / "definition", folder / "lake", {}).command_line()
    line[line.index(STREAMS)] = template
    variables = {**os.environ, **BARE, **environment(aws)}
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, env=variables, timeout=START_SECONDS)
    assert done.returncode in (1, 2)
    assert "firehose-stream" in done.stderr


def test_a_secret_is_never_shown(aws, folder, start):
    server = start(AWS_SECRET_ACCESS_KEY="the-secret-itself", AWS_SESSION_TOKEN="the-token-itself", MALLARD_LOG="debug")
    server.send("logs", logs("hush"))
    with suppress(adbc_driver_manager.Error):
        server.send("notes", pa.table({"topic": ["duck"]}))
    server.stop()
    log = server.log_path.read_text(errors="replace")
    assert "the-secret-itself" not in log and "the-token-itself" not in log


def test_sigterm_delivers_what_was_taken_and_tells_how_far(aws, start):
    server = start()
    put = Put(server, ingest_id="stopped")
    sent = threading.Event()

    def send():
        offset = 0
        with suppress(pa.ArrowException, OSError):
            while offset < 100_000:
                put.send(lines(offset), offset)
                offset += 1
                sent.set()
                time.sleep(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    sent.wait()
    put.durable(20)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    refused_by(put.refusal(), flight.FlightUnavailableError)
    sender.join()
    stopping.join()
    assert server.process.returncode == 0
    durable, rows = put.last(), aws.rows("logs", "stopped").column("line").to_pylist()
    assert durable >= 20
    assert rows[: 10 * (durable + 1)] == list(range(10 * (durable + 1)))
    # And the producer goes on at another server.
    again = start()
    with Put(again, ingest_id="stopped") as resumed:
        for offset in range(durable + 1, durable + 200):
            resumed.send(lines(offset), offset)
        resumed.durable(durable + 199)
    end = 10 * (durable + 200)
    assert aws.rows("logs", "stopped").column("line").to_pylist()[:end] == list(range(end))


def test_sigterm_ends_an_ingest_as_a_whole_or_says_that_it_did_not(aws, start):
    server = start()
    outcome, begun = [], threading.Event()

    def slowly():
        for offset in range(200):
            begun.set()
            time.sleep(0.02)
            yield lines(offset).to_batches()[0]

    def send():
        try:
            outcome.append(server.send("logs", pa.RecordBatchReader.from_batches(LOGS, slowly()), ingest_id="halved"))
        except adbc_driver_manager.Error as error:
            outcome.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    begun.wait()
    time.sleep(0.5)
    assert server.stop(signal.SIGTERM) == 0
    sender.join()
    frames = aws.frames("logs", "halved")
    if isinstance(outcome[0], int):
        assert outcome[0] == 2_000 == sum(frame.rows.num_rows for frame in frames)
    else:
        assert not any(frame.is_last for frame in frames)


def test_kill_loses_nothing_that_was_durable(aws, start):
    server = start()
    put = Put(server, ingest_id="killed")
    for offset in range(50):
        put.send(lines(offset), offset)
        if offset == 30:
            put.durable(30)
    server.kill()
    put.refusal()
    durable = put.last()
    rows = aws.rows("logs", "killed").column("line").to_pylist()
    assert rows[: 10 * (durable + 1)] == list(range(10 * (durable + 1)))
