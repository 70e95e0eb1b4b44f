//! The definition as it is now: what the folder declares, and the tables that ingests made since.
//!
//! Where the definition says `allow_create = true`, an ingest may make a table. Its declaration lies in the lake, as
//! `tables/<name>.toml`, in the words of `lakehouse.toml`: all servers see it, and it can be moved into the definition
//! by copying it there, after which the one in the lake means nothing any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::Schema;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStoreExt as _, PutMode};
use futures::TryStreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::definition::Definition;
use crate::error::{Context as _, Error, Kind, Result};
use crate::lake::Lake;
use crate::name::Name;
use crate::types::SqlType;

/// The folder of the lake with the declarations of tables that ingests made.
const FOLDER: &str = "tables";

/// How often the lake is asked for new tables at most.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// A table that an ingest makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTable {
    /// Its name.
    pub name: Name,
    /// Its columns, as the ingest sends them.
    pub columns: Arc<Schema>,
    /// The columns that tell rows apart; none: append-only.
    pub primary_key: Vec<String>,
    /// The columns whose highest values win; none: arrival order.
    pub sequence_by: Vec<String>,
}

/// What is declared now, for all parts of a process.
pub struct Definitions {
    declared: Arc<Definition>,
    /// None: nothing is ever added.
    lake: Option<Lake>,
    current: watch::Sender<Arc<Definition>>,
    refreshed: Mutex<Option<Instant>>,
}

impl Definitions {
    /// A definition that stays as it is.
    pub fn fixed(declared: Arc<Definition>) -> Arc<Self> {
        Arc::new(Self {
            current: watch::Sender::new(Arc::clone(&declared)),
            declared,
            lake: None,
            refreshed: Mutex::default(),
        })
    }

    /// `declared`, with the tables that ingests made in `lake` if it allows that.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read.
    pub async fn open(declared: Arc<Definition>, lake: Lake) -> Result<Arc<Self>> {
        let lake = declared.allow_create.then_some(lake);
        let current = watch::Sender::new(Arc::clone(&declared));
        let this = Arc::new(Self { current, declared, lake, refreshed: Mutex::default() });
        this.refresh().await?;
        Ok(this)
    }

    /// What is declared, as far as this process knows.
    pub fn now(&self) -> Arc<Definition> {
        Arc::clone(&self.current.borrow())
    }

    /// Wakes when a table was added.
    pub fn watch(&self) -> watch::Receiver<Arc<Definition>> {
        self.current.subscribe()
    }

    /// What is declared, after a look into the lake, which is not repeated within [`REFRESH_INTERVAL`].
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read.
    pub async fn refresh(&self) -> Result<Arc<Definition>> {
        {
            let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
            if refreshed.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL) {
                return Ok(self.now());
            }
            *refreshed = Some(Instant::now());
        }
        self.reload().await
    }

    async fn reload(&self) -> Result<Arc<Definition>> {
        let Some(lake) = &self.lake else { return Ok(self.now()) };
        let store = lake.object_store()?;
        let unreadable = || format!("can't read the declarations in {}{FOLDER}", lake.root());
        let mut files: Vec<_> =
            store.list(Some(&Path::from(FOLDER))).try_collect().await.context(Kind::Unavailable, unreadable)?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        let known = self.now();
        let mut definition = Definition::clone(&self.declared);
        for file in files {
            let name =
                file.location.filename().and_then(|name| name.strip_suffix(".toml")).and_then(|n| Name::new(n).ok());
            let Some(name) = name.filter(|name| !definition.tables.contains_key(name)) else { continue };
            // A declaration never changes once it is there.
            if let Some(table) = known.tables.get(&name) {
                definition.tables.insert(name, Arc::clone(table));
                continue;
            }
            let bytes = store.get(&file.location).await.context(Kind::Unavailable, unreadable)?;
            let bytes = bytes.bytes().await.context(Kind::Unavailable, unreadable)?;
            let text = String::from_utf8_lossy(&bytes);
            match Definition::made_table(&text, file.location.as_ref()) {
                Ok(table) if table.name == name => drop(definition.tables.insert(name, Arc::new(table))),
                Ok(table) => {
                    tracing::warn!(file = %file.location, table = %table.name, "declares another table than its name says; it is left out")
                }
                Err(problems) => {
                    tracing::warn!(file = %file.location, %problems, "can't be read; its table is left out")
                }
            }
        }
        let definition = Arc::new(definition);
        self.current.send_if_modified(|current| {
            let is_new = current.tables.len() != definition.tables.len();
            if is_new {
                *current = Arc::clone(&definition);
            }
            is_new
        });
        Ok(self.now())
    }

    /// Makes a table. Whether it was made: another ingest may have been quicker.
    ///
    /// # Errors
    /// `Forbidden` if the definition does not allow it, `Invalid` if a column can't be stored or a rule names none,
    /// `Unavailable` if the lake can't be written.
    pub async fn create(&self, table: &NewTable) -> Result<bool> {
        let Some(lake) = &self.lake else {
            return Err(Error::new(
                Kind::Forbidden,
                format!(
                    "there is no table {:?}, and an ingest may not make one; declare it in lakehouse.toml, or allow it \
                     there: allow_create = true",
                    table.name.as_str()
                ),
            ));
        };
        let text = declaration(table)?;
        let path = Path::from(format!("{FOLDER}/{}.toml", table.name));
        Definition::made_table(&text, path.as_ref()).map_err(|problems| {
            Error::invalid(format!("table {:?} can't be made", table.name.as_str())).because(problems)
        })?;
        let store = lake.object_store()?;
        let was_made = match store.put_opts(&path, text.into(), PutMode::Create.into()).await {
            Ok(_) => true,
            Err(StoreError::AlreadyExists { .. }) => false,
            Err(error) => {
                return Err(Error::unavailable(format!("can't declare table {:?} in the lake", table.name.as_str()))
                    .because(error));
            }
        };
        self.reload().await?;
        Ok(was_made)
    }
}

/// The table as `lakehouse.toml` would declare it.
fn declaration(table: &NewTable) -> Result<String> {
    let texts = |names: &[String]| toml::Value::Array(names.iter().map(|name| name.as_str().into()).collect());
    let mut section = toml::Table::new();
    section.insert("description".into(), "made by an ingest".into());
    if !table.primary_key.is_empty() {
        section.insert("primary_key".into(), texts(&table.primary_key));
    }
    if !table.sequence_by.is_empty() {
        section.insert("sequence_by".into(), texts(&table.sequence_by));
    }
    let columns = table.columns.fields().iter().map(|field| {
        let data_type = SqlType::from_arrow(field.data_type())
            .map_err(|error| Error::invalid(format!("column {:?} can't be stored", field.name())).because(error))?;
        let mut column = toml::Table::new();
        column.insert("name".into(), field.name().as_str().into());
        column.insert("type".into(), data_type.to_string().into());
        Ok(toml::Value::Table(column))
    });
    section.insert("columns".into(), toml::Value::Array(columns.collect::<Result<_>>()?));
    let tables = toml::Table::from_iter([(table.name.to_string(), toml::Value::Table(section))]);
    let root = toml::Table::from_iter([("tables".to_owned(), toml::Value::Table(tables))]);
    toml::to_string(&root).context(Kind::Internal, || "a declaration can't be written".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn lakehouse(head: &str) -> (tempfile::TempDir, Arc<Definition>, Lake) {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("name = \"shop\"\n{head}\n[tables.declared]\n");
        fs::write(folder.path().join("lakehouse.toml"), text).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let lake = Lake::in_folder(&folder.path().join("lake")).unwrap();
        (folder, definition, lake)
    }

    fn new_table(name: &str, key: &[&str]) -> NewTable {
        let columns = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("odd \"name\"", DataType::LargeUtf8, true),
        ]);
        NewTable {
            name: Name::new(name).unwrap(),
            columns: Arc::new(columns),
            primary_key: key.iter().map(|name| (*name).to_owned()).collect(),
            sequence_by: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_table_that_one_server_makes_is_known_to_the_others() {
        let (_folder, definition, lake) = lakehouse("allow_create = true");
        let (one, other) = (
            Definitions::open(Arc::clone(&definition), lake.clone()).await.unwrap(),
            Definitions::open(definition, lake).await.unwrap(),
        );
        let mut watched = one.watch();
        assert!(one.create(&new_table("orders", &["id"])).await.unwrap());
        let made = one.now();
        assert_eq!(made.table("orders").unwrap().primary_key, ["id"]);
        assert_eq!(made.table("orders").unwrap().columns[1].name, "odd \"name\"");
        assert!(watched.has_changed().unwrap());
        watched.mark_unchanged();
        // The second server comes too late, and with another key: the table is as the first one made it.
        assert!(!other.create(&new_table("orders", &[])).await.unwrap());
        assert_eq!(other.now().table("orders").unwrap().primary_key, ["id"]);
        assert!(other.now().tables.contains_key("declared"));
    }

    #[tokio::test]
    async fn without_leave_nothing_is_made() {
        let (_folder, definition, lake) = lakehouse("");
        let definitions = Definitions::open(definition, lake).await.unwrap();
        let error = definitions.create(&new_table("orders", &[])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden);
        assert!(error.to_string().contains("allow_create = true"), "{error}");
    }

    #[tokio::test]
    async fn a_broken_declaration_leaves_its_table_out_and_a_declared_one_wins() {
        let (_folder, definition, lake) = lakehouse("allow_create = true");
        let tables = lake.root().to_file_path().unwrap().join("tables");
        fs::create_dir_all(&tables).unwrap();
        fs::write(tables.join("broken.toml"), "[tables").unwrap();
        fs::write(tables.join("other.toml"), "[tables.another]").unwrap();
        fs::write(tables.join("declared.toml"), "[tables.declared]\nprimary_key = [\"id\"]").unwrap();
        fs::write(tables.join("good.toml"), "[tables.good]").unwrap();
        let known = Definitions::open(definition, lake).await.unwrap().now();
        let names: Vec<&str> = known.tables.keys().map(Name::as_str).collect();
        assert_eq!(names, ["declared", "good"]);
        assert!(known.table("declared").unwrap().primary_key.is_empty());
    }

    #[tokio::test]
    async fn what_can_not_be_a_table_is_refused_before_it_is_declared() {
        let (_folder, definition, lake) = lakehouse("allow_create = true");
        let definitions = Definitions::open(definition, lake.clone()).await.unwrap();
        let error = definitions.create(&new_table("orders", &["nothing"])).await.unwrap_err();
        assert!(error.chain().contains("primary_key names \"nothing\""), "{}", error.chain());
        assert!(!lake.root().to_file_path().unwrap().join("tables/orders.toml").exists());
    }
}
