//! The scheduled look for objects that no event told of: bronze is listed, and what neither silver nor quarantine has
//! recorded is sent to the queue, or merged at once if there is none.
//!
//! What is younger than [`SETTLED_MINUTES`] is left alone: its event may be on its way. An object that is sent although
//! its event still waits is merged once all the same.

use host::events::body_of;
use host::place::Window;
use host::publish::QueueMessage;
use host::{Call, Metric};
use lakehouse::{Name, Result};
use serde_json::{Map, Value, json};

use super::{Function, direct, listing};

/// How old an object must be, in minutes.
const SETTLED_MINUTES: i64 = 15;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;

/// What was found for a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    listed: usize,
    missing: usize,
    queued: usize,
    merged: usize,
}

/// Looks through tables. A table that fails does not keep the others from it; the answer says so.
pub(super) async fn serve(function: &Function, tables: Option<Vec<Name>>, hours: u32, call: &Call) -> Result<Value> {
    let definition = function.definitions.refresh().await?;
    let tables = match tables {
        Some(tables) => tables,
        None => definition.tables.keys().cloned().collect(),
    };
    for table in &tables {
        definition.table(table.as_str())?;
    }
    let mut answer = Map::new();
    for table in tables {
        if call.is_late() {
            tracing::warn!(%table, "there was no time to reconcile this table");
            answer.insert(table.to_string(), json!({ "error": "there was no time; call again for this table" }));
            continue;
        }
        let told = match reconcile(function, &table, hours, call).await {
            Ok(Counts { listed, missing, queued, merged }) => {
                json!({ "listed": listed, "missing": missing, "queued": queued, "merged": merged })
            }
            Err(error) => {
                tracing::error!(%table, error = error.chain(), "a table can't be reconciled");
                function.metrics.write(Some(&table), &[Metric::count("ReconcilesFailed", 1)]);
                json!({ "error": error.chain() })
            }
        };
        answer.insert(table.to_string(), told);
    }
    Ok(json!({ "tables": answer }))
}

async fn reconcile(function: &Function, table: &Name, hours: u32, call: &Call) -> Result<Counts> {
    let window = window(function.clock.now_us(), hours);
    let mut objects = listing::objects(function.store.as_ref(), table, window).await?;
    // The folder of an hour that is over may have what was written just now.
    objects.retain(|object| object.delivered_at_us < window.to_us);
    let mut counts = Counts { listed: objects.len(), ..Counts::default() };
    let missing = function.merger.unmerged(table, objects).await?;
    counts.missing = missing.len();
    if !missing.is_empty() {
        tracing::warn!(%table, missing = missing.len(), of = counts.listed, "no event told of some objects");
    }
    match &function.queue {
        Some(queue) => {
            let messages: Vec<QueueMessage> = missing
                .iter()
                .map(|object| {
                    let body = body_of(table, &object.key, object.delivered_at_us);
                    QueueMessage::new(table.as_str(), &object.key, &body)
                })
                .collect();
            queue.send(&messages).await?;
            counts.queued = messages.len();
        }
        None => counts.merged = direct::merge(function, table, &missing, call).await?.merged,
    }
    function.metrics.write(
        Some(table),
        &[
            Metric::count("Listed", counts.listed as u64),
            Metric::count("Missing", counts.missing as u64),
            Metric::count("Requeued", counts.queued as u64),
        ],
    );
    Ok(counts)
}

/// The time that is looked through.
fn window(now_us: i64, hours: u32) -> Window {
    Window {
        from_us: now_us.saturating_sub(i64::from(hours) * HOUR_US),
        to_us: now_us.saturating_sub(SETTLED_MINUTES * MINUTE_US),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_or_old_is_not_looked_through() {
        let now_us = 1_769_846_400_000_000;
        let window = window(now_us, 2);
        assert!(!window.has("bronze/t/x", now_us - 14 * MINUTE_US));
        assert!(window.has("bronze/t/x", now_us - 16 * MINUTE_US));
        assert!(window.has("bronze/t/x", now_us - 2 * HOUR_US));
        assert!(!window.has("bronze/t/x", now_us - 2 * HOUR_US - 1));
    }
}
