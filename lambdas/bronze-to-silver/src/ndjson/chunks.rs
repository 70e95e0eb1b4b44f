//! The rows of an object, as many at a time as become one frame.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use lakehouse::json::{Node, Reader, Value, place};

use super::source::{Stop, Text};
use super::split::{Found, Splitter};
use super::{FRAME_LINES_MAX, FRAME_TEXT_BYTES_MAX, ROW_BYTES_MAX};

/// How much text is looked at in one go.
const READ_BYTES: usize = 64 << 10;

/// Some rows of an object.
#[derive(Default)]
pub(super) struct Chunk {
    /// From 0.
    pub(super) number: u64,
    pub(super) is_last: bool,
    /// Why the text ends here, if it should not.
    pub(super) stop: Option<Stop>,
    /// Bytes of its rows.
    pub(super) bytes: u64,
    text: Vec<u8>,
    spans: Vec<Span>,
}

/// Where a row is.
#[derive(Clone, Debug)]
pub(super) struct Span {
    range: Range<usize>,
    /// Bytes of the whole row.
    pub(super) len: u64,
    /// Where it begins in the object's text, in bytes.
    pub(super) offset: u64,
    /// The line that it begins on, from 1.
    pub(super) line: u64,
}

/// The keys and values of a row, in their order.
pub(super) type Entries<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

/// A row as it was read.
pub(super) struct Line<'a> {
    pub(super) span: &'a Span,
    /// Its text, or the beginning of it.
    pub(super) text: &'a [u8],
    /// What it says, or why it can't be read.
    pub(super) entries: Result<Entries<'a>, String>,
}

impl Chunk {
    /// Rows that come by themselves, each a text.
    pub(super) fn of_texts(texts: &[&str]) -> Self {
        let mut chunk = Self::default();
        for text in texts {
            chunk.add(&Found { bytes: text.as_bytes(), len: text.len() as u64, offset: 0, line: 1 });
        }
        chunk
    }

    /// Adds a row; whether that are enough.
    fn add(&mut self, found: &Found<'_>) -> bool {
        let start = self.text.len();
        self.text.extend_from_slice(found.bytes);
        self.bytes += found.len;
        let range = start..self.text.len();
        self.spans.push(Span { range, len: found.len, offset: found.offset, line: found.line });
        self.spans.len() >= FRAME_LINES_MAX || self.bytes >= FRAME_TEXT_BYTES_MAX
    }

    /// Whether it has no row.
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Where it begins in the object's text, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.offset)
    }

    /// Its rows, read.
    pub(super) fn lines(&self) -> Vec<Line<'_>> {
        let lines = self.spans.iter().map(|span| {
            let text = self.text.get(span.range.clone()).unwrap_or_default();
            Line { span, text, entries: read(span, text) }
        });
        lines.collect()
    }
}

fn read<'a>(span: &Span, text: &'a [u8]) -> Result<Entries<'a>, String> {
    if span.len > ROW_BYTES_MAX as u64 {
        return Err(format!("it has {} bytes; the most of one object is {ROW_BYTES_MAX}: split it", span.len));
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| format!("byte {} of it is not UTF-8; write UTF-8", error.valid_up_to() + 1))?;
    let mut reader = Reader::new(text);
    let node = reader.row().and_then(|node| match reader.is_over() {
        true => Ok(node),
        false => Err(reader.broken("something follows the value")),
    });
    let node = node.map_err(|broken| {
        let (line, column) = place(text, broken.at);
        let place = match line {
            1 => format!("character {column} of the object"),
            _ => format!("line {}, column {column}", span.line + line as u64 - 1),
        };
        format!("the JSON is broken at {place}: {}", broken.what)
    })?;
    match (node.value, reader.take_flaw()) {
        (_, Some(flaw)) => Err(flaw),
        (Value::Object(entries), None) => Ok(entries),
        (other, None) => Err(format!("it is {}, not an object; write each row as an object", other.kind())),
    }
}

/// An object's text in chunks. Where they are cut depends on its bytes alone.
pub(super) struct Chunks {
    text: Text,
    splitter: Splitter,
    buffer: Vec<u8>,
    /// What is not enough yet.
    growing: Chunk,
    ready: VecDeque<Chunk>,
    is_over: bool,
    stop: Option<Stop>,
    /// How many were given out.
    count: u64,
}

impl Chunks {
    pub(super) fn new(bytes: Bytes, text_bytes_max: u64) -> Self {
        Self {
            text: Text::new(bytes, text_bytes_max),
            splitter: Splitter::new(),
            buffer: vec![0; READ_BYTES],
            growing: Chunk::default(),
            ready: VecDeque::new(),
            is_over: false,
            stop: None,
            count: 0,
        }
    }

    fn read_on(&mut self) {
        let (growing, ready) = (&mut self.growing, &mut self.ready);
        let mut take = |found: Found<'_>| {
            if growing.add(&found) {
                ready.push_back(std::mem::take(growing));
            }
        };
        match self.text.read(&mut self.buffer) {
            Ok(count) if count > 0 => {
                self.splitter.push(&self.buffer[..count], &mut take);
                return;
            }
            Ok(_) => {}
            Err(stop) => self.stop = Some(stop),
        }
        self.is_over = true;
        self.splitter.finish(&mut take);
        // What stopped the text is told, though there be no row before it.
        if !self.growing.is_empty() || (self.stop.is_some() && self.ready.is_empty()) {
            self.ready.push_back(std::mem::take(&mut self.growing));
        }
    }
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        // The last one knows that it is.
        while self.ready.len() < 2 && !self.is_over {
            self.read_on();
        }
        let mut chunk = self.ready.pop_front()?;
        chunk.number = self.count;
        self.count += 1;
        if self.is_over && self.ready.is_empty() {
            chunk.is_last = true;
            chunk.stop = self.stop.take();
        }
        Some(chunk)
    }
}
