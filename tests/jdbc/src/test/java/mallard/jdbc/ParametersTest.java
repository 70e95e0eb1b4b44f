package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Instant;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Prepared queries and the values bound to them. */
@ExtendWith(Lakehouse.class)
class ParametersTest {
    private Connection connection;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    /** Sets the first parameter of a statement. */
    private interface Setter {
        void set(PreparedStatement statement) throws SQLException;
    }

    private static Arguments of(String condition, Setter setter) {
        return Arguments.of(condition, setter);
    }

    /** Conditions that the first sample meets and the third does not. */
    private static Stream<Arguments> setters() {
        Instant noon = Instant.parse("2024-02-29T12:00:00Z");
        return Stream.of(
                of("flag = ?", s -> s.setBoolean(1, true)),
                of("tiny = ?", s -> s.setByte(1, Byte.MAX_VALUE)),
                of("small = ?", s -> s.setShort(1, Short.MAX_VALUE)),
                of("whole = ?", s -> s.setInt(1, Integer.MAX_VALUE)),
                of("big = ?", s -> s.setLong(1, Long.MAX_VALUE)),
                of("ratio = ?", s -> s.setFloat(1, 1.5f)),
                of("precise = ?", s -> s.setDouble(1, 0.1)),
                // The driver wants a BigDecimal to have the scale of the parameter.
                of("price = ?", s -> s.setBigDecimal(1, new BigDecimal("12.34"))),
                of("huge = ?", s -> s.setBigDecimal(1, new BigDecimal("1234567890123456789012345678.0123456789"))),
                of("name = ?", s -> s.setString(1, "teal 🦆")),
                of("name LIKE ?", s -> s.setString(1, "teal%")),
                of("doc = ?", s -> s.setNString(1, "{\"wings\": [1, 2]}")),
                of("day = ?", s -> s.setDate(1, Date.valueOf("2024-02-29"))),
                of("date_trunc('second', at) = ?", s -> s.setTimestamp(1, Timestamp.from(noon))),
                of("date_trunc('second', local) = ?", s -> s.setTimestamp(1, Timestamp.from(noon))),
                of("at BETWEEN ? AND now() AND id = 1", s -> s.setTimestamp(1, Timestamp.from(noon))),
                of("CAST('12:34:56' AS TIME) = ? AND id = 1", s -> s.setTime(1, Time.valueOf("12:34:56"))),
                of("raw = ?", s -> s.setBytes(1, new byte[] {0, (byte) 0xff, 'r', 'a'})),
                of("big = ?", s -> s.setObject(1, Long.MAX_VALUE)),
                of("whole = ?", s -> s.setObject(1, "2147483647", Types.INTEGER)),
                of("day = ?", s -> s.setObject(1, Date.valueOf("2024-02-29"))),
                of("name = ?", s -> s.setObject(1, "teal 🦆")),
                of("id IN (?, 77)", s -> s.setInt(1, 1)),
                of("id BETWEEN ? AND 1", s -> s.setLong(1, 0)));
    }

    @Feature({"prepared statements", "bound parameters"})
    @ParameterizedTest(name = "{0}")
    @MethodSource("setters")
    void each_setter_binds_its_value(String condition, Setter setter) throws SQLException {
        String sql = "SELECT id FROM silver.samples WHERE " + condition;
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            setter.set(statement);
            assertEquals(List.of(1L), Lakehouse.column(statement.executeQuery(), 1));
        }
    }

    @Feature("bound parameters")
    @Test
    void an_array_is_bound_as_a_list() throws SQLException {
        String sql = "SELECT id FROM silver.samples WHERE tags = ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setArray(1, connection.createArrayOf("VARCHAR", new Object[] {"a", null, "ü"}));
            assertEquals(List.of(1L), Lakehouse.column(statement.executeQuery(), 1));
        }
    }

    @Feature({"bound parameters", "NULLs"})
    @Test
    void null_is_bound_as_null() throws SQLException {
        String sql = "SELECT id FROM silver.samples WHERE name IS NOT DISTINCT FROM ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setNull(1, Types.VARCHAR);
            assertEquals(List.of(2L), Lakehouse.column(statement.executeQuery(), 1));
            statement.setString(1, null);
            assertEquals(List.of(2L), Lakehouse.column(statement.executeQuery(), 1));
            statement.setObject(1, null);
            assertEquals(List.of(2L), Lakehouse.column(statement.executeQuery(), 1));
        }
    }

    @Feature({"prepared statements", "bound parameters"})
    @Test
    void a_statement_runs_again_with_other_values() throws SQLException {
        String sql = "SELECT name FROM silver.samples WHERE id = ? AND flag = ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setLong(1, 1);
            statement.setBoolean(2, true);
            assertEquals(List.of("teal 🦆"), Lakehouse.column(statement.executeQuery(), 1));
            statement.setBoolean(2, false);
            assertEquals(List.of(), Lakehouse.column(statement.executeQuery(), 1));
            statement.setLong(1, 3);
            assertEquals(List.of(""), Lakehouse.column(statement.executeQuery(), 1));
        }
    }

    @Feature("bound parameters")
    @Test
    void parameters_stand_wherever_values_do() throws SQLException {
        String sql = "WITH chosen AS (SELECT id, big FROM silver.samples WHERE id <> ?) "
                + "SELECT id, CAST(? AS VARCHAR) || '!' FROM chosen ORDER BY id DESC LIMIT ? OFFSET ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setLong(1, 2);
            statement.setString(2, "quack");
            statement.setLong(3, 1);
            statement.setLong(4, 1);
            try (ResultSet rows = statement.executeQuery()) {
                assertTrue(rows.next());
                assertEquals(1, rows.getLong(1));
                assertEquals("quack!", rows.getString(2));
                assertFalse(rows.next());
            }
        }
    }

    @Feature("bound parameters")
    @Test
    void numbered_parameters_are_bound_by_number() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT $2 || CAST($1 AS VARCHAR) || $2")) {
            statement.setString(1, "b");
            statement.setString(2, "a");
            assertEquals(List.of("aba"), Lakehouse.column(statement.executeQuery(), 1));
        }
    }

    @Feature({"bound parameters", "errors with their codes"})
    @Test
    void a_question_mark_in_a_text_is_no_parameter() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT 'who?' /* ? */ || ?")) {
            assertEquals(1, statement.getParameterMetaData().getParameterCount());
            statement.setString(1, "!");
            assertEquals(List.of("who?!"), Lakehouse.column(statement.executeQuery(), 1));
        }
    }

    @Feature({"prepared statements", "bound parameters"})
    @Test
    void a_statement_tells_its_parameters_before_it_runs() throws SQLException {
        String sql = "SELECT * FROM silver.samples WHERE id = ? AND price > ? AND name = ? AND day = ? AND at > ? "
                + "AND raw = ? AND flag = ? AND precise = ? LIMIT ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            ParameterMetaData parameters = statement.getParameterMetaData();
            List<Integer> types = List.of(
                    Types.BIGINT, Types.DECIMAL, Types.VARCHAR, Types.DATE, Types.TIMESTAMP_WITH_TIMEZONE,
                    Types.VARBINARY, Types.BOOLEAN, Types.DOUBLE, Types.BIGINT);
            assertEquals(types.size(), parameters.getParameterCount());
            for (int place = 1; place <= types.size(); place++) {
                assertEquals(types.get(place - 1), parameters.getParameterType(place), "parameter " + place);
                assertEquals(ParameterMetaData.parameterModeIn, parameters.getParameterMode(place));
            }
        }
    }

    @Feature({"prepared statements", "schema ahead of the rows (GetSchema, ExecuteSchema)"})
    @Test
    void a_statement_tells_its_columns_before_it_runs() throws SQLException {
        String sql = "SELECT name AS label, count(*) AS n, max(at) AS newest FROM silver.samples WHERE id > ? "
                + "GROUP BY name";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            ResultSetMetaData columns = statement.getMetaData();
            assertEquals(3, columns.getColumnCount());
            assertEquals("label", columns.getColumnLabel(1));
            assertEquals(Types.VARCHAR, columns.getColumnType(1));
            assertEquals("n", columns.getColumnLabel(2));
            assertEquals(Types.BIGINT, columns.getColumnType(2));
            assertEquals(Types.TIMESTAMP_WITH_TIMEZONE, columns.getColumnType(3));
        }
    }

    @Feature("prepared statements")
    @Test
    void a_statement_without_parameters_runs_as_often_as_wanted() throws SQLException {
        String sql = "SELECT id FROM silver.samples ORDER BY id DESC";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            assertEquals(0, statement.getParameterMetaData().getParameterCount());
            for (int run = 0; run < 3; run++) {
                assertEquals(List.of(3L, 2L, 1L), Lakehouse.column(statement.executeQuery(), 1));
            }
        }
    }

    @Feature("bound parameters")
    @Test
    void a_parameter_that_is_not_there_is_refused() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT ? || 'x'")) {
            assertThrows(SQLException.class, () -> statement.setString(2, "y"));
            assertThrows(SQLException.class, () -> statement.setString(0, "y"));
        }
    }

    @Feature("bound parameters")
    @Test
    void a_statement_with_an_unbound_parameter_does_not_run_until_it_is_bound() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT id FROM silver.samples WHERE id = ?")) {
            // The message is the driver's, a NullPointerException's: the server is not asked.
            assertThrows(SQLException.class, statement::executeQuery);
            statement.setLong(1, 3);
            assertEquals(List.of(3L), Lakehouse.column(statement.executeQuery(), 1));
            statement.clearParameters();
            assertThrows(SQLException.class, statement::executeQuery);
        }
    }

    @Feature("bound parameters")
    @Test
    void a_value_of_a_wrong_type_is_refused_with_both_types() throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT id FROM silver.samples WHERE id = ?")) {
            statement.setString(1, "one");
            SQLException error = assertThrows(SQLException.class, statement::executeQuery);
            assertTrue(error.getMessage().contains("STRING"), error::getMessage);
            assertTrue(error.getMessage().contains("Int(64"), error::getMessage);
        }
    }

    @Feature({"prepared statements", "errors with their codes"})
    @Test
    void a_wrong_statement_fails_when_it_is_prepared() {
        SQLException error = assertThrows(
                SQLException.class, () -> connection.prepareStatement("SELECT nam FROM silver.samples WHERE id = ?"));
        // The driver's own message of a failed prepare has none of the server's; its cause has.
        assertTrue(Errors.all(error).contains("nam"), () -> Errors.all(error));
    }
}
