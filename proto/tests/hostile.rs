//! A payload with good checksums may still be forged: decoding it ends in rows or an error, within its budget.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};
use proptest::prelude::*;
use proto::frame::{Compression, Frame, FrameError};
use support::origin;

const ROWS: usize = 1_000;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

fn frame(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> Frame {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    Frame::from_batches(origin(), batch.schema_ref(), std::slice::from_ref(&batch), compression).unwrap()
}

fn numbers(compression: Compression) -> Frame {
    frame(vec![("n", Arc::new(Int64Array::from_iter_values(0..ROWS as i64)))], compression)
}

fn mixed(compression: Compression) -> Frame {
    let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None, Some(vec![])]);
    let views = StringViewArray::from(vec![Some("x"), None, Some("a text longer than its view can hold")]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("s", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]))),
        ("v", Arc::new(views)),
        ("d", Arc::new(words)),
        ("l", Arc::new(lists)),
    ];
    frame(columns, compression)
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

/// Declares another length for the frame's compressed column.
fn forge_length(frame: &Frame, codec_magic: [u8; 4], declared: i64) -> Frame {
    let mut payload = frame.payload.to_vec();
    let honest = [&(8 * ROWS as i64).to_le_bytes()[..], &codec_magic].concat();
    let at = position(&payload, &honest);
    payload[at..at + 8].copy_from_slice(&declared.to_le_bytes());
    Frame { header: frame.header.clone(), payload: payload.into() }
}

#[test]
fn a_forged_decompressed_length_is_refused_before_decoding() {
    for (compression, magic) in [(Compression::Lz4, LZ4_MAGIC), (Compression::Zstd, ZSTD_MAGIC)] {
        let honest = numbers(compression);
        assert!(forge_length(&honest, magic, 8 * ROWS as i64).decode_batches().is_ok());
        for declared in [100 << 30, i64::MAX] {
            let error = forge_length(&honest, magic, declared).decode_batches().unwrap_err();
            assert!(matches!(error, FrameError::DecodedTooLarge { .. }), "{declared}: {error}");
        }
        for declared in [-2, i64::MIN] {
            let error = forge_length(&honest, magic, declared).decode_batches().unwrap_err();
            assert!(matches!(error, FrameError::Malformed(_)), "{declared}: {error}");
        }
        for declared in [1, 8 * ROWS as i64 - 8, 8 * ROWS as i64 + 8] {
            let error = forge_length(&honest, magic, declared).decode_batches().unwrap_err();
            assert!(matches!(error, FrameError::Decode(_)), "{declared}: {error}");
        }
    }
}

#[test]
fn many_buffers_within_the_budget_exceed_it_together() {
    let column = || Arc::new(Int64Array::from(vec![0; 1_000_000])) as ArrayRef;
    let batch =
        RecordBatch::try_from_iter([("a", column()), ("b", column()), ("c", column()), ("d", column())]).unwrap();
    let batches = vec![batch; 9];
    let error = Frame::from_batches(origin(), batches[0].schema_ref(), &batches, Compression::Zstd).unwrap_err();
    assert!(matches!(error, FrameError::DecodedTooLarge { .. }), "{error}");
}

#[test]
fn a_header_that_lies_about_rows_or_schema_is_refused() {
    let mut frame = mixed(Compression::None);
    frame.header.rows += 1;
    assert!(matches!(frame.decode_batches(), Err(FrameError::Rows { declared: 4, found: 3 })));
    frame.header.rows -= 1;
    frame.header.schema_fingerprint ^= 1;
    assert!(matches!(frame.decode_batches(), Err(FrameError::Fingerprint { .. })));
}

#[test]
fn a_payload_that_is_no_whole_stream_is_refused() {
    let whole = mixed(Compression::Lz4);
    for len in 0..whole.payload.len() {
        let cut = Frame { header: whole.header.clone(), payload: whole.payload.slice(..len) };
        let error = cut.decode_batches().unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)), "{len} bytes: {error}");
    }
    let twice = [whole.payload.clone(), whole.payload.clone()].concat();
    let error = Frame { header: whole.header.clone(), payload: twice.into() }.decode_batches().unwrap_err();
    assert_eq!(error.to_string(), "the frame's payload is no whole Arrow IPC stream: bytes follow its end mark");
}

#[test]
fn delta_dictionaries_are_refused() {
    let batch = |words: &[&str]| {
        let words: DictionaryArray<Int32Type> = words.iter().copied().collect();
        RecordBatch::try_from_iter([("w", Arc::new(words) as ArrayRef)]).unwrap()
    };
    let (first, second) = (batch(&["a"]), batch(&["a", "b"]));
    let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), first.schema_ref(), options).unwrap();
    writer.write(&first).unwrap();
    writer.write(&second).unwrap();
    let frame = support::frame_of(0, writer.into_inner().unwrap());
    assert!(frame.decode_batches().unwrap_err().to_string().ends_with("it has delta dictionaries"));
}

#[test]
fn no_changed_byte_makes_decoding_panic() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let honest = mixed(compression);
        assert!(honest.decode_batches().is_ok());
        let mut refused = 0;
        for at in 0..honest.payload.len() {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut payload = honest.payload.to_vec();
                payload[at] ^= change;
                let changed = Frame { header: honest.header.clone(), payload: payload.into() };
                refused += usize::from(changed.decode_batches().is_err());
            }
        }
        assert!(refused > honest.payload.len(), "most changes to metadata are noticed, {refused} were");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_changed_bytes_make_decoding_panic(
        which in 0..3_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let honest = mixed([Compression::None, Compression::Lz4, Compression::Zstd][which]);
        let mut payload = honest.payload.to_vec();
        for (at, value) in changes {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        let changed = Frame { header: honest.header.clone(), payload: payload.into() };
        if let Ok((_, batches)) = changed.decode_batches() {
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            prop_assert_eq!(rows as u64, honest.header.rows);
        }
    }
}
