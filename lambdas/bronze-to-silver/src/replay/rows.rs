//! The rows of a claim on their way to silver, some thousands at a time.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use deltalake::DeltaTable;
use futures::TryStreamExt as _;
use lakehouse::delta::{self, Transactions};
use lakehouse::{Context as _, Error, Kind, Layer, Result};
use proto::frame::{Compression, Frame, FrameError, FrameOrigin};
use tracing::warn;

use super::cutting::{Cutter, Group};
use super::originals::{OBJECT_INGEST, Original, Originals};
use super::returned::Returned;
use super::{Replay, claim, ingest_id, is_poison};
use crate::bronze::{FoundFrame, Origin};
use crate::ledger::{Frames, Ledger};
use crate::quarantine;

/// Most bytes of JSON that are merged in one go, if it is more than a frame.
const PART_JSON_BYTES_MAX: usize = 16 << 20;

/// Most rows that are merged in one go, if they are more than a frame.
const PART_ROWS_MAX: usize = 20_000;

/// Where a row of quarantine came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) object: Option<String>,
    pub(super) ingest_id: Option<String>,
    pub(super) frame: Option<u64>,
    pub(super) received_at_us: Option<i64>,
}

/// A row of quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) place: Place,
    /// Its number in its frame.
    pub(super) row: Option<u64>,
    pub(super) rule: Option<String>,
    pub(super) row_json: Option<String>,
    pub(super) byte_offset: Option<u64>,
    pub(super) line: Option<u64>,
    pub(super) quarantined_at_us: Option<i64>,
}

impl Row {
    pub(super) fn json_bytes(&self) -> usize {
        self.row_json.as_ref().map_or(0, String::len)
    }

    /// The rows of a batch of quarantine.
    pub(super) fn all(batch: &RecordBatch) -> Result<Vec<Self>> {
        let batch = quarantine::by_name(batch)?;
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| Error::internal(format!("quarantine has no column {name}")))
        };
        let text = |name| column(name).map(|column| column.as_string::<i32>().clone());
        let number = |name| column(name).map(|column| column.as_primitive::<Int64Type>().clone());
        let time = |name| column(name).map(|column| column.as_primitive::<TimestampMicrosecondType>().clone());
        let (objects, ingests, rules, rows_json) =
            (text("object")?, text("ingest_id")?, text("rule")?, text("row_json")?);
        let (frames, rows, offsets, lines) =
            (number("frame")?, number("row")?, number("byte_offset")?, number("line")?);
        let (received, quarantined) = (time("received_at")?, time("quarantined_at")?);
        let all = (0..batch.num_rows()).map(|at| {
            let text = |column: &arrow::array::StringArray| column.is_valid(at).then(|| column.value(at).to_owned());
            let number = |column: &arrow::array::Int64Array| {
                column.is_valid(at).then(|| u64::try_from(column.value(at)).ok()).flatten()
            };
            let time = |column: &arrow::array::TimestampMicrosecondArray| column.is_valid(at).then(|| column.value(at));
            Self {
                place: Place {
                    object: text(&objects),
                    ingest_id: text(&ingests),
                    frame: number(&frames),
                    received_at_us: time(&received),
                },
                row: number(&rows),
                rule: text(&rules),
                row_json: text(&rows_json),
                byte_offset: number(&offsets),
                line: number(&lines),
                quarantined_at_us: time(&quarantined),
            }
        });
        Ok(all.collect())
    }
}

/// Groups that are merged in one go.
#[derive(Default)]
struct Part {
    groups: Vec<Group>,
    rows: usize,
    json_bytes: usize,
}

impl Part {
    fn push(&mut self, group: Group) {
        self.rows += group.rows.len();
        self.json_bytes += group.rows.iter().map(|(_, row)| row.json_bytes()).sum::<usize>();
        self.groups.push(group);
    }

    fn is_full(&self) -> bool {
        self.rows >= PART_ROWS_MAX || self.json_bytes >= PART_JSON_BYTES_MAX
    }
}

/// Rows as a frame.
struct Ready {
    number: u64,
    rows: Vec<(usize, Row)>,
    found: FoundFrame,
}

impl Replay<'_> {
    /// Merges the rows of a claim that silver does not have.
    pub(super) async fn merge_rows(&mut self, id: &str) -> Result<()> {
        let Some(delta) = quarantine::open_whole(self.merger.lake(), self.table).await? else { return Ok(()) };
        let is_row = claim::column("row_json").is_not_null().or(claim::column("ingest_id").is_not_null());
        let mut found = claim::ordered(&delta, &self.session, claim::of_claim(id).and(is_row)).await?;
        let mut returned = Returned::read(&delta, id).await?;
        let mut originals = Originals::new(self.merger.lake(), self.table)?;
        let (mut cutter, mut part) = (Cutter::default(), Part::default());
        let table = Arc::clone(self.table);
        let failed = || format!("can't read the quarantine of table {}", table.name);
        while let Some(batch) = found.try_next().await.context(Kind::Unavailable, failed)? {
            for row in Row::all(&batch)? {
                let Some(group) = cutter.push(row) else { continue };
                part.push(group);
                if part.is_full() {
                    let part = std::mem::take(&mut part);
                    self.merge_part(id, part, None, &mut originals, &mut returned).await?;
                }
            }
        }
        let last = cutter.end().map(|group| {
            let number = group.number;
            part.push(group);
            number
        });
        self.merge_part(id, part, last, &mut originals, &mut returned).await
    }

    /// Merges some groups; `last` is the number of the claim's last one, if it is among them.
    async fn merge_part(
        &mut self,
        id: &str,
        part: Part,
        last: Option<u64>,
        originals: &mut Originals<'_>,
        returned: &mut Returned,
    ) -> Result<()> {
        let mut groups = part.groups;
        let silver = self.silver().await?;
        let ledger = ledger(&self.in_silver, id, groups.iter().map(|group| group.number));
        groups.retain_mut(|group| {
            returned.take_out(group);
            !group.rows.is_empty() && !ledger.contains(&ingest_id(id), group.number)
        });
        let stored = silver.as_ref().map(delta::stored_schema).transpose()?;
        let mut ready = Vec::new();
        for original in originals.read(groups, stored.as_ref(), returned).await? {
            match self.frame(id, &original, last) {
                Ok(found) => ready.push(Ready { number: original.number, rows: original.rows, found }),
                Err(error) => returned.put_all(original.number, original.rows, &error.to_string()),
            }
        }
        self.come_back(returned).await?;
        self.merge_ready(id, ready, returned).await
    }

    /// The rows as a frame of the replay, which knows what it was before.
    fn frame(&self, id: &str, original: &Original, last: Option<u64>) -> Result<FoundFrame, FrameError> {
        let Original { number, rows, batch, received_at_us } = original;
        let origin = FrameOrigin {
            table: self.table.name.to_string(),
            ingest_id: ingest_id(id),
            frame: *number,
            received_at_us: *received_at_us,
        };
        let batches = std::slice::from_ref(batch);
        let mut frame = Frame::from_batches(origin, batch.schema_ref().as_ref(), batches, Compression::Lz4)?;
        frame.header.is_last = last == Some(*number);
        let place = rows.first().map(|(_, row)| row.place.clone()).unwrap_or_default();
        let object = place.object.unwrap_or_default();
        let number = |(position, row): &(usize, Row)| {
            row.row.or(row.line).or(row.byte_offset).unwrap_or(u64::try_from(*position).unwrap_or_default())
        };
        let origin = Origin {
            ingest_id: place.ingest_id.unwrap_or_else(|| format!("{OBJECT_INGEST}{object}")),
            frame: place.frame.unwrap_or_default(),
            rows: rows.iter().map(number).collect(),
        };
        Ok(FoundFrame {
            offset: 0,
            bytes: frame.encoded_len() as u64,
            object,
            delivered_at_us: self.merger.clock().now_us(),
            origin: Some(Arc::new(origin)),
            frame,
            damaged: Vec::new(),
        })
    }

    /// Merges frames. If they can't be merged together, then in halves, until only the rows are left out that break it.
    async fn merge_ready(&mut self, id: &str, ready: Vec<Ready>, returned: &mut Returned) -> Result<()> {
        let mut parts = vec![ready];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let frames = part.iter().map(|ready| ready.found.clone()).collect();
            let error = match self.merger.merge_found(self.table, frames, Vec::new(), &[]).await {
                Ok(outcome) => {
                    self.replayed.add(&outcome);
                    continue;
                }
                Err(error) if is_poison(&error) => error,
                Err(error) => return Err(error),
            };
            if part.len() > 1 {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
                continue;
            }
            // An error does not say that nothing was committed.
            self.silver().await?;
            let ledger = ledger(&self.in_silver, id, part.iter().map(|ready| ready.number));
            for Ready { number, rows, .. } in part {
                if !ledger.contains(&ingest_id(id), number) {
                    warn!(table = %self.table.name, rows = rows.len(), error = error.chain(), "rows break their merge; back to quarantine");
                    returned.put_all(number, rows, &error.chain());
                }
            }
            self.come_back(returned).await?;
        }
        Ok(())
    }

    /// The table as it is now, and with it what it has recorded.
    async fn silver(&mut self) -> Result<Option<DeltaTable>> {
        let silver = self.merger.lake().open(Layer::Silver, &self.table.name).await?;
        if let Some(silver) = &silver {
            self.in_silver.advance(silver).await?;
        }
        Ok(silver)
    }

    /// Writes what can't be merged to quarantine.
    async fn come_back(&mut self, returned: &mut Returned) -> Result<()> {
        let now_us = self.merger.clock().now_us();
        self.replayed.quarantined_again += returned.write(self.merger.lake(), self.table, now_us).await?;
        Ok(())
    }
}

/// What silver has recorded of some frames of a replay.
fn ledger(silver: &Transactions, id: &str, numbers: impl Iterator<Item = u64>) -> Ledger {
    let numbers = numbers.map(|number| (number, number + 1)).collect();
    Ledger::read(silver, &Frames::from([(ingest_id(id), numbers)]))
}
