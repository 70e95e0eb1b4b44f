//! Calls without a queue: notices that come straight from storage, and requests of people.
//!
//! Nobody brings these again by himself, so what fails is an error of the call, and what there was no time for is named
//! in its answer: the same call again goes on with it.

use bronze_to_silver::{BronzeObject, Outcome};
use host::events::{Content, Notice};
use host::place::{Located, Window};
use host::{Call, Metric};
use lakehouse::delta::TRANSACTION_RETENTION_DAYS;
use lakehouse::{Error, Layer, Name, Result};
use serde_json::{Value, json};

use super::merging::Queued;
use super::{Function, listing};

/// The most objects of one merge: their frames are looked up in the ledger together.
const OBJECTS_PER_MERGE_MAX: usize = 500;

/// The most keys that an answer names; it has 6 MB at most
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
const KEYS_NAMED_MAX: usize = 1_000;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// How far the merge of some objects came.
pub(super) struct Progress {
    /// How many are done.
    pub(super) merged: usize,
    /// The keys for which there was no time.
    pub(super) remaining: Vec<String>,
    /// The newest version committed.
    pub(super) version: Option<u64>,
}

/// Merges what a notice tells of.
pub(super) async fn told(function: &Function, content: Content, call: &Call) -> Result<Value> {
    let notices = match content {
        Content::Objects(notices) => notices,
        Content::Ignored(reason) => {
            tracing::warn!(reason, "nothing to be done");
            return Ok(json!({ "ignored": reason }));
        }
        Content::Unreadable(reason) => return Err(Error::invalid(format!("the event can't be read: {reason}"))),
    };
    let mut tables: Vec<(Name, Vec<Notice>)> = Vec::new();
    for notice in notices {
        match function.place.locate(&notice)? {
            Located::Bronze { table, .. } => match tables.iter_mut().find(|(known, _)| *known == table) {
                Some((_, of_table)) => of_table.push(notice),
                None => tables.push((table, vec![notice])),
            },
            Located::Elsewhere(reason) => tracing::warn!(object = notice.key, reason, "nothing to be done"),
        }
    }
    let mut answers = Vec::new();
    for (table, notices) in tables {
        answers.push(objects(function, &table, &notices, false, call).await?);
    }
    if let Some(late) =
        answers.iter().find(|answer| answer["remaining"].as_array().is_some_and(|keys| !keys.is_empty()))
    {
        // Lambda calls again after an error, and not after an answer.
        return Err(Error::unavailable(format!("there was no time for all objects: {late}")));
    }
    Ok(json!({ "tables": answers }))
}

/// Merges objects of a table that are named.
pub(super) async fn objects(
    function: &Function,
    table: &Name,
    notices: &[Notice],
    again: bool,
    call: &Call,
) -> Result<Value> {
    function.definitions.refresh().await?.table(table.as_str())?;
    let mut objects = Vec::with_capacity(notices.len());
    for notice in notices {
        let key = match function.place.locate(notice)? {
            Located::Bronze { key, .. } => key,
            Located::Elsewhere(reason) => return Err(Error::invalid(format!("object {:?}: {reason}", notice.key))),
        };
        // It is looked for in any case: an object that is missing would be passed over, and its rows with it.
        let found = listing::object(function.store.as_ref(), &key).await?;
        let delivered_at_us = notice.delivered_at_us.unwrap_or(found.delivered_at_us);
        objects.push(BronzeObject { delivered_at_us, ..found });
    }
    check_age(function, table, &objects, again).await?;
    let Progress { merged, mut remaining, version } = merge(function, table, &objects, call).await?;
    remaining.truncate(KEYS_NAMED_MAX);
    Ok(json!({ "table": table.as_str(), "merged": merged, "remaining": remaining, "version": version }))
}

/// The objects of which time are asked for.
pub(super) struct Asked {
    pub(super) from_us: i64,
    pub(super) to_us: Option<i64>,
    pub(super) again: bool,
}

/// A table forgets after a time what it has merged: what is older would be merged twice, and nobody would know. A table
/// without rows has nothing to forget.
async fn check_age(function: &Function, table: &Name, objects: &[BronzeObject], again: bool) -> Result<()> {
    let remembered_us = i64::from(TRANSACTION_RETENTION_DAYS - 1) * DAY_US;
    let oldest_us = function.clock.now_us() - remembered_us;
    let Some(old) = objects.iter().find(|object| object.delivered_at_us < oldest_us).filter(|_| !again) else {
        return Ok(());
    };
    if function.lake.open(Layer::Silver, table).await?.is_none() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "object {} is older than {} days: table {table} may have merged it, and has forgotten. Its rows would be merged \
         again: of a table without a key, all would be there twice. If that is what you want, add \"again\": true",
        old.key,
        TRANSACTION_RETENTION_DAYS - 1
    )))
}

/// Merges the objects of a time, but for those that are merged already.
pub(super) async fn range(
    function: &Function,
    table: &Name,
    Asked { from_us, to_us, again }: Asked,
    call: &Call,
) -> Result<Value> {
    function.definitions.refresh().await?.table(table.as_str())?;
    let window = Window { from_us, to_us: to_us.unwrap_or_else(|| function.clock.now_us()) };
    let found = listing::objects(function.store.as_ref(), table, window).await?;
    let count = found.len();
    let new = function.merger.unmerged(table, found).await?;
    check_age(function, table, &new, again).await?;
    let Progress { merged, remaining, version } = merge(function, table, &new, call).await?;
    Ok(json!({
        "table": table.as_str(),
        "found": count,
        "merged": merged,
        "remaining": remaining.len(),
        "version": version,
    }))
}

/// Merges objects in portions, as long as there is time.
pub(super) async fn merge(
    function: &Function,
    table: &Name,
    objects: &[BronzeObject],
    call: &Call,
) -> Result<Progress> {
    let mut progress = Progress { merged: 0, remaining: Vec::new(), version: None };
    for portion in objects.chunks(OBJECTS_PER_MERGE_MAX) {
        let queued: Vec<Queued> = portion.iter().map(|object| Queued { object: object.clone(), tries: 0 }).collect();
        let report = function.merge(table, &queued, call).await;
        progress.version = report.version().or(progress.version);
        if let Some(error) = report.failure {
            return Err(error);
        }
        let (done, remaining): (Vec<_>, Vec<_>) = portion.iter().partition(|object| report.done.contains(&object.key));
        progress.merged += done.len();
        progress.remaining.extend(remaining.into_iter().map(|object| object.key.clone()));
    }
    Ok(progress)
}

/// Merges what lies in a table's quarantine.
pub(super) async fn replay(function: &Function, table: &Name, filter: Option<&str>, call: &Call) -> Result<Value> {
    function.definitions.refresh().await?.table(table.as_str())?;
    let replayed = match call.in_time(function.merger.replay(table, filter)).await {
        Some(replayed) => replayed?,
        None => return Err(Error::unavailable("the replay did not end in time; call again, or with a narrower where")),
    };
    function.metrics.write(
        Some(table),
        &[Metric::count("Replayed", replayed.merged), Metric::count("QuarantinedAgain", replayed.quarantined_again)],
    );
    if let Some(version) = replayed.version {
        let mut outcome = Outcome::default();
        (outcome.story.rows_in, outcome.story.quarantined) = (replayed.rows, replayed.quarantined_again);
        function.announce(table, version, &outcome, call).await;
    }
    Ok(json!({
        "table": table.as_str(),
        "rows": replayed.rows,
        "merged": replayed.merged,
        "quarantined_again": replayed.quarantined_again,
        "version": replayed.version,
    }))
}
