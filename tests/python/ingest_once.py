"""Ingests one CSV file and waits until its rows are in silver: ingest_once.py URI TABLE FILE.

It is there for tests in languages whose drivers cannot ingest. The header of the file gives each column as
`name:type`, with the types of TYPES; an empty field is NULL.
"""

import sys
from contextlib import closing

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow as pa
import pyarrow.csv as csv
from adbc_driver_flightsql import DatabaseOptions

from mallard import INGEST_ID_HEADER, wait_for

TYPES = {
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "varchar": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "timestamp_ntz": pa.timestamp("us"),
    "decimal": pa.decimal128(10, 2),
    "blob": pa.binary(),
}


def read(path):
    with open(path, encoding="utf-8") as file:
        columns = dict(field.split(":") for field in file.readline().strip().split(","))
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(skip_rows=1, column_names=list(columns)),
        convert_options=csv.ConvertOptions(
            column_types={name: TYPES[kind] for name, kind in columns.items()}, strings_can_be_null=True
        ),
    )


def main(uri, table, path):
    ingest_id = f"once-{table}"
    headers = {DatabaseOptions.RPC_CALL_HEADER_PREFIX.value + INGEST_ID_HEADER: ingest_id}
    data = read(path)
    with closing(flight_sql.connect(uri, db_kwargs=headers, autocommit=True)) as connection:
        with connection.cursor() as cursor:
            accepted = cursor.adbc_ingest(table, data, mode="append")
            assert accepted == data.num_rows, f"{data.num_rows} rows were sent, {accepted} accepted"

        def merged():
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT merged_at FROM system.ingests WHERE ingest_id = '{ingest_id}'")
                rows = cursor.fetchall()
                return bool(rows) and rows[0][0] is not None

        wait_for(merged, f"the merge of {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
