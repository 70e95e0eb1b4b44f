//! The SQL of a table that keeps its history: every version of a row, with the time from which and to which it was the
//! one that counted.
//!
//! All that is known of a key is laid on one line, ordered by sequence: stored versions, versions that come now, and
//! deletes, those of old tombstones too. A version ends where the next mark begins, whatever it is:
//!
//! ```text
//!  stored     3 ●───────────────► 9 ●─────────►
//!  comes now       5 ○   7 ✕
//!  line       3 ●─►5 ○─►7 ✕        9 ●─────────►        3 is written anew with its end at 5; 5 ends at 7
//! ```
//!
//! So the order of arrival makes no difference. A tombstone that is no longer remembered is still told by the version that
//! it ended: what lies within a stored version's time ends where that one did, at the latest.

use duck::quote;
use lakehouse::definition::{Column, Table};
use lakehouse::schema::{IS_CURRENT_COLUMN, SEQUENCE_COLUMN, VALID_FROM_COLUMN, VALID_TO_COLUMN};

use super::matching::{FILE_COLUMN, POSITION_COLUMN};
use super::{list, sequence_columns};

/// When a version with this sequence begins. In the order of arrival it is when its frame was received, which the
/// sequence begins with.
pub(crate) fn valid_from(table: &Table, alias: &str) -> String {
    match table.sequence_by.first() {
        Some(first) => format!("{alias}.{}", quote(first)),
        None => format!("make_timestamptz(left({alias}.{SEQUENCE_COLUMN}, 20)::BIGINT)"),
    }
}

/// Creates `changes`: every row of `good` that is no repetition. With the same sequence a delete wins, then what arrived
/// first.
pub(crate) fn create_changes(table: &Table) -> String {
    let (key, sequence) = (list(&table.primary_key), list(&sequence_columns(table)));
    format!(
        "CREATE TABLE changes AS SELECT *, row_number() OVER () AS _id FROM (
           SELECT *, false AS _reset FROM good
           QUALIFY row_number() OVER (PARTITION BY {key}, {sequence} ORDER BY _delete DESC, _row) = 1)"
    )
}

/// Creates `line`: all marks of the keys that change, each with the beginning of the next. `has_tombstones` says whether
/// there is a table `buried`.
pub(crate) fn create_line(table: &Table, has_tombstones: bool) -> String {
    let (key, sequence) = (list(&table.primary_key), list(&sequence_columns(table)));
    let from = |alias: &str| valid_from(table, alias);
    let nothing = format!("NULL::INTEGER AS {FILE_COLUMN}, NULL::BIGINT AS {POSITION_COLUMN}");
    let mut marks = vec![
        format!(
            "SELECT {key}, {sequence}, {} AS _from, 1 AS _kind, {FILE_COLUMN}, {POSITION_COLUMN}, NULL::BIGINT AS _id,
                    {VALID_TO_COLUMN} AS _told_to FROM stored s",
            from("s")
        ),
        format!(
            "SELECT {key}, {sequence}, {} AS _from, CASE WHEN _delete THEN 0 ELSE 2 END AS _kind, {nothing}, _id,
                    NULL AS _told_to FROM changes c",
            from("c")
        ),
    ];
    if has_tombstones {
        marks.push(format!(
            "SELECT {key}, {sequence}, {} AS _from, 0 AS _kind, {nothing}, NULL::BIGINT AS _id, NULL AS _told_to
             FROM buried b SEMI JOIN keys USING ({key})",
            from("b")
        ));
    }
    let by_key = format!("PARTITION BY {key} ORDER BY {sequence}");
    format!(
        "CREATE TABLE line AS
         SELECT * EXCLUDE (_next, _ended),
                least(_next, CASE WHEN _kind = 1 THEN _told_to END, CASE WHEN _ended > _from THEN _ended END) AS _to FROM (
           SELECT *, lead(_from) OVER ({by_key}) AS _next, max(_told_to) OVER ({by_key} ROWS UNBOUNDED PRECEDING) AS _ended
           FROM (SELECT * FROM ({})
                 QUALIFY row_number() OVER (PARTITION BY {key}, {sequence} ORDER BY _kind) = 1))",
        marks.join(" UNION ALL ")
    )
}

/// The stored versions that end elsewhere than they did.
pub(crate) const SELECT_NEEDED_BY_LINE: &str =
    "SELECT _file, _position FROM line WHERE _kind = 1 AND _to IS DISTINCT FROM _told_to ORDER BY 1, 2";

/// Creates `removed` and `written` from `line`.
pub(crate) fn conclude_line(target: &[Column]) -> String {
    let values = |alias: &str| {
        let value = |column: &Column| match column.name.as_str() {
            VALID_FROM_COLUMN => format!("l._from AS {VALID_FROM_COLUMN}"),
            VALID_TO_COLUMN => format!("l._to AS {VALID_TO_COLUMN}"),
            IS_CURRENT_COLUMN => format!("l._to IS NULL AS {IS_CURRENT_COLUMN}"),
            name => format!("{alias}.{}", quote(name)),
        };
        target.iter().map(value).collect::<Vec<_>>().join(", ")
    };
    format!(
        "CREATE TABLE removed AS
         SELECT {FILE_COLUMN}, {POSITION_COLUMN} FROM stored
         EXCEPT SELECT {FILE_COLUMN}, {POSITION_COLUMN} FROM line WHERE _kind = 1 AND _to IS NOT DISTINCT FROM _told_to;
         CREATE TABLE written AS
         SELECT {new}, NULL::INTEGER AS {FILE_COLUMN}, NULL::BIGINT AS {POSITION_COLUMN}
         FROM line l JOIN changes c USING (_id) WHERE l._kind = 2
         UNION ALL
         SELECT {old}, l.{FILE_COLUMN}, l.{POSITION_COLUMN}
         FROM line l JOIN rows r USING ({FILE_COLUMN}, {POSITION_COLUMN})
         WHERE l._kind = 1 AND l._to IS DISTINCT FROM l._told_to",
        new = values("c"),
        old = values("r"),
    )
}

/// What the changes did, as one row: inserted, updated, deleted, late. An update is a version that follows another, a
/// delete one that ends something.
pub(crate) fn count_line(table: &Table) -> String {
    let (key, sequence) = (list(&table.primary_key), list(&sequence_columns(table)));
    format!(
        "WITH told AS (
           SELECT *, lag(_kind) OVER (PARTITION BY {key} ORDER BY {sequence}) AS _before FROM line)
         SELECT (SELECT count(*) FROM told WHERE _kind = 2 AND coalesce(_before, 0) = 0)::BIGINT,
                (SELECT count(*) FROM told WHERE _kind = 2 AND _before > 0)::BIGINT,
                (SELECT count(*) FROM told WHERE _kind = 0 AND _id IS NOT NULL AND _before > 0)::BIGINT,
                (SELECT count(*) FROM changes c ANTI JOIN line l USING (_id))::BIGINT"
    )
}
