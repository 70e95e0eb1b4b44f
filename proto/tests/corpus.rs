//! Runs each file of the fuzz targets' corpus through its target, so that what was once found stays mended. No fuzzer
//! is needed.
//!
//! `MALLARD_REGENERATE=1 cargo test -p proto --test corpus` writes the seeds anew; what fuzzing found lies beside them
//! under other names and stays.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic")]

#[path = "../../fuzz/src/targets.rs"]
#[allow(dead_code, reason = "each user of the targets uses its part")]
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array,
    Int64Array, ListArray, NullArray, RecordBatch, RunArray, StringArray, StringViewArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use arrow::ipc::root_as_message;
use prost::Message;
use proto::frame::{Compression, Frame, FrameOrigin};
use proto::{FrameHeader, PreparedHandle, QueryHandle, Receipt, Session, SessionHandle, prepared_handle, query_handle};

/// The most bytes of all files: a corpus that is cheap to clone.
const CORPUS_BYTES_MAX: u64 = 300 << 10;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

#[test]
fn nothing_in_the_corpus_breaks_its_target() {
    let seeds = seeds();
    if std::env::var_os("MALLARD_REGENERATE").is_some() {
        for ((target, name), bytes) in &seeds {
            let folder = corpus().join(target);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let mut bytes = 0;
    for (name, target) in targets::ALL {
        let mut files = 0;
        for entry in fs::read_dir(corpus().join(name)).expect("the target has no corpus") {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            bytes += data.len() as u64;
            files += 1;
            let outcome = std::panic::catch_unwind(|| target(&data));
            assert!(outcome.is_ok(), "{} breaks its target", path.display());
        }
        assert!(files > 0, "target {name} has an empty corpus");
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes, of at most {CORPUS_BYTES_MAX}");
}

#[test]
fn the_seeds_decode_so_that_fuzzing_starts_behind_the_first_checks() {
    for ((target, name), bytes) in seeds() {
        match target {
            "payload" => {
                let frame = Frame { header: FrameHeader::default(), payload: bytes.into() };
                let error = frame.decode_batches().unwrap_err();
                // Only the header, which is not the payload's, is wrong.
                assert!(matches!(error, proto::frame::FrameError::Fingerprint { .. }), "{name}: {error}");
            }
            "schema" => assert!(root_as_message(&bytes).is_ok(), "{name}"),
            _ => assert!(!bytes.is_empty(), "{name}"),
        }
    }
}

/// The seeds, by target and name.
fn seeds() -> BTreeMap<(&'static str, String), Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let mut objects = Vec::new();
    for (number, (name, columns)) in columns().into_iter().enumerate() {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        for (compression, suffix) in
            [(Compression::None, "plain"), (Compression::Lz4, "lz4"), (Compression::Zstd, "zstd")]
        {
            let frame = frame(number as u64, &batch, compression);
            let messages = messages(&frame.payload);
            seeds.insert(("schema", format!("seed-{name}")), messages[0].0.clone());
            seeds.insert(("flight", format!("seed-{name}-{suffix}")), messages.iter().flat_map(with_lengths).collect());
            seeds.insert(("payload", format!("seed-{name}-{suffix}")), frame.payload.to_vec());
            objects.push(frame.encode().unwrap().to_vec());
        }
    }
    seeds.insert(("frames", "seed-one".into()), objects[0].clone());
    seeds.insert(("frames", "seed-three".into()), objects[..3].concat());
    let torn = [&objects[1][..40], &objects[2][..], &objects[3][..60]].concat();
    seeds.insert(("frames", "seed-torn".into()), torn);
    for (which, name, bytes) in handles() {
        seeds.insert(("handles", format!("seed-{name}")), [vec![which], bytes].concat());
    }
    seeds
}

fn frame(number: u64, batch: &RecordBatch, compression: Compression) -> Frame {
    let origin =
        FrameOrigin { table: "t".into(), ingest_id: "i".into(), frame: number, received_at_us: 1_700_000_000_000_000 };
    Frame::from_batches(origin, batch.schema_ref(), std::slice::from_ref(batch), compression).unwrap()
}

/// Small columns of all kinds of layout.
fn columns() -> Vec<(&'static str, Vec<(&'static str, ArrayRef)>)> {
    let words: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let views = StringViewArray::from(vec![Some("x"), None, Some("a text longer than its view can hold")]);
    let runs = RunArray::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec!["r", "s"])).unwrap();
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let structs = StructArray::from(vec![(Arc::new(Field::new("in", DataType::Int64, true)), inner)]);
    let fixed = FixedSizeBinaryArray::try_from_iter([[1_u8, 2], [3, 4], [5, 6]].into_iter()).unwrap();
    let decimals = Decimal128Array::from(vec![Some(12_345), None, Some(-1)]).with_precision_and_scale(18, 2).unwrap();
    let times = TimestampMicrosecondArray::from(vec![0, 1, 2]).with_timezone("UTC");
    vec![
        (
            "numbers",
            vec![
                ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef),
                ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, -0.0]))),
                ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
                ("d", Arc::new(decimals)),
                ("t", Arc::new(times)),
            ],
        ),
        (
            "texts",
            vec![
                ("s", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")])) as ArrayRef),
                ("v", Arc::new(views)),
                ("x", Arc::new(fixed)),
            ],
        ),
        ("nested", vec![("l", Arc::new(lists) as ArrayRef), ("s", Arc::new(structs))]),
        ("shared", vec![("d", Arc::new(words) as ArrayRef), ("r", Arc::new(runs)), ("z", Arc::new(NullArray::new(3)))]),
    ]
}

/// The messages of an Arrow IPC stream: headers and bodies.
fn messages(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut rest = stream;
    loop {
        let len = i32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if len == 0 {
            return messages;
        }
        let (header, tail) = rest[8..].split_at(len);
        let (body, tail) = tail.split_at(root_as_message(header).unwrap().bodyLength() as usize);
        messages.push((header.to_vec(), body.to_vec()));
        rest = tail;
    }
}

fn with_lengths((header, body): &(Vec<u8>, Vec<u8>)) -> Vec<u8> {
    let lengths = [header.len() as u32, body.len() as u32].map(u32::to_le_bytes);
    [&lengths.concat()[..], header, body].concat()
}

/// The byte that says which, a name, and the message.
fn handles() -> Vec<(u8, &'static str, Vec<u8>)> {
    let session = Session {
        schema: "gold".into(),
        as_of_us: Some(1_700_000_000_000_000),
        compression: "lz4".into(),
        wait_for: vec!["i-1".into(), "i-2".into()],
        ..Session::default()
    };
    let query = QueryHandle {
        version: 1,
        query_id: "0190".into(),
        text: Some(query_handle::Text::Sql("SELECT 1".into())),
        session: Some(session.clone()),
        delta_versions: [("silver.t".to_owned(), 3)].into_iter().collect(),
        parameters: vec![1, 2, 3],
        expires_at_us: i64::MAX,
        ..QueryHandle::default()
    };
    let prepared = PreparedHandle {
        version: 1,
        text: Some(prepared_handle::Text::Substrait(vec![9, 9])),
        session: Some(session.clone()),
        is_update: true,
        ..PreparedHandle::default()
    };
    let header = FrameHeader {
        table: "t".into(),
        ingest_id: "i".into(),
        frame: 7,
        rows: 3,
        is_last: true,
        ..FrameHeader::default()
    };
    let receipt = Receipt { ingest_id: "i".into(), rows: 3, frames: 1, ..Receipt::default() };
    vec![
        (0, "frame-header", header.encode_to_vec()),
        (1, "query", query.encode_to_vec()),
        (2, "prepared", prepared.encode_to_vec()),
        (
            3,
            "session-handle",
            SessionHandle { session: Some(session.clone()), ..SessionHandle::default() }.encode_to_vec(),
        ),
        (7, "receipt", receipt.encode_to_vec()),
        (8, "session", session.encode_to_vec()),
    ]
}
