//! What in quarantine is no row: damaged stretches of objects, and objects that were set aside as a whole.
//!
//! Their objects are merged anew: frames that are in are skipped, and what was only unreadable to an older version or
//! in an older definition comes in. For what is still bad to come back, quarantine must forget first that it had it;
//! once a claim, or a second try would let it come back twice.

use std::collections::BTreeMap;

use arrow::array::AsArray as _;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, lit};
use deltalake::DeltaTable;
use deltalake::logstore::object_store::{self, ObjectStoreExt as _};
use futures::TryStreamExt as _;
use lakehouse::delta::{self, Commit};
use lakehouse::{Context as _, Error, Kind, Result};

use super::rows::Row;
use super::{Replay, claim, is_poison};
use crate::bronze::{BronzeObject, path_of};
use crate::ledger::object_id;
use crate::quarantine::{self, POISON_RULE, damage_id, forget, is_recorded, recorded};

/// What a claim has of objects.
#[derive(Default)]
struct Claimed {
    /// When each was delivered.
    objects: BTreeMap<String, i64>,
    /// Under what quarantine has recorded it.
    recorded: Vec<String>,
}

fn is_no_row() -> Expr {
    let is_null = |name| claim::column(name).is_null();
    is_null("row_json").and(is_null("ingest_id")).and(claim::column("object").is_not_null())
}

impl Replay<'_> {
    /// Merges the objects of a claim.
    pub(super) async fn merge_objects(&mut self, id: &str) -> Result<()> {
        let Some(delta) = quarantine::open_whole(self.merger.lake(), self.table).await? else { return Ok(()) };
        let claimed = self.claimed(&delta, id).await?;
        if claimed.objects.is_empty() {
            return Ok(());
        }
        let since_us = self.merger.clock().now_us();
        let forgotten = format!("forgotten/{id}");
        if !is_recorded(&recorded(&delta).await?, &forgotten) {
            let mut transactions = forget(claimed.recorded);
            transactions.push((forgotten, 1));
            delta::commit_only(delta, &Commit { transactions, at_us: since_us, ..Commit::default() }).await?;
        }
        for (key, delivered_at_us) in &claimed.objects {
            self.merge_object(BronzeObject { key: key.clone(), delivered_at_us: *delivered_at_us }).await?;
        }
        self.replayed.quarantined_again += self.came_back(&claimed.objects, since_us).await?;
        Ok(())
    }

    async fn claimed(&self, delta: &DeltaTable, id: &str) -> Result<Claimed> {
        let mut found = claim::ordered(delta, &self.session, claim::of_claim(id).and(is_no_row())).await?;
        let mut claimed = Claimed::default();
        let failed = || format!("can't read the quarantine of table {}", self.table.name);
        while let Some(batch) = found.try_next().await.context(Kind::Unavailable, failed)? {
            for row in Row::all(&batch)? {
                let Some(object) = row.place.object else { continue };
                claimed.recorded.push(match (row.rule.as_deref(), row.byte_offset) {
                    (Some(POISON_RULE), _) | (_, None) => object_id(&object),
                    (_, Some(offset)) => damage_id(&object, offset),
                });
                let delivered_at_us = row.place.received_at_us.or(row.quarantined_at_us).unwrap_or_default();
                claimed.objects.entry(object).or_insert(delivered_at_us);
            }
        }
        Ok(claimed)
    }

    async fn merge_object(&mut self, object: BronzeObject) -> Result<()> {
        if !self.is_there(&object.key).await? {
            let reason = "the object is gone from bronze; nothing of it can be replayed";
            return self.merger.set_aside(&self.table.name, &object, reason).await;
        }
        match self.merger.merge(&self.table.name, std::slice::from_ref(&object)).await {
            Ok(outcome) => {
                self.replayed.add(&outcome);
                Ok(())
            }
            Err(error) if is_poison(&error) => self.merger.set_aside(&self.table.name, &object, &error.chain()).await,
            Err(error) => Err(error),
        }
    }

    async fn is_there(&self, key: &str) -> Result<bool> {
        match self.merger.lake().object_store()?.head(&path_of(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error).context(Kind::Unavailable, || format!("can't look for bronze object {key}")),
        }
    }

    /// How many rows of these objects, damage included, came to quarantine since a time.
    async fn came_back(&self, objects: &BTreeMap<String, i64>, since_us: i64) -> Result<u64> {
        let Some(delta) = quarantine::open(self.merger.lake(), self.table).await? else { return Ok(0) };
        let since = lit(ScalarValue::TimestampMicrosecond(Some(since_us), Some("UTC".into())));
        let is_new = claim::column("replay_id").is_null().and(claim::column("quarantined_at").gt_eq(since));
        let is_of_object = claim::column("ingest_id").is_null().and(claim::column("object").is_not_null());
        let names = ["object".to_owned()];
        let mut found = delta::read(&delta, &self.session, Some(&names), Some(is_new.and(is_of_object))).await?;
        let failed = || format!("can't read the quarantine of table {}", self.table.name);
        let mut count = 0;
        while let Some(batch) = found.try_next().await.context(Kind::Unavailable, failed)? {
            let keys = cast(batch.column(0), &DataType::Utf8)
                .map_err(|error| Error::internal("an object's key is no text").because(error))?;
            let is_one = |key: &&str| objects.contains_key(*key);
            count += keys.as_string::<i32>().iter().flatten().filter(is_one).count() as u64;
        }
        Ok(count)
    }
}
