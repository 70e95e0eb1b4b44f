//! DuckDB's errors as ours: a kind by its class, and a place in the SQL file by its line.

use lakehouse::definition::Origin;
use lakehouse::{Error, Kind};

/// A DuckDB error with the kind that its class implies. `what` says what was being done.
pub(crate) fn convert(what: &str, error: &duckdb::Error) -> Error {
    let text = match error {
        duckdb::Error::DuckDBFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    };
    Error::new(kind_of(&text), format!("{what}: {}", text.trim()))
}

fn kind_of(text: &str) -> Kind {
    let class = text.split(" Error:").next().unwrap_or_default().trim();
    match class {
        "Out of Memory" => Kind::Exhausted,
        "INTERRUPT" => Kind::Cancelled,
        "IO" => Kind::Unavailable,
        "INTERNAL" | "FATAL" => Kind::Internal,
        _ => Kind::Invalid,
    }
}

/// The error with its place in the definition: DuckDB's `LINE n` is counted from where the SQL begins in its file.
pub fn locate(error: &Error, origin: &Origin) -> Error {
    let message = error.to_string();
    let (line, message) = match split_line(&message) {
        Some((line, rest)) => (origin.line + line - 1, rest),
        None => (origin.line, message),
    };
    Error::new(error.kind(), format!("{}:{line}: {message}", origin.file.display()))
}

/// Takes `LINE n: <excerpt>` and the caret below it out of a message, and gives n and the rest.
fn split_line(message: &str) -> Option<(usize, String)> {
    let start = message.find("LINE ")?;
    let tail = &message[start + "LINE ".len()..];
    let (number, excerpt) = tail.split_once(':')?;
    let line = number.trim().parse().ok()?;
    let excerpt = excerpt.lines().next().unwrap_or_default().trim();
    let head = message[..start].trim_end();
    Some((line, if excerpt.is_empty() { head.to_owned() } else { format!("{head} in: {excerpt}") }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_error_is_located_by_the_line_in_its_file() {
        let origin = Origin { file: PathBuf::from("gold/x.sql"), line: 1 };
        let error = Error::invalid("Binder Error: no column \"b\"\n\nLINE 3: SELECT b\n               ^");
        assert_eq!(locate(&error, &origin).to_string(), "gold/x.sql:3: Binder Error: no column \"b\" in: SELECT b");
    }

    #[test]
    fn the_kind_follows_the_class_of_the_error() {
        assert_eq!(kind_of("Out of Memory Error: failed to allocate"), Kind::Exhausted);
        assert_eq!(kind_of("INTERRUPT Error: Interrupted!"), Kind::Cancelled);
        assert_eq!(kind_of("IO Error: no space"), Kind::Unavailable);
        assert_eq!(kind_of("Parser Error: syntax error"), Kind::Invalid);
    }
}
