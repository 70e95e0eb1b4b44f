package mallard

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/stretchr/testify/require"
)

const polls = "long-running queries (PollFlightInfo)"

var incrementally = map[string]string{adbc.OptionKeyIncremental: adbc.OptionValueEnabled}

// increments runs a statement until there are no more partitions, and gives the rows of each answer.
func increments(t *testing.T, connection adbc.Connection, statement adbc.Statement) ([][]string, error) {
	t.Helper()
	all := [][]string{}
	for {
		_, partitions, _, err := statement.ExecutePartitions(t.Context())
		if err != nil {
			return all, err
		}
		if partitions.NumPartitions == 0 {
			return all, nil
		}
		for _, partition := range partitions.PartitionIDs {
			reader, err := connection.ReadPartition(t.Context(), partition)
			require.NoError(t, err)
			rows, err := drain(reader)
			require.NoError(t, err)
			all = append(all, rows)
		}
	}
}

func progress(t *testing.T, statement adbc.Statement) float64 {
	t.Helper()
	value, err := statement.(adbc.GetSetOptions).GetOptionDouble(adbc.OptionKeyProgress)
	require.NoError(t, err)
	return value
}

func TestASmallResultIsThereAtTheFirstAnswer(t *testing.T) {
	feature(t, polls)
	connection := connect(t)
	statement := state(t, connection, "SELECT 1 AS a UNION ALL SELECT 2 ORDER BY a", incrementally)
	for range 2 { // It may be run again.
		schema, partitions, rows, err := statement.ExecutePartitions(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, names(schema))
		require.EqualValues(t, 1, partitions.NumPartitions)
		require.EqualValues(t, 2, rows)
		require.Equal(t, 1.0, progress(t, statement))
		reader, err := connection.ReadPartition(t.Context(), partitions.PartitionIDs[0])
		require.NoError(t, err)
		got, err := drain(reader)
		require.NoError(t, err)
		require.Equal(t, []string{"1", "2"}, got)
		schema, partitions, _, err = statement.ExecutePartitions(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, names(schema))
		require.Zero(t, partitions.NumPartitions)
	}
}

func TestALargeResultComesInPartsInOrder(t *testing.T) {
	feature(t, polls, "order of endpoints")
	connection := connect(t)
	sql := "SELECT x, repeat('y', 1000) FROM generate_series(1, 50000) t(x) ORDER BY x"
	got, err := increments(t, connection, state(t, connection, sql, incrementally))
	require.NoError(t, err)
	require.Greater(t, len(got), 1)
	rows := slices.Concat(got...)
	require.Len(t, rows, 50_000)
	for number, row := range rows {
		var x int
		_, err := fmt.Sscanf(row, "%d|", &x)
		require.NoError(t, err)
		require.Equal(t, number+1, x)
	}
}

func TestAResultWithoutRowsEndsAtOnce(t *testing.T) {
	feature(t, polls)
	connection := connect(t)
	statement := state(t, connection, "SELECT * FROM silver.stations WHERE false", incrementally)
	got, err := increments(t, connection, statement)
	require.NoError(t, err)
	require.Empty(t, slices.Concat(got...))
}

func TestAPreparedStatementIsRunIncrementally(t *testing.T) {
	feature(t, polls, "bound parameters")
	connection, base := threeStations(t)
	statement := prepare(t, connection, "SELECT name FROM silver.stations WHERE id = ?")
	require.NoError(t, statement.SetOption(adbc.OptionKeyIncremental, adbc.OptionValueEnabled))
	values := batch(t, columns(arrow.PrimitiveTypes.Int64), fmt.Sprintf(`[{"0":%d},{"0":%d}]`, base+2, base+1))
	require.NoError(t, statement.Bind(t.Context(), values))
	got, err := increments(t, connection, statement)
	require.NoError(t, err)
	require.Equal(t, []string{"b", "a"}, slices.Concat(got...))
}

func TestAnErrorInTheMiddleReachesWhoPolls(t *testing.T) {
	feature(t, polls, "errors with their codes")
	connection := connect(t)
	for sql, word := range map[string]string{
		"SELECT 1 / (x - 5) FROM generate_series(1, 10) t(x)": "zero",
		"SELECT * FROM silver.nowhere":                        "silver.nowhere",
	} {
		_, err := increments(t, connection, state(t, connection, sql, incrementally))
		failed(t, err, adbc.StatusInvalidArgument, word)
	}
	timeout := map[string]string{header + "mallard-timeout": "300ms"}
	_, err := increments(t, connection, state(t, connection, marked(slow), incrementally, timeout))
	failed(t, err, adbc.StatusTimeout, "0.3 s")
}

func TestAnInsertIsDoneOnceAlsoByPolling(t *testing.T) {
	feature(t, polls, updates)
	connection, base := connect(t), own()
	insert := fmt.Sprintf("INSERT INTO silver.alarms (station, text) VALUES (%[1]d, 'a'), (%[1]d, 'b')", base)
	got, err := increments(t, connection, state(t, connection, insert, incrementally))
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, slices.Concat(got...))
	awaitRows(t, connection, fmt.Sprintf("SELECT count(*) FROM silver.alarms WHERE station = %d", base), "2")
}

// beginPolling runs a statement incrementally until its first partition. The test does not end before that call does.
func beginPolling(t *testing.T, statement adbc.Statement) (cancel func(), failure chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	failure, ended := make(chan error, 1), make(chan struct{})
	go func() {
		_, _, _, err := statement.ExecutePartitions(ctx)
		failure <- err
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return cancel, failure
}

// When its context is cancelled the driver stops asking, no more: the query ends by CancelFlightInfo.
func TestWhoPollsSeesTheProgressAndCanStop(t *testing.T) {
	feature(t, polls, "cancel")
	sql := marked(slow)
	statement := state(t, connect(t), sql, incrementally, map[string]string{header + "mallard-timeout": "20s"})
	cancel, failure := beginPolling(t, statement)
	awaitState(t, sql, "running")
	info := lastInfo(t, statement)
	seen := progress(t, statement)
	require.True(t, 0 <= seen && seen < 1, "%v", seen)
	cancel()
	failed(t, <-failure, adbc.StatusCancelled)
	cancelInBackground(t, info)
}
