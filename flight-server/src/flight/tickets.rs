//! What clients carry for us: tickets of planned queries and handles of prepared statements.
//!
//! They hold all that any server needs to go on: the statement, its default schema, and for a ticket the Delta
//! versions it was planned on. They end: a ticket must not outlive the data files it reads.

use std::time::Duration;

use bytes::Bytes;
use lakehouse::{Clock, Error, Result};
use prost::Message as _;
use proto::{PreparedHandle, QueryHandle};

use crate::engine::Versions;

/// How long a query can be fetched after it was planned.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long a statement stays prepared. Connection pools keep statements for long; a day covers theirs.
pub const PREPARED_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The version of both messages' meaning.
const HANDLE_VERSION: u32 = 1;

/// A statement and where its unqualified names lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) schema: String,
}

/// A statement planned on certain versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedQuery {
    pub(super) statement: Statement,
    pub(super) versions: Versions,
}

impl PlannedQuery {
    pub(super) fn encode(self, clock: &dyn Clock) -> Bytes {
        let delta_versions = self.versions.into_iter().map(|(name, version)| (name, version.cast_signed())).collect();
        let handle = QueryHandle {
            version: HANDLE_VERSION,
            sql: self.statement.sql,
            schema: self.statement.schema,
            delta_versions,
            expires_at_us: expiry(clock, TICKET_LIFETIME),
        };
        handle.encode_to_vec().into()
    }

    pub(super) fn decode(handle: &[u8], clock: &dyn Clock) -> Result<Self> {
        let handle = QueryHandle::decode(handle).map_err(|error| damaged("ticket").because(error))?;
        check("ticket", "plan the query again (GetFlightInfo)", handle.version, handle.expires_at_us, clock)?;
        let versions = handle.delta_versions.into_iter().map(|(name, version)| (name, version.cast_unsigned()));
        Ok(Self { statement: Statement { sql: handle.sql, schema: handle.schema }, versions: versions.collect() })
    }
}

impl Statement {
    /// This statement as a prepared one's handle.
    pub(super) fn encode(self, clock: &dyn Clock) -> Bytes {
        let handle = PreparedHandle {
            version: HANDLE_VERSION,
            sql: self.sql,
            schema: self.schema,
            expires_at_us: expiry(clock, PREPARED_LIFETIME),
            ..PreparedHandle::default()
        };
        handle.encode_to_vec().into()
    }

    pub(super) fn decode(handle: &[u8], clock: &dyn Clock) -> Result<Self> {
        let what = "prepared statement";
        let handle = PreparedHandle::decode(handle).map_err(|error| damaged(what).because(error))?;
        check(what, "prepare the statement again", handle.version, handle.expires_at_us, clock)?;
        Ok(Self { sql: handle.sql, schema: handle.schema })
    }
}

fn expiry(clock: &dyn Clock, lifetime: Duration) -> i64 {
    clock.now_us().saturating_add(i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX))
}

fn damaged(what: &str) -> Error {
    Error::invalid(format!("the {what} is not one of this server's, or was damaged on its way"))
}

fn check(what: &str, cure: &str, version: u32, expires_at_us: i64, clock: &dyn Clock) -> Result<()> {
    // Bytes that are no handle at all may decode as an empty one.
    if version == 0 {
        return Err(damaged(what));
    }
    if version != HANDLE_VERSION {
        let known = HANDLE_VERSION;
        return Err(Error::invalid(format!("the {what} has version {version}, this server knows {known}; {cure}")));
    }
    if expires_at_us <= clock.now_us() {
        return Err(Error::invalid(format!("the {what} has expired; {cure}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lakehouse::ManualClock;

    use super::*;
    use crate::engine::NEVER_COMMITTED;

    fn statement() -> Statement {
        Statement { sql: "SELECT 1".to_owned(), schema: "gold".to_owned() }
    }

    #[test]
    fn a_ticket_comes_back_as_it_went() {
        let clock = ManualClock::at(5);
        let versions = Versions::from([("silver.a".to_owned(), 7), ("silver.b".to_owned(), NEVER_COMMITTED)]);
        let query = PlannedQuery { statement: statement(), versions };
        assert_eq!(PlannedQuery::decode(&query.clone().encode(&clock), &clock).unwrap(), query);
    }

    #[test]
    fn a_ticket_ends_and_says_what_to_do() {
        let clock = ManualClock::at(0);
        let ticket = PlannedQuery { statement: statement(), versions: Versions::new() }.encode(&clock);
        let lifetime_us = i64::try_from(TICKET_LIFETIME.as_micros()).unwrap();
        clock.advance_us(lifetime_us - 1);
        PlannedQuery::decode(&ticket, &clock).unwrap();
        clock.advance_us(1);
        let error = PlannedQuery::decode(&ticket, &clock).unwrap_err();
        assert_eq!(error.to_string(), "the ticket has expired; plan the query again (GetFlightInfo)");
    }

    #[test]
    fn a_prepared_statement_comes_back_and_ends_too() {
        let clock = ManualClock::at(0);
        let handle = statement().encode(&clock);
        assert_eq!(Statement::decode(&handle, &clock).unwrap(), statement());
        clock.advance_us(i64::try_from(PREPARED_LIFETIME.as_micros()).unwrap());
        let error = Statement::decode(&handle, &clock).unwrap_err();
        assert_eq!(error.to_string(), "the prepared statement has expired; prepare the statement again");
    }

    #[test]
    fn bytes_that_are_no_ticket_are_refused() {
        let clock = ManualClock::at(0);
        for bytes in [&b""[..], b"\xff\xff\xff", b"SELECT 1"] {
            assert!(PlannedQuery::decode(bytes, &clock).unwrap_err().to_string().contains("not one of this server's"));
        }
        let newer = QueryHandle { version: 2, expires_at_us: i64::MAX, ..QueryHandle::default() };
        let error = PlannedQuery::decode(&newer.encode_to_vec(), &clock).unwrap_err();
        assert!(error.to_string().starts_with("the ticket has version 2, this server knows 1"));
    }
}
