package mallard.jdbc;

import java.io.BufferedReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.extension.BeforeAllCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.jupiter.api.extension.ExtensionContext.Store.CloseableResource;

/**
 * One real server for all test classes, over the definition in {@code src/test/resources/shop}, with the rows of
 * {@code rows.sql} in it. MALLARD_BIN is the server.
 */
final class Lakehouse implements BeforeAllCallback, CloseableResource {
    static final String CATALOG = "shop";

    private static final Path RESOURCES = Path.of(System.getProperty("basedir"), "src", "test", "resources");
    private static final int STOP_TIMEOUT_SECONDS = 10;
    private static final int WAIT_SECONDS = 60;
    private static final long POLL_MILLIS = 50;

    private static Lakehouse running;

    private Path folder;
    private Process server;
    private String address;

    @Override
    public void beforeAll(ExtensionContext context) throws Exception {
        synchronized (Lakehouse.class) {
            if (running == null) {
                start();
                // The root store is closed after the last test class, and closes us.
                context.getRoot().getStore(Namespace.GLOBAL).put(Lakehouse.class, this);
            }
        }
    }

    /** A connection without user and password. */
    static Connection connect() throws SQLException {
        return DriverManager.getConnection(url());
    }

    /** A connection with properties: those that the driver does not know go as headers with each call. */
    static Connection connect(String... namesAndValues) throws SQLException {
        Properties properties = new Properties();
        for (int at = 0; at < namesAndValues.length; at += 2) {
            properties.put(namesAndValues[at], namesAndValues[at + 1]);
        }
        return DriverManager.getConnection(url(), properties);
    }

    static String url() {
        return "jdbc:arrow-flight-sql://" + running.address + "/?useEncryption=false";
    }

    /** The first column of a query's rows, over a connection of its own. */
    static List<Object> column(String sql) throws SQLException {
        try (Connection connection = connect();
                Statement statement = connection.createStatement()) {
            return column(statement.executeQuery(sql), 1);
        }
    }

    /** A column of all rows, which are then closed. */
    static List<Object> column(ResultSet rows, int place) throws SQLException {
        try (rows) {
            List<Object> values = new ArrayList<>();
            while (rows.next()) {
                values.add(rows.getObject(place));
            }
            return values;
        }
    }

    /** A column of all rows as text, by its label; the rows are then closed. */
    static List<String> texts(ResultSet rows, String label) throws SQLException {
        try (rows) {
            List<String> values = new ArrayList<>();
            while (rows.next()) {
                values.add(rows.getString(label));
            }
            return values;
        }
    }

    /** Waits until a query's first column has these values: what is written is merged a moment later. */
    static void await(List<?> wanted, String sql) throws Exception {
        List<Object> last = new ArrayList<>();
        await(() -> {
            last.clear();
            last.addAll(column(sql));
            return last.equals(wanted);
        }, () -> sql + " did not become " + wanted + "; last it was " + last);
    }

    static void await(Callable<Boolean> condition, Callable<String> otherwise) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS);
        while (!condition.call()) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError(otherwise.call());
            }
            Thread.sleep(POLL_MILLIS);
        }
    }

    private void start() throws Exception {
        String binary = binary();
        folder = Files.createTempDirectory("mallard-jdbc");
        // Endpoints of 1 MiB, so that a table that is quick to make has some.
        server = new ProcessBuilder(
                        binary, "local", "--definition", RESOURCES.resolve("shop").toString(),
                        "--data", folder.resolve("data").toString(), "--listen", "127.0.0.1:0", "--slice-mib", "1")
                .redirectError(folder.resolve("server.log").toFile())
                .start();
        BufferedReader output = server.inputReader();
        String first = output.readLine();
        if (first == null || !first.startsWith("listening on ")) {
            server.destroyForcibly();
            throw new IllegalStateException("the server's first line is " + first + "; its log is in " + folder);
        }
        address = first.substring("listening on ".length()).strip();
        drain(output);
        running = this;
        try {
            fill();
        } catch (Exception | Error e) {
            running = null;
            server.destroyForcibly();
            throw new IllegalStateException("the tables can't be filled; the server's log is in " + folder, e);
        }
    }

    private static void fill() throws Exception {
        try (Connection connection = connect();
                Statement statement = connection.createStatement()) {
            String script = Files.readString(RESOURCES.resolve("shop").resolve("rows.sql"));
            for (String insert : script.split(";\n")) {
                statement.executeUpdate(insert);
            }
        }
        await(List.of(3L), "SELECT count(*) FROM silver.samples");
        await(List.of(2L), "SELECT count(*) FROM silver.customers");
        await(List.of(200_000L), "SELECT count(*) FROM silver.numbers");
        await(List.of(3L), "SELECT \"rows\" FROM system.models WHERE model_name = 'flags'");
    }

    @Override
    public void close() throws Throwable {
        server.destroy();
        if (!server.waitFor(STOP_TIMEOUT_SECONDS, TimeUnit.SECONDS)) {
            server.destroyForcibly();
            throw new IllegalStateException("SIGTERM did not stop the server; its log is in " + folder);
        }
        if (server.exitValue() != 0) {
            throw new IllegalStateException("exit code " + server.exitValue() + "; the server's log is in " + folder);
        }
        try (var paths = Files.walk(folder)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }

    /** A full pipe would block the server. */
    private static void drain(BufferedReader output) {
        Thread thread = new Thread(() -> output.lines().forEach(line -> {}));
        thread.setDaemon(true);
        thread.start();
    }

    private static String binary() {
        String value = System.getenv("MALLARD_BIN");
        if (value == null) {
            throw new IllegalStateException("MALLARD_BIN is not set: run these tests by `scripts/test jdbc`");
        }
        return value;
    }
}
