//! Rows that can't even be merged go back to quarantine, each once.
//!
//! Silver's ledger can't tell that: their frame is not in silver, or is there without them. So the commit that adds them
//! to quarantine again says which they are: of each group of a claim, `back/<replay>/<number>` is a number of one bit a
//! row. A replay that is begun anew leaves them out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use deltalake::DeltaTable;
use lakehouse::definition::Table;
use lakehouse::delta::Transactions;
use lakehouse::{Error, Kind, Lake, Result};

use super::cutting::Group;
use super::rows::Row;
use crate::quarantine::{self, Quarantine, fill, instants};

/// What has come back of a claim.
pub(super) struct Returned {
    id: String,
    recorded: Transactions,
    /// Bits of groups that changed since.
    bits: BTreeMap<u64, i64>,
    /// Bits of groups that were written since.
    written: BTreeMap<u64, i64>,
    /// What is not written yet, with the reason.
    waiting: Vec<(u64, Row, String)>,
}

impl Returned {
    pub(super) async fn read(delta: &DeltaTable, id: &str) -> Result<Self> {
        let recorded = quarantine::recorded(delta).await?;
        Ok(Self { id: id.to_owned(), recorded, bits: BTreeMap::new(), written: BTreeMap::new(), waiting: Vec::new() })
    }

    fn app_id(&self, number: u64) -> String {
        format!("back/{}/{number}", self.id)
    }

    fn bits(&self, number: u64) -> i64 {
        let recorded = || self.recorded.version(&self.app_id(number));
        self.bits.get(&number).copied().or_else(recorded).unwrap_or(0)
    }

    /// Takes out of a group what has come back of it.
    pub(super) fn take_out(&self, group: &mut Group) {
        let bits = self.bits(group.number);
        group.rows.retain(|(position, _)| (bits >> position) & 1 == 0);
    }

    /// Lets a row come back.
    pub(super) fn put(&mut self, number: u64, position: usize, row: Row, reason: &str) {
        let bits = self.bits(number) | (1 << position);
        self.bits.insert(number, bits);
        self.waiting.push((number, row, reason.to_owned()));
    }

    /// Lets the rows of a group come back.
    pub(super) fn put_all(&mut self, number: u64, rows: Vec<(usize, Row)>, reason: &str) {
        for (position, row) in rows {
            self.put(number, position, row, reason);
        }
    }

    /// Writes what waits to quarantine; how many rows that were.
    pub(super) async fn write(&mut self, lake: &Lake, table: &Table, now_us: i64) -> Result<u64> {
        if self.waiting.is_empty() {
            return Ok(0);
        }
        let transactions =
            self.waiting.iter().map(|(number, ..)| (*number, self.bits(*number))).collect::<BTreeMap<_, _>>();
        let transactions = transactions.into_iter().map(|(number, bits)| (self.app_id(number), bits)).collect();
        let rows = self.batch(table, now_us)?;
        let stored = Quarantine::open(lake, table).await?;
        let is_same = |(number, ..): &(u64, Row, String)| {
            let id = self.app_id(*number);
            let last = self.written.get(number).copied().or_else(|| self.recorded.version(&id));
            stored.recorded.version(&id) == last
        };
        if !self.waiting.iter().all(is_same) {
            let message = format!("another replay of table {} puts the same rows back; try again", table.name);
            return Err(Error::new(Kind::Conflict, message));
        }
        let added = stored.add(table, vec![rows], &[], transactions, now_us).await?;
        self.written.extend(self.waiting.iter().map(|(number, ..)| (*number, self.bits(*number))).collect::<Vec<_>>());
        self.waiting.clear();
        Ok(added)
    }

    /// What waits, as rows that no replay has taken.
    fn batch(&self, table: &Table, now_us: i64) -> Result<RecordBatch> {
        let count = self.waiting.len();
        let rows = || self.waiting.iter().map(|(_, row, _)| row);
        let signed = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
        fill(
            count,
            vec![
                ("table_name", Arc::new(StringArray::from(vec![table.name.as_str(); count]))),
                ("reason", Arc::new(self.waiting.iter().map(|(.., reason)| Some(reason)).collect::<StringArray>())),
                ("rule", Arc::new(rows().map(|row| row.rule.as_deref()).collect::<StringArray>())),
                ("row_json", Arc::new(rows().map(|row| row.row_json.as_deref()).collect::<StringArray>())),
                ("ingest_id", Arc::new(rows().map(|row| row.place.ingest_id.as_deref()).collect::<StringArray>())),
                ("frame", Arc::new(rows().map(|row| signed(row.place.frame)).collect::<Int64Array>())),
                ("row", Arc::new(rows().map(|row| signed(row.row)).collect::<Int64Array>())),
                ("object", Arc::new(rows().map(|row| row.place.object.as_deref()).collect::<StringArray>())),
                ("byte_offset", Arc::new(rows().map(|row| signed(row.byte_offset)).collect::<Int64Array>())),
                ("quarantined_at", instants(vec![Some(now_us); count])),
                ("line", Arc::new(rows().map(|row| signed(row.line)).collect::<Int64Array>())),
                ("received_at", instants(rows().map(|row| row.place.received_at_us))),
            ],
        )
    }
}
