//! Events drawn at random, and their split into frames.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use fastrand::Rng;
use flate2::write::GzEncoder;
use proto::frame::{Compression, Frame, FrameOrigin};
use serde_json::{Map, Value};

use crate::shape::Shape;

/// When the first frame was received, in microseconds since the epoch; the merges' clock stands an hour later.
pub const RECEIVED_US: i64 = 1_799_996_400_000_000;

const EVENTS_MAX: usize = 30;
const KEYS_MAX: i64 = 4;
const ROWS_PER_FRAME_MAX: usize = 6;

/// A row as a producer sends it. Columns that the table's shape does not have are not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<i64>,
    pub k2: Option<String>,
    pub seq: Option<i64>,
    pub seq2: Option<i64>,
    pub v: Option<String>,
    pub n: Option<i64>,
    pub part: Option<String>,
    pub extra: Option<String>,
    pub is_delete: bool,
}

impl Event {
    pub fn key(&self) -> (Option<i64>, Option<String>) {
        (self.id, self.k2.clone())
    }

    /// Whether `n` is more than an `integer` holds.
    pub fn is_wide(&self) -> bool {
        self.n.is_some_and(|n| i32::try_from(n).is_err())
    }

    fn is_partial(&self, shape: &Shape) -> bool {
        !self.is_delete && (self.v.is_none() || self.n.is_none() || (shape.partitioned && self.part.is_none()))
    }

    /// The values that are sent and not NULL, by column, as text.
    pub fn values(&self) -> BTreeMap<String, String> {
        let numbers = [("id", self.id), ("seq", self.seq), ("seq2", self.seq2), ("n", self.n)];
        let texts = [("k2", &self.k2), ("v", &self.v), ("part", &self.part), ("extra", &self.extra)];
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some((name, value?.to_string())));
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        numbers.chain(texts).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A frame: what it is known by, and its rows. One of text is an object of its own, by which it is known, once that is
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub ingest_id: String,
    pub number: u64,
    pub received_at_us: i64,
    pub events: Vec<Event>,
    pub is_text: bool,
    /// The width of the column `n`.
    bits: u8,
    /// Whether it has the column `extra`.
    has_extra: bool,
}

/// The frames of a case, in the order in which they are first delivered.
pub fn draw(shape: &Shape, rng: &mut Rng) -> Vec<Rows> {
    let events = draw_events(shape, rng);
    let mut frames = Vec::new();
    let mut numbers = HashMap::<String, u64>::new();
    // Two frames may be received at the same time, unless what comes later must be later.
    let same_time = if shape.in_order() { 1 } else { 2 };
    let mut rest = events.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rng.usize(1..=rest.len().min(ROWS_PER_FRAME_MAX)));
        rest = later;
        let is_text = is_text(shape, rng);
        let ingest_id = if is_text { String::new() } else { format!("ingest-{}", rng.u8(0..3)) };
        let number = numbers.entry(ingest_id.clone()).or_default();
        frames.push(Rows {
            received_at_us: RECEIVED_US + frames.len() as i64 / same_time * 1_000_000,
            number: if is_text { 0 } else { *number },
            is_text,
            bits: bits(now, rng),
            has_extra: shape.extra && (now.iter().any(|event| event.extra.is_some()) || rng.u8(0..4) == 0),
            ingest_id,
            events: now.to_vec(),
        });
        *number += 1;
    }
    if !shape.in_order() {
        rng.shuffle(&mut frames);
    }
    frames
}

fn is_text(shape: &Shape, rng: &mut Rng) -> bool {
    shape.text && rng.u8(0..3) == 0
}

/// A width that holds every `n`. The table's is 32 bits if it is declared, and otherwise the widest that came.
fn bits(events: &[Event], rng: &mut Rng) -> u8 {
    let holds = |most: i64| events.iter().filter_map(|event| event.n).all(|n| n.abs() <= most);
    let mut widths = vec![64];
    if holds(i32::MAX.into()) {
        widths.push(32);
    }
    if holds(i16::MAX.into()) {
        widths.push(16);
    }
    widths[rng.usize(0..widths.len())]
}

fn draw_events(shape: &Shape, rng: &mut Rng) -> Vec<Event> {
    let mut known: HashMap<(i64, u8, i64, i64), Event> = HashMap::new();
    let mut events = Vec::new();
    for _ in 0..rng.usize(3..=EVENTS_MAX) {
        let (id, k2) = (rng.i64(0..KEYS_MAX), if shape.key_columns > 1 { rng.u8(0..2) } else { 0 });
        let (seq, seq2) = (rng.i64(0..9), if shape.sequence_columns > 1 { rng.i64(0..3) } else { 0 });
        let mut event = Event {
            id: Some(id),
            k2: (shape.key_columns > 1).then(|| ["x", "y"][usize::from(k2)].to_owned()),
            seq: (shape.sequence_columns > 0).then_some(seq),
            seq2: (shape.sequence_columns > 1).then_some(seq2),
            is_delete: shape.deletes && rng.u8(0..4) == 0,
            ..Event::default()
        };
        draw_values(shape, &mut event, rng);
        if !event.is_delete && shape.sequence_columns > 0 {
            // Of two rows with the same key and sequence neither is newer, so a second one is the same row.
            event = known.entry((id, k2, seq, seq2)).or_insert(event).clone();
        }
        if rng.u8(0..12) == 0 {
            break_key_or_sequence(shape, &mut event, rng);
        }
        events.push(event);
    }
    if shape.sequence_columns > 0 {
        rng.shuffle(&mut events);
        if shape.in_order() {
            put_partial_updates_behind_what_they_build_on(shape, &mut events, rng);
        }
    }
    events
}

fn draw_values(shape: &Shape, event: &mut Event, rng: &mut Rng) {
    let texts = ["", "a", "bb", "c'c", "dé€\"", "too long"];
    event.v = (rng.u8(0..4) != 0).then(|| texts[rng.usize(0..texts.len())].to_owned());
    event.n = (rng.u8(0..4) != 0).then(|| rng.i64(-40_000..40_000));
    event.part = (shape.partitioned && rng.u8(0..4) != 0).then(|| format!("p{}", rng.u8(0..2)));
    // A delete may have values that no row could: it does not need them.
    if rng.u8(0..10) == 0 {
        event.n = Some(i64::from(i32::MAX) + rng.i64(1..1_000));
    }
    event.extra = (shape.extra && rng.u8(0..3) == 0).then(|| ["e", "f"][rng.usize(0..2)].to_owned());
}

fn break_key_or_sequence(shape: &Shape, event: &mut Event, rng: &mut Rng) {
    match rng.u8(0..4) {
        0 if shape.key_columns > 0 => event.id = None,
        1 if shape.key_columns > 1 => event.k2 = None,
        2 if shape.sequence_columns > 0 => event.seq = None,
        3 if shape.sequence_columns > 1 => event.seq2 = None,
        _ => {}
    }
}

/// An update that ignores NULLs takes what is there: all that comes before it by sequence must have come, and the rest
/// of the key may come in any order.
fn put_partial_updates_behind_what_they_build_on(shape: &Shape, events: &mut [Event], rng: &mut Rng) {
    let mut places = BTreeMap::<(Option<i64>, Option<String>), Vec<usize>>::new();
    for (place, event) in events.iter().enumerate() {
        places.entry(event.key()).or_default().push(place);
    }
    for places in places.into_values() {
        let mut of_key: Vec<Event> = places.iter().map(|place| events[*place].clone()).collect();
        of_key.sort_by_key(|event| (event.seq, event.seq2));
        let mut start = 0;
        for end in 1..=of_key.len() {
            if end == of_key.len() || of_key[end].is_partial(shape) {
                rng.shuffle(&mut of_key[start..end]);
                start = end;
            }
        }
        for (place, event) in places.into_iter().zip(of_key) {
            events[place] = event;
        }
    }
}

/// The frame as it lies in bronze.
pub fn encode(shape: &Shape, rows: &Rows) -> Bytes {
    let numbers = |value: fn(&Event) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.events.iter().map(value).collect::<Int64Array>())
    };
    let texts = |value: fn(&Event) -> Option<&String>| -> ArrayRef {
        Arc::new(rows.events.iter().map(value).collect::<StringArray>())
    };
    let n = rows.events.iter().map(|event| event.n);
    let n: ArrayRef = match rows.bits {
        16 => Arc::new(n.map(|n| n.map(|n| n as i16)).collect::<Int16Array>()),
        32 => Arc::new(n.map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
        _ => Arc::new(n.collect::<Int64Array>()),
    };
    let mut columns = vec![("id", numbers(|event| event.id)), ("v", texts(|event| event.v.as_ref())), ("n", n)];
    if shape.key_columns > 1 {
        columns.push(("k2", texts(|event| event.k2.as_ref())));
    }
    if shape.sequence_columns > 0 {
        columns.push(("seq", numbers(|event| event.seq)));
    }
    if shape.sequence_columns > 1 {
        columns.push(("seq2", numbers(|event| event.seq2)));
    }
    if shape.partitioned {
        columns.push(("part", texts(|event| event.part.as_ref())));
    }
    if rows.has_extra {
        columns.push(("extra", texts(|event| event.extra.as_ref())));
    }
    if shape.deletes {
        let op = rows.events.iter().map(|event| Some(if event.is_delete { "d" } else { "u" }));
        columns.push(("op", Arc::new(op.collect::<StringArray>())));
    }
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let origin = FrameOrigin {
        table: "t".to_owned(),
        ingest_id: rows.ingest_id.clone(),
        frame: rows.number,
        received_at_us: rows.received_at_us,
    };
    let frame = Frame::from_batches(origin, &batch.schema(), std::slice::from_ref(&batch), Compression::Lz4);
    frame.unwrap().encode().unwrap()
}

/// The rows as the text of an object: one after the other, in one of the ways in which others write them.
pub fn write_text(shape: &Shape, rows: &Rows, rng: &mut Rng) -> Vec<u8> {
    let between = ["\n", "", ", ", "\r\n"][rng.usize(0..4)];
    let lines: Vec<String> = rows.events.iter().map(|event| json(shape, event).to_string()).collect();
    let text = lines.join(between);
    if rng.bool() {
        return text.into_bytes();
    }
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

fn json(shape: &Shape, event: &Event) -> Value {
    let mut row = Map::new();
    for (name, value) in event.values() {
        let is_number = ["id", "seq", "seq2", "n"].contains(&name.as_str());
        let value = if is_number { Value::from(value.parse::<i64>().unwrap()) } else { Value::from(value) };
        row.insert(name, value);
    }
    if shape.deletes {
        row.insert("op".to_owned(), Value::from(if event.is_delete { "d" } else { "u" }));
    }
    Value::Object(row)
}
