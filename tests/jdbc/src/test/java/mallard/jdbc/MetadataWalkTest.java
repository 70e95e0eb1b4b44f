package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Types;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** All of DatabaseMetaData, as BI tools walk it when they connect. */
@ExtendWith(Lakehouse.class)
class MetadataWalkTest {
    private static final String ANY = "%";

    /** What to ask the methods that want to be told something. */
    private static final Map<String, Object[]> ARGUMENTS = Map.ofEntries(
            of("deletesAreDetected", ResultSet.TYPE_FORWARD_ONLY),
            of("getAttributes", null, null, ANY, ANY),
            of("getBestRowIdentifier", "shop", "silver", "orders", DatabaseMetaData.bestRowSession, true),
            of("getColumnPrivileges", "shop", "silver", "orders", ANY),
            of("getColumns", null, null, null, null),
            of("getCrossReference", null, "silver", "customers", null, "silver", "orders"),
            of("getExportedKeys", null, "silver", "customers"),
            of("getFunctionColumns", null, null, ANY, ANY),
            of("getFunctions", null, null, ANY),
            of("getImportedKeys", null, "silver", "orders"),
            of("getIndexInfo", "shop", "silver", "orders", false, true),
            of("getPrimaryKeys", null, "silver", "orders"),
            of("getProcedureColumns", null, null, ANY, ANY),
            of("getProcedures", null, null, ANY),
            of("getPseudoColumns", null, null, ANY, ANY),
            of("getSuperTables", null, null, ANY),
            of("getSuperTypes", null, null, ANY),
            of("getTablePrivileges", null, null, ANY),
            of("getTables", null, null, ANY, null),
            of("getUDTs", null, null, ANY, new int[] {Types.STRUCT}),
            of("getVersionColumns", "shop", "silver", "orders"),
            of("insertsAreDetected", ResultSet.TYPE_FORWARD_ONLY),
            of("isWrapperFor", DatabaseMetaData.class),
            of("othersDeletesAreVisible", ResultSet.TYPE_FORWARD_ONLY),
            of("othersInsertsAreVisible", ResultSet.TYPE_FORWARD_ONLY),
            of("othersUpdatesAreVisible", ResultSet.TYPE_FORWARD_ONLY),
            of("ownDeletesAreVisible", ResultSet.TYPE_FORWARD_ONLY),
            of("ownInsertsAreVisible", ResultSet.TYPE_FORWARD_ONLY),
            of("ownUpdatesAreVisible", ResultSet.TYPE_FORWARD_ONLY),
            of("supportsResultSetConcurrency", ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY),
            of("supportsResultSetHoldability", ResultSet.HOLD_CURSORS_OVER_COMMIT),
            of("supportsResultSetType", ResultSet.TYPE_FORWARD_ONLY),
            of("supportsTransactionIsolationLevel", Connection.TRANSACTION_NONE),
            of("unwrap", DatabaseMetaData.class),
            of("updatesAreDetected", ResultSet.TYPE_FORWARD_ONLY));

    /** Methods of Avatica's AvaticaDatabaseMetaData (1.26) that only throw "todo", and that the driver leaves so. */
    private static final Set<String> TODO_IN_THE_DRIVER = Set.of(
            "deletesAreDetected",
            "insertsAreDetected",
            "othersDeletesAreVisible",
            "othersInsertsAreVisible",
            "othersUpdatesAreVisible",
            "ownDeletesAreVisible",
            "ownInsertsAreVisible",
            "ownUpdatesAreVisible",
            "supportsResultSetHoldability",
            "updatesAreDetected");

    @Feature({"server info (SqlInfo)", "catalogs, schemas, tables, table types", "columns, types and remarks"})
    @Test
    void every_method_answers_and_every_result_can_be_read_to_its_end() throws Exception {
        Map<String, Object> failed = new TreeMap<>();
        Set<String> todo = new TreeSet<>();
        int asked = 0;
        try (Connection connection = Lakehouse.connect()) {
            DatabaseMetaData metadata = connection.getMetaData();
            for (Method question : DatabaseMetaData.class.getMethods()) {
                asked++;
                try {
                    read(question.invoke(metadata, arguments(question)), question);
                } catch (InvocationTargetException e) {
                    Throwable cause = e.getCause();
                    if (cause instanceof RuntimeException && cause.getMessage().startsWith("todo")) {
                        todo.add(question.getName());
                    } else {
                        failed.put(question.toString(), cause);
                    }
                } catch (Exception | AssertionError e) {
                    failed.put(question.toString(), e);
                }
            }
        }
        assertTrue(asked > 170, "only " + asked + " questions");
        assertEquals(Map.of(), failed);
        assertEquals(new TreeSet<>(TODO_IN_THE_DRIVER), todo);
    }

    private static Object[] arguments(Method question) {
        if (question.getName().equals("supportsConvert") && question.getParameterCount() == 2) {
            return new Object[] {Types.INTEGER, Types.VARCHAR};
        }
        if (question.getName().equals("getSchemas") && question.getParameterCount() == 2) {
            return new Object[] {null, ANY};
        }
        Object[] arguments = ARGUMENTS.getOrDefault(question.getName(), new Object[0]);
        assertEquals(question.getParameterCount(), arguments.length, () -> "say what to ask " + question);
        return arguments;
    }

    /** Reads all there is; without a user there is no name of one. */
    private static void read(Object answer, Method question) throws SQLException {
        if (!question.getName().equals("getUserName")) {
            assertNotNull(answer);
        }
        if (answer instanceof ResultSet rows) {
            try (rows) {
                ResultSetMetaData columns = rows.getMetaData();
                assertTrue(columns.getColumnCount() > 0, "it has no columns");
                while (rows.next()) {
                    for (int place = 1; place <= columns.getColumnCount(); place++) {
                        rows.getObject(place);
                        rows.getString(place);
                    }
                }
            }
        }
    }

    private static Map.Entry<String, Object[]> of(String method, Object... arguments) {
        return Map.entry(method, arguments);
    }
}
