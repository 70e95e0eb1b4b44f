package mallard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
)

const (
	waitTimeout = 30 * time.Second
	waitPause   = 50 * time.Millisecond

	header         = flightsql.OptionRPCCallHeaderPrefix
	ingestIDHeader = header + "mallard-ingest-id"
)

// open gives a database of the shared server, which is closed with the test.
func open(t testing.TB, options map[string]string) adbc.Database {
	t.Helper()
	all := map[string]string{adbc.OptionKeyURI: shared.uri}
	for name, value := range options {
		all[name] = value
	}
	database, err := flightsql.NewDriver(memory.DefaultAllocator).NewDatabase(all)
	require.NoError(t, err)
	// What goes wrong is for the tests to see.
	database.(adbc.DatabaseLogging).SetLogger(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { require.NoError(t, database.Close()) })
	return database
}

// connect gives a connection to the shared server, with options of its database, which is closed with the test.
func connect(t testing.TB, options ...map[string]string) adbc.Connection {
	t.Helper()
	all := map[string]string{}
	for _, some := range options {
		for name, value := range some {
			all[name] = value
		}
	}
	connection, err := open(t, all).Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, connection.Close()) })
	return connection
}

// state gives a statement, with options, which is closed with the test.
func state(t testing.TB, connection adbc.Connection, sql string, options ...map[string]string) adbc.Statement {
	t.Helper()
	statement, err := connection.NewStatement()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, statement.Close()) })
	for _, some := range options {
		for name, value := range some {
			require.NoError(t, statement.SetOption(name, value))
		}
	}
	if sql != "" {
		require.NoError(t, statement.SetSqlQuery(sql))
	}
	return statement
}

// query gives the rows of a query, each as its values with bars in between.
func query(t testing.TB, connection adbc.Connection, sql string, options ...map[string]string) []string {
	t.Helper()
	rows, err := try(t, connection, sql, options...)
	require.NoError(t, err, sql)
	return rows
}

// try is query for what may fail, in planning or later.
func try(t testing.TB, connection adbc.Connection, sql string, options ...map[string]string) ([]string, error) {
	t.Helper()
	return run(t.Context(), state(t, connection, sql, options...))
}

// run gives the rows of a statement.
func run(ctx context.Context, statement adbc.Statement) ([]string, error) {
	reader, _, err := statement.ExecuteQuery(ctx)
	if err != nil {
		return nil, err
	}
	return drain(reader)
}

// schemaOf asks for the columns of a statement's result.
func schemaOf(t testing.TB, statement adbc.Statement) (*arrow.Schema, error) {
	t.Helper()
	return statement.(adbc.StatementExecuteSchema).ExecuteSchema(t.Context())
}

// drain reads a result to its end.
func drain(reader array.RecordReader) ([]string, error) {
	defer reader.Release()
	rows := []string{}
	for reader.Next() {
		batch := reader.RecordBatch()
		for row := range int(batch.NumRows()) {
			values := make([]string, batch.NumCols())
			for column := range values {
				values[column] = batch.Column(column).ValueStr(row)
			}
			rows = append(rows, strings.Join(values, "|"))
		}
	}
	return rows, reader.Err()
}

// batch makes rows from JSON.
func batch(t testing.TB, schema *arrow.Schema, rows string) arrow.RecordBatch {
	t.Helper()
	made, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(rows))
	require.NoError(t, err)
	t.Cleanup(made.Release)
	return made
}

// stream makes a reader of batches.
func stream(t testing.TB, schema *arrow.Schema, batches ...arrow.RecordBatch) array.RecordReader {
	t.Helper()
	reader, err := array.NewRecordReader(schema, batches)
	require.NoError(t, err)
	t.Cleanup(reader.Release)
	return reader
}

// send ingests without waiting; it gives the number of rows that the server says it took.
func send(
	t testing.TB, connection adbc.Connection, table string, rows array.RecordReader, options ...map[string]string,
) (int64, error) {
	t.Helper()
	statement := state(t, connection, "", options...)
	require.NoError(t, statement.SetOption(adbc.OptionKeyIngestTargetTable, table))
	require.NoError(t, statement.BindStream(t.Context(), rows))
	return statement.ExecuteUpdate(t.Context())
}

var (
	appending = map[string]string{adbc.OptionKeyIngestMode: adbc.OptionValueIngestModeAppend}
	creating  = map[string]string{adbc.OptionKeyIngestMode: adbc.OptionValueIngestModeCreate}
)

// under is the option for an ingest id.
func under(id string) map[string]string { return map[string]string{ingestIDHeader: id} }

// ingest appends rows and waits until they are part of silver.
func ingest(t testing.TB, connection adbc.Connection, table string, batches ...arrow.RecordBatch) {
	t.Helper()
	id := newID()
	sent := int64(0)
	for _, batch := range batches {
		sent += batch.NumRows()
	}
	rows := stream(t, batches[0].Schema(), batches...)
	accepted, err := send(t, connection, table, rows, appending, under(id))
	require.NoError(t, err)
	require.Equal(t, sent, accepted)
	awaitMerge(t, connection, id)
}

// awaitMerge waits until an ingest is part of silver.
func awaitMerge(t testing.TB, connection adbc.Connection, id string) {
	t.Helper()
	await(t, "the merge of "+id, func() bool {
		sql := "SELECT 1 FROM system.ingests WHERE merged_at IS NOT NULL AND ingest_id = '" + id + "'"
		return len(query(t, connection, sql)) == 1
	})
}

// awaitRows waits until a query gives rows.
func awaitRows(t testing.TB, connection adbc.Connection, sql string, rows ...string) {
	t.Helper()
	var last []string
	deadline := time.Now().Add(waitTimeout)
	for time.Now().Before(deadline) {
		if last = query(t, connection, sql); strings.Join(last, "\n") == strings.Join(rows, "\n") {
			return
		}
		time.Sleep(waitPause)
	}
	require.Equal(t, rows, last, sql)
}

func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); !condition(); time.Sleep(waitPause) {
		require.True(t, time.Now().Before(deadline), "%s did not happen within %s", what, waitTimeout)
	}
}

var numbers atomic.Int64

// own gives a number that no other test has; neither are the 999 that follow.
func own() int64 { return 1000 * numbers.Add(1) }

func newID() string { return fmt.Sprintf("go-%d-%d", time.Now().UnixNano(), numbers.Add(1)) }

// cures are words of which an error has one, since it says what to do.
var cures = regexp.MustCompile(`(?i)\b(add|allow|bind|cast|change|check|choose|declare|did you mean|get|give|` +
	`ingest|insert|leave|lists|make|name|only|qualify|read|send|set|there (is|are)|try|unset|use|write)\b`)

// refused checks that an error has a code, has each of these words in it, and says what to do.
func refused(t testing.TB, err error, code adbc.Status, words ...string) {
	t.Helper()
	failed(t, err, code, words...)
	require.Regexp(t, cures, err.Error(), "there is no cure in it")
}

// failed is refused for errors that there is nothing to do about.
func failed(t testing.TB, err error, code adbc.Status, words ...string) {
	t.Helper()
	require.Error(t, err)
	var its adbc.Error
	require.True(t, errors.As(err, &its), "%T: %v", err, err)
	require.Equal(t, code.String(), its.Code.String(), its.Msg)
	for _, word := range words {
		require.Contains(t, its.Msg, word)
	}
}
