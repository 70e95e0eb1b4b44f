//! What can be asked of a Lambda by a direct call (and, of objects, by a message of our own).
//!
//! ```json
//! {"table": "orders", "objects": ["bronze/orders/2026/01/31/08/x", {"key": "bronze/…", "delivered_at_us": 1}]}
//! {"table": "orders", "from": "2026-01-31T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
//! {"table": "orders", "from": "2019-01-31T00:00:00Z", "again": true}
//! {"table": "orders", "replay": {"where": "rule = 'not_negative'"}}
//! {"reconcile": {"tables": ["orders"], "hours": 24}}
//! ```

use chrono::DateTime;
use lakehouse::delta::TRANSACTION_RETENTION_DAYS;
use lakehouse::{Context as _, Error, Kind, Name, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Notice, Origin};

/// How far a reconciliation looks back unless it is said, in hours.
pub const RECONCILE_HOURS_DEFAULT: u32 = 24;

/// How far it looks back at most, in hours: as long as tables remember what was merged, less a day for what is under way.
pub const RECONCILE_HOURS_MAX: u32 = 24 * (TRANSACTION_RETENTION_DAYS - 1);

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Merge objects.
    Objects {
        /// Their table.
        table: Name,
        /// Each of them, with keys relative to the lake.
        notices: Vec<Notice>,
        /// Though the table may have forgotten that it has merged them.
        again: bool,
    },
    /// Merge the objects of a time.
    Range {
        /// Their table.
        table: Name,
        /// Where the time begins, in microseconds since the epoch.
        from_us: i64,
        /// Where it ends; `None`: now.
        to_us: Option<i64>,
        /// Though the table may have forgotten that it has merged them.
        again: bool,
    },
    /// Merge what is in quarantine, after what was wrong has been put right.
    Replay {
        /// The table that it was meant for.
        table: Name,
        /// Which rows of the quarantine, as SQL; `None`: all.
        filter: Option<String>,
    },
    /// Look for objects that no event told of.
    Reconcile {
        /// In these tables; `None`: all.
        tables: Option<Vec<Name>>,
        /// Not older than so many hours.
        hours: u32,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    table: Option<Name>,
    objects: Option<Vec<RawObject>>,
    from: Option<String>,
    to: Option<String>,
    again: Option<bool>,
    replay: Option<RawReplay>,
    reconcile: Option<RawReconcile>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawObject {
    Key(String),
    Full { key: String, delivered_at_us: Option<i64> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReplay {
    r#where: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReconcile {
    tables: Option<Vec<Name>>,
    hours: Option<u32>,
}

/// What a queue's message says that asks for one object to be merged: as [`Request::Objects`] reads it.
pub fn body_of(table: &Name, key: &str, delivered_at_us: i64) -> Value {
    json!({ "table": table.as_str(), "objects": [{ "key": key, "delivered_at_us": delivered_at_us }] })
}

/// Reads a request.
///
/// # Errors
/// `Invalid` if it is none; the message says what can be asked.
pub(super) fn parse(event: Value) -> Result<Request> {
    let wrong = || {
        "the event is nothing that this function knows; give {\"table\", \"objects\"}, {\"table\", \"from\", \"to\"}, \
         {\"table\", \"replay\"} or {\"reconcile\"}"
            .to_owned()
    };
    let raw: Raw = serde_json::from_value(event).context(Kind::Invalid, wrong)?;
    match raw {
        Raw {
            table: Some(table),
            objects: Some(objects),
            again,
            from: None,
            to: None,
            replay: None,
            reconcile: None,
        } => {
            let notices = objects.into_iter().map(|object| {
                let (key, delivered_at_us) = match object {
                    RawObject::Key(key) => (key, None),
                    RawObject::Full { key, delivered_at_us } => (key, delivered_at_us),
                };
                Notice { origin: Origin::Table(table.clone()), key, delivered_at_us }
            });
            let notices = notices.collect();
            Ok(Request::Objects { table, notices, again: again.unwrap_or_default() })
        }
        Raw { table: Some(table), objects: None, from: Some(from), to, again, replay: None, reconcile: None } => {
            let (from_us, to_us) = (time("from", &from)?, to.map(|to| time("to", &to)).transpose()?);
            if to_us.is_some_and(|to_us| to_us <= from_us) {
                return Err(Error::invalid("\"to\" is not behind \"from\"; the objects of that time are none"));
            }
            Ok(Request::Range { table, from_us, to_us, again: again.unwrap_or_default() })
        }
        Raw {
            table: Some(table),
            objects: None,
            from: None,
            to: None,
            again: None,
            replay: Some(replay),
            reconcile: None,
        } => Ok(Request::Replay { table, filter: replay.r#where }),
        Raw {
            table: None,
            objects: None,
            from: None,
            to: None,
            again: None,
            replay: None,
            reconcile: Some(reconcile),
        } => {
            let hours = reconcile.hours.unwrap_or(RECONCILE_HOURS_DEFAULT);
            if !(1..=RECONCILE_HOURS_MAX).contains(&hours) {
                return Err(Error::invalid(format!("\"hours\" is {hours}; give 1 to {RECONCILE_HOURS_MAX}")));
            }
            Ok(Request::Reconcile { tables: reconcile.tables, hours })
        }
        _ => Err(Error::invalid(wrong())),
    }
}

fn time(field: &str, text: &str) -> Result<i64> {
    let parsed = DateTime::parse_from_rfc3339(text).context(Kind::Invalid, || {
        format!("{field:?} is {text:?}, which is no time; write it as 2026-01-31T08:00:00Z")
    })?;
    Ok(parsed.timestamp_micros())
}
