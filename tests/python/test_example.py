"""The example definition, through the clients that its README recommends."""

import pyarrow.parquet as parquet
import pytest

from mallard import EXAMPLE

TABLES = {"flights", "weather", "airlines", "airports", "planes"}


@pytest.fixture(scope="module")
def airlines():
    return parquet.read_table(EXAMPLE / "data" / "airlines.parquet")


def test_all_tables_are_there_before_the_first_row(flights):
    rows = flights.rows("SELECT table_name FROM system.tables WHERE schema_name = 'silver'")
    assert {row["table_name"] for row in rows} == TABLES


def test_all_models_are_there_before_the_first_row(flights):
    names = {row["model_name"] for row in flights.rows("SELECT model_name FROM system.models")}
    assert "carrier_delays" in names
    assert len(names) >= 4


def test_a_source_file_goes_in_and_comes_out(flights, airlines):
    flights.ingest("airlines", airlines)
    got = flights.table("SELECT carrier, name FROM silver.airlines ORDER BY carrier")
    want = airlines.select(["carrier", "name"]).sort_by("carrier")
    assert got.to_pylist() == want.to_pylist()


def test_the_same_file_again_changes_nothing_in_a_keyed_table(flights, airlines):
    for _ in range(2):
        flights.ingest("airlines", airlines)
    assert flights.rows("SELECT count(*) AS n FROM silver.airlines") == [{"n": airlines.num_rows}]
