//! What clients carry for us: tickets of planned queries, handles of prepared statements and of kept results.
//!
//! They hold all that any server needs to go on: the statement, its session options and parameters, and for a ticket
//! the Delta versions it was planned on. They are sealed ([`seal`](super::seal)), and they end: a ticket must not
//! outlive the data files it reads.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use lakehouse::{Clock, Error, Result};
use prost::Message;
use proto::{PollHandle, PreparedHandle, QueryHandle, ResultHandle, Session, prepared_handle, query_handle};

use super::seal::{Purpose, Sealer};
use crate::engine::{Pinned, QueryText, Request, Slice};

/// How long a query can be fetched after it was planned, or its ticket renewed.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long after its planning a query's tickets can be renewed: far within the time that Delta keeps files that were
/// replaced (7 days: <https://docs.delta.io/latest/delta-utility.html#remove-files-no-longer-referenced-by-a-delta-table>).
pub const RENEWAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a statement stays prepared. Connection pools keep statements for long; a day covers theirs.
pub const PREPARED_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The most that the values bound to a prepared query may take, encoded, in bytes: they travel in its handle.
pub const PARAMETERS_BYTES_MAX: usize = 1 << 20;

/// The version of all messages' meaning.
pub(super) const HANDLE_VERSION: u32 = 2;

/// What seals, for whom, and when.
#[derive(Clone, Copy)]
pub(super) struct Seals<'a> {
    pub(super) sealer: &'a Sealer,
    pub(super) principal: &'a str,
    pub(super) clock: &'a dyn Clock,
}

/// A statement, what it was prepared with and what was bound to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) text: QueryText,
    pub(super) session: Session,
    pub(super) parameters: Option<RecordBatch>,
    pub(super) is_update: bool,
}

/// A statement planned on certain versions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedQuery {
    /// With what was pinned.
    pub(super) request: Request,
    /// The ingest that it makes if it writes.
    pub(super) ingest_id: Option<String>,
}

/// A part of a result that lies in the lake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResultPart {
    pub(super) query_id: String,
    pub(super) part: u32,
    pub(super) compression: String,
}

/// A query that runs in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Polled {
    pub(super) query_id: String,
    pub(super) compression: String,
}

impl PlannedQuery {
    /// The ticket, and when it ends, in microseconds since the epoch.
    pub(super) fn encode(&self, seals: Seals<'_>) -> Result<(Bytes, i64)> {
        let pinned = self.request.pinned.clone().unwrap_or_default();
        let latest = pinned.planned_at_us.saturating_add(micros(RENEWAL_MAX));
        let expires_at_us = expiry(seals, TICKET_LIFETIME).min(latest);
        if expires_at_us <= seals.clock.now_us() {
            return Err(Error::invalid(
                "the ticket can't be renewed any more, since the versions that it reads may be removed; plan the query \
                 again (GetFlightInfo)",
            ));
        }
        let text = match self.request.text.clone() {
            QueryText::Sql(sql) => query_handle::Text::Sql(sql),
            QueryText::Substrait(plan) => query_handle::Text::Substrait(plan.into()),
        };
        let handle = QueryHandle {
            version: HANDLE_VERSION,
            query_id: self.request.id.clone(),
            text: Some(text),
            session: Some(self.request.session.clone()),
            delta_versions: pinned.versions.into_iter().map(|(name, version)| (name, version.cast_signed())).collect(),
            planned_at_us: pinned.planned_at_us,
            slice_index: pinned.slice.map_or(0, |slice| slice.index),
            slice_partitions: pinned.slice.map_or(0, |slice| slice.partitions),
            fingerprint: pinned.slice.map_or(0, |slice| slice.fingerprint),
            parameters: written(self.request.parameters.as_ref())?,
            expires_at_us,
            ingest_id: self.ingest_id.clone().unwrap_or_default(),
        };
        Ok((sealed(seals, Purpose::Ticket, &handle)?, expires_at_us))
    }

    pub(super) fn decode(ticket: &[u8], seals: Seals<'_>) -> Result<Self> {
        let handle: QueryHandle = opened(seals, Purpose::Ticket, ticket).ok_or_else(|| damaged("ticket"))?;
        let cure = "plan the query again (GetFlightInfo)";
        check("ticket", cure, handle.version, handle.expires_at_us, seals.clock)?;
        let text = match handle.text.ok_or_else(|| damaged("ticket"))? {
            query_handle::Text::Sql(sql) => QueryText::Sql(sql),
            query_handle::Text::Substrait(plan) => QueryText::Substrait(plan.into()),
        };
        let slice =
            Slice { index: handle.slice_index, partitions: handle.slice_partitions, fingerprint: handle.fingerprint };
        let versions = handle.delta_versions.into_iter().map(|(name, version)| (name, version.cast_unsigned()));
        let pinned = Pinned {
            versions: versions.collect(),
            planned_at_us: handle.planned_at_us,
            slice: (slice.partitions > 0).then_some(slice),
        };
        let request = Request {
            id: handle.query_id,
            text,
            session: handle.session.unwrap_or_default(),
            parameters: read(&handle.parameters)?,
            pinned: Some(pinned),
        };
        Ok(Self { request, ingest_id: Some(handle.ingest_id).filter(|id| !id.is_empty()) })
    }
}

impl Statement {
    /// This statement as a prepared one's handle.
    pub(super) fn encode(&self, seals: Seals<'_>) -> Result<Bytes> {
        let text = match self.text.clone() {
            QueryText::Sql(sql) => prepared_handle::Text::Sql(sql),
            QueryText::Substrait(plan) => prepared_handle::Text::Substrait(plan.into()),
        };
        let handle = PreparedHandle {
            version: HANDLE_VERSION,
            text: Some(text),
            session: Some(self.session.clone()),
            parameters: written(self.parameters.as_ref())?,
            expires_at_us: expiry(seals, PREPARED_LIFETIME),
            is_update: self.is_update,
        };
        sealed(seals, Purpose::Prepared, &handle)
    }

    pub(super) fn decode(handle: &[u8], seals: Seals<'_>) -> Result<Self> {
        let what = "prepared statement";
        let handle: PreparedHandle = opened(seals, Purpose::Prepared, handle).ok_or_else(|| damaged(what))?;
        check(what, "prepare the statement again", handle.version, handle.expires_at_us, seals.clock)?;
        let text = match handle.text.ok_or_else(|| damaged(what))? {
            prepared_handle::Text::Sql(sql) => QueryText::Sql(sql),
            prepared_handle::Text::Substrait(plan) => QueryText::Substrait(plan.into()),
        };
        let session = handle.session.unwrap_or_default();
        Ok(Self { text, session, parameters: read(&handle.parameters)?, is_update: handle.is_update })
    }
}

impl ResultPart {
    /// The ticket, and when it ends, in microseconds since the epoch.
    pub(super) fn encode(&self, seals: Seals<'_>) -> Result<(Bytes, i64)> {
        let expires_at_us = expiry(seals, TICKET_LIFETIME);
        let handle = ResultHandle {
            version: HANDLE_VERSION,
            query_id: self.query_id.clone(),
            part: self.part,
            compression: self.compression.clone(),
            expires_at_us,
        };
        Ok((sealed(seals, Purpose::Result, &handle)?, expires_at_us))
    }

    /// `None` if the bytes are something else.
    pub(super) fn decode(ticket: &[u8], seals: Seals<'_>) -> Result<Option<Self>> {
        let Some(handle) = opened::<ResultHandle>(seals, Purpose::Result, ticket) else { return Ok(None) };
        check("ticket", "run the query again", handle.version, handle.expires_at_us, seals.clock)?;
        Ok(Some(Self { query_id: handle.query_id, part: handle.part, compression: handle.compression }))
    }
}

impl Polled {
    /// The handle, and when it ends, in microseconds since the epoch.
    pub(super) fn encode(&self, seals: Seals<'_>) -> Result<(Bytes, i64)> {
        let expires_at_us = expiry(seals, TICKET_LIFETIME);
        let handle = PollHandle {
            version: HANDLE_VERSION,
            query_id: self.query_id.clone(),
            compression: self.compression.clone(),
            expires_at_us,
        };
        Ok((sealed(seals, Purpose::Poll, &handle)?, expires_at_us))
    }

    /// `None` if the bytes are something else.
    pub(super) fn decode(handle: &[u8], seals: Seals<'_>) -> Result<Option<Self>> {
        let Some(handle) = opened::<PollHandle>(seals, Purpose::Poll, handle) else { return Ok(None) };
        check("poll handle", "run the query again", handle.version, handle.expires_at_us, seals.clock)?;
        Ok(Some(Self { query_id: handle.query_id, compression: handle.compression }))
    }
}

fn sealed(seals: Seals<'_>, purpose: Purpose, handle: &impl Message) -> Result<Bytes> {
    seals.sealer.seal(purpose, seals.principal, &handle.encode_to_vec())
}

fn opened<T: Message + Default>(seals: Seals<'_>, purpose: Purpose, bytes: &[u8]) -> Option<T> {
    T::decode(seals.sealer.open(purpose, seals.principal, bytes)?.as_slice()).ok()
}

pub(super) fn expiry(seals: Seals<'_>, lifetime: Duration) -> i64 {
    seals.clock.now_us().saturating_add(micros(lifetime))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn damaged(what: &str) -> Error {
    Error::invalid(format!(
        "the {what} is not one of this lakehouse's, or another user's, or was damaged on its way; get a new one"
    ))
}

fn check(what: &str, cure: &str, version: u32, expires_at_us: i64, clock: &dyn Clock) -> Result<()> {
    if version != HANDLE_VERSION {
        let known = HANDLE_VERSION;
        return Err(Error::invalid(format!("the {what} has version {version}, this server knows {known}; {cure}")));
    }
    if expires_at_us <= clock.now_us() {
        return Err(Error::invalid(format!("the {what} has expired; {cure}")));
    }
    Ok(())
}

/// Values as an Arrow IPC stream; none as no bytes.
fn written(values: Option<&RecordBatch>) -> Result<Vec<u8>> {
    let Some(values) = values else { return Ok(Vec::new()) };
    let unwritable = |error| Error::invalid("the values bound can't be encoded").because(error);
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, values.schema_ref()).map_err(unwritable)?;
    writer.write(values).and_then(|()| writer.finish()).map_err(unwritable)?;
    drop(writer);
    if bytes.len() > PARAMETERS_BYTES_MAX {
        return Err(Error::exhausted(format!(
            "the values bound take {} bytes; the most that a prepared query carries is {PARAMETERS_BYTES_MAX}: bind \
             fewer or shorter ones",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// What [`written`] wrote: the bytes were sealed, so they are our own.
fn read(bytes: &[u8]) -> Result<Option<RecordBatch>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let unreadable = |error| Error::internal("values that were bound can't be read").because(error);
    let mut batches = StreamReader::try_new(bytes, None).map_err(unreadable)?;
    batches.next().transpose().map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use lakehouse::ManualClock;

    use super::*;
    use crate::engine::NEVER_COMMITTED;
    use crate::flight::seal::Key;

    fn sealer() -> Sealer {
        Sealer::new(vec![Key::parse(&"5a".repeat(32)).unwrap()]).unwrap()
    }

    fn values() -> RecordBatch {
        let text: StringArray = vec![Some("a"), None].into();
        RecordBatch::try_from_iter([("$1", Arc::new(Int64Array::from(vec![1, 2])) as _), ("$2", Arc::new(text) as _)])
            .unwrap()
    }

    fn query(planned_at_us: i64) -> PlannedQuery {
        let pinned = Pinned {
            versions: [("silver.a".to_owned(), 7), ("silver.b".to_owned(), NEVER_COMMITTED)].into(),
            planned_at_us,
            slice: Some(Slice { index: 1, partitions: 3, fingerprint: u64::MAX }),
        };
        let session = Session { schema: "silver".to_owned(), timeout_ms: Some(5), ..Session::default() };
        let request =
            Request { session, parameters: Some(values()), pinned: Some(pinned), ..Request::sql("id", "SELECT $1") };
        PlannedQuery { request, ingest_id: Some("one".to_owned()) }
    }

    #[test]
    fn a_ticket_comes_back_as_it_went() {
        let (sealer, clock) = (sealer(), ManualClock::at(5));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let (ticket, _) = query(5).encode(seals).unwrap();
        assert_eq!(PlannedQuery::decode(&ticket, seals).unwrap(), query(5));
        let bob = Seals { principal: "bob", ..seals };
        assert!(PlannedQuery::decode(&ticket, bob).unwrap_err().to_string().contains("another user's"));
    }

    #[test]
    fn a_ticket_ends_and_says_what_to_do() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let (ticket, expires_at_us) = query(0).encode(seals).unwrap();
        clock.advance_us(expires_at_us - 1);
        PlannedQuery::decode(&ticket, seals).unwrap();
        clock.advance_us(1);
        let error = PlannedQuery::decode(&ticket, seals).unwrap_err();
        assert_eq!(error.to_string(), "the ticket has expired; plan the query again (GetFlightInfo)");
    }

    #[test]
    fn a_ticket_is_renewed_until_its_versions_may_be_gone() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        clock.advance_us(micros(RENEWAL_MAX) - 10);
        let (_, expires_at_us) = query(0).encode(seals).unwrap();
        assert_eq!(expires_at_us, micros(RENEWAL_MAX));
        clock.advance_us(10);
        let error = query(0).encode(seals).unwrap_err();
        assert!(error.to_string().contains("can't be renewed any more"), "{error}");
    }

    #[test]
    fn a_prepared_statement_comes_back_and_ends_too() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let text = QueryText::Substrait(Bytes::from_static(b"plan"));
        let statement = Statement { text, session: Session::default(), parameters: Some(values()), is_update: true };
        let handle = statement.encode(seals).unwrap();
        assert_eq!(Statement::decode(&handle, seals).unwrap(), statement);
        assert!(PlannedQuery::decode(&handle, seals).is_err(), "a handle is no ticket");
        clock.advance_us(micros(PREPARED_LIFETIME));
        let error = Statement::decode(&handle, seals).unwrap_err();
        assert_eq!(error.to_string(), "the prepared statement has expired; prepare the statement again");
    }

    #[test]
    fn too_many_bound_values_are_refused() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let long = StringArray::from(vec!["x".repeat(PARAMETERS_BYTES_MAX)]);
        let parameters = RecordBatch::try_from_iter([("$1", Arc::new(long) as _)]).unwrap();
        let statement = Statement {
            text: QueryText::Sql("SELECT $1".to_owned()),
            session: Session::default(),
            parameters: Some(parameters),
            is_update: false,
        };
        assert_eq!(statement.encode(seals).unwrap_err().kind(), lakehouse::Kind::Exhausted);
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let (sealer, clock) = (sealer(), ManualClock::at(0));
        let seals = Seals { sealer: &sealer, principal: "ann", clock: &clock };
        let newer = QueryHandle { version: HANDLE_VERSION + 1, expires_at_us: i64::MAX, ..QueryHandle::default() };
        let ticket = sealed(seals, Purpose::Ticket, &newer).unwrap();
        let error = PlannedQuery::decode(&ticket, seals).unwrap_err();
        assert!(error.to_string().starts_with("the ticket has version 3, this server knows 2"), "{error}");
        assert!(PlannedQuery::decode(b"\xff\xff", seals).unwrap_err().to_string().contains("damaged"));
        assert_eq!(ResultPart::decode(&ticket, seals).unwrap(), None);
    }
}
