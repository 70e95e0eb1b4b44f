//! Where each object of a JSON text begins and ends, found from its bytes alone.
//!
//! Objects may follow each other with newlines between them, or commas, or nothing; they may be laid over several lines,
//! or be the items of an array. So it is brackets that tell where one ends, not lines. But a bracket that is missing
//! would make one broken object swallow all that follow. So the grammar is followed just far enough to see where an
//! object breaks, and from there the end is guessed:
//!
//! ```text
//! Between ──{──► Row ──its last bracket──► Between
//!    │            └─what can't follow──► Broken ──its last bracket, or a line that begins like a row──► Between
//!    └──anything else──► Stray ──newline, or {──► Between
//! ```
//!
//! What is found in each way is handed on, and each is read strictly behind here: a guess may be wrong about where
//! broken text ends, but never lets it pass.
//!
//! The frames of an object are cut from what is found here, and an object that is read again must give the same frames.
//! So nothing here may depend on anything but the bytes, and a change of these rules is a change of format.

use lakehouse::json::DEPTH_MAX;

use super::{RAW_BYTES_MAX, ROW_BYTES_MAX};

/// A stretch of text: an object, or what should be one.
pub(super) struct Found<'a> {
    /// Its bytes; if it is longer than a row may be, only the first of them.
    pub(super) bytes: &'a [u8],
    /// How long it is, in bytes.
    pub(super) len: u64,
    /// Where it begins in the text, in bytes.
    pub(super) offset: u64,
    /// The line that it begins on, from 1.
    pub(super) line: u64,
}

/// Finds the rows in text that comes in pieces.
pub(super) struct Splitter {
    state: State,
    want: Want,
    /// The brackets that are open.
    open: Vec<u8>,
    /// How many are open in a broken row.
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    in_word: bool,
    /// How far the line is indented.
    indent: usize,
    /// Whether nothing else was on the line so far.
    is_indent: bool,
    offset: u64,
    line: u64,
    row: Begun,
}

/// The row under way.
#[derive(Default)]
struct Begun {
    kept: Vec<u8>,
    len: u64,
    offset: u64,
    line: u64,
    /// How far its first line is indented.
    indent: usize,
    /// Whether anything follows its bracket on that line.
    is_compact: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Row,
    Broken,
    Stray,
}

/// What may follow in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Key,
    KeyOrEnd,
    Colon,
    Value,
    ValueOrEnd,
    CommaOrEnd,
}

/// What a byte does to the row under way.
enum Step {
    /// It belongs to it.
    On,
    /// There is none.
    Skip,
    /// It begins one.
    Begin,
    /// It is its last.
    End,
    /// It stands behind its last, and belongs to none.
    EndBefore,
    /// It begins the next.
    EndAndBegin,
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            want: Want::KeyOrEnd,
            open: Vec::new(),
            depth: 0,
            in_text: false,
            is_escaped: false,
            in_word: false,
            indent: 0,
            is_indent: true,
            offset: 0,
            line: 1,
            row: Begun::default(),
        }
    }

    /// Reads on; what is found goes to `out`, in order.
    pub(super) fn push(&mut self, input: &[u8], out: &mut impl FnMut(Found<'_>)) {
        let (mut at, mut from) = (0, 0);
        while let Some(&byte) = input.get(at) {
            if self.in_text && !self.is_escaped {
                let plain = input[at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | b'\n')).count();
                if plain > 0 {
                    at += plain;
                    self.offset += plain as u64;
                    self.is_indent = false;
                    continue;
                }
            }
            match self.step(byte) {
                Step::On => {}
                Step::Skip => from = at + 1,
                Step::Begin => {
                    from = at;
                    self.begin();
                }
                Step::End => {
                    self.row.end(&input[from..=at], out);
                    from = at + 1;
                }
                Step::EndBefore => {
                    self.row.end(&input[from..at], out);
                    from = at + 1;
                }
                Step::EndAndBegin => {
                    self.row.end(&input[from..at], out);
                    from = at;
                    self.begin();
                }
            }
            self.pass(byte);
            at += 1;
        }
        if self.state != State::Between {
            self.row.keep(&input[from..]);
        }
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(Found<'_>)) {
        if self.state != State::Between {
            self.row.end(&[], out);
            self.state = State::Between;
        }
    }

    fn begin(&mut self) {
        (self.row.offset, self.row.line, self.row.indent) = (self.offset, self.line, self.indent);
    }

    /// Counts a byte.
    fn pass(&mut self, byte: u8) {
        self.offset += 1;
        if byte == b'\n' {
            self.line += 1;
            (self.indent, self.is_indent) = (0, true);
        } else if self.is_indent && is_between(byte) && (self.state == State::Between || matches!(byte, b' ' | b'\t')) {
            self.indent += 1;
        } else {
            self.is_indent = false;
        }
    }

    fn step(&mut self, byte: u8) -> Step {
        match self.state {
            State::Between if is_between(byte) => Step::Skip,
            State::Between if byte == b'{' => {
                self.open_row();
                Step::Begin
            }
            State::Between => {
                (self.state, self.in_text, self.is_escaped) = (State::Stray, byte == b'"', false);
                Step::Begin
            }
            State::Row => self.step_row(byte),
            State::Broken => self.step_broken(byte),
            State::Stray => self.step_stray(byte),
        }
    }

    fn open_row(&mut self) {
        (self.state, self.want) = (State::Row, Want::KeyOrEnd);
        (self.in_text, self.is_escaped, self.in_word) = (false, false, false);
        self.open.clear();
        self.open.push(b'{');
    }

    fn step_row(&mut self, byte: u8) -> Step {
        if self.in_text {
            // No text has a newline, so here one has no end.
            return if byte == b'\n' { self.breaks(byte) } else { self.step_text(byte) };
        }
        if self.is_next_row(byte) && self.row.is_compact {
            return self.breaks(byte);
        }
        if self.open.len() == 1 && self.want == Want::KeyOrEnd && !byte.is_ascii_whitespace() {
            self.row.is_compact = self.line == self.row.line;
        }
        let was_in_word = std::mem::replace(&mut self.in_word, false);
        let wants_value = matches!(self.want, Want::Value | Want::ValueOrEnd);
        let within = self.open.last().copied();
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' | b'[' if wants_value && self.open.len() < DEPTH_MAX => {
                self.open.push(byte);
                self.want = if byte == b'{' { Want::KeyOrEnd } else { Want::ValueOrEnd };
            }
            b'}' if within == Some(b'{') && matches!(self.want, Want::KeyOrEnd | Want::CommaOrEnd) => {
                return self.close();
            }
            b']' if within == Some(b'[') && matches!(self.want, Want::ValueOrEnd | Want::CommaOrEnd) => {
                return self.close();
            }
            b',' if self.want == Want::CommaOrEnd => {
                self.want = if within == Some(b'{') { Want::Key } else { Want::Value };
            }
            b':' if self.want == Want::Colon => self.want = Want::Value,
            b'"' if wants_value => (self.in_text, self.want) = (true, Want::CommaOrEnd),
            b'"' if matches!(self.want, Want::Key | Want::KeyOrEnd) => (self.in_text, self.want) = (true, Want::Colon),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.' if was_in_word || wants_value => {
                (self.in_word, self.want) = (true, Want::CommaOrEnd);
            }
            _ => return self.breaks(byte),
        }
        Step::On
    }

    /// Whether a line begins like a row, and not like a part of one: that is indented deeper than the row. (Some indent
    /// nothing at all; but then they begin each object on a line of its own.)
    fn is_next_row(&self, byte: u8) -> bool {
        byte == b'{' && self.is_indent && self.indent <= self.row.indent && self.line > self.row.line
    }

    fn close(&mut self) -> Step {
        self.open.pop();
        if self.open.is_empty() {
            self.state = State::Between;
            return Step::End;
        }
        self.want = Want::CommaOrEnd;
        Step::On
    }

    /// A byte within a text, which is no newline.
    fn step_text(&mut self, byte: u8) -> Step {
        if self.is_escaped {
            self.is_escaped = false;
        } else if byte == b'\\' {
            self.is_escaped = true;
        } else if byte == b'"' {
            self.in_text = false;
        }
        Step::On
    }

    fn breaks(&mut self, byte: u8) -> Step {
        (self.state, self.depth) = (State::Broken, self.open.len());
        self.step_broken(byte)
    }

    fn step_broken(&mut self, byte: u8) -> Step {
        if byte == b'\n' {
            (self.in_text, self.is_escaped) = (false, false);
            return Step::On;
        }
        if self.in_text {
            return self.step_text(byte);
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' if self.is_next_row(byte) => {
                self.open_row();
                return Step::EndAndBegin;
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.state = State::Between;
                    return Step::End;
                }
            }
            _ => {}
        }
        Step::On
    }

    fn step_stray(&mut self, byte: u8) -> Step {
        match byte {
            b'\n' => {
                (self.state, self.in_text) = (State::Between, false);
                Step::EndBefore
            }
            _ if self.in_text => self.step_text(byte),
            b'{' => {
                self.open_row();
                Step::EndAndBegin
            }
            b'"' => {
                (self.in_text, self.is_escaped) = (true, false);
                Step::On
            }
            _ => Step::On,
        }
    }
}

/// What may stand between rows: blanks, an array's brackets and commas, the byte order mark, and the record separator
/// of JSON text sequences (<https://www.rfc-editor.org/rfc/rfc7464>).
fn is_between(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b'[' | b']' | 0x1e | 0xef | 0xbb | 0xbf)
}

impl Begun {
    fn keep(&mut self, part: &[u8]) {
        self.len += part.len() as u64;
        if self.len <= ROW_BYTES_MAX as u64 {
            self.kept.extend_from_slice(part);
        } else {
            // It will be refused; what is kept is for whoever looks at it.
            let room = RAW_BYTES_MAX.saturating_sub(self.kept.len()).min(part.len());
            self.kept.extend_from_slice(&part[..room]);
            self.kept.truncate(RAW_BYTES_MAX);
        }
    }

    fn end(&mut self, last: &[u8], out: &mut impl FnMut(Found<'_>)) {
        let (offset, line) = (self.offset, self.line);
        if self.len == 0 && last.len() <= ROW_BYTES_MAX {
            out(Found { bytes: last.trim_ascii_end(), len: last.len() as u64, offset, line });
            return;
        }
        self.keep(last);
        let kept = std::mem::take(&mut self.kept);
        let len = std::mem::take(&mut self.len);
        out(Found { bytes: kept.trim_ascii_end(), len, offset, line });
    }
}
