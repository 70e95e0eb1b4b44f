package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLFeatureNotSupportedException;
import java.sql.Statement;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What a connection is set to, and what pools and tools do with it between queries. */
@ExtendWith(Lakehouse.class)
class SessionTest {
    private Connection connection;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    @Feature("connect, handshake")
    @Test
    void a_pool_can_ask_whether_a_connection_is_valid() throws SQLException {
        assertTrue(connection.isValid(5));
        assertThrows(SQLException.class, () -> connection.isValid(-1));
        assertNull(connection.getWarnings());
        connection.clearWarnings();
        connection.close();
        assertFalse(connection.isValid(5));
    }

    @Feature("session options")
    @Test
    void the_default_schema_is_gold() throws SQLException {
        assertEquals(List.of(3L), column("SELECT sum(samples) FROM flags"));
        assertEquals(List.of(3L), column("SELECT sum(samples) FROM shop.gold.flags"));
    }

    @Feature("session options")
    @Test
    void the_schema_is_chosen_when_connecting_and_not_later() throws SQLException {
        connection.setSchema("silver");
        connection.setCatalog("shop");
        assertEquals("silver", connection.getSchema());
        assertEquals("shop", connection.getCatalog());
        // The driver keeps both to itself (Avatica's connectionSync); a property goes to the server with each call.
        assertThrows(SQLException.class, () -> column("SELECT count(*) FROM customers"));
        try (Connection silver = Lakehouse.connect("mallard-schema", "silver");
                Statement statement = silver.createStatement()) {
            assertEquals(List.of(2L), Lakehouse.column(statement.executeQuery("SELECT count(*) FROM customers"), 1));
            assertEquals(1, Lakehouse.column(statement.executeQuery("SELECT state FROM gold.flags LIMIT 1"), 1).size());
        }
    }

    @Feature({"session options", "time travel"})
    @Test
    void a_connection_may_read_the_past() throws SQLException {
        try (Connection before = Lakehouse.connect("mallard-as-of", "2001-01-01T00:00:00Z");
                Statement statement = before.createStatement()) {
            SQLException error = assertThrows(
                    SQLException.class, () -> statement.executeQuery("SELECT * FROM silver.customers"));
            assertTrue(error.getMessage().contains("silver.customers"), error::getMessage);
        }
        try (Connection now = Lakehouse.connect("mallard-as-of", "2999-01-01T00:00:00Z");
                Statement statement = now.createStatement()) {
            ResultSet rows = statement.executeQuery("SELECT count(*) FROM silver.customers");
            assertEquals(List.of(2L), Lakehouse.column(rows, 1));
        }
    }

    @Feature("time travel")
    @Test
    void a_table_is_read_as_of_a_version() throws SQLException {
        assertEquals(List.of(2L), column("SELECT count(*) FROM silver.customers FOR VERSION AS OF 1"));
        SQLException error = assertThrows(
                SQLException.class, () -> column("SELECT * FROM silver.customers FOR VERSION AS OF 999"));
        assertTrue(error.getMessage().contains("999"), error::getMessage);
    }

    @Feature({"session options", "errors with their codes"})
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "mallard-schema; bronze;     gold, silver, system",
        "mallard-timeout; soon;      30s",
        "mallard-as-of; yesterday;   mallard-as-of",
        "mallard-memory-limit; much; 256MiB",
        "mallard-compression; gzip;  lz4",
        "mallard-catalog; other;     shop",
    })
    void an_option_that_makes_no_sense_is_refused_with_its_name(String option, String value, String cure)
            throws SQLException {
        try (Connection wrong = Lakehouse.connect(option, value);
                Statement statement = wrong.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.executeQuery("SELECT 1"));
            assertTrue(error.getMessage().contains(option), error::getMessage);
            assertTrue(error.getMessage().contains(cure), error::getMessage);
        }
    }

    @Feature("session options")
    @Test
    void a_memory_limit_is_kept() throws SQLException {
        String large = "SELECT value, array_agg(repeat('x', 100)) FROM generate_series(1, 200000) "
                + "GROUP BY value ORDER BY 2";
        try (Connection small = Lakehouse.connect("mallard-memory-limit", "1KiB");
                Statement statement = small.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> {
                try (ResultSet rows = statement.executeQuery(large)) {
                    rows.next();
                }
            });
            assertTrue(error.getMessage().contains("memory"), error::getMessage);
        }
    }

    @Feature({"transactions are refused", "session options"})
    @Test
    void leaving_autocommit_changes_nothing_on_the_server() throws SQLException {
        assertTrue(connection.getAutoCommit());
        assertEquals(Connection.TRANSACTION_NONE, connection.getTransactionIsolation());
        // The driver's commit and rollback are stubs (ArrowFlightMetaImpl), of which the server never hears: each
        // statement stands by itself, as supportsTransactions says.
        connection.setAutoCommit(false);
        assertFalse(connection.getAutoCommit());
        assertEquals(List.of(2L), column("SELECT count(*) FROM silver.customers"));
        connection.commit();
        connection.rollback();
        assertFalse(connection.getMetaData().supportsTransactions());
    }

    @Feature({"transactions are refused", "errors with their codes"})
    @ParameterizedTest
    @ValueSource(strings = {"BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK"})
    void transactions_over_sql_are_refused_with_the_reason(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.execute(sql));
            assertTrue(error.getMessage().contains("there are no transactions"), error::getMessage);
            assertTrue(error.getMessage().contains("autocommit"), error::getMessage);
        }
    }

    @Feature("transactions are refused")
    @Test
    void savepoints_are_refused() {
        assertThrows(SQLFeatureNotSupportedException.class, () -> connection.setSavepoint());
        assertThrows(SQLFeatureNotSupportedException.class, () -> connection.setSavepoint("here"));
    }

    @Feature({"session options", "errors with their codes"})
    @ParameterizedTest
    @ValueSource(strings = {"SET search_path = silver", "USE silver"})
    void options_over_sql_are_refused_with_the_way_to_set_them(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.execute(sql));
            assertTrue(error.getMessage().contains("session options"), error::getMessage);
        }
    }

    private List<Object> column(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            return Lakehouse.column(statement.executeQuery(sql), 1);
        }
    }
}
