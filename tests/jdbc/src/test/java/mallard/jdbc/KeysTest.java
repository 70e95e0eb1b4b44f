package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Primary and foreign keys, which tools draw diagrams and propose joins from. */
@ExtendWith(Lakehouse.class)
class KeysTest {
    private static final List<String> CUSTOMERS_OF_ORDERS =
            List.of("silver.customers.id <- silver.orders.customer_id 1 customers_key orders_customer_id_fkey");
    private static final List<String> CUSTOMERS_OF_PARCELS =
            List.of("silver.customers.id <- silver.parcels.receiver 1 customers_key parcels_receiver_fkey");
    private static final List<String> LINES_OF_PARCELS = List.of(
            "silver.order_lines.order_id <- silver.parcels.of_order 1 order_lines_key parcels_of_order_of_line_fkey",
            "silver.order_lines.line <- silver.parcels.of_line 2 order_lines_key parcels_of_order_of_line_fkey");

    private Connection connection;
    private DatabaseMetaData metadata;

    @BeforeEach
    void open() throws SQLException {
        connection = Lakehouse.connect();
        metadata = connection.getMetaData();
    }

    @AfterEach
    void close() throws SQLException {
        connection.close();
    }

    @Feature("primary and foreign keys")
    @Test
    void a_primary_key_has_its_columns_in_order() throws SQLException {
        // The columns of the table are in another order than those of its key.
        assertEquals(
                List.of(
                        "shop.silver.order_lines.order_id 1 order_lines_key",
                        "shop.silver.order_lines.line 2 order_lines_key"),
                primary(metadata.getPrimaryKeys(null, "silver", "order_lines")));
        assertEquals(
                List.of("shop.silver.customers.id 1 customers_key"),
                primary(metadata.getPrimaryKeys("shop", null, "customers")));
    }

    @Feature("primary and foreign keys")
    @Test
    void the_unique_key_of_a_model_is_its_primary_key() throws SQLException {
        assertEquals(
                List.of("shop.gold.flags.state 1 flags_key"), primary(metadata.getPrimaryKeys(null, "gold", "flags")));
    }

    @Feature("primary and foreign keys")
    @Test
    void what_has_no_key_gives_no_rows() throws SQLException {
        assertEquals(List.of(), primary(metadata.getPrimaryKeys(null, "silver", "numbers")));
        assertEquals(List.of(), primary(metadata.getPrimaryKeys(null, "gold", "orders")));
        assertEquals(List.of(), primary(metadata.getPrimaryKeys("elsewhere", "silver", "orders")));
        assertEquals(List.of(), primary(metadata.getPrimaryKeys(null, null, "nosuchtable")));
        assertEquals(List.of(), foreign(metadata.getImportedKeys(null, "silver", "customers")));
        assertEquals(List.of(), foreign(metadata.getExportedKeys(null, "silver", "parcels")));
        assertEquals(List.of(), foreign(metadata.getExportedKeys(null, "gold", "customers")));
    }

    @Feature("primary and foreign keys")
    @Test
    void a_table_tells_to_whom_it_points() throws SQLException {
        assertEquals(CUSTOMERS_OF_ORDERS, foreign(metadata.getImportedKeys(null, "silver", "orders")));
        List<String> parcels = new ArrayList<>(CUSTOMERS_OF_PARCELS);
        parcels.addAll(LINES_OF_PARCELS);
        assertEquals(parcels, foreign(metadata.getImportedKeys("shop", "silver", "parcels")));
    }

    @Feature("primary and foreign keys")
    @Test
    void a_table_tells_who_points_to_it() throws SQLException {
        List<String> customers = new ArrayList<>(CUSTOMERS_OF_ORDERS);
        customers.addAll(CUSTOMERS_OF_PARCELS);
        assertEquals(customers, foreign(metadata.getExportedKeys(null, null, "customers")));
        assertEquals(LINES_OF_PARCELS, foreign(metadata.getExportedKeys("shop", "silver", "order_lines")));
    }

    @Feature("primary and foreign keys")
    @Test
    void two_tables_tell_how_one_points_to_the_other() throws SQLException {
        assertEquals(
                LINES_OF_PARCELS,
                foreign(metadata.getCrossReference(null, "silver", "order_lines", null, "silver", "parcels")));
        assertEquals(
                CUSTOMERS_OF_PARCELS,
                foreign(metadata.getCrossReference("shop", null, "customers", "shop", null, "parcels")));
        assertEquals(
                List.of(), foreign(metadata.getCrossReference(null, null, "parcels", null, null, "customers")));
    }

    @Feature("primary and foreign keys")
    @Test
    void nothing_follows_a_row_that_is_pointed_to() throws SQLException {
        try (ResultSet keys = metadata.getImportedKeys(null, "silver", "orders")) {
            keys.next();
            assertEquals(DatabaseMetaData.importedKeyNoAction, keys.getInt("UPDATE_RULE"));
            assertEquals(DatabaseMetaData.importedKeyNoAction, keys.getInt("DELETE_RULE"));
        }
    }

    private static List<String> primary(ResultSet keys) throws SQLException {
        try (keys) {
            List<String> found = new ArrayList<>();
            while (keys.next()) {
                found.add("%s.%s.%s.%s %d %s".formatted(
                        keys.getString("TABLE_CAT"), keys.getString("TABLE_SCHEM"), keys.getString("TABLE_NAME"),
                        keys.getString("COLUMN_NAME"), keys.getInt("KEY_SEQ"), keys.getString("PK_NAME")));
            }
            return found;
        }
    }

    private static List<String> foreign(ResultSet keys) throws SQLException {
        try (keys) {
            List<String> found = new ArrayList<>();
            while (keys.next()) {
                assertEquals("shop", keys.getString("PKTABLE_CAT"));
                assertEquals("shop", keys.getString("FKTABLE_CAT"));
                found.add("%s.%s.%s <- %s.%s.%s %d %s %s".formatted(
                        keys.getString("PKTABLE_SCHEM"), keys.getString("PKTABLE_NAME"),
                        keys.getString("PKCOLUMN_NAME"), keys.getString("FKTABLE_SCHEM"),
                        keys.getString("FKTABLE_NAME"), keys.getString("FKCOLUMN_NAME"), keys.getInt("KEY_SEQ"),
                        keys.getString("PK_NAME"), keys.getString("FK_NAME")));
            }
            return found;
        }
    }
}
