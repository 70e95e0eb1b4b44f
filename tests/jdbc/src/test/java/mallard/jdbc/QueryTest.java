package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Instant;
import java.time.LocalDateTime;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Queries, their types, and their errors. */
@ExtendWith(Lakehouse.class)
class QueryTest {
    private Connection connection;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    @Test
    void each_type_comes_back_with_its_value() throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT * FROM silver.samples WHERE id = 1")) {
            assertTrue(row.next());
            assertEquals(1L, row.getLong("id"));
            assertEquals(2, row.getInt("small"));
            assertEquals(1.5, row.getDouble("ratio"));
            assertTrue(row.getBoolean("flag"));
            assertEquals("teal 🦆", row.getString("name"));
            assertEquals("2024-02-29", row.getDate("day").toString());
            assertEquals(Instant.parse("2024-02-29T12:00:00.123456Z"), row.getTimestamp("at").toInstant());
            assertEquals(
                    LocalDateTime.parse("2024-02-29T12:00:00.123456"), row.getTimestamp("local").toLocalDateTime());
            assertEquals(new BigDecimal("12.34"), row.getBigDecimal("price"));
            assertArrayEquals("raw".getBytes(StandardCharsets.UTF_8), row.getBytes("raw"));
            assertFalse(row.next());
        }
    }

    @Test
    void a_null_of_each_type_is_null() throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT * FROM silver.samples WHERE id = 2")) {
            assertTrue(row.next());
            for (String name : Lakehouse.COLUMNS.keySet()) {
                row.getObject(name);
                assertEquals(!name.equals("id"), row.wasNull(), name);
            }
        }
    }

    @Test
    void times_before_1970_and_negative_numbers_come_back() throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT * FROM silver.samples WHERE id = 3")) {
            assertTrue(row.next());
            assertEquals(-3, row.getInt("small"));
            assertEquals("1969-12-31", row.getDate("day").toString());
            assertEquals(Instant.parse("1969-12-31T23:59:59Z"), row.getTimestamp("at").toInstant());
            assertEquals(new BigDecimal("-0.01"), row.getBigDecimal("price"));
        }
    }

    @Test
    void the_default_schema_is_gold() throws SQLException {
        assertEquals(List.of(3L), Lakehouse.column("SELECT sum(samples) FROM flags"));
        assertEquals(List.of(3L), Lakehouse.column("SELECT sum(samples) FROM shop.gold.flags"));
    }

    @Test
    void a_system_table_is_read_like_any_other() throws SQLException {
        assertEquals(
                List.of(3L),
                Lakehouse.column("SELECT \"rows\" FROM system.ingests WHERE table_name = 'samples'"));
    }

    @Test
    void a_prepared_statement_runs_as_often_as_wanted() throws SQLException {
        String sql = "SELECT id FROM silver.samples ORDER BY id DESC";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int run = 0; run < 3; run++) {
                try (ResultSet rows = statement.executeQuery()) {
                    for (long id = 3; id > 0; id--) {
                        assertTrue(rows.next());
                        assertEquals(id, rows.getLong(1));
                    }
                    assertFalse(rows.next());
                }
            }
        }
    }

    @Test
    void a_prepared_statement_knows_its_columns_before_it_runs() throws SQLException {
        String sql = "SELECT name AS label, count(*) AS n FROM silver.samples GROUP BY name";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            ResultSetMetaData columns = statement.getMetaData();
            assertEquals(2, columns.getColumnCount());
            assertEquals("label", columns.getColumnLabel(1));
            assertEquals("n", columns.getColumnLabel(2));
            assertEquals(0, statement.getParameterMetaData().getParameterCount());
        }
    }

    @Test
    void two_statements_of_one_connection_do_not_disturb_each_other() throws SQLException {
        try (Statement one = connection.createStatement();
                Statement two = connection.createStatement();
                ResultSet first = one.executeQuery("SELECT id FROM silver.samples ORDER BY id");
                ResultSet second = two.executeQuery("SELECT 42")) {
            assertTrue(first.next());
            assertTrue(second.next());
            assertEquals(42, second.getInt(1));
            assertTrue(first.next());
            assertEquals(2, first.getLong(1));
        }
    }

    @Test
    void a_result_without_rows_has_its_columns() throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT id, name FROM silver.samples WHERE id < 0")) {
            // The driver (18.3.0) lists the columns of an empty result twice; their names and order are the server's.
            assertEquals("id", rows.getMetaData().getColumnName(1));
            assertEquals("name", rows.getMetaData().getColumnName(2));
            assertFalse(rows.next());
        }
    }

    @ParameterizedTest
    @CsvSource({
        "SELEC 1, SELEC",
        "SELECT nosuchcolumn FROM silver.samples, nosuchcolumn",
        "SELECT * FROM silver.nosuchtable, nosuchtable"
    })
    void an_error_names_what_is_wrong_and_the_connection_stays_usable(String sql, String wrong) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.executeQuery(sql));
            assertTrue(error.getMessage().contains(wrong), () -> wrong + " is not in: " + error.getMessage());
            try (ResultSet rows = statement.executeQuery("SELECT 1")) {
                assertTrue(rows.next());
            }
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "DROP TABLE silver.samples",
                "DELETE FROM silver.samples",
                "INSERT INTO silver.samples (id) VALUES (9)",
                "CREATE TABLE gold.mine AS SELECT 1 AS x"
            })
    void a_statement_that_writes_is_refused(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.execute(sql));
            assertTrue(error.getMessage().contains("read-only"), error::getMessage);
        }
        assertEquals(List.of(3L), Lakehouse.column("SELECT count(*) FROM silver.samples"));
    }
}
