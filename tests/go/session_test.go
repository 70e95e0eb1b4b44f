package mallard

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/stretchr/testify/require"
)

const (
	sessions = "session options"
	option   = flightsql.OptionSessionOptionPrefix
)

// session gives a connection that keeps the server's cookie, in which its options lie.
func session(t *testing.T) interface {
	adbc.Connection
	adbc.GetSetOptions
} {
	t.Helper()
	connection := connect(t, map[string]string{flightsql.OptionCookieMiddleware: adbc.OptionValueEnabled})
	return connection.(interface {
		adbc.Connection
		adbc.GetSetOptions
	})
}

func TestTheCurrentCatalogAndSchemaAreToldAndSet(t *testing.T) {
	feature(t, sessions)
	connection := session(t)
	current := func() [2]string {
		catalog, err := connection.GetOption(adbc.OptionKeyCurrentCatalog)
		require.NoError(t, err)
		schema, err := connection.GetOption(adbc.OptionKeyCurrentDbSchema)
		require.NoError(t, err)
		return [2]string{catalog, schema}
	}
	require.Equal(t, [2]string{"lab", "gold"}, current())
	query(t, connection, "SELECT * FROM by_station LIMIT 0")
	require.NoError(t, connection.SetOption(adbc.OptionKeyCurrentCatalog, "lab"))
	require.NoError(t, connection.SetOption(adbc.OptionKeyCurrentDbSchema, "silver"))
	require.Equal(t, [2]string{"lab", "silver"}, current())
	query(t, connection, "SELECT * FROM stations LIMIT 0")
	_, err := try(t, connection, "SELECT * FROM by_station")
	refused(t, err, adbc.StatusInvalidArgument, "silver.by_station", "gold.by_station")

	for key, value := range map[string]string{
		adbc.OptionKeyCurrentCatalog: "main", adbc.OptionKeyCurrentDbSchema: "bronze",
	} {
		failed(t, connection.SetOption(key, value), adbc.StatusInvalidArgument, "invalid value")
	}
	require.Equal(t, [2]string{"lab", "silver"}, current(), "what was refused changes nothing")
	other := session(t)
	schema, err := other.GetOption(adbc.OptionKeyCurrentDbSchema)
	require.NoError(t, err)
	require.Equal(t, "gold", schema, "sessions are apart")
}

func TestOptionsAreSetReadAndUnset(t *testing.T) {
	feature(t, sessions)
	connection := session(t)
	require.NoError(t, connection.SetOptionDouble(option+"timeout", 2.5))
	timeout, err := connection.GetOptionDouble(option + "timeout")
	require.NoError(t, err)
	require.Equal(t, 2.5, timeout)
	require.NoError(t, connection.SetOption(option+"timeout", "500ms"))
	timeout, err = connection.GetOptionDouble(option + "timeout")
	require.NoError(t, err)
	require.Equal(t, 0.5, timeout)

	require.NoError(t, connection.SetOptionInt(option+"memory_limit", 64<<20))
	memory, err := connection.GetOptionInt(option + "memory_limit")
	require.NoError(t, err)
	require.EqualValues(t, 64<<20, memory)
	require.NoError(t, connection.SetOption(option+"compression", "zstd"))
	require.NoError(t, connection.SetOption(option+"as_of", "2024-02-29T12:00:00Z"))

	all := func() map[string]any {
		text, err := connection.GetOption(flightsql.OptionSessionOptions)
		require.NoError(t, err)
		options := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(text), &options))
		return options
	}
	require.Equal(t, map[string]any{
		"catalog": "lab", "schema": "gold", "timeout": 0.5, "memory_limit": float64(64 << 20), "compression": "zstd",
		"as_of": "2024-02-29T12:00:00Z",
	}, all())
	for _, name := range []string{"timeout", "memory_limit", "compression", "as_of"} {
		require.NoError(t, connection.SetOption(flightsql.OptionEraseSessionOptionPrefix+name, ""))
	}
	require.Equal(t, map[string]any{"catalog": "lab", "schema": "gold"}, all())
}

func TestOptionsThatCannotBeAreRefusedByName(t *testing.T) {
	feature(t, sessions, "errors with their codes")
	connection := session(t)
	yes, list := flightsql.OptionBoolSessionOptionPrefix, flightsql.OptionStringListSessionOptionPrefix
	for _, wrong := range []struct {
		err         error
		option, why string
	}{
		{connection.SetOption(option+"time_zone", "UTC"), "time_zone", "invalid name"},
		{connection.SetOption(option+"compression", "gzip"), "compression", "invalid value"},
		{connection.SetOptionInt(option+"max_endpoints", 0), "max_endpoints", "invalid value"},
		{connection.SetOption(yes+"timeout", adbc.OptionValueEnabled), "timeout", "invalid value"},
		{connection.SetOption(list+"schema", `["silver","gold"]`), "schema", "invalid value"},
	} {
		failed(t, wrong.err, adbc.StatusInvalidArgument, wrong.option, wrong.why)
	}
	_, err := connection.GetOption(option + "time_zone")
	failed(t, err, adbc.StatusNotFound, "time_zone")
}

func TestAPreparedStatementKeepsTheSessionItWasPreparedIn(t *testing.T) {
	feature(t, sessions, "prepared statements")
	connection := session(t)
	require.NoError(t, connection.SetOption(adbc.OptionKeyCurrentDbSchema, "silver"))
	statement := prepare(t, connection, "SELECT * FROM stations LIMIT 0")
	require.NoError(t, connection.SetOption(adbc.OptionKeyCurrentDbSchema, "gold"))
	_, err := run(t.Context(), statement)
	require.NoError(t, err)
}

// Without cookies, as the driver is by default, options come as headers.
func TestOptionsComeAsHeadersOfDatabaseConnectionAndStatement(t *testing.T) {
	feature(t, sessions)
	silver := map[string]string{header + "mallard-schema": "silver"}
	query(t, connect(t, silver), "SELECT * FROM stations LIMIT 0")
	query(t, connect(t), "SELECT * FROM stations LIMIT 0", silver)
	connection := connect(t)
	options := connection.(adbc.GetSetOptions)
	require.NoError(t, options.SetOption(header+"mallard-schema", "silver"))
	query(t, connection, "SELECT * FROM stations LIMIT 0")
	schema, err := options.GetOption(adbc.OptionKeyCurrentDbSchema)
	require.NoError(t, err)
	require.Equal(t, "silver", schema)
	require.NoError(t, options.SetOption(header+"mallard-schema", ""))
	query(t, connection, "SELECT * FROM by_station LIMIT 0")

	for name, value := range map[string]string{
		"mallard-schema": "bronze", "mallard-timeout": "soon", "mallard-compression": "gzip", "mallard-as-of": "yesterday",
		"mallard-memory-limit": "much", "mallard-max-endpoints": "0",
	} {
		_, err := try(t, connection, "SELECT 1", map[string]string{header + name: value})
		failed(t, err, adbc.StatusInvalidArgument, "header "+name)
	}
}

func TestResultsAreCompressedAsAsked(t *testing.T) {
	feature(t, "compression of results")
	connection := connect(t)
	for _, codec := range []string{"none", "lz4", "zstd"} {
		its := map[string]string{header + "mallard-compression": codec}
		rows := query(t, connection, "SELECT x, repeat('y', 100) FROM generate_series(1, 20000) t(x) ORDER BY x", its)
		require.Equal(t, "20000|"+strings.Repeat("y", 100), rows[len(rows)-1])
		require.Len(t, rows, 20000)
	}
}

func TestTheLakeIsReadAsItWas(t *testing.T) {
	feature(t, "time travel", sessions)
	connection, base := connect(t), own()
	name := fmt.Sprintf("SELECT name FROM silver.stations WHERE id = %d", base)
	put := func(name string) string {
		id := newID()
		rows := batch(t, stations, fmt.Sprintf(`[{"id":%d,"name":%q}]`, base, name))
		_, err := send(t, connection, "stations", stream(t, stations, rows), appending, under(id))
		require.NoError(t, err)
		awaitMerge(t, connection, id)
		return query(t, connection, "SELECT silver_version FROM system.ingests WHERE ingest_id = '"+id+"'")[0]
	}
	version := put("old")
	between := query(t, connection, "SELECT now()")[0]
	put("new")
	require.Equal(t, []string{"new"}, query(t, connection, name))
	require.Equal(t, []string{"old"}, query(t, connection, fmt.Sprintf(
		"SELECT name FROM silver.stations FOR VERSION AS OF %s WHERE id = %d", version, base)))
	require.Equal(t, []string{"old"}, query(t, connection, fmt.Sprintf(
		"SELECT name FROM silver.stations FOR TIMESTAMP AS OF '%s' WHERE id = %d", between, base)))
	require.Equal(t, []string{"old"}, query(t, connection, name, map[string]string{header + "mallard-as-of": between}))

	its := session(t)
	require.NoError(t, its.SetOption(option+"as_of", between))
	require.Equal(t, []string{"old"}, query(t, its, name))
	_, err := state(t, its, fmt.Sprintf("INSERT INTO silver.stations (id) VALUES (%d)", base)).ExecuteUpdate(t.Context())
	refused(t, err, adbc.StatusInvalidArgument, "as_of")
	require.NoError(t, its.SetOption(flightsql.OptionEraseSessionOptionPrefix+"as_of", ""))
	require.Equal(t, []string{"new"}, query(t, its, name))

	_, err = try(t, connection, "SELECT * FROM silver.stations FOR VERSION AS OF 999999")
	failed(t, err, adbc.StatusNotFound, "stations", "999999")
	_, err = try(t, connection, name, map[string]string{header + "mallard-as-of": "2001-01-01T00:00:00Z"})
	failed(t, err, adbc.StatusNotFound, "stations")
}

// slow is a query that does not end.
const slow = "SELECT count(*) FROM generate_series(1, 100000000000) t(x) WHERE x % 7 = 8"

// awaitState waits until the run of a statement, which must be the only one of its text, is in a state.
func awaitState(t *testing.T, sql, want string) {
	t.Helper()
	connection := connect(t)
	values := fmt.Sprintf("SELECT state FROM system.queries WHERE statement = '%s'", sql)
	awaitRows(t, connection, values, want)
}

// marked makes a statement that no other test runs.
func marked(sql string) string { return fmt.Sprintf("%s AND %d > 0", sql, own()) }

func TestAQueryEndsAtTheTimeoutOfItsSession(t *testing.T) {
	feature(t, sessions, "errors with their codes")
	sql := marked(slow)
	_, err := try(t, connect(t), sql, map[string]string{header + "mallard-timeout": "300ms"})
	refused(t, err, adbc.StatusTimeout, "0.3 s", "timeout")
	awaitState(t, sql, "timed out")
}

func TestAQueryEndsAtTheTimeoutOfTheDriver(t *testing.T) {
	feature(t, "errors with their codes", "cancel")
	connection := connect(t, map[string]string{flightsql.OptionTimeoutFetch: "0.3"})
	seconds, err := connection.(adbc.GetSetOptions).GetOptionDouble(flightsql.OptionTimeoutFetch)
	require.NoError(t, err)
	require.Equal(t, 0.3, seconds)
	sql := marked(slow)
	_, err = try(t, connection, sql)
	failed(t, err, adbc.StatusTimeout)
	awaitState(t, sql, "cancelled")

	tiny := map[string]string{flightsql.OptionTimeoutQuery: "0.000001"}
	_, _, err = state(t, connection, "SELECT 1", tiny).ExecuteQuery(t.Context())
	failed(t, err, adbc.StatusTimeout)
	require.Equal(t, []string{"1"}, query(t, connection, "SELECT 1"))
}

func TestAnUpdateEndsAtTheTimeoutOfTheDriver(t *testing.T) {
	feature(t, "errors with their codes", "cancel")
	sql := marked("INSERT INTO silver.logs (line) " + slow)
	connection := connect(t)
	_, err := state(t, connection, sql, map[string]string{flightsql.OptionTimeoutUpdate: "1"}).ExecuteUpdate(t.Context())
	failed(t, err, adbc.StatusTimeout)
	awaitState(t, sql, "cancelled")

	// The server knows the deadline too, and may be the first to see it pass: what it says then must be the same.
	soon := map[string]string{flightsql.OptionTimeoutUpdate: "0.1"}
	for range 10 {
		_, err := state(t, connection, sql, soon).ExecuteUpdate(t.Context())
		failed(t, err, adbc.StatusTimeout)
	}
}

func TestATimeoutThatIsLongEnoughDoesNoHarm(t *testing.T) {
	feature(t, sessions)
	connection := connect(t, map[string]string{
		flightsql.OptionTimeoutFetch: "60", flightsql.OptionTimeoutQuery: "60", flightsql.OptionTimeoutUpdate: "60",
		header + "mallard-timeout": "60s",
	})
	require.Equal(t, []string{"1"}, query(t, connection, "SELECT 1"))
	ingest(t, connection, "logs", batch(t, logs, `[{"line":0,"text":"in time"}]`))
}
