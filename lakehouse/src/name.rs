//! Names are checked once, where they enter, so that everything behind may build paths, SQL and URIs from them.
//!
//! A [`Name`] (of a lakehouse, table, model or expectation) is a plain lower-case identifier: it needs no quoting in
//! SQL, no encoding in a path, and no case folding anywhere. Column names come from other people's schemas, so they
//! are freer: [`check_column_name`].

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The longest [`Name`], in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The longest column name, in bytes.
pub const MAX_COLUMN_NAME_BYTES: usize = 255;

/// What a lakehouse can't be called: it is a catalog in SQL, and these are the schemas in it.
pub const RESERVED_LAKEHOUSE_NAMES: [&str; 4] = ["silver", "gold", "system", "information_schema"];

/// A name that matches `[a-z][a-z0-9_]*` and has at most [`MAX_NAME_BYTES`]. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    /// `Kind::Invalid` when it is no name; the message says why, and offers one where it can.
    pub fn new(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("name \"\" is empty; give it at least one letter"));
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(Error::invalid(format!(
                "name {text:?} has {} bytes; the most is {MAX_NAME_BYTES}",
                text.len()
            )));
        }
        let mut chars = text.chars();
        let starts_well = chars.next().is_some_and(|first| first.is_ascii_lowercase());
        let goes_on_well = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !(starts_well && goes_on_well) {
            let cure = likely_name(text).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
            return Err(Error::invalid(format!(
                "name {text:?} must begin with a letter a-z and have only a-z, 0-9 and _{cure}"
            )));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name that was probably meant: lower case, with `_` for what is not allowed.
fn likely_name(text: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let candidate: String = text.trim().chars().map(plain).collect();
    let candidate = candidate.trim_matches('_');
    candidate.starts_with(|c: char| c.is_ascii_lowercase()).then(|| candidate.to_owned())
}

/// Checks the name of a column (or of a struct's field): any text of 1 to [`MAX_COLUMN_NAME_BYTES`] bytes without
/// control characters that does not begin with `_`, which is kept for Mallard's own columns.
///
/// # Errors
/// `Kind::Invalid`, with the reason and the cure.
pub fn check_column_name(name: &str) -> Result<()> {
    check_field_name(name)?;
    if name.starts_with('_') {
        return Err(Error::invalid(format!(
            "column name {name:?} begins with _, which is reserved for Mallard's own columns; rename it"
        )));
    }
    Ok(())
}

/// Checks the name of a field inside a struct: as [`check_column_name`], but `_` may come first, since Mallard adds
/// nothing inside a struct.
///
/// # Errors
/// `Kind::Invalid`, with the reason and the cure.
pub fn check_field_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("column name \"\" is empty; give it at least one letter"));
    }
    if name.len() > MAX_COLUMN_NAME_BYTES {
        return Err(Error::invalid(format!(
            "column name {name:?} has {} bytes; the most is {MAX_COLUMN_NAME_BYTES}",
            name.len()
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(format!("column name {name:?} has a control character; rename the column")));
    }
    Ok(())
}

/// Whether two column names are the same to SQL, which does not look at case.
pub fn same_column(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    a.to_lowercase() == b.to_lowercase()
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Name::new(text).expect_err("should be refused").to_string()
    }

    #[test]
    fn plain_lower_case_identifiers_are_names() {
        for text in ["a", "flights", "carrier_delays", "t2", "a_", &"x".repeat(64)] {
            assert_eq!(Name::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_bad_name_is_refused_with_the_name_that_was_probably_meant() {
        assert_eq!(
            refusal("Carrier-Delays"),
            r#"name "Carrier-Delays" must begin with a letter a-z and have only a-z, 0-9 and _; did you mean "carrier_delays"?"#
        );
        assert_eq!(refusal("1st"), r#"name "1st" must begin with a letter a-z and have only a-z, 0-9 and _"#);
        assert_eq!(refusal(""), r#"name "" is empty; give it at least one letter"#);
        assert!(refusal(&"x".repeat(65)).ends_with("has 65 bytes; the most is 64"));
        assert!(refusal("é").starts_with(r#"name "é" must begin"#));
    }

    #[test]
    fn a_name_travels_through_serde_and_is_checked_on_the_way_in() {
        let name: Name = serde_json::from_str("\"flights\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"flights\"");
        assert!(serde_json::from_str::<Name>("\"Flights\"").is_err());
    }

    #[test]
    fn column_names_are_free_but_for_underscores_control_characters_and_length() {
        for good in ["flight_id", "My Column", "größe", "1st", "a.b", "x\"y"] {
            check_column_name(good).unwrap();
        }
        let refused = |name: &str| check_column_name(name).unwrap_err().to_string();
        assert_eq!(
            refused("_row"),
            r#"column name "_row" begins with _, which is reserved for Mallard's own columns; rename it"#
        );
        assert_eq!(refused(""), r#"column name "" is empty; give it at least one letter"#);
        assert_eq!(refused("a\tb"), r#"column name "a\tb" has a control character; rename the column"#);
        assert!(refused(&"c".repeat(256)).ends_with("has 256 bytes; the most is 255"));
    }

    #[test]
    fn columns_are_compared_without_regard_to_case() {
        assert!(same_column("Größe", "GRÖSSE") == ("größe" == "grösse"));
        assert!(same_column("Flight_ID", "flight_id"));
        assert!(same_column("ÄRA", "ära"));
        assert!(!same_column("a", "b"));
    }
}
