package mallard

import (
	"fmt"
	"slices"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/stretchr/testify/require"
	"github.com/substrait-io/substrait-protobuf/go/substraitpb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const plans = "Substrait plans"

// above is SELECT id, name AS called FROM silver.stations WHERE id > %d, in Substrait's JSON.
const above = `{
  "version": {"minorNumber": 63, "producer": "written by hand"},
  "extensions": [{"extensionFunction": {"functionAnchor": 1, "name": "gt:any_any"}}],
  "relations": [{"root": {"names": ["id", "called"], "input": {"filter": {
    "input": {"read": {
      "namedTable": {"names": ["silver", "stations"]},
      "baseSchema": {"names": ["id", "name"], "struct": {"nullability": "NULLABILITY_REQUIRED", "types": [
        {"i64": {"nullability": "NULLABILITY_REQUIRED"}},
        {"string": {"nullability": "NULLABILITY_NULLABLE"}}
      ]}}
    }},
    "condition": {"scalarFunction": {
      "functionReference": 1,
      "outputType": {"bool": {"nullability": "NULLABILITY_REQUIRED"}},
      "arguments": [
        {"value": {"selection": {"directReference": {"structField": {"field": 0}}, "rootReference": {}}}},
        {"value": {"literal": {"i64": "%d"}}}
      ]
    }}
  }}}}]
}`

// plan gives a Substrait plan as its message.
func plan(t *testing.T, json string) []byte {
	t.Helper()
	message := &substraitpb.Plan{}
	require.NoError(t, protojson.Unmarshal([]byte(json), message))
	bytes, err := proto.Marshal(message)
	require.NoError(t, err)
	return bytes
}

// planned gives a statement for the stations above the first of three, and their rows.
func planned(t *testing.T) (adbc.Connection, adbc.Statement, []string) {
	t.Helper()
	// No other station has so large an id.
	connection, base := connect(t), 5_000_000_000_000+numbers.Add(1)*1_000_000
	ingest(t, connection, "stations", batch(t, stations, fmt.Sprintf(
		`[{"id":%d,"name":"a"},{"id":%d,"name":"b"},{"id":%d,"name":null}]`, base, base+1, base+2)))
	statement := state(t, connection, "")
	require.NoError(t, statement.SetSubstraitPlan(plan(t, fmt.Sprintf(above, base))))
	return connection, statement, []string{fmt.Sprintf("%d|b", base+1), fmt.Sprintf("%d|(null)", base+2)}
}

func TestASubstraitPlanIsRun(t *testing.T) {
	feature(t, plans)
	connection, statement, want := planned(t)
	schema, err := schemaOf(t, statement)
	require.NoError(t, err)
	require.Equal(t, []string{"id", "called"}, names(schema))
	rows, err := run(t.Context(), statement)
	require.NoError(t, err)
	require.ElementsMatch(t, want, rows)
	require.ElementsMatch(t, want, slices.Concat(parts(t, statement, connection)...))
}

func TestASubstraitPlanIsPrepared(t *testing.T) {
	feature(t, plans, "prepared statements")
	_, statement, want := planned(t)
	require.NoError(t, statement.Prepare(t.Context()))
	schema, err := schemaOf(t, statement)
	require.NoError(t, err)
	require.Equal(t, []string{"id", "called"}, names(schema))
	for range 2 {
		rows, err := run(t.Context(), statement)
		require.NoError(t, err)
		require.ElementsMatch(t, want, rows)
	}
}

func TestASubstraitPlanIsRunIncrementally(t *testing.T) {
	feature(t, plans, polls)
	connection, statement, want := planned(t)
	require.NoError(t, statement.SetOption(adbc.OptionKeyIncremental, adbc.OptionValueEnabled))
	got, err := increments(t, connection, statement)
	require.NoError(t, err)
	require.ElementsMatch(t, want, slices.Concat(got...))
}

func TestAPlanThatCannotBeRunIsRefused(t *testing.T) {
	feature(t, plans, "errors with their codes")
	connection := connect(t)
	elsewhere := `{"relations": [{"root": {"names": ["id"], "input": {"read": {
		"namedTable": {"names": ["silver", "nowhere"]},
		"baseSchema": {"names": ["id"], "struct": {"types": [{"i64": {"nullability": "NULLABILITY_NULLABLE"}}]}}
	}}}}]}`
	for _, wrong := range []struct {
		plan []byte
		word string
	}{
		{[]byte("no plan at all"), "substrait.Plan"},
		{plan(t, `{"version": {"minorNumber": 63}}`), "Substrait"},
		{plan(t, `{"relations": [{"root": {}}]}`), "Substrait"},
		{plan(t, elsewhere), "nowhere"},
	} {
		statement := state(t, connection, "")
		require.NoError(t, statement.SetSubstraitPlan(wrong.plan))
		_, err := run(t.Context(), statement)
		failed(t, err, adbc.StatusInvalidArgument, wrong.word)
		_, err = statement.ExecuteUpdate(t.Context())
		failed(t, err, adbc.StatusInvalidArgument, wrong.word)
	}
	_, statement, _ := planned(t)
	_, err := statement.ExecuteUpdate(t.Context())
	refused(t, err, adbc.StatusInvalidArgument, "only reads")
}
