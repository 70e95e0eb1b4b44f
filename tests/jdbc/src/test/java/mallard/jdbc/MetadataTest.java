package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What there is: catalogs, schemas, tables, columns. */
@ExtendWith(Lakehouse.class)
class MetadataTest {
    private Connection connection;
    private DatabaseMetaData metadata;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
        metadata = connection.getMetaData();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    @Feature("catalogs, schemas, tables, table types")
    @Test
    void there_is_one_catalog_with_the_name_of_the_definition() throws SQLException {
        assertEquals(List.of("shop"), Lakehouse.texts(metadata.getCatalogs(), "TABLE_CAT"));
    }

    @Feature("catalogs, schemas, tables, table types")
    @Test
    void the_schemas_are_gold_silver_and_system() throws SQLException {
        assertEquals(List.of("gold", "silver", "system"), Lakehouse.texts(metadata.getSchemas(), "TABLE_SCHEM"));
        assertEquals(List.of("silver"), Lakehouse.texts(metadata.getSchemas(null, "silv%"), "TABLE_SCHEM"));
        assertEquals(List.of("gold"), Lakehouse.texts(metadata.getSchemas("shop", "g_ld"), "TABLE_SCHEM"));
        assertEquals(List.of("shop"), Lakehouse.texts(metadata.getSchemas("shop", "gold"), "TABLE_CATALOG"));
        assertEquals(List.of(), Lakehouse.texts(metadata.getSchemas("elsewhere", null), "TABLE_SCHEM"));
    }

    @Feature("catalogs, schemas, tables, table types")
    @Test
    void tables_are_listed_by_schema_sorted_by_name() throws SQLException {
        List<String> silver = List.of(
                "customers", "later", "numbers", "order_lines", "orders", "parcels", "samples");
        assertEquals(silver, Lakehouse.texts(metadata.getTables(null, "silver", "%", null), "TABLE_NAME"));
        assertEquals(List.of("flags"), Lakehouse.texts(metadata.getTables(null, "gold", null, null), "TABLE_NAME"));
        List<String> system = Lakehouse.texts(metadata.getTables("shop", "system", "%", null), "TABLE_NAME");
        List<String> known = List.of("ingests", "models", "quarantine", "queries", "tables");
        assertTrue(system.containsAll(known), () -> "" + system);
    }

    @Feature("catalogs, schemas, tables, table types")
    @ParameterizedTest
    @CsvSource({"order%, 2", "order_, 1", "order\\_lines, 1", "order\\_, 0", "ORDERS, 0", "'', 0"})
    void a_name_is_a_pattern(String pattern, int found) throws SQLException {
        assertEquals(found, Lakehouse.texts(metadata.getTables(null, "silver", pattern, null), "TABLE_NAME").size());
    }

    @Feature("catalogs, schemas, tables, table types")
    @Test
    void a_listed_table_names_its_catalog_schema_and_type() throws SQLException {
        try (ResultSet tables = metadata.getTables("shop", "silver", "sam%", new String[] {"TABLE", "VIEW"})) {
            assertTrue(tables.next());
            assertEquals("shop", tables.getString("TABLE_CAT"));
            assertEquals("silver", tables.getString("TABLE_SCHEM"));
            assertEquals("samples", tables.getString("TABLE_NAME"));
            assertEquals("TABLE", tables.getString("TABLE_TYPE"));
            // The driver's getTables adds REMARKS as an empty field; tables' descriptions are in information_schema.
            assertNull(tables.getString("REMARKS"));
            assertFalse(tables.next());
        }
        assertEquals(
                List.of("a column of each type: ordinary, NULL, and smallest values"),
                Lakehouse.column("SELECT comment FROM information_schema.tables WHERE table_name = 'samples'"));
    }

    @Feature("catalogs, schemas, tables, table types")
    @Test
    void tables_are_found_by_their_types() throws SQLException {
        List<String> types = Lakehouse.texts(metadata.getTableTypes(), "TABLE_TYPE");
        assertEquals(List.of("SYSTEM TABLE", "TABLE"), types.stream().sorted().toList());
        String[] system = {"SYSTEM TABLE"};
        List<String> schemas = Lakehouse.texts(metadata.getTables(null, null, "%", system), "TABLE_SCHEM");
        assertEquals(Set.of("system"), new TreeSet<>(schemas));
        String[] views = {"VIEW"};
        assertEquals(List.of(), Lakehouse.texts(metadata.getTables(null, null, "%", views), "TABLE_NAME"));
    }

    /** One line a column: name, JDBC's type and its name, size, digits, radix. */
    @Feature("columns, types and remarks")
    @Test
    void each_column_has_its_type_and_size() throws SQLException {
        String type = "%s %d %s %s %s %s";
        List<String> found = new ArrayList<>();
        try (ResultSet columns = metadata.getColumns("shop", "silver", "samples", null)) {
            while (columns.next()) {
                found.add(type.formatted(
                        columns.getString("COLUMN_NAME"), columns.getInt("DATA_TYPE"), columns.getString("TYPE_NAME"),
                        columns.getObject("COLUMN_SIZE"), columns.getObject("DECIMAL_DIGITS"),
                        columns.getObject("NUM_PREC_RADIX")));
            }
        }
        // The driver has no sizes for floating-point numbers, and its own for text and bytes.
        assertEquals(
                List.of(
                        type.formatted("id", Types.BIGINT, "BIGINT", 19, 0, 10),
                        type.formatted("flag", Types.BOOLEAN, "BOOLEAN", null, null, null),
                        type.formatted("tiny", Types.TINYINT, "TINYINT", 3, 0, 10),
                        type.formatted("small", Types.SMALLINT, "SMALLINT", 5, 0, 10),
                        type.formatted("whole", Types.INTEGER, "INTEGER", 10, 0, 10),
                        type.formatted("big", Types.BIGINT, "BIGINT", 19, 0, 10),
                        type.formatted("ratio", Types.FLOAT, "FLOAT", null, null, 10),
                        type.formatted("precise", Types.DOUBLE, "DOUBLE", null, null, 10),
                        type.formatted("price", Types.DECIMAL, "DECIMAL", 10, 2, 10),
                        type.formatted("huge", Types.DECIMAL, "DECIMAL", 38, 10, 10),
                        type.formatted("name", Types.VARCHAR, "VARCHAR", 65536, null, null),
                        type.formatted("doc", Types.VARCHAR, "VARCHAR", 65536, null, null),
                        type.formatted("day", Types.DATE, "DATE", 10, 0, null),
                        type.formatted(
                                "at", Types.TIMESTAMP_WITH_TIMEZONE, "TIMESTAMP_WITH_TIMEZONE", 26, 6, null),
                        type.formatted("local", Types.TIMESTAMP, "TIMESTAMP", 26, 6, null),
                        type.formatted("raw", Types.VARBINARY, "VARBINARY", 65536, null, null),
                        type.formatted("tags", Types.ARRAY, "ARRAY", null, null, null),
                        type.formatted("point", Types.JAVA_OBJECT, "JAVA_OBJECT", null, null, null),
                        type.formatted("stock", Types.JAVA_OBJECT, "JAVA_OBJECT", null, null, null),
                        // When and in which ingest the row came: the table has no sequence_by.
                        type.formatted("_sequence", Types.VARCHAR, "VARCHAR", 65536, null, null)),
                found);
    }

    @Feature("columns, types and remarks")
    @Test
    void columns_are_numbered_from_one_even_if_only_some_are_asked_for() throws SQLException {
        try (ResultSet columns = metadata.getColumns(null, "silver", "orders", "%")) {
            for (int place = 1; place <= 6; place++) {
                assertTrue(columns.next());
                assertEquals(place, columns.getInt("ORDINAL_POSITION"));
                assertEquals("orders", columns.getString("TABLE_NAME"));
                assertEquals("silver", columns.getString("TABLE_SCHEM"));
                assertEquals("shop", columns.getString("TABLE_CAT"));
            }
            assertFalse(columns.next(), "op is not stored");
        }
        try (ResultSet columns = metadata.getColumns(null, "silver", "orders", "a%")) {
            assertTrue(columns.next());
            assertEquals("amount", columns.getString("COLUMN_NAME"));
            assertEquals(4, columns.getInt("ORDINAL_POSITION"));
            assertFalse(columns.next());
        }
    }

    @Feature("columns, types and remarks")
    @Test
    void the_key_is_not_nullable_and_the_rest_is() throws SQLException {
        try (ResultSet columns = metadata.getColumns(null, "silver", "samples", "%")) {
            while (columns.next()) {
                String name = columns.getString("COLUMN_NAME");
                boolean isNullable = !name.equals("id");
                int number = isNullable ? DatabaseMetaData.columnNullable : DatabaseMetaData.columnNoNulls;
                assertEquals(number, columns.getInt("NULLABLE"), name);
                assertEquals(isNullable ? "YES" : "NO", columns.getString("IS_NULLABLE"), name);
            }
        }
    }

    @Feature("columns, types and remarks")
    @Test
    void a_described_column_has_its_description_as_remarks() throws SQLException {
        try (ResultSet columns = metadata.getColumns(null, "silver", "samples", "%")) {
            while (columns.next()) {
                String remarks = switch (columns.getString("COLUMN_NAME")) {
                    case "id" -> "1 ordinary, 2 NULL, 3 smallest";
                    case "price" -> "in euros – without tax";
                    default -> null;
                };
                assertEquals(remarks, columns.getString("REMARKS"), columns.getString("COLUMN_NAME"));
            }
        }
    }

    @Feature("columns, types and remarks")
    @Test
    void no_column_numbers_itself() throws SQLException {
        Set<String> answers = new TreeSet<>(
                Lakehouse.texts(metadata.getColumns(null, "silver", "%", "%"), "IS_AUTOINCREMENT"));
        assertEquals(Set.of("NO"), answers);
    }

    @Feature("columns, types and remarks")
    @Test
    void models_and_system_tables_have_their_columns_too() throws SQLException {
        List<String> flags = Lakehouse.texts(metadata.getColumns(null, "gold", "flags", null), "COLUMN_NAME");
        assertEquals(List.of("state", "samples"), flags);
        List<String> queries = Lakehouse.texts(metadata.getColumns(null, "system", "queries", null), "COLUMN_NAME");
        assertTrue(queries.containsAll(List.of("query_id", "statement", "state")), () -> "" + queries);
    }

    @Feature("columns, types and remarks")
    @Test
    void a_table_without_rows_and_declared_columns_has_none_yet() throws SQLException {
        assertEquals(List.of("later"), Lakehouse.texts(metadata.getTables(null, null, "later", null), "TABLE_NAME"));
        assertEquals(List.of(), Lakehouse.texts(metadata.getColumns(null, "silver", "later", null), "COLUMN_NAME"));
    }

    @Test
    void the_driver_lists_no_types() throws SQLException {
        // The driver's getTypeInfo is Avatica's: it gives no rows, and never asks the server (CommandGetXdbcTypeInfo).
        assertEquals(List.of(), Lakehouse.texts(metadata.getTypeInfo(), "TYPE_NAME"));
    }
}
