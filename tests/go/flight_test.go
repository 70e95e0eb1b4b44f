package mallard

import (
	"strings"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	driver "github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql/schema_ref"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// What the driver has no words for, the Flight SQL client that it is built on asks for.

func flightClient(t *testing.T) *flightsql.Client {
	t.Helper()
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	client, err := flightsql.NewClientCtx(t.Context(), strings.TrimPrefix(shared.uri, "grpc://"), nil, nil, plain)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// fetch gives the rows of all endpoints.
func fetch(t *testing.T, client *flightsql.Client, info *flight.FlightInfo) []string {
	t.Helper()
	announced, err := flight.DeserializeSchema(info.Schema, client.Alloc)
	require.NoError(t, err)
	all := []string{}
	for _, endpoint := range info.Endpoint {
		reader, err := client.DoGet(t.Context(), endpoint.Ticket)
		require.NoError(t, err)
		require.True(t, announced.Equal(reader.Schema()), "%s\n%s", announced, reader.Schema())
		rows, err := drain(reader)
		require.NoError(t, err)
		all = append(all, rows...)
	}
	return all
}

func TestPrimaryKeysAreTold(t *testing.T) {
	featureOf(t, flightSQL, "primary and foreign keys")
	client := flightClient(t)
	keys := func(table flightsql.TableRef) []string {
		info, err := client.GetPrimaryKeys(t.Context(), table)
		require.NoError(t, err)
		schema, err := flight.DeserializeSchema(info.Schema, client.Alloc)
		require.NoError(t, err)
		// The protocol has the last two the other way round than this client's own servers.
		require.ElementsMatch(t, fields(schema_ref.PrimaryKeys), fields(schema))
		return fetch(t, client, info)
	}
	require.Equal(t, []string{
		"lab|silver|readings|station|readings_key|1", "lab|silver|readings|slot|readings_key|2",
	}, keys(flightsql.TableRef{Table: "readings"}))
	require.Len(t, keys(flightsql.TableRef{Catalog: new("lab"), DBSchema: new("silver"), Table: "stations"}), 1)
	model := keys(flightsql.TableRef{Table: "by_station"})
	require.Equal(t, []string{"lab|gold|by_station|station|by_station_key|1"}, model)
	require.Empty(t, keys(flightsql.TableRef{Table: "logs"}))
	require.Empty(t, keys(flightsql.TableRef{DBSchema: new("gold"), Table: "readings"}))
	require.Empty(t, keys(flightsql.TableRef{Table: "nowhere"}))
}

func fields(schema *arrow.Schema) []string {
	fields := []string{}
	for _, field := range schema.Fields() {
		fields = append(fields, field.String())
	}
	return fields
}

func TestForeignKeysAreToldFromBothSides(t *testing.T) {
	featureOf(t, flightSQL, "primary and foreign keys")
	client := flightClient(t)
	stationsRef, readingsRef := flightsql.TableRef{Table: "stations"}, flightsql.TableRef{Table: "readings"}
	alarmsRef := flightsql.TableRef{Catalog: new("lab"), DBSchema: new("silver"), Table: "alarms"}
	const (
		toStation = "lab|silver|stations|id|lab|silver|readings|station|1|readings_station_fkey|stations_key|3|3"
		toReading = "lab|silver|readings|station|lab|silver|alarms|station|1|alarms_station_slot_fkey|readings_key|3|3"
		andSlot   = "lab|silver|readings|slot|lab|silver|alarms|slot|2|alarms_station_slot_fkey|readings_key|3|3"
	)
	told := func(info *flight.FlightInfo, err error) []string {
		require.NoError(t, err)
		return fetch(t, client, info)
	}
	require.Equal(t, []string{toStation}, told(client.GetExportedKeys(t.Context(), stationsRef)))
	require.Equal(t, []string{toReading, andSlot}, told(client.GetExportedKeys(t.Context(), readingsRef)))
	require.Equal(t, []string{toStation}, told(client.GetImportedKeys(t.Context(), readingsRef)))
	require.Equal(t, []string{toReading, andSlot}, told(client.GetImportedKeys(t.Context(), alarmsRef)))
	require.Empty(t, told(client.GetImportedKeys(t.Context(), stationsRef)))
	require.Equal(t, []string{toReading, andSlot}, told(client.GetCrossReference(t.Context(), readingsRef, alarmsRef)))
	require.Empty(t, told(client.GetCrossReference(t.Context(), stationsRef, alarmsRef)))
	info, err := client.GetImportedKeys(t.Context(), readingsRef)
	require.NoError(t, err)
	schema, err := flight.DeserializeSchema(info.Schema, client.Alloc)
	require.NoError(t, err)
	require.True(t, schema.Equal(schema_ref.ImportedKeys), schema)
}

func TestTypesAreTold(t *testing.T) {
	featureOf(t, flightSQL, "type info (XdbcTypeInfo)")
	client := flightClient(t)
	info, err := client.GetXdbcTypeInfo(t.Context(), nil)
	require.NoError(t, err)
	schema, err := flight.DeserializeSchema(info.Schema, client.Alloc)
	require.NoError(t, err)
	require.True(t, schema.Equal(schema_ref.XdbcTypeInfo), schema)
	all := fetch(t, client, info)
	require.Greater(t, len(all), 10)
	varchar := int32(12)
	info, err = client.GetXdbcTypeInfo(t.Context(), &varchar)
	require.NoError(t, err)
	some := fetch(t, client, info)
	require.NotEmpty(t, some)
	for _, row := range some {
		require.Equal(t, "12", strings.Split(row, "|")[1], row)
	}
}

func TestEveryInfoIsTold(t *testing.T) {
	featureOf(t, flightSQL, "server info (SqlInfo)")
	client := flightClient(t)
	info, err := client.GetSqlInfo(t.Context(), nil)
	require.NoError(t, err)
	all := fetch(t, client, info)
	require.Greater(t, len(all), 80)
	info, err = client.GetSqlInfo(t.Context(), []flightsql.SqlInfo{flightsql.SqlInfoFlightSqlServerTransaction})
	require.NoError(t, err)
	require.Len(t, fetch(t, client, info), 1)
}

func TestTransactionsAreRefusedWithTheReason(t *testing.T) {
	featureOf(t, flightSQL, noTransactions)
	_, err := flightClient(t).BeginTransaction(t.Context())
	require.Equal(t, codes.Unimplemented, status.Code(err), err)
	require.ErrorContains(t, err, "autocommit")
}

// lastInfo waits until a statement that is run incrementally has its first answer, and gives the newest.
func lastInfo(t *testing.T, statement adbc.Statement) *flight.FlightInfo {
	t.Helper()
	info := &flight.FlightInfo{}
	await(t, "the first answer", func() bool {
		bytes, err := statement.(adbc.GetSetOptions).GetOptionBytes(driver.OptionLastFlightInfo)
		require.NoError(t, err)
		require.NoError(t, proto.Unmarshal(bytes, info))
		return len(bytes) > 0
	})
	return info
}

// cancelInBackground stops a query by what is known of it.
func cancelInBackground(t *testing.T, info *flight.FlightInfo) flight.CancelStatus {
	t.Helper()
	result, err := flightClient(t).CancelFlightInfo(t.Context(), &flight.CancelFlightInfoRequest{Info: info})
	require.NoError(t, err)
	return result.Status
}

func TestAQueryInTheBackgroundIsCancelledByWhatIsKnownOfIt(t *testing.T) {
	featureOf(t, flightSQL, "cancel", polls)
	sql := marked(slow)
	statement := state(t, connect(t), sql, incrementally, map[string]string{header + "mallard-timeout": "20s"})
	_, failure := beginPolling(t, statement)
	require.Equal(t, flight.CancelStatusCancelled, cancelInBackground(t, lastInfo(t, statement)))
	failed(t, <-failure, adbc.StatusCancelled, "cancelled")
	awaitState(t, sql, "cancelled")
}

func TestAQueryIsCancelledByItsFlightInfo(t *testing.T) {
	featureOf(t, flightSQL, "cancel")
	client, sql := flightClient(t), marked(slow)
	info, err := client.Execute(t.Context(), sql)
	require.NoError(t, err)
	reader, err := client.DoGet(t.Context(), info.Endpoint[0].Ticket)
	require.NoError(t, err)
	awaitState(t, sql, "running")
	result, err := client.CancelFlightInfo(t.Context(), &flight.CancelFlightInfoRequest{Info: info})
	require.NoError(t, err)
	require.Equal(t, flight.CancelStatusCancelled, result.Status)
	_, err = drain(reader)
	require.Equal(t, codes.Canceled, status.Code(err), err)
	awaitState(t, sql, "cancelled")
}

func TestAnEndpointIsRenewed(t *testing.T) {
	featureOf(t, flightSQL, "expiry and renewal of endpoints")
	client := flightClient(t)
	info, err := client.Execute(t.Context(), "SELECT 1")
	require.NoError(t, err)
	endpoint := info.Endpoint[0]
	require.NotNil(t, endpoint.ExpirationTime)
	renewed, err := client.RenewFlightEndpoint(t.Context(), &flight.RenewFlightEndpointRequest{Endpoint: endpoint})
	require.NoError(t, err)
	require.True(t, renewed.ExpirationTime.AsTime().After(endpoint.ExpirationTime.AsTime()))
	for _, ticket := range []*flight.Ticket{endpoint.Ticket, renewed.Ticket} {
		reader, err := client.DoGet(t.Context(), ticket)
		require.NoError(t, err)
		rows, err := drain(reader)
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, rows)
	}
}
