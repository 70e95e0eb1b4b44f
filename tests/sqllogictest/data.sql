-- Executed in order, each statement when the one before it is merged: a table's versions ascend with its statements.

INSERT INTO silver.customers (customer_id, name, city, joined, credit, revision) VALUES
    (1, 'Ada', 'London', DATE '2023-01-15', 100.00, 1),
    (2, 'Bo', 'Paris', DATE '2023-02-28', 250.50, 1),
    (3, 'Cyd', 'London', DATE '2023-07-01', NULL, 1),
    (4, 'Dee', NULL, DATE '2024-02-29', 0.00, 1),
    (5, 'Eli', 'Oslo', NULL, -20.25, 1);

INSERT INTO silver.orders (order_id, customer_id, placed_at, status, total) VALUES
    (101, 1, TIMESTAMP '2024-01-31T23:30:00Z', 'paid', 25.00),
    (102, 1, TIMESTAMP '2024-02-29T12:00:00.123456Z', 'open', 10.50),
    (103, 2, TIMESTAMP '2024-03-10T07:15:00Z', 'paid', 99.99),
    (104, 3, TIMESTAMP '2024-03-31T01:00:00Z', 'void', 5.00),
    (105, 9, TIMESTAMP '2024-12-31T23:59:59Z', 'paid', 40.00),
    (106, NULL, NULL, 'open', NULL),
    (107, 2, TIMESTAMP '2025-01-01T00:00:00Z', 'paid', 60.01);

INSERT INTO silver.items VALUES
    (101, 1, 'cup', 2, 7.50),
    (101, 2, 'jar', 1, 10.00),
    (102, 1, 'cup', 1, 7.50),
    (102, 2, 'pin', 6, 0.50),
    (103, 1, 'rug', 1, 99.99),
    (104, 1, 'pin', 10, 0.50),
    (105, 1, 'jar', 4, 10.00),
    (107, 1, 'cup', 8, 7.50),
    (107, 2, 'pin', NULL, 0.01);

INSERT INTO silver.products
    SELECT 'cup', make_array('blue', 'tea'), named_struct('width', 8.0, 'height', 9.5), MAP {'north': 3, 'south': 0},
        '{"glaze": "salt", "parts": [1, 2]}'
    UNION ALL SELECT 'jar', make_array('glass', NULL, 'tea'), named_struct('width', 10.0, 'height', NULL),
        MAP {'north': 7}, '{"lid": true}'
    UNION ALL SELECT 'pin', make_array(), NULL, MAP {'south': NULL}, NULL
    UNION ALL SELECT 'rug', NULL, named_struct('width', 120.0, 'height', 180.0), NULL, 'null';

INSERT INTO silver.prices (sku, price, seq) VALUES ('cup', 7.50, 1), ('jar', 10.00, 1), ('pin', 0.50, 1);

INSERT INTO silver.prices (sku, price, seq) VALUES ('cup', 8.00, 2), ('rug', 99.99, 1);

UPDATE silver.prices SET price = 11.25 WHERE sku = 'jar';

DELETE FROM silver.prices WHERE sku = 'pin';

INSERT INTO silver.prices (sku, price, seq) VALUES ('cup', 1.00, 1);

INSERT INTO silver.readings VALUES
    (TIMESTAMP '2024-06-01 00:00:00', 'in', 20.0),
    (TIMESTAMP '2024-06-01 06:00:00', 'in', 19.5),
    (TIMESTAMP '2024-06-01 12:00:00', 'in', 24.5),
    (TIMESTAMP '2024-06-01 18:00:00', 'in', 24.5),
    (TIMESTAMP '2024-06-02 00:00:00', 'in', NULL),
    (TIMESTAMP '2024-06-01 00:00:00', 'out', 11.0),
    (TIMESTAMP '2024-06-01 12:00:00', 'out', 28.0),
    (TIMESTAMP '2024-06-02 12:30:00', 'out', 30.5);

INSERT INTO silver.staff VALUES
    (1, 'Rae', NULL), (2, 'Sol', 1), (3, 'Tao', 1), (4, 'Uma', 2), (5, 'Val', 4), (6, 'Wyn', 3);

-- A TIMESTAMP literal is in nanoseconds, which reach from 1677 to 2262; text becomes what the column can hold.
INSERT INTO silver.samples VALUES
    ('low', false, -128, -32768, -2147483648, -9223372036854775808, '-Infinity', '-Infinity',
        '-9999999999999999999999999999.9999999999', '[]', DATE '0001-01-01', '0001-01-01T00:00:00Z',
        '0001-01-01T00:00:00', X''),
    ('high', true, 127, 32767, 2147483647, 9223372036854775807, 'Infinity', '1.7976931348623157e308',
        '9999999999999999999999999999.9999999999', '{"a": {"b": [null, 1.5]}}', DATE '9999-12-31',
        '9999-12-31T23:59:59.999999Z', '9999-12-31T23:59:59.999999', X'00ff'),
    ('plain', true, 1, 2, 3, 4, '0.25', '0.1', '1.5', '"text"', DATE '2024-02-29', '2024-02-29T12:00:00.123456Z',
        '2024-02-29T12:00:00.5', X'6d616c6c617264'),
    ('odd', NULL, NULL, NULL, NULL, NULL, 'NaN', '-0.0', '0.0000000001', 'null', DATE '1969-12-31',
        '1969-12-31T23:59:59.999999Z', NULL, NULL),
    ('null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
