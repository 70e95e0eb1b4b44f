package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What the server says that it can do, held against what it does. */
@ExtendWith(Lakehouse.class)
class CapabilitiesTest {
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

    @Feature("server info (SqlInfo)")
    @Test
    void the_product_is_mallard_and_has_a_version() throws SQLException {
        assertEquals("Mallard", metadata.getDatabaseProductName());
        assertTrue(metadata.getDatabaseProductVersion().matches("\\d+\\.\\d+\\.\\d+.*"));
        assertFalse(metadata.isReadOnly(), "INSERT, UPDATE and DELETE are there");
    }

    @Feature("server info (SqlInfo)")
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "supportsColumnAliasing;           SELECT 1 AS alias",
        "supportsCorrelatedSubqueries;     SELECT id FROM silver.samples s WHERE EXISTS "
                + "(SELECT 1 FROM silver.customers c WHERE c.id = s.id)",
        "supportsExpressionsInOrderBy;     SELECT name FROM silver.samples ORDER BY length(name)",
        "supportsGroupBy;                  SELECT name, count(*) FROM silver.samples GROUP BY name",
        "supportsGroupByBeyondSelect;      SELECT name, count(*) FROM silver.samples GROUP BY name, id",
        "supportsGroupByUnrelated;         SELECT count(*) FROM silver.samples GROUP BY name",
        "supportsLikeEscapeClause;         SELECT '5%' LIKE '5!%' ESCAPE '!'",
        "supportsOrderByUnrelated;         SELECT name FROM silver.samples ORDER BY id",
        "supportsOuterJoins;               SELECT 1 FROM silver.samples s LEFT JOIN silver.customers c ON s.id = c.id",
        "supportsLimitedOuterJoins;        SELECT 1 FROM silver.samples s RIGHT JOIN silver.customers c ON s.id = c.id",
        "supportsSubqueriesInComparisons;  SELECT 1 WHERE 2 > (SELECT 1)",
        "supportsSubqueriesInExists;       SELECT 1 WHERE EXISTS (SELECT 1)",
        "supportsSubqueriesInIns;          SELECT 1 WHERE 1 IN (SELECT 1)",
        "supportsSubqueriesInQuantifieds;  SELECT id FROM silver.samples "
                + "WHERE id >= ALL (SELECT id FROM silver.customers)",
        "supportsTableCorrelationNames;    SELECT s.id FROM silver.samples AS s",
        "supportsUnion;                    SELECT 1 UNION SELECT 2",
        "supportsUnionAll;                 SELECT 1 UNION ALL SELECT 1",
        "supportsSchemasInDataManipulation;  SELECT id FROM silver.samples",
        "supportsCatalogsInDataManipulation; SELECT id FROM shop.silver.samples",
        "supportsAlterTableWithAddColumn;  ALTER TABLE silver.samples ADD COLUMN more BIGINT",
        "supportsAlterTableWithDropColumn; ALTER TABLE silver.samples DROP COLUMN name",
        "supportsTransactions;             BEGIN",
        "supportsSavepoints;               SAVEPOINT here",
        "supportsStoredProcedures;         CALL anything()",
        "supportsMixedCaseQuotedIdentifiers; SELECT \"Mixed\" FROM (SELECT 1 AS \"Mixed\")",
    })
    void what_is_supported_works_and_what_is_not_does_not(String method, String sql) throws Exception {
        boolean said = (boolean) DatabaseMetaData.class.getMethod(method).invoke(metadata);
        assertEquals(said, works(sql), sql);
    }

    @Feature("server info (SqlInfo)")
    @Test
    void alias_names_need_not_differ_from_names_of_tables() throws SQLException {
        assertFalse(metadata.supportsDifferentTableCorrelationNames());
        assertTrue(works("SELECT customers.id FROM silver.samples AS customers"));
    }

    @Feature("server info (SqlInfo)")
    @Test
    void null_and_anything_is_null() throws SQLException {
        assertTrue(metadata.nullPlusNonNullIsNull());
        assertEquals(List.of(true), Lakehouse.column("SELECT (NULL || 'text') IS NULL"));
    }

    @Feature("server info (SqlInfo)")
    @Test
    void every_conversion_that_is_claimed_works() throws SQLException {
        Map<Integer, String> literals = new TreeMap<>(Map.of(
                Types.TINYINT, "CAST(7 AS TINYINT)", Types.SMALLINT, "CAST(7 AS SMALLINT)",
                Types.INTEGER, "CAST(7 AS INTEGER)", Types.BIGINT, "CAST(7 AS BIGINT)", Types.REAL, "CAST(7 AS REAL)",
                Types.FLOAT, "CAST(7 AS FLOAT)", Types.DECIMAL, "CAST(7 AS DECIMAL(9, 2))",
                Types.DATE, "DATE '2024-02-29'", Types.TIMESTAMP, "TIMESTAMP '2024-02-29 12:00:00'"));
        Map<Integer, String> names = new TreeMap<>(Map.of(
                Types.TINYINT, "TINYINT", Types.SMALLINT, "SMALLINT", Types.INTEGER, "INTEGER", Types.BIGINT, "BIGINT",
                Types.REAL, "REAL", Types.FLOAT, "FLOAT", Types.DECIMAL, "DECIMAL(9, 2)", Types.DATE, "DATE",
                Types.TIMESTAMP, "TIMESTAMP", Types.VARCHAR, "VARCHAR"));
        assertTrue(metadata.supportsConvert());
        int claimed = 0;
        for (int from : literals.keySet()) {
            for (int to : names.keySet()) {
                if (metadata.supportsConvert(from, to)) {
                    claimed++;
                    assertTrue(works("SELECT CAST(%s AS %s)".formatted(literals.get(from), names.get(to))));
                    boolean back = metadata.supportsConvert(Types.VARCHAR, from);
                    assertTrue(back && works("SELECT CAST(CAST(%s AS VARCHAR) AS %s)"
                            .formatted(literals.get(from), names.get(from))));
                }
            }
        }
        assertTrue(claimed > 50, "only " + claimed + " conversions are claimed");
        assertFalse(metadata.supportsConvert(Types.DATE, Types.INTEGER));
    }

    @Feature("server info (SqlInfo)")
    @Test
    void every_function_that_is_named_exists() throws SQLException {
        // They have a syntax of their own, so the list of functions does not have them under these names.
        List<String> syntax = List.of("extract", "current_date", "current_time");
        List<Object> known = Lakehouse.column("SELECT DISTINCT routine_name FROM information_schema.routines");
        for (String list : List.of(
                metadata.getNumericFunctions(), metadata.getStringFunctions(), metadata.getSystemFunctions(),
                metadata.getTimeDateFunctions())) {
            List<String> names = List.of(list.split(", "));
            assertTrue(names.size() > 2, list);
            for (String name : names) {
                assertTrue(known.contains(name) || syntax.contains(name), name);
            }
        }
        assertTrue(works("SELECT extract(YEAR FROM current_date), current_time"));
    }

    @Feature("server info (SqlInfo)")
    @Test
    void keywords_that_are_told_are_beyond_those_of_the_standard() throws SQLException {
        List<String> keywords = List.of(metadata.getSQLKeywords().split(", "));
        assertTrue(keywords.containsAll(List.of("EXPLAIN", "ILIKE", "LIMIT", "QUALIFY", "SHOW")), () -> "" + keywords);
        assertFalse(keywords.contains("SELECT"));
    }

    @Feature("server info (SqlInfo)")
    @Test
    void names_are_quoted_and_unquoted_ones_are_lower_case() throws SQLException {
        assertEquals("\"", metadata.getIdentifierQuoteString());
        assertEquals(".", metadata.getCatalogSeparator());
        assertTrue(metadata.isCatalogAtStart());
        assertEquals("\\", metadata.getSearchStringEscape());
        try (ResultSet rows = connection.createStatement().executeQuery("SELECT 1 AS LOWER, 2 AS \"AsItIs\"")) {
            assertEquals("lower", rows.getMetaData().getColumnLabel(1));
            assertEquals("AsItIs", rows.getMetaData().getColumnLabel(2));
        }
        // The driver says the contrary of itself (Avatica's InternalProperty: TO_UPPER), whatever the server says.
        assertTrue(metadata.storesUpperCaseIdentifiers());
    }

    @Feature("server info (SqlInfo)")
    @Test
    void limits_are_those_that_are_met() throws SQLException {
        assertEquals(64, metadata.getMaxTableNameLength());
        assertEquals(64, metadata.getMaxSchemaNameLength());
        assertEquals(64, metadata.getMaxCatalogNameLength());
        assertEquals(255, metadata.getMaxColumnNameLength());
        int longest = metadata.getMaxStatementLength();
        assertTrue(works(statement(longest)), "as long as is said");
        SQLException longer = assertThrows(SQLException.class, () -> run(statement(longest + 1)));
        assertTrue(longer.getMessage().contains("the most is " + longest), longer::getMessage);
    }

    @Feature("server info (SqlInfo)")
    @ParameterizedTest
    @ValueSource(strings = {"getMaxColumnsInSelect", "getMaxConnections", "getMaxRowSize", "getMaxStatements"})
    void what_has_no_limit_of_its_own_says_0(String method) throws Exception {
        assertEquals(0, DatabaseMetaData.class.getMethod(method).invoke(metadata));
    }

    @Feature({"server info (SqlInfo)", "transactions are refused"})
    @Test
    void there_are_no_transactions() throws SQLException {
        assertFalse(metadata.supportsTransactions());
        assertEquals(Connection.TRANSACTION_NONE, metadata.getDefaultTransactionIsolation());
        assertTrue(metadata.supportsTransactionIsolationLevel(Connection.TRANSACTION_NONE));
        assertFalse(metadata.supportsTransactionIsolationLevel(Connection.TRANSACTION_SERIALIZABLE));
        assertFalse(metadata.supportsSavepoints());
    }

    @Feature("server info (SqlInfo)")
    @Test
    void results_are_read_forward_and_not_written() throws SQLException {
        assertTrue(metadata.supportsResultSetType(ResultSet.TYPE_FORWARD_ONLY));
        assertFalse(metadata.supportsResultSetType(ResultSet.TYPE_SCROLL_INSENSITIVE));
        assertTrue(metadata.supportsResultSetConcurrency(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY));
        assertFalse(metadata.supportsResultSetConcurrency(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_UPDATABLE));
        assertFalse(metadata.supportsSelectForUpdate());
        assertFalse(metadata.supportsPositionedUpdate());
        assertTrue(metadata.supportsBatchUpdates());
    }

    @Feature("server info (SqlInfo)")
    @Test
    void full_outer_joins_work_though_the_driver_reads_otherwise() throws SQLException {
        assertTrue(works("SELECT 1 FROM silver.samples s FULL OUTER JOIN silver.customers c ON s.id = c.id"));
        // SQL_OUTER_JOINS_SUPPORT_LEVEL is an ordinal (FlightSql.proto); ArrowDatabaseMetadata takes it for a bitmask.
        assertFalse(metadata.supportsFullOuterJoins());
    }

    /** A query of so many bytes. */
    private static String statement(int bytes) {
        String frame = "SELECT ''";
        return "SELECT '" + "x".repeat(bytes - frame.length()) + "'";
    }

    private boolean works(String sql) {
        try {
            run(sql);
            return true;
        } catch (SQLException e) {
            return false;
        }
    }

    private void run(String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            while (rows.next()) {
                rows.getObject(1);
            }
        }
    }
}
