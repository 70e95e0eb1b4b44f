"""The built `table-maintenance` over lakes that a server filled: alone, under the emulator, and beside a server that
ingests. Files become few, and no row changes, in no version.

What a table holds is asked of the server; which files it has is read from its log here.
"""

import json
import os
import shutil
import threading
import time
import uuid

import pyarrow.parquet as pq
import pytest

from lab import logs, readings, write_definition
from lambdas import Lambda, Reading, function, invoke, variables
from mallard import Server

PROGRAM = "table-maintenance"
# Fewer than the versions after which a server maintains a table itself, so that the binary has something to do.
INGESTS = 9
ROUNDS_MAX = 5
DAY_SECONDS = 24 * 60 * 60
TABLES = {
    "silver.readings": "SELECT * FROM silver.readings{} ORDER BY id",
    "silver.logs": "SELECT * FROM silver.logs{} ORDER BY line, text",
    "gold.totals": "SELECT * FROM gold.totals{} ORDER BY sensor",
}
QUARANTINE = "SELECT rule, row_json, ingest_id, frame, row FROM system.quarantine ORDER BY ingest_id, frame, row"


class Lake:
    """A definition, a lake in a folder, and what its functions are started with."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "lake"
        self.definition = write_definition(folder / "definition")
        self.environment = variables(self.definition, self.path, AWS_LAMBDA_FUNCTION_NAME=PROGRAM)

    def serve(self):
        return Server(self.definition, self.path)

    def maintain(self, event=None):
        """Serves one event; returns the answer, and checks that nothing failed or was left."""
        done = invoke({} if event is None else event, self.folder, self.environment, function(PROGRAM))
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["failed"], told["left"]) == ([], []), done.stderr
        return {table["table"]: {step["action"]: step for step in table["steps"]} for table in told["maintained"]}

    def files(self, table):
        return live_files(self.path / table)

    def commits(self, table):
        return sorted(path.name for path in (self.path / table / "_delta_log").glob("*.json"))

    def runs(self):
        """The rows of the report, newest last."""
        files = self.files("maintenance/runs")
        rows = [row for file in files for row in pq.read_table(self.path / "maintenance/runs" / file).to_pylist()]
        return sorted(rows, key=lambda row: row["at"])


def live_files(table):
    """The data files of a Delta table's newest version, from its commits alone."""
    live = set()
    for path in sorted((table / "_delta_log").glob("*.json")):
        for line in path.read_text().splitlines():
            action = json.loads(line)
            if "remove" in action:
                live.discard(action["remove"]["path"])
            # A file whose deletion vector changes is removed and added in one commit.
            if "add" in action:
                live.add(action["add"]["path"])
    return live


def fill(server, number):
    """An ingest of each kind: new and updated rows, a delete, a bad row, rows without a key."""
    rows = [{"id": number * 10 + n, "sensor": f"s{n}", "value": float(number)} for n in range(4)]
    if number:
        before = (number - 1) * 10
        rows.append({"id": before, "seq": 2, "sensor": "updated", "value": 100.0 + number})
        rows.append({"id": before + 1, "seq": 2, "op": "delete"})
    rows.append({"id": number * 10 + 9, "sensor": "bad", "value": -1.0})
    ids = [f"test-{uuid.uuid4()}" for _ in range(2)]
    server.send("readings", readings(*rows), ingest_id=ids[0])
    server.send("logs", logs(f"first of {number}", f"second of {number}"), ingest_id=ids[1])
    for ingest_id in ids:
        server.wait_merged(ingest_id)


def seen(server, versions):
    """All rows of all tables, in the versions given and in the newest."""
    found = {"quarantine": server.rows(QUARANTINE)}
    for table, sql in TABLES.items():
        found[table] = server.rows(sql.format(""))
        for version in range(versions[table] + 1):
            found[table, version] = server.rows(sql.format(f" FOR VERSION AS OF {version}"))
    return found


def newest(server):
    rows = server.rows("SELECT schema_name || '.' || table_name AS name, version FROM system.tables")
    return {row["name"]: row["version"] for row in rows if row["name"] in TABLES}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A lake with some versions of each table, and what each of them holds."""
    lake = Lake(tmp_path_factory.mktemp("original"))
    with lake.serve() as server:
        for number in range(INGESTS):
            fill(server, number)
    with Reading(lake.definition, lake.path) as server:
        versions = newest(server)
        return lake, versions, seen(server, versions)


@pytest.fixture
def filled(original, tmp_path):
    """The same in a lake of the test's own."""
    lake = Lake(tmp_path)
    shutil.copytree(original[0].path, lake.path)
    return lake, *original[1:]


def test_small_files_become_few_and_no_row_changes_in_any_version(filled):
    lake, versions, before = filled
    assert len(before["silver.readings"]) == 4 * INGESTS - (INGESTS - 1)
    assert len(before["quarantine"]) == INGESTS
    layers = ["silver/readings", "silver/logs", "quarantine/readings"]
    files = {table: lake.files(table) for table in layers}
    assert all(len(found) > 1 for found in files.values()), files

    told = lake.maintain()
    for table in layers:
        left = lake.files(table)
        assert len(left) == 1 and not left & files[table], table
        step = told[table.replace("/", ".")]["compact"]
        assert step["result"] == "done"
        assert (step["files_before"], step["files_after"]) == (len(files[table]), 1)
        assert step["version"] == len(lake.commits(table)) - 1, "compaction is one commit"
    with Reading(lake.definition, lake.path) as server:
        assert seen(server, versions) == before
        runs = server.rows("SELECT * FROM system.maintenance WHERE action = 'compact' AND result = 'done'")
    told_of = {f"{row['layer']}/{row['table']}": (row["files_before"], row["files_after"]) for row in runs}
    assert {table: told_of[table] for table in layers} == {table: (len(files[table]), 1) for table in layers}
    assert all(row["at"] and row["bytes_after"] < row["bytes_before"] for row in runs)


def test_a_second_run_finds_nothing_to_do_and_says_so(filled):
    lake, _, _ = filled
    lake.maintain()
    tables = ["silver/readings", "silver/logs", "quarantine/readings", "gold/totals"]
    before = {table: (lake.files(table), lake.commits(table)) for table in tables}
    told = lake.maintain()
    assert {table: (lake.files(table), lake.commits(table)) for table in tables} == before
    for table in tables:
        results = {step["result"] for step in told[table.replace("/", ".")].values()}
        assert results == {"nothing"}, table
    own = [row for row in lake.runs() if (row["layer"], row["table"]) == ("silver", "readings")]
    assert [row["result"] for row in own] == ["done", "nothing"]


def test_a_table_that_was_maintained_takes_further_rows_as_before(filled):
    lake, versions, before = filled
    lake.maintain()
    with lake.serve() as server:
        # Updates a row that was moved, deletes another, and comes late for a third, which is deleted.
        server.ingest(
            "readings",
            readings(
                {"id": 2, "seq": 5, "sensor": "new", "value": 7.0},
                {"id": 3, "seq": 5, "op": "delete"},
                {"id": 1, "seq": 1, "sensor": "late", "value": 1.0},
            ),
        )
        server.ingest("logs", logs("one more"))
        rows = {row["id"]: row for row in server.rows(TABLES["silver.readings"].format(""))}
        kept = {row["id"]: row for row in before["silver.readings"]}
        assert rows.pop(2)["sensor"] == "new"
        del kept[2], kept[3]
        assert rows == kept
        assert len(server.rows(TABLES["silver.logs"].format(""))) == 2 * INGESTS + 1
        past = seen(server, versions)
    assert {key: past[key] for key in past if isinstance(key, tuple)} == {
        key: before[key] for key in before if isinstance(key, tuple)
    }


def test_old_files_that_no_version_has_go_and_nothing_else(filled):
    lake, versions, before = filled
    folder = lake.path / "silver" / "readings"
    orphan, young, notes = (folder / name for name in ("part-orphan.parquet", "part-young.parquet", "notes.txt"))
    for path in (orphan, young, notes):
        path.write_bytes(b"nobody reads this")
    then = time.time() - 30 * DAY_SECONDS
    for path in (orphan, notes):
        os.utime(path, (then, then))
    present = set(folder.glob("*.parquet"))
    step = lake.maintain()["silver.readings"]["vacuum"]
    assert (step["result"], step["files_before"] - step["files_after"]) == ("done", 1)
    assert not orphan.exists() and notes.exists()
    # What was made few is still needed by earlier versions.
    assert present - set(folder.glob("*.parquet")) == {orphan}
    with Reading(lake.definition, lake.path) as server:
        assert seen(server, versions) == before


def test_maintenance_beside_a_server_that_ingests_loses_and_repeats_nothing(tmp_path):
    lake = Lake(tmp_path)
    ended, failures = threading.Event(), []

    def ingest(server):
        try:
            for number in range(2 * INGESTS):
                fill(server, number)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    with lake.serve() as server:
        # So that there is something to maintain in each round.
        fill(server, 0)
        thread = threading.Thread(target=ingest, args=(server,))
        thread.start()
        rounds = []
        while not ended.is_set():
            rounds.append(lake.maintain())
        thread.join()
        assert failures == []
        rows = {row["id"]: row["value"] for row in server.rows("SELECT id, value FROM silver.readings")}
        said = [row["text"] for row in server.rows("SELECT text FROM silver.logs")]
        assert server.rows("SELECT table_name, last_error FROM system.tables WHERE last_error IS NOT NULL") == []
    expected = {}
    for number in range(2 * INGESTS):
        expected |= {number * 10 + n: float(number) for n in range(4)}
        if number:
            expected[(number - 1) * 10] = 100.0 + number
            del expected[(number - 1) * 10 + 1]
    assert rows == expected
    # The ingest before the others was repeated by their first one, under another id.
    texts = [f"{which} of {number}" for number in [0, *range(2 * INGESTS)] for which in ("first", "second")]
    assert sorted(said) == sorted(texts)
    fed = ("silver.readings", "silver.logs")
    results = [told[table]["compact"]["result"] for told in rounds for table in fed if table in told]
    # Else it showed nothing; who loses a race leaves it to the next round.
    assert "done" in results and set(results) <= {"done", "nothing", "skipped"}, results

    for _ in range(ROUNDS_MAX):
        lake.maintain()
    assert len(lake.files("silver/readings")) <= 2 and len(lake.files("silver/logs")) <= 2


def test_under_the_emulator_it_serves_schedules_and_names_and_counts_what_it_did(filled):
    lake, versions, before = filled
    schedule = {"version": "0", "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": {}}
    with Lambda(lake.folder / "lambda", lake.environment, program=function(PROGRAM)) as called:
        told = called.call({"tables": ["logs"]})
        assert {table["table"] for table in told["maintained"]} == {"silver.logs"}
        assert called.metrics("Files", "logs") == [1]
        assert called.metrics("Files", "readings") == []
        told = called.call(schedule)
        assert (told["failed"], told["left"]) == ([], [])
        assert {"silver.readings", "quarantine.readings", "gold.totals", "maintenance.runs"} <= {
            table["table"] for table in told["maintained"]
        }
        assert called.metrics("MaintenanceFailed", "readings")[-1] == 0
        assert called.metrics("MemoryPeak")[-1] > 1 << 20
        assert any(line.get("message") == "maintained" for line in called.lines())
        for wrong, word in (({"tables": ["nosuch"]}, "nosuch"), ({"tables": "logs"}, "tables"), ([], "event")):
            told = called.call(wrong)
            assert word in told["errorMessage"], told
    with Reading(lake.definition, lake.path) as server:
        assert seen(server, versions) == before


def test_a_function_without_time_leaves_everything_and_says_so(filled):
    lake, _, _ = filled
    before = lake.commits("silver/readings")
    with Lambda(lake.folder / "lambda", lake.environment, seconds=2, program=function(PROGRAM)) as called:
        told = called.call({})
    assert (told["maintained"], told["failed"]) == ([], [])
    assert "silver.readings" in told["left"] and "gold.totals" in told["left"]
    assert lake.commits("silver/readings") == before
