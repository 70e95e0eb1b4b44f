package mallard

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
)

const objectsFeature = "catalogs, schemas, tables, table types"

// The answer of GetObjects; what is null was not asked for.
type (
	catalogObject struct {
		Name    string          `json:"catalog_name"`
		Schemas *[]schemaObject `json:"catalog_db_schemas"`
	}
	schemaObject struct {
		Name   string         `json:"db_schema_name"`
		Tables *[]tableObject `json:"db_schema_tables"`
	}
	tableObject struct {
		Name    string          `json:"table_name"`
		Type    string          `json:"table_type"`
		Columns *[]columnObject `json:"table_columns"`
	}
	columnObject struct {
		Name     string `json:"column_name"`
		Position int32  `json:"ordinal_position"`
		Type     int16  `json:"xdbc_data_type"`
	}
)

type filter struct {
	catalog, schema, table, column *string
	types                          []string
}

func objects(t *testing.T, depth adbc.ObjectDepth, by filter) []catalogObject {
	t.Helper()
	reader, err := connect(t).GetObjects(t.Context(), depth, by.catalog, by.schema, by.table, by.column, by.types)
	require.NoError(t, err)
	defer reader.Release()
	found := []catalogObject{}
	for reader.Next() {
		text, err := reader.RecordBatch().MarshalJSON()
		require.NoError(t, err)
		some := []catalogObject{}
		require.NoError(t, json.Unmarshal(text, &some))
		found = append(found, some...)
	}
	require.NoError(t, reader.Err())
	return found
}

// tables gives the names of all tables as schema.table.
func tables(catalogs []catalogObject) []string {
	found := []string{}
	for _, catalog := range catalogs {
		for _, schema := range *catalog.Schemas {
			for _, table := range *schema.Tables {
				found = append(found, schema.Name+"."+table.Name)
			}
		}
	}
	slices.Sort(found)
	return found
}

func TestCatalogsAreListed(t *testing.T) {
	feature(t, objectsFeature)
	require.Equal(t, []catalogObject{{Name: "lab"}}, objects(t, adbc.ObjectDepthCatalogs, filter{}))
	require.Len(t, objects(t, adbc.ObjectDepthCatalogs, filter{catalog: new("l%")}), 1)
	require.Empty(t, objects(t, adbc.ObjectDepthCatalogs, filter{catalog: new("other")}))
}

func TestSchemasAreListed(t *testing.T) {
	feature(t, objectsFeature)
	all := objects(t, adbc.ObjectDepthDBSchemas, filter{})
	require.Len(t, all, 1)
	require.Equal(t, []schemaObject{{Name: "gold"}, {Name: "silver"}, {Name: "system"}}, *all[0].Schemas)
	some := objects(t, adbc.ObjectDepthDBSchemas, filter{schema: new("s%")})
	require.Equal(t, []schemaObject{{Name: "silver"}, {Name: "system"}}, *some[0].Schemas)
	none := objects(t, adbc.ObjectDepthDBSchemas, filter{schema: new("bronze")})
	require.Empty(t, *none[0].Schemas)
}

func TestTablesAreListedByNameAndType(t *testing.T) {
	feature(t, objectsFeature)
	all := objects(t, adbc.ObjectDepthTables, filter{})
	require.Subset(t, tables(all), []string{"gold.by_station", "silver.alarms", "silver.kinds", "silver.logs",
		"silver.noise", "silver.readings", "silver.stations", "system.ingests", "system.models", "system.queries",
		"system.quarantine", "system.tables"})
	require.Nil(t, (*(*all[0].Schemas)[0].Tables)[0].Columns)

	for _, some := range []struct {
		by   filter
		want []string
	}{
		{filter{table: new("%tion%")}, []string{"gold.by_station", "silver.stations"}},
		{filter{table: new("by_stati_n")}, []string{"gold.by_station"}},
		{filter{schema: new("silver"), table: new("%s")},
			[]string{"silver.alarms", "silver.kinds", "silver.logs", "silver.readings", "silver.stations"}},
		{filter{schema: new("gold"), table: new("logs")}, []string{}},
		{filter{types: []string{"SYSTEM TABLE"}, table: new("q%")}, []string{"system.quarantine", "system.queries"}},
		{filter{types: []string{"TABLE"}, table: new("q%")}, []string{}},
		{filter{types: []string{"TABLE", "SYSTEM TABLE"}, table: new("q%")},
			[]string{"system.quarantine", "system.queries"}},
		{filter{types: []string{"VIEW"}}, []string{}},
	} {
		require.Equal(t, some.want, tables(objects(t, adbc.ObjectDepthTables, some.by)), "%+v", some.by)
	}
}

func TestColumnsAreListedWithTheirTypes(t *testing.T) {
	feature(t, objectsFeature, "columns, types and remarks")
	for _, depth := range []adbc.ObjectDepth{adbc.ObjectDepthAll, adbc.ObjectDepthColumns} {
		found := objects(t, depth, filter{schema: new("silver"), table: new("readings")})
		columns := *(*(*found[0].Schemas)[0].Tables)[0].Columns
		const bigint, integer, float, varchar = -5, 4, 6, 12
		require.Equal(t, []columnObject{
			{"station", 1, bigint}, {"slot", 2, integer}, {"seq", 3, bigint}, {"value", 4, float}, {"note", 5, varchar},
		}, columns)
	}
	found := objects(t, adbc.ObjectDepthAll, filter{schema: new("silver"), table: new("readings"), column: new("s%t")})
	require.Equal(t, []columnObject{{"slot", 2, 4}}, *(*(*found[0].Schemas)[0].Tables)[0].Columns)
}

func TestATablesSchemaTellsTypesNullsAndRemarks(t *testing.T) {
	feature(t, "columns, types and remarks")
	connection := connect(t)
	schema, err := connection.GetTableSchema(t.Context(), new("lab"), new("silver"), "stations")
	require.NoError(t, err)
	require.Equal(t, []string{"id", "name"}, names(schema)[:2])
	id, name := schema.Field(0), schema.Field(1)
	require.Equal(t, arrow.PrimitiveTypes.Int64, id.Type)
	require.False(t, id.Nullable)
	remark, _ := id.Metadata.GetValue("ARROW:FLIGHT:SQL:REMARKS")
	require.Equal(t, "tells stations apart", remark)
	require.Equal(t, arrow.BinaryTypes.String, name.Type)
	require.True(t, name.Nullable)
	require.False(t, name.HasMetadata() && name.Metadata.FindKey("ARROW:FLIGHT:SQL:REMARKS") >= 0)

	_, err = connection.GetTableSchema(t.Context(), nil, new("gold"), "stations")
	failed(t, err, adbc.StatusNotFound)
	_, err = connection.GetTableSchema(t.Context(), new("other"), nil, "stations")
	failed(t, err, adbc.StatusNotFound)
}

func TestTableTypesAreListed(t *testing.T) {
	feature(t, objectsFeature)
	reader, err := connect(t).GetTableTypes(t.Context())
	require.NoError(t, err)
	require.True(t, reader.Schema().Equal(adbc.TableTypesSchema), reader.Schema())
	rows, err := drain(reader)
	require.NoError(t, err)
	require.Equal(t, []string{"SYSTEM TABLE", "TABLE"}, rows)
}

func TestTheServerTellsAboutItself(t *testing.T) {
	feature(t, "server info (SqlInfo)")
	infos := func(codes ...adbc.InfoCode) map[adbc.InfoCode]string {
		reader, err := connect(t).GetInfo(t.Context(), codes)
		require.NoError(t, err)
		defer reader.Release()
		told := map[adbc.InfoCode]string{}
		for reader.Next() {
			codes := reader.RecordBatch().Column(0).(*array.Uint32)
			values := reader.RecordBatch().Column(1).(*array.DenseUnion)
			for row := range codes.Len() {
				value := values.Field(values.ChildID(row))
				told[adbc.InfoCode(codes.Value(row))] = value.ValueStr(int(values.ValueOffset(row)))
			}
		}
		require.NoError(t, reader.Err())
		return told
	}
	all := infos(adbc.InfoVendorName, adbc.InfoVendorVersion, adbc.InfoVendorArrowVersion, adbc.InfoVendorSql,
		adbc.InfoVendorSubstrait, adbc.InfoVendorSubstraitMinVersion, adbc.InfoVendorSubstraitMaxVersion)
	require.Equal(t, "Mallard", all[adbc.InfoVendorName])
	require.Regexp(t, `^\d+\.\d+\.\d+`, all[adbc.InfoVendorVersion])
	require.Regexp(t, `^\d+\.\d+`, all[adbc.InfoVendorArrowVersion])
	require.Equal(t, "true", all[adbc.InfoVendorSql])
	require.Equal(t, "true", all[adbc.InfoVendorSubstrait])
	require.Regexp(t, `^\d+\.\d+\.\d+`, all[adbc.InfoVendorSubstraitMinVersion])
	require.Equal(t, all[adbc.InfoVendorSubstraitMinVersion], all[adbc.InfoVendorSubstraitMaxVersion])
	require.Equal(t, "Mallard", infos()[adbc.InfoVendorName])
}
