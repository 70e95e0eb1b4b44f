package mallard

import (
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/stretchr/testify/require"
)

const updates = "updates (INSERT, UPDATE, DELETE)"

// change runs a statement that writes, and gives the number of rows that it sent.
func change(t *testing.T, connection adbc.Connection, sql string, options ...map[string]string) int64 {
	t.Helper()
	sent, err := state(t, connection, sql, options...).ExecuteUpdate(t.Context())
	require.NoError(t, err, sql)
	return sent
}

func TestRowsAreInsertedUpdatedAndDeleted(t *testing.T) {
	feature(t, updates)
	connection, base := connect(t), own()
	found := fmt.Sprintf("SELECT slot, seq, value FROM silver.readings WHERE station = %d ORDER BY slot", base)
	require.EqualValues(t, 2, change(t, connection, fmt.Sprintf(
		"INSERT INTO silver.readings (station, slot, seq, value) VALUES (%[1]d, 1, 1, 1.5), (%[1]d, 2, 1, 2.5)", base)))
	awaitRows(t, connection, found, "1|1|1.5", "2|1|2.5")

	require.EqualValues(t, 1, change(t, connection, fmt.Sprintf(
		"UPDATE silver.readings SET value = value * 10 WHERE station = %d AND slot = 1", base)))
	awaitRows(t, connection, found, "1|2|15", "2|1|2.5")

	require.EqualValues(t, 1, change(t, connection, fmt.Sprintf(
		"DELETE FROM silver.readings WHERE station = %d AND slot IN (2, 3)", base)))
	awaitRows(t, connection, found, "1|2|15")

	require.Zero(t, change(t, connection, fmt.Sprintf(
		"UPDATE silver.readings SET value = 0 WHERE station = %d AND slot = 99", base)), "there is no such row")
}

func TestAnInsertWithoutColumnsMeansThoseThatAreDeclared(t *testing.T) {
	feature(t, updates)
	// Once it has rows, this table has a column of Mallard's own, which is not for clients to fill.
	connection, base := threeStations(t)
	change(t, connection, fmt.Sprintf("INSERT INTO silver.stations VALUES (%d, 'plain')", base))
	awaitRows(t, connection, fmt.Sprintf("SELECT name FROM silver.stations WHERE id = %d", base), "plain")
}

func TestALateRowDoesNotUndoWhatIsNewer(t *testing.T) {
	feature(t, updates)
	connection, base := connect(t), own()
	put := func(slot, seq int) {
		sql := "INSERT INTO silver.readings (station, slot, seq, value) VALUES (%d, %d, %d, %[3]d)"
		change(t, connection, fmt.Sprintf(sql, base, slot, seq))
	}
	put(1, 5)
	put(1, 4)
	put(2, 0) // Merged behind the others, since a table's ingests are merged in order.
	awaitRows(t, connection, fmt.Sprintf("SELECT slot, seq FROM silver.readings WHERE station = %d ORDER BY slot", base),
		"1|5", "2|0")
}

func TestEachRowOfValuesIsWritten(t *testing.T) {
	feature(t, updates, "bound parameters")
	connection, base := connect(t), own()
	whole, real := arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Float64

	insert := prepare(t, connection, "INSERT INTO silver.readings (station, slot, seq, value) VALUES (?, ?, 1, ?)")
	parameters, err := insert.GetParameterSchema()
	require.NoError(t, err)
	require.Equal(t, 3, parameters.NumFields())
	row := func(slot int, value float64) string { return fmt.Sprintf(`{"0":%d,"1":%d,"2":%v}`, base, slot, value) }
	first := batch(t, columns(whole, arrow.PrimitiveTypes.Int32, real), "["+row(1, 1)+","+row(2, 2)+"]")
	second := batch(t, first.Schema(), "["+row(3, 3)+"]")
	require.NoError(t, insert.BindStream(t.Context(), stream(t, first.Schema(), first, second)))
	sent, err := insert.ExecuteUpdate(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, sent)
	found := fmt.Sprintf("SELECT slot, value FROM silver.readings WHERE station = %d ORDER BY slot", base)
	awaitRows(t, connection, found, "1|1", "2|2", "3|3")

	update := prepare(t, connection, "UPDATE silver.readings SET value = $1 WHERE station = $2 AND slot = $3")
	values := batch(t, columns(real, whole, whole),
		fmt.Sprintf(`[{"0":10,"1":%[1]d,"2":1},{"0":20,"1":%[1]d,"2":2},{"0":0,"1":%[1]d,"2":77}]`, base))
	require.NoError(t, update.Bind(t.Context(), values))
	sent, err = update.ExecuteUpdate(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, sent)
	awaitRows(t, connection, found, "1|10", "2|20", "3|3")

	remove := prepare(t, connection, "DELETE FROM silver.readings WHERE station = ? AND slot = ?")
	values = batch(t, columns(whole, whole), fmt.Sprintf(`[{"0":%[1]d,"1":1},{"0":%[1]d,"1":3}]`, base))
	require.NoError(t, remove.Bind(t.Context(), values))
	sent, err = remove.ExecuteUpdate(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, sent)
	awaitRows(t, connection, found, "2|20")
}

func TestThousandsOfRowsOfValuesAreInsertedAtOnce(t *testing.T) {
	feature(t, updates, "bound parameters")
	connection, base := connect(t), own()
	insert := prepare(t, connection, "INSERT INTO silver.alarms VALUES (?, 1, upper(?))")
	row := fmt.Sprintf(`{"0":%d,"1":"fire"}`, base)
	values := batch(t, columns(arrow.PrimitiveTypes.Int64, arrow.BinaryTypes.String),
		"["+strings.Repeat(row+",", 4999)+row+"]")
	require.NoError(t, insert.Bind(t.Context(), values))
	sent, err := insert.ExecuteUpdate(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 5000, sent)
	awaitRows(t, connection, fmt.Sprintf(
		"SELECT text, count(*) FROM silver.alarms WHERE station = %d GROUP BY text", base), "FIRE|5000")
}

func TestTheRowsOfAQueryAreInserted(t *testing.T) {
	feature(t, updates)
	connection, base := connect(t), own()
	require.EqualValues(t, 100, change(t, connection, fmt.Sprintf(
		"INSERT INTO silver.alarms (station, slot) SELECT %d, x FROM generate_series(1, 100) t(x)", base)))
	awaitRows(t, connection, fmt.Sprintf(
		"SELECT count(*), sum(slot), count(text) FROM silver.alarms WHERE station = %d", base), "100|5050|0")
}

func TestAnInsertThatIsFetchedIsDoneOnceAndTellsItsCount(t *testing.T) {
	feature(t, updates)
	connection, base := connect(t), own()
	insert := fmt.Sprintf("INSERT INTO silver.alarms (station, text) VALUES (%[1]d, 'a'), (%[1]d, 'b')", base)
	require.Equal(t, []string{"2"}, query(t, connection, insert))
	rows, err := run(t.Context(), prepare(t, connection, insert))
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, rows)
	last := newID()
	change(t, connection, fmt.Sprintf("INSERT INTO silver.alarms (station, text) VALUES (%d, 'c')", base), under(last))
	awaitMerge(t, connection, last)
	require.Equal(t, []string{"a|2", "b|2", "c|1"}, query(t, connection,
		fmt.Sprintf("SELECT text, count(*) FROM silver.alarms WHERE station = %d GROUP BY text ORDER BY text", base)))
}

func TestAnInsertUnderOneIDIsDoneOnce(t *testing.T) {
	feature(t, updates)
	connection, base, id := connect(t), own(), newID()
	insert := fmt.Sprintf("INSERT INTO silver.alarms (station, text) VALUES (%d, 'once')", base)
	for range 2 {
		require.EqualValues(t, 1, change(t, connection, insert, under(id)))
	}
	last := newID()
	change(t, connection, fmt.Sprintf("INSERT INTO silver.alarms (station, text) VALUES (%d, 'last')", base), under(last))
	awaitMerge(t, connection, last)
	require.Equal(t, []string{"once|1"}, query(t, connection,
		fmt.Sprintf("SELECT text, count(*) FROM silver.alarms WHERE station = %d AND text = 'once' GROUP BY text", base)))
}

func TestChangesThatCannotBeAreRefusedWithTheReason(t *testing.T) {
	feature(t, updates, "errors with their codes")
	connection := connect(t)
	for sql, words := range map[string][]string{
		"UPDATE silver.readings SET value = 0":                                          {"primary key", "station"},
		"UPDATE silver.readings SET value = 0 WHERE station = 1":                        {"primary key", "slot"},
		"UPDATE silver.readings SET slot = 2 WHERE station = 1 AND slot = 1":            {`"slot"`, "DELETE", "INSERT"},
		"UPDATE silver.stations SET name = 'x' WHERE id = 1":                            {"sequence_by"},
		"DELETE FROM silver.readings":                                                   {"primary key"},
		"DELETE FROM silver.logs WHERE line = 1":                                        {"primary_key"},
		"DELETE FROM gold.by_station WHERE station = 1":                                 {"silver", "models"},
		"INSERT INTO silver.readings (station, slott) VALUES (1, 2)":                    {`"slott"`, `did you mean "slot"?`},
		"INSERT INTO silver.readings (station, slot, seq) VALUES (1, NULL, 1)":          {"row 1", `"slot"`, "NULL"},
		"INSERT INTO silver.readings (slot, seq) VALUES (1, 1)":                         {`"station"`, "primary key"},
		"MERGE INTO silver.stations USING silver.logs ON true WHEN MATCHED THEN DELETE": {"MERGE", "INSERT"},
		"SELECT 1": {"only reads", "query"},
	} {
		_, err := state(t, connection, sql).ExecuteUpdate(t.Context())
		refused(t, err, adbc.StatusInvalidArgument, words...)
	}
	_, err := state(t, connection, "INSERT INTO silver.reading (station) VALUES (1)").ExecuteUpdate(t.Context())
	refused(t, err, adbc.StatusNotFound, `"reading"`, `"readings"`)
}
