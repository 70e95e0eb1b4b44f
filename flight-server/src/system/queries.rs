//! `system.queries`: what runs on this server and what ran on it, as far as it remembers. Other servers' queries are in
//! their own tables; a start forgets all.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lakehouse::Result;

use super::System;
use super::rows::{self, Values, count, instant, number, text, time};
use crate::engine::QueryRecord;

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        text("query_id"),
        text("principal"),
        text("peer"),
        text("kind"),
        text("statement"),
        text("state"),
        instant("started_at"),
        number("queued_ms"),
        number("duration_ms"),
        number("rows"),
        number("bytes"),
        number("peak_memory_bytes"),
        number("spilled_bytes"),
        number("files_read"),
        number("files_pruned"),
        number("bytes_scanned"),
        text("error"),
    ])
}

pub(super) fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let now = system.clock.now_us();
    let records = system.queries.all();
    let until = |us: i64| if us == 0 { now } else { us };
    let left_queue = |record: &QueryRecord| record.left_queue_us().unwrap_or(now);
    let texts = |value: fn(&QueryRecord) -> &str| {
        Values::Text(records.iter().map(|record| Some(value(record).to_owned())).collect())
    };
    let counts =
        |value: fn(&QueryRecord) -> u64| Values::Number(records.iter().map(|record| count(value(record))).collect());
    let columns = vec![
        texts(|record| &record.id),
        texts(|record| &record.principal),
        texts(|record| &record.peer),
        texts(|record| record.kind),
        texts(|record| &record.statement),
        texts(|record| record.state),
        Values::Instant(records.iter().map(|record| time(record.began_us)).collect()),
        Values::Number(records.iter().map(|record| Some((left_queue(record) - record.began_us) / 1_000)).collect()),
        Values::Number(records.iter().map(|record| Some((until(record.ended_us) - record.began_us) / 1_000)).collect()),
        counts(|record| record.rows),
        counts(|record| record.bytes),
        counts(|record| record.peak_memory_bytes),
        counts(|record| record.counts.spilled_bytes),
        counts(|record| record.counts.files_read),
        counts(|record| record.counts.files_pruned),
        counts(|record| record.counts.bytes_scanned),
        Values::Text(records.iter().map(|record| record.error.clone()).collect()),
    ];
    rows::batch(schema(), columns)
}
