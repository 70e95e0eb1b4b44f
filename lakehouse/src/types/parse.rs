//! Reads a type from its SQL text: a recursive-descent parser whose errors point into the text.
//!
//! ```text
//! type   = base { "[" "]" }
//! base   = word | "decimal" "(" p "," s ")" | "struct" "(" name type { "," name type } ")" | "map" "(" type "," type ")"
//! name   = identifier | '"' text '"'
//! ```

use super::{MAX_DECIMAL_PRECISION, MAX_TYPE_DEPTH, SqlType, StructField};
use crate::definition::did_you_mean;
use crate::name::{check_field_name, same_column};
use crate::{Error, Result};

/// The words a type can begin with; the canonical ones first, then aliases.
const WORDS: [&str; 25] = [
    "boolean",
    "tinyint",
    "smallint",
    "integer",
    "bigint",
    "float",
    "double",
    "decimal",
    "varchar",
    "json",
    "date",
    "timestamp",
    "timestamp_ntz",
    "blob",
    "struct",
    "map",
    "bool",
    "int",
    "real",
    "numeric",
    "string",
    "text",
    "timestamptz",
    "binary",
    "bytea",
];

/// Reads all of `text` as one type.
pub(super) fn parse(text: &str) -> Result<SqlType> {
    let mut parser = Parser { text, at: 0 };
    let outcome = parser.parse_type(0).and_then(|(parsed, _)| {
        parser.skip_space();
        match parser.peek() {
            None => Ok(parsed),
            Some(c) => Err(parser.fault(format!("nothing should follow the type, but {c:?} does"))),
        }
    });
    outcome.map_err(|fault| {
        let column = text[..fault.at].chars().count() + 1;
        Error::invalid(format!("type {:?}, column {column}: {}", shortened(text), fault.message))
    })
}

/// The beginning of `text`, as much as a message should repeat.
fn shortened(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 120;
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether `name` is an identifier that needs no quotes.
pub(super) fn is_plain_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Fault {
    at: usize,
    message: String,
}

struct Parser<'a> {
    text: &'a str,
    /// A byte position, always between two characters.
    at: usize,
}

/// A type and how deep it nests.
type Measured = (SqlType, usize);

impl<'a> Parser<'a> {
    fn parse_type(&mut self, depth: usize) -> Result<Measured, Fault> {
        self.skip_space();
        let start = self.at;
        if depth >= MAX_TYPE_DEPTH {
            return Err(too_deep(start));
        }
        let (mut parsed, mut height) = self.parse_base(depth)?;
        while self.eat('[') {
            if self.peek() != Some(']') {
                return Err(self.fault("lists have no fixed length; write []"));
            }
            self.eat(']');
            parsed = SqlType::List(Box::new(parsed));
            height += 1;
            if depth + height > MAX_TYPE_DEPTH {
                return Err(too_deep(start));
            }
        }
        Ok((parsed, height))
    }

    fn parse_base(&mut self, depth: usize) -> Result<Measured, Fault> {
        let start = self.at;
        let word = self.word().to_ascii_lowercase();
        let plain = match word.as_str() {
            "" => return Err(self.fault_here("a type")),
            "boolean" | "bool" => SqlType::Boolean,
            "tinyint" => SqlType::TinyInt,
            "smallint" => SqlType::SmallInt,
            "integer" | "int" => SqlType::Integer,
            "bigint" => SqlType::BigInt,
            "float" | "real" => SqlType::Float,
            "double" => SqlType::Double,
            "decimal" | "numeric" => self.parse_decimal(start)?,
            "varchar" | "string" | "text" => SqlType::Varchar,
            "json" => SqlType::Json,
            "date" => SqlType::Date,
            "timestamp" | "timestamptz" => SqlType::Timestamp,
            "timestamp_ntz" => SqlType::TimestampNtz,
            "blob" | "binary" | "bytea" => SqlType::Blob,
            "struct" => return self.parse_struct(depth),
            "map" => return self.parse_map(depth),
            _ => return Err(Fault { at: start, message: unknown_word(&word) }),
        };
        if !matches!(plain, SqlType::Decimal { .. }) && self.peek_past_space() == Some('(') {
            return Err(self.fault(format!("{word} takes nothing in parentheses; write {word}")));
        }
        Ok((plain, 1))
    }

    fn parse_decimal(&mut self, start: usize) -> Result<SqlType, Fault> {
        let cure = "write decimal(precision, scale), as in decimal(18,2)";
        if !self.eat('(') {
            return Err(Fault { at: start, message: format!("decimal needs its digits; {cure}") });
        }
        self.skip_space();
        let precision_at = self.at;
        let precision = self.number(cure)?;
        if !self.eat(',') {
            return Err(self.fault(format!("decimal needs a scale too; {cure}")));
        }
        self.skip_space();
        let scale_at = self.at;
        let scale = self.number(cure)?;
        self.expect(')')?;
        if !(1..=MAX_DECIMAL_PRECISION).contains(&precision) {
            let message = format!("precision {precision} is not within 1 to {MAX_DECIMAL_PRECISION}");
            return Err(Fault { at: precision_at, message });
        }
        if scale > precision {
            let message = format!("scale {scale} is over the precision, {precision}; the scale is part of it");
            return Err(Fault { at: scale_at, message });
        }
        Ok(SqlType::Decimal { precision, scale })
    }

    fn parse_struct(&mut self, depth: usize) -> Result<Measured, Fault> {
        self.expect('(')?;
        let mut fields: Vec<StructField> = Vec::new();
        let mut height = 0;
        loop {
            self.skip_space();
            let name_at = self.at;
            let name = self.field_name()?;
            check_field_name(&name).map_err(|error| Fault { at: name_at, message: error.to_string() })?;
            if fields.iter().any(|field| same_column(&field.name, &name)) {
                let message = format!("field {name:?} is there twice (case does not count); rename one");
                return Err(Fault { at: name_at, message });
            }
            let (data_type, field_height) = self.parse_type(depth + 1)?;
            height = height.max(field_height);
            fields.push(StructField { name, data_type });
            if !self.eat(',') {
                break;
            }
        }
        self.expect(')')?;
        Ok((SqlType::Struct(fields), height + 1))
    }

    fn parse_map(&mut self, depth: usize) -> Result<Measured, Fault> {
        self.expect('(')?;
        self.skip_space();
        let key_at = self.at;
        let (key, _) = self.parse_type(depth + 1)?;
        if key.is_nested() {
            let message = format!("a map's key can't be {key}; use a type that holds no others");
            return Err(Fault { at: key_at, message });
        }
        self.expect(',')?;
        let (value, height) = self.parse_type(depth + 1)?;
        self.expect(')')?;
        Ok((SqlType::Map(Box::new(key), Box::new(value)), height + 1))
    }

    fn field_name(&mut self) -> Result<String, Fault> {
        if self.peek() != Some('"') {
            let name = self.word();
            return if name.is_empty() { Err(self.fault_here("a field's name")) } else { Ok(name.to_owned()) };
        }
        let start = self.at;
        self.at += 1;
        let mut name = String::new();
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            if c != '"' {
                name.push(c);
            } else if self.peek() == Some('"') {
                self.at += 1;
                name.push('"');
            } else {
                return Ok(name);
            }
        }
        Err(Fault { at: start, message: "the field's name is not closed; add \"".into() })
    }

    /// Letters, digits and `_`, as many as there are.
    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn number(&mut self, cure: &str) -> Result<u8, Fault> {
        let start = self.at;
        let word = self.word();
        word.parse().map_err(|_| Fault { at: start, message: format!("{word:?} is no number of digits; {cure}") })
    }

    fn expect(&mut self, wanted: char) -> Result<(), Fault> {
        if self.eat(wanted) { Ok(()) } else { Err(self.fault_here(&format!("{wanted:?}"))) }
    }

    /// Takes `wanted`, and the space before it, if it comes next.
    fn eat(&mut self, wanted: char) -> bool {
        let is_next = self.peek_past_space() == Some(wanted);
        if is_next {
            self.skip_space();
            self.at += wanted.len_utf8();
            self.skip_space();
        }
        is_next
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn peek_past_space(&self) -> Option<char> {
        self.text[self.at..].trim_start().chars().next()
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault { at: self.at, message: message.into() }
    }

    fn fault_here(&mut self, wanted: &str) -> Fault {
        self.skip_space();
        match self.peek() {
            Some(c) => self.fault(format!("expected {wanted}, found {c:?}")),
            None => self.fault(format!("expected {wanted}, found the end")),
        }
    }
}

fn too_deep(at: usize) -> Fault {
    Fault { at, message: format!("types nest deeper than {MAX_TYPE_DEPTH}; flatten it, or store it as json") }
}

fn unknown_word(word: &str) -> String {
    let cure = match word {
        "datetime" => "did you mean \"timestamp\" (an instant) or \"timestamp_ntz\" (a time of no zone)?".to_owned(),
        "utinyint" => "there are no unsigned integers; use smallint".to_owned(),
        "usmallint" => "there are no unsigned integers; use integer".to_owned(),
        "uinteger" => "there are no unsigned integers; use bigint".to_owned(),
        "ubigint" => "there are no unsigned integers; use decimal(20,0)".to_owned(),
        "uuid" => "use varchar".to_owned(),
        "time" | "interval" => "Delta Lake has none; use bigint (microseconds), or varchar".to_owned(),
        _ => match did_you_mean(word, WORDS) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("there are: {}, and T[]", WORDS[..16].join(", ")),
        },
    };
    format!("there is no type {word:?}; {cure}")
}
