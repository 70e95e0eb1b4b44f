"""The rows of the benchmark: the messages of examples/flights, made from its own SQL, as `make demo` makes them."""

import duckdb
import pyarrow as pa

from processes import REPO

EXAMPLE = REPO / "examples" / "flights"


def flight_events():
    """All of them in sending order, as an Arrow table."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET file_search_path = '{EXAMPLE / 'data'}'")
    return connection.execute((EXAMPLE / "events" / "flights.sql").read_text()).to_arrow_table()


def batches_of(table, rows):
    """Batches of so many rows, the last one's rest left out; each owns its memory, as a producer's would."""
    begins = range(0, table.num_rows - rows + 1, rows)
    return [pa.concat_batches(table.slice(at, rows).to_batches()) for at in begins]
