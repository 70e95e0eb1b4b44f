package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** What a BI tool asks before its first query. */
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

    @Test
    void the_product_is_mallard_and_has_a_version() throws SQLException {
        assertEquals("Mallard", metadata.getDatabaseProductName());
        assertTrue(metadata.getDatabaseProductVersion().matches("\\d+\\.\\d+\\.\\d+.*"));
    }

    @Test
    void the_server_says_what_its_sql_can_do() throws SQLException {
        // Rows come by ingest, so the server is not read-only, though its SQL is.
        assertFalse(metadata.isReadOnly());
        assertEquals("\"", metadata.getIdentifierQuoteString());
        assertFalse(metadata.supportsTransactions());
    }

    @Test
    void every_question_about_the_server_has_an_answer() throws IllegalAccessException {
        Map<String, Throwable> failures = new TreeMap<>();
        int asked = 0;
        for (Method question : DatabaseMetaData.class.getMethods()) {
            Class<?> answer = question.getReturnType();
            boolean simple = answer.isPrimitive() || answer == String.class;
            if (question.getParameterCount() > 0 || !simple) {
                continue;
            }
            asked++;
            try {
                question.invoke(metadata);
            } catch (InvocationTargetException e) {
                failures.put(question.getName(), e.getCause());
            }
        }
        assertTrue(asked > 100, "only " + asked + " questions");
        assertEquals(Map.of(), failures);
    }

    @Test
    void there_is_one_catalog() throws SQLException {
        assertEquals(List.of(Lakehouse.CATALOG), strings(metadata.getCatalogs(), "TABLE_CAT"));
    }

    @Test
    void the_schemas_are_gold_silver_and_system() throws SQLException {
        List<String> schemas = strings(metadata.getSchemas(), "TABLE_SCHEM");
        assertTrue(schemas.containsAll(List.of("gold", "silver", "system")), schemas::toString);
        assertEquals(List.of("silver"), strings(metadata.getSchemas(null, "silv%"), "TABLE_SCHEM"));
    }

    @Test
    void tables_are_listed_by_schema() throws SQLException {
        assertEquals(List.of("samples"), strings(metadata.getTables(null, "silver", "%", null), "TABLE_NAME"));
        assertEquals(List.of("flags"), strings(metadata.getTables(null, "gold", "%", null), "TABLE_NAME"));
        Set<String> system = new TreeSet<>(strings(metadata.getTables(null, "system", null, null), "TABLE_NAME"));
        assertTrue(system.containsAll(Set.of("tables", "models", "ingests", "quarantine")), system::toString);
    }

    @Test
    void a_listed_table_names_its_catalog_schema_and_type() throws SQLException {
        try (ResultSet tables = metadata.getTables(Lakehouse.CATALOG, "silver", "sam%", new String[] {"TABLE"})) {
            assertTrue(tables.next());
            assertEquals(Lakehouse.CATALOG, tables.getString("TABLE_CAT"));
            assertEquals("silver", tables.getString("TABLE_SCHEM"));
            assertEquals("samples", tables.getString("TABLE_NAME"));
            assertEquals("TABLE", tables.getString("TABLE_TYPE"));
            assertFalse(tables.next());
        }
    }

    @Test
    void the_table_types_hold_table() throws SQLException {
        assertTrue(strings(metadata.getTableTypes(), "TABLE_TYPE").contains("TABLE"));
    }

    @Test
    void each_column_has_its_name_jdbc_type_and_place() throws SQLException {
        Map<String, Integer> types = new LinkedHashMap<>();
        try (ResultSet columns = metadata.getColumns(null, "silver", "samples", null)) {
            int place = 0;
            while (columns.next()) {
                assertEquals(++place, columns.getInt("ORDINAL_POSITION"));
                String name = columns.getString("COLUMN_NAME");
                if (!name.startsWith("_")) {
                    types.put(name, columns.getInt("DATA_TYPE"));
                }
            }
        }
        assertEquals(new ArrayList<>(Lakehouse.COLUMNS.keySet()), new ArrayList<>(types.keySet()));
        assertEquals(Types.BIGINT, types.get("id"));
        assertEquals(Types.INTEGER, types.get("small"));
        assertEquals(Types.DOUBLE, types.get("ratio"));
        assertTrue(Set.of(Types.BOOLEAN, Types.BIT).contains(types.get("flag")));
        assertEquals(Types.VARCHAR, types.get("name"));
        assertEquals(Types.DATE, types.get("day"));
        assertTrue(Set.of(Types.TIMESTAMP, Types.TIMESTAMP_WITH_TIMEZONE).contains(types.get("at")));
        assertEquals(Types.TIMESTAMP, types.get("local"));
        assertEquals(Types.DECIMAL, types.get("price"));
        assertTrue(Set.of(Types.VARBINARY, Types.BINARY).contains(types.get("raw")));
    }

    @Test
    void the_key_is_not_nullable_and_the_rest_is() throws SQLException {
        try (ResultSet columns = metadata.getColumns(null, "silver", "samples", "%")) {
            while (columns.next()) {
                String name = columns.getString("COLUMN_NAME");
                int want = name.equals("id") ? DatabaseMetaData.columnNoNulls : DatabaseMetaData.columnNullable;
                assertEquals(want, columns.getInt("NULLABLE"), name);
            }
        }
    }

    @Test
    void keys_are_asked_for_without_an_error() throws SQLException {
        assertEquals(List.of(), strings(metadata.getImportedKeys(null, "silver", "samples"), "FKCOLUMN_NAME"));
        List<String> keys = strings(metadata.getPrimaryKeys(null, "silver", "samples"), "COLUMN_NAME");
        assertTrue(keys.isEmpty() || keys.equals(List.of("id")), keys::toString);
    }

    private static List<String> strings(ResultSet rows, String column) throws SQLException {
        try (rows) {
            List<String> values = new ArrayList<>();
            while (rows.next()) {
                values.add(rows.getString(column));
            }
            return values;
        }
    }
}
