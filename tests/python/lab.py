"""A small definition that shows each rule of a table, and Arrow tables that fit it.

`readings` is keyed, with a sequence, deletes and an expectation; `logs` is append-only; `notes` has no declared
columns; `totals` and `loudest` are models, the second over the first.
"""

from datetime import datetime, timezone

import pyarrow as pa

TOML = """\
name = "lab"

[tables.readings]
description = "newest value of each sensor"
primary_key = ["id"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]

[[tables.readings.columns]]
name = "id"
type = "bigint"
nullable = false
description = "identifies the reading"

[[tables.readings.columns]]
name = "seq"
type = "bigint"

[[tables.readings.columns]]
name = "sensor"
type = "varchar"

[[tables.readings.columns]]
name = "value"
type = "double"

[[tables.readings.columns]]
name = "at"
type = "timestamp"

[[tables.readings.columns]]
name = "op"
type = "varchar"

[tables.readings.expect]
not_negative = { check = "value IS NULL OR value >= 0", on_fail = "quarantine" }

[tables.logs]
description = "what was said, in order of arrival"

[[tables.logs.columns]]
name = "line"
type = "bigint"

[[tables.logs.columns]]
name = "text"
type = "varchar"

[tables.notes]
description = "its first ingest declares its columns"

[models.totals]
description = "readings and their sum by sensor"
sql = "gold/totals.sql"

[models.loudest]
sql = "gold/loudest.sql"
"""

TOTALS = """\
SELECT sensor, count(*)::BIGINT AS readings, sum(value) AS total
FROM silver.readings
GROUP BY sensor
"""

LOUDEST = """\
SELECT sensor, total
FROM gold.totals
WHERE total = (SELECT max(total) FROM gold.totals)
"""

READINGS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("seq", pa.int64()),
        ("sensor", pa.string()),
        ("value", pa.float64()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("op", pa.string()),
    ]
)
LOGS = pa.schema([("line", pa.int64()), ("text", pa.string())])
NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=timezone.utc)


def write_definition(folder, toml=TOML):
    """Writes the definition into `folder`, which is made; returns the folder."""
    (folder / "gold").mkdir(parents=True)
    (folder / "lakehouse.toml").write_text(toml)
    (folder / "gold" / "totals.sql").write_text(TOTALS)
    (folder / "gold" / "loudest.sql").write_text(LOUDEST)
    return folder


def readings(*rows):
    """A table of readings from dicts; what a dict does not name is NULL, `seq` is 1 and `at` is noon."""
    full = [{"seq": 1, "at": NOON, **row} for row in rows]
    return pa.Table.from_pylist(full, schema=READINGS)


def logs(*texts):
    """A table of log lines, numbered from 1."""
    return pa.table({"line": range(1, len(texts) + 1), "text": list(texts)}, schema=LOGS)
