//! What is asked of the engine.

use arrow::array::RecordBatch;
use bytes::Bytes;
use lakehouse::Result;
use proto::Session;

use super::waiting::{self, Awaited};
use super::{GOLD, Versions};

/// A statement, in one of the languages it may come in.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryText {
    /// SQL.
    Sql(String),
    /// A Substrait plan, as its protobuf message.
    Substrait(Bytes),
}

impl QueryText {
    /// For the log of queries.
    pub fn shown(&self) -> String {
        match self {
            Self::Sql(sql) => sql.clone(),
            Self::Substrait(plan) => format!("a Substrait plan of {} bytes", plan.len()),
        }
    }
}

/// A statement with all that decides what it gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The query's id, which its fetches share: a UUIDv7.
    pub id: String,
    /// What is asked.
    pub text: QueryText,
    /// The client's session options.
    pub session: Session,
    /// Values of the statement's parameters, a column each; each row runs the statement once.
    pub parameters: Option<RecordBatch>,
    /// What an earlier planning decided; `None` plans on what is newest.
    pub pinned: Option<Pinned>,
}

impl Request {
    /// A request for `sql` with no options, for the newest rows.
    pub fn sql(id: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            text: QueryText::Sql(sql.into()),
            session: Session::default(),
            parameters: None,
            pinned: None,
        }
    }

    /// The schema that unqualified names are in.
    pub(super) fn schema(&self) -> &str {
        if self.session.schema.is_empty() { GOLD } else { &self.session.schema }
    }

    /// The ingests that what is read must contain. What is pinned was waited for.
    pub(super) fn awaited(&self) -> Result<Vec<Awaited>> {
        if self.pinned.is_some() { Ok(Vec::new()) } else { waiting::awaited(&self.session) }
    }
}

/// What makes a second planning give the same rows as the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// The versions that were read.
    pub versions: Versions,
    /// What `now()` is, in microseconds since the epoch.
    pub planned_at_us: i64,
    /// The slice to read, of a result that has several.
    pub slice: Option<Slice>,
}

/// A part of a result that can be read beside its other parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Which one, from 0.
    pub index: u32,
    /// How many partitions the plan was made with; a union has more slices than that.
    pub partitions: u32,
    /// What the plan with that many slices looked like: another plan would cut elsewhere.
    pub fingerprint: u64,
}
