"""The built Lambda under AWS's runtime interface emulator, over a folder and over an emulated AWS.

What it is to do with rows is tested elsewhere; here are its edges: events in all their shapes, which messages come
again, what is told of a commit, deadlines, reconciliation, the zip. Silver is read by the server.
"""

import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_plus

import boto3
import pyarrow as pa
import pytest

from frames import read_frames
from lab import LOGS, TOML, readings, write_definition
from lambdas import (
    HOUR, START_SECONDS, Lambda, Reading, answer, frame, free_port, function, invoke, message, of_bridge,
    of_storage, put, variables,
)  # fmt: skip
from mallard import REPO, wait_for

STRICT = """
[tables.strict]
description = "a wrong row stops it"

[[tables.strict.columns]]
name = "line"
type = "bigint"

[[tables.strict.columns]]
name = "text"
type = "varchar"

[tables.strict.expect]
no_curses = { check = "text <> 'curse'", on_fail = "fail" }

[tables.numbers]
description = "its transform fails on what is no number"
transform = "silver/numbers.sql"

[[tables.numbers.columns]]
name = "line"
type = "bigint"

[[tables.numbers.columns]]
name = "number"
type = "bigint"
"""
NUMBERS = "SELECT _row, line, CAST(text AS BIGINT) AS number FROM incoming\n"
UNPACKED_BYTES_MAX = 250 << 20
COLD_STARTS = 5
SETTLED_SECONDS = 20 * 60
BUCKET, REGION = "lake", "us-east-1"


class Lake:
    """A definition, a lake in a folder, and what its functions are started with."""

    def __init__(self, folder, toml=TOML + STRICT):
        self.folder, self.path = folder, folder / "lake"
        self.path.mkdir(parents=True)
        self.definition = self.define("definition", toml)
        self.environment = variables(self.definition, self.path.as_uri())
        self.started = 0

    def define(self, name, toml):
        definition = write_definition(self.folder / name, toml)
        (definition / "silver").mkdir()
        (definition / "silver" / "numbers.sql").write_text(NUMBERS)
        return definition

    def start(self, seconds=60, program=None, **more):
        self.started += 1
        more = {name: str(value) for name, value in more.items()}
        folder = self.folder / f"lambda-{self.started}"
        return Lambda(folder, {**self.environment, **more}, seconds, program)

    def answer(self, event, **more):
        return answer(event, self.folder, {**self.environment, **more})

    def put(self, table, *values, **options):
        """An object with a row for each value, which is an id of readings, or a text of another table."""
        if table == "readings":
            rows = readings(*({"id": value, "sensor": "s", "value": float(value)} for value in values))
        else:
            rows = pa.table({"line": range(len(values)), "text": list(values)}, LOGS)
        return put(self.path, table, rows, **options)

    def rows(self, sql):
        with Reading(self.definition, self.path) as server:
            return server.rows(sql)

    def ids(self):
        return [row["id"] for row in self.rows("SELECT id FROM silver.readings ORDER BY id")]

    def texts(self, table):
        return sorted(row["text"] for row in self.rows(f"SELECT text FROM silver.{table}"))

    def versions(self, table):
        log = self.path / "silver" / table / "_delta_log"
        return sorted(path.name for path in log.glob("*.json")) if log.exists() else []


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path)


def own(table, *keys):
    return {"table": table, "objects": list(keys)}


def test_frames_are_written_as_they_are_read():
    rows = readings({"id": 1, "sensor": "s", "value": 2.5})
    (found,) = read_frames(frame("readings", "one", rows))
    assert (found.table, found.ingest_id, found.is_last) == ("readings", "one", True)
    assert found.rows.equals(rows)


def test_events_of_all_kinds_are_merged_and_told_of(lake):
    odd = lake.put("readings", 2, name="a b=ü+1")
    encoded = quote_plus(odd, safe="/")
    assert encoded != odd
    with lake.start() as called:
        assert called.failures(
            message(of_bridge(lake.put("readings", 1)), group="readings"),
            message(of_storage(encoded), group="readings"),
            message(own("readings", lake.put("readings", 3), lake.put("readings", 4)), group="readings"),
            message({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "lake"}),
            message(of_bridge("silver/readings/part-0.parquet"), group="readings"),
            message(of_bridge(lake.put("logs", "hello")), group="logs"),
        ) == []  # fmt: skip
        assert called.metrics("RowsIn", "readings") == [4]
        assert called.metrics("Commits", "readings") == [1], "several objects of a table are one merge"
        assert called.metrics("RowsIn", "logs") == [1]
        assert called.metrics("Inserted", "readings") == [4]
        assert called.metrics("MemoryPeak", "logs")[0] > 1 << 20
        told = [line for line in called.lines() if line.get("message") == "merge told"]
        assert [line["table"] for line in told] == ["readings", "logs"]
        assert told[0]["rows"] == 4 and told[0]["level"] == "INFO" and "timestamp" in told[0]
        assert json.loads(told[0]["stages_ms"])
        assert all(any(span.get("request_id") for span in line["spans"]) for line in told)
    assert lake.ids() == [1, 2, 3, 4]
    assert lake.texts("logs") == ["hello"]


def test_what_comes_twice_is_merged_once_by_a_warm_function_and_by_a_new_one(lake):
    first, second = lake.put("logs", "a", "b"), lake.put("logs", "c")
    with lake.start() as called:
        assert called.failures(message(of_bridge(first)), message(of_bridge(first))) == []
        versions = lake.versions("logs")
        assert called.failures(message(of_bridge(first), tries=2)) == []
        assert lake.versions("logs") == versions
        assert called.metrics("DuplicateFrames", "logs")[-1] == 1
    with lake.start() as called:
        assert called.failures(message(of_bridge(first)), message(of_bridge(second))) == []
    assert lake.texts("logs") == ["a", "b", "c"]


def test_a_message_that_nobody_can_read_comes_again_with_all_behind_it_in_its_group(lake):
    with lake.start() as called:
        failed = called.failures(
            message(of_bridge(lake.put("readings", 1)), "good", "readings"),
            message("{", "broken", "readings"),
            message(of_bridge(lake.put("readings", 2)), "behind", "readings"),
            message(of_bridge(lake.put("logs", "other")), "other", "logs"),
            message(of_bridge("bronze/Readings/x"), "nameless", "Readings"),
            message(of_bridge(f"bronze/unknown/{HOUR}/x"), "unknown", "unknown"),
        )
        assert failed == ["broken", "behind", "nameless", "unknown"]
        assert called.metrics("Unreadable") == [2]
    assert lake.texts("logs") == ["other"]
    assert 1 in lake.ids()


def test_a_poison_object_is_tried_and_then_set_aside_and_its_table_goes_on(lake):
    objects = [lake.put("numbers", text) for text in ("1", "no number", "3")]

    def batch(tries):
        names = ("first", "poison", "behind")
        return [message(of_bridge(key), name, "numbers", tries) for key, name in zip(objects, names)]

    with lake.start() as called:
        assert called.failures(*batch(1)) == ["poison", "behind"]
        assert called.failures(*batch(2)[1:]) == ["poison", "behind"]
        assert called.failures(*batch(3)[1:]) == []
        assert called.metrics("ObjectsSetAside", "numbers") == [0, 0, 1]
        # Should its message come once more, it is not put there twice.
        assert called.failures(*batch(4)) == []
    numbers = sorted(row["number"] for row in lake.rows("SELECT number FROM silver.numbers"))
    assert numbers == [1, 3]
    (aside,) = lake.rows("SELECT * FROM system.quarantine WHERE table_name = 'numbers'")
    assert aside["rule"] == "poison" and aside["object"] == objects[1]
    assert "no number" in aside["reason"]


def test_a_rule_that_fails_stops_its_table_and_no_other(lake):
    with lake.start() as called:
        failed = called.failures(
            message(of_bridge(lake.put("strict", "fine", "curse")), "stopped", "strict", tries=9),
            message(of_bridge(lake.put("logs", "curse")), "other", "logs"),
        )
        assert failed == ["stopped"]
        assert called.metrics("Stopped", "strict") == [1]
        assert called.metrics("ObjectsSetAside", "strict") == [0]
        (alarm,) = [line for line in called.lines() if "stopped by a rule" in line.get("message", "")]
        assert alarm["level"] == "ERROR" and alarm["table"] == "strict" and "no_curses" in alarm["error"]
    assert lake.versions("strict") == []
    assert lake.texts("logs") == ["curse"]


def test_a_function_without_time_gives_everything_back_in_time(lake):
    batch = [message(of_bridge(lake.put("logs", text)), text, "logs") for text in "abc"]
    with lake.start(seconds=2) as called:
        assert called.failures(*batch) == ["a", "b", "c"]
        assert "timed out" not in called.text("err").lower()
        assert lake.versions("logs") == []
    with lake.start(seconds=60) as called:
        assert called.failures(*batch) == []
    assert lake.texts("logs") == ["a", "b", "c"]


def test_a_killed_function_is_started_again_and_repeats_nothing(lake):
    first, second = lake.put("logs", "a"), lake.put("logs", "b")
    with lake.start() as called:
        assert called.failures(message(of_bridge(first))) == []
        children = subprocess.run(["pgrep", "-P", str(called.process.pid)], capture_output=True, text=True).stdout
        os.kill(int(children.split()[0]), 9)
        # The emulator may need a call to notice; the queue would bring the message again.
        for _ in range(5):
            with suppress(AssertionError, OSError, ValueError):
                if called.failures(message(of_bridge(first)), message(of_bridge(second))) == []:
                    break
            time.sleep(0.5)
    assert lake.texts("logs") == ["a", "b"]


def test_objects_that_are_named_are_merged_by_a_direct_call(lake):
    keys = [lake.put("readings", 1), lake.put("readings", 2)]
    told = lake.answer(own("readings", *keys))
    assert (told["table"], told["merged"], told["remaining"]) == ("readings", 2, [])
    assert told["version"] is not None
    assert lake.answer(own("readings", *keys))["version"] is None
    assert lake.ids() == [1, 2]


def test_a_notice_that_comes_without_a_queue_is_merged(lake):
    with lake.start() as called:
        (table,) = called.call(of_storage(lake.put("logs", "a"), lake.put("logs", "b")))["tables"]
        assert table["merged"] == 2
        assert called.call({"Event": "s3:TestEvent"})["ignored"]
    assert lake.texts("logs") == ["a", "b"]


def test_the_objects_of_a_time_are_backfilled_and_those_of_others_not(lake):
    lake.put("logs", "eight")
    known = lake.put("logs", "known")
    other = lake.path / "bronze" / "logs" / "2026" / "01" / "30" / "08" / "x"
    other.parent.mkdir(parents=True)
    other.write_bytes(frame("logs", "other", pa.table({"line": [1], "text": ["day before"]}, LOGS)))
    hour = {"table": "logs", "from": "2026-01-31T08:00:00Z", "to": "2026-01-31T09:00:00Z"}
    lake.answer(own("logs", known))
    told = lake.answer(hour)
    assert (told["found"], told["merged"], told["remaining"]) == (2, 1, 0)
    assert lake.texts("logs") == ["eight", "known"]
    assert lake.answer({"table": "logs", "from": "2026-01-01T00:00:00Z"})["merged"] == 1
    assert lake.texts("logs") == ["day before", "eight", "known"]


def test_quarantine_is_replayed_after_a_fix_once(lake):
    key = put(lake.path, "readings", readings({"id": 1, "value": -1.0}, {"id": 2, "value": 2.0}))
    lake.answer(own("readings", key))
    assert lake.ids() == [2]
    mild = lake.define("mild", (TOML + STRICT).replace("value IS NULL OR value >= 0", "true"))
    event = {"table": "readings", "replay": {"where": "rule = 'not_negative'"}}
    told = lake.answer(event, MALLARD_DEFINITION=str(mild))
    assert (told["rows"], told["merged"], told["quarantined_again"]) == (1, 1, 0)
    assert lake.answer(event, MALLARD_DEFINITION=str(mild))["rows"] == 0
    assert lake.ids() == [1, 2]


def deliver_now(monkeypatch):
    """Objects come into the folder of this hour."""
    monkeypatch.setattr("lambdas.HOUR", time.strftime("%Y/%m/%d/%H", time.gmtime()))


def settle(lake, *keys):
    """Makes objects look as if they had been written a while ago."""
    then = time.time() - SETTLED_SECONDS
    for key in keys:
        os.utime(lake.path / key, (then, then))


def test_reconciliation_merges_what_no_event_told_of_but_not_what_is_new(lake, monkeypatch):
    deliver_now(monkeypatch)
    lost, merged, new = lake.put("logs", "lost"), lake.put("logs", "merged"), lake.put("logs", "new")
    settle(lake, lost, merged)
    lake.answer(own("logs", merged))
    event = {"reconcile": {"tables": ["logs"]}}
    assert lake.answer(event)["tables"]["logs"] == {"listed": 2, "missing": 1, "queued": 0, "merged": 1}
    assert lake.answer(event)["tables"]["logs"] == {"listed": 2, "missing": 0, "queued": 0, "merged": 0}
    assert lake.texts("logs") == ["lost", "merged"]
    settle(lake, new)
    every = lake.answer({"reconcile": {}})["tables"]
    assert every["logs"]["merged"] == 1 and set(every) == {"readings", "logs", "notes", "strict", "numbers"}


@pytest.mark.parametrize(
    "event, words",
    [
        ({"tabel": "logs"}, ["nothing that this function knows"]),
        ({"table": "unknown", "objects": []}, ["unknown"]),
        ({"table": "unknown", "from": "2026-01-31T08:00:00Z"}, ["unknown"]),
        ({"table": "logs", "objects": ["silver/logs/x"]}, ["bronze/logs/"]),
        ({"table": "logs", "objects": [f"bronze/logs/{HOUR}/missing"]}, ["there is no object"]),
        ({"table": "logs", "from": "yesterday"}, ["2026-01-31T08:00:00Z"]),
        ({"reconcile": {"tables": ["unknown"]}}, ["unknown"]),
    ],
)
def test_a_direct_call_that_can_not_be_served_says_why(lake, event, words):
    with lake.start() as called:
        told = called.call(event)
    assert told["errorType"] in ("Invalid", "NotFound"), told
    for word in words:
        assert word in told["errorMessage"]


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"MALLARD_LAKE": None}, "MALLARD_LAKE"),
        ({"MALLARD_LAKE": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"MALLARD_DEFINITION": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"MALLARD_MEMORY_MB": "12"}, "MALLARD_MEMORY_MB"),
        ({"MALLARD_QUEUE_URL": "http://127.0.0.1/1/plain"}, "MALLARD_QUEUE_URL"),
    ],
)
def test_a_setting_that_is_wrong_is_named_at_the_start(lake, changes, word):
    changed = {name: value for name, value in {**lake.environment, **changes}.items() if value is not None}
    done = invoke({"reconcile": {}}, lake.folder, changed)
    assert done.returncode == 1 and done.stdout == ""
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "ERROR" and word in last["error"]


def test_a_binary_that_lambda_did_not_start_says_how_to_call_it(lake):
    done = subprocess.run([function()], capture_output=True, text=True, env=lake.environment, timeout=START_SECONDS)
    assert done.returncode == 1 and "--invoke event.json" in done.stderr


def test_cold_starts(lake, capsys):
    """Prints how long the function took to be ready; a time is measured and not demanded."""
    times = []
    for number in range(COLD_STARTS):
        with lake.start() as called:
            assert called.failures(message(of_bridge(lake.put("logs", str(number))))) == []
            times.append(called.init_ms())
    with capsys.disabled():
        print(f"\ncold start of bronze-to-silver, process to first event: {sorted(times)} ms")
    assert len(times) == COLD_STARTS


def test_the_zip_is_one_that_lambda_takes_and_holds_all_that_it_needs(lake, capsys, tmp_path):
    line = [REPO / "scripts" / "package-lambda", "bronze-to-silver", lake.definition]
    release = {**os.environ, "MALLARD_RELEASE": str(function().parent)}
    done = subprocess.run(line, capture_output=True, text=True, env=release, timeout=100)
    assert done.returncode == 0, done.stderr
    path, size = done.stdout.split()
    with capsys.disabled():
        print(f"\nzip of bronze-to-silver: {int(size):,} bytes {done.stderr}")
    assert int(size) == Path(path).stat().st_size
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            target = Path(archive.extract(entry, tmp_path / "task"))
            target.chmod(entry.external_attr >> 16)
    # It finds its library and its definition beside itself, as in /var/task.
    environment = {k: v for k, v in lake.environment.items() if k not in ("MALLARD_DEFINITION", "LD_LIBRARY_PATH")}
    with Lambda(tmp_path / "zipped", environment, program=tmp_path / "task" / "bootstrap") as called:
        assert called.failures(message(of_bridge(lake.put("logs", "zipped")))) == []
    assert lake.texts("logs") == ["zipped"]
    # What Lambda takes, unpacked: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    assert sum(entry.file_size for entry in zipfile.ZipFile(path).infolist()) <= UNPACKED_BYTES_MAX


class Aws:
    """An emulated AWS: storage that tells EventBridge, which tells a FIFO queue; and a queue of what is told on."""

    def __init__(self, folder):
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        program = Path(sys.executable).with_name("ministack")
        own = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "s3,sqs,events", "TMPDIR": str(folder)}
        self.log_path = folder / "aws.log"
        with open(self.log_path, "ab") as log:
            inherited = {**os.environ, **own}
            self.process = subprocess.Popen([program], stdout=log, stderr=log, env=inherited, cwd=folder)
        access = {
            "endpoint_url": self.endpoint, "region_name": REGION, "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }  # fmt: skip
        self.s3, self.sqs, self.events = (boto3.client(name, **access) for name in ("s3", "sqs", "events"))
        wait_for(lambda: self.is_listening(port), "the start of the emulator", START_SECONDS)
        self.s3.create_bucket(Bucket=BUCKET)
        self.s3.put_bucket_notification_configuration(
            Bucket=BUCKET, NotificationConfiguration={"EventBridgeConfiguration": {}}
        )
        fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "false", "VisibilityTimeout": "0"}
        self.queue = self.sqs.create_queue(QueueName="bronze.fifo", Attributes=fifo)["QueueUrl"]
        self.told = self.sqs.create_queue(QueueName="told")["QueueUrl"]
        for table in ("readings", "logs"):
            created = {
                "source": ["aws.s3"],
                "detail-type": ["Object Created"],
                "detail": {"bucket": {"name": [BUCKET]}, "object": {"key": [{"prefix": f"bronze/{table}/"}]}},
            }
            self.rule(f"bronze-{table}", created, self.queue, {"SqsParameters": {"MessageGroupId": table}})
        self.rule("told", {"source": ["mallard"]}, self.told, {})

    def rule(self, name, pattern, queue, parameters):
        self.events.put_rule(Name=name, EventPattern=json.dumps(pattern))
        arn = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.events.put_targets(Rule=name, Targets=[{"Id": "1", "Arn": arn, **parameters}])

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

    def put(self, table, name, rows):
        key = f"bronze/{table}/{HOUR}/{name}"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=frame(table, f"of-{name}", rows))

    def receive(self, queue):
        found = self.sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1, AttributeNames=["All"]
        )
        return found.get("Messages", [])

    def drain(self, called):
        """What Lambda does: gives messages to the function until there are none, and deletes what did not fail."""
        served = 0
        while messages := self.receive(self.queue):
            batch = [
                message(
                    one["Body"], one["MessageId"], one["Attributes"].get("MessageGroupId"),
                    int(one["Attributes"]["ApproximateReceiveCount"]),
                )
                for one in messages
            ]  # fmt: skip
            assert called.failures(*batch) == []
            for one in messages:
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])
            served += len(messages)
        return served

    def told_events(self):
        """The details of the events that the function sent, each once received."""
        found = []
        while messages := self.receive(self.told):
            for one in messages:
                event = json.loads(one["Body"])
                assert (event["source"], event["detail-type"]) == ("mallard", "silver committed")
                found.append(event["detail"])
                self.sqs.delete_message(QueueUrl=self.told, ReceiptHandle=one["ReceiptHandle"])
        return found

    def environment(self, definition, lake, **more):
        own = {"AWS_ENDPOINT_URL": self.endpoint, "MALLARD_EVENT_BUS": "default", "MALLARD_QUEUE_URL": self.queue}
        return variables(definition, lake, **{**own, **more})


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    aws = Aws(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.stop()


class InStorage(Reading):
    """A server that reads the lake in the bucket."""

    def lake(self):
        return f"s3://{BUCKET}"


def test_objects_in_storage_reach_silver_by_their_events_and_commits_are_told(aws, tmp_path):
    definition = write_definition(tmp_path / "definition")
    environment = aws.environment(definition, f"s3://{BUCKET}")
    aws.put("readings", "first", readings({"id": 1, "value": 1.0}, {"id": 2, "value": 2.0}))
    aws.put("readings", "a b+c", readings({"id": 1, "value": 10.0, "seq": 2}))
    aws.put("logs", "log", pa.table({"line": [1], "text": ["hello"]}, LOGS))
    with Lambda(tmp_path / "lambda", environment) as called:
        assert aws.drain(called) == 3
        told = aws.told_events()
        by_table = {table: [event for event in told if event["table"] == table] for table in ("readings", "logs")}
        assert sum(event["rows"] for event in by_table["readings"]) == 3
        assert by_table["logs"][0]["rows"] == 1
        assert all(event["version"] >= 0 and event["request_id"] for event in told)
        # The same again: nothing is merged, and nothing told.
        key = f"bronze/logs/{HOUR}/log"
        assert called.failures(message(of_bridge(key, BUCKET), group="logs")) == []
        assert aws.told_events() == []
        # Received again, as after a call that died: it may have died before it told, so the version is told anew.
        assert called.failures(message(of_bridge(key, BUCKET), group="logs", tries=2)) == []
        (again,) = aws.told_events()
        assert (again["table"], again["version"]) == ("logs", by_table["logs"][-1]["version"])
        # What lies in another bucket is not for this lake.
        assert called.failures(message(of_bridge(key, "elsewhere"))) == []
        assert called.metrics("Ignored") == [1]
    reader = {**environment, "MALLARD_LOG": "warn"}
    with InStorage(definition, tmp_path / "reader", reader) as server:
        rows = server.rows("SELECT id, value FROM silver.readings ORDER BY id")
        assert rows == [{"id": 1, "value": 10.0}, {"id": 2, "value": 2.0}]
        assert server.rows("SELECT text FROM silver.logs") == [{"text": "hello"}]


def test_what_no_event_told_of_is_sent_to_the_queue_once_and_merged(aws, tmp_path, monkeypatch):
    deliver_now(monkeypatch)
    lake = Lake(tmp_path)
    lake.environment = aws.environment(lake.definition, lake.path.as_uri())
    keys = [lake.put("logs", f"lost {number}") for number in range(12)]
    settle(lake, *keys)
    event = {"reconcile": {"tables": ["logs"]}}
    with lake.start() as called:
        told = called.call(event)["tables"]["logs"]
        assert told == {"listed": 12, "missing": 12, "queued": 12, "merged": 0}
        # The queue knows them by their keys.
        assert called.call(event)["tables"]["logs"]["queued"] == 12
        assert aws.drain(called) == 12
        assert called.call(event)["tables"]["logs"] == {"listed": 12, "missing": 0, "queued": 0, "merged": 0}
    assert len(lake.texts("logs")) == 12
    assert aws.told_events()


def test_a_bus_that_is_not_there_does_not_hold_up_merges(aws, tmp_path):
    lake = Lake(tmp_path)
    nowhere = f"http://127.0.0.1:{free_port()}"
    lake.environment = aws.environment(lake.definition, lake.path.as_uri(), AWS_ENDPOINT_URL_EVENTBRIDGE=nowhere)
    with lake.start() as called:
        assert called.failures(message(of_bridge(lake.put("logs", "a")))) == []
        assert called.metrics("EventsWaiting", "logs") == [1]
    assert lake.texts("logs") == ["a"]


def test_secrets_are_never_logged(aws, tmp_path):
    lake = Lake(tmp_path)
    lake.environment = aws.environment(
        lake.definition, lake.path.as_uri(), AWS_SECRET_ACCESS_KEY="the-secret-itself", AWS_SESSION_TOKEN="the-token",
        MALLARD_LOG="debug",
    )  # fmt: skip
    with lake.start() as called:
        assert called.failures(message(of_bridge(lake.put("logs", "a")))) == []
        log = called.text("out")
    assert "the-secret-itself" not in log and "the-token" not in log
