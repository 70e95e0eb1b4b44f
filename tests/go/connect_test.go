package mallard

import (
	"net"
	"strings"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
)

func TestAConnectionIsOpenedUsedAndClosed(t *testing.T) {
	feature(t, "connect, handshake")
	database, err := flightsql.NewDriver(memory.DefaultAllocator).NewDatabase(
		map[string]string{adbc.OptionKeyURI: shared.uri})
	require.NoError(t, err)
	for range 2 {
		connection, err := database.Open(t.Context())
		require.NoError(t, err)
		for range 2 {
			statement, err := connection.NewStatement()
			require.NoError(t, err)
			require.NoError(t, statement.SetSqlQuery("SELECT 1"))
			rows, err := run(t.Context(), statement)
			require.NoError(t, err)
			require.Equal(t, []string{"1"}, rows)
			require.NoError(t, statement.Close())
		}
		require.NoError(t, connection.Close())
	}
	require.NoError(t, database.Close())
}

func TestAConnectionOutlivesAnother(t *testing.T) {
	feature(t, "connect, handshake")
	database := open(t, nil)
	first, err := database.Open(t.Context())
	require.NoError(t, err)
	second, err := database.Open(t.Context())
	require.NoError(t, err)
	require.NoError(t, first.Close())
	require.Equal(t, []string{"1"}, query(t, second, "SELECT 1"))
	require.NoError(t, second.Close())
}

func TestAUserAndAPasswordAreExchangedForAToken(t *testing.T) {
	feature(t, "connect, handshake")
	connection := connect(t, map[string]string{adbc.OptionKeyUsername: "ann", adbc.OptionKeyPassword: "secret"})
	require.Equal(t, []string{"1"}, query(t, connection, "SELECT 1"))
}

func TestATokenOfOurOwnIsCheckedAndForeignOnesAreLetThrough(t *testing.T) {
	feature(t, "connect, handshake", "errors with their codes")
	foreign := connect(t, map[string]string{flightsql.OptionAuthorizationHeader: "Bearer somebody-else's"})
	require.Equal(t, []string{"1"}, query(t, foreign, "SELECT 1"))
	forged := connect(t, map[string]string{flightsql.OptionAuthorizationHeader: "Bearer mallard.AAAA"})
	_, err := try(t, forged, "SELECT 1")
	failed(t, err, adbc.StatusUnauthenticated, "token", "connect again")
}

func TestAServerThatIsNotThereIsAnErrorOfTheNetwork(t *testing.T) {
	feature(t, "errors with their codes")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	connection := connect(t, map[string]string{adbc.OptionKeyURI: "grpc://" + address})
	_, err = try(t, connection, "SELECT 1")
	failed(t, err, adbc.StatusIO, "refused")
}

func TestTLSWhereThereIsNoneIsAnErrorOfTheNetwork(t *testing.T) {
	feature(t, "errors with their codes")
	uri := strings.Replace(shared.uri, "grpc://", "grpc+tls://", 1)
	_, err := try(t, connect(t, map[string]string{adbc.OptionKeyURI: uri}), "SELECT 1")
	failed(t, err, adbc.StatusIO)
}
