package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.Statement;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Queries that end before they are done. Each has its own mark in its text, by which system.queries tells of it. */
@ExtendWith(Lakehouse.class)
class CancelTest {
    /** Hours of work before its first row. */
    private static final String ENDLESS = "SELECT '%s', sum(value %% 7) FROM generate_series(1, 1000000000000)";

    private static final int PROMPTLY_SECONDS = 20;

    private final ExecutorService other = Executors.newSingleThreadExecutor();
    private Connection connection;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
    }

    @AfterEach
    void close() throws SQLException {
        other.shutdownNow();
        connection.close();
    }

    @Feature("cancel")
    @Test
    void a_query_that_is_cancelled_from_another_thread_ends_on_the_server_too() throws Exception {
        String sql = ENDLESS.formatted("cancelled statement");
        try (Statement statement = connection.createStatement()) {
            Future<ResultSet> running = other.submit(() -> statement.executeQuery(sql));
            Lakehouse.await(List.of("running"), stateOf("cancelled statement"));
            statement.cancel();
            ExecutionException ended =
                    assertThrows(ExecutionException.class, () -> running.get(PROMPTLY_SECONDS, TimeUnit.SECONDS));
            assertTrue(ended.getCause() instanceof SQLException, () -> "" + ended.getCause());
        }
        Lakehouse.await(List.of("cancelled"), stateOf("cancelled statement"));
        assertUsable();
    }

    @Feature({"cancel", "prepared statements"})
    @Test
    void a_prepared_query_is_cancelled_the_same_way() throws Exception {
        String sql = ENDLESS.formatted("cancelled prepared") + " WHERE value > ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setLong(1, 0);
            Future<ResultSet> running = other.submit(() -> statement.executeQuery());
            Lakehouse.await(List.of("running"), stateOf("cancelled prepared"));
            statement.cancel();
            ExecutionException ended =
                    assertThrows(ExecutionException.class, () -> running.get(PROMPTLY_SECONDS, TimeUnit.SECONDS));
            assertTrue(ended.getCause() instanceof SQLException, () -> "" + ended.getCause());
        }
        Lakehouse.await(List.of("cancelled"), stateOf("cancelled prepared"));
        assertUsable();
    }

    @Feature("cancel")
    @Test
    void a_query_ends_at_the_timeout_of_its_statement() throws Exception {
        String sql = ENDLESS.formatted("query timeout");
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            assertEquals(1, statement.getQueryTimeout());
            SQLException error = assertThrows(SQLException.class, () -> statement.executeQuery(sql));
            assertTrue(causes(error, SQLTimeoutException.class), error::getMessage);
        }
        // The driver keeps time by itself, and tells the server by closing the statement.
        Lakehouse.await(List.of("cancelled"), stateOf("query timeout"));
        assertUsable();
    }

    @Feature({"cancel", "session options"})
    @Test
    void a_query_ends_at_the_timeout_of_its_connection() throws Exception {
        String sql = ENDLESS.formatted("connection timeout");
        try (Connection hasty = Lakehouse.connect("mallard-timeout", "500ms");
                Statement statement = hasty.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.executeQuery(sql));
            assertTrue(error.getMessage().contains("timeout"), error::getMessage);
            try (ResultSet rows = statement.executeQuery("SELECT 1")) {
                assertTrue(rows.next());
            }
        }
        assertEquals(List.of("timed out"), Lakehouse.column(stateOf("connection timeout")));
    }

    @Feature("cancel")
    @Test
    void a_result_that_is_closed_half_read_ends_on_the_server_too() throws Exception {
        String sql = "SELECT 'half read', value, repeat('x', 1000) FROM generate_series(1, 100000000)";
        try (Statement statement = connection.createStatement()) {
            ResultSet rows = statement.executeQuery(sql);
            for (int row = 0; row < 1000; row++) {
                assertTrue(rows.next());
            }
            assertEquals(1000, rows.getLong(2));
            assertEquals(List.of("running"), Lakehouse.column(stateOf("half read")));
            rows.close();
            assertTrue(rows.isClosed());
            Lakehouse.await(List.of("cancelled"), stateOf("half read"));
            try (ResultSet again = statement.executeQuery("SELECT 1")) {
                assertTrue(again.next());
            }
        }
    }

    @Feature("queries")
    @Test
    void a_new_query_of_a_statement_closes_the_result_of_the_one_before() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            ResultSet first = statement.executeQuery("SELECT value FROM generate_series(1, 1000000)");
            assertTrue(first.next());
            ResultSet second = statement.executeQuery("SELECT 2");
            assertTrue(first.isClosed());
            assertTrue(second.next());
            assertEquals(2, second.getLong(1));
            assertFalse(second.next());
        }
    }

    /** The newest state of the query that selects a mark. */
    private static String stateOf(String mark) {
        return "SELECT state FROM system.queries WHERE statement LIKE 'SELECT ''" + mark + "''%' "
                + "ORDER BY started_at DESC LIMIT 1";
    }

    private void assertUsable() throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT 1")) {
            assertTrue(rows.next());
            assertEquals(1, rows.getInt(1));
        }
    }

    private static boolean causes(Throwable error, Class<?> type) {
        return error != null && (type.isInstance(error) || causes(error.getCause(), type));
    }
}
