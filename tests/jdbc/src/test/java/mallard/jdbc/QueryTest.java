package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Queries and their results: none, wide, long, in parts, several at once. */
@ExtendWith(Lakehouse.class)
class QueryTest {
    private static final int NUMBERS = 200_000;

    private Connection connection;
    private Statement statement;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
        statement = connection.createStatement();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    @Feature("queries")
    @Test
    void a_system_table_is_read_like_any_other() throws SQLException {
        assertEquals(
                List.of(3L), Lakehouse.column("SELECT \"rows\" FROM system.ingests WHERE table_name = 'samples'"));
    }

    @Feature("queries")
    @Test
    void a_result_without_rows_has_its_columns() throws SQLException {
        try (ResultSet rows = statement.executeQuery("SELECT id, name FROM silver.samples WHERE id < 0")) {
            // ArrowFlightStatement (18.3.0) lists the columns of an empty result twice.
            assertEquals("id", rows.getMetaData().getColumnName(1));
            assertEquals("name", rows.getMetaData().getColumnName(2));
            assertFalse(rows.next());
        }
    }

    @Feature("queries")
    @Test
    void a_wide_result_has_all_its_columns() throws SQLException {
        int wide = 1_500;
        String columns = IntStream.range(0, wide).mapToObj(n -> n + " AS c" + n).collect(Collectors.joining(", "));
        try (ResultSet rows = statement.executeQuery("SELECT " + columns)) {
            assertEquals(wide, rows.getMetaData().getColumnCount());
            assertTrue(rows.next());
            for (int n = 0; n < wide; n++) {
                assertEquals(n, rows.getLong("c" + n));
            }
            assertFalse(rows.next());
        }
    }

    @Feature("queries")
    @Test
    void columns_may_share_a_name_and_are_read_by_place() throws SQLException {
        try (ResultSet rows = statement.executeQuery(
                "SELECT s.id, c.id FROM silver.samples s JOIN silver.customers c ON s.id = c.id + 1 WHERE c.id = 2")) {
            ResultSetMetaData columns = rows.getMetaData();
            assertEquals(List.of("id", "id"), List.of(columns.getColumnLabel(1), columns.getColumnLabel(2)));
            assertTrue(rows.next());
            assertEquals(3, rows.getLong(1));
            assertEquals(2, rows.getLong(2));
            assertEquals(3, rows.getLong("ID"), "labels are not told apart by case, the first one is taken");
            assertThrows(SQLException.class, () -> rows.getLong("nosuchcolumn"));
            assertThrows(SQLException.class, () -> rows.getLong(3));
        }
    }

    @Feature("queries")
    @Test
    void a_large_value_comes_whole() throws SQLException {
        try (ResultSet rows = statement.executeQuery("SELECT repeat('🦆', 2000000)")) {
            assertTrue(rows.next());
            assertEquals("🦆".repeat(2_000_000), rows.getString(1));
        }
    }

    @Feature("results in several endpoints")
    @Test
    void a_result_in_several_endpoints_is_complete() throws Exception {
        String sql = "SELECT n, text FROM silver.numbers WHERE n > 0";
        List<Object> found = Lakehouse.column(statement.executeQuery(sql), 1);
        assertEquals(NUMBERS, found.size());
        assertEquals(NUMBERS, found.stream().distinct().count());
        assertTrue(runs(sql) > 1, "it came in one endpoint");
    }

    @Feature("queries")
    @Test
    void a_large_result_is_in_order() throws Exception {
        try (ResultSet rows = statement.executeQuery("SELECT n, text FROM silver.numbers WHERE n > 0 ORDER BY n")) {
            for (long n = 1; n <= NUMBERS; n++) {
                assertTrue(rows.next());
                assertEquals(n, rows.getLong(1));
            }
            assertFalse(rows.next());
        }
    }

    @Feature("queries")
    @Test
    void a_limit_holds_even_if_no_column_is_read() throws SQLException {
        assertEquals(1, Lakehouse.column("SELECT 1 FROM silver.samples LIMIT 1").size());
        assertEquals(2, Lakehouse.column("SELECT 1 FROM silver.samples LIMIT 5 OFFSET 1").size());
        assertEquals(10, Lakehouse.column("SELECT 'x' FROM silver.numbers LIMIT 10").size());
    }

    @Feature({"results in several endpoints", "session options"})
    @Test
    void a_connection_may_want_one_endpoint() throws Exception {
        String sql = "SELECT text, n FROM silver.numbers WHERE n > 0";
        try (Connection single = Lakehouse.connect("mallard-max-endpoints", "1");
                Statement query = single.createStatement()) {
            assertEquals(NUMBERS, Lakehouse.column(query.executeQuery(sql), 2).stream().distinct().count());
        }
        assertEquals(1, runs(sql));
    }

    /** As how many runs the log has a query: one for each endpoint that was fetched. */
    private static long runs(String sql) throws SQLException {
        String log = "SELECT count(*) FROM system.queries WHERE statement = '%s' AND state = 'done'";
        return (long) Lakehouse.column(log.formatted(sql)).get(0);
    }

    @Feature("queries")
    @Test
    void no_more_rows_come_than_are_wanted() throws SQLException {
        statement.setMaxRows(10);
        assertEquals(10, statement.getMaxRows());
        // The driver counts by itself, and anew in each batch: a result of several batches has more rows.
        String sql = "SELECT value FROM generate_series(1, 20)";
        assertEquals(10, Lakehouse.column(statement.executeQuery(sql), 1).size());
        assertEquals(3, Lakehouse.column(statement.executeQuery("SELECT id FROM silver.samples"), 1).size());
        statement.setMaxRows(0);
        assertEquals(20, Lakehouse.column(statement.executeQuery(sql), 1).size());
    }

    @Feature("queries")
    @Test
    void a_fetch_size_is_taken_and_changes_no_result() throws SQLException {
        statement.setFetchSize(7);
        assertEquals(7, statement.getFetchSize());
        ResultSet rows = statement.executeQuery("SELECT n FROM silver.numbers LIMIT 1000");
        assertEquals(1000, Lakehouse.column(rows, 1).size());
    }

    @Feature("queries")
    @Test
    void a_result_is_read_forward_only() throws SQLException {
        try (ResultSet rows = statement.executeQuery("SELECT id FROM silver.samples")) {
            assertEquals(ResultSet.TYPE_FORWARD_ONLY, rows.getType());
            assertEquals(ResultSet.CONCUR_READ_ONLY, rows.getConcurrency());
            assertTrue(rows.next());
            assertThrows(SQLException.class, rows::previous);
            assertThrows(SQLException.class, () -> rows.updateLong(1, 4));
        }
    }

    @Test
    void a_compressed_result_is_more_than_the_driver_can_read() throws SQLException {
        // Its jar has no arrow-compression: leave the option at "none" with JDBC.
        try (Connection compressed = Lakehouse.connect("mallard-compression", "zstd");
                Statement query = compressed.createStatement()) {
            SQLException error = assertThrows(
                    SQLException.class, () -> query.executeQuery("SELECT repeat('x', 100) FROM silver.samples"));
            assertTrue(Errors.all(error).contains("arrow-compression"), () -> Errors.all(error));
        }
    }

    @Feature("connections at once")
    @Test
    void two_statements_of_one_connection_do_not_disturb_each_other() throws SQLException {
        try (Statement other = connection.createStatement();
                ResultSet first = statement.executeQuery("SELECT id FROM silver.samples ORDER BY id");
                ResultSet second = other.executeQuery("SELECT 42")) {
            assertTrue(first.next());
            assertTrue(second.next());
            assertEquals(42, second.getInt(1));
            assertTrue(first.next());
            assertEquals(2, first.getLong(1));
        }
    }

    @Feature("connections at once")
    @Test
    void two_connections_are_read_in_turns() throws SQLException {
        String up = "SELECT n FROM silver.numbers WHERE n > 0 ORDER BY n";
        String down = "SELECT n FROM silver.numbers WHERE n > 0 ORDER BY n DESC";
        try (Connection another = Lakehouse.connect();
                Statement query = another.createStatement();
                ResultSet rising = statement.executeQuery(up);
                ResultSet falling = query.executeQuery(down)) {
            for (long n = 1; n <= NUMBERS; n++) {
                assertTrue(rising.next() && falling.next());
                assertEquals(NUMBERS + 1, rising.getLong(1) + falling.getLong(1));
            }
            assertFalse(rising.next() || falling.next());
        }
    }

    @Feature("connections at once")
    @Test
    void many_connections_each_get_their_own_rows() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(8);
        try {
            List<Callable<Object>> calls = new ArrayList<>();
            for (int number = 0; number < 40; number++) {
                String sql = "SELECT " + number;
                calls.add(() -> Lakehouse.column(sql).get(0));
            }
            List<Object> answers = new ArrayList<>();
            for (Future<Object> call : threads.invokeAll(calls)) {
                answers.add(call.get());
            }
            assertEquals(IntStream.range(0, 40).mapToObj(n -> (Object) (long) n).toList(), answers);
        } finally {
            threads.shutdownNow();
        }
    }
}
