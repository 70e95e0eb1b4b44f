//! Refresh streams as of TPC-H: what merging makes of them is what DuckDB alone makes of them.
//!
//! Orders and their lines are made by DuckDB from numbers and hashes, with TPC-H's sparse keys: eight of 32 are loaded,
//! others are inserted later. Each stream inserts orders (RF1), changes some, and deletes some (RF2). DuckDB does that
//! in tables of its own; the same rows go as frames through bronze and the merge, those of all streams in a mixed order
//! and some of them twice. In the end `EXCEPT ALL` finds no difference, either way.
//!
//! `MALLARD_SCALE` is the scale factor: 1 has 1.5 million orders. Without it a small one is run, with `MALLARD_DEEP` 1.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod bench;
mod sql;

use bench::Bench;

/// Orders at scale factor 1. <https://www.tpc.org/tpch/> (clause 4.2.5)
const ORDERS_PER_SCALE: f64 = 1_500_000.0;
const STREAMS: u64 = 4;

fn scale() -> f64 {
    match std::env::var("MALLARD_SCALE") {
        Ok(scale) => scale.parse().unwrap(),
        Err(_) if std::env::var_os("MALLARD_DEEP").is_some() => 1.0,
        Err(_) => 0.01,
    }
}

#[test]
fn refresh_streams_leave_what_duckdb_alone_makes_of_them() {
    let orders = (ORDERS_PER_SCALE * scale()) as u64;
    let mut bench = Bench::new();
    let load = bench.change(&sql::create(orders), 0);
    bench.merge_in_order(&load);
    bench.compare();
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        let first_sequence = 1 + 3 * stream;
        streams.extend(bench.change(&sql::insert(orders, stream, first_sequence), first_sequence));
        streams.extend(bench.change(&sql::update(stream, first_sequence + 1), first_sequence + 1));
        streams.extend(bench.delete(stream, first_sequence + 2));
    }
    bench.merge_mixed(streams);
    bench.compare();
}
