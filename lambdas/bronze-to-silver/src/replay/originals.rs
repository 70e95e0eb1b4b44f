//! Rows as their producer sent them.
//!
//! Quarantine keeps a row as JSON, for people. Its frame in bronze has it with its own types, which a transform may rely
//! on, so that is where it is taken from. Rows of objects of JSON, and those whose object has expired, are read from the
//! JSON in quarantine, as objects of JSON are.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Schema;
use deltalake::logstore::object_store::ObjectStore;
use lakehouse::definition::Table;
use lakehouse::{Lake, Result};
use proto::frame::{Frame, FrameReader, Item};

use super::cutting::Group;
use super::returned::Returned;
use super::rows::Row;
use crate::bronze::{self, BronzeObject};
use crate::ndjson;

/// The ids of ingests that are objects of JSON begin so.
pub(super) const OBJECT_INGEST: &str = "object:";

/// Groups that are read from JSON together: as many rows as a frame of an object of JSON has.
const JSON_GROUPS_AT_ONCE: usize = 64;

/// Rows of one group, with where they stand in it.
pub(super) struct Original {
    pub(super) number: u64,
    pub(super) rows: Vec<(usize, Row)>,
    /// As many rows.
    pub(super) batch: RecordBatch,
    pub(super) received_at_us: i64,
}

/// The number of a frame, below its ingest's id.
type FrameId = (String, u64);

/// Finds rows in bronze.
pub(super) struct Originals<'a> {
    table: &'a Arc<Table>,
    store: Arc<dyn ObjectStore>,
    /// The object that was read last, with its frames.
    open: Option<(String, BTreeMap<FrameId, Frame>)>,
    /// The frame of it that was decoded last.
    decoded: Option<(FrameId, Option<RecordBatch>)>,
}

impl<'a> Originals<'a> {
    pub(super) fn new(lake: &Lake, table: &'a Arc<Table>) -> Result<Self> {
        Ok(Self { table, store: lake.object_store()?, open: None, decoded: None })
    }

    /// The rows of some groups, in their order. Those that can't be had come back.
    pub(super) async fn read(
        &mut self,
        groups: Vec<Group>,
        stored: Option<&Schema>,
        returned: &mut Returned,
    ) -> Result<Vec<Original>> {
        let (mut originals, mut missing) = (Vec::new(), Vec::new());
        for group in groups {
            match self.find(&group).await? {
                Some((batch, received_at_us)) => {
                    originals.push(Original { number: group.number, rows: group.rows, batch, received_at_us });
                }
                None => missing.push(group),
            }
        }
        let mut missing = missing.into_iter().peekable();
        while missing.peek().is_some() {
            let some = missing.by_ref().take(JSON_GROUPS_AT_ONCE).collect();
            originals.extend(from_json(self.table, stored, some, returned)?);
        }
        originals.sort_by_key(|original| original.number);
        Ok(originals)
    }

    /// The rows of a group and when they were received, if bronze has them.
    async fn find(&mut self, group: &Group) -> Result<Option<(RecordBatch, i64)>> {
        let Some(place) = group.place() else { return Ok(None) };
        let (Some(object), Some(ingest_id), Some(number)) = (&place.object, &place.ingest_id, place.frame) else {
            return Ok(None);
        };
        let rows: Option<Vec<u64>> = group.rows.iter().map(|(_, row)| row.row).collect();
        let Some(rows) = rows.filter(|_| !ingest_id.starts_with(OBJECT_INGEST)) else { return Ok(None) };
        if self.open.as_ref().is_none_or(|(open, _)| open != object) {
            self.open = Some((object.clone(), self.frames(object).await?));
            self.decoded = None;
        }
        let id = (ingest_id.clone(), number);
        let Some(frame) = self.open.as_ref().and_then(|(_, frames)| frames.get(&id)) else { return Ok(None) };
        if self.decoded.as_ref().is_none_or(|(decoded, _)| *decoded != id) {
            self.decoded = Some((id, decode(frame)));
        }
        let all = self.decoded.as_ref().and_then(|(_, rows)| rows.as_ref());
        let taken = all.and_then(|all| {
            let is_there = rows.iter().all(|row| *row < all.num_rows() as u64);
            is_there.then(|| take_record_batch(all, &UInt64Array::from(rows)).ok()).flatten()
        });
        Ok(taken.map(|rows| (rows, frame.header.received_at_us)))
    }

    /// The frames of an object; none if it is gone.
    async fn frames(&self, key: &str) -> Result<BTreeMap<FrameId, Frame>> {
        let object = BronzeObject { key: key.to_owned(), delivered_at_us: 0 };
        let Some((bytes, _)) = bronze::read(self.store.as_ref(), &object).await? else { return Ok(BTreeMap::new()) };
        let frames = FrameReader::new(bytes).filter_map(|item| match item {
            Item::Frame { frame, .. } if frame.header.table == self.table.name.as_str() => {
                Some(((frame.header.ingest_id.clone(), frame.header.frame), frame))
            }
            _ => None,
        });
        Ok(frames.collect())
    }
}

/// All rows of a frame, if they can be read.
fn decode(frame: &Frame) -> Option<RecordBatch> {
    let (schema, batches) = frame.decode_batches().ok()?;
    concat_batches(&schema, &batches).ok()
}

/// The rows of some groups from their JSON.
fn from_json(
    table: &Table,
    stored: Option<&Schema>,
    groups: Vec<Group>,
    returned: &mut Returned,
) -> Result<Vec<Original>> {
    let mut rows = Vec::new();
    for group in groups {
        for (position, row) in group.rows {
            if row.row_json.is_some() {
                rows.push((group.number, position, row));
            } else {
                let reason = "its bronze object is gone, and quarantine does not have it as JSON";
                returned.put(group.number, position, row, reason);
            }
        }
    }
    let texts: Vec<&str> = rows.iter().filter_map(|(.., row)| row.row_json.as_deref()).collect();
    let (batch, bad) = ndjson::from_texts(table, stored, &texts)?;
    let bad: BTreeMap<usize, String> = bad.into_iter().collect();
    let mut good = Vec::new();
    for (at, (number, position, row)) in rows.into_iter().enumerate() {
        match bad.get(&at) {
            Some(reason) => returned.put(number, position, row, reason),
            None => good.push((number, position, row)),
        }
    }
    let mut originals = Vec::new();
    let mut start = 0;
    for of_group in good.chunk_by(|one, other| one.0 == other.0) {
        let Some((number, _, first)) = of_group.first() else { continue };
        originals.push(Original {
            number: *number,
            rows: of_group.iter().map(|(_, position, row)| (*position, row.clone())).collect(),
            batch: batch.slice(start, of_group.len()),
            // An older version did not keep it.
            received_at_us: first.place.received_at_us.or(first.quarantined_at_us).unwrap_or_default(),
        });
        start += of_group.len();
    }
    Ok(originals)
}
