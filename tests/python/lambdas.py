"""Runs the built Lambdas as AWS does, under its runtime interface emulator, and writes what they are called with."""

import json
import os
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa

from frames import MAGIC, PRELUDE, crc32c
from mallard import REPO, Server, binary, wait_for

START_SECONDS = 60
CALL_SECONDS = 90
SETTLE_SECONDS = 0.2
MEMORY_MB = 512
RECEIVED_AT_US = 1_769_846_400_000_000  # 2026-01-31T08:00:00Z
HOUR = "2026/01/31/08"
# Words of proto/src/fingerprint.rs, for the types that are used here.
WORDS = {
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.string(): "utf8",
    pa.timestamp("us", tz="UTC"): "timestamp(us,3:UTC)",
}
# Nothing of the machine's own AWS set-up, and no search for it on the network.
BARE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}


def function(name="bronze-to-silver"):
    """The path of a built Lambda, beside the server."""
    path = binary().with_name(name)
    assert path.exists(), f"{path} does not exist: run `make build`"
    return path


def emulator():
    """The path of AWS's emulator, which is fetched at its first use."""
    done = subprocess.run([REPO / "scripts" / "get-rie"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def variables(definition, lake, **more):
    """The environment of a function; a value of None leaves a variable out."""
    own = {
        "MALLARD_DEFINITION": str(definition),
        "MALLARD_LAKE": str(lake),
        "AWS_LAMBDA_FUNCTION_NAME": "bronze-to-silver",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MALLARD_"))}
    every = {**inherited, **BARE, **own, **more}
    return {name: value for name, value in every.items() if value is not None}


class Lambda:
    """A function under the emulator: one process, which is started by the first call; use it in `with`."""

    def __init__(self, folder, environment, seconds=60, program=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        self.environment = {
            **environment,
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(seconds),
            "TMPDIR": str(self.folder / "tmp"),
        }
        self.program = program or function()

    def __enter__(self):
        self.port = free_port()
        line = [emulator(), "--runtime-interface-emulator-address", f"127.0.0.1:{self.port}"]
        line += ["--runtime-api-address", f"127.0.0.1:{free_port()}", str(self.program)]
        # The emulator's own words come on stderr, the function's logs and metrics on stdout.
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:
            self.process = subprocess.Popen(line, stdout=out, stderr=err, env=self.environment, cwd=self.folder)
        wait_for(self.is_listening, "the start of the emulator", START_SECONDS)
        return self

    def __exit__(self, *exception):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def is_listening(self):
        assert self.process.poll() is None, f"the emulator ended:\n{self.text('err')}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    def call(self, event):
        """The answer to an event; an error is an answer with `errorType` and `errorMessage`."""
        url = f"http://127.0.0.1:{self.port}/2015-03-31/functions/function/invocations"
        try:
            with urllib.request.urlopen(url, json.dumps(event).encode(), timeout=CALL_SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def failures(self, *messages):
        """The ids of the messages that are to come again."""
        answer = self.call({"Records": list(messages)})
        assert set(answer) == {"batchItemFailures"}, f"{answer}; log:\n{self.text('out')[-4000:]}"
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def text(self, name):
        return (self.folder / name).read_text(errors="replace")

    def lines(self):
        """What the function logged and counted: all lines that are JSON. The emulator passes them on a little later."""
        size = -1
        while size != (size := (self.folder / "out").stat().st_size):
            time.sleep(SETTLE_SECONDS)
        found = []
        for line in self.text("out").splitlines():
            with suppress(ValueError):
                if isinstance(entry := json.loads(line), dict):
                    found.append(entry)
        return found

    def metrics(self, name, table=None):
        """The values of a metric, in order, taken from lines that declare it."""
        values = []
        for line in self.lines():
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                assert directive["Namespace"] == "Mallard"
                assert all(dimension in line for dimensions in directive["Dimensions"] for dimension in dimensions)
                if name in (metric["Name"] for metric in directive["Metrics"]) and line.get("table") == table:
                    values.append(line[name])
        return values

    def init_ms(self):
        """How long the function took from its start until it asked for its first event, as the emulator measured it."""
        reports = [line for line in self.text("err").splitlines() if "INIT REPORT" in line]
        return float(reports[0].partition("durationMs: ")[2].rstrip(")"))


def invoke(event, folder, environment, program=None):
    """Serves one event without Lambda; returns the completed process."""
    path = Path(folder) / f"event-{uuid.uuid4()}.json"
    path.write_text(json.dumps(event))
    line = [str(program or function()), "--invoke", str(path)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=CALL_SECONDS)


def answer(event, folder, environment):
    """The answer to one event that is served without Lambda."""
    done = invoke(event, folder, environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Reading(Server):
    """A server that only queries a lake that the Lambdas fill."""

    def __init__(self, definition, lake, environment=None):
        super().__init__(definition, lake)
        self.environment = environment

    def command_line(self):
        lake = ["--lake", self.lake()]
        return [binary(), "serve", "--definition", self.definition, *lake, "--listen", self.listen]

    def lake(self):
        return self.data


def message(body, id=None, group=None, tries=1):
    """A message as Lambda gives it to a function; `body` is JSON, or text."""
    attributes = {"ApproximateReceiveCount": str(tries)}
    if group:
        attributes["MessageGroupId"] = group
    return {
        "messageId": id or str(uuid.uuid4()),
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": attributes,
        "eventSource": "aws:sqs",
    }


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def of_bridge(key, bucket="lake", kind="Object Created"):
    """EventBridge's event of a new object."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": kind,
        "source": "aws.s3",
        "time": now(),
        "resources": [f"arn:aws:s3:::{bucket}"],
        "detail": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}, "reason": "PutObject"},
    }


def of_storage(*encoded_keys, bucket="lake", name="ObjectCreated:Put"):
    """S3's own notification of new objects; keys are encoded as S3 does."""
    records = [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventTime": now(),
            "eventName": name,
            "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}},
        }
        for key in encoded_keys
    ]
    return {"Records": records}


def put(lake, table, rows, name=None, ingest_id=None):
    """Writes an object of one frame to the lake's bronze; returns its key."""
    name = name or str(uuid.uuid4())
    key = f"bronze/{table}/{HOUR}/{name}"
    path = Path(lake) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(frame(table, ingest_id or f"test-{uuid.uuid4()}", rows))
    return key


def _varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _fingerprint(schema):
    hashed = 0xCBF29CE484222325
    for field in schema:
        text = f"{len(field.name.encode())}:{field.name} {WORDS[field.type]}{'?' if field.nullable else '!'};"
        for byte in text.encode():
            hashed = (hashed ^ byte) * 0x100000001B3 % (1 << 64)
    return hashed


def frame(table, ingest_id, rows, number=0):
    """The only frame of an ingest, from the description in proto/src/frame.rs."""

    def varint(field, value):
        return _varint(field << 3) + _varint(value) if value else b""

    def text(field, value):
        return _varint(field << 3 | 2) + _varint(len(value.encode())) + value.encode()

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    payload = sink.getvalue().to_pybytes()
    head = text(1, table) + text(2, ingest_id) + varint(3, number)
    head += _varint(4 << 3 | 1) + struct.pack("<Q", _fingerprint(rows.schema))
    head += varint(5, RECEIVED_AT_US) + varint(6, rows.num_rows) + varint(8, 1)
    begin = PRELUDE.pack(MAGIC, 1, 0, len(head), len(payload), 0)[:-4]
    body = head + payload
    return begin + struct.pack("<I", crc32c(begin)) + body + struct.pack("<I", crc32c(body))
