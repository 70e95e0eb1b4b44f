"""What the merge benchmark compares with: the Lambda of a Python stack, as such stacks have it.

A file of changes is read by DuckDB, of each key the newest row is kept, and delta-rs merges them by key. It runs in a
process of its own, and prints a line of JSON: the seconds of the merge without the start of Python.
"""

import argparse
import json
import time

begun = time.perf_counter()

import duckdb  # noqa: E402
from deltalake import DeltaTable  # noqa: E402

KEY, SEQUENCE = "id", "seq"
READERS = {
    "parquet": "read_parquet('{}')",
    # The stack's own table of types, since JSON has too few.
    "ndjson": "read_json('{}', format = 'newline_delimited', columns = {{id: 'BIGINT', seq: 'BIGINT', "
    "customer: 'INTEGER', quantity: 'INTEGER', amount: 'DECIMAL(12,2)', weight: 'DOUBLE', status: 'VARCHAR', "
    "note: 'VARCHAR', updated_at: 'TIMESTAMPTZ'}})",
}


def newest(file, reader):
    """The newest row of each key, as an Arrow table."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    source = READERS[reader].format(file)
    order = f"PARTITION BY {KEY} ORDER BY {SEQUENCE} DESC"
    return connection.sql(f"FROM {source} QUALIFY row_number() OVER ({order}) = 1").to_arrow_table()


def merge(table, changes, is_streamed):
    merger = DeltaTable(table).merge(
        changes,
        predicate=f"target.{KEY} = source.{KEY}",
        source_alias="source",
        target_alias="target",
        streamed_exec=is_streamed,
    )
    return merger.when_matched_update_all().when_not_matched_insert_all().execute()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="folder of the Delta table")
    parser.add_argument("changes", help="file of changes")
    parser.add_argument("--reader", choices=READERS, required=True)
    # delta-rs looks at the range of the changes' keys before it reads files only if they are in memory.
    parser.add_argument("--in-memory", action="store_true", help="not delta-rs's default")
    given = parser.parse_args()

    imported = time.perf_counter()
    changes = newest(given.changes, given.reader)
    read = time.perf_counter()
    told = merge(given.table, changes, not given.in_memory)
    done = time.perf_counter()
    seconds = {"import": imported - begun, "read": read - imported, "merge": done - read}
    print(json.dumps({"seconds": seconds, "rows": changes.num_rows, "told": told}))


if __name__ == "__main__":
    main()
