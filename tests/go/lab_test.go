package mallard

import (
	"os"
	"path/filepath"

	"github.com/apache/arrow-go/v18/arrow"
)

// lakehouse declares tables that point to each other: readings has a sequence and deletes, alarms and logs are
// append-only, kinds has a column of each type.
const lakehouse = `
name = "lab"
allow_create = true

[tables.stations]
description = "where readings come from"
primary_key = ["id"]
columns = [
  { name = "id",   type = "bigint", description = "tells stations apart" },
  { name = "name", type = "varchar" },
]

[tables.readings]
description = "the newest value of each slot of a station"
primary_key = ["station", "slot"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]
foreign_keys = [{ columns = ["station"], references = "stations" }]
columns = [
  { name = "station", type = "bigint" },
  { name = "slot",    type = "integer" },
  { name = "seq",     type = "bigint", nullable = false },
  { name = "value",   type = "double" },
  { name = "note",    type = "varchar" },
]

[tables.alarms]
foreign_keys = [{ columns = ["station", "slot"], references = "readings" }]
columns = [
  { name = "station", type = "bigint" },
  { name = "slot",    type = "integer" },
  { name = "text",    type = "varchar" },
]

[tables.logs]
description = "what was said, in order of arrival"
columns = [
  { name = "line", type = "bigint" },
  { name = "text", type = "varchar" },
]

[tables.noise]
description = "large enough to be read in slices"
columns = [
  { name = "line", type = "bigint" },
  { name = "text", type = "varchar" },
]

[tables.kinds]
columns = [
  { name = "n",             type = "integer" },
  { name = "boolean",       type = "boolean" },
  { name = "tinyint",       type = "tinyint" },
  { name = "smallint",      type = "smallint" },
  { name = "bigint",        type = "bigint" },
  { name = "float",         type = "float" },
  { name = "double",        type = "double" },
  { name = "decimal",       type = "decimal(12,2)" },
  { name = "varchar",       type = "varchar" },
  { name = "json",          type = "json" },
  { name = "date",          type = "date" },
  { name = "timestamp",     type = "timestamp" },
  { name = "timestamp_ntz", type = "timestamp_ntz" },
  { name = "blob",          type = "blob" },
  { name = "list",          type = "integer[]" },
  { name = "struct",        type = "struct(a integer, b varchar)" },
  { name = "map",           type = "map(varchar, integer)" },
  { name = "deep",          type = "struct(tags varchar[], at date)[]" },
]

[models.by_station]
description = "readings and their sum by station"
sql = "gold/by_station.sql"
mode = "merge"
unique_key = ["station"]
`

const byStation = `
SELECT station, count(*)::BIGINT AS readings, sum(value) AS total
FROM silver.readings
GROUP BY station
`

// stations, readings and logs are the schemas of rows that go into the tables of these names.
var (
	stations = arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int64},
		{Name: "name", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	readings = arrow.NewSchema([]arrow.Field{
		{Name: "station", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "slot", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "seq", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "value", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "op", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	logs = arrow.NewSchema([]arrow.Field{
		{Name: "line", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
)

func writeDefinition(folder string) error {
	if err := os.MkdirAll(filepath.Join(folder, "gold"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "gold", "by_station.sql"), []byte(byStation), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "lakehouse.toml"), []byte(lakehouse), 0o644)
}
