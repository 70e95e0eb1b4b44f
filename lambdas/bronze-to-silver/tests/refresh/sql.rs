//! The SQL of orders, lines and their refresh streams. Each row has the sequence of the step that made it.

/// The keys of orders: eight of 32 in a row, from `offset` on.
fn keys(first: u64, end: u64, offset: u64) -> String {
    format!("(SELECT (i // 8) * 32 + {offset} + i % 8 AS o FROM range({first}, {end}) numbers(i))")
}

fn orders(keys: &str, sequence: u64) -> String {
    format!(
        "SELECT o AS o_orderkey, (hash(o, 1) % 150000)::BIGINT AS o_custkey,
                ['F', 'O', 'P'][1 + (hash(o, 2) % 3)::INTEGER] AS o_orderstatus,
                {price} AS o_totalprice, DATE '1992-01-01' + (hash(o, 4) % 2400)::INTEGER AS o_orderdate,
                (1 + hash(o, 5) % 5)::VARCHAR || '-PRIORITY' AS o_orderpriority,
                'Clerk#' || lpad((hash(o, 6) % 1000)::VARCHAR, 9, '0') AS o_clerk, 0::INTEGER AS o_shippriority,
                'order ' || md5(o::VARCHAR) AS o_comment, {sequence}::BIGINT AS seq
         FROM {keys}",
        price = cents("hash(o, 3) % 50000000"),
    )
}

/// One to seven lines an order.
fn lines(keys: &str, sequence: u64) -> String {
    format!(
        "SELECT o AS l_orderkey, l::INTEGER AS l_linenumber, (hash(o, l, 1) % 200000)::BIGINT AS l_partkey,
                (hash(o, l, 2) % 10000)::BIGINT AS l_suppkey, {quantity} AS l_quantity, {price} AS l_extendedprice,
                {discount} AS l_discount, {tax} AS l_tax,
                ['A', 'N', 'R'][1 + (hash(o, l, 7) % 3)::INTEGER] AS l_returnflag,
                ['F', 'O'][1 + (hash(o, l, 8) % 2)::INTEGER] AS l_linestatus,
                DATE '1992-01-01' + (hash(o, l, 9) % 2500)::INTEGER AS l_shipdate,
                DATE '1992-01-01' + (hash(o, l, 10) % 2500)::INTEGER AS l_commitdate,
                DATE '1992-01-01' + (hash(o, l, 11) % 2500)::INTEGER AS l_receiptdate,
                ['NONE', 'COLLECT COD', 'TAKE BACK RETURN'][1 + (hash(o, l, 12) % 3)::INTEGER] AS l_shipinstruct,
                ['AIR', 'RAIL', 'SHIP', 'TRUCK'][1 + (hash(o, l, 13) % 4)::INTEGER] AS l_shipmode,
                left(md5(o::VARCHAR || l::VARCHAR), 20) AS l_comment, {sequence}::BIGINT AS seq
         FROM (SELECT o, unnest(range(1, 2 + (hash(o, 0) % 7)::BIGINT)) AS l FROM {keys})",
        quantity = cents("100 * (1 + hash(o, l, 3) % 50)"),
        price = cents("hash(o, l, 4) % 10000000"),
        discount = cents("hash(o, l, 5) % 11"),
        tax = cents("hash(o, l, 6) % 9"),
    )
}

fn cents(number: &str) -> String {
    format!("(({number})::BIGINT * 0.01::DECIMAL(3,2))::DECIMAL(15,2)")
}

/// Both tables as they are first loaded.
pub fn create(count: u64) -> String {
    let keys = keys(0, count, 0);
    format!("CREATE TABLE orders AS {}; CREATE TABLE lineitem AS {}", orders(&keys, 0), lines(&keys, 0))
}

/// RF1: one new order in a thousand, with its lines.
pub fn insert(count: u64, stream: u64, sequence: u64) -> String {
    let new = (count / 1_000).max(10);
    let keys = keys(stream * new, (stream + 1) * new, 8);
    format!("INSERT INTO orders {}; INSERT INTO lineitem {}", orders(&keys, sequence), lines(&keys, sequence))
}

/// One order in a hundred changes, and every other of its lines.
pub fn update(stream: u64, sequence: u64) -> String {
    let salt = 100 + stream;
    format!(
        "UPDATE orders SET o_orderstatus = 'U', o_totalprice = o_totalprice + 1, o_comment = 'changed in {stream}',
                seq = {sequence} WHERE hash(o_orderkey, {salt}) % 100 = 0;
         UPDATE lineitem SET l_quantity = l_quantity + 1, l_linestatus = 'U', seq = {sequence}
         WHERE hash(l_orderkey, {salt}) % 100 = 0 AND l_linenumber % 2 = 1"
    )
}

/// RF2: which rows a stream deletes: one order in a thousand, with its lines.
pub fn is_deleted(key: &str, stream: u64) -> String {
    format!("hash({key}, {}) % 1000 = 0", 200 + stream)
}
