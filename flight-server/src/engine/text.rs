//! What the parser has no grammar for, put into words that it has: question marks as parameters, and time travel.
//!
//! ```text
//! … WHERE a = ? AND b = ?                    ─► … WHERE a = $1 AND b = $2
//! … FROM silver.t FOR VERSION AS OF 3 WHERE  ─► … FROM silver."t@v3" AS "t" WHERE
//! ```
//!
//! It works on tokens, so texts and comments are left alone, and all else of the statement stays as it is, byte by byte.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};
use lakehouse::{Error, Result};

/// Which state of a table a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsOf {
    /// A Delta version.
    Version(u64),
    /// The newest version at a time, in microseconds since the epoch.
    Timestamp(i64),
}

/// The table's own name, and which state of it is meant.
pub(super) fn split_name(name: &str) -> (&str, Option<AsOf>) {
    let as_of = name.rsplit_once('@').and_then(|(table, state)| {
        let state = match state.split_at_checked(1)? {
            ("v", version) => AsOf::Version(version.parse().ok()?),
            ("t", us) => AsOf::Timestamp(us.parse().ok()?),
            _ => return None,
        };
        Some((table, state))
    });
    as_of.map_or((name, None), |(table, state)| (table, Some(state)))
}

/// The statement as the parser takes it.
pub(super) fn rewrite(sql: &str) -> Result<Cow<'_, str>> {
    if !sql.contains('?') && !contains_as_of(sql) {
        return Ok(Cow::Borrowed(sql));
    }
    // What can't be cut into tokens is left to the parser, which says where.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() else {
        return Ok(Cow::Borrowed(sql));
    };
    let tokens = Placed::all(sql, tokens);
    let mut edits = parameters(&tokens, sql)?;
    edits.extend(travels(&tokens)?);
    edits.sort_by_key(|edit| edit.start);
    let (mut text, mut at) = (String::with_capacity(sql.len() + 64), 0);
    for Edit { start, end, by } in edits {
        // A placeholder inside a clause was refused, so edits don't overlap.
        text.push_str(sql.get(at..start).unwrap_or_default());
        text.push_str(&by);
        at = end;
    }
    text.push_str(sql.get(at..).unwrap_or_default());
    Ok(Cow::Owned(text))
}

fn contains_as_of(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    upper.contains("OF") && upper.contains("AS") && (upper.contains("VERSION") || upper.contains("TIME"))
}

/// Bytes of the text to be replaced.
struct Edit {
    start: usize,
    end: usize,
    by: String,
}

/// A token, and the bytes of the text that it is.
struct Placed {
    token: Token,
    place: Location,
    start: usize,
    end: usize,
}

impl Placed {
    /// All but whitespace and comments.
    fn all(sql: &str, tokens: Vec<TokenWithSpan>) -> Vec<Self> {
        let mut cursor = Cursor { sql, byte: 0, line: 1, column: 1 };
        let mut placed = Vec::new();
        for TokenWithSpan { token, span } in tokens {
            let (start, end) = (cursor.advance(span.start), cursor.advance(span.end));
            if !matches!(token, Token::Whitespace(_)) {
                placed.push(Self { token, place: span.start, start, end });
            }
        }
        placed
    }
}

/// Turns the tokenizer's places into bytes, in one walk over the text: lines and columns count from 1, columns count
/// characters.
struct Cursor<'a> {
    sql: &'a str,
    byte: usize,
    line: u64,
    column: u64,
}

impl Cursor<'_> {
    fn advance(&mut self, place: Location) -> usize {
        let rest = self.sql.get(self.byte..).unwrap_or_default();
        for character in rest.chars() {
            if (self.line, self.column) >= (place.line, place.column) {
                break;
            }
            self.byte += character.len_utf8();
            (self.line, self.column) =
                if character == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
        self.byte
    }
}

/// Question marks become numbers, in the order of the text.
fn parameters(tokens: &[Placed], sql: &str) -> Result<Vec<Edit>> {
    let is_word = |at: Option<usize>| {
        let byte = at.and_then(|at| sql.as_bytes().get(at));
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii())
    };
    let (mut edits, mut marks) = (Vec::new(), 0);
    let mut is_numbered = false;
    for Placed { token, start, .. } in tokens {
        match token {
            Token::Placeholder(text) if !text.starts_with('?') => is_numbered = true,
            // The dialect knows operators that begin with a question mark; the engine has none of them.
            Token::Placeholder(_)
            | Token::Question
            | Token::QuestionAnd
            | Token::QuestionPipe
            | Token::QuestionMarkDash
            | Token::QuestionMarkSharp
            | Token::QuestionMarkDashVerticalBar
            | Token::QuestionMarkDoubleVerticalBar => {
                let (start, end) = (*start, start + 1);
                let before = if is_word(start.checked_sub(1)) { " " } else { "" };
                let by = if sql.as_bytes().get(end).is_some_and(u8::is_ascii_digit) {
                    is_numbered = true;
                    format!("{before}$")
                } else {
                    marks += 1;
                    let after = if is_word(Some(end)) { " " } else { "" };
                    format!("{before}${marks}{after}")
                };
                edits.push(Edit { start, end, by });
            }
            _ => {}
        }
    }
    if is_numbered && marks > 0 {
        return Err(Error::invalid("parameters are either question marks or numbered ($1, $2), not both; choose one"));
    }
    Ok(edits)
}

/// `FOR VERSION AS OF n` and its relatives behind a table's name.
fn travels(tokens: &[Placed]) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(clause) = Clause::at(tokens, at) else { continue };
        let name = at.checked_sub(1).and_then(|before| Some((tokens.get(before)?.start, word(tokens, before)?)));
        let value = at + clause.words;
        let state = clause.state(tokens.get(value), tokens.get(value + 1));
        if !clause.has_for && name.is_none_or(|(_, name)| is_keyword(name) && state.is_err()) {
            // Columns may be called so: SELECT version AS of.
            continue;
        }
        let Location { line, column } = token.place;
        let refused = |why: &str| Error::invalid(format!("line {line}, column {column}: {why}"));
        let Some((start, name)) = name else {
            return Err(refused("AS OF stands behind the name of a table; write silver.flights FOR VERSION AS OF 3"));
        };
        let (state, words) = state.map_err(|why| refused(&why))?;
        let own = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
        let behind = value + words;
        let alias = if has_alias(tokens, behind) { String::new() } else { format!(" AS {}", quoted(&own)) };
        let by = format!("{}{alias}", quoted(&format!("{own}@{state}")));
        let end = tokens.get(behind - 1).map_or(token.end, |last| last.end);
        edits.push(Edit { start, end, by });
    }
    Ok(edits)
}

/// A clause that says "as of", and how many words it has ahead of its value.
struct Clause {
    has_for: bool,
    is_version: bool,
    words: usize,
}

impl Clause {
    fn at(tokens: &[Placed], at: usize) -> Option<Self> {
        let has_for = is(tokens, Some(at), "FOR");
        // The words behind a FOR are the tail of a clause that was found one word before.
        if !has_for && is(tokens, at.checked_sub(1), "FOR") {
            return None;
        }
        let first = at + usize::from(has_for);
        let is_version = is(tokens, Some(first), "VERSION") || (has_for && is(tokens, Some(first), "SYSTEM_VERSION"));
        let is_time = is(tokens, Some(first), "TIMESTAMP") || (has_for && is(tokens, Some(first), "SYSTEM_TIME"));
        let is_as_of = is(tokens, Some(first + 1), "AS") && is(tokens, Some(first + 2), "OF");
        ((is_version || is_time) && is_as_of).then_some(Self { has_for, is_version, words: first + 3 - at })
    }

    /// The state as a name has it, and how many tokens say it.
    fn state(&self, value: Option<&Placed>, next: Option<&Placed>) -> Result<(String, usize), String> {
        let what = if self.is_version {
            "VERSION AS OF takes a whole number, such as 3 (system.tables has the newest versions)"
        } else {
            "TIMESTAMP AS OF takes a time as text, such as '2026-01-31 12:00:00'"
        };
        let text = |token: Option<&Placed>| match token.map(|token| &token.token) {
            Some(Token::SingleQuotedString(text)) => Some(text.clone()),
            _ => None,
        };
        match value.map(|token| &token.token) {
            Some(Token::Number(digits, _)) if self.is_version => {
                let version: u64 = digits.parse().map_err(|_| what.to_owned())?;
                Ok((format!("v{version}"), 1))
            }
            Some(Token::SingleQuotedString(text)) if !self.is_version => {
                timestamp_us(text).map(|us| (format!("t{us}"), 1)).map_err(|error| error.to_string())
            }
            Some(Token::Word(word))
                if !self.is_version
                    && matches!(word.keyword, Keyword::TIMESTAMP | Keyword::TIMESTAMPTZ | Keyword::DATE) =>
            {
                let text = text(next).ok_or(what)?;
                timestamp_us(&text).map(|us| (format!("t{us}"), 2)).map_err(|error| error.to_string())
            }
            Some(Token::Placeholder(_) | Token::Question) => {
                Err(format!("{what}; a parameter can't say which state is read, since it decides the columns"))
            }
            _ => Err(what.to_owned()),
        }
    }
}

/// Whether there is a word without quotes.
fn is(tokens: &[Placed], at: Option<usize>, text: &str) -> bool {
    let word = at.and_then(|at| word(tokens, at));
    word.is_some_and(|word| word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

fn is_keyword(word: &Word) -> bool {
    word.quote_style.is_none() && word.keyword != Keyword::NoKeyword
}

fn word(tokens: &[Placed], at: usize) -> Option<&Word> {
    match tokens.get(at).map(|token| &token.token) {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn has_alias(tokens: &[Placed], at: usize) -> bool {
    word(tokens, at).is_some_and(|word| {
        word.quote_style.is_some() || word.keyword == Keyword::AS || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
    })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A time in microseconds since the epoch: a date, or a date and a time, in UTC unless it has an offset.
///
/// # Errors
/// `Invalid`, with the forms that are taken.
pub fn timestamp_us(text: &str) -> Result<i64> {
    let text = text.trim();
    let with_offset = || {
        ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"]
            .iter()
            .find_map(|form| DateTime::parse_from_str(text, form).ok())
            .or_else(|| DateTime::parse_from_rfc3339(text).ok())
            .map(|time| time.timestamp_micros())
    };
    let in_utc = || {
        let plain = text.strip_suffix([' ', 'Z', 'z']).unwrap_or(text).trim_end();
        let time = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(plain, form).ok());
        let day = || NaiveDate::parse_from_str(plain, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
        time.or_else(day).map(|time| time.and_utc().timestamp_micros())
    };
    with_offset().or_else(in_utc).ok_or_else(|| {
        Error::invalid(format!(
            "{text:?} is no time; write 2026-01-31, 2026-01-31 12:00:00 or 2026-01-31T12:00:00+01:00 (UTC if it has no \
             offset)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn becomes(sql: &str, expected: &str) {
        assert_eq!(rewrite(sql).unwrap(), expected, "{sql}");
    }

    #[test]
    fn question_marks_are_numbered_in_the_order_of_the_text() {
        becomes("SELECT ? + ? WHERE a=? LIMIT ?", "SELECT $1 + $2 WHERE a=$3 LIMIT $4");
        becomes("VALUES (?,?)", "VALUES ($1,$2)");
        becomes("SELECT ?-1, ?||'x', ?", "SELECT $1-1, $2||'x', $3");
        becomes("SELECT ?2, ?1", "SELECT $2, $1");
        becomes("SELECT 1 LIMIT?OFFSET?", "SELECT 1 LIMIT $1 OFFSET $2");
        becomes("SELECT 'ü\n?', /* ü\n? */ ?\r\n, 'ü' || ?", "SELECT 'ü\n?', /* ü\n? */ $1\r\n, 'ü' || $2");
        becomes("SELECT a @? b, a ?| c", "SELECT a @? b, a $1| c");
    }

    #[test]
    fn what_is_no_parameter_stays() {
        for sql in [
            "SELECT '?', \"a?\", $1 -- ?",
            "SELECT /* ? FOR VERSION AS OF 3 */ 1",
            "SELECT 'x FOR VERSION AS OF 3'",
            "SELECT version AS of FROM t",
            "SELECT a, version AS of, t.timestamp AS of FROM t",
            "SELECT a AS version, b FROM timestamps",
            "SELECT 'it''s ? here'",
        ] {
            becomes(sql, sql);
        }
    }

    #[test]
    fn two_kinds_of_parameters_are_refused() {
        assert!(rewrite("SELECT ?, $1").unwrap_err().to_string().contains("not both"));
    }

    #[test]
    fn a_version_becomes_part_of_the_name() {
        becomes("SELECT * FROM silver.t FOR VERSION AS OF 3", "SELECT * FROM silver.\"t@v3\" AS \"t\"");
        becomes("SELECT * FROM T version as of 3 WHERE a = 1", "SELECT * FROM \"t@v3\" AS \"t\" WHERE a = 1");
        becomes("FROM c.silver.t FOR SYSTEM_VERSION AS OF 0 AS x", "FROM c.silver.\"t@v0\" AS x");
        becomes(
            "SELECT 'ü' FROM \"T\" FOR VERSION AS OF 12 a JOIN t b ON true",
            "SELECT 'ü' FROM \"T@v12\" a JOIN t b ON true",
        );
        becomes("(SELECT 1 FROM t FOR VERSION AS OF 3)", "(SELECT 1 FROM \"t@v3\" AS \"t\")");
        becomes(
            "WITH x AS (SELECT * FROM date VERSION AS OF 1) SELECT * FROM x LEFT JOIN t FOR VERSION AS OF 2 USING (a)",
            "WITH x AS (SELECT * FROM \"date@v1\" AS \"date\") SELECT * FROM x LEFT JOIN \"t@v2\" AS \"t\" USING (a)",
        );
        becomes("FROM t /* v */ FOR -- the first\nVERSION AS OF 0", "FROM \"t@v0\" AS \"t\"");
        becomes(
            "SELECT * FROM t\n  FOR VERSION AS OF 1, u FOR VERSION AS OF 2\nWHERE x = ?",
            "SELECT * FROM \"t@v1\" AS \"t\", \"u@v2\" AS \"u\"\nWHERE x = $1",
        );
    }

    #[test]
    fn a_time_becomes_part_of_the_name() {
        let us = 1_767_225_600_000_000_i64;
        for form in
            ["'2026-01-01'", "TIMESTAMP '2026-01-01 00:00:00'", "DATE '2026-01-01'", "'2026-01-01T01:00:00+01:00'"]
        {
            becomes(
                &format!("SELECT * FROM t FOR TIMESTAMP AS OF {form}"),
                &format!("SELECT * FROM \"t@t{us}\" AS \"t\""),
            );
        }
        becomes("FROM t FOR SYSTEM_TIME AS OF '2026-01-01' x", &format!("FROM \"t@t{us}\" x"));
    }

    #[test]
    fn other_values_are_refused_with_their_place() {
        for (sql, why) in [
            ("SELECT *\nFROM t FOR VERSION AS OF -1", "line 2, column 8: VERSION AS OF takes a whole number"),
            ("SELECT * FROM t FOR VERSION AS OF '3'", "takes a whole number"),
            ("SELECT * FROM t VERSION AS OF 1.5", "takes a whole number"),
            ("SELECT * FROM t FOR VERSION AS OF", "takes a whole number"),
            ("SELECT * FROM t FOR VERSION AS OF ?", "a parameter can't say"),
            ("SELECT * FROM t FOR TIMESTAMP AS OF now()", "takes a time as text"),
            ("SELECT * FROM t FOR TIMESTAMP AS OF 'soon'", "\"soon\" is no time"),
            ("SELECT * FROM (SELECT 1) FOR VERSION AS OF 3", "stands behind the name of a table"),
        ] {
            let error = rewrite(sql).unwrap_err().to_string();
            assert!(error.contains(why), "{sql}: {error}");
        }
    }

    #[test]
    fn names_are_taken_apart_again() {
        assert_eq!(split_name("t@v3"), ("t", Some(AsOf::Version(3))));
        assert_eq!(split_name("t@t-5"), ("t", Some(AsOf::Timestamp(-5))));
        for name in ["t", "t@", "t@x3", "t@v-1", "@"] {
            assert_eq!(split_name(name), (name, None));
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_plain_text_is_left_alone(sql in "\\PC{0,60}") {
            if let Ok(text) = rewrite(&sql) && !sql.contains('?') {
                prop_assert_eq!(text.as_ref(), sql.as_str());
            }
        }

        #[test]
        fn words_of_the_grammar_in_any_order_do_not_make_it_panic(
            words in proptest::collection::vec(
                prop::sample::select(vec!["FOR", "VERSION", "AS", "OF", "3", "t", "silver.", "?", "'x'", "TIMESTAMP", "\"q\"", ",", "ü", "\n"]),
                0..14,
            ),
        ) {
            let _ = rewrite(&words.join(" "));
        }
    }
}
