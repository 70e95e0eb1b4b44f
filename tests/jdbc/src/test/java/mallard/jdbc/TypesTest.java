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
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.time.ZonedDateTime;
import java.util.List;
import java.util.TimeZone;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Values of each scalar type, stored and computed. */
@ExtendWith(Lakehouse.class)
class TypesTest {
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

    @Feature("scalar types")
    @Test
    void numbers_come_back_with_all_their_digits() throws SQLException {
        try (ResultSet row = only("SELECT * FROM silver.samples WHERE id = 1")) {
            assertEquals(Byte.MAX_VALUE, row.getByte("tiny"));
            assertEquals(Short.MAX_VALUE, row.getShort("small"));
            assertEquals(Integer.MAX_VALUE, row.getInt("whole"));
            assertEquals(Long.MAX_VALUE, row.getLong("big"));
            assertEquals(1.5f, row.getFloat("ratio"));
            assertEquals(0.1, row.getDouble("precise"));
            assertEquals(new BigDecimal("12.34"), row.getBigDecimal("price"));
            assertEquals(new BigDecimal("1234567890123456789012345678.0123456789"), row.getObject("huge"));
            assertTrue(row.getBoolean("flag"));
        }
    }

    @Feature("scalar types")
    @Test
    void the_smallest_numbers_come_back_too() throws SQLException {
        try (ResultSet row = only("SELECT * FROM silver.samples WHERE id = 3")) {
            assertEquals(Byte.MIN_VALUE, row.getByte("tiny"));
            assertEquals(Short.MIN_VALUE, row.getShort("small"));
            assertEquals(Integer.MIN_VALUE, row.getInt("whole"));
            assertEquals(Long.MIN_VALUE, row.getLong("big"));
            assertEquals(-1.5f, row.getFloat("ratio"));
            assertEquals(-1e300, row.getDouble("precise"));
            assertEquals(new BigDecimal("-0.01"), row.getBigDecimal("price"));
            assertEquals(new BigDecimal("-9999999999999999999999999999.9999999999"), row.getBigDecimal("huge"));
            assertFalse(row.getBoolean("flag"));
            assertFalse(row.wasNull());
        }
    }

    @Feature("scalar types")
    @Test
    void text_json_and_bytes_come_back_as_they_were() throws SQLException {
        try (ResultSet row = only("SELECT * FROM silver.samples WHERE id = 1")) {
            assertEquals("teal 🦆", row.getString("name"));
            assertEquals("{\"wings\": [1, 2]}", row.getString("doc"));
            assertArrayEquals(new byte[] {0, (byte) 0xff, 'r', 'a'}, row.getBytes("raw"));
        }
        try (ResultSet row = only("SELECT * FROM silver.samples WHERE id = 3")) {
            assertEquals("", row.getString("name"));
            assertFalse(row.wasNull());
            assertArrayEquals(new byte[0], row.getBytes("raw"));
        }
    }

    @Feature("scalar types")
    @Test
    void an_instant_is_the_same_wherever_the_machine_stands() throws SQLException {
        Instant noon = Instant.parse("2024-02-29T12:00:00.123456Z");
        TimeZone here = TimeZone.getDefault();
        TimeZone.setDefault(TimeZone.getTimeZone("America/New_York"));
        try (ResultSet row = only("SELECT at FROM silver.samples WHERE id = 1")) {
            assertEquals(Types.TIMESTAMP_WITH_TIMEZONE, row.getMetaData().getColumnType(1));
            assertEquals(noon, row.getObject(1, Instant.class));
            assertEquals(OffsetDateTime.parse("2024-02-29T12:00:00.123456Z"), row.getObject(1, OffsetDateTime.class));
            assertEquals(noon, row.getObject(1, ZonedDateTime.class).toInstant());
            // getTimestamp is right in UTC only: elsewhere the driver adds the zone's offset the wrong way.
        } finally {
            TimeZone.setDefault(here);
        }
    }

    @Feature("scalar types")
    @Test
    void an_instant_is_asked_for_by_its_type() throws SQLException {
        try (ResultSet row = only("SELECT at FROM silver.samples WHERE id = 1")) {
            // AvaticaSite.get (1.26) has no case for TIMESTAMP_WITH_TIMEZONE: with the driver 18.3.0, ask by name.
            assertThrows(RuntimeException.class, () -> row.getObject(1));
            assertEquals(Timestamp.valueOf("2024-02-29 12:00:00.123456"), row.getObject("at"));
            assertEquals(Timestamp.valueOf("2024-02-29 12:00:00.123456"), row.getObject(1, Timestamp.class));
            assertEquals("2024-02-29 12:00:00.123456", row.getString(1));
        }
    }

    @Feature("scalar types")
    @Test
    void an_instant_of_another_zone_comes_with_it() throws SQLException {
        String sql = "SELECT at AT TIME ZONE 'Europe/Berlin' AS there FROM silver.samples WHERE id = 1";
        try (ResultSet row = only(sql)) {
            ZonedDateTime there = row.getObject("there", ZonedDateTime.class);
            assertEquals(ZonedDateTime.parse("2024-02-29T13:00:00.123456+01:00[Europe/Berlin]"), there);
        }
    }

    @Feature("scalar types")
    @Test
    void a_wall_clock_time_has_no_zone() throws SQLException {
        LocalDateTime noon = LocalDateTime.parse("2024-02-29T12:00:00.123456");
        try (ResultSet row = only("SELECT local FROM silver.samples WHERE id = 1")) {
            assertEquals(Types.TIMESTAMP, row.getMetaData().getColumnType(1));
            assertEquals(noon, row.getTimestamp(1).toLocalDateTime());
            assertEquals(noon, row.getObject(1, LocalDateTime.class));
            assertThrows(SQLException.class, () -> row.getObject(1, Instant.class));
        }
    }

    @Feature("scalar types")
    @Test
    void times_before_1970_come_back() throws SQLException {
        try (ResultSet row = only("SELECT day, at, local FROM silver.samples WHERE id = 3")) {
            assertEquals("0001-01-01", row.getDate("day").toString());
            assertEquals(Instant.parse("1969-12-31T23:59:59.999999Z"), row.getObject("at", Instant.class));
            LocalDateTime local = row.getObject("local", LocalDateTime.class);
            assertEquals(LocalDateTime.parse("1969-12-31T23:59:59.999999"), local);
        }
    }

    @Feature("scalar types")
    @Test
    void dates_and_times_of_day_come_back() throws SQLException {
        String sql = "SELECT day, CAST('12:34:56.789' AS TIME) AS time FROM silver.samples WHERE id = 1";
        try (ResultSet row = only(sql)) {
            assertEquals(Types.DATE, row.getMetaData().getColumnType(1));
            assertEquals(Date.valueOf("2024-02-29"), row.getDate("day"));
            assertEquals("2024-02-29", row.getString("day"));
            assertEquals(Types.TIME, row.getMetaData().getColumnType(2));
            assertEquals("12:34:56.789", row.getString("time"));
            // Of a LocalTime, the driver keeps the seconds (java.sql.Time.toLocalTime).
            assertEquals(LocalTime.parse("12:34:56"), row.getObject("time", LocalTime.class));
            assertEquals(Time.valueOf("12:34:56").toLocalTime(), row.getTime("time").toLocalTime());
        }
    }

    @Feature("scalar types")
    @Test
    void intervals_and_durations_come_back() throws SQLException {
        String sql = "SELECT INTERVAL '14 months 3 days 90 minutes' AS span, "
                + "TIMESTAMP '2024-02-29 12:00:00' - TIMESTAMP '2024-02-28 11:59:59' AS between";
        try (ResultSet row = only(sql.replace("between", "\"between\""))) {
            assertEquals("P14M3DT1H30M", row.getString("span"));
            assertEquals(Duration.ofDays(1).plusSeconds(1), row.getObject("between"));
        }
    }

    @Feature("scalar types")
    @Test
    void computed_types_come_back_as_they_are_announced() throws SQLException {
        String sql = "SELECT CAST(18446744073709551615 AS BIGINT UNSIGNED) AS u64, "
                + "CAST(1 AS DECIMAL(60, 20)) AS wide, arrow_cast('x', 'Utf8View') AS viewed, "
                + "arrow_cast('x', 'Dictionary(Int32, Utf8)') AS coded, arrow_cast(1, 'Decimal32(9, 2)') AS small, "
                + "arrow_cast('x', 'LargeUtf8') AS large, NULL AS nothing";
        try (ResultSet row = only(sql)) {
            // As a number, the driver takes its bits for a signed one.
            assertEquals("18446744073709551615", row.getString("u64"));
            assertEquals(0, BigDecimal.ONE.compareTo(row.getBigDecimal("wide")));
            assertEquals("x", row.getString("viewed"));
            assertEquals("x", row.getString("coded"));
            assertEquals(new BigDecimal("1.00"), row.getBigDecimal("small"));
            assertEquals("x", row.getString("large"));
            assertNull(row.getObject("nothing"));
        }
    }

    @Feature("scalar types")
    @Test
    void a_decimal_result_tells_its_precision_and_scale() throws SQLException {
        try (ResultSet row = only("SELECT price, huge FROM silver.samples WHERE id = 1")) {
            ResultSetMetaData columns = row.getMetaData();
            assertEquals(List.of(10, 2, 38, 10), List.of(
                    columns.getPrecision(1), columns.getScale(1), columns.getPrecision(2), columns.getScale(2)));
        }
    }

    @Feature("NULLs")
    @Test
    void a_null_of_each_type_is_null() throws SQLException {
        try (ResultSet row = only("SELECT * FROM silver.samples WHERE id = 2")) {
            ResultSetMetaData columns = row.getMetaData();
            for (int place = 1; place <= columns.getColumnCount(); place++) {
                String name = columns.getColumnName(place);
                boolean isNull = !List.of("id", "_sequence").contains(name);
                assertEquals(isNull, row.getString(place) == null, name);
                assertEquals(isNull, row.wasNull(), name);
                if (columns.getColumnType(place) != Types.TIMESTAMP_WITH_TIMEZONE) {
                    assertEquals(isNull, row.getObject(place) == null, name);
                }
            }
            assertNull(row.getObject("at", Instant.class));
            assertNull(row.getTimestamp("at"));
        }
    }

    @Feature("NULLs")
    @Test
    void a_null_read_as_a_primitive_is_zero_and_was_null() throws SQLException {
        try (ResultSet row = only("SELECT * FROM silver.samples WHERE id = 2")) {
            assertEquals(0, row.getByte("tiny"));
            assertTrue(row.wasNull());
            assertEquals(0, row.getShort("small"));
            assertTrue(row.wasNull());
            assertEquals(0, row.getInt("whole"));
            assertTrue(row.wasNull());
            assertEquals(0, row.getLong("big"));
            assertTrue(row.wasNull());
            assertEquals(0, row.getFloat("ratio"));
            assertTrue(row.wasNull());
            assertEquals(0, row.getDouble("precise"));
            assertTrue(row.wasNull());
            assertFalse(row.getBoolean("flag"));
            assertTrue(row.wasNull());
            assertEquals(2, row.getLong("id"));
            assertFalse(row.wasNull());
        }
    }

    @Feature("NULLs")
    @ParameterizedTest
    @ValueSource(strings = {
        "BIGINT", "BOOLEAN", "DOUBLE", "DECIMAL(38, 10)", "VARCHAR", "DATE", "TIME", "TIMESTAMP", "BYTEA", "INTERVAL"})
    void a_null_that_is_computed_is_null(String type) throws SQLException {
        try (ResultSet row = only("SELECT CAST(NULL AS " + type + ")")) {
            assertNull(row.getObject(1));
            assertTrue(row.wasNull());
        }
    }

    /** The first row, which is the only one. */
    private ResultSet only(String sql) throws SQLException {
        ResultSet rows = statement.executeQuery(sql);
        assertTrue(rows.next(), sql);
        return rows;
    }
}
