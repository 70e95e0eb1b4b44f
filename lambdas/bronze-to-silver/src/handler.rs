//! Serves the calls of the Lambda: events in, merges, and what is told of them.
//!
//! ```text
//!  SQS batch ──► batch ─────┐                         ┌─► log, metrics, "silver committed"  (telling)
//!  notices, requests ─► direct ─► Function::merge ──► merging ──► Merger
//!  schedule ──► reconcile ──┘          │                └─ a poison object is found, and after some tries set aside
//!                 │                 listing
//!                 └─► messages to the queue, for what no event told of
//! ```
//!
//! A [`Function`] is built once, when Lambda starts the process, and serves one call after the other. All memory that
//! grows with what is merged belongs to the merger and its budgets ([`budget`]); tables of a batch are merged one after
//! the other, so only one merge holds them.

mod batch;
mod budget;
mod direct;
mod listing;
mod merging;
mod reconcile;
mod telling;

use std::sync::Arc;

use async_trait::async_trait;
use bronze_to_silver::Merger;
use deltalake::logstore::object_store::ObjectStore;
use host::events::{Event, Request};
use host::place::Place;
use host::publish::aws::{EventBridge, Sqs};
use host::publish::{Bus, Outbox, Queue};
use host::{Call, Handler, Host, Metrics};
use lakehouse::definition::Definition;
use lakehouse::{Clock, Definitions, Lake, Name, Result};
use serde_json::Value;

use merging::{Queued, Report};

/// All that calls share.
pub(crate) struct Function {
    merger: Merger,
    definitions: Arc<Definitions>,
    lake: Lake,
    store: Arc<dyn ObjectStore>,
    place: Place,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    outbox: Outbox,
    queue: Option<Arc<dyn Queue>>,
    object_tries: u32,
}

impl Function {
    /// Reads the definition, opens the lake.
    ///
    /// # Errors
    /// `Invalid` if the definition or a setting is wrong, `NotFound` or `Unavailable` if the lake can't be reached.
    pub(crate) async fn open(host: Host) -> Result<Self> {
        let Host { settings, metrics, clock } = host;
        let definition = Arc::new(Definition::load(&settings.definition)?);
        let lake = Lake::open_uri(&settings.lake)?;
        let definitions = Definitions::open(definition, lake.clone()).await?;
        let budget = budget::settings(&settings, &std::env::temp_dir())?;
        let merger = Merger::new(Arc::clone(&definitions), lake.clone(), Arc::clone(&clock), budget);
        let bus = settings.event_bus.map(|bus| Arc::new(EventBridge::new(bus)) as Arc<dyn Bus>);
        Ok(Self {
            merger,
            definitions,
            store: lake.object_store()?,
            place: Place::of(&lake),
            lake,
            clock,
            metrics,
            outbox: Outbox::new(bus),
            queue: settings.queue_url.map(|url| Arc::new(Sqs::new(url)) as Arc<dyn Queue>),
            object_tries: settings.object_tries,
        })
    }

    /// Merges objects of one table, and tells of it.
    async fn merge(&self, table: &Name, queued: &[Queued], call: &Call) -> Report {
        // An ingest may have made the table since this process was started.
        let is_known = self.definitions.now().tables.contains_key(table);
        let refreshed = if is_known { Ok(()) } else { self.definitions.refresh().await.map(drop) };
        let report = match refreshed {
            Ok(()) => merging::merge_all(&self.merger, table, queued, self.object_tries, call).await,
            Err(error) => Report { failure: Some(error), ..Report::default() },
        };
        self.tell(table, queued, &report, call).await;
        report
    }
}

#[async_trait]
impl Handler for Function {
    async fn call(&self, event: Value, call: &Call) -> Result<Value> {
        self.outbox.flush().await;
        match Event::parse(event)? {
            Event::Batch(messages) => Ok(batch::serve(self, &messages, call).await),
            Event::Told(content) => direct::told(self, content, call).await,
            Event::Asked(Request::Objects { table, notices, again }) => {
                direct::objects(self, &table, &notices, again, call).await
            }
            Event::Asked(Request::Range { table, from_us, to_us, again }) => {
                direct::range(self, &table, direct::Asked { from_us, to_us, again }, call).await
            }
            Event::Asked(Request::Replay { table, filter }) => {
                direct::replay(self, &table, filter.as_deref(), call).await
            }
            Event::Asked(Request::Reconcile { tables, hours }) => reconcile::serve(self, tables, hours, call).await,
        }
    }
}
