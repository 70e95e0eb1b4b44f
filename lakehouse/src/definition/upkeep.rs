//! How a table's files are written and kept up: `deletion_vectors`, and `[tables.NAME.maintenance]`.
//!
//! The limits protect readers: what a query reads must stay until it has ended, and what may be read as of the past
//! needs its log.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::columns::Declared;
use super::section::{Report, Section};
use super::{table, units};
use crate::name::same_column;
use crate::types::SqlType;

const KEYS: [&str; 4] = ["target_file_bytes", "cluster_by", "vacuum_after", "log_retention"];

/// The size that a table's files get, unless it says another: in bytes.
pub const TARGET_FILE_BYTES_DEFAULT: u64 = 128 << 20;

/// Smaller files cost more to open than to read; a larger one is rewritten as a whole by whoever changes a row of it.
const TARGET_FILE_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 30);

/// How long what a table no longer needs can be read as of the past, unless it says another time.
pub const VACUUM_AFTER_DEFAULT: Duration = units::days(7);

/// The longest that a query's ticket or a result is kept, and then some.
const VACUUM_AFTER_MIN: Duration = units::HOUR;

/// How long a table's log is kept, unless it says another time: Delta Lake's own default.
pub const LOG_RETENTION_DEFAULT: Duration = units::days(30);

/// Whether changed rows are marked in deletion vectors, or their files are written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeletionVectors {
    /// Each merge chooses, file by file: small ones and those of which much is gone are written anew.
    #[default]
    Auto,
    /// Always marked.
    On,
    /// Never: all of the table's readers must be able to do without the feature.
    Off,
}

/// How a table's files are kept up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// The size that compaction makes files have, in bytes.
    pub target_file_bytes: u64,
    /// The columns by which rows lie together; empty: the primary key's.
    pub cluster_by: Vec<String>,
    /// How long files stay that no current version has.
    pub vacuum_after: Duration,
    /// How long the log keeps single versions; at least `vacuum_after`.
    pub log_retention: Duration,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            target_file_bytes: TARGET_FILE_BYTES_DEFAULT,
            cluster_by: Vec::new(),
            vacuum_after: VACUUM_AFTER_DEFAULT,
            log_retention: LOG_RETENTION_DEFAULT,
        }
    }
}

/// `"auto"`, true or false.
pub(super) fn deletion_vectors(section: &Section, report: &mut Report) -> DeletionVectors {
    const KEY: &str = "deletion_vectors";
    let Some(value) = section.value(KEY) else { return DeletionVectors::default() };
    match (value.get_ref().as_bool(), value.get_ref().as_str()) {
        (Some(true), _) => DeletionVectors::On,
        (Some(false), _) => DeletionVectors::Off,
        (_, Some("auto")) => DeletionVectors::Auto,
        (_, written) => {
            let written = written.map_or_else(|| value.get_ref().type_str().to_owned(), |text| format!("{text:?}"));
            section.say(&value.span(), format!("{KEY} must be \"auto\", true or false, not {written}"), report);
            DeletionVectors::default()
        }
    }
}

/// The section `maintenance` of a table; `partitions` and `dropped` are the columns of its lists of these names.
pub(super) fn maintenance(
    table: &Section,
    declared: &[Declared],
    partitions: &[Spanned<String>],
    dropped: &[Spanned<String>],
    report: &mut Report,
) -> Maintenance {
    let mut read = Maintenance::default();
    let Some(keys) = table.typed("maintenance", "a section with keys", report, DeValue::as_table) else { return read };
    let what = format!("{}, maintenance", table.what);
    let section = Section::open(&what, &keys.span(), keys.into_inner(), &KEYS, report);
    let why = "smaller files cost more to open than to read, and a larger one no longer fits a merge";
    if let Some(bytes) = units::size(&section, "target_file_bytes", (TARGET_FILE_BYTES, why), report) {
        read.target_file_bytes = bytes;
    }
    let why = "queries that have begun, and results that are being fetched, still read the files";
    let vacuum_after = units::span(&section, "vacuum_after", (VACUUM_AFTER_MIN, why), report);
    read.vacuum_after = vacuum_after.map_or(VACUUM_AFTER_DEFAULT, Spanned::into_inner);
    let why = "versions are to be readable until vacuum_after, for which their log is needed";
    read.log_retention = match units::span(&section, "log_retention", (read.vacuum_after, why), report) {
        Some(retention) => retention.into_inner(),
        None => LOG_RETENTION_DEFAULT.max(read.vacuum_after),
    };
    read.cluster_by = cluster_by(&section, declared, partitions, dropped, report);
    read
}

fn cluster_by(
    section: &Section,
    declared: &[Declared],
    partitions: &[Spanned<String>],
    dropped: &[Spanned<String>],
    report: &mut Report,
) -> Vec<String> {
    const KEY: &str = "cluster_by";
    let names = table::column_list(section, KEY, report).into_iter();
    let names: Vec<_> = names.map(|name| table::resolved(section, KEY, name, declared, report)).collect();
    for name in &names {
        let text = name.get_ref();
        let is_it = |other: &str| same_column(other, text);
        let column = declared.iter().find(|column| is_it(&column.name));
        let wrong = if partitions.iter().any(|partition| is_it(partition.get_ref())) {
            "is in partition_by, so that its rows lie together already; take it out of one".to_owned()
        } else if dropped.iter().any(|dropped| is_it(dropped.get_ref())) {
            "is in drop_columns, so that it is not stored; take it out of one".to_owned()
        } else if let Some(data_type) = column.and_then(|column| column.data_type.as_ref()).filter(|it| !has_bounds(it))
        {
            format!("has type {data_type}, of which files have no least and greatest value; use another")
        } else {
            continue;
        };
        section.say(&name.span(), format!("{KEY}: column {text:?} {wrong}"), report);
    }
    names.into_iter().map(Spanned::into_inner).collect()
}

/// Whether a file's statistics tell which values of the type it has.
fn has_bounds(data_type: &SqlType) -> bool {
    !data_type.is_nested() && !matches!(data_type, SqlType::Blob | SqlType::Boolean | SqlType::Json)
}
