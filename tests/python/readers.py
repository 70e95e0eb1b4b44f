"""Reads a Delta table with a reader that nobody here wrote: `python readers.py READER TABLE OUT VERSION …`.

A process of its own each, since some of them bring threads and signal handlers. A version becomes an Arrow IPC file in
the folder OUT, named for it.
"""

import os
import sys
from pathlib import Path

import pyarrow as pa

# Fits requirements-spark.txt.
SPARK_PACKAGE = "io.delta:delta-spark_2.13:4.0.1"


def delta_rs(table, version):
    from deltalake import DeltaTable, QueryBuilder

    # Its way over pyarrow's datasets refuses deletion vectors.
    found = QueryBuilder().register("found", DeltaTable(table, version=version)).execute("SELECT * FROM found")
    return pa.RecordBatchReader.from_stream(found).read_all()


def polars(table, version):
    import polars as pl

    return pl.scan_delta(table, version=version).collect().to_arrow()


def duckdb(table, version):
    import duckdb
    import duckdb_extension_delta

    extensions = Path(duckdb_extension_delta.__file__).parent / "extensions"
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"LOAD '{extensions / f'v{duckdb.__version__}' / 'delta.duckdb_extension'}'")
    return connection.sql(f"FROM delta_scan('{table}', version = {version})").to_arrow_table()


def clickhouse(table, version):
    import chdb

    # It reads only what lies in the current folder.
    os.chdir(Path(table).parent)
    # Without delta-kernel it takes no notice of deletion vectors, and gives rows that are gone.
    settings = f"allow_delta_kernel_rs = 1, delta_lake_snapshot_version = {version}"
    found = chdb.query(f"SELECT * FROM deltaLakeLocal('{table}') SETTINGS {settings}", "ArrowStream")
    return pa.ipc.open_stream(found.bytes()).read_all()


def spark(table, version):
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]")
    settings = {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.jars.packages": SPARK_PACKAGE,
        "spark.jars.ivy": f"{sys.prefix}/ivy",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    # One session serves all versions.
    session = builder.getOrCreate()
    return session.read.format("delta").option("versionAsOf", version).load(table).toArrow()


READERS = {"delta-rs": delta_rs, "Polars": polars, "DuckDB": duckdb, "ClickHouse": clickhouse, "Spark": spark}


def main():
    reader, table, out, *versions = sys.argv[1:]
    os.environ["TZ"] = "UTC"
    out = Path(out).absolute()
    for version in versions:
        rows = READERS[reader](table, int(version))
        with pa.ipc.new_file(str(out / f"{version}.arrow"), rows.schema) as writer:
            writer.write_table(rows)


if __name__ == "__main__":
    main()
