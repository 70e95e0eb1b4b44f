//! One table's objects, merged around those that can't be, within the time of a call.

use std::time::Instant;

use async_trait::async_trait;
use bronze_to_silver::{BronzeObject, Merging, Outcome, merge_around};
pub(super) use bronze_to_silver::{Queued, Report};
use host::Call;
use lakehouse::{Error, Kind, Name, Result};

/// What merges, but only until the answer has to be given.
struct InTime<'a> {
    merging: &'a dyn Merging,
    call: &'a Call,
}

#[async_trait]
impl Merging for InTime<'_> {
    async fn attempt(&self, table: &Name, objects: &[BronzeObject], until: Option<Instant>) -> Result<Outcome> {
        match self.call.in_time(self.merging.attempt(table, objects, until)).await {
            Some(merged) => merged,
            None => Err(Error::new(
                Kind::Timeout,
                format!(
                    "the merge of {} objects of table {table} did not end in time; give the function more time or \
                     memory, or its queue smaller batches",
                    objects.len()
                ),
            )),
        }
    }

    async fn give_up(&self, table: &Name, object: &BronzeObject, reason: &str) -> Result<()> {
        self.merging.give_up(table, object, reason).await
    }
}

/// Merges what waits for a table, as far as the call's time goes.
pub(super) async fn merge_all(
    merging: &dyn Merging,
    table: &Name,
    queued: &[Queued],
    tries_max: u32,
    call: &Call,
) -> Report {
    merge_around(&InTime { merging, call }, table, queued, tries_max, call.until).await
}

#[cfg(test)]
mod tests;
