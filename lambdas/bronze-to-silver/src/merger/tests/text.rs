//! Objects of JSON, on their way to silver and quarantine.

use std::io::Write as _;

use flate2::write::GzEncoder;

use super::seen::shown;
use super::*;

/// How an object of text may come.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Lines,
    Endless,
    Gzip,
}

impl Layout {
    fn of(self, lines: &[&str]) -> Bytes {
        match self {
            Self::Lines => lines.join("\n").into(),
            Self::Endless => lines.concat().into(),
            Self::Gzip => gzip(&lines.join("\n")).into(),
        }
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// The table with a sequence, and without one.
fn tables() -> [String; 2] {
    [KEYED.to_owned(), KEYED.replace("sequence_by = \"seq\"\n", "")]
}

const LINES: [&str; 6] = [
    r#"{"id":1,"seq":1,"v":"a","op":"upsert"}"#,
    r#"{"id":2,"seq":"one","v":"b"}"#,
    r#"{"id" 3}"#,
    r#"{"id":4,"seq":2,"v":"d"}"#,
    r#"{"id":1,"seq":3,"v":"e","op":"delete"}"#,
    r#"{"id":6,"seq":1,"v":"too long"}"#,
];

#[tokio::test]
async fn an_object_of_text_is_merged_once_however_it_is_written() {
    for toml in tables() {
        for layout in [Layout::Lines, Layout::Endless, Layout::Gzip] {
            let mut lab = Lab::new(&toml);
            let object = lab.object(&[layout.of(&LINES)]);
            let outcome = lab.merge(std::slice::from_ref(&object)).await.unwrap();
            let story = outcome.story;
            assert_eq!((story.rows_in, story.changes, story.quarantined), (4, 2, 3), "{layout:?}");
            assert_eq!(outcome.done, [object.key.as_str()]);
            // Again, by a merger that remembers nothing.
            lab.redefine(&toml);
            for again in 0..2 {
                let what = format!("{layout:?} {again}");
                assert_eq!(lab.silver().await, BTreeMap::from([(4, row(2, "d"))]), "{what}");
                let quarantine = lab.rows(Layer::Quarantine).await;
                let lines = match layout {
                    Layout::Endless => ["json 1", "json 1", "short -"],
                    Layout::Lines | Layout::Gzip => ["json 2", "json 3", "short -"],
                };
                assert_eq!(shown(&quarantine, &["rule", "line"]), lines, "{what}");
                let quarantine = lab.quarantine().await;
                assert_eq!([quarantine[0].1.as_str(), quarantine[1].1.as_str()], [LINES[2], LINES[1]], "{what}");
                assert_eq!(lab.merge(std::slice::from_ref(&object)).await.unwrap().version, None, "{what}");
            }
            assert_eq!(lab.merger.unmerged(&Name::new("t").unwrap(), vec![object]).await.unwrap(), []);
        }
    }
}

#[tokio::test]
async fn a_bad_line_says_where_it_stands_and_what_is_wrong() {
    let mut lab = Lab::new(KEYED);
    let object = lab.object(&[Layout::Gzip.of(&LINES)]);
    lab.merge(&[object]).await.unwrap();
    let reasons = shown(&lab.rows(Layer::Quarantine).await, &["reason"]);
    assert!(reasons.iter().any(|reason| reason.starts_with("line 2: column \"seq\": ")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.starts_with("line 3: the JSON is broken at ")), "{reasons:?}");
}

#[tokio::test]
async fn text_and_frames_are_merged_together() {
    let mut lab = Lab::new(KEYED);
    let frames = lab.object(&[frame("i", 0, &[upsert(1, 1, "f"), upsert(4, 3, "f"), upsert(7, 1, "f")])]);
    let text = lab.object(&[Layout::Lines.of(&LINES)]);
    let outcome = lab.merge(&[frames, text]).await.unwrap();
    assert_eq!(outcome.story.ingests.len(), 2);
    assert_eq!(lab.silver().await, BTreeMap::from([(4, row(3, "f")), (7, row(1, "f"))]));
}

#[tokio::test]
async fn an_object_that_is_written_anew_is_merged_anew() {
    let (old, new) = (r#"{"id":1,"seq":1,"v":"old"}"#, r#"{"id":1,"seq":2,"v":"new"}{"id":2,"seq":1,"v":"b"}"#);
    for toml in tables() {
        let mut lab = Lab::new(&toml);
        let object = lab.object(&[Bytes::from_static(old.as_bytes())]);
        lab.merge(std::slice::from_ref(&object)).await.unwrap();
        // With the same bytes, it is the same.
        write(&lab.data().join(&object.key), old.as_bytes());
        assert_eq!(lab.merge(std::slice::from_ref(&object)).await.unwrap().version, None);
        write(&lab.data().join(&object.key), new.as_bytes());
        assert_eq!(lab.merge(std::slice::from_ref(&object)).await.unwrap().story.changes, 2);
        assert_eq!(lab.silver().await, BTreeMap::from([(1, row(2, "new")), (2, row(1, "b"))]));
        assert_eq!(lab.merge(&[object]).await.unwrap().version, None);
    }
}

#[tokio::test]
async fn without_a_sequence_the_object_that_was_written_last_wins() {
    let mut lab = Lab::new(&tables()[1]);
    let line = |v: &str| Bytes::from(format!("{{\"id\":1,\"seq\":0,\"v\":\"{v}\"}}"));
    let first = lab.object(&[line("one")]);
    // Files are dated by a clock that ticks every few milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let second = lab.object(&[line("two")]);
    for object in [second, first] {
        lab.merge(&[object]).await.unwrap();
        assert_eq!(lab.silver().await, BTreeMap::from([(1, row(0, "two"))]));
    }
}

#[tokio::test]
async fn packed_text_that_is_cut_gives_what_stood_before() {
    let mut lab = Lab::new(KEYED);
    let packed = gzip("{\"id\":1,\"seq\":1,\"v\":\"a\"}\n{\"id\":2,\"seq\":1,\"v\":\"b\"}");
    // The checksum at its end is not whole.
    let object = lab.object(&[Bytes::copy_from_slice(&packed[..packed.len() - 5])]);
    for _ in 0..2 {
        lab.merge(std::slice::from_ref(&object)).await.unwrap();
        assert_eq!(lab.silver().await, BTreeMap::from([(1, row(1, "a")), (2, row(1, "b"))]));
        assert_eq!(lab.quarantine().await, [("damaged".to_owned(), String::new())]);
    }
}

#[tokio::test]
async fn a_line_that_fits_after_a_fix_is_merged_once_by_a_replay() {
    let toml = |data_type: &str| {
        KEYED
            .replace("{ name = \"v\", type = \"varchar\" }", &format!("{{ name = \"n\", type = \"{data_type}\" }}"))
            .replace("length(v) < 5", "n < 100")
    };
    let mut lab = Lab::new(&toml("integer"));
    let lines = [r#"{"id":1,"seq":1,"n":1}"#, r#"{"id":2,"seq":1,"n":2.5}"#, r#"{"id":3,"seq":1,"n":"many"}"#];
    let object = lab.object(&[Layout::Lines.of(&lines)]);
    lab.merge(std::slice::from_ref(&object)).await.unwrap();
    assert_eq!(lab.seen(&["id", "n"]).await, ["1 1"]);
    assert_eq!(lab.quarantine().await.len(), 2);

    lab.redefine(&toml("double"));
    let table = Name::new("t").unwrap();
    for (rows, merged) in [(2, 1), (1, 0)] {
        lab.clock.advance_us(1_000);
        let replayed = lab.merger.replay(&table, None).await.unwrap();
        assert_eq!((replayed.rows, replayed.merged, replayed.quarantined_again), (rows, merged, 1));
        assert_eq!(lab.seen(&["id", "n"]).await, ["1 1.0", "2 2.5"]);
    }
    assert_eq!(lab.merge(&[object]).await.unwrap().version, None);
}
