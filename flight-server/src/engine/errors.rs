//! DataFusion's errors, as [`lakehouse::Error`]s: what the caller can do next, in one sentence.

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use lakehouse::Error;

/// What `error` means for who asked.
pub fn explain(error: DataFusionError) -> Error {
    let explained = classify(&error);
    match explained {
        Some(explained) => explained,
        None => Error::internal("the query failed for a reason of the server's own").because(error),
    }
}

/// `None` is an internal error.
fn classify(error: &DataFusionError) -> Option<Error> {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => classify(inner),
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(errors) => classify(errors.first()?),
        DataFusionError::External(inner) => classify_foreign(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => classify_arrow(inner),
        DataFusionError::SQL(inner, _) => {
            let text = inner.to_string();
            Some(Error::invalid(format!("SQL: {}", text.trim_start_matches("sql parser error: "))))
        }
        DataFusionError::ResourcesExhausted(text) => Some(Error::exhausted(format!(
            "the query needs more memory or spill space than the server gives ({text}); \
             read fewer rows or columns, or try again when less is running"
        ))),
        DataFusionError::NotImplemented(text) => Some(Error::invalid(format!("not supported: {text}"))),
        DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_)
        | DataFusionError::Substrait(_) => Some(Error::invalid(error.message().into_owned())),
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Some(unreadable(error))
        }
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) | DataFusionError::Ffi(_) => None,
    }
}

fn classify_arrow(error: &ArrowError) -> Option<Error> {
    match error {
        ArrowError::ExternalError(inner) => classify_foreign(inner.as_ref()),
        ArrowError::MemoryError(text) => {
            Some(Error::exhausted(format!("the query needs more memory than there is ({text}); read less at once")))
        }
        ArrowError::IoError(..) => Some(unreadable(error)),
        // A cast, a division by zero, an overflow: the statement's own.
        other => Some(Error::invalid(other.to_string())),
    }
}

fn classify_foreign(error: &(dyn StdError + 'static)) -> Option<Error> {
    if let Some(own) = error.downcast_ref::<Error>() {
        return Some(Error::new(own.kind(), own.chain()));
    }
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return classify(inner);
    }
    if let Some(inner) = error.downcast_ref::<ArrowError>() {
        return classify_arrow(inner);
    }
    // It comes in several wrappers, and not always as the type that it was.
    let text = error.to_string();
    if text.starts_with("regex parse error") || text.starts_with("Compiled regex exceeds size limit") {
        return Some(Error::invalid(text));
    }
    Some(unreadable(error))
}

fn unreadable(error: &dyn StdError) -> Error {
    tracing::warn!(%error, "a query can't read the lake");
    Error::unavailable("the lake's data can't be read just now; try again, and look at the server's log if it stays so")
}

/// The catalog, schema and table of a planner's "no such table", if `message` is one.
pub(super) fn missing_table(message: &str) -> Option<(&str, &str, &str)> {
    let qualified = message.strip_prefix("table '")?.strip_suffix("' not found")?;
    let mut parts = qualified.splitn(3, '.');
    Some((parts.next()?, parts.next()?, parts.next()?))
}
