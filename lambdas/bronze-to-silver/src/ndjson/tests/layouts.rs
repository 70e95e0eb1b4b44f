//! However rows are laid out, they are the same rows.

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Decimal128Type, Int64Type};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use super::*;
use crate::ndjson::split::Splitter;

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    name: Option<String>,
    cents: Option<i64>,
    tags: Option<Vec<Option<i64>>>,
    inner: Option<(Option<i64>, Option<String>)>,
}

fn row() -> impl Strategy<Value = Row> {
    let inner = (any::<Option<i64>>(), any::<Option<String>>());
    let cents = prop::option::of(-99_999_i64..99_999);
    let tags = prop::option::of(prop::collection::vec(any::<Option<i64>>(), 0..4));
    (any::<i64>(), any::<Option<String>>(), cents, tags, prop::option::of(inner))
        .prop_map(|(id, name, cents, tags, inner)| Row { id, name, cents, tags, inner })
}

impl Row {
    fn json(&self, leaves_out_nulls: bool) -> Value {
        let mut object = Map::new();
        object.insert("id".to_owned(), json!(self.id));
        let cents = self.cents.map(|cents| {
            let sign = if cents < 0 { "-" } else { "" };
            format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
        });
        let inner = self.inner.as_ref().map(|(a, b)| json!({ "b": b, "a": a }));
        for (name, value) in
            [("name", json!(self.name)), ("price", json!(cents)), ("tags", json!(self.tags)), ("inner", json!(inner))]
        {
            if !(leaves_out_nulls && value.is_null()) {
                object.insert(name.to_owned(), value);
            }
        }
        Value::Object(object)
    }
}

fn row_table() -> Table {
    let columns = "id bigint|name varchar|price decimal(12,2)|tags bigint[]|inner struct(a bigint, b varchar)";
    declared(&columns.split('|').collect::<Vec<_>>())
}

fn read_back(batch: &RecordBatch) -> Vec<Row> {
    let [id, name, price, tags, inner] = batch.columns() else { panic!("other columns") };
    let inner = inner.as_struct();
    let integer = |array: &dyn arrow::array::Array, row: usize| {
        array.is_valid(row).then(|| array.as_primitive::<Int64Type>().value(row))
    };
    let text = |array: &dyn arrow::array::Array, row: usize| {
        array.is_valid(row).then(|| array.as_string::<i32>().value(row).to_owned())
    };
    let read = |row: usize| Row {
        id: id.as_primitive::<Int64Type>().value(row),
        name: text(name, row),
        cents: price.is_valid(row).then(|| i64::try_from(price.as_primitive::<Decimal128Type>().value(row)).unwrap()),
        tags: tags.is_valid(row).then(|| tags.as_list::<i32>().value(row).as_primitive::<Int64Type>().iter().collect()),
        inner: inner.is_valid(row).then(|| (integer(inner.column(0), row), text(inner.column(1), row))),
    };
    (0..batch.num_rows()).map(read).collect()
}

/// How rows are laid out in a text.
#[derive(Clone, Debug)]
struct Layout {
    is_pretty: bool,
    leaves_out_nulls: bool,
    has_mark: bool,
    /// Before, between and behind the rows.
    around: (&'static str, &'static str, &'static str),
    /// Where the text is cut into members of gzip; without any, it is not packed.
    members: Vec<Index>,
}

fn layout() -> impl Strategy<Value = Layout> {
    let around = prop::sample::select(vec![
        ("", "\n", "\n"),
        ("", "\r\n", ""),
        ("", "", ""),
        ("", " ", "\n\n"),
        ("[", ",", "]"),
        ("[\n", ",\n", "\n]\n"),
        ("[", "][", "]"),
        ("", "\n\u{1e}", ""),
    ]);
    let members = prop::collection::vec(any::<Index>(), 0..4);
    (any::<bool>(), any::<bool>(), any::<bool>(), around, members).prop_map(
        |(is_pretty, leaves_out_nulls, has_mark, around, members)| Layout {
            is_pretty,
            leaves_out_nulls,
            has_mark,
            around,
            members,
        },
    )
}

impl Layout {
    fn lay_out(&self, rows: &[Row]) -> Vec<u8> {
        let write = |row: &Row| {
            let json = row.json(self.leaves_out_nulls);
            if self.is_pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap()
        };
        let (before, between, behind) = self.around;
        let rows = rows.iter().map(write).collect::<Vec<_>>().join(between);
        let mark = if self.has_mark { "\u{feff}" } else { "" };
        let text = format!("{mark}{before}{rows}{behind}").into_bytes();
        if self.members.is_empty() {
            return text;
        }
        let mut cuts: Vec<usize> = self.members.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut from = 0;
        let mut packed = Vec::new();
        for cut in cuts {
            packed.extend(gzip(&text[from..cut]));
            from = cut;
        }
        packed
    }
}

proptest! {
    #[test]
    fn rows_come_through_in_every_layout(rows_in in prop::collection::vec(row(), 0..12), layout in layout()) {
        let pieces = pieces(&row_table(), None, layout.lay_out(&rows_in));
        prop_assert_eq!(damaged(&pieces), Vec::<&Damaged>::new());
        let expected = format!("{rows_in:?}");
        let found = if rows_in.is_empty() { Vec::new() } else { read_back(&rows(&pieces)) };
        prop_assert_eq!(format!("{found:?}"), expected);
    }

    #[test]
    fn broken_lines_are_told_and_the_others_come_through(
        lines in prop::collection::vec(
            (row(), prop::option::weighted(0.3, (any::<Index>(), prop::sample::select(vec!["", "\"", "{", "x"])))),
            1..12,
        ),
    ) {
        let (mut text, mut good, mut bad) = (String::new(), Vec::new(), Vec::new());
        for (line, (row, damage)) in lines.iter().enumerate() {
            let whole = serde_json::to_string(&row.json(false)).unwrap();
            match damage {
                None => {
                    text.push_str(&whole);
                    good.push(row);
                }
                Some((cut, instead)) => {
                    // The line ends early, in something that should not be there.
                    let cut = whole.floor_char_boundary(1 + cut.index(whole.len() - 1));
                    text.push_str(&whole[..cut]);
                    text.push_str(instead);
                    bad.push(line as u64 + 1);
                }
            }
            text.push('\n');
        }
        let pieces = pieces(&row_table(), None, text.clone());
        let told: std::collections::BTreeSet<u64> = damaged(&pieces).iter().filter_map(|damaged| damaged.line).collect();
        prop_assert!(bad.iter().all(|line| told.contains(line)), "{text}\n{bad:?} {told:?}");
        prop_assert_eq!(format!("{:?}", read_back(&rows(&pieces))), format!("{good:?}"), "{}", text);
    }

    #[test]
    fn no_bytes_break_the_reader_and_none_are_lost(text in r#"([{}\[\]",:0-9a\\ \n-]|é|"k":|\{"k":1\}){0,60}"#) {
        let pieces = pieces(&table(""), None, text.clone());
        let good: u64 = frames(&pieces).iter().map(|header| header.rows).sum();
        rows(&pieces);
        // What stands between rows is all that is not told.
        let mut kept = 0;
        let mut splitter = Splitter::new();
        let mut count = |found: crate::ndjson::split::Found<'_>| kept += usize::from(!found.bytes.is_empty());
        splitter.push(text.as_bytes(), &mut count);
        splitter.finish(&mut count);
        prop_assert_eq!(good + damaged(&pieces).len() as u64, kept as u64);
    }

    #[test]
    fn rows_begin_and_end_alike_however_the_text_comes(
        text in r#"([{}\[\]",:0-9a\\ \n-]|é|"k":|\{"k":1\}|\n\{){0,60}"#,
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let split = |cuts: &[Index]| {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut found, mut from, mut splitter) = (Vec::new(), 0, Splitter::new());
            let mut take = |row: crate::ndjson::split::Found<'_>| {
                found.push((row.bytes.to_vec(), row.len, row.offset, row.line));
            };
            for cut in cuts {
                splitter.push(&text.as_bytes()[from..cut], &mut take);
                from = cut;
            }
            splitter.finish(&mut take);
            found
        };
        prop_assert_eq!(split(&cuts), split(&[]));
    }
}
