package mallard.jdbc;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.sql.Array;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Lists, structs and maps. */
@ExtendWith(Lakehouse.class)
class NestedTypesTest {
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

    @Feature("nested types")
    @Test
    void a_list_is_an_array() throws SQLException {
        try (ResultSet row = only("SELECT tags FROM silver.samples WHERE id = 1")) {
            assertEquals(Types.ARRAY, row.getMetaData().getColumnType(1));
            Array tags = row.getArray("tags");
            assertEquals(Types.VARCHAR, tags.getBaseType());
            assertEquals("VARCHAR", tags.getBaseTypeName());
            assertEquals(Arrays.asList("a", null, "ü"), texts(tags));
            assertEquals("[\"a\",null,\"ü\"]", row.getString("tags"));
        }
        try (ResultSet row = only("SELECT tags FROM silver.samples WHERE id = 3")) {
            assertEquals(List.of(), texts(row.getArray("tags")));
        }
    }

    @Feature("nested types")
    @Test
    void an_array_is_read_as_rows_too() throws SQLException {
        try (ResultSet row = only("SELECT make_array(3, 4, 5) AS numbers");
                ResultSet items = row.getArray("numbers").getResultSet()) {
            List<Long> found = new ArrayList<>();
            while (items.next()) {
                found.add(items.getLong(1));
            }
            assertEquals(List.of(3L, 4L, 5L), found);
        }
    }

    @Feature("nested types")
    @Test
    void arrays_of_several_rows_are_told_apart() throws SQLException {
        String sql = "SELECT array_agg(id ORDER BY id) FROM silver.samples GROUP BY id > 1 ORDER BY 1";
        try (ResultSet rows = statement.executeQuery(sql)) {
            assertTrue(rows.next());
            assertArrayEquals(new Object[] {1L}, (Object[]) rows.getArray(1).getArray());
            assertTrue(rows.next());
            assertArrayEquals(new Object[] {2L, 3L}, (Object[]) rows.getArray(1).getArray());
            assertFalse(rows.next());
        }
    }

    @Feature("nested types")
    @Test
    void a_struct_is_a_map_by_name() throws SQLException {
        try (ResultSet row = only("SELECT point FROM silver.samples WHERE id = 1")) {
            Map<?, ?> point = (Map<?, ?>) row.getObject("point");
            assertEquals(1.5, point.get("x"));
            assertEquals("nest", point.get("label").toString());
            assertEquals("{\"x\":1.5,\"label\":\"nest\"}", row.getString("point"));
        }
    }

    @Feature("nested types")
    @Test
    void a_map_is_a_map() throws SQLException {
        try (ResultSet row = only("SELECT stock FROM silver.samples WHERE id = 1")) {
            Map<String, Object> stock = new TreeMap<>();
            ((Map<?, ?>) row.getObject("stock")).forEach((key, value) -> stock.put(key.toString(), value));
            Map<String, Object> wanted = new TreeMap<>();
            wanted.put("ducks", null);
            wanted.put("eggs", 3);
            assertEquals(wanted, stock);
        }
    }

    @Feature("nested types")
    @Test
    void a_map_that_is_computed_is_a_map() throws SQLException {
        String sql = "SELECT MAP {'a': 1, 'b': NULL} AS literal, map(make_array('k'), make_array(2)) AS made";
        try (ResultSet row = only(sql)) {
            assertEquals("{\"a\":1,\"b\":null}", row.getString("literal"));
            assertEquals("{\"k\":2}", row.getString("made"));
        }
    }

    @Feature("nested types")
    @Test
    void nesting_goes_on() throws SQLException {
        String sql = "SELECT make_array(named_struct('n', 1, 'list', make_array('x', 'y')), NULL) AS deep";
        try (ResultSet row = only(sql)) {
            Object[] deep = (Object[]) row.getArray("deep").getArray();
            assertEquals("{\"n\":1,\"list\":[\"x\",\"y\"]}", deep[0].toString());
            assertNull(deep[1]);
        }
    }

    @Feature("nested types")
    @Test
    void a_part_is_selected_like_a_column() throws SQLException {
        String sql = "SELECT point['x'] AS x, tags[3] AS tag, map_extract(stock, 'eggs')[1] AS eggs "
                + "FROM silver.samples WHERE id = 1";
        try (ResultSet row = only(sql)) {
            assertEquals(1.5, row.getDouble("x"));
            assertEquals("ü", row.getString("tag"));
            assertEquals(3, row.getInt("eggs"));
        }
    }

    @Feature({"nested types", "NULLs"})
    @Test
    void nulls_of_nested_types_are_null() throws SQLException {
        try (ResultSet row = only("SELECT tags, point, stock FROM silver.samples WHERE id = 2")) {
            assertNull(row.getArray("tags"));
            assertTrue(row.wasNull());
            assertNull(row.getObject("point"));
            assertNull(row.getObject("stock"));
        }
        try (ResultSet row = only("SELECT point FROM silver.samples WHERE id = 3")) {
            assertNull(((Map<?, ?>) row.getObject("point")).get("x"));
        }
    }

    private static List<String> texts(Array array) throws SQLException {
        List<String> texts = new ArrayList<>();
        for (Object item : (Object[]) array.getArray()) {
            texts.add(item == null ? null : item.toString());
        }
        return texts;
    }

    private ResultSet only(String sql) throws SQLException {
        ResultSet rows = statement.executeQuery(sql);
        assertTrue(rows.next(), sql);
        return rows;
    }
}
