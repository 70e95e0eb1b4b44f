//! The model: what silver and quarantine must hold, computed from all events at once in the plainest way.
//!
//! For each key, its good events are sorted by sequence and applied one after the other; nothing is known here of
//! frames that come twice, of batches, commits or files. Where two events have the same key and sequence, a delete
//! wins; two updates are then the same row (see `events`).

use std::collections::BTreeMap;

use crate::events::{Event, Rows};
use crate::shape::{NewColumns, Shape, TEXT_CHARS_END};

/// A row's values that are not NULL, by column, as text.
pub type Row = BTreeMap<String, String>;

/// A row in quarantine: its rule, its values, and the frame and the place in it from which it comes.
pub type BadRow = (String, Row, String, u64, u64);

/// The place of what is no row of its frame.
pub const NO_ROW: u64 = u64::MAX;

/// An event's place in the order of its key: the sequence columns, or without these its arrival.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    sequence: Vec<i64>,
    arrival: Option<(i64, String, u64, usize)>,
}

impl Place {
    fn of(shape: &Shape, rows: &Rows, at: usize) -> Self {
        let event = &rows.events[at];
        let sequence = [event.seq, event.seq2].into_iter().take(shape.sequence_columns).flatten().collect();
        let arrival = (rows.received_at_us, rows.ingest_id.clone(), rows.number, at);
        Self { sequence, arrival: (shape.sequence_columns == 0).then_some(arrival) }
    }

    /// What the columns of a history say of it.
    fn shown(&self) -> String {
        self.arrival.as_ref().map_or_else(|| self.sequence[0], |arrival| arrival.0).to_string()
    }
}

/// The rule that a row breaks, if it is a bad one.
fn broken_rule(shape: &Shape, event: &Event) -> Option<&'static str> {
    if (shape.key_columns > 0 && event.id.is_none()) || (shape.key_columns > 1 && event.k2.is_none()) {
        return Some("primary_key");
    }
    if (shape.sequence_columns > 0 && event.seq.is_none()) || (shape.sequence_columns > 1 && event.seq2.is_none()) {
        return Some("sequence_by");
    }
    // A delete needs only its key and sequence.
    if event.is_delete {
        return None;
    }
    let is_refused = event.extra.is_some() && shape.new_columns == NewColumns::Reject;
    if is_refused || (event.is_wide() && !shape.widens() && shape.new_columns != NewColumns::Rescue) {
        return Some("type");
    }
    let is_long = event.v.as_ref().is_some_and(|v| v.chars().count() >= TEXT_CHARS_END);
    (shape.expects && is_long).then_some("short")
}

/// Whether a line of text has a value that is none of its declared column. Nobody knows what is a delete by then.
fn is_bad_line(shape: &Shape, rows: &Rows, event: &Event) -> bool {
    rows.is_text && event.is_wide() && shape.new_columns != NewColumns::Rescue
}

/// The rows of quarantine, sorted.
pub fn quarantine(shape: &Shape, frames: &[Rows]) -> Vec<BadRow> {
    let mut bad = Vec::new();
    for rows in frames {
        // A bad line is no row of its frame.
        let mut at = 0;
        for event in &rows.events {
            let is_bad_line = is_bad_line(shape, rows, event);
            let rule = if is_bad_line { Some("json") } else { broken_rule(shape, event) };
            if let Some(rule) = rule {
                let mut values = event.values();
                if shape.deletes {
                    values.insert("op".to_owned(), if event.is_delete { "d" } else { "u" }.to_owned());
                }
                let row = if is_bad_line { NO_ROW } else { at };
                bad.push((rule.to_owned(), values, rows.ingest_id.clone(), rows.number, row));
            }
            at += u64::from(!is_bad_line);
        }
    }
    bad.sort();
    bad
}

/// The rows of silver, sorted.
pub fn silver(shape: &Shape, frames: &[Rows]) -> Vec<Row> {
    let good = || {
        let all =
            frames.iter().flat_map(|rows| rows.events.iter().enumerate().map(move |(at, event)| (rows, at, event)));
        all.filter(move |(rows, _, event)| broken_rule(shape, event).is_none() && !is_bad_line(shape, rows, event))
    };
    let mut silver: Vec<Row> = if shape.is_keyed() {
        let mut by_key = BTreeMap::<_, BTreeMap<Place, Vec<&Event>>>::new();
        for (rows, at, event) in good() {
            by_key.entry(event.key()).or_default().entry(Place::of(shape, rows, at)).or_default().push(event);
        }
        by_key.into_values().flat_map(|events| apply(shape, &events)).collect()
    } else {
        good().map(|(_, _, event)| stored(shape, event)).collect()
    };
    silver.sort();
    silver
}

/// The rows that the events of one key leave: one or none, or with a history one for each time it had.
fn apply(shape: &Shape, events: &BTreeMap<Place, Vec<&Event>>) -> Vec<Row> {
    let mut ended: Vec<Row> = Vec::new();
    let mut current: Option<Row> = None;
    for (place, events) in events {
        let is_delete = events.iter().any(|event| event.is_delete);
        let before = current.take();
        if shape.history
            && let Some(mut row) = before.clone()
        {
            row.insert("_valid_to".to_owned(), place.shown());
            row.insert("_is_current".to_owned(), "false".to_owned());
            ended.push(row);
        }
        if is_delete {
            continue;
        }
        let mut row = if shape.ignore_nulls { before.unwrap_or_default() } else { Row::new() };
        row.extend(stored(shape, events[0]));
        if shape.history {
            row.insert("_valid_from".to_owned(), place.shown());
            row.insert("_is_current".to_owned(), "true".to_owned());
        }
        current = Some(row);
    }
    ended.extend(current);
    ended
}

/// An event as a row.
fn stored(shape: &Shape, event: &Event) -> Row {
    let mut row = event.values();
    if shape.new_columns == NewColumns::Rescue {
        let misfits = ["extra", "n"].into_iter().filter(|name| *name == "extra" || event.is_wide());
        let rescued: Vec<String> =
            misfits.filter_map(|name| row.remove(name).map(|value| format!("{name}={value}"))).collect();
        if !rescued.is_empty() {
            row.insert("_rescued".to_owned(), rescued.join(","));
        }
    }
    row
}
