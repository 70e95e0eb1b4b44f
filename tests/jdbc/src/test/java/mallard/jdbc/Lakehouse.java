package mallard.jdbc;

import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.extension.BeforeAllCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.jupiter.api.extension.ExtensionContext.Store.CloseableResource;

/**
 * Starts one real server for all test classes, over a small definition of its own, with rows in it.
 *
 * <p>JDBC cannot ingest, so the Python helper {@code tests/python/ingest_once.py} does; MALLARD_PYTHON is the
 * interpreter with its packages, MALLARD_BIN the server.
 */
final class Lakehouse implements BeforeAllCallback, CloseableResource {
    static final String CATALOG = "shop";

    private static final int INGEST_TIMEOUT_SECONDS = 60;
    private static final int STOP_TIMEOUT_SECONDS = 10;
    private static final int REFRESH_TIMEOUT_SECONDS = 30;
    private static final long POLL_MILLIS = 100;

    /** A table with a column of each type that JDBC knows, in this order. */
    static final Map<String, String> COLUMNS = orderedColumns();

    private static final String ROWS = """
            2,1.5,true,teal 🦆,2024-02-29,2024-02-29T12:00:00.123456Z,2024-02-29T12:00:00.123456,12.34,raw
            ,,,,,,,,
            -3,-0.25,false,mallard,1969-12-31,1969-12-31T23:59:59Z,1969-12-31T23:59:59,-0.01,x
            """;

    private static Lakehouse running;

    private Path folder;
    private Process server;
    private String address;

    @Override
    public void beforeAll(ExtensionContext context) throws Exception {
        synchronized (Lakehouse.class) {
            if (running == null) {
                start();
                running = this;
                // The root store is closed after the last test class, and closes us.
                context.getRoot().getStore(Namespace.GLOBAL).put(Lakehouse.class, this);
            }
        }
    }

    /** A connection without user and password. */
    static Connection connect() throws SQLException {
        return connect(new Properties());
    }

    static Connection connect(Properties properties) throws SQLException {
        return DriverManager.getConnection(url(), properties);
    }

    static String url() {
        return "jdbc:arrow-flight-sql://" + running.address + "/?useEncryption=false";
    }

    /** The first column of a query's rows. */
    static List<Object> column(String sql) throws SQLException {
        try (Connection connection = connect();
                Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            List<Object> values = new ArrayList<>();
            while (rows.next()) {
                values.add(rows.getObject(1));
            }
            return values;
        }
    }

    private void start() throws Exception {
        folder = Files.createTempDirectory("mallard-jdbc");
        Path definition = writeDefinition(folder.resolve("definition"));
        server = new ProcessBuilder(
                        environment("MALLARD_BIN"), "local", "--definition", definition.toString(),
                        "--data", folder.resolve("data").toString(), "--listen", "127.0.0.1:0")
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
        try {
            ingest();
            awaitGold();
        } catch (Exception e) {
            server.destroyForcibly();
            throw e;
        }
    }

    private static Path writeDefinition(Path definition) throws IOException {
        Files.createDirectories(definition.resolve("gold"));
        StringBuilder toml = new StringBuilder("name = \"" + CATALOG + "\"\n\n");
        toml.append("[tables.samples]\nprimary_key = [\"id\"]\n");
        COLUMNS.forEach((name, type) -> toml.append(
                "\n[[tables.samples.columns]]\nname = \"%s\"\ntype = \"%s\"\nnullable = %s\n"
                        .formatted(name, type, !name.equals("id"))));
        toml.append("\n[models.flags]\nsql = \"gold/flags.sql\"\n");
        Files.writeString(definition.resolve("lakehouse.toml"), toml);
        Files.writeString(
                definition.resolve("gold/flags.sql"),
                "SELECT flag, count(*)::BIGINT AS samples FROM silver.samples GROUP BY flag\n");
        return definition;
    }

    private void ingest() throws Exception {
        List<String> header = new ArrayList<>();
        COLUMNS.forEach((name, type) -> header.add(name + ":" + type.replaceFirst("\\(.*", "")));
        StringBuilder csv = new StringBuilder(String.join(",", header)).append('\n');
        int id = 1;
        for (String row : ROWS.lines().toList()) {
            csv.append(id++).append(',').append(row).append('\n');
        }
        Path file = Files.writeString(folder.resolve("samples.csv"), csv);
        Path script = Path.of(System.getProperty("basedir"), "..", "python", "ingest_once.py").normalize();
        Process python = new ProcessBuilder(
                        environment("MALLARD_PYTHON"), script.toString(),
                        "grpc://" + address, "samples", file.toString())
                .inheritIO()
                .start();
        if (!python.waitFor(INGEST_TIMEOUT_SECONDS, TimeUnit.SECONDS) || python.exitValue() != 0) {
            python.destroyForcibly();
            throw new IllegalStateException(script + " failed; the server's log is in " + folder);
        }
    }

    private void awaitGold() throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(REFRESH_TIMEOUT_SECONDS);
        try (Connection connection = DriverManager.getConnection(
                        "jdbc:arrow-flight-sql://" + address + "/?useEncryption=false");
                Statement statement = connection.createStatement()) {
            String sql = "SELECT count(*) FROM system.models WHERE last_refresh_at IS NOT NULL AND \"rows\" > 0";
            while (System.nanoTime() < deadline) {
                try (ResultSet rows = statement.executeQuery(sql)) {
                    if (rows.next() && rows.getLong(1) == 1) {
                        return;
                    }
                }
                Thread.sleep(POLL_MILLIS);
            }
        }
        throw new IllegalStateException("the model was not refreshed; the server's log is in " + folder);
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

    private static String environment(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalStateException(name + " is not set: run these tests by `scripts/test jdbc`");
        }
        return value;
    }

    private static Map<String, String> orderedColumns() {
        Map<String, String> columns = new LinkedHashMap<>();
        columns.put("id", "bigint");
        columns.put("small", "integer");
        columns.put("ratio", "double");
        columns.put("flag", "boolean");
        columns.put("name", "varchar");
        columns.put("day", "date");
        columns.put("at", "timestamp");
        columns.put("local", "timestamp_ntz");
        columns.put("price", "decimal(10,2)");
        columns.put("raw", "blob");
        return columns;
    }
}
