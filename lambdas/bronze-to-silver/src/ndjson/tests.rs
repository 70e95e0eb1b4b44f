mod layouts;
mod text;
mod values;

use std::io::Write as _;
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field};
use flate2::Compression;
use flate2::write::GzEncoder;
use lakehouse::definition::Definition;
use proto::frame::{FrameOrigin, FrameReader};

use super::*;

fn table(rules: &str) -> Table {
    Definition::made_table(&format!("[tables.t]\n{rules}\n"), "t.toml").unwrap()
}

/// A table of these columns, as `name type`.
fn declared(columns: &[&str]) -> Table {
    let column = |column: &&str| {
        let (name, data_type) = column.split_once(' ').unwrap();
        format!("{{ name = \"{name}\", type = \"{data_type}\" }}")
    };
    let columns: Vec<String> = columns.iter().map(column).collect();
    table(&format!("columns = [{}]", columns.join(", ")))
}

fn object() -> BronzeObject {
    BronzeObject { key: "bronze/t/one.json".to_owned(), delivered_at_us: 7 }
}

fn pieces(table: &Table, stored: Option<&Schema>, bytes: impl Into<Vec<u8>>) -> Vec<Piece> {
    let bytes = Bytes::from(bytes.into());
    read(table, stored, &object(), bytes, TEXT_BYTES_MAX).unwrap().map(Result::unwrap).collect()
}

fn frames(pieces: &[Piece]) -> Vec<&FrameHeader> {
    pieces.iter().filter_map(|piece| Some(&piece.frame.as_ref()?.frame.header)).collect()
}

fn damaged(pieces: &[Piece]) -> Vec<&Damaged> {
    pieces.iter().flat_map(|piece| &piece.damaged).collect()
}

/// All rows, which is only possible if all frames have the same columns.
fn rows(pieces: &[Piece]) -> RecordBatch {
    let decoded: Vec<_> =
        pieces.iter().filter_map(|piece| Some(piece.frame.as_ref()?.frame.decode_batches().unwrap())).collect();
    let batches: Vec<RecordBatch> = decoded.iter().flat_map(|(_, batches)| batches.clone()).collect();
    let schema = decoded.first().map(|(schema, _)| schema.clone()).unwrap_or_else(|| Schema::empty().into());
    concat_batches(&schema, &batches).unwrap()
}

/// The rows of a text without faults.
fn good(table: &Table, text: &str) -> RecordBatch {
    let pieces = pieces(table, None, text);
    assert!(damaged(&pieces).is_empty(), "{:?}", damaged(&pieces));
    rows(&pieces)
}

/// The one fault of a text.
fn fault(table: &Table, text: &str) -> Damaged {
    let pieces = pieces(table, None, text);
    let damaged = damaged(&pieces);
    assert_eq!(damaged.len(), 1, "{text}: {damaged:?}");
    damaged[0].clone()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn objects_are_told_apart_by_their_bytes() {
    let origin = FrameOrigin { table: "t".to_owned(), ingest_id: "i".to_owned(), frame: 0, received_at_us: 0 };
    let frame = Frame::from_batches(origin, &Schema::empty(), &[], proto::frame::Compression::None).unwrap();
    let frame = frame.encode().unwrap();
    assert_eq!(frame[..4], FRAME_MAGIC);
    assert_eq!(detect(&frame), Format::Frames);
    let behind_damage = [&b"{} damage "[..], &frame[..]].concat();
    assert_eq!(detect(&behind_damage), Format::Frames);
    assert_eq!(FrameReader::new(behind_damage.into()).count(), 2);
    assert_eq!(detect(&gzip(b"{}")), Format::Gzip);
    assert_eq!(detect(b"\xef\xbb\xbf{}"), Format::Json);
    assert_eq!(detect(b""), Format::Json);
}

#[test]
fn the_same_object_has_the_same_frames_whatever_the_table_has_by_then() {
    let text: String = (0..FRAME_LINES_MAX * 2 + 10).map(|id| format!("{{\"id\":{id},\"v\":\"{id}\"}}\n")).collect();
    let undeclared = table("");
    let first = pieces(&undeclared, None, text.clone());
    let stored = rows(&first).schema();
    let wider = Schema::new([&stored.fields()[..], &[Arc::new(Field::new("w", DataType::Int8, true))]].concat());
    let again = pieces(&undeclared, Some(&wider), text.clone());
    let numbers = |pieces: &[Piece]| -> Vec<_> {
        let key = |header: &&FrameHeader| (header.ingest_id.clone(), header.frame, header.following(), header.is_last);
        frames(pieces).iter().map(key).collect()
    };
    assert_eq!(numbers(&first), numbers(&again));
    assert_eq!(numbers(&first).iter().map(|(_, frame, ..)| *frame).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(numbers(&first).iter().map(|(.., is_last)| *is_last).collect::<Vec<_>>(), [false, false, true]);
    assert!(frames(&first).iter().all(|header| header.received_at_us == 7 && header.table == "t"));
    assert_eq!(rows(&again).project(&[0, 1]).unwrap(), rows(&first));
    // Packed otherwise, it is another object.
    let packed = pieces(&undeclared, None, gzip(text.as_bytes()));
    assert_ne!(frames(&packed)[0].ingest_id, frames(&first)[0].ingest_id);
    assert_eq!(rows(&packed), rows(&first));
}

#[test]
fn a_chunk_without_a_good_row_is_a_frame_without_rows() {
    let text: String = (0..FRAME_LINES_MAX).map(|_| "oh no\n").chain(["{\"id\": 1}"]).collect();
    let pieces = pieces(&declared(&["id bigint"]), None, text);
    assert_eq!(damaged(&pieces).len(), FRAME_LINES_MAX);
    let headers: Vec<_> = frames(&pieces).iter().map(|header| (header.frame, header.rows, header.is_last)).collect();
    assert_eq!(headers, [(0, 0, false), (1, 1, true)]);
    assert_eq!(rows(&pieces).num_rows(), 1);
}

#[test]
fn an_object_without_rows_has_no_frames() {
    for text in ["", " \n\r\n", "\u{feff}", "[]", "[ ]\n[\n]"] {
        assert!(pieces(&table(""), None, text).is_empty(), "{text:?}");
    }
    assert!(pieces(&table(""), None, gzip(b"")).is_empty());
}
