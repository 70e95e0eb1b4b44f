//! Names in SQL and what they stand for: one catalog, called as the lakehouse, with schemas `gold`, `silver` and
//! `system`.
//!
//! A [`QueryCatalog`] belongs to one query. It loads a table when the planner first asks for it, remembers what it
//! gave, and so a name stands for one snapshot however often the query uses it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::empty::EmptyTable;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use lakehouse::definition::{Definition, did_you_mean};
use lakehouse::{Definitions, Error, Kind, Layer, Name, Result};

use super::information::Information;
use super::snapshots::{NEVER_COMMITTED, Snapshots, Versions};
use super::system::{self, SystemTables};
use super::text::{AsOf, split_name};
use super::{explain, plain_schema};

/// The schema of models, and the default one.
pub const GOLD: &str = "gold";
/// The schema of tables fed by ingest.
pub const SILVER: &str = "silver";
/// The schema of tables about the lakehouse itself.
pub const SYSTEM: &str = "system";
/// All schemas with tables, sorted.
pub const SCHEMAS: [&str; 3] = [GOLD, SILVER, SYSTEM];

/// The schema, unseen, in which the table that an INSERT is planned against stands.
pub(super) const TARGET: &str = "$target";
/// The schema about all others.
pub(super) const INFORMATION_SCHEMA: &str = "information_schema";

/// Where a column's own metadata says what it is about.
const COMMENT_KEY: &str = "comment";

/// How many Delta logs are read at once for a listing.
const LOGS_AT_ONCE: usize = 16;

/// A table, for metadata calls.
#[derive(Clone, Debug)]
pub struct CatalogTable {
    /// `gold`, `silver` or `system`.
    pub schema: &'static str,
    /// Its name.
    pub name: String,
    /// `TABLE` or `SYSTEM TABLE`.
    pub table_type: &'static str,
    /// Its columns, as results have them; none if nothing was declared, ingested or refreshed.
    pub arrow_schema: Option<SchemaRef>,
    /// For people.
    pub description: Option<String>,
}

/// Where tables come from; shared by all queries.
pub(super) struct Source {
    pub(super) definitions: Arc<Definitions>,
    pub(super) snapshots: Snapshots,
    pub(super) system: Arc<dyn SystemTables>,
    /// Tells Delta scans which types to read.
    pub(super) session: Arc<SessionState>,
}

/// The catalog of one query.
pub(super) struct QueryCatalog {
    source: Arc<Source>,
    /// What was declared when the query came.
    definition: Arc<Definition>,
    pinned: Option<Versions>,
    /// When tables are read as they were, in microseconds since the epoch.
    as_of_us: Option<i64>,
    target: Mutex<Option<(String, SchemaRef)>>,
    resolved: Mutex<BTreeMap<(&'static str, String), Resolved>>,
}

#[derive(Clone)]
struct Resolved {
    provider: Arc<dyn TableProvider>,
    /// None: the table has no versions.
    version: Option<u64>,
    /// How many files it has.
    files: u64,
}

impl QueryCatalog {
    pub(super) fn new(source: Arc<Source>, pinned: Option<Versions>, as_of_us: Option<i64>) -> Self {
        let definition = source.definitions.now();
        Self { source, definition, pinned, as_of_us, target: Mutex::default(), resolved: Mutex::default() }
    }

    /// What was declared when the query came.
    pub(super) fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Whether all tables are read as they were at a time.
    pub(super) fn reads_the_past(&self) -> bool {
        self.as_of_us.is_some()
    }

    /// Makes `$target.name` a table of these columns.
    pub(super) fn set_target(&self, name: &Name, columns: SchemaRef) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_string(), columns));
    }

    /// The columns of a silver table, if it has any yet.
    pub(super) async fn columns_of(&self, name: &Name) -> Result<Option<SchemaRef>> {
        Ok(self.find(SILVER, name.as_str()).await?.map(|found| found.provider.schema()))
    }

    /// How many files the tables have that were asked for so far.
    pub(super) fn files(&self) -> u64 {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.values().map(|table| table.files).sum()
    }

    /// The versions of the Delta tables that were asked for so far.
    pub(super) fn versions(&self) -> Versions {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = resolved.iter().filter_map(|((schema, name), table)| {
            let version = table.version?;
            Some((format!("{schema}.{name}"), version))
        });
        versions.collect()
    }

    /// Loads every table, as `information_schema` wants them.
    pub(super) async fn load_all(&self) -> Result<()> {
        // Boxed, since the compiler can't tell that a closure's futures are Send for every lifetime.
        let loads: Vec<BoxFuture<'_, _>> = self
            .names()
            .into_iter()
            .map(|(schema, name)| {
                let load = async move {
                    match self.find(schema, &name).await {
                        // What did not exist then is not listed.
                        Err(error) if self.reads_the_past() && error.kind() == Kind::NotFound => Ok(None),
                        found => found,
                    }
                };
                load.boxed()
            })
            .collect();
        stream::iter(loads).buffer_unordered(LOGS_AT_ONCE).try_for_each(|_| async { Ok(()) }).await
    }

    /// Every table with its columns.
    pub(super) async fn list(&self) -> Result<Vec<CatalogTable>> {
        self.load_all().await?;
        let mut tables: Vec<CatalogTable> = Vec::new();
        for (schema, name) in self.names() {
            let found = self.known(schema, &name);
            let arrow_schema = found.map(|table| plain_schema(&table.provider.schema()));
            let table_type = if schema == SYSTEM { "SYSTEM TABLE" } else { "TABLE" };
            let description = self.description(schema, &name);
            tables.push(CatalogTable { schema, name, table_type, arrow_schema, description });
        }
        tables.sort_by(|a, b| (a.schema, &a.name).cmp(&(b.schema, &b.name)));
        Ok(tables)
    }

    /// What to say about a table that isn't there.
    pub(super) fn missing(&self, catalog: &str, schema: &str, name: &str) -> Error {
        let own = self.definition.name.as_str();
        if catalog != own {
            return Error::invalid(format!("there is no catalog {catalog:?}; the only one is {own:?}"));
        }
        if schema == INFORMATION_SCHEMA {
            return Error::invalid(format!(
                "there is no table {schema}.{name}; there are tables, columns, views and more"
            ));
        }
        if !SCHEMAS.contains(&schema) {
            let known = SCHEMAS.join(", ");
            return Error::invalid(format!("there is no schema {schema:?}; there are {known} and information_schema"));
        }
        let (name, _) = split_name(name);
        let names = self.names();
        let elsewhere = names.iter().find(|(_, known)| known == name).map(|(other, _)| format!("{other}.{name}"));
        let here = names.iter().filter(|(known, _)| *known == schema).map(|(_, known)| known.as_str());
        let nearest = elsewhere.or_else(|| did_you_mean(name, here).map(|near| format!("{schema}.{near}")));
        let cure = match nearest {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "SHOW TABLES lists all there are".to_owned(),
        };
        Error::invalid(format!("there is no table {schema}.{name}; {cure}"))
    }

    fn names(&self) -> Vec<(&'static str, String)> {
        let definition = &self.definition;
        let gold = definition.models.keys().map(|name| (GOLD, name.to_string()));
        let silver = definition.tables.keys().map(|name| (SILVER, name.to_string()));
        let system = self.source.system.schemas().into_iter().map(|(name, _)| (SYSTEM, name));
        gold.chain(silver).chain(system).collect()
    }

    pub(super) fn description(&self, schema: &str, name: &str) -> Option<String> {
        let definition = &self.definition;
        match schema {
            GOLD => definition.models.get(name)?.description.clone(),
            SILVER => definition.tables.get(name)?.description.clone(),
            _ => None,
        }
    }

    /// What a column is about.
    pub(super) fn column_description(&self, schema: &str, name: &str, column: &str) -> Option<String> {
        let declared = self.definition.tables.get(name).filter(|_| schema == SILVER);
        let declared = declared.and_then(|table| table.column(column)).and_then(|column| column.description.clone());
        let stored = || {
            let schema = SCHEMAS.into_iter().find(|known| *known == schema)?;
            let found = self.known(schema, name)?.provider.schema();
            found.field_with_name(column).ok()?.metadata().get(COMMENT_KEY).cloned()
        };
        declared.or_else(stored)
    }

    /// The session that tells Delta scans which types to read.
    pub(super) fn session(&self) -> &Arc<SessionState> {
        &self.source.session
    }

    fn known(&self, schema: &'static str, name: &str) -> Option<Resolved> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.get(&(schema, name.to_owned())).cloned()
    }

    /// The table, loaded if need be; `None` if there is none, or it has no columns yet.
    async fn find(&self, schema: &'static str, name: &str) -> Result<Option<Resolved>> {
        if let Some(known) = self.known(schema, name) {
            return Ok(Some(known));
        }
        let (table, clause) = split_name(name);
        let as_of = clause.or(self.as_of_us.map(AsOf::Timestamp));
        let found = match schema {
            SYSTEM if clause.is_some() => {
                return Err(Error::invalid(format!("system.{table} tells how things are now; leave AS OF out")));
            }
            SYSTEM => self.load_system(name)?,
            GOLD => match self.definition.models.get_key_value(table) {
                Some((table, _)) => self.load_delta(Layer::Gold, schema, name, table, as_of, None).await?,
                None => None,
            },
            _ => match self.definition.tables.get_key_value(table) {
                Some((table, declared)) => {
                    let declared = declared.declared_schema();
                    self.load_delta(Layer::Silver, schema, name, table, as_of, declared).await?
                }
                None => None,
            },
        };
        let Some(found) = found else { return Ok(None) };
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        // If two loaded it at once, both go on with the first one's.
        Ok(Some(resolved.entry((schema, name.to_owned())).or_insert(found).clone()))
    }

    fn load_system(&self, name: &str) -> Result<Option<Resolved>> {
        let tables = &self.source.system;
        let Some((_, schema)) = tables.schemas().into_iter().find(|(known, _)| known == name) else {
            return Ok(None);
        };
        let provider = system::provider(tables, name, schema).map_err(explain)?;
        Ok(Some(Resolved { provider, version: None, files: 0 }))
    }

    /// `key` is the name as the query has it, with the state that it may mean.
    async fn load_delta(
        &self,
        layer: Layer,
        schema: &str,
        key: &str,
        name: &Name,
        as_of: Option<AsOf>,
        declared: Option<SchemaRef>,
    ) -> Result<Option<Resolved>> {
        match self.snapshot(layer, schema, key, name, as_of).await? {
            Some(table) => {
                let version = table.version();
                let files = table.snapshot().map_or(0, |snapshot| snapshot.log_data().num_files() as u64);
                let provider = table.table_provider().with_session(Arc::clone(&self.source.session)).await;
                Ok(Some(Resolved { provider: provider.map_err(explain)?, version, files }))
            }
            None => Ok(declared.map(|columns| Resolved {
                provider: Arc::new(EmptyTable::new(columns)),
                version: Some(NEVER_COMMITTED),
                files: 0,
            })),
        }
    }

    async fn snapshot(
        &self,
        layer: Layer,
        schema: &str,
        key: &str,
        name: &Name,
        as_of: Option<AsOf>,
    ) -> Result<Option<DeltaTable>> {
        let snapshots = &self.source.snapshots;
        if let Some(pinned) = &self.pinned {
            return match pinned.get(&format!("{schema}.{key}")) {
                Some(&NEVER_COMMITTED) => Ok(None),
                Some(&version) => snapshots.at(layer, name, version).await.map(Some),
                // A listing left it out, since it had no columns then.
                None => Ok(None),
            };
        }
        match as_of {
            None => snapshots.newest(layer, name).await,
            Some(AsOf::Version(version)) => {
                let newest = snapshots.newest(layer, name).await?.and_then(|table| table.version());
                match newest {
                    Some(newest) if version <= newest => snapshots.at(layer, name, version).await.map(Some),
                    Some(newest) => Err(Error::not_found(format!(
                        "table {schema}.{name} has no version {version}; its newest is {newest}"
                    ))),
                    None => {
                        Err(Error::not_found(format!("table {schema}.{name} has no version yet, so none {version}")))
                    }
                }
            }
            Some(AsOf::Timestamp(us)) => snapshots.at_time(layer, name, us).await.map(Some),
        }
    }

    /// Why a declared table can't be read yet; `None` if it isn't declared.
    fn unready(&self, schema: &str, name: &str) -> Option<Error> {
        let definition = &self.definition;
        let (name, _) = split_name(name);
        match schema {
            SILVER if definition.tables.contains_key(name) => Some(Error::not_found(format!(
                "table silver.{name} has no rows and no declared columns yet; ingest into it first"
            ))),
            GOLD if definition.models.contains_key(name) => Some(Error::not_found(format!(
                "model gold.{name} has not been refreshed yet; query it again after its first refresh \
                 (system.models tells how it stands)"
            ))),
            _ => None,
        }
    }
}

impl fmt::Debug for QueryCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryCatalog").field("pinned", &self.pinned).finish_non_exhaustive()
    }
}

/// One schema of a query's catalog.
#[derive(Debug)]
struct QuerySchema {
    catalog: Arc<QueryCatalog>,
    schema: &'static str,
}

/// What DataFusion sees: a catalog whose schemas share the query's memory of what was resolved.
#[derive(Debug)]
pub(super) struct SharedCatalog(pub(super) Arc<QueryCatalog>);

impl CatalogProvider for SharedCatalog {
    fn schema_names(&self) -> Vec<String> {
        SCHEMAS.iter().map(|&name| name.to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == TARGET {
            return Some(Arc::new(Target(Arc::clone(&self.0))));
        }
        if name == INFORMATION_SCHEMA {
            return Some(Arc::new(Information::new(Arc::clone(&self.0))));
        }
        let schema = SCHEMAS.into_iter().find(|known| *known == name)?;
        Some(Arc::new(QuerySchema { catalog: Arc::clone(&self.0), schema }))
    }
}

/// The table that an INSERT is planned against.
#[derive(Debug)]
struct Target(Arc<QueryCatalog>);

#[async_trait]
impl SchemaProvider for Target {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let target = self.0.target.lock().unwrap_or_else(PoisonError::into_inner);
        let columns = target.as_ref().filter(|(known, _)| known == name).map(|(_, columns)| Arc::clone(columns));
        Ok(columns.map(|columns| Arc::new(EmptyTable::new(columns)) as _))
    }

    fn table_exist(&self, name: &str) -> bool {
        let target = self.0.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.as_ref().is_some_and(|(known, _)| known == name)
    }
}

#[async_trait]
impl SchemaProvider for QuerySchema {
    /// The tables that have columns, as far as they were loaded.
    fn table_names(&self) -> Vec<String> {
        let names = self.catalog.names().into_iter();
        names.filter(|(schema, name)| *schema == self.schema && self.table_exist(name)).map(|(_, name)| name).collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let external = |error: Error| DataFusionError::External(Box::new(error));
        match self.catalog.find(self.schema, name).await.map_err(external)? {
            Some(found) => Ok(Some(found.provider)),
            None => self.catalog.unready(self.schema, name).map_or(Ok(None), |error| Err(external(error))),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.catalog.known(self.schema, name).is_some()
    }
}
