package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What a wrong statement is told; JDBC's driver has no code for it (SQLState), only the message. */
@ExtendWith(Lakehouse.class)
class ErrorTest {
    @Feature("errors with their codes")
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "SELEC 1;                                            SELEC;              Expected",
        "SELECT 1 FROM;                                      SQL:;               Expected",
        "SELECT nam FROM silver.samples;                     nam;                name",
        "SELECT * FROM silver.sample;                        silver.sample;      did you mean silver.samples?",
        "SELECT * FROM samples;                              gold.samples;       did you mean silver.samples?",
        "SELECT * FROM bronze.samples;                       bronze;             gold, silver, system",
        "SELECT * FROM other.silver.samples;                 other;              shop",
        "SELECT * FROM silver.later;                         silver.later;       ingest",
        "SELECT nosuch(1);                                   nosuch;             ",
        "SELECT sum(name) FROM silver.samples;               sum;                ",
        "SELECT id, count(*) FROM silver.samples;            id;                 GROUP BY",
        "SELECT * FROM silver.samples WHERE id = ?;          the statement has 1;       bind a value to each",
        "COPY silver.samples TO 'file.csv';                  COPY;               results over Flight",
    })
    void a_wrong_statement_is_told_what_is_wrong_and_what_to_do(String sql, String wrong, String cure)
            throws SQLException {
        try (Connection connection = Lakehouse.connect();
                Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> statement.executeQuery(sql));
            // The driver quotes the statement in its message; what counts is the server's.
            String message = error.getMessage().replace(sql, "");
            assertTrue(message.contains(wrong), () -> wrong + " is not in: " + message);
            assertTrue(cure == null || message.contains(cure), () -> cure + " is not in: " + message);
            try (ResultSet rows = statement.executeQuery("SELECT 1")) {
                assertTrue(rows.next(), "the statement is of no use any more");
            }
        }
    }

    @Feature("errors with their codes")
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "SELECT 1 / (id - 2) FROM silver.samples;          ivide",
        "SELECT CAST(name AS BIGINT) FROM silver.samples;  teal",
    })
    void a_value_that_can_not_be_computed_is_an_error_of_the_query(String sql, String wrong) throws SQLException {
        try (Connection connection = Lakehouse.connect();
                Statement statement = connection.createStatement()) {
            SQLException error = assertThrows(SQLException.class, () -> {
                try (ResultSet rows = statement.executeQuery(sql)) {
                    while (rows.next()) {
                        rows.getObject(1);
                    }
                }
            });
            assertTrue(Errors.all(error).replace(sql, "").contains(wrong), () -> Errors.all(error));
        }
    }

    @Feature("errors with their codes")
    @Test
    void an_error_in_the_middle_of_a_result_comes_after_the_rows_before_it() throws SQLException {
        String sql = "SELECT 1 / (value - 5000000) FROM generate_series(1, 10000000)";
        try (Connection connection = Lakehouse.connect();
                Statement statement = connection.createStatement()) {
            long read = 0;
            Exception error = null;
            try (ResultSet rows = statement.executeQuery(sql)) {
                while (rows.next()) {
                    read++;
                }
            } catch (SQLException | RuntimeException e) {
                // The driver does not wrap what comes in the middle of a stream: it is a FlightRuntimeException.
                error = e;
            }
            assertTrue(read > 0, "no row came");
            assertTrue(Errors.all(error).contains("ivide"), Errors.all(error));
            try (ResultSet rows = statement.executeQuery("SELECT 1")) {
                assertTrue(rows.next());
                assertEquals(1, rows.getInt(1));
            }
        }
    }
}
