package mallard

import (
	"fmt"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
)

func TestAQueryGivesItsRows(t *testing.T) {
	feature(t, "queries", "NULLs")
	connection := connect(t)
	sql := "SELECT * FROM (VALUES (1, 'a', 0.5), (2, NULL, NULL), (3, 'naïve 🦆', -1.0)) t(n, text, x) ORDER BY n"
	require.Equal(t, []string{"1|a|0.5", "2|(null)|(null)", "3|naïve 🦆|-1"}, query(t, connection, sql))
}

func TestARowOfTablesIsJoinedFilteredAndGrouped(t *testing.T) {
	feature(t, "queries")
	connection, base := connect(t), own()
	ingest(t, connection, "stations", batch(t, stations, fmt.Sprintf(
		`[{"id":%d,"name":"north"},{"id":%d,"name":"south"}]`, base+1, base+2)))
	ingest(t, connection, "readings", batch(t, readings, fmt.Sprintf(`[
		{"station":%[1]d,"slot":1,"seq":1,"value":1.5},
		{"station":%[1]d,"slot":2,"seq":1,"value":2.5},
		{"station":%[2]d,"slot":1,"seq":1,"value":-4}]`, base+1, base+2)))
	rows := query(t, connection, fmt.Sprintf(`
		SELECT s.name, count(*) AS n, sum(r.value) AS total, rank() OVER (ORDER BY sum(r.value)) AS place
		FROM silver.readings r JOIN lab.silver.stations s ON s.id = r.station
		WHERE s.id BETWEEN %d AND %d GROUP BY s.name ORDER BY s.name`, base, base+999))
	require.Equal(t, []string{"north|2|4|2", "south|1|-4|1"}, rows)
}

func TestModelsFollowTheTablesThatTheyRead(t *testing.T) {
	feature(t, "queries")
	connection, base := connect(t), own()
	ingest(t, connection, "readings", batch(t, readings, fmt.Sprintf(`[
		{"station":%[1]d,"slot":1,"seq":1,"value":1},{"station":%[1]d,"slot":2,"seq":1,"value":2}]`, base)))
	awaitRows(t, connection, fmt.Sprintf("SELECT readings, total FROM by_station WHERE station = %d", base), "2|3")
}

func TestAResultWithoutRowsHasItsColumns(t *testing.T) {
	feature(t, "queries")
	reader, _, err := state(t, connect(t), "SELECT * FROM silver.logs WHERE false").ExecuteQuery(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"line", "text"}, names(reader.Schema()))
	rows, err := drain(reader)
	require.NoError(t, err)
	require.Empty(t, rows)
}

func TestALargeResultComesWhole(t *testing.T) {
	feature(t, "queries")
	statement := state(t, connect(t), "SELECT x, repeat('y', 40) FROM generate_series(1, 1000000) t(x)")
	reader, _, err := statement.ExecuteQuery(t.Context())
	require.NoError(t, err)
	defer reader.Release()
	rows, sum := int64(0), int64(0)
	for reader.Next() {
		rows += reader.RecordBatch().NumRows()
		for _, x := range reader.RecordBatch().Column(0).(*array.Int64).Values() {
			sum += x
		}
	}
	require.NoError(t, reader.Err())
	require.EqualValues(t, 1_000_000, rows)
	require.EqualValues(t, 500_000_500_000, sum)
}

func TestAStatementIsUsedForOneQueryAfterAnother(t *testing.T) {
	feature(t, "queries")
	statement := state(t, connect(t), "")
	for _, want := range []string{"1", "2"} {
		require.NoError(t, statement.SetSqlQuery("SELECT "+want))
		for range 2 {
			rows, err := run(t.Context(), statement)
			require.NoError(t, err)
			require.Equal(t, []string{want}, rows)
		}
	}
}

func TestASchemaIsTheSameAheadOfTheRowsAndWithThem(t *testing.T) {
	feature(t, "schema ahead of the rows (GetSchema, ExecuteSchema)")
	connection := connect(t)
	for _, sql := range []string{
		"SELECT 1 AS a, 'x' AS b, NULL AS c, now() AS d, 1.5 AS e, [1, 2] AS f",
		"SELECT * FROM silver.stations",
		"SELECT min(id), max(name), count(*), sum(id) FROM silver.stations",
		"SELECT station, avg(value) FROM silver.readings GROUP BY station ORDER BY 1",
		"SELECT * FROM system.ingests",
		"SHOW TABLES",
	} {
		ahead, err := schemaOf(t, state(t, connection, sql))
		require.NoError(t, err, sql)
		statement := state(t, connection, sql)
		require.NoError(t, statement.Prepare(t.Context()), sql)
		prepared, err := schemaOf(t, statement)
		require.NoError(t, err, sql)
		require.True(t, ahead.Equal(prepared), "%s:\n%s\n%s", sql, ahead, prepared)
		// The reader compares what it gets with what was announced.
		reader, _, err := statement.ExecuteQuery(t.Context())
		require.NoError(t, err, sql)
		require.True(t, ahead.Equal(reader.Schema()), "%s:\n%s\n%s", sql, ahead, reader.Schema())
		_, err = drain(reader)
		require.NoError(t, err, sql)
	}
}

func TestASchemaOfANonsenseIsRefused(t *testing.T) {
	feature(t, "schema ahead of the rows (GetSchema, ExecuteSchema)", "errors with their codes")
	_, err := schemaOf(t, state(t, connect(t), "SELECT nonsense FROM silver.stations"))
	failed(t, err, adbc.StatusInvalidArgument, "nonsense")
}

func TestWhatIsWrongWithAStatementIsSaid(t *testing.T) {
	feature(t, "errors with their codes")
	connection := connect(t)
	for sql, words := range map[string][]string{
		"SELECT * FROM silver.station":           {"silver.station", "did you mean silver.stations?"},
		"SELECT * FROM stations":                 {"gold.stations", "did you mean silver.stations?"},
		"SELECT * FROM other.silver.stations":    {`"other"`, `"lab"`},
		"SELECT * FROM bronze.stations":          {`"bronze"`, "silver"},
		"CREATE TABLE t (a int)":                 {"CREATE", "lakehouse.toml"},
		"DROP TABLE silver.stations":             {"DROP", "lakehouse.toml"},
		"TRUNCATE TABLE silver.stations":         {"TRUNCATE", "lakehouse.toml"},
		"COPY silver.stations TO 'x.csv'":        {"COPY", "ingest"},
		"SET search_path = silver":               {"session options"},
		"BEGIN":                                  {"transactions", "autocommit"},
		"INSERT INTO gold.by_station VALUES (1)": {"silver", "models"},
	} {
		_, err := try(t, connection, sql)
		refused(t, err, adbc.StatusInvalidArgument, words...)
	}
	for sql, word := range map[string]string{
		"SELEKT 1":  "SELEKT",
		"SELECT (1": "SQL",
		"SELECT * FROM silver.stations FOR VERSION AS x": "VERSION",
		" ":                                 "statement",
		"SELECT nam FROM silver.stations":   "nam",
		"SELECT nonsense(1)":                "nonsense",
		"SELECT 1; SELECT 2":                "statement",
		"SELECT sum(name) FROM silver.logs": "name",
	} {
		_, err := try(t, connection, sql)
		failed(t, err, adbc.StatusInvalidArgument, word)
	}
}

func TestWhatFailsWhileItRunsIsTheStatementsFault(t *testing.T) {
	feature(t, "errors with their codes")
	connection := connect(t)
	for sql, word := range map[string]string{
		"SELECT 1 / (x - 5) FROM generate_series(1, 10) t(x)":                "zero",
		"SELECT CAST(concat('x', x) AS INT) FROM generate_series(1, 3) t(x)": "x1",
		"SELECT CAST(x + 100 AS TINYINT) FROM generate_series(1, 100) t(x)":  "128",
	} {
		_, err := try(t, connection, sql)
		failed(t, err, adbc.StatusInvalidArgument, word)
	}
	require.Equal(t, []string{"1"}, query(t, connection, "SELECT 1"), "the connection goes on")
}

func names(schema *arrow.Schema) []string {
	names := []string{}
	for _, field := range schema.Fields() {
		names = append(names, field.Name)
	}
	return names
}
