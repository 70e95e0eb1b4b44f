//! Where the lake's Delta tables lie, and the one way to open them.
//!
//! A [`Lake`] is a root URI. Each [`Layer`] has a folder below it, each table a folder in its layer:
//!
//! ```text
//! <root>/bronze/<table>/…            objects of frames, not Delta
//! <root>/silver/<table>/             Delta
//! <root>/silver/_tombstones/<table>/ Delta: keys that were deleted, with their sequence
//! <root>/quarantine/<table>/         Delta: what could not be used, and why
//! <root>/gold/<model>/               Delta
//! <root>/maintenance/runs/           Delta: what was done to keep tables in good order
//! ```
//!
//! This module knows names and places only; what is written, and when, is the business of the Lambdas.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use deltalake::logstore::commit_uri_from_version;
use deltalake::logstore::object_store::{ObjectStore, ObjectStoreExt as _};
use deltalake::{DeltaTable, DeltaTableBuilder};
use tokio::sync::Semaphore;
use url::Url;

use crate::delta;
use crate::error::{Context, Error, Kind, Result};
use crate::name::Name;

/// How many Delta logs are read at once. delta-rs reads each on a blocking thread that waits for further ones: were all
/// threads waiting, none of them would ever go on.
const LOGS_AT_ONCE_MAX: usize = 32;

static LOGS: Semaphore = Semaphore::const_new(LOGS_AT_ONCE_MAX);

/// Reads a Delta log, once it has a turn. Whoever asked may stop waiting: delta-rs's threads go on all the same, so the
/// turn is kept until they are done.
pub async fn read_log<T: Send + 'static>(reading: impl Future<Output = T> + Send + 'static) -> Result<T> {
    // The semaphore is never closed.
    let turn = LOGS.acquire().await.ok();
    let read = tokio::spawn(async move {
        let read = reading.await;
        drop(turn);
        read
    });
    read.await.map_err(|error| Error::internal("the task that reads a Delta log died").because(error))
}

/// A kind of Delta table, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Tables fed by ingest.
    Silver,
    /// Models.
    Gold,
    /// Rows, frames and objects that could not be used.
    Quarantine,
    /// Deleted keys of silver tables, so that a late update does not resurrect them.
    Tombstones,
    /// What was done to keep tables in good order.
    Maintenance,
}

impl Layer {
    fn folder(self) -> &'static str {
        match self {
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Quarantine => "quarantine",
            // Below silver, since it moves with it; a table's name can't begin with an underscore.
            Self::Tombstones => "silver/_tombstones",
            Self::Maintenance => "maintenance",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// The root of a lakehouse's data, and how to reach it.
#[derive(Clone)]
pub struct Lake {
    root: Url,
    storage_options: HashMap<String, String>,
}

impl Lake {
    /// A lake in a local folder, which is created if it is missing.
    ///
    /// # Errors
    /// `Invalid` if the folder can't be created or has no absolute path.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .context(Kind::Invalid, || format!("can't create the lake's folder {}", folder.display()))?;
        let absolute = folder
            .canonicalize()
            .context(Kind::Invalid, || format!("can't resolve the lake's folder {}", folder.display()))?;
        let root = Url::from_directory_path(&absolute)
            .map_err(|()| Error::invalid(format!("{} is not an absolute path", absolute.display())))?;
        Ok(Self { root, storage_options: HashMap::new() })
    }

    /// The lake at `uri`: a folder that is there, `file:///absolute/path`, or `s3://bucket/prefix`. S3's region,
    /// credentials and endpoint come from where the AWS SDK finds them.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder, `Invalid` if the URI is none of these.
    pub fn open_uri(uri: &str) -> Result<Self> {
        let folder = match uri.split_once("://") {
            None => PathBuf::from(uri),
            Some(("file", _)) => Url::parse(uri)
                .ok()
                .and_then(|url| url.to_file_path().ok())
                .ok_or_else(|| Error::invalid(format!("lake {uri} is no file URI; write file:///absolute/path")))?,
            Some(("s3", _)) => return Self::in_s3(uri),
            Some((scheme, _)) => {
                return Err(Error::invalid(format!(
                    "lake {uri}: there are no lakes at {scheme}://; give a path, a file:// URI or an s3:// URI"
                )));
            }
        };
        if !folder.is_dir() {
            let message = format!("there is no lake at {}; give the folder that holds silver/", folder.display());
            return Err(Error::not_found(message));
        }
        Self::in_folder(&folder)
    }

    /// The lake at `root`, a URI that ends in a slash and for which delta-rs knows a store; `storage_options` are that
    /// store's.
    pub fn at(root: Url, storage_options: HashMap<String, String>) -> Self {
        Self { root, storage_options }
    }

    fn in_s3(uri: &str) -> Result<Self> {
        deltalake::aws::register_handlers(None);
        let mut root =
            Url::parse(uri).context(Kind::Invalid, || format!("lake {uri} is no URI; write s3://bucket/prefix"))?;
        if root.host_str().is_none_or(str::is_empty) {
            return Err(Error::invalid(format!("lake {uri} names no bucket; write s3://bucket/prefix")));
        }
        if let Ok(mut segments) = root.path_segments_mut() {
            segments.pop_if_empty().push("");
        }
        let mut storage_options = HashMap::new();
        let endpoint =
            ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().find_map(|name| std::env::var(name).ok());
        if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
            storage_options.insert("aws_allow_http".to_owned(), "true".to_owned());
        }
        Ok(Self { root, storage_options })
    }

    /// The root URI, with a slash at its end.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The URI of a table's folder.
    pub fn table_url(&self, layer: Layer, name: &Name) -> Url {
        let mut url = self.root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(layer.folder().split('/')).push(name.as_str()).push("");
        }
        url
    }

    /// A handle on the place of a table, whether or not there is one yet.
    ///
    /// # Errors
    /// `Invalid` if the lake's URI has no storage behind it.
    pub fn handle(&self, layer: Layer, name: &Name) -> Result<DeltaTable> {
        let url = self.table_url(layer, name);
        if url.scheme() == "file"
            && let Ok(path) = url.to_file_path()
        {
            // delta-rs refuses to build a handle on a local folder that does not exist.
            std::fs::create_dir_all(&path)
                .context(Kind::Unavailable, || format!("can't create the folder of table {layer}.{name}"))?;
        }
        DeltaTableBuilder::from_url(url)
            .and_then(|builder| builder.with_storage_options(self.storage_options.clone()).build())
            .context(Kind::Invalid, || format!("can't reach the place of table {layer}.{name}"))
    }

    /// The newest state of a table, or `None` if nothing has been committed to it yet.
    ///
    /// # Errors
    /// `Unavailable` if its log can't be read.
    pub async fn open(&self, layer: Layer, name: &Name) -> Result<Option<DeltaTable>> {
        if self.is_missing_folder(layer, name) {
            return Ok(None);
        }
        let mut table = self.handle(layer, name)?;
        let (loaded, table) = read_log(async move { (table.load().await, table) }).await?;
        match loaded {
            Ok(()) => Ok(Some(table)),
            Err(_) if is_no_table(&table).await => Ok(None),
            Err(error) => {
                Err(Error::unavailable(format!("can't read the Delta log of table {layer}.{name}")).because(error))
            }
        }
    }

    /// A table as it was at a version.
    ///
    /// # Errors
    /// `NotFound` if there is no such version (any more).
    pub async fn open_version(&self, layer: Layer, name: &Name, version: u64) -> Result<DeltaTable> {
        let mut table = self.handle(layer, name)?;
        let (loaded, table) = read_log(async move { (table.load_version(version).await, table) }).await?;
        loaded.context(Kind::NotFound, || format!("table {layer}.{name} has no readable version {version}"))?;
        Ok(table)
    }

    /// A table as it was at a time, in microseconds since the epoch: its newest version of then. When a version was
    /// committed is the time of its file in Delta's log, in milliseconds.
    ///
    /// # Errors
    /// `NotFound` if nothing had been committed by then, `Unavailable` if the log can't be read.
    pub async fn open_at(&self, layer: Layer, name: &Name, us: i64) -> Result<DeltaTable> {
        let never =
            || Error::not_found(format!("table {layer}.{name} has no rows yet, and had none at {}", rfc3339(us)));
        if self.is_missing_folder(layer, name) {
            return Err(never());
        }
        let time = DateTime::from_timestamp_micros(us).ok_or_else(never)?;
        let unreadable = || format!("can't read the Delta log of table {layer}.{name}");
        let mut table = self.handle(layer, name)?;
        let (loaded, mut table) = read_log(async move { (table.load_with_datetime(time).await, table) }).await?;
        match loaded {
            Ok(()) => {}
            Err(_) if is_no_table(&table).await => return Err(never()),
            Err(error) => return Err(Error::unavailable(unreadable()).because(error)),
        }
        // delta-rs goes by the files' times, which may be a little later than those that commits have, and that are told.
        let log = table.log_store();
        let mut version = table.version().unwrap_or_default();
        while delta::committed_us(log.as_ref(), version + 1).await?.is_some_and(|committed_us| committed_us <= us) {
            version += 1;
        }
        if table.version() != Some(version) {
            table.load_version(version).await.map_err(|error| Error::unavailable(unreadable()).because(error))?;
        }
        // Before the first version there is, delta-rs gives that one.
        let written_us = match committed_us(&table) {
            Some(known) => known,
            None => {
                let commit = commit_uri_from_version(table.version());
                let file = table.object_store().head(&commit).await.context(Kind::Unavailable, unreadable)?;
                file.last_modified.timestamp_millis().saturating_mul(1_000)
            }
        };
        let told_us = delta::committed_us(log.as_ref(), version).await?;
        let committed_us = told_us.map_or(written_us, |told_us| told_us.min(written_us));
        if committed_us > us {
            return Err(Error::not_found(format!(
                "table {layer}.{name} did not exist yet at {}: its first version is of {}; ask for a later time",
                rfc3339(us),
                rfc3339(committed_us)
            )));
        }
        Ok(table)
    }

    /// The store that holds the lake, rooted at the lake's root.
    ///
    /// # Errors
    /// `Invalid` if the lake's URI has no storage behind it.
    pub fn object_store(&self) -> Result<Arc<dyn ObjectStore>> {
        let table = DeltaTableBuilder::from_url(self.root.clone())
            .and_then(|builder| builder.with_storage_options(self.storage_options.clone()).build())
            .context(Kind::Invalid, || format!("can't reach the lake at {}", self.root))?;
        Ok(table.object_store())
    }

    fn is_missing_folder(&self, layer: Layer, name: &Name) -> bool {
        let url = self.table_url(layer, name);
        url.scheme() == "file" && url.to_file_path().is_ok_and(|path| !path.join("_delta_log").exists())
    }
}

impl fmt::Debug for Lake {
    /// Without the storage options, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

/// When the state that `table` holds was committed, in microseconds since the epoch; `None` if its log's listing doesn't
/// say (the state came from a checkpoint).
pub fn committed_us(table: &DeltaTable) -> Option<i64> {
    let committed_ms = table.snapshot().ok()?.version_timestamp(table.version()?)?;
    Some(committed_ms.saturating_mul(1_000))
}

fn rfc3339(us: i64) -> String {
    DateTime::from_timestamp_micros(us)
        .map_or_else(|| format!("{us} µs since 1970"), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Whether loading failed because nothing was ever committed, and not because the log can't be read.
async fn is_no_table(table: &DeltaTable) -> bool {
    // A listing that failed looks like a table that is not there; so storage is asked once more.
    table.verify_deltatable_existence().await.is_ok_and(|exists| !exists)
}
