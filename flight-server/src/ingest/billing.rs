//! What delivery costs: Firehose bills each record rounded up to 5 KiB.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lakehouse::Name;

use crate::delivery::BILLED_UNIT_BYTES;

/// What was delivered for a table since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Rows that are kept.
    pub rows: u64,
    /// Their bytes in memory, as Arrow has them.
    pub row_bytes: u64,
    /// Calls of the delivery stream, each with up to 500 records.
    pub puts: u64,
    /// Records that are kept.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same, each record rounded up to what Firehose bills.
    pub billed_bytes: u64,
}

impl Bill {
    /// What the rows would be billed if each were a record of its own, of its average size.
    pub fn billed_bytes_unpacked(&self) -> u64 {
        let average = self.row_bytes.checked_div(self.rows).unwrap_or(0);
        self.rows.saturating_mul(billed(average))
    }
}

/// What Firehose bills a record of `bytes`.
fn billed(bytes: u64) -> u64 {
    bytes.div_ceil(BILLED_UNIT_BYTES).max(1) * BILLED_UNIT_BYTES
}

/// The bills of all tables.
#[derive(Debug, Default)]
pub struct Billing(Mutex<BTreeMap<Name, Bill>>);

impl Billing {
    /// Notes a call whose records are kept.
    pub(super) fn sent(&self, table: &Name, records: &[usize]) {
        self.with(table, |bill| {
            bill.puts += 1;
            for bytes in records {
                bill.records += 1;
                bill.bytes += *bytes as u64;
                bill.billed_bytes += billed(*bytes as u64);
            }
        });
    }

    /// Notes rows that are kept.
    pub(super) fn kept(&self, table: &Name, rows: u64, row_bytes: u64) {
        self.with(table, |bill| {
            bill.rows += rows;
            bill.row_bytes += row_bytes;
        });
    }

    /// The bills so far, by table.
    pub fn all(&self) -> BTreeMap<Name, Bill> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with(&self, table: &Name, note: impl FnOnce(&mut Bill)) {
        let mut bills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        note(bills.entry(table.clone()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_billed_in_units_and_unpacked_rows_one_each() {
        let (billing, table) = (Billing::default(), "t".parse::<Name>().unwrap());
        billing.sent(&table, &[1, 5 * 1024, 5 * 1024 + 1]);
        billing.kept(&table, 1_000, 100_000);
        let bill = billing.all()[&table];
        assert_eq!((bill.puts, bill.records, bill.bytes), (1, 3, 10 * 1024 + 2));
        assert_eq!(bill.billed_bytes, 4 * 5 * 1024);
        assert_eq!(bill.billed_bytes_unpacked(), 1_000 * 5 * 1024);
        assert_eq!(Bill::default().billed_bytes_unpacked(), 0);
    }
}
