package mallard

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
)

// one gives the only column of a result of one batch, and its type.
func one(t *testing.T, sql string) arrow.Array {
	t.Helper()
	reader, _, err := state(t, connect(t), sql).ExecuteQuery(t.Context())
	require.NoError(t, err, sql)
	defer reader.Release()
	require.True(t, reader.Next(), sql)
	column := reader.RecordBatch().Column(0)
	column.Retain()
	t.Cleanup(column.Release)
	require.False(t, reader.Next(), sql)
	require.NoError(t, reader.Err(), sql)
	return column
}

func TestEachScalarTypeComesAsItself(t *testing.T) {
	feature(t, "scalar types", "NULLs")
	decimal := &arrow.Decimal128Type{Precision: 12, Scale: 2}
	for _, value := range []struct {
		sql  string
		its  arrow.DataType
		want string
	}{
		{"true", arrow.FixedWidthTypes.Boolean, "true"},
		{"CAST(-128 AS TINYINT)", arrow.PrimitiveTypes.Int8, "-128"},
		{"CAST(-32768 AS SMALLINT)", arrow.PrimitiveTypes.Int16, "-32768"},
		{"CAST(-2147483648 AS INT)", arrow.PrimitiveTypes.Int32, "-2147483648"},
		{"CAST('-9223372036854775808' AS BIGINT)", arrow.PrimitiveTypes.Int64, "-9223372036854775808"},
		{"CAST(255 AS TINYINT UNSIGNED)", arrow.PrimitiveTypes.Uint8, "255"},
		{"CAST('18446744073709551615' AS BIGINT UNSIGNED)", arrow.PrimitiveTypes.Uint64, "18446744073709551615"},
		{"CAST(0.1 AS REAL)", arrow.PrimitiveTypes.Float32, "0.1"},
		{"CAST(0.1 AS DOUBLE)", arrow.PrimitiveTypes.Float64, "0.1"},
		{"CAST('NaN' AS DOUBLE)", arrow.PrimitiveTypes.Float64, "NaN"},
		{"CAST('-123.45' AS DECIMAL(12,2))", decimal, "-123.45"},
		{"arrow_cast('1.5', 'Decimal256(60, 1)')", &arrow.Decimal256Type{Precision: 60, Scale: 1}, "1.5"},
		{"'naïve 🦆'", arrow.BinaryTypes.String, "naïve 🦆"},
		{"''", arrow.BinaryTypes.String, ""},
		{"X'00ff'", arrow.BinaryTypes.Binary, "AP8="},
		{"DATE '2024-02-29'", arrow.FixedWidthTypes.Date32, "2024-02-29"},
		{"TIME '23:59:59.123456'", arrow.FixedWidthTypes.Time64ns, "23:59:59.123456000"},
		{"arrow_cast('2024-02-29T12:00:00.123456', 'Timestamp(Microsecond, None)')",
			&arrow.TimestampType{Unit: arrow.Microsecond}, "2024-02-29T12:00:00.123456"},
		{"arrow_cast('2024-02-29T12:00:00.123456Z', 'Timestamp(Microsecond, Some(\"UTC\"))')",
			arrow.FixedWidthTypes.Timestamp_us, "2024-02-29T12:00:00.123456Z"},
		{"NULL", arrow.Null, array.NullValueStr},
	} {
		column := one(t, "SELECT "+value.sql)
		require.Equal(t, value.its.String(), column.DataType().String(), value.sql)
		require.Equal(t, value.want, column.ValueStr(0), value.sql)
		if value.its != arrow.Null {
			absent := one(t, "SELECT nullif("+value.sql+", "+value.sql+")")
			require.Equal(t, value.its.String(), absent.DataType().String(), value.sql)
			require.True(t, absent.IsNull(0), value.sql)
		}
	}
}

func TestAnInstantHasATimeZone(t *testing.T) {
	feature(t, "scalar types")
	for _, sql := range []string{
		"now()", "CAST('2024-02-29T12:00:00Z' AS TIMESTAMPTZ)", "CAST('2024-02-29T12:00:00Z' AS TIMESTAMP WITH TIME ZONE)",
	} {
		its, is := one(t, "SELECT "+sql).DataType().(*arrow.TimestampType)
		require.True(t, is, sql)
		require.Contains(t, []string{"UTC", "+00:00"}, its.TimeZone, sql)
	}
}

// Some clients can't read views and dictionaries, so they come as what they stand for.
func TestWhatTheEngineUsesInsideComesPlain(t *testing.T) {
	feature(t, "scalar types")
	for encoding, want := range map[string]arrow.DataType{
		"Utf8View":                     arrow.BinaryTypes.String,
		"Dictionary(Int32, Utf8)":      arrow.BinaryTypes.String,
		"Dictionary(UInt8, LargeUtf8)": arrow.BinaryTypes.LargeString,
		"LargeUtf8":                    arrow.BinaryTypes.LargeString,
		"BinaryView":                   arrow.BinaryTypes.Binary,
	} {
		column := one(t, "SELECT arrow_cast('x', '"+encoding+"')")
		require.Equal(t, want.String(), column.DataType().String(), encoding)
	}
}

func TestNestedTypesComeAsThemselves(t *testing.T) {
	feature(t, "nested types", "NULLs")
	for sql, want := range map[string]string{
		"[1, NULL, 3]":                                 `[1,null,3]`,
		"CAST([] AS BIGINT[])":                         `[]`,
		"[[1], [], NULL]":                              `[[1],[],null]`,
		"named_struct('a', 1, 'b', 'x', 'c', NULL)":    `{"a":1,"b":"x","c":null}`,
		"[named_struct('a', 1), named_struct('a', 2)]": `[{"a":1},{"a":2}]`,
		"named_struct('a', [1, 2], 'b', named_struct('c', DATE '2024-02-29'))": `{"a":[1,2],"b":{"c":"2024-02-29"}}`,
		"MAP {'k': 1, 'l': 2}":                          `[{"key":"k","value":1},{"key":"l","value":2}]`,
		"arrow_cast([1, 2], 'FixedSizeList(2, Int64)')": `[1,2]`,
		"arrow_cast([1, 2], 'LargeList(Int64)')":        `[1,2]`,
	} {
		require.JSONEq(t, want, one(t, "SELECT "+sql).ValueStr(0), sql)
	}
}

// kinds is the schema of the table of all types, as it is read.
var kinds = arrow.NewSchema([]arrow.Field{
	{Name: "n", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	{Name: "boolean", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "tinyint", Type: arrow.PrimitiveTypes.Int8, Nullable: true},
	{Name: "smallint", Type: arrow.PrimitiveTypes.Int16, Nullable: true},
	{Name: "bigint", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "float", Type: arrow.PrimitiveTypes.Float32, Nullable: true},
	{Name: "double", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "decimal", Type: &arrow.Decimal128Type{Precision: 12, Scale: 2}, Nullable: true},
	{Name: "varchar", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "json", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "date", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
	{Name: "timestamp", Type: arrow.FixedWidthTypes.Timestamp_us, Nullable: true},
	{Name: "timestamp_ntz", Type: &arrow.TimestampType{Unit: arrow.Microsecond}, Nullable: true},
	{Name: "blob", Type: arrow.BinaryTypes.Binary, Nullable: true},
	{Name: "list", Type: arrow.ListOf(arrow.PrimitiveTypes.Int32), Nullable: true},
	{Name: "struct", Type: arrow.StructOf(
		arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		arrow.Field{Name: "b", Type: arrow.BinaryTypes.String, Nullable: true},
	), Nullable: true},
	{Name: "map", Type: arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int32), Nullable: true},
	{Name: "deep", Type: arrow.ListOf(arrow.StructOf(
		arrow.Field{Name: "tags", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true},
		arrow.Field{Name: "at", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
	)), Nullable: true},
}, nil)

const kindsRows = `[
	{"n": 1, "boolean": true, "tinyint": -128, "smallint": 32767, "bigint": 9223372036854775807, "float": 0.5,
	 "double": -0.1, "decimal": "9999999999.99", "varchar": "naïve 🦆", "json": "{\"a\": [1, null]}", "date": "2024-02-29",
	 "timestamp": "2024-02-29T12:00:00.123456Z", "timestamp_ntz": "1969-12-31T23:59:59.999999", "blob": "AAH/",
	 "list": [1, null, 3], "struct": {"a": 1, "b": null}, "map": [{"key": "k", "value": 1}, {"key": "l", "value": null}],
	 "deep": [{"tags": ["x", null], "at": "0001-01-01"}, null, {"tags": null, "at": null}]},
	{"n": 2},
	{"n": 3, "boolean": false, "varchar": "", "blob": "", "list": [], "struct": {"a": null, "b": null}, "map": [],
	 "deep": []}
]`

func TestWhatATableStoresComesBackAsItWasSent(t *testing.T) {
	feature(t, "scalar types", "nested types", "NULLs", appends)
	connection := connect(t)
	sent := batch(t, kinds, kindsRows)
	ingest(t, connection, "kinds", sent)
	reader, _, err := state(t, connection, "SELECT * FROM silver.kinds ORDER BY n").ExecuteQuery(t.Context())
	require.NoError(t, err)
	defer reader.Release()
	require.True(t, reader.Next())
	got := reader.RecordBatch()
	require.EqualValues(t, 3, got.NumRows())
	for number, field := range kinds.Fields() {
		column := got.Column(number)
		require.Equal(t, field.Name, got.ColumnName(number))
		require.True(t, arrow.TypeEqual(field.Type, column.DataType()), "%s: %s", field, column.DataType())
		require.True(t, array.Equal(sent.Column(number), column), "%s:\n%s\n%s", field.Name, sent.Column(number), column)
	}
	require.False(t, reader.Next())
	require.NoError(t, reader.Err())
}
