//! DataFusion's settings, in one place: what all queries share, and what each has of its own.

use std::sync::Arc;

use chrono::DateTime;
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProviderList};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use lakehouse::{Context, Kind, Result};

use super::catalog::{QueryCatalog, SharedCatalog};
use super::memory::{QueryMemory, runtime_for};
use super::metadata_scan::KeepLimits;
use super::{EngineOptions, explain, values};

/// Memory for Parquet footers, in bytes. The library's default (50 MB) is small for tables of many files.
const METADATA_CACHE_BYTES: usize = 128 << 20;

/// The session that every query's is made from: functions, rules, memory, spill space, caches.
pub(super) fn base(options: &EngineOptions) -> Result<SessionState> {
    let folder = &options.spill_dir;
    std::fs::create_dir_all(folder)
        .context(Kind::Invalid, || format!("can't create the spill folder {}; choose another", folder.display()))?;
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![folder.clone()]))
        .with_max_temp_directory_size(options.spill_bytes_max);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_bytes)))
        .with_disk_manager_builder(disk)
        .with_metadata_cache_limit(METADATA_CACHE_BYTES)
        .build_arc()
        .context(Kind::Invalid, || format!("can't use the spill folder {}; choose another", folder.display()))?;
    let mut rules = PhysicalOptimizer::new().rules;
    rules.insert(0, Arc::new(KeepLimits));
    let mut session = SessionStateBuilder::new()
        .with_default_features()
        .with_physical_optimizer_rules(rules)
        .with_config(config())
        .with_runtime_env(runtime)
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .build();
    values::bound(&mut session).map_err(explain)?;
    Ok(session)
}

/// What sets one query's session apart.
pub(super) struct ForQuery<'a> {
    /// The name of the only catalog.
    pub(super) catalog_name: &'a str,
    pub(super) default_schema: &'a str,
    pub(super) catalog: &'a Arc<QueryCatalog>,
    pub(super) memory: &'a Arc<QueryMemory>,
    /// What `now()` is, in microseconds since the epoch.
    pub(super) planned_at_us: i64,
}

/// A session for one query.
pub(super) fn for_query(base: &SessionState, query: &ForQuery<'_>) -> SessionState {
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(query.catalog_name.to_owned(), Arc::new(SharedCatalog(Arc::clone(query.catalog))));
    let config = config().with_default_catalog_and_schema(query.catalog_name, query.default_schema);
    let mut state = SessionStateBuilder::new_from_existing(base.clone())
        .with_config(config)
        .with_runtime_env(runtime_for(base.runtime_env(), Arc::clone(query.memory)))
        .with_catalog_list(Arc::new(catalogs))
        .build();
    state.mark_start_execution();
    state.execution_props_mut().query_execution_start_time = DateTime::from_timestamp_micros(query.planned_at_us);
    state
}

/// `session` with plans of so many partitions, each of which can be read by itself.
pub(super) fn with_partitions(session: &SessionState, partitions: usize) -> SessionState {
    let mut session = session.clone();
    let execution = &mut session.config_mut().options_mut().execution;
    execution.target_partitions = partitions.max(1);
    // A partition that is read alone would take its siblings' files too.
    execution.enable_file_stream_work_stealing = false;
    session
}

fn config() -> SessionConfig {
    SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        // Instants have a zone, as in Delta; without this, now() would be a wall-clock time.
        .set_str("datafusion.execution.time_zone", "UTC")
        // Scans and joins are faster over views; results are made plain at the end.
        .set_bool("datafusion.execution.parquet.schema_force_view_types", true)
        // Delta partition columns are dictionaries, and pushing IN lists of these into scans can panic: deltalake's
        // own sessions have the same two settings.
        .set_usize("datafusion.optimizer.hash_join_inlist_pushdown_max_size", 0)
        .set_usize("datafusion.optimizer.hash_join_inlist_pushdown_max_distinct_values", 0)
}
