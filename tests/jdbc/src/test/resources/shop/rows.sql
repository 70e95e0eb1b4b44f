INSERT INTO silver.samples
  (id, flag, tiny, small, whole, big, ratio, precise, price, huge, name, doc, day, at, local, raw, tags, point, stock)
VALUES
  (1, true, 127, 32767, 2147483647, 9223372036854775807, 1.5, 0.1, 12.34,
   CAST('1234567890123456789012345678.0123456789' AS DECIMAL(38, 10)), 'teal 🦆', '{"wings": [1, 2]}',
   DATE '2024-02-29', TIMESTAMP '2024-02-29T12:00:00.123456Z', TIMESTAMP '2024-02-29T12:00:00.123456', X'00FF7261',
   make_array('a', NULL, 'ü'), named_struct('x', 1.5, 'label', 'nest'), MAP {'eggs': 3, 'ducks': NULL}),
  (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (3, false, -128, -32768, -2147483648, CAST('-9223372036854775808' AS BIGINT), -1.5, -1e300, -0.01,
   CAST('-9999999999999999999999999999.9999999999' AS DECIMAL(38, 10)), '', '[]',
   DATE '0001-01-01', TIMESTAMP '1969-12-31T23:59:59.999999Z', TIMESTAMP '1969-12-31T23:59:59.999999', X'',
   make_array(), named_struct('x', NULL, 'label', NULL), MAP {'none': NULL});

INSERT INTO silver.customers VALUES (1, 'ann'), (2, 'bob');

INSERT INTO silver.numbers SELECT value, md5(CAST(value AS VARCHAR)) FROM generate_series(1, 200000);
