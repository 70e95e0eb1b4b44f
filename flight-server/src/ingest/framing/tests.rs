use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use proto::frame::FRAME_BYTES_MAX;

use super::*;

fn batch(first: i64, texts: &[String]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, false)]);
    let numbers = Int64Array::from_iter_values(first..first + texts.len() as i64);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(numbers), Arc::new(StringArray::from(texts.to_vec()))])
        .unwrap()
}

fn origin() -> FrameOrigin {
    FrameOrigin { table: "t".into(), ingest_id: "i".into(), frame: 0, received_at_us: 0 }
}

fn frame(batches: &[RecordBatch]) -> Result<Vec<Frame>> {
    let fixed = fixed_bytes(&origin(), batches[0].schema_ref(), Compression::Lz4)?;
    let mut framing = Framing::new(origin(), batches[0].schema(), batches.to_vec(), Compression::Lz4, fixed);
    let mut frames = Vec::new();
    while !framing.is_done() {
        let some = framing.next(200_000)?;
        assert!(!some.is_empty());
        frames.extend(some);
    }
    Ok(frames)
}

/// Text that does not compress.
fn noise(bytes: usize, seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| char::from(rng.u8(b'!'..b'{'))).collect()
}

/// The numbers in all frames, in order.
fn numbers(frames: &[Frame]) -> Vec<i64> {
    let batches = frames.iter().flat_map(|frame| frame.decode_batches().unwrap().1);
    batches.flat_map(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_row_is_in_one_legal_frame_in_order(
        sizes in prop::collection::vec((0_usize..40, 1_usize..60_000, any::<u64>()), 1..8)
    ) {
        let mut first = 0;
        let batches: Vec<_> = sizes.iter().map(|(rows, bytes, seed)| {
            let texts: Vec<String> = (0..*rows as u64).map(|row| noise(*bytes, seed ^ (row << 8))).collect();
            let batch = batch(first, &texts);
            first += *rows as i64;
            batch
        }).collect();
        let frames = frame(&batches).unwrap();
        prop_assert!(frames.iter().all(|frame| frame.encode().unwrap().len() <= FRAME_BYTES_MAX));
        prop_assert_eq!(frames.iter().map(|frame| frame.header.rows).sum::<u64>(), first as u64);
        prop_assert_eq!(numbers(&frames), (0..first).collect::<Vec<_>>());
    }
}

#[test]
fn the_same_batches_make_the_same_frames() {
    let batches = [batch(0, &vec![noise(500, 3); 7000]), batch(7000, &vec!["x".to_owned(); 5])];
    assert_eq!(frame(&batches).unwrap(), frame(&batches).unwrap());
}

#[test]
fn frames_of_many_rows_have_nearly_the_size_aimed_at_and_none_is_much_larger() {
    for bytes in [3, 40, 900] {
        let texts: Vec<String> = (0..40_000).map(|row| noise(bytes, row)).collect();
        let frames = frame(&[batch(0, &texts)]).unwrap();
        let sizes: Vec<usize> = frames.iter().map(Frame::encoded_len).collect();
        assert!(sizes.iter().all(|len| *len < FRAME_BYTES_AIM * 4 / 3), "{bytes}: {sizes:?}");
        let (_, before) = sizes.split_last().unwrap();
        assert!(before.iter().all(|len| *len > FRAME_BYTES_AIM * 2 / 3), "{bytes}: {sizes:?}");
    }
}

#[test]
fn frames_of_wide_tables_keep_many_rows() {
    for width in [500, 2_000] {
        let columns = (0..width).map(|n| {
            let values = Int64Array::from_iter_values((0..400).map(|row| row * n * 7_919));
            (format!("column_{n}"), Arc::new(values) as _)
        });
        let wide = RecordBatch::try_from_iter(columns).unwrap();
        let frames = frame(std::slice::from_ref(&wide)).unwrap();
        let total: usize = frames.iter().map(Frame::encoded_len).sum();
        assert!(total < 2 * batch_bytes(&wide), "{width} columns: {} frames, {total} bytes", frames.len());
    }
}

#[test]
fn a_schema_too_large_to_come_with_each_frame_is_refused_as_such() {
    let metadata = [("note".to_owned(), "x".repeat(300_000))].into();
    let schema = Schema::new_with_metadata(vec![Field::new("n", DataType::Int64, false)], metadata);
    let numbers = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(vec![1]))]).unwrap();
    let error = frame(&[numbers]).unwrap_err();
    assert!(error.to_string().contains("the schema"), "{error}");
}

#[test]
fn rows_that_compress_to_nothing_are_still_held_in_memory_by_whoever_reads_them() {
    let frames = frame(&[batch(0, &vec!["x".repeat(10_000); 2_000])]).unwrap();
    assert!(frames.iter().all(|frame| frame.decoded_bytes().unwrap() < 3 << 20));
    assert_eq!(numbers(&frames), (0..2_000).collect::<Vec<_>>());
}

#[test]
fn rows_that_come_one_by_one_share_a_batch() {
    let batches: Vec<_> = (0..1_000).map(|n| batch(n, &["x".to_owned()])).collect();
    let frames = frame(&batches).unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].decode_batches().unwrap().1.len(), 1);
    assert_eq!(numbers(&frames), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_row_larger_than_a_frame_is_refused() {
    let large = batch(0, &[noise(FRAME_BYTES_MAX + 1, 9)]);
    let error = frame(std::slice::from_ref(&large)).unwrap_err();
    assert!(error.to_string().contains("single row"), "{error}");
    assert!(is_too_large(&origin(), &large, Compression::Lz4));
    assert!(!is_too_large(&origin(), &batch(0, &["x".repeat(FRAME_BYTES_MAX + 1)]), Compression::Lz4));
}
