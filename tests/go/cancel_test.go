package mallard

import (
	"context"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/stretchr/testify/require"
)

func TestAQueryWhoseContextIsCancelledStopsOnTheServer(t *testing.T) {
	feature(t, "cancel", "errors with their codes")
	sql := marked(slow)
	ctx, cancel := context.WithCancel(t.Context())
	statement := state(t, connect(t), sql)
	reader, _, err := statement.ExecuteQuery(ctx)
	require.NoError(t, err)
	awaitState(t, sql, "running")
	cancel()
	_, err = drain(reader)
	failed(t, err, adbc.StatusCancelled)
	awaitState(t, sql, "cancelled")
	require.NoError(t, statement.SetSqlQuery("SELECT 1"))
	rows, err := run(t.Context(), statement)
	require.NoError(t, err, "the statement goes on")
	require.Equal(t, []string{"1"}, rows)
}

func TestAResultThatIsCancelledMidwayStopsOnTheServer(t *testing.T) {
	feature(t, "cancel")
	sql := marked("SELECT x FROM generate_series(1, 10000000000) t(x) WHERE x > 0")
	ctx, cancel := context.WithCancel(t.Context())
	reader, _, err := state(t, connect(t), sql).ExecuteQuery(ctx)
	require.NoError(t, err)
	for range 3 {
		require.True(t, reader.Next())
		require.NotZero(t, reader.RecordBatch().NumRows())
	}
	cancel()
	_, err = drain(reader)
	failed(t, err, adbc.StatusCancelled)
	awaitState(t, sql, "cancelled")
}

func TestAResultThatIsReleasedMidwayStopsOnTheServer(t *testing.T) {
	feature(t, "cancel")
	sql := marked("SELECT x FROM generate_series(1, 10000000000) t(x) WHERE x > 0")
	reader, _, err := state(t, connect(t), sql).ExecuteQuery(t.Context())
	require.NoError(t, err)
	require.True(t, reader.Next())
	reader.Release()
	awaitState(t, sql, "cancelled")
}

func TestAnUpdateWhoseContextIsCancelledStopsOnTheServer(t *testing.T) {
	feature(t, "cancel")
	sql := marked("INSERT INTO silver.logs (line) " + slow)
	ctx, cancel := context.WithCancel(t.Context())
	statement := state(t, connect(t), sql)
	failure := make(chan error, 1)
	go func() {
		_, err := statement.ExecuteUpdate(ctx)
		failure <- err
	}()
	awaitState(t, sql, "running")
	cancel()
	failed(t, <-failure, adbc.StatusCancelled)
	awaitState(t, sql, "cancelled")
}

func TestAConnectionThatIsClosedMidwayStopsItsQuery(t *testing.T) {
	feature(t, "cancel")
	sql := marked("SELECT x FROM generate_series(1, 10000000000) t(x) WHERE x > 0")
	connection, err := open(t, nil).Open(t.Context())
	require.NoError(t, err)
	statement, err := connection.NewStatement()
	require.NoError(t, err)
	require.NoError(t, statement.SetSqlQuery(sql))
	reader, _, err := statement.ExecuteQuery(t.Context())
	require.NoError(t, err)
	require.True(t, reader.Next())
	require.NoError(t, statement.Close())
	require.NoError(t, connection.Close())
	_, err = drain(reader)
	require.Error(t, err)
	awaitState(t, sql, "cancelled")
}
