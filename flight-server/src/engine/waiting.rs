//! Read your ingest: queries that wait until what they read contains certain ingests.
//!
//! A session names ingests ([`Awaited`]). Before its query is planned, the engine finds out which tables that reads,
//! and waits until they contain them. Then it plans on the newest versions, as ever: what a table contains, its later
//! versions contain too.
//!
//! ```text
//! plan(request) ─► which tables? ─► Ingests::wait ─► plan on the newest snapshots
//!                 (planning thread) (no thread, no slot; dropped with the call)
//! plan(request, pinned) ──────────────────────────► plan on the pinned ones: they were waited for
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deltalake::DeltaTable;
use lakehouse::{Error, Layer, Name, Result};
use proto::Session;

use super::catalog::{GOLD, QueryCatalog, SILVER, Source};
use super::plan::Planner;
use super::request::{QueryText, Request};
use super::text::{self, split_name};
use super::workers::Workers;
use super::{changes, explain, limits};
use crate::ingest::INGEST_ID_BYTES_MAX;

/// How long a query without a timeout waits for ingests, in seconds: some rounds of delivery, merge and refresh.
pub const WAIT_FOR_SECONDS_DEFAULT: u64 = 30;

/// The most ingests that a query waits for. Each look asks each table for each of them.
pub const WAIT_FOR_INGESTS_MAX: usize = 64;

/// An ingest that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Awaited {
    /// Its id.
    pub ingest_id: String,
    /// Of a stream: the batch up to which it must be there, from 0. None: the whole ingest.
    pub offset: Option<u64>,
}

impl Awaited {
    /// Reads `<ingest id>` or `<ingest id>@<batch>`.
    ///
    /// # Errors
    /// `Invalid` if it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (id, offset) = match text.rsplit_once('@') {
            Some((id, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let offset = digits.parse().map_err(|_| {
                    Error::invalid(format!("wait_for {text:?} names a batch beyond all others; give a lower number"))
                })?;
                (id, Some(offset))
            }
            _ => (text, None),
        };
        // As the door takes them.
        let is_plain = |c: char| c.is_ascii_graphic() && c != '/';
        if id.is_empty() || id.len() > INGEST_ID_BYTES_MAX || !id.chars().all(is_plain) {
            return Err(Error::invalid(format!(
                "wait_for {text:?} is no ingest id; give ids of 1 to {INGEST_ID_BYTES_MAX} visible ASCII characters, \
                 or id@batch for a stream, divided by commas"
            )));
        }
        Ok(Self { ingest_id: id.to_owned(), offset })
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            None => f.write_str(&self.ingest_id),
            Some(offset) => write!(f, "{}@{offset}", self.ingest_id),
        }
    }
}

/// The items of a list of ingests, checked, each once, as a session carries them.
///
/// # Errors
/// `Invalid` if one is none, or there are too many.
pub fn awaited_list<'a>(items: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let all: BTreeSet<Awaited> = items.map(Awaited::parse).collect::<Result<_>>()?;
    if all.len() > WAIT_FOR_INGESTS_MAX {
        return Err(Error::invalid(format!(
            "wait_for names {} ingests; the most is {WAIT_FOR_INGESTS_MAX}: leave out what was merged long ago",
            all.len()
        )));
    }
    Ok(all.iter().map(Awaited::to_string).collect())
}

/// The ingests that a session's queries wait for.
pub(super) fn awaited(session: &Session) -> Result<Vec<Awaited>> {
    let all = session.wait_for.iter().map(|text| Awaited::parse(text)).collect::<Result<Vec<_>>>()?;
    if !all.is_empty() && session.as_of_us.is_some() {
        return Err(Error::invalid(
            "the session reads the lake as of a time, which no wait brings an ingest into; unset as_of or wait_for",
        ));
    }
    Ok(all)
}

/// What a query waits for.
#[derive(Clone, Debug)]
pub struct Wait {
    /// The ingests.
    pub awaited: Vec<Awaited>,
    /// The silver and gold tables that must contain them, as far as rows of these go there.
    pub reads: BTreeSet<(Layer, Name)>,
    /// How long it may take.
    pub limit: Duration,
}

/// Who knows where ingests are.
#[async_trait]
pub trait Ingests: Send + Sync + 'static {
    /// Returns once the newest versions of what is read contain what is awaited. Dropping the future ends the wait.
    ///
    /// # Errors
    /// `Timeout` if that takes too long, saying what is missing where; `Unavailable` if the lake can't be read.
    async fn wait(&self, wait: &Wait, newest: &Newest) -> Result<()>;
}

/// The newest snapshots of tables, from the engine's memory: the query behind the wait finds them there.
pub struct Newest {
    source: Arc<Source>,
    workers: Arc<Workers>,
}

impl Newest {
    pub(super) fn new(source: &Arc<Source>, workers: &Arc<Workers>) -> Self {
        Self { source: Arc::clone(source), workers: Arc::clone(workers) }
    }

    /// The newest snapshot of a table, or `None` if nothing was ever committed.
    ///
    /// # Errors
    /// `Unavailable` if its log can't be read.
    pub async fn of(&self, layer: Layer, name: &Name) -> Result<Option<DeltaTable>> {
        let (source, name) = (Arc::clone(&self.source), name.clone());
        self.workers.run(async move { source.snapshots.newest(layer, &name).await }).await
    }
}

impl Planner {
    /// The silver and gold tables that a statement reads in their newest version. What is wrong with a statement is
    /// told by its planning: here it reads nothing.
    pub(super) async fn reads(self, request: Request) -> Result<BTreeSet<(Layer, Name)>> {
        match &request.text {
            QueryText::Sql(sql) => self.reads_of_sql(sql, request.schema()).await,
            QueryText::Substrait(_) => {
                let catalog = Arc::clone(&self.catalog);
                let plan = self.plan(request).await?;
                let names = plan.versions().keys().filter_map(|name| name.split_once('.'));
                let tables = names.map(|(schema, name)| declared(&catalog, schema, name));
                Ok(tables.flatten().flatten().collect())
            }
        }
    }

    async fn reads_of_sql(&self, sql: &str, default_schema: &str) -> Result<BTreeSet<(Layer, Name)>> {
        let nothing = Ok(BTreeSet::new());
        if limits::check_text(sql).is_err() {
            return nothing;
        }
        let Ok(sql) = text::rewrite(sql) else { return nothing };
        let dialect = self.session.config_options().sql_parser.dialect;
        let Ok(statement) = self.session.sql_to_statement(&sql, &dialect) else { return nothing };
        if limits::check_tree(&statement).is_err() {
            return nothing;
        }
        // An INSERT does not read its target, UPDATE and DELETE do: the rewritten statement shows it.
        let rewritten = changes::rewrite(&statement, &self.catalog).await?;
        let statement = rewritten.map_or(statement, |rewritten| rewritten.statement);
        let references = self.session.resolve_table_references(&statement).map_err(explain)?;
        let own = self.catalog.definition().name.as_str();
        let mut reads = BTreeSet::new();
        for reference in &references {
            if reference.catalog().is_some_and(|catalog| catalog != own) {
                return nothing;
            }
            let schema = reference.schema().unwrap_or(default_schema);
            match declared(&self.catalog, schema, reference.table()) {
                Some(table) => reads.extend(table),
                None => return nothing,
            }
        }
        Ok(reads)
    }
}

/// The table that a name stands for. `Some(None)`: one that nothing is waited for in, since it is about the lakehouse
/// or of the past. `None`: there is none.
fn declared(catalog: &QueryCatalog, schema: &str, name: &str) -> Option<Option<(Layer, Name)>> {
    let (name, as_of) = split_name(name);
    let definition = catalog.definition();
    let found = match schema {
        GOLD => (Layer::Gold, definition.models.get_key_value(name)?.0.clone()),
        SILVER => (Layer::Silver, definition.tables.get_key_value(name)?.0.clone()),
        _ => return Some(None),
    };
    Some(as_of.is_none().then_some(found))
}

#[cfg(test)]
mod tests {
    use lakehouse::Kind;

    use super::*;
    use crate::engine::fixture::Fixture;

    #[test]
    fn ingests_are_read_with_and_without_a_batch() {
        let awaited = |ingest_id: &str, offset| Awaited { ingest_id: ingest_id.to_owned(), offset };
        assert_eq!(Awaited::parse(" a-1 ").unwrap(), awaited("a-1", None));
        assert_eq!(Awaited::parse("a@17").unwrap(), awaited("a", Some(17)));
        assert_eq!(Awaited::parse("ann@home").unwrap(), awaited("ann@home", None));
        assert_eq!(Awaited::parse("ann@home@0").unwrap(), awaited("ann@home", Some(0)));
        for text in ["a", "a@17", "ann@home", "ann@home@0"] {
            assert_eq!(Awaited::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_ingest_is_refused_with_the_way_to_write_it() {
        let long = "x".repeat(INGEST_ID_BYTES_MAX + 1);
        for text in ["", "@5", "a b", "a/b", "é", long.as_str()] {
            let error = Awaited::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(error.to_string().contains("divided by commas"), "{error}");
        }
        assert!(Awaited::parse("a@99999999999999999999").unwrap_err().to_string().contains("lower number"));
        assert_eq!(awaited_list("b,a,b".split(',')).unwrap(), ["a", "b"]);
        assert!(awaited_list("a,,b".split(',')).is_err());
        let many: Vec<String> = (0..=WAIT_FOR_INGESTS_MAX).map(|n| n.to_string()).collect();
        assert!(awaited_list(many.iter().map(String::as_str)).unwrap_err().to_string().contains("65 ingests"));
    }

    #[test]
    fn the_past_is_not_waited_for() {
        let session = Session { wait_for: vec!["a".to_owned()], as_of_us: Some(1), ..Session::default() };
        assert!(awaited(&session).unwrap_err().to_string().contains("unset as_of or wait_for"));
        assert!(awaited(&Session { wait_for: Vec::new(), ..session }).unwrap().is_empty());
    }

    async fn reads(fixture: &Fixture, sql: &str) -> Vec<String> {
        let request = Request::sql("id", sql);
        let planner = fixture.engine.planner(&request);
        let reads = planner.reads(request).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        reads.into_iter().map(|(layer, name)| format!("{layer}.{name}")).collect()
    }

    #[tokio::test]
    async fn a_statement_waits_for_what_it_reads_and_not_for_what_it_writes() {
        let fixture = Fixture::new().await;
        for (sql, expected) in [
            ("SELECT * FROM silver.events", vec!["silver.events"]),
            ("SELECT * FROM delays d JOIN silver.events e ON true", vec!["silver.events", "gold.delays"]),
            ("WITH e AS (SELECT * FROM flights.silver.events) SELECT 1 FROM e", vec!["silver.events"]),
            ("SELECT 1 WHERE EXISTS (SELECT 1 FROM silver.untouched)", vec!["silver.untouched"]),
            ("SELECT * FROM gold.unrefreshed", vec!["gold.unrefreshed"]),
            ("INSERT INTO silver.carriers SELECT month, name FROM silver.events", vec!["silver.events"]),
            ("INSERT INTO silver.carriers VALUES ('AA', 'x')", vec![]),
            ("SELECT * FROM silver.events VERSION AS OF 0", vec![]),
            ("SELECT * FROM system.numbers", vec![]),
            ("SELECT * FROM information_schema.tables", vec![]),
            ("SHOW TABLES", vec![]),
            ("SELECT 1", vec![]),
            ("SELECT * FROM silver.events, silver.nothing", vec![]),
            ("SELEC", vec![]),
        ] {
            assert_eq!(reads(&fixture, sql).await, expected, "{sql}");
        }
    }
}
