package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Ways to open a connection. */
@ExtendWith(Lakehouse.class)
class ConnectTest {
    @Test
    void a_connection_without_a_user_answers() throws SQLException {
        try (Connection connection = Lakehouse.connect()) {
            assertOne(connection);
        }
    }

    @Test
    void a_connection_with_user_and_password_answers() throws SQLException {
        try (Connection connection = DriverManager.getConnection(Lakehouse.url(), "ada", "secret")) {
            assertOne(connection);
        }
    }

    @Test
    void the_catalog_may_be_chosen_when_connecting() throws SQLException {
        Properties properties = new Properties();
        properties.put("catalog", Lakehouse.CATALOG);
        Connection connection = Lakehouse.connect(properties);
        assertOne(connection);
        // The driver (18.3.0) shuts its channel before it asks the server to close the session of the catalog.
        SQLException closing = assertThrows(SQLException.class, connection::close);
        assertTrue(closing.getMessage().contains("Channel shutdown"), closing.getMessage());
    }

    @Test
    void a_closed_connection_is_closed_and_a_new_one_answers() throws SQLException {
        Connection connection = Lakehouse.connect();
        assertFalse(connection.isClosed());
        connection.close();
        assertTrue(connection.isClosed());
        try (Connection another = Lakehouse.connect()) {
            assertOne(another);
        }
    }

    @Test
    void an_encrypted_connection_to_the_plain_port_fails() {
        String encrypted = Lakehouse.url().replace("useEncryption=false", "useEncryption=true");
        assertThrows(SQLException.class, () -> {
            try (Connection connection = DriverManager.getConnection(encrypted)) {
                assertOne(connection);
            }
        });
    }

    private static void assertOne(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT 1 AS one")) {
            assertTrue(rows.next());
            assertEquals(1, rows.getInt("one"));
            assertFalse(rows.next());
        }
    }
}
