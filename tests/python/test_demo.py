"""The flights example, whole: what a client reads is what DuckDB alone computes from the source files.

The expectation is computed here, by another program than the one under test: `source/*.sql` says what silver must hold,
straight from the Parquet files, and each model's own SELECT over that says what gold must hold.
"""

import os
import signal
import subprocess
import time

import duckdb
import pytest

from mallard import EXAMPLE, Server, binary

FLIGHTS = 336_776
# Seconds after the start at which the process is killed: while it sends, delivers, merges, refreshes, and recovers.
KILLS = [0.15, 0.4, 0.8, 1.2, 1.7, 2.3, 3.0, 0.3, 4.0, 1.0, 5.0, 2.0]


def demo(data, **options):
    command = [binary(), "demo", "--data", data, "--listen", "127.0.0.1:0", "--exit"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process):
    out, log = process.communicate(timeout=180)
    assert process.returncode == 0, log
    return out


def sql(*path):
    return (EXAMPLE.joinpath(*path)).read_text()


@pytest.fixture(scope="module")
def expected():
    """A DuckDB with schemas silver and gold, made of the source files alone."""
    source = duckdb.connect()
    source.execute(f"SET file_search_path = '{EXAMPLE / 'data'}'; SET TimeZone = 'UTC'")
    source.execute("CREATE SCHEMA silver; CREATE SCHEMA gold")
    for path in sorted(EXAMPLE.glob("source/*.sql")):
        source.execute(f"CREATE TABLE silver.{path.stem} AS {path.read_text()}")
    waiting = {path.stem: path.read_text() for path in EXAMPLE.glob("gold/*.sql")}
    while waiting:
        # A model over a model waits for it.
        ready = [name for name, text in waiting.items() if not any(f"gold.{other}" in text for other in waiting)]
        for name in ready:
            source.execute(f"CREATE TABLE gold.{name} AS {waiting.pop(name)}")
    return source


def tables(expected):
    names = expected.execute("SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
    return [".".join(name) for name in names]


def assert_equal(server, expected):
    for table in tables(expected):
        found = server.table(f"SELECT * FROM {table}")
        names = ", ".join(f'"{column[0]}"' for column in expected.execute(f"DESCRIBE {table}").fetchall())
        missing = expected.execute(f"SELECT {names} FROM {table} EXCEPT ALL SELECT {names} FROM found").fetchall()
        extra = expected.execute(f"SELECT {names} FROM found EXCEPT ALL SELECT {names} FROM {table}").fetchall()
        assert (missing[:3], extra[:3]) == ([], []), f"{table}: {len(missing)} rows missing, {len(extra)} too many"
        count = expected.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        assert found.num_rows == count > 0, table


def test_the_demo_ends_with_exactly_what_duckdb_computes_from_the_source(tmp_path, expected):
    out = finish(demo(tmp_path / "data"))
    for model in ("busiest_routes", "carrier_delays", "daily_on_time", "weather_impact"):
        assert f"gold.{model}" in out
    for stage in ("sent", "delivered", "merged", "refreshed"):
        assert stage in out
    with Server(EXAMPLE, tmp_path / "data") as server:
        assert server.rows("SELECT count(*) AS n FROM silver.flights") == [{"n": FLIGHTS}]
        assert_equal(server, expected)
        assert server.rows("SELECT DISTINCT reason FROM system.quarantine") == []
    assert "all events were sent before" in finish(demo(tmp_path / "data"))


def test_killed_at_many_moments_it_ends_with_the_same_tables(tmp_path, expected):
    killed = 0
    for after in KILLS:
        process = demo(tmp_path / "data", start_new_session=True)
        time.sleep(after)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate(timeout=60)
    assert killed >= len(KILLS) // 2, "the demo was too fast to be killed"
    finish(demo(tmp_path / "data"))
    with Server(EXAMPLE, tmp_path / "data") as server:
        assert_equal(server, expected)
