package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.List;
import java.util.Properties;
import javax.sql.PooledConnection;
import org.apache.arrow.driver.jdbc.ArrowFlightJdbcConnectionPoolDataSource;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Ways to open a connection. */
@ExtendWith(Lakehouse.class)
class ConnectTest {
    @Feature("connect, handshake")
    @Test
    void a_connection_without_a_user_answers() throws SQLException {
        try (Connection connection = Lakehouse.connect()) {
            assertOne(connection);
        }
    }

    @Feature("connect, handshake")
    @Test
    void a_connection_with_user_and_password_answers() throws SQLException {
        try (Connection connection = DriverManager.getConnection(Lakehouse.url(), "ada", "secret")) {
            assertEquals("ada", connection.getMetaData().getUserName());
            assertOne(connection);
        }
    }

    @Feature("connect, handshake")
    @Test
    void a_connection_with_a_token_answers() throws SQLException {
        try (Connection connection = Lakehouse.connect("token", "of somebody's own")) {
            assertOne(connection);
        }
    }

    @Feature("connect, handshake")
    @Test
    void a_token_that_only_looks_like_one_of_ours_is_refused() {
        SQLException error = assertThrows(SQLException.class, () -> {
            try (Connection connection = Lakehouse.connect("token", "mallard.forged")) {
                assertOne(connection);
            }
        });
        assertTrue(Errors.all(error).contains("connect again"), () -> Errors.all(error));
    }

    @Feature({"connect, handshake", "session options"})
    @Test
    void the_catalog_may_be_chosen_when_connecting() throws SQLException {
        Connection connection = Lakehouse.connect("catalog", "shop");
        assertOne(connection);
        // The driver (18.3.0) shuts its channel before it asks the server to close the session of the catalog.
        SQLException closing = assertThrows(SQLException.class, connection::close);
        assertTrue(closing.getMessage().contains("Channel shutdown"), closing::getMessage);
    }

    @Feature({"connect, handshake", "session options"})
    @Test
    void another_catalog_is_refused_when_connecting() {
        // The driver has no more to say of a refused option than its name, and the value.
        SQLException error = assertThrows(SQLException.class, () -> Lakehouse.connect("catalog", "elsewhere"));
        assertTrue(Errors.all(error).contains("catalog = Optional[elsewhere]"), () -> Errors.all(error));
    }

    @Feature("session options")
    @Test
    void options_stand_in_the_url() throws SQLException {
        try (Connection connection = DriverManager.getConnection(Lakehouse.url() + "&mallard-schema=silver");
                Statement statement = connection.createStatement()) {
            assertEquals(List.of(2L), Lakehouse.column(statement.executeQuery("SELECT count(*) FROM customers"), 1));
        }
    }

    @Feature("connect, handshake")
    @Test
    void properties_that_only_a_tool_knows_do_no_harm() throws SQLException {
        try (Connection connection = Lakehouse.connect("ApplicationName", "a tool", "loginTimeout", "5")) {
            assertOne(connection);
        }
    }

    @Feature("connect, handshake")
    @Test
    void a_closed_connection_is_closed_and_a_new_one_answers() throws SQLException {
        Connection connection = Lakehouse.connect();
        assertFalse(connection.isClosed());
        connection.close();
        assertTrue(connection.isClosed());
        assertThrows(SQLException.class, connection::createStatement);
        connection.close();
        try (Connection another = Lakehouse.connect()) {
            assertOne(another);
        }
    }

    @Feature("connect, handshake")
    @Test
    void a_pool_gives_a_returned_connection_again() throws Exception {
        URI server = URI.create(Lakehouse.url().substring("jdbc:".length()));
        Properties properties = new Properties();
        properties.put("host", server.getHost());
        properties.put("port", server.getPort());
        properties.put("useEncryption", false);
        try (var pool = ArrowFlightJdbcConnectionPoolDataSource.createNewDataSource(properties)) {
            PooledConnection pooled = pool.getPooledConnection();
            for (int turn = 0; turn < 2; turn++) {
                try (Connection connection = pooled.getConnection()) {
                    assertOne(connection);
                }
                assertSame(pooled, pool.getPooledConnection());
            }
            pooled.getConnection().close();
        }
    }

    @Feature("connect, handshake")
    @Test
    void an_encrypted_connection_to_the_plain_port_fails() {
        String encrypted = Lakehouse.url().replace("useEncryption=false", "useEncryption=true");
        assertThrows(SQLException.class, () -> {
            try (Connection connection = DriverManager.getConnection(encrypted)) {
                assertOne(connection);
            }
        });
    }

    @Feature("connect, handshake")
    @Test
    void a_port_where_nobody_listens_fails() {
        String nobody = "jdbc:arrow-flight-sql://127.0.0.1:1/?useEncryption=false";
        assertThrows(SQLException.class, () -> {
            try (Connection connection = DriverManager.getConnection(nobody)) {
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
