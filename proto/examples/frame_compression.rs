//! Prints what each compression costs and saves on rows like flights'.
//!
//! `cargo run --release -p proto --example frame_compression`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use proto::frame::{Compression, Frame, FrameOrigin};

const ROWS: usize = 50_000;
const BATCH_ROWS: usize = 5_000;
const ROUNDS: usize = 10;
/// 2013-01-01T00:00:00Z, the first day of nycflights13.
const START_US: i64 = 1_356_998_400_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let batches: Vec<RecordBatch> =
        (0..ROWS / BATCH_ROWS).map(|number| flights(number * BATCH_ROWS)).collect::<Result<_, _>>()?;
    let plain: usize = encode(&batches, Compression::None)?.iter().map(Frame::encoded_len).sum();
    println!("{ROWS} rows, {} a frame, {ROUNDS} rounds; MB/s of uncompressed frames", BATCH_ROWS);
    println!("{:<8} {:>10} {:>7} {:>9} {:>12} {:>12}", "", "bytes", "of none", "per row", "encode MB/s", "decode MB/s");
    for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)] {
        let started = Instant::now();
        let mut frames = Vec::new();
        for _ in 0..ROUNDS {
            frames = encode(&batches, compression)?;
            for frame in &frames {
                std::hint::black_box(frame.encode()?);
            }
        }
        let encode_s = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for _ in 0..ROUNDS {
            for frame in &frames {
                std::hint::black_box(frame.decode_batches()?);
            }
        }
        let decode_s = started.elapsed().as_secs_f64();
        let bytes: usize = frames.iter().map(Frame::encoded_len).sum();
        let megabytes = (plain * ROUNDS) as f64 / 1e6;
        println!(
            "{name:<8} {bytes:>10} {:>6.1}% {:>9.1} {:>12.0} {:>12.0}",
            100.0 * bytes as f64 / plain as f64,
            bytes as f64 / ROWS as f64,
            megabytes / encode_s,
            megabytes / decode_s,
        );
    }
    Ok(())
}

fn encode(batches: &[RecordBatch], compression: Compression) -> Result<Vec<Frame>, Box<dyn Error>> {
    let frame = |(number, batch): (usize, &RecordBatch)| {
        let origin = FrameOrigin {
            table: "flights".to_owned(),
            ingest_id: "01890000-0000-7000-8000-000000000000".to_owned(),
            frame: number as u64,
            received_at_us: START_US,
        };
        Ok(Frame::from_batches(origin, batch.schema_ref(), std::slice::from_ref(batch), compression)?)
    };
    batches.iter().enumerate().map(frame).collect()
}

/// Events of flights in the order of their time, from the given row.
fn flights(first: usize) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut noise = Noise(first as u64 + 1);
    let carriers = ["UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX", "FL", "AS"];
    let airports = ["ATL", "ORD", "LAX", "BOS", "MCO", "CLT", "SFO", "FLL", "MIA", "DCA", "DTW", "DFW", "RDU", "TPA"];
    let rows = first..first + BATCH_ROWS;
    let scheduled: Vec<i64> = rows.clone().map(|row| START_US + (row as i64 / 40) * 3_600_000_000).collect();
    let mut pick = |words: &[&'static str]| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..BATCH_ROWS).map(|_| words[noise.below(words.len())])))
    };
    let (carrier, origin, dest) = (pick(&carriers), pick(&["EWR", "JFK", "LGA"]), pick(&airports));
    let op = pick(&["scheduled", "departed", "arrived", "arrived", "departed", "cancelled"]);
    let mut delays = |null_every: usize| -> ArrayRef {
        let delay = |_| (noise.below(null_every) > 0).then(|| (noise.below(90) * noise.below(30) / 20) as i32 - 15);
        Arc::new((0..BATCH_ROWS).map(delay).collect::<Int32Array>())
    };
    let (dep_delay, arr_delay) = (delays(12), delays(9));
    let tails = (0..BATCH_ROWS).map(|_| format!("N{}{}", 100 + noise.below(800), airports[noise.below(14)]));
    let tailnum: ArrayRef = Arc::new(StringArray::from_iter_values(tails));
    let updated = scheduled.iter().map(|us| us + noise.below(7_200_000_000) as i64);
    let updated: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(updated).with_timezone("UTC"));
    let distance: ArrayRef =
        Arc::new(Int32Array::from_iter_values((0..BATCH_ROWS).map(|_| 80 + 9 * noise.below(280) as i32)));
    RecordBatch::try_from_iter([
        ("flight_id", Arc::new(Int64Array::from_iter_values(rows.map(|row| row as i64))) as ArrayRef),
        ("scheduled", Arc::new(TimestampMicrosecondArray::from_iter_values(scheduled).with_timezone("UTC"))),
        ("updated_at", updated),
        ("carrier", carrier),
        ("origin", origin),
        ("dest", dest),
        ("tailnum", tailnum),
        ("dep_delay", dep_delay),
        ("arr_delay", arr_delay),
        ("distance", distance),
        ("op", op),
    ])
}

/// Repeatable noise (a linear congruential generator; Knuth's MMIX constants).
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
