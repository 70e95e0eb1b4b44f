package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Statements that write. Each test has orders of its own, by hundreds. */
@ExtendWith(Lakehouse.class)
class UpdateTest {
    private static final String INSERT =
            "INSERT INTO silver.orders (order_id, customer_id, item, amount, due, seq) VALUES (?, ?, ?, ?, ?, ?)";

    private Connection connection;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    @Feature("updates (INSERT, UPDATE, DELETE)")
    @Test
    void plain_statements_tell_how_many_rows_they_change() throws Exception {
        try (Statement statement = connection.createStatement()) {
            assertFalse(statement.execute("INSERT INTO silver.orders (order_id, item, seq) VALUES (101, 'egg', 1), "
                    + "(102, 'nest', 1)"));
            assertEquals(2, statement.getUpdateCount());
            assertNull(statement.getResultSet());
            assertFalse(statement.getMoreResults());
            assertEquals(-1, statement.getUpdateCount());
            Lakehouse.await(List.of("egg", "nest"), items(100));

            assertEquals(1, statement.executeUpdate("UPDATE silver.orders SET item = 'eggs' WHERE order_id = 101"));
            Lakehouse.await(List.of("eggs", "nest"), items(100));
            assertEquals(0, statement.executeUpdate("UPDATE silver.orders SET item = 'x' WHERE order_id = 199"));

            assertEquals(1, statement.executeLargeUpdate("DELETE FROM silver.orders WHERE order_id IN (102, 199)"));
            Lakehouse.await(List.of("eggs"), items(100));
        }
    }

    @Feature({"updates (INSERT, UPDATE, DELETE)", "bound parameters"})
    @Test
    void prepared_statements_write_what_is_bound_to_them() throws Exception {
        try (PreparedStatement insert = connection.prepareStatement(INSERT)) {
            assertEquals(0, insert.getMetaData().getColumnCount());
            assertEquals(6, insert.getParameterMetaData().getParameterCount());
            assertEquals(Types.DECIMAL, insert.getParameterMetaData().getParameterType(4));
            bind(insert, 201, "feather");
            assertEquals(1, insert.executeUpdate());
            assertEquals(1, insert.getUpdateCount());
            assertNull(insert.getResultSet());
        }
        Lakehouse.await(List.of("feather"), items(200));
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT * FROM silver.orders WHERE order_id = 201")) {
            assertTrue(row.next());
            assertEquals(1, row.getLong("customer_id"));
            assertEquals(new BigDecimal("9.99"), row.getBigDecimal("amount"));
            assertEquals("2024-02-29", row.getDate("due").toString());
        }
        String change = "UPDATE silver.orders SET item = ?, amount = NULL WHERE order_id = ?";
        try (PreparedStatement update = connection.prepareStatement(change)) {
            update.setString(1, "feathers");
            update.setLong(2, 201);
            assertEquals(1, update.executeUpdate());
        }
        Lakehouse.await(List.of("feathers"), items(200));
        try (PreparedStatement delete = connection.prepareStatement("DELETE FROM silver.orders WHERE order_id = ?")) {
            delete.setLong(1, 201);
            assertEquals(1, delete.executeUpdate());
        }
        Lakehouse.await(List.of(), items(200));
    }

    @Feature({"updates (INSERT, UPDATE, DELETE)", "NULLs"})
    @Test
    void null_is_written_as_null() throws Exception {
        try (PreparedStatement insert = connection.prepareStatement(INSERT)) {
            bind(insert, 301, null);
            insert.setNull(2, Types.BIGINT);
            insert.setNull(4, Types.DECIMAL);
            insert.setDate(5, null);
            assertEquals(1, insert.executeUpdate());
        }
        Lakehouse.await(List.of(301L), "SELECT order_id FROM silver.orders WHERE order_id BETWEEN 300 AND 399 "
                + "AND customer_id IS NULL AND item IS NULL AND amount IS NULL AND due IS NULL");
    }

    @Feature({"updates (INSERT, UPDATE, DELETE)", "bound parameters"})
    @Test
    void a_batch_is_written_as_a_whole() throws Exception {
        try (PreparedStatement insert = connection.prepareStatement(INSERT)) {
            for (int id = 401; id <= 403; id++) {
                bind(insert, id, "batch " + id);
                insert.addBatch();
            }
            // The driver sends a batch as one update and has one count for it (ArrowFlightMetaImpl.executeBatch).
            assertArrayEquals(new int[] {3}, insert.executeBatch());
            bind(insert, 404, "dropped");
            insert.addBatch();
            insert.clearBatch();
            bind(insert, 405, "batch 405");
            insert.addBatch();
            assertArrayEquals(new long[] {1}, insert.executeLargeBatch());
        }
        Lakehouse.await(List.of("batch 401", "batch 402", "batch 403", "batch 405"), items(400));
        try (PreparedStatement update =
                connection.prepareStatement("UPDATE silver.orders SET item = ? WHERE order_id = ?")) {
            for (int id = 401; id <= 402; id++) {
                update.setString(1, "changed " + id);
                update.setLong(2, id);
                update.addBatch();
            }
            assertArrayEquals(new int[] {2}, update.executeBatch());
        }
        Lakehouse.await(List.of("changed 401", "changed 402", "batch 403", "batch 405"), items(400));
    }

    @Test
    void a_batch_of_texts_is_more_than_the_driver_can() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("INSERT INTO silver.orders (order_id, seq) VALUES (701, 1)");
            // ArrowFlightMetaImpl.prepareAndExecuteBatch is a stub that gives null.
            assertThrows(RuntimeException.class, statement::executeBatch);
        }
    }

    @Feature("updates (INSERT, UPDATE, DELETE)")
    @Test
    void an_insert_that_is_executed_as_a_query_writes_once() throws Exception {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO silver.numbers VALUES (?, 'once')")) {
            insert.setLong(1, -500);
            // A prepared statement's execute() is a query to the driver (Avatica), so the count comes as its row.
            assertTrue(insert.execute());
            assertEquals(List.of(1L), Lakehouse.column(insert.getResultSet(), 1));
        }
        assertMergedOnce(-500);
    }

    @Feature("updates (INSERT, UPDATE, DELETE)")
    @Test
    void an_insert_that_is_repeated_under_its_ingest_id_counts_once() throws Exception {
        for (int attempt = 0; attempt < 2; attempt++) {
            try (Connection retrying = Lakehouse.connect("mallard-ingest-id", "jdbc-again");
                    Statement statement = retrying.createStatement()) {
                assertEquals(1, statement.executeUpdate("INSERT INTO silver.numbers VALUES (-600, 'again')"));
            }
        }
        assertMergedOnce(-600);
    }

    /** A row of a table without a key, which would be there twice if it was written twice. */
    private void assertMergedOnce(long number) throws Exception {
        // Merges are in order of arrival: once a later row is there, all earlier ones are.
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("INSERT INTO silver.numbers VALUES (%d, 'later')".formatted(number - 1));
        }
        Lakehouse.await(List.of(1L), "SELECT count(*) FROM silver.numbers WHERE n = " + (number - 1));
        assertEquals(List.of(1L), Lakehouse.column("SELECT count(*) FROM silver.numbers WHERE n = " + number));
    }

    @Feature({"updates (INSERT, UPDATE, DELETE)", "errors with their codes"})
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "INSERT INTO silver.orders (order_id, itm, seq) VALUES (1, 'x', 1);      itm;          did you mean \"item\"",
        "INSERT INTO silver.order VALUES (1);                                    order;        did you mean",
        "INSERT INTO gold.flags VALUES ('x', 1);                                 gold.flags;   silver",
        "INSERT INTO silver.orders (order_id, seq) VALUES (NULL, 1);             order_id;     row 1",
        "INSERT INTO silver.later VALUES (1);                                    silver.later; ingest",
        "UPDATE silver.orders SET item = 'x' WHERE item = 'y';                   orders;       primary key",
        "UPDATE silver.orders SET order_id = 2 WHERE order_id = 1;               order_id;     primary key",
        "UPDATE silver.customers SET name = 'x' WHERE id = 1;                    customers;    sequence_by",
        "DELETE FROM silver.orders;                                              orders;       primary key",
        "DELETE FROM silver.numbers WHERE n = 1;                                 numbers;      primary_key",
        "DROP TABLE silver.orders;                                               DROP;         lakehouse.toml",
        "CREATE TABLE gold.mine AS SELECT 1 AS x;                                CREATE;       lakehouse.toml",
        "TRUNCATE TABLE silver.orders;                                           TRUNCATE;     lakehouse.toml",
        "MERGE INTO silver.orders USING silver.customers ON true WHEN MATCHED THEN DELETE; MERGE; primary key",
    })
    void what_is_refused_says_what_is_wrong_and_what_to_do(String sql, String wrong, String cure) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.execute(sql));
            String message = error.getMessage().replace(sql, "");
            assertTrue(message.contains(wrong), () -> wrong + " is not in: " + message);
            assertTrue(message.contains(cure), () -> cure + " is not in: " + message);
        }
        assertEquals(List.of(2L), Lakehouse.column("SELECT count(*) FROM silver.customers"));
    }

    @Feature("updates (INSERT, UPDATE, DELETE)")
    @Test
    void a_query_is_no_update() throws SQLException {
        try (Statement statement = connection.createStatement()) {
            assertTrue(statement.execute("SELECT 1"));
            assertEquals(-1, statement.getUpdateCount());
        }
        try (PreparedStatement query = connection.prepareStatement("SELECT 1")) {
            SQLException error = assertThrows(SQLException.class, query::executeUpdate);
            assertTrue(error.getMessage().contains("only reads"), error::getMessage);
        }
    }

    /** The items of the hundred orders from {@code first} on. */
    private static String items(int first) {
        return "SELECT item FROM silver.orders WHERE order_id BETWEEN %d AND %d ORDER BY order_id"
                .formatted(first, first + 99);
    }

    private static void bind(PreparedStatement insert, long id, String item) throws SQLException {
        insert.setLong(1, id);
        insert.setLong(2, 1);
        insert.setString(3, item);
        insert.setBigDecimal(4, new BigDecimal("9.99"));
        insert.setDate(5, Date.valueOf("2024-02-29"));
        insert.setLong(6, 1);
    }
}
