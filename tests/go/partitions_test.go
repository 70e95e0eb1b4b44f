package mallard

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

const endpoints = "results in several endpoints"

// sliced fills the table noise, and gives a query over it that has several endpoints, and its lines.
func sliced(t *testing.T, connection adbc.Connection) (sql string, lines []string) {
	t.Helper()
	first := 2_000_000_000 + own()
	ingest(t, connection, "noise", noise(t, first, 900, 5_000))
	for line := range int64(900) {
		lines = append(lines, fmt.Sprint(first+line))
	}
	return fmt.Sprintf("SELECT line FROM silver.noise WHERE line BETWEEN %d AND %d", first, first+899), lines
}

// parts runs a statement for its partitions, and reads each with a connection.
func parts(t *testing.T, statement adbc.Statement, reading ...adbc.Connection) [][]string {
	t.Helper()
	schema, partitions, _, err := statement.ExecutePartitions(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, len(partitions.PartitionIDs), partitions.NumPartitions)
	all := [][]string{}
	for number, partition := range partitions.PartitionIDs {
		reader, err := reading[number%len(reading)].ReadPartition(t.Context(), partition)
		require.NoError(t, err)
		require.True(t, schema.Equal(reader.Schema()), "%s\n%s", schema, reader.Schema())
		rows, err := drain(reader)
		require.NoError(t, err)
		all = append(all, rows)
	}
	return all
}

func TestPartitionsAreReadByOtherConnections(t *testing.T) {
	feature(t, endpoints)
	connection := connect(t)
	sql, lines := sliced(t, connection)
	got := parts(t, state(t, connection, sql), connect(t), connect(t))
	require.Greater(t, len(got), 1)
	all := slices.Concat(got...)
	require.Equal(t, len(lines), len(all), "each row is in one partition")
	require.ElementsMatch(t, lines, all)
	whole := query(t, connection, sql)
	require.Equal(t, len(lines), len(whole), "the driver reads each partition once")
	require.ElementsMatch(t, lines, whole)
}

func TestAPartitionIsReadTwiceWithTheSameRows(t *testing.T) {
	feature(t, endpoints)
	connection, base := connect(t), own()
	ingest(t, connection, "stations", batch(t, stations, fmt.Sprintf(`[{"id":%d,"name":"old"}]`, base)))
	statement := state(t, connection, fmt.Sprintf("SELECT name FROM silver.stations WHERE id = %d", base))
	_, partitions, _, err := statement.ExecutePartitions(t.Context())
	require.NoError(t, err)
	ingest(t, connection, "stations", batch(t, stations, fmt.Sprintf(`[{"id":%d,"name":"new"}]`, base)))
	for range 2 {
		all := []string{}
		for _, partition := range partitions.PartitionIDs {
			reader, err := connection.ReadPartition(t.Context(), partition)
			require.NoError(t, err)
			rows, err := drain(reader)
			require.NoError(t, err)
			all = append(all, rows...)
		}
		require.Equal(t, []string{"old"}, all, "a partition reads the version that it was planned on")
	}
}

func TestTheNumberOfEndpointsIsLimitedAsAsked(t *testing.T) {
	feature(t, endpoints, sessions)
	connection := connect(t)
	sql, lines := sliced(t, connection)
	for _, most := range []int{1, 2} {
		limit := map[string]string{header + "mallard-max-endpoints": fmt.Sprint(most)}
		got := parts(t, state(t, connection, sql, limit), connection)
		require.LessOrEqual(t, len(got), most)
		require.Equal(t, len(lines), len(slices.Concat(got...)))
	}
}

func TestAnOrderedResultComesInItsOrder(t *testing.T) {
	feature(t, "order of endpoints")
	connection := connect(t)
	sql, lines := sliced(t, connection)
	require.Equal(t, lines, query(t, connection, sql+" ORDER BY line"))
	got := parts(t, state(t, connection, sql+" ORDER BY line"), connection)
	require.Equal(t, lines, slices.Concat(got...), "partitions are in order too")
}

func TestPartitionsOfAPreparedStatementHaveItsValues(t *testing.T) {
	feature(t, endpoints, "bound parameters")
	connection, base := threeStations(t)
	statement := prepare(t, connection, "SELECT name FROM silver.stations WHERE id = ?")
	values := batch(t, columns(stations.Field(0).Type), fmt.Sprintf(`[{"0":%d}]`, base+2))
	require.NoError(t, statement.Bind(t.Context(), values))
	require.Equal(t, []string{"b"}, slices.Concat(parts(t, statement, connect(t))...))
}

func TestAPartitionThatWasTamperedWithIsRefused(t *testing.T) {
	feature(t, endpoints, "errors with their codes")
	connection := connect(t)
	_, partitions, _, err := state(t, connection, "SELECT 1").ExecutePartitions(t.Context())
	require.NoError(t, err)
	info := &flight.FlightInfo{}
	require.NoError(t, proto.Unmarshal(partitions.PartitionIDs[0], info))
	ticket := info.Endpoint[0].Ticket.Ticket
	ticket[len(ticket)-1] ^= 1
	tampered, err := proto.Marshal(info)
	require.NoError(t, err)
	_, err = connection.ReadPartition(t.Context(), tampered)
	refused(t, err, adbc.StatusInvalidArgument, "ticket", "damaged")
}

// A lake is read by as many servers as there are, if they have the same key.
func TestAnotherServerReadsAPartition(t *testing.T) {
	feature(t, "any server answers any call")
	connection := connect(t)
	sql, lines := sliced(t, connection)
	folder := filepath.Dir(shared.logPath)
	other, err := start(filepath.Join(folder, "other.log"), "serve",
		"--definition", filepath.Join(folder, "definition"), "--lake", filepath.Join(folder, "data"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.stop()) })
	elsewhere := connect(t, map[string]string{adbc.OptionKeyURI: other.uri})
	got := parts(t, state(t, connection, sql), elsewhere, connection)
	require.Greater(t, len(got), 1)
	all := slices.Concat(got...)
	require.Equal(t, len(lines), len(all))
	require.ElementsMatch(t, lines, all)
}
