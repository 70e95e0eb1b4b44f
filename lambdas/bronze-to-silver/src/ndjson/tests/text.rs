//! Text that is broken, cut, or made to do harm.

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;

use super::*;

/// The ids that come through, and the lines that are told.
fn ids_and_lines(text: impl Into<Vec<u8>>) -> (Vec<i64>, Vec<u64>) {
    let pieces = pieces(&declared(&["id bigint", "v varchar"]), None, text);
    let lines = damaged(&pieces).iter().filter_map(|damaged| damaged.line).collect();
    (rows(&pieces).column(0).as_primitive::<Int64Type>().values().to_vec(), lines)
}

#[test]
fn a_broken_object_takes_no_other_with_it() {
    for broken in [
        "{\"id\": 2,",
        "{\"id\": 2",
        "{\"id\": [",
        "{\"id\": 2, \"v\": \"no end}",
        "{\"id\": 2, \"v\": \"quote \" within\"}",
        "{\"id\": 2, \"v\": \"odd \" quote}",
        "{\"id\": NaN}",
        "{\"id\": 02}",
        "{\"id\": 2,}",
        "{id: 2}",
        "{\"id\" 2}",
        "{\"id\": 2}}",
        "{\"id\": 2]",
        "{\"v\": \"\\x\"}",
        "{\"v\": \"a\tb\"}",
        "id,v",
        "2026-01-31 INFO started",
        "\"{ text\"",
        "17",
        "}",
        "{\"id\": 2, \"v\": {\"a\": [1, {\"b\": ?}]}}",
    ] {
        let text = format!("{{\"id\": 1}}\n{broken}\n{{\"id\": 3}}\n{{\"id\": 4}}\n");
        let (ids, lines) = ids_and_lines(text.clone());
        assert!(lines.contains(&2), "{text}: {lines:?}");
        assert!(ids.ends_with(&[3, 4]) && ids.starts_with(&[1]), "{text}: {ids:?}");
        // What is in brackets ends with them, newlines or not.
        if ["NaN", "02", ",}", "{id", "\" 2}", "\\x", "?"].iter().any(|part| broken.contains(part)) {
            assert_eq!(ids_and_lines(text.replace('\n', "")).0, [1, 3, 4], "{text}");
        }
    }
}

#[test]
fn a_broken_object_over_several_lines_is_one() {
    let pretty = "{\n  \"id\": 1,\n  \"v\": \"a\"\n}\n";
    let broken = "{\n  \"id\": oops,\n  \"l\": [\n    {\n      \"id\": 9\n    }\n  ]\n}\n";
    let text = [pretty, broken, pretty].concat();
    assert_eq!(ids_and_lines(text.clone()), (vec![1, 1], vec![5]));
    let pieces = pieces(&declared(&["id bigint", "v varchar"]), None, text);
    let damaged = damaged(&pieces)[0];
    assert!(damaged.reason.starts_with("line 5: the JSON is broken at line 6, column 9: "), "{damaged:?}");
    assert_eq!(damaged.raw.as_deref(), Some(broken.trim_end()));
    let cut_short = "{\n  \"id\": 2,\n  \"v\": {\n    \"a\": \"b\n";
    assert_eq!(ids_and_lines([pretty, cut_short, pretty].concat()), (vec![1, 1], vec![5]));
    let array = "[\n  {\"id\": 1},\n  {\"id\": \"2},\n  {\"id\": 3}\n]";
    assert_eq!(ids_and_lines(array), (vec![1, 3], vec![3]));
}

#[test]
fn items_that_are_no_objects_are_told() {
    let fault = fault(&table(""), "[1, 2]");
    assert!(fault.reason.contains("not an object") || fault.reason.contains("something follows"), "{fault:?}");
    assert_eq!(ids_and_lines("{\"id\":1}\nnull\n{\"id\":2}"), (vec![1, 2], vec![2]));
}

#[test]
fn bytes_that_are_not_utf_8_are_told_and_kept_as_far_as_they_can_be() {
    let text = [&b"{\"id\":1}\n{\"v\":\"caf\xe9\"}\n"[..], b"{\"id\":2}"].concat();
    assert_eq!(ids_and_lines(text.clone()), (vec![1, 2], vec![2]));
    let pieces = pieces(&declared(&["id bigint", "v varchar"]), None, text);
    let damaged = damaged(&pieces)[0];
    assert!(damaged.reason.contains("byte 10 of it is not UTF-8"), "{damaged:?}");
    assert_eq!(damaged.raw.as_deref(), Some("{\"v\":\"caf\u{fffd}\"}"));
}

#[test]
fn what_follows_the_most_text_is_told_and_what_stood_before_is_read() {
    let blanks = vec![b' '; 8 << 20];
    let text = [&b"{\"id\":1}"[..], blanks.as_slice(), b"{\"id\":2}"].concat();
    for bytes in [gzip(&text), text.clone()] {
        let table = declared(&["id bigint"]);
        let few = read(&table, None, &object(), bytes.clone().into(), 1 << 20).unwrap();
        let few: Vec<Piece> = few.map(Result::unwrap).collect();
        assert_eq!(rows(&few).num_rows(), 1);
        let damaged = damaged(&few);
        assert_eq!((damaged.len(), damaged[0].rule, damaged[0].offset), (1, "damaged", 1 << 20));
        assert!(damaged[0].reason.contains("longer than 1048576 bytes"), "{damaged:?}");
        // The whole text is just short enough.
        let all = read(&table, None, &object(), bytes.into(), text.len() as u64).unwrap();
        let all: Vec<Piece> = all.map(Result::unwrap).collect();
        assert_eq!((rows(&all).num_rows(), damaged_count(&all)), (2, 0));
    }
}

fn damaged_count(pieces: &[Piece]) -> usize {
    damaged(pieces).len()
}

#[test]
fn a_row_that_is_too_long_is_told_with_its_beginning() {
    let long = format!("{{\"v\":\"{}\"}}", "é".repeat(ROW_BYTES_MAX / 2));
    let pieces = pieces(&declared(&["id bigint", "v varchar"]), None, format!("{long}\n{{\"id\":1}}"));
    assert_eq!(rows(&pieces).num_rows(), 1);
    let damaged = damaged(&pieces);
    assert_eq!(damaged.len(), 1);
    let raw = damaged[0].raw.as_deref().unwrap();
    assert!(raw.starts_with("{\"v\":\"éé"), "{}", &raw[..16]);
    assert!(raw.ends_with(&format!("[… cut; {} bytes in all]", long.len())));
    assert!(raw.len() < RAW_BYTES_MAX + 64);
    assert!(damaged[0].reason.contains("split it"), "{}", damaged[0].reason);
}

#[test]
fn a_row_as_long_as_rows_may_be_is_a_frame() {
    let text = "x".repeat(8 << 20);
    let batch = good(&declared(&["v varchar"]), &format!("{{\"v\":\"{text}\"}}"));
    assert_eq!(batch.column(0).as_string::<i32>().value(0), text);
}

#[test]
fn gzip_that_is_cut_or_changed_gives_what_stood_before_the_damage() {
    let text: String = (0..50_000).map(|id| format!("{{\"id\":{id},\"v\":\"{}\"}}\n", id * 7919 % 1000)).collect();
    let packed = gzip(text.as_bytes());
    let cut = packed[..packed.len() / 2].to_vec();
    let mut changed = packed.clone();
    *changed.last_mut().unwrap() ^= 1;
    let padded = [packed.as_slice(), b"\0\0\0\0"].concat();
    for (bytes, at_least) in [(cut, 10_000), (changed, 50_000), (padded, 50_000)] {
        let pieces = pieces(&declared(&["id bigint", "v varchar"]), None, bytes);
        let rows = rows(&pieces);
        let ids = rows.column(0).as_primitive::<Int64Type>();
        assert!(ids.len() >= at_least, "{}", ids.len());
        assert!(ids.values().iter().copied().eq(0..ids.len() as i64));
        let last = *damaged(&pieces).last().unwrap();
        assert!(last.rule == "damaged" && last.reason.contains("can't be unpacked"), "{last:?}");
    }
}

#[test]
fn gzip_without_a_single_row_is_told_without_a_frame() {
    let pieces = pieces(&table(""), None, b"\x1f\x8b\x08".to_vec());
    assert_eq!((frames(&pieces).len(), damaged_count(&pieces)), (0, 1));
}

#[test]
fn objects_that_unfold_in_memory_are_refused_and_leave_the_others() {
    let fields: Vec<String> = (0..200).map(|field| format!("f{field} bigint")).collect();
    let table = declared(&["id bigint", &format!("l struct({})[]", fields.join(", "))]);
    let bomb = format!("{{\"l\":[{}{{}}]}}", "{},".repeat(200_000));
    let text = format!("{{\"id\":1}}\n{bomb}\n{{\"id\":2}}");
    let pieces = pieces(&table, None, text);
    assert_eq!(rows(&pieces).num_rows(), 2);
    let lines: Vec<_> = damaged(&pieces).iter().filter_map(|damaged| damaged.line).collect();
    assert_eq!(lines, [2]);
    assert!(damaged(&pieces)[0].reason.contains("too many values"));
}
