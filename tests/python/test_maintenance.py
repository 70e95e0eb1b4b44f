"""The process keeps its tables in good order between merges, and tells of it."""

import json

import pytest

from lab import logs, readings
from mallard import wait_for

# A table is due when its version passes a multiple of 32.
MERGES = 40
COMPACTED = """
    SELECT * FROM system.maintenance
    WHERE layer = 'silver' AND "table" = '{}' AND action = 'compact' AND result = 'done'
"""


def files(server, table):
    """How many data files the newest version of a silver table has, by its log."""
    live = set()
    for commit in sorted((server.data / "silver" / table / "_delta_log").glob("[0-9]*.json")):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        live -= {action["remove"]["path"] for action in actions if "remove" in action}
        live |= {action["add"]["path"] for action in actions if "add" in action}
    return len(live)


@pytest.mark.timeout(300)
def test_small_files_stay_few_under_steady_ingest(fresh_server):
    server = fresh_server()
    assert server.rows("SELECT * FROM system.maintenance") == []
    versions = []
    for n in range(MERGES):
        server.send("logs", logs(f"line {n}"), ingest_id=f"logs-{n}")
        server.ingest("readings", readings({"id": n, "sensor": "a", "value": float(n)}))
        versions.append(server.wait_merged(f"logs-{n}")["silver_version"])
    for table in ("logs", "readings"):
        row = wait_for(lambda: server.rows(COMPACTED.format(table)), f"the compaction of {table}")[0]
        assert row["files_after"] < row["files_before"]
        assert row["bytes_after"] < row["bytes_before"]
        assert row["message"] is None and row["version"] is not None and row["at"] is not None
        assert files(server, table) < MERGES / 2

    lines = sorted(f"line {n}" for n in range(MERGES))
    assert [row["text"] for row in server.rows("SELECT text FROM silver.logs ORDER BY text")] == lines
    expected = [{"id": n, "value": float(n)} for n in range(MERGES)]
    assert server.rows("SELECT id, value FROM silver.readings ORDER BY id") == expected
    # What was compacted can still be asked for, as it was.
    for n in (0, MERGES // 2):
        before = f"SELECT count(*) AS n FROM silver.logs FOR VERSION AS OF {versions[n]}"
        assert server.rows(before) == [{"n": n + 1}]
    # Models look at what was compacted, and are behind nothing.
    behind = "SELECT table_name FROM system.tables WHERE schema_name = 'gold' AND lag_seconds > 0"
    wait_for(lambda: server.rows(behind) == [], "the models' look at compacted tables")
    assert server.rows("SELECT readings FROM gold.totals") == [{"readings": MERGES}]
    failed = server.rows("SELECT * FROM system.maintenance WHERE result = 'failed'")
    assert failed == []


def test_the_table_of_runs_outlives_the_process(fresh_server):
    server = fresh_server()
    for n in range(MERGES):
        server.ingest("logs", logs(f"line {n}"))
    told = wait_for(lambda: server.rows(COMPACTED.format("logs")), "the compaction of logs")
    server.stop()
    again = fresh_server()
    assert again.rows(COMPACTED.format("logs")) == told
    assert again.rows("SELECT count(*) AS n FROM silver.logs") == [{"n": MERGES}]
