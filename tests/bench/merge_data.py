"""The data of the merge benchmark, and what must come out of it. Each command is a process of its own, so that the
process that measures stays small.

A row is a function of its key and its sequence, so the table, the changes and the result need no state:

- `table`: a Delta table by delta-rs, sorted by key, so that its files have ranges of keys that do not overlap;
- `changes`: the same rows three times: as a bronze object of frames, as Parquet and as NDJSON (gzip). One key in
  twenty comes twice, with an older sequence;
- `check`: whether a table, read by delta-rs, holds what it must, row by row, both ways.
"""

import argparse
import json
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder, write_deltalake

import bronze

TABLE = "events"
MEMORY_LIMIT = "4GB"
FILES = 12
SEQUENCES_A_ROUND = 10
TWICE_EVERY = 20
SEED = 5

# `hash` is deterministic within one version of DuckDB; nothing of it outlives a run but the table, whose folder is
# named for its maker.
ROWS = """\
SELECT
    id,
    seq,
    (hash(id, seq, 1) % 50000)::INTEGER AS customer,
    (hash(id, seq, 2) % 100)::INTEGER AS quantity,
    ((hash(id, seq, 3) % 10000000)::DECIMAL(12,2) / 100)::DECIMAL(12,2) AS amount,
    (hash(id, seq, 4) % 1000000)::DOUBLE / 1000 AS weight,
    ['new', 'paid', 'packed', 'sent', 'returned'][(hash(id, seq, 5) % 5)::INTEGER + 1] AS status,
    'to be left at door ' || (hash(id, seq, 6) % 1000000)::VARCHAR AS note,
    to_timestamp(1767225600 + (hash(id, seq, 7) % 2592000)::BIGINT) AS updated_at
FROM {source}
"""


def connect():
    connection = duckdb.connect()
    connection.execute(f"SET TimeZone = 'UTC'; SET memory_limit = '{MEMORY_LIMIT}'")
    return connection


def make_table(folder, rows):
    """One commit a file: within one, delta-rs would deal the batches out to several files, and ranges would overlap."""
    connection = connect()
    for file in range(FILES):
        begin, end = rows * file // FILES, rows * (file + 1) // FILES
        source = f"(SELECT range + 1 AS id, range % 1000 + 1 AS seq FROM range({begin}, {end}))"
        sorted_rows = connection.sql(f"FROM ({ROWS.format(source=source)}) ORDER BY id").to_arrow_table()
        write_deltalake(folder, sorted_rows.combine_chunks(), mode="append")


def changed(kind, rows, count, round_number):
    """Keys and sequences of a round's changes, in order of arrival."""
    random = np.random.default_rng([SEED, round_number])
    if kind == "clustered":
        # In the middle of the table, another place each round.
        first = 1 + (rows // 2 + round_number * 7 * count) % (rows - count)
        ids = np.arange(first, first + count)
    else:
        ids = random.choice(rows, count, replace=False) + 1
        # Keys that are not there yet.
        new = max(count // 100, 1)
        ids[:new] = rows + round_number * new + np.arange(1, new + 1)
    random.shuffle(ids)
    newest = 1_000_000 * (round_number + 1)
    older = ids[::TWICE_EVERY]
    sequences = np.concatenate([np.full(len(ids), newest), np.full(len(older), newest - 1)])
    return pa.table({"id": np.concatenate([ids, older]), "seq": sequences})


def make_changes(folder, kind, rows, count, round_number):
    folder.mkdir(parents=True)
    connection = connect()
    keys = changed(kind, rows, count, round_number)
    first, last = pc.min_max(keys["id"]).as_py().values()
    (folder / "keys.json").write_text(json.dumps({"first": first, "last": last}))
    connection.register("keys", keys)
    changes = connection.sql(ROWS.format(source="keys")).to_arrow_table()
    pq.write_table(changes, folder / "changes.parquet")
    connection.register("changes", changes)
    connection.execute(
        "COPY (SELECT * REPLACE (strftime(updated_at, '%Y-%m-%dT%H:%M:%S.%fZ') AS updated_at) FROM changes) "
        f"TO '{folder / 'changes.ndjson.gz'}' (FORMAT json, COMPRESSION gzip)"
    )
    with open(folder / "changes.frames", "wb") as file:
        for frame in bronze.frames(TABLE, f"bench-{kind}-{round_number}", changes):
            file.write(frame)


def rows_of(table):
    """The rows of a Delta table, deletion vectors applied, as a stream."""
    found = QueryBuilder().register("found", DeltaTable(table)).execute("SELECT * FROM found")
    return pa.RecordBatchReader.from_stream(found)


def check(table, base, changes, by_sum):
    """What is wrong with a table that was `base` before the changes; None if nothing is. By the sum of the rows' hashes
    it is quicker, and says less."""
    connection = connect()
    files = [str(folder / "changes.parquet") for folder in changes]
    order = "PARTITION BY id ORDER BY seq DESC"
    connection.execute(f"CREATE TABLE newest AS FROM read_parquet({files}) QUALIFY row_number() OVER ({order}) = 1")
    connection.execute(
        f"CREATE VIEW wanted AS FROM read_parquet('{base}/*.parquet') ANTI JOIN newest USING (id) "
        "UNION ALL FROM newest"
    )
    found = rows_of(table)
    connection.register("stream", found)
    connection.execute("CREATE TABLE found AS FROM stream")
    columns, others = (
        [column[:2] for column in connection.sql(f"DESCRIBE {name}").fetchall()] for name in ("wanted", "found")
    )
    if columns != others:
        return f"its columns are {others}, not {columns}"
    if by_sum:
        sums = [
            connection.sql(f"SELECT count(*), sum(hash(*COLUMNS(*))::HUGEINT) FROM {name}").fetchone()
            for name in ("wanted", "found")
        ]
        return None if sums[0] == sums[1] else f"rows and sum of their hashes are {sums[1]}, not {sums[0]}"
    for these, those, what in (("wanted", "found", "missing"), ("found", "wanted", "wrong")):
        differing = f"(FROM {these} EXCEPT ALL FROM {those}) AS differing"
        if rows := connection.sql(f"SELECT differing::VARCHAR FROM {differing} LIMIT 3").fetchall():
            return f"rows are {what}: {rows}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("table")
    command.add_argument("folder", type=Path)
    command.add_argument("rows", type=int)
    command = commands.add_parser("changes")
    command.add_argument("folder", type=Path)
    command.add_argument("kind", choices=("random", "clustered"))
    command.add_argument("rows", type=int)
    command.add_argument("count", type=int)
    command.add_argument("first_round", type=int)
    command.add_argument("rounds", type=int)
    command = commands.add_parser("check")
    command.add_argument("table", type=Path)
    command.add_argument("base", type=Path)
    command.add_argument("changes", type=Path, nargs="+")
    command.add_argument("--by-sum", action="store_true")
    given = parser.parse_args()
    match given.command:
        case "table":
            make_table(given.folder, given.rows)
        case "changes":
            for number in range(given.first_round, given.first_round + given.rounds):
                make_changes(given.folder / str(number), given.kind, given.rows, given.count, number)
        case "check":
            if problem := check(given.table, given.base, given.changes, given.by_sum):
                sys.exit(f"{given.table} is not what it must be: {problem}")


if __name__ == "__main__":
    main()
