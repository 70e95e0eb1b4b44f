//! `system.delivery`: what this server has handed to the delivery stream, and what Firehose bills for it.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lakehouse::Result;

use super::System;
use super::rows::{self, Values, count, number, text};
use crate::ingest::Bill;

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        text("table_name"),
        number("rows"),
        number("row_bytes"),
        number("puts"),
        number("records"),
        number("bytes"),
        number("billed_bytes"),
        number("billed_bytes_unpacked"),
    ])
}

pub(super) fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let bills = system.billing.all();
    let numbers = |value: fn(&Bill) -> u64| Values::Number(bills.values().map(|bill| count(value(bill))).collect());
    let columns = vec![
        Values::Text(bills.keys().map(|name| Some(name.to_string())).collect()),
        numbers(|bill| bill.rows),
        numbers(|bill| bill.row_bytes),
        numbers(|bill| bill.puts),
        numbers(|bill| bill.records),
        numbers(|bill| bill.bytes),
        numbers(|bill| bill.billed_bytes),
        numbers(Bill::billed_bytes_unpacked),
    ];
    rows::batch(schema(), columns)
}
