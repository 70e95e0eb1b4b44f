package mallard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
)

const (
	appends = "bulk ingest: append"
	creates = "bulk ingest: create, create_append"
)

// noise makes log lines from `first` on, with texts that hardly get smaller by compression.
func noise(t testing.TB, first int64, rows, bytes int) arrow.RecordBatch {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(first), 1))
	lines, texts := array.NewInt64Builder(memory.DefaultAllocator), array.NewStringBuilder(memory.DefaultAllocator)
	text := make([]byte, bytes)
	for row := range rows {
		for i := range text {
			text[i] = byte(' ' + random.IntN(95))
		}
		lines.Append(first + int64(row))
		texts.Append(string(text))
	}
	made := array.NewRecordBatch(logs, []arrow.Array{lines.NewArray(), texts.NewArray()}, int64(rows))
	t.Cleanup(made.Release)
	return made
}

func TestABatchIsAppendedAndComesBack(t *testing.T) {
	feature(t, appends, "NULLs")
	connection, base := connect(t), own()
	ingest(t, connection, "logs", batch(t, logs, fmt.Sprintf(
		`[{"line":%d,"text":"a"},{"line":%d,"text":null},{"line":%d,"text":"ü"}]`, base, base+1, base+2)))
	require.Equal(t, []string{"0|a", "1|(null)", "2|ü"}, query(t, connection, fmt.Sprintf(
		"SELECT line - %[1]d, text FROM silver.logs WHERE line BETWEEN %[1]d AND %[1]d + 999 ORDER BY line", base)))
}

func TestARecordIsBoundAsWellAsAStream(t *testing.T) {
	feature(t, appends)
	connection, base, id := connect(t), own(), newID()
	statement := state(t, connection, "", appending, under(id), map[string]string{
		adbc.OptionKeyIngestTargetTable:      "logs",
		adbc.OptionValueIngestTargetCatalog:  "lab",
		adbc.OptionValueIngestTargetDBSchema: "silver",
	})
	require.NoError(t, statement.Bind(t.Context(), batch(t, logs, fmt.Sprintf(`[{"line":%d,"text":"x"}]`, base))))
	_, accepted, err := statement.ExecuteQuery(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, accepted)
	awaitMerge(t, connection, id)
	require.Len(t, query(t, connection, fmt.Sprintf("SELECT text FROM silver.logs WHERE line = %d", base)), 1)
}

func TestAStreamOfManyBatchesIsOneIngest(t *testing.T) {
	feature(t, appends)
	connection, base, id := connect(t), own(), newID()
	batches := []arrow.RecordBatch{batch(t, logs, "[]")}
	for line := range int64(50) {
		batches = append(batches, batch(t, logs, fmt.Sprintf(`[{"line":%d,"text":"x"}]`, base+line)))
	}
	accepted, err := send(t, connection, "logs", stream(t, logs, batches...), appending, under(id))
	require.NoError(t, err)
	require.EqualValues(t, 50, accepted)
	awaitMerge(t, connection, id)
	require.Equal(t, []string{"50"}, query(t, connection, "SELECT rows FROM system.ingests WHERE ingest_id = '"+id+"'"))
	require.Equal(t, []string{"50|1225"}, query(t, connection, fmt.Sprintf(
		"SELECT count(*), sum(line - %[1]d) FROM silver.logs WHERE line BETWEEN %[1]d AND %[1]d + 999", base)))
}

// largeMessages lets the driver send more than its own 16 MiB a message.
var largeMessages = map[string]string{flightsql.OptionWithMaxMsgSize: strconv.Itoa(256 << 20)}

// Go's writer sends a batch as one message, however large it is.
func TestALargeBatchIsTakenInOneMessage(t *testing.T) {
	feature(t, appends)
	connection := connect(t, largeMessages)
	large := noise(t, 1_000_000_000, 50_000, 400)
	ingest(t, connection, "noise", large)
	require.Equal(t, []string{"50000|20000000"}, query(t, connection,
		"SELECT count(*), sum(octet_length(text)) FROM silver.noise WHERE line >= 1000000000"))
	last := large.Column(1).(*array.String).Value(49_999)
	require.Equal(t, []string{last[380:]}, query(t, connection,
		"SELECT right(text, 20) FROM silver.noise WHERE line = 1000049999"))
}

func TestABatchThatIsTooLargeIsRefusedWithTheLimit(t *testing.T) {
	feature(t, appends, "errors with their codes")
	text := `[{"line":1,"text":"` + strings.Repeat("x", 65<<20) + `"}]`
	_, err := send(t, connect(t, largeMessages), "logs", stream(t, logs, batch(t, logs, text)), appending)
	refused(t, err, adbc.StatusInternal, "67108864", "smaller batches")
}

func TestNoRowsAreTakenAndAddNone(t *testing.T) {
	feature(t, appends)
	connection := connect(t)
	// Of a stream without batches, Go's writer sends nothing at all.
	none := batch(t, logs, "[]")
	for _, batches := range [][]arrow.RecordBatch{{}, {none}, {none, none}} {
		accepted, err := send(t, connection, "logs", stream(t, logs, batches...), appending)
		require.NoError(t, err)
		require.Zero(t, accepted)
	}
}

func TestOtherEncodingsAndNarrowerTypesAreTaken(t *testing.T) {
	feature(t, appends)
	connection, base := connect(t), own()
	for number, text := range []arrow.DataType{
		arrow.BinaryTypes.LargeString, arrow.BinaryTypes.StringView,
		&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int16, ValueType: arrow.BinaryTypes.String},
	} {
		schema := arrow.NewSchema([]arrow.Field{
			{Name: "TEXT", Type: text, Nullable: true}, {Name: "line", Type: arrow.PrimitiveTypes.Int32},
		}, nil)
		line := base + int64(number)
		ingest(t, connection, "logs", batch(t, schema, fmt.Sprintf(
			`[{"line":%[1]d,"TEXT":"a text that is rather long"},{"line":%[1]d,"TEXT":null}]`, line)))
		require.Equal(t, []string{"(null)", "a text that is rather long"}, query(t, connection,
			fmt.Sprintf("SELECT text FROM silver.logs WHERE line = %d ORDER BY text NULLS FIRST", line)), text)
	}
}

func TestAStreamThatBreaksOffAddsNothing(t *testing.T) {
	feature(t, appends)
	base := own()
	rows := batch(t, logs, fmt.Sprintf(`[{"line":%d,"text":"x"}]`, base))
	broken := errors.New("the source is broken")
	reader := array.ReaderFromIter(logs, func(yield func(arrow.RecordBatch, error) bool) {
		_ = yield(rows, nil) && yield(nil, broken)
	})
	connection, err := open(t, nil).Open(t.Context())
	require.NoError(t, err)
	statement, err := connection.NewStatement()
	require.NoError(t, err)
	require.NoError(t, statement.SetOption(adbc.OptionKeyIngestMode, adbc.OptionValueIngestModeAppend))
	require.NoError(t, statement.SetOption(adbc.OptionKeyIngestTargetTable, "logs"))
	require.NoError(t, statement.BindStream(t.Context(), reader))
	_, err = statement.ExecuteUpdate(t.Context())
	failed(t, err, adbc.StatusUnknown, broken.Error())
	require.NoError(t, statement.Close())
	require.NoError(t, connection.Close())

	ingest(t, connect(t), "logs", batch(t, logs, fmt.Sprintf(`[{"line":%d,"text":"last"}]`, base)))
	require.Equal(t, []string{"last"}, query(t, connect(t),
		fmt.Sprintf("SELECT text FROM silver.logs WHERE line = %d", base)))
}

func TestRowsUnderOneIDCountOnce(t *testing.T) {
	feature(t, appends)
	connection, base, id := connect(t), own(), newID()
	rows := batch(t, logs, fmt.Sprintf(`[{"line":%[1]d,"text":"a"},{"line":%[1]d,"text":"b"}]`, base))
	for range 3 {
		accepted, err := send(t, connection, "logs", stream(t, logs, rows), appending, under(id))
		require.NoError(t, err)
		require.EqualValues(t, 2, accepted)
	}
	ingest(t, connection, "logs", batch(t, logs, `[{"line":0,"text":"last"}]`))
	require.Equal(t, []string{"2"}, query(t, connection,
		fmt.Sprintf("SELECT count(*) FROM silver.logs WHERE line = %d", base)))
}

func TestRowsAreMergedByKeyAndSequence(t *testing.T) {
	feature(t, appends)
	connection, base := connect(t), own()
	row := func(slot, seq int, op string) string {
		return fmt.Sprintf(`{"station":%d,"slot":%d,"seq":%d,"value":%[3]d,"op":%q}`, base, slot, seq, op)
	}
	ingest(t, connection, "readings", batch(t, readings, "["+row(1, 2, "")+","+row(1, 9, "")+","+row(2, 1, "")+"]"))
	ingest(t, connection, "readings", batch(t, readings, "["+row(1, 5, "")+","+row(2, 2, "delete")+"]"))
	require.Equal(t, []string{"1|9|9"}, query(t, connection,
		fmt.Sprintf("SELECT slot, seq, value FROM silver.readings WHERE station = %d", base)))
}

func TestASchemaThatDoesNotFitIsRefusedBeforeARowIsTaken(t *testing.T) {
	feature(t, appends, "errors with their codes")
	connection := connect(t)
	text := func(name string) arrow.Field {
		return arrow.Field{Name: name, Type: arrow.BinaryTypes.String, Nullable: true}
	}
	time := arrow.Field{Name: "t", Type: arrow.FixedWidthTypes.Time64us, Nullable: true}
	for _, wrong := range []struct {
		table  string
		fields []arrow.Field
		words  []string
	}{
		{"logs", []arrow.Field{text("line")}, []string{`"line"`, `"logs"`, "bigint", "varchar"}},
		{"stations", []arrow.Field{text("name")}, []string{`"id"`, `"stations"`, "primary key"}},
		{"logs", []arrow.Field{text("text"), text("TEXT")}, []string{`"TEXT"`, "twice"}},
		{"logs", []arrow.Field{text("text"), text("_x")}, []string{`"_x"`}},
		{"logs", []arrow.Field{text("text"), time}, []string{`"t"`}},
	} {
		schema := arrow.NewSchema(wrong.fields, nil)
		_, err := send(t, connection, wrong.table, stream(t, schema, batch(t, schema, `[{}]`)), appending)
		refused(t, err, adbc.StatusInvalidArgument, wrong.words...)
	}
}

func TestATableThatIsNotThereIsNotFound(t *testing.T) {
	feature(t, appends, "errors with their codes")
	_, err := send(t, connect(t), "log", stream(t, logs, batch(t, logs, `[{"line":1}]`)), appending)
	refused(t, err, adbc.StatusNotFound, `"log"`, `"logs"`)
}

func TestATargetElsewhereIsRefused(t *testing.T) {
	feature(t, appends, "errors with their codes")
	connection, rows := connect(t), batch(t, logs, `[{"line":1}]`)
	for option, value := range map[string]string{
		adbc.OptionValueIngestTargetCatalog:  "main",
		adbc.OptionValueIngestTargetDBSchema: "gold",
	} {
		_, err := send(t, connection, "logs", stream(t, logs, rows), appending, map[string]string{option: value})
		refused(t, err, adbc.StatusInvalidArgument, `"`+value+`"`)
	}
	temporary := map[string]string{adbc.OptionValueIngestTemporary: adbc.OptionValueEnabled}
	_, err := send(t, connection, "logs", stream(t, logs, rows), appending, temporary)
	refused(t, err, adbc.StatusNotImplemented, "temporary", `"logs"`)
}

func TestABadIngestIDIsRefused(t *testing.T) {
	feature(t, appends, "errors with their codes")
	for _, id := range []string{"a/b", strings.Repeat("x", 129)} {
		_, err := send(t, connect(t), "logs", stream(t, logs, batch(t, logs, `[{"line":1}]`)), appending, under(id))
		refused(t, err, adbc.StatusInvalidArgument, "ingest id", "128")
	}
}

func TestANullKeyIsRefusedWithItsRow(t *testing.T) {
	feature(t, appends, "NULLs", "errors with their codes")
	connection, base := connect(t), own()
	nullable := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)
	first := batch(t, nullable, fmt.Sprintf(`[{"id":%d},{"id":%d}]`, base, base+1))
	second := batch(t, nullable, fmt.Sprintf(`[{"id":%d},{"id":null}]`, base+2))
	_, err := send(t, connection, "stations", stream(t, nullable, first, second), appending)
	refused(t, err, adbc.StatusInvalidArgument, "row 4", `"stations"`, `"id"`, "of this ingest, 0 rows are kept")
}

func TestWhatWasAcceptedBeforeAFailureStaysAndIsRepeatedUnderItsID(t *testing.T) {
	feature(t, appends, "errors with their codes")
	connection, base, id := connect(t), own(), newID()
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "name", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	good := []arrow.RecordBatch{}
	for part := range int64(6) {
		texts := noise(t, base+part*100, 100, 20_000)
		good = append(good, array.NewRecordBatch(schema, texts.Columns(), texts.NumRows()))
	}
	bad := batch(t, schema, `[{"id":null,"name":"bad"}]`)
	_, err := send(t, connection, "stations", stream(t, schema, append(good, bad)...), appending, under(id))
	refused(t, err, adbc.StatusInvalidArgument, "row 601", `"id"`)
	_, rest, _ := strings.Cut(err.Error(), "of this ingest, ")
	accepted, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err, rest)
	require.NotZero(t, accepted)
	require.LessOrEqual(t, accepted, 600)
	count := fmt.Sprintf("SELECT count(*) FROM silver.stations WHERE id BETWEEN %[1]d AND %[1]d + 999", base)
	awaitRows(t, connection, count, strconv.Itoa(accepted))

	mended := batch(t, schema, fmt.Sprintf(`[{"id":%d,"name":"good"}]`, base+600))
	all, err := send(t, connection, "stations", stream(t, schema, append(good, mended)...), appending, under(id))
	require.NoError(t, err)
	require.EqualValues(t, 601, all)
	awaitRows(t, connection, count, "601")
}

// keyed is a schema whose first column is the key of a table that is made with it.
var keyed = arrow.NewSchema([]arrow.Field{
	{
		Name: "id", Type: arrow.PrimitiveTypes.Int64,
		Metadata: arrow.NewMetadata([]string{"mallard:primary_key"}, []string{"true"}),
	},
	{Name: "item", Type: arrow.BinaryTypes.String, Nullable: true},
}, nil)

func TestATableIsMadeWithTheKeyThatItsColumnsName(t *testing.T) {
	feature(t, creates)
	connection, table, id := connect(t), fmt.Sprintf("made_%d", own()), newID()
	rows := batch(t, keyed, `[{"id":1,"item":"a"},{"id":2,"item":"b"},{"id":2,"item":"c"}]`)
	accepted, err := send(t, connection, table, stream(t, keyed, rows), creating, under(id))
	require.NoError(t, err)
	require.EqualValues(t, 3, accepted)
	awaitMerge(t, connection, id)
	require.Equal(t, []string{"1|a", "2|c"}, query(t, connection, "SELECT id, item FROM silver."+table+" ORDER BY id"))

	_, err = send(t, connection, table, stream(t, keyed, rows), creating)
	refused(t, err, adbc.StatusAlreadyExists, `"`+table+`"`, "append")
	ingest(t, connection, table, batch(t, keyed, `[{"id":1,"item":"d"}]`))
	require.Equal(t, []string{"1|d", "2|c"}, query(t, connection, "SELECT id, item FROM silver."+table+" ORDER BY id"))
}

func TestATableIsMadeIfItIsNotThereElseAppendedTo(t *testing.T) {
	feature(t, creates)
	connection, table := connect(t), fmt.Sprintf("made_%d", own())
	mode := map[string]string{adbc.OptionKeyIngestMode: adbc.OptionValueIngestModeCreateAppend}
	for range 2 {
		id := newID()
		rows := stream(t, logs, batch(t, logs, `[{"line":1,"text":"x"}]`))
		accepted, err := send(t, connection, table, rows, mode, under(id))
		require.NoError(t, err)
		require.EqualValues(t, 1, accepted)
		awaitMerge(t, connection, id)
	}
	require.Equal(t, []string{"2"}, query(t, connection, "SELECT count(*) FROM silver."+table))
}

func TestATableIsMadeOfABatchWithoutRows(t *testing.T) {
	feature(t, creates)
	connection, table := connect(t), fmt.Sprintf("made_%d", own())
	accepted, err := send(t, connection, table, stream(t, keyed, batch(t, keyed, "[]")), creating)
	require.NoError(t, err)
	require.Zero(t, accepted)
	schema, err := connection.GetTableSchema(t.Context(), nil, new("silver"), table)
	require.NoError(t, err)
	require.Equal(t, []string{"id", "item"}, names(schema)[:2])
}

func TestATableThatIsDeclaredIsNotMadeAgain(t *testing.T) {
	feature(t, creates, "errors with their codes")
	// A driver that is told no mode takes "create".
	for _, options := range []map[string]string{creating, nil} {
		_, err := send(t, connect(t), "logs", stream(t, logs, batch(t, logs, `[{"line":1}]`)), options)
		refused(t, err, adbc.StatusAlreadyExists, `"logs"`, "append")
	}
}

func TestATableThatCannotBeIsNotMade(t *testing.T) {
	feature(t, creates, "errors with their codes")
	connection := connect(t)
	_, err := send(t, connection, "No Name", stream(t, logs, batch(t, logs, `[{"line":1}]`)), creating)
	refused(t, err, adbc.StatusInvalidArgument, `"No Name"`)
	real := arrow.NewSchema([]arrow.Field{{
		Name: "key", Type: arrow.PrimitiveTypes.Float64,
		Metadata: arrow.NewMetadata([]string{"mallard:primary_key"}, []string{"true"}),
	}}, nil)
	_, err = send(t, connection, "bad_key", stream(t, real, batch(t, real, `[{"key":1.5}]`)), creating)
	refused(t, err, adbc.StatusInvalidArgument, `"key"`, "float")
}

func TestReplaceIsRefusedWithTheReason(t *testing.T) {
	feature(t, "bulk ingest: replace is refused", "errors with their codes")
	mode := map[string]string{adbc.OptionKeyIngestMode: adbc.OptionValueIngestModeReplace}
	for _, table := range []string{"logs", "not_there"} {
		_, err := send(t, connect(t), table, stream(t, logs, batch(t, logs, `[{"line":1}]`)), mode)
		refused(t, err, adbc.StatusNotImplemented, "replace", `"`+table+`"`, "append")
	}
}
