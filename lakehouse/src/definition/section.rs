//! Reads the sections of `lakehouse.toml` key by key, so that one wrong key hides no other, and each problem knows its
//! line. (A derived deserializer stops at the first.)

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::words::Word;
use super::{FILE_NAME, Origin, Problem, did_you_mean};
use crate::Name;

/// Bytes in `lakehouse.toml`.
pub(super) type Span = Range<usize>;

/// A key of a table, with its value.
pub(super) type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

/// The problems found so far, and what is needed to say where they are.
pub(super) struct Report<'a> {
    /// The definition's folder.
    pub dir: &'a Path,
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub fn new(dir: &'a Path, text: &'a str) -> Self {
        Self { dir, text, found: Vec::new() }
    }

    /// Notes a problem in `lakehouse.toml`.
    pub fn say(&mut self, span: &Span, message: impl Into<String>) {
        self.found.push(Problem::at(&self.origin(span.start), message));
    }

    /// Notes a problem.
    pub fn add(&mut self, problem: Problem) {
        self.found.push(problem);
    }

    pub fn into_found(self) -> Vec<Problem> {
        self.found
    }

    /// The place of a byte of `lakehouse.toml`.
    pub fn origin(&self, at: usize) -> Origin {
        let before = self.text.get(..at).unwrap_or(self.text);
        Origin { file: FILE_NAME.into(), line: before.matches('\n').count() + 1 }
    }

    /// The place where the content of the text value at `span` begins, behind its quotes and blank space.
    pub fn origin_of_content(&self, span: &Span) -> Origin {
        let raw = self.text.get(span.clone()).unwrap_or_default();
        let content = raw.trim_start_matches(raw.chars().next().unwrap_or('"')).trim_start();
        self.origin(span.start + raw.len() - content.len())
    }

    /// Checks `key` as the name of a `what`.
    pub fn name(&mut self, what: &str, key: &str, span: &Span) -> Option<Name> {
        Name::new(key).map_err(|error| self.say(span, format!("{what} {error}"))).ok()
    }
}

/// A TOML table of which the keys are known.
pub(super) struct Section<'a> {
    /// What it declares, as in `table "flights"`; problems begin with it.
    pub what: String,
    /// Where it begins.
    pub span: Span,
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// Reports keys that are not `known`.
    pub fn open(what: &str, span: &Span, table: &'a DeTable<'a>, known: &[&'static str], report: &mut Report) -> Self {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let word: &str = key.get_ref();
            let cure = match did_you_mean(word, known.iter().copied()) {
                Some(nearest) => format!("did you mean {nearest:?}?"),
                None => format!("there are: {}", known.join(", ")),
            };
            report.say(&key.span(), format!("{what}: unknown key {word:?}; {cure}"));
        }
        Self { what: what.to_owned(), span: span.clone(), table }
    }

    /// As [`Section::open`], for a value that should be a table.
    pub fn of_value(what: &str, value: Entry<'a>, known: &[&'static str], report: &mut Report) -> Option<Self> {
        let (key, value) = value;
        let Some(table) = value.get_ref().as_table() else {
            report
                .say(&value.span(), format!("{what} must be a section with keys, not {}", value.get_ref().type_str()));
            return None;
        };
        Some(Self::open(what, &key.span(), table, known, report))
    }

    /// Notes a problem of this section.
    pub fn say(&self, span: &Span, message: impl AsRef<str>, report: &mut Report) {
        report.say(span, format!("{}: {}", self.what, message.as_ref()));
    }

    pub fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// A text that is not blank.
    pub fn text(&self, key: &str, report: &mut Report) -> Option<Spanned<&'a str>> {
        let text = self.typed(key, "text in quotes", report, DeValue::as_str)?;
        if text.get_ref().trim().is_empty() {
            self.say(&text.span(), format!("{key} is empty; fill it, or leave it out"), report);
            return None;
        }
        Some(text)
    }

    pub fn flag(&self, key: &str, report: &mut Report) -> Option<Spanned<bool>> {
        self.typed(key, "true or false", report, DeValue::as_bool)
    }

    /// A list of texts; empty if it is not there.
    pub fn texts(&self, key: &str, report: &mut Report) -> Vec<Spanned<&'a str>> {
        let Some(list) = self.typed(key, "a list of texts in quotes", report, DeValue::as_array) else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in list.get_ref().iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Spanned::new(item.span(), text)),
                None => self.say(
                    &item.span(),
                    format!("{key} must be a list of texts in quotes, not of {}", item.get_ref().type_str()),
                    report,
                ),
            }
        }
        texts
    }

    /// One of the words that `W` has.
    pub fn word<W: Word>(&self, key: &str, report: &mut Report) -> Option<Spanned<W>> {
        let text = self.text(key, report)?;
        let found = W::ALL.iter().copied().find(|value| value.word() == *text.get_ref());
        if found.is_none() {
            let words: Vec<_> = W::ALL.iter().map(|value| format!("{:?}", value.word())).collect();
            let message = format!("{key} can't be {:?}; write one of {}", text.get_ref(), words.join(", "));
            self.say(&text.span(), message, report);
        }
        found.map(|value| Spanned::new(text.span(), value))
    }

    /// The entries of a section within this one; none if it is not there.
    pub fn entries(&self, key: &str, report: &mut Report) -> Vec<Entry<'a>> {
        let table = self.typed(key, "a section with keys", report, DeValue::as_table);
        table.map(|table| table.into_inner().iter().collect()).unwrap_or_default()
    }

    /// A value of one kind; another kind is a problem.
    pub fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        report: &mut Report,
        take: impl Fn(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let value = self.value(key)?;
        let taken = take(value.get_ref());
        if taken.is_none() {
            self.say(&value.span(), format!("{key} must be {wanted}, not {}", value.get_ref().type_str()), report);
        }
        taken.map(|taken| Spanned::new(value.span(), taken))
    }
}
