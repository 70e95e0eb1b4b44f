//! Loaded Delta logs, kept so that planning reads only the commits that are new.
//!
//! There is one slot a table. Whoever plans takes the slot's lock, asks the log for newer commits and leaves the
//! result for the next. Of many that wait for the same slot only the first does that: a refresh that *began* after a
//! reader arrived has seen every commit the reader may know of, so the others take its result.
//!
//! A table whose folder is deleted and made anew behind a running server is not noticed until its version passes the
//! one that is loaded. Nothing in Mallard does that: models are replaced by a commit.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use deltalake::DeltaTable;
use lakehouse::lake::{committed_us, read_log};
use lakehouse::{Lake, Layer, Name, Result};

/// The Delta versions that a query reads, by qualified name (`silver.flights`).
pub type Versions = BTreeMap<String, u64>;

/// In [`Versions`]: the table had no commit, only declared columns.
pub const NEVER_COMMITTED: u64 = u64::MAX;

/// How many versions of a table stay loaded, so that a fetch just behind its plan finds its snapshot.
const VERSIONS_KEPT: usize = 4;

/// How many older versions of a table stay loaded, for those who travel in time.
const PAST_KEPT: usize = 4;

/// The newest snapshots of a lake's tables.
pub(super) struct Snapshots {
    lake: Lake,
    slots: Mutex<HashMap<(Layer, Name), Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    /// How many refreshes have begun.
    begun: AtomicU64,
    loaded: tokio::sync::Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// The number of the last refresh that succeeded.
    refresh: u64,
    /// Versions in ascending order.
    tables: VecDeque<DeltaTable>,
    /// Versions that were asked for by number or time, the last one loaded at the end; with the time.
    past: VecDeque<(DeltaTable, Option<i64>)>,
}

impl Snapshots {
    pub(super) fn new(lake: Lake) -> Self {
        Self { lake, slots: Mutex::default() }
    }

    /// The newest snapshot, or `None` if nothing was ever committed.
    pub(super) async fn newest(&self, layer: Layer, name: &Name) -> Result<Option<DeltaTable>> {
        let slot = self.slot(layer, name);
        let begun_before = slot.begun.load(Ordering::SeqCst);
        let mut loaded = slot.loaded.lock().await;
        if loaded.refresh > begun_before {
            return Ok(loaded.tables.back().cloned());
        }
        let this_refresh = slot.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let newest = self.refresh(layer, name, loaded.tables.back()).await?;
        loaded.refresh = this_refresh;
        match &newest {
            Some(table) => loaded.keep(table),
            None => loaded.tables.clear(),
        }
        Ok(newest)
    }

    /// The snapshot at `version`.
    pub(super) async fn at(&self, layer: Layer, name: &Name, version: u64) -> Result<DeltaTable> {
        let slot = self.slot(layer, name);
        if let Some(known) = slot.loaded.lock().await.find(|table, _| table.version() == Some(version)) {
            return Ok(known);
        }
        let table = self.lake.open_version(layer, name, version).await?;
        slot.loaded.lock().await.keep_past(&table, None);
        Ok(table)
    }

    /// The newest snapshot that was committed at a time or before it, in microseconds since the epoch.
    pub(super) async fn at_time(&self, layer: Layer, name: &Name, us: i64) -> Result<DeltaTable> {
        let newest = self.newest(layer, name).await?;
        if let Some(newest) = &newest
            && committed_us(newest).is_some_and(|committed_us| committed_us <= us)
        {
            return Ok(newest.clone());
        }
        let slot = self.slot(layer, name);
        if let Some(known) = slot.loaded.lock().await.find(|_, at_us| at_us == Some(us)) {
            return Ok(known);
        }
        let table = self.lake.open_at(layer, name, us).await?;
        // What no later commit can change any more.
        if newest.is_some_and(|newest| table.version() < newest.version()) {
            slot.loaded.lock().await.keep_past(&table, Some(us));
        }
        Ok(table)
    }

    async fn refresh(&self, layer: Layer, name: &Name, known: Option<&DeltaTable>) -> Result<Option<DeltaTable>> {
        if let Some(known) = known {
            let mut table = known.clone();
            let (refreshed, table) = read_log(async move { (table.update_incremental(None).await, table) }).await?;
            match refreshed {
                Ok(()) => return Ok(Some(table)),
                // The log may have been replaced or cleaned behind us: read it from its beginning.
                Err(error) => {
                    tracing::warn!(%layer, table = %name, %error, "can't refresh a snapshot; loading it anew")
                }
            }
        }
        self.lake.open(layer, name).await
    }

    fn slot(&self, layer: Layer, name: &Name) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry((layer, name.clone())).or_default())
    }
}

impl Loaded {
    fn keep(&mut self, newest: &DeltaTable) {
        self.tables.retain(|table| table.version() < newest.version());
        self.tables.push_back(newest.clone());
        while self.tables.len() > VERSIONS_KEPT {
            self.tables.pop_front();
        }
    }

    fn keep_past(&mut self, table: &DeltaTable, at_us: Option<i64>) {
        self.past.push_back((table.clone(), at_us));
        while self.past.len() > PAST_KEPT {
            self.past.pop_front();
        }
    }

    fn find(&self, is_it: impl Fn(&DeltaTable, Option<i64>) -> bool) -> Option<DeltaTable> {
        let tables = self.tables.iter().map(|table| (table, None));
        let mut known = tables.chain(self.past.iter().map(|(table, at_us)| (table, *at_us)));
        known.find(|(table, at_us)| is_it(table, *at_us)).map(|(table, _)| table.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::future::join_all;

    use super::*;
    use crate::engine::fixture::{Fixture, events};

    #[tokio::test]
    async fn readers_that_wait_together_share_one_refresh() {
        let fixture = Fixture::new().await;
        let snapshots = Snapshots::new(fixture.lake.clone());
        let name = Name::new("events").unwrap();
        snapshots.newest(Layer::Silver, &name).await.unwrap();
        fixture.append(Layer::Silver, "events", events(6..12)).await;

        let slot = snapshots.slot(Layer::Silver, &name);
        let held = slot.loaded.lock().await;
        let mut readers = pin!(join_all((0..20).map(|_| snapshots.newest(Layer::Silver, &name))));
        assert!(futures::poll!(readers.as_mut()).is_pending());
        drop(held);
        for newest in readers.await {
            assert_eq!(newest.unwrap().unwrap().version(), Some(1));
        }
        assert_eq!(slot.begun.load(Ordering::SeqCst), 2, "one before, one for all of them");
    }

    #[tokio::test]
    async fn versions_of_the_past_stay_loaded_for_a_while() {
        let fixture = Fixture::new().await;
        for _ in 0..3 * PAST_KEPT {
            fixture.append(Layer::Silver, "events", events(6..12)).await;
        }
        let snapshots = Snapshots::new(fixture.lake.clone());
        let name = Name::new("events").unwrap();
        let asked = u64::try_from(2 * PAST_KEPT).unwrap();
        for version in 0..asked {
            let table = snapshots.at(Layer::Silver, &name, version).await.unwrap();
            assert_eq!(table.version(), Some(version));
            let us = committed_us(&table).unwrap();
            assert_eq!(snapshots.at_time(Layer::Silver, &name, us).await.unwrap().version(), Some(version));
        }
        let slot = snapshots.slot(Layer::Silver, &name);
        let loaded = slot.loaded.lock().await;
        assert_eq!(loaded.past.len(), PAST_KEPT);
        assert!(loaded.find(|table, _| table.version() == Some(asked - 1)).is_some());
    }

    #[tokio::test]
    async fn a_reader_that_comes_after_a_commit_sees_it_even_during_a_refresh() {
        let fixture = Fixture::new().await;
        let snapshots = Snapshots::new(fixture.lake.clone());
        let name = Name::new("events").unwrap();
        snapshots.newest(Layer::Silver, &name).await.unwrap();
        // As if a refresh had begun before the commit and were still under way.
        let slot = snapshots.slot(Layer::Silver, &name);
        let mut held = slot.loaded.lock().await;
        let this_refresh = slot.begun.fetch_add(1, Ordering::SeqCst) + 1;
        fixture.append(Layer::Silver, "events", events(6..12)).await;
        let mut reader = pin!(snapshots.newest(Layer::Silver, &name));
        assert!(futures::poll!(reader.as_mut()).is_pending());
        held.refresh = this_refresh;
        drop(held);
        assert_eq!(reader.await.unwrap().unwrap().version(), Some(1));
    }
}
