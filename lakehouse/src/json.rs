//! JSON, read strictly and without loss.
//!
//! Common readers turn numbers into 64-bit floats and keep the last of two equal keys. Here a number stays its text, a
//! value knows the text it was read from, and a key that is there twice is told. What breaks the syntax is [`Broken`]:
//! nothing behind it can be trusted. What is only wrong with a value is a *flaw*, and reading goes on.
//!
//! [`Values`] makes a column of such values, each fitting its type exactly. What comes over HTTP and what lies in bronze
//! are read by the same code, which asks only for a [`Manner`].

mod numbers;
mod scalars;
#[cfg(test)]
mod tests;
mod values;

use std::borrow::Cow;
use std::collections::HashSet;

pub use numbers::{Misfit, is_whole, scaled};
pub use values::{CELLS_MAX, Cells, Manner, Values};

/// How deep values may nest: more than any type that a column can have, and no stack overflows.
pub const DEPTH_MAX: usize = 64;

/// The most values in one row, those of lists and objects counted: a value takes up to 50 times the memory of its text.
pub const VALUES_MAX: usize = 1 << 18;

/// From how many keys on a set finds those that are there twice.
const KEYS_COMPARED_MAX: usize = 16;

/// A value, and the text that it was read from.
#[derive(Debug)]
pub struct Node<'a> {
    /// As it was written, without the blanks around it.
    pub text: &'a str,
    /// What it says.
    pub value: Value<'a>,
}

/// What a value is.
#[derive(Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Its digits are the node's text.
    Number,
    /// A text, its escapes read.
    Text(Cow<'a, str>),
    /// The items of an array.
    List(Vec<Node<'a>>),
    /// Keys and values, in the order that they came in.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl Value<'_> {
    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// Where the syntax breaks, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// In bytes from the start of the text.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

/// Reads values one after the other.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
    flaw: Option<String>,
}

impl<'a> Reader<'a> {
    /// A reader of `text`, from its start.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, values: 0, flaw: None }
    }

    /// What is wrong with the values since the last call, if anything is.
    pub fn take_flaw(&mut self) -> Option<String> {
        self.flaw.take()
    }

    /// Whether nothing but blank space follows.
    pub fn is_over(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Steps over `byte` if it is what follows.
    pub fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Breaks here.
    pub fn broken(&self, what: impl Into<String>) -> Broken {
        Broken { at: self.at, what: what.into() }
    }

    /// The next value that is not within another.
    ///
    /// # Errors
    /// If there is none, and if it is no JSON.
    pub fn row(&mut self) -> Result<Node<'a>, Broken> {
        self.values = 0;
        self.value()
    }

    fn value(&mut self) -> Result<Node<'a>, Broken> {
        let next = self.peek();
        let start = self.at;
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(self.broken(format!("a row has more than {VALUES_MAX} values; send less in one row")));
        }
        let value = match next {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::list)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => self.word()?,
            None => return Err(self.broken("a value is missing at the end")),
        };
        Ok(Node { text: &self.text[start..self.at], value })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value<'a>, Broken>) -> Result<Value<'a>, Broken> {
        if self.depth == DEPTH_MAX {
            return Err(self.broken(format!("values nest deeper than {DEPTH_MAX}; flatten them")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Value<'a>, Broken> {
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return Err(self.broken("a comma or ] is missing"));
            }
        }
    }

    fn object(&mut self) -> Result<Value<'a>, Broken> {
        let mut entries = Vec::new();
        if self.take(b'}') {
            return Ok(Value::Object(entries));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.broken("a key in double quotes is missing"));
            }
            let key = self.string()?;
            if !self.take(b':') {
                return Err(self.broken("a colon is missing"));
            }
            entries.push((key, self.value()?));
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(self.broken("a comma or } is missing"));
            }
        }
        if let Some(key) = twice(&entries) {
            let flaw = format!("key {key:?} is there twice; send it once");
            self.flaw.get_or_insert(flaw);
        }
        Ok(Value::Object(entries))
    }

    fn word(&mut self) -> Result<Value<'a>, Broken> {
        let rest = &self.text[self.at..];
        let words = [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)];
        match words.into_iter().find(|(word, _)| rest.starts_with(word)) {
            Some((word, value)) => {
                self.at += word.len();
                Ok(value)
            }
            None if rest.starts_with("NaN") || rest.starts_with("Infinity") => {
                Err(self.broken("JSON has no NaN and no Infinity; send null"))
            }
            None => Err(self.broken("no JSON value begins so")),
        }
    }

    fn number(&mut self) -> Result<Value<'a>, Broken> {
        let bytes = self.text.as_bytes();
        let digits = |from: usize| {
            let count = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            from + count
        };
        let wrong = |at: usize| Broken { at, what: "a number lacks a digit".to_owned() };
        let first = self.at + usize::from(bytes[self.at] == b'-');
        let mut end = if bytes.get(first) == Some(&b'0') { first + 1 } else { digits(first) };
        if end == first {
            return Err(match self.text[first..].starts_with("Infinity") {
                true => self.broken("JSON has no NaN and no Infinity; send null"),
                false => wrong(first),
            });
        }
        if bytes.get(end) == Some(&b'.') {
            let fraction = end + 1;
            end = digits(fraction);
            if end == fraction {
                return Err(wrong(end));
            }
        }
        if let Some(b'e' | b'E') = bytes.get(end) {
            let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            end = digits(exponent.min(bytes.len()));
            if end <= exponent {
                return Err(wrong(end));
            }
        }
        if bytes.get(end).is_some_and(u8::is_ascii_alphanumeric) {
            return Err(Broken { at: end, what: "a number has a character that none has".to_owned() });
        }
        self.at = end;
        Ok(Value::Number)
    }

    /// A text, from its first quote.
    fn string(&mut self) -> Result<Cow<'a, str>, Broken> {
        let (bytes, start) = (self.text.as_bytes(), self.at + 1);
        let mut at = start;
        loop {
            match bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Cow::Borrowed(&self.text[start..at]));
                }
                Some(b'\\') => return self.escaped(start, at).map(Cow::Owned),
                Some(0..=0x1f) => return Err(control(at)),
                Some(_) => at += 1,
                None => return Err(Broken { at: self.at, what: "a text has no end".to_owned() }),
            }
        }
    }

    /// A text that begins at `start`, from its first escape on.
    fn escaped(&mut self, start: usize, mut at: usize) -> Result<String, Broken> {
        let bytes = self.text.as_bytes();
        let mut text = String::new();
        let mut plain = start;
        loop {
            match bytes.get(at) {
                Some(b'"') => {
                    text.push_str(&self.text[plain..at]);
                    self.at = at + 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    text.push_str(&self.text[plain..at]);
                    at = self.escape(at, &mut text)?;
                    plain = at;
                }
                Some(0..=0x1f) => return Err(control(at)),
                Some(_) => at += 1,
                None => return Err(Broken { at: start, what: "a text has no end".to_owned() }),
            }
        }
    }

    /// Reads the escape at `at`; where it ends.
    fn escape(&mut self, at: usize, text: &mut String) -> Result<usize, Broken> {
        let plain = match self.text.as_bytes().get(at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(at, text),
            _ => return Err(Broken { at, what: "there is no such escape".to_owned() }),
        };
        text.push(plain);
        Ok(at + 2)
    }

    /// Reads `\uXXXX`, or two of them that are one character.
    fn unicode(&mut self, at: usize, text: &mut String) -> Result<usize, Broken> {
        let (mut code, mut end) = (self.hex(at + 2)?, at + 6);
        if (0xd800..0xdc00).contains(&code) && self.text.get(end..end + 2) == Some("\\u") {
            let second = self.hex(end + 2)?;
            if (0xdc00..0xe000).contains(&second) {
                code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
                end += 6;
            }
        }
        let character = char::from_u32(code).unwrap_or_else(|| {
            self.flaw.get_or_insert(format!("\\u{code:04x} is half a character; send both halves"));
            char::REPLACEMENT_CHARACTER
        });
        text.push(character);
        Ok(end)
    }

    fn hex(&self, at: usize) -> Result<u32, Broken> {
        let digits = self.text.get(at..at + 4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        code.ok_or_else(|| Broken { at, what: "\\u wants four hexadecimal digits".to_owned() })
    }

    /// The next byte that is not blank; steps over those that are.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                next => return next.copied(),
            }
        }
    }
}

fn control(at: usize) -> Broken {
    Broken { at, what: "a text has a control character; escape it".to_owned() }
}

/// A key that is there twice.
fn twice<'b>(entries: &'b [(Cow<'_, str>, Node<'_>)]) -> Option<&'b str> {
    let mut keys = entries.iter().map(|(key, _)| &**key);
    if entries.len() <= KEYS_COMPARED_MAX {
        return keys.enumerate().find(|(at, key)| entries[..*at].iter().any(|(other, _)| other == key)).map(|(_, k)| k);
    }
    let mut seen = HashSet::with_capacity(entries.len());
    keys.find(|key| !seen.insert(*key))
}

/// `text` as one value and nothing else.
///
/// # Errors
/// If it is not. Flaws count too.
pub fn whole(text: &str) -> Result<Node<'_>, Broken> {
    let mut reader = Reader::new(text);
    let node = reader.row()?;
    if !reader.is_over() {
        return Err(reader.broken("something follows the value"));
    }
    match reader.take_flaw() {
        Some(what) => Err(Broken { at: 0, what }),
        None => Ok(node),
    }
}

/// `at` in `text` as line and column, both from 1.
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before[line_start..].chars().count() + 1)
}
