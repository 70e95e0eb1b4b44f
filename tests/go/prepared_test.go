package mallard

import (
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
)

// prepare gives a prepared statement.
func prepare(t *testing.T, connection adbc.Connection, sql string) adbc.Statement {
	t.Helper()
	statement := state(t, connection, sql)
	require.NoError(t, statement.Prepare(t.Context()), sql)
	return statement
}

// bound runs a prepared query with one batch of values.
func bound(t *testing.T, statement adbc.Statement, values arrow.RecordBatch) ([]string, error) {
	t.Helper()
	require.NoError(t, statement.Bind(t.Context(), values))
	return run(t.Context(), statement)
}

// columns is a schema of nullable columns, called by their place.
func columns(types ...arrow.DataType) *arrow.Schema {
	fields := make([]arrow.Field, len(types))
	for i, its := range types {
		fields[i] = arrow.Field{Name: fmt.Sprintf("%d", i), Type: its, Nullable: true}
	}
	return arrow.NewSchema(fields, nil)
}

func threeStations(t *testing.T) (connection adbc.Connection, base int64) {
	t.Helper()
	connection, base = connect(t), own()
	ingest(t, connection, "stations", batch(t, stations, fmt.Sprintf(
		`[{"id":%d,"name":"a"},{"id":%d,"name":"b"},{"id":%d,"name":null}]`, base+1, base+2, base+3)))
	return connection, base
}

func TestAPreparedQueryIsRunAgainWithOtherValues(t *testing.T) {
	feature(t, "prepared statements", "bound parameters", "NULLs")
	connection, base := threeStations(t)
	statement := prepare(t, connection, "SELECT name FROM silver.stations WHERE id - ? = ?")
	values := columns(arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64)
	for offset, want := range []string{"", "a", "b", "(null)"} {
		rows, err := bound(t, statement, batch(t, values, fmt.Sprintf(`[{"0":%d,"1":%d}]`, base, offset)))
		require.NoError(t, err)
		require.Equal(t, want, strings.Join(rows, ","))
	}
	again, err := run(t.Context(), statement)
	require.NoError(t, err)
	require.Equal(t, []string{"(null)"}, again, "values stay until others are bound")
}

func TestAPreparedQueryWithoutParametersReadsWhatIsNew(t *testing.T) {
	feature(t, "prepared statements")
	connection, base := connect(t), own()
	statement := prepare(t, connection, fmt.Sprintf("SELECT name FROM silver.stations WHERE id = %d", base))
	rows, err := run(t.Context(), statement)
	require.NoError(t, err)
	require.Empty(t, rows)
	ingest(t, connection, "stations", batch(t, stations, fmt.Sprintf(`[{"id":%d,"name":"new"}]`, base)))
	rows, err = run(t.Context(), statement)
	require.NoError(t, err)
	require.Equal(t, []string{"new"}, rows)
}

func TestEachRowOfValuesRunsTheQueryOnce(t *testing.T) {
	feature(t, "bound parameters")
	connection, base := threeStations(t)
	statement := prepare(t, connection, "SELECT id - ?, name FROM silver.stations WHERE id = ?")
	values := columns(arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64)
	pair := func(offset int64) string { return fmt.Sprintf(`{"0":%d,"1":%d}`, base, base+offset) }
	first := batch(t, values, "["+pair(3)+","+pair(1)+"]")
	rows, err := bound(t, statement, first)
	require.NoError(t, err)
	require.Equal(t, []string{"3|(null)", "1|a"}, rows)

	second := batch(t, values, "["+pair(2)+","+pair(9)+","+pair(2)+"]")
	require.NoError(t, statement.BindStream(t.Context(), stream(t, values, first, second)))
	rows, err = run(t.Context(), statement)
	require.NoError(t, err)
	require.Equal(t, []string{"3|(null)", "1|a", "2|b", "2|b"}, rows)
}

func TestAStatementTellsTheTypesOfItsParameters(t *testing.T) {
	feature(t, "bound parameters")
	statement := prepare(t, connect(t),
		"SELECT name FROM silver.stations WHERE id > ? AND name LIKE ? LIMIT ?")
	schema, err := statement.GetParameterSchema()
	require.NoError(t, err)
	types := []string{}
	for _, field := range schema.Fields() {
		types = append(types, field.Type.String())
	}
	require.Equal(t, []string{"int64", "utf8", "int64"}, types)

	none := prepare(t, connect(t), "SELECT 1")
	schema, err = none.GetParameterSchema()
	require.NoError(t, err)
	require.Zero(t, schema.NumFields())
}

func TestValuesOfEveryTypeAreBound(t *testing.T) {
	feature(t, "bound parameters", "scalar types")
	connection := connect(t)
	dictionary := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	for _, value := range []struct {
		its  arrow.DataType
		sql  string
		json string
		want string
	}{
		{arrow.FixedWidthTypes.Boolean, "BOOLEAN", `true`, "true"},
		{arrow.PrimitiveTypes.Int8, "BIGINT", `-128`, "-128"},
		{arrow.PrimitiveTypes.Int32, "BIGINT", `7`, "7"},
		{arrow.PrimitiveTypes.Uint64, "BIGINT", `9`, "9"},
		{arrow.PrimitiveTypes.Float32, "DOUBLE", `0.5`, "0.5"},
		{arrow.PrimitiveTypes.Float64, "DOUBLE", `-1.25`, "-1.25"},
		{&arrow.Decimal128Type{Precision: 12, Scale: 2}, "DECIMAL(12,2)", `"123.45"`, "123.45"},
		{arrow.BinaryTypes.String, "VARCHAR", `"naïve 🦆"`, "naïve 🦆"},
		{arrow.BinaryTypes.LargeString, "VARCHAR", `"large"`, "large"},
		{arrow.BinaryTypes.StringView, "VARCHAR", `"a view of a text that is long"`, "a view of a text that is long"},
		{arrow.BinaryTypes.Binary, "BYTEA", `"AAH/"`, "AAH/"},
		{arrow.FixedWidthTypes.Date32, "DATE", `"2024-02-29"`, "2024-02-29"},
		{arrow.FixedWidthTypes.Timestamp_us, "TIMESTAMP", `"2024-02-29T12:00:00.123456Z"`, "2024-02-29T12:00:00.123456"},
		{dictionary, "VARCHAR", `"d"`, "d"},
	} {
		statement := prepare(t, connection, fmt.Sprintf("SELECT CAST(? AS %s)", value.sql))
		for json, want := range map[string]string{value.json: value.want, "null": array.NullValueStr} {
			rows, err := bound(t, statement, batch(t, columns(value.its), `[{"0":`+json+`}]`))
			require.NoError(t, err, "%s %s as %s", value.its, json, value.sql)
			require.Equal(t, []string{want}, rows, "%s %s as %s", value.its, json, value.sql)
		}
	}
}

func TestRowsOfValuesMayDifferInTheirNulls(t *testing.T) {
	feature(t, "bound parameters", "NULLs")
	statement := prepare(t, connect(t), "SELECT CAST(? AS BIGINT)")
	rows, err := bound(t, statement, batch(t, columns(arrow.PrimitiveTypes.Int64), `[{"0":1},{"0":null},{"0":2}]`))
	require.NoError(t, err)
	require.Equal(t, []string{"1", "(null)", "2"}, rows)
}

func TestValuesThatDoNotFitAreRefused(t *testing.T) {
	feature(t, "bound parameters", "errors with their codes")
	connection := connect(t)
	text, whole := arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int64
	statement := prepare(t, connection, "SELECT name FROM silver.stations WHERE id = ?")

	_, err := run(t.Context(), statement)
	refused(t, err, adbc.StatusInvalidArgument, "the statement has 1", "0 were bound")
	_, err = bound(t, statement, batch(t, columns(whole, whole), `[{"0":1,"1":2}]`))
	refused(t, err, adbc.StatusInvalidArgument, "the statement has 1", "2 were bound")
	_, err = bound(t, statement, batch(t, columns(text), `[{"0":"not a number"}]`))
	failed(t, err, adbc.StatusInvalidArgument, "not a number")

	none := prepare(t, connection, "SELECT 1")
	_, err = bound(t, none, batch(t, columns(whole), `[{"0":1}]`))
	refused(t, err, adbc.StatusInvalidArgument, "the statement has 0", "1 were bound")

	many := "[" + strings.Repeat(`{"0":1},`, 1000) + `{"0":1}]`
	_, err = bound(t, statement, batch(t, columns(whole), many))
	refused(t, err, adbc.StatusInternal, "1001 rows", "1000")
}

func TestAQueryThatCannotBePlannedIsRefusedWhenItIsPrepared(t *testing.T) {
	feature(t, "prepared statements", "errors with their codes")
	connection := connect(t)
	err := state(t, connection, "SELECT * FROM silver.nowhere").Prepare(t.Context())
	refused(t, err, adbc.StatusInvalidArgument, "silver.nowhere")
	err = state(t, connection, "SELECT $name").Prepare(t.Context())
	refused(t, err, adbc.StatusInvalidArgument, "$name", "number parameters")
}
