//! The SQL that compares changes with what a keyed table stores.
//!
//! ```text
//!  changes ──┐
//!            ├─► hits (a change meets a stored row) ─► written (rows to be written), removed (stored rows that go)
//!  stored ───┘        └─► rows (stored rows in full, if something of them is kept)
//! ```
//!
//! A stored row is known by its file's number in the plan and its position in the file.

use duck::quote;
use lakehouse::definition::{Column, Table};
use lakehouse::schema::find;
use lakehouse::{Error, Result, SqlType};

use super::{list, sequence_columns};

/// The number of a stored row's file in the plan.
pub(crate) const FILE_COLUMN: &str = "_file";
/// A stored row's position in its file.
pub(crate) const POSITION_COLUMN: &str = "_position";

/// Digits that the log's numbers, which are floats, have for certain.
const FLOAT_DIGITS: u8 = 15;
/// Digits of whole numbers of 64 bits.
const WHOLE_DIGITS: u8 = 18;

/// Names of the columns with the bounds of the n-th key column in the table `files`.
pub(crate) fn bound_names(position: usize) -> [String; 2] {
    [format!("least_{position}"), format!("greatest_{position}")]
}

/// The files in which a key of `keys` may lie, by the bounds that the log tells of them. A file whose bounds are not
/// known may hold any.
///
/// Of the first key column, the least value from a file's lower bound on decides: the file has it, or none. Of the
/// others only the whole range is compared, which is no more than a first sieve.
pub(crate) fn select_candidates(table: &Table, target: &[Column]) -> Result<String> {
    let mut bounds = Vec::new();
    let mut within = Vec::new();
    for (position, key) in table.primary_key.iter().enumerate() {
        let column = find(target, key).ok_or_else(|| Error::internal(format!("key column {key:?} is no column")))?;
        let [least, greatest] = bound_names(position);
        let (from, to) = typed_bounds(&column.data_type, &least, &greatest);
        let key = quote(key);
        let (lowest, highest) = (format!("(SELECT min({key}) FROM keys)"), format!("(SELECT max({key}) FROM keys)"));
        bounds.push(format!("coalesce({from}, {lowest}) AS {least}"));
        bounds.push(format!("coalesce({to}, {highest}) AS {greatest}"));
        within.push(match position {
            0 => format!("k.{key} <= f.{greatest}"),
            _ => format!("f.{least} <= {highest} AND f.{greatest} >= {lowest}"),
        });
    }
    let first = quote(&table.primary_key[0]);
    Ok(format!(
        "SELECT f.{FILE_COLUMN} FROM (SELECT {FILE_COLUMN}, {} FROM files) f
         ASOF JOIN (SELECT DISTINCT {first} FROM keys) k ON k.{first} >= f.{}
         WHERE {} ORDER BY 1",
        bounds.join(", "),
        bound_names(0)[0],
        within.join(" AND ")
    ))
}

fn typed_bounds(data_type: &SqlType, least: &str, greatest: &str) -> (String, String) {
    let to = data_type.to_duckdb();
    let unknown = || (format!("CAST(NULL AS {to})"), format!("CAST(NULL AS {to})"));
    match data_type {
        // They are rounded: what lies at the bound could be left out. Without a fraction they are whole numbers.
        SqlType::Decimal { precision, scale } if *scale > 0 && *precision > FLOAT_DIGITS => unknown(),
        SqlType::Decimal { precision, .. } if *precision > WHOLE_DIGITS => unknown(),
        // The log has bytes in letters of its own.
        SqlType::Blob => unknown(),
        // Some writers cut them to milliseconds.
        SqlType::Timestamp | SqlType::TimestampNtz => {
            (format!("TRY_CAST({least} AS {to})"), format!("TRY_CAST({greatest} AS {to}) + INTERVAL 1 MILLISECOND"))
        }
        _ => (format!("TRY_CAST({least} AS {to})"), format!("TRY_CAST({greatest} AS {to})")),
    }
}

/// Creates `keys`: each key that `good` changes, once.
pub(crate) fn create_keys(table: &Table) -> String {
    format!("CREATE TABLE keys AS SELECT DISTINCT {} FROM good", list(&table.primary_key))
}

/// Whether the sequence of `left` is above that of `right`, or the same if `or_same`. Rows that were stored before the
/// table had a sequence have none: all are above it.
pub(super) fn is_above(table: &Table, left: &str, right: &str, or_same: bool) -> String {
    let columns: Vec<String> = sequence_columns(table).iter().map(|name| quote(name)).collect();
    let mut above = if or_same { "true".to_owned() } else { "false".to_owned() };
    for name in columns.iter().rev() {
        above = format!("({left}.{name} > {right}.{name} OR ({left}.{name} = {right}.{name} AND {above}))");
    }
    let missing: Vec<String> = columns.iter().map(|name| format!("{right}.{name} IS NULL")).collect();
    format!("({} OR {above})", missing.join(" OR "))
}

pub(super) fn same_key(table: &Table, left: &str, right: &str) -> String {
    let equal = table.primary_key.iter().map(|key| format!("{left}.{q} = {right}.{q}", q = quote(key)));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// Creates `hits`: which stored rows each change meets, and whether it wins. A delete wins with the same sequence, an
/// update does not: it came before.
pub(crate) fn create_hits(table: &Table) -> String {
    format!(
        "CREATE TABLE hits AS
         SELECT c._id, s.{FILE_COLUMN}, s.{POSITION_COLUMN}, c._delete,
                CASE WHEN c._delete THEN {not_below} ELSE {above} END AS _wins
         FROM stored s JOIN changes c ON {same_key}",
        not_below = is_above(table, "c", "s", true),
        above = is_above(table, "c", "s", false),
        same_key = same_key(table, "s", "c"),
    )
}

/// Takes the stored rows of other keys out.
pub(crate) fn leave_out_others(table: &Table) -> String {
    format!(
        "CREATE OR REPLACE TABLE stored AS SELECT s.* FROM stored s SEMI JOIN keys USING ({})",
        list(&table.primary_key)
    )
}

/// Deletes from `good` what a stored row has overtaken.
pub(crate) fn leave_out_late(table: &Table) -> String {
    format!(
        "DELETE FROM good USING stored s
         WHERE {same_key} AND NOT CASE WHEN good._delete THEN {not_below} ELSE {above} END",
        same_key = same_key(table, "good", "s"),
        not_below = is_above(table, "good", "s", true),
        above = is_above(table, "good", "s", false),
    )
}

/// The stored rows that updates of NULL keep values of.
pub(crate) const SELECT_NEEDED_BY_HITS: &str =
    "SELECT _file, _position FROM hits WHERE _wins AND NOT _delete ORDER BY 1, 2";

/// Creates `removed` and `written` from `hits`.
///
/// A key that another writer has stored twice is written once.
pub(crate) fn conclude_hits(table: &Table, target: &[Column]) -> String {
    let value = |column: &Column| {
        let name = quote(&column.name);
        if !table.ignore_null_updates || table.is_key(&column.name) {
            return format!("c.{name}");
        }
        format!("CASE WHEN c._reset OR p._id IS NULL OR c.{name} IS NOT NULL THEN c.{name} ELSE r.{name} END AS {name}")
    };
    let columns: Vec<String> = target.iter().map(value).collect();
    let rows = if table.ignore_null_updates {
        format!("LEFT JOIN rows r ON r.{FILE_COLUMN} = p.place.f AND r.{POSITION_COLUMN} = p.place.p")
    } else {
        String::new()
    };
    format!(
        "CREATE TABLE removed AS SELECT DISTINCT {FILE_COLUMN}, {POSITION_COLUMN} FROM hits WHERE _wins;
         CREATE TABLE places AS
         SELECT _id, bool_and(_wins) AS wins, min(struct_pack(f := {FILE_COLUMN}, p := {POSITION_COLUMN})) AS place
         FROM hits GROUP BY _id;
         CREATE TABLE written AS
         SELECT {columns}, p.place.f AS {FILE_COLUMN}, p.place.p AS {POSITION_COLUMN}
         FROM changes c LEFT JOIN places p USING (_id) {rows}
         WHERE NOT c._delete AND coalesce(p.wins, true)",
        columns = columns.join(", "),
    )
}

/// What the changes did, as one row: inserted, updated, deleted, late.
pub(crate) const COUNT_HITS: &str = "SELECT
    (SELECT count(*) FROM written WHERE _file IS NULL)::BIGINT,
    (SELECT count(*) FROM written WHERE _file IS NOT NULL)::BIGINT,
    (SELECT count(DISTINCT _id) FROM hits WHERE _wins AND _delete)::BIGINT,
    (SELECT count(DISTINCT _id) FROM hits WHERE NOT _wins)::BIGINT";
