//! One table, its rules, and how long there is time for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use lakehouse::definition::{Definition, Maintenance, Table};
use lakehouse::{Error, Lake, Layer, Name, Result};

use crate::expiry::Expiry;
use crate::report::RUNS;

/// The column of tombstones that says since when they count.
const DELETED_AT_COLUMN: &str = "deleted_at";

/// The column of [`RUNS`] that says when.
const RUN_AT_COLUMN: &str = "at";

/// How long runs are remembered.
const RUN_RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How far the clocks of writers, storage and maintenance are apart at most.
pub(crate) const CLOCKS_APART_MAX: Duration = Duration::from_secs(60 * 60);

/// How rows lie in the files that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they came.
    Arrival,
    /// By these columns, the first one counting most.
    Sorted(Vec<String>),
    /// By all of these columns alike.
    Curved(Vec<String>),
}

/// The rules for a table.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) maintenance: Maintenance,
    pub(crate) order: Order,
    pub(crate) expiry: Option<Expiry>,
}

impl Policy {
    /// The rules for a table of a layer; `None` if the definition has no such table.
    pub(crate) fn of(definition: &Definition, layer: Layer, name: &Name) -> Option<Self> {
        let plain = || Self { maintenance: Maintenance::default(), order: Order::Arrival, expiry: None };
        let table = definition.tables.get(name);
        match layer {
            Layer::Silver => table.map(|table| Self { order: order_of(table), ..Self::beside(table) }),
            Layer::Quarantine => table.map(|table| Self::beside(table)),
            Layer::Tombstones => table.map(|table| Self {
                order: Order::Sorted(table.primary_key.clone()),
                expiry: Some(Expiry { column: DELETED_AT_COLUMN, after: table.tombstone_retention }),
                ..Self::beside(table)
            }),
            Layer::Gold => definition.models.contains_key(name).then(plain),
            Layer::Maintenance => (name.as_str() == RUNS)
                .then(|| Self { expiry: Some(Expiry { column: RUN_AT_COLUMN, after: RUN_RETENTION }), ..plain() }),
        }
    }

    /// The rules for what lies beside a table.
    fn beside(table: &Table) -> Self {
        Self { maintenance: table.maintenance.clone(), order: Order::Arrival, expiry: None }
    }
}

/// By the columns that are declared for it, else by the key: merges look for keys.
fn order_of(table: &Table) -> Order {
    match table.maintenance.cluster_by.as_slice() {
        [] if table.is_keyed() => Order::Sorted(table.primary_key.clone()),
        [] => Order::Arrival,
        [one] => Order::Sorted(vec![one.clone()]),
        several => Order::Curved(several.to_vec()),
    }
}

/// What a step needs to know.
pub(crate) struct Job<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) layer: Layer,
    pub(crate) name: &'a Name,
    pub(crate) policy: Policy,
    /// Sorts within its budgets.
    pub(crate) session: &'a Arc<SessionState>,
    /// The most bytes of files that are sorted at once: what is decoded from them fits the budgets.
    pub(crate) sorted_bytes_max: u64,
    /// Now, in microseconds since the epoch.
    pub(crate) now_us: i64,
    /// When nothing new is begun any more.
    pub(crate) until: Option<Instant>,
}

impl Job<'_> {
    /// The newest version of the table.
    pub(crate) async fn open(&self) -> Result<DeltaTable> {
        let gone = || Error::not_found(format!("table {}.{} is gone", self.layer, self.name));
        self.lake.open(self.layer, self.name).await?.ok_or_else(gone)
    }

    /// Whether nothing new should be begun.
    pub(crate) fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The time `before` now, in microseconds since the epoch.
    pub(crate) fn before_us(&self, before: Duration) -> i64 {
        self.now_us.saturating_sub(i64::try_from(before.as_micros()).unwrap_or(i64::MAX))
    }
}
