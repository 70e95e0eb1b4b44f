//! The SQL of a merge, as pure text: what DuckDB runs between the frames and the changes.
//!
//! ```text
//!  frames_0, frames_1, … ─► arrived ─► [transform] ─► typed ─► judged ─► good ─► changes
//!  (one per schema)        (unified)                 (cast)   (rules)   (rest)  (newest per key)
//! ```

use duck::{literal, quote};
use lakehouse::SqlType;
use lakehouse::definition::{Column, OnFail, Table};
use lakehouse::name::same_column;
use lakehouse::schema::{ROW_COLUMN, SEQUENCE_COLUMN, find};

/// Frames of one schema, loaded as the table [`FrameGroup::table`].
#[derive(Clone, Debug)]
pub(crate) struct FrameGroup {
    pub(crate) table: String,
    /// The columns in storable types.
    pub(crate) columns: Vec<(String, SqlType)>,
}

/// Columns that are loaded beside a frame's own.
pub(crate) const FRAME_COLUMN: &str = "_frame";
pub(crate) const NUMBER_COLUMN: &str = "_number";

/// Rows of a frame are numbered below this, frames above it, in [`ROW_COLUMN`].
pub(crate) const ROWS_PER_FRAME_MAX: u64 = 1 << 32;

/// The type that holds what both types hold; text, if there is no other.
fn widest(a: &SqlType, b: &SqlType) -> SqlType {
    if a.can_hold(b) {
        a.clone()
    } else if b.can_hold(a) {
        b.clone()
    } else {
        SqlType::Varchar
    }
}

/// All columns of all groups, each with the type that holds its values in every group.
pub(crate) fn unify(groups: &[FrameGroup]) -> Vec<(String, SqlType)> {
    let mut unified: Vec<(String, SqlType)> = Vec::new();
    for (name, data_type) in groups.iter().flat_map(|group| &group.columns) {
        match unified.iter_mut().find(|(known, _)| same_column(known, name)) {
            Some((_, known)) => *known = widest(known, data_type),
            None => unified.push((name.clone(), data_type.clone())),
        }
    }
    unified
}

/// Columns that rules or the transform may name though no frame has them: NULL.
pub(crate) fn absent(table: &Table, known: &[Column], unified: &[(String, SqlType)]) -> Vec<(String, SqlType)> {
    let is_new = |name: &str| !unified.iter().any(|(other, _)| same_column(other, name));
    let declared = |name: &str| table.column(name).map_or(SqlType::Varchar, |column| column.data_type.clone());
    let dropped = table.drop_columns.iter().map(|name| (name.clone(), declared(name)));
    // A transform may make the stored columns itself; if they were there already, its own would be second.
    let stored = known
        .iter()
        .filter(|column| table.transform.is_none() && !column.name.starts_with('_'))
        .map(|column| (column.name.clone(), column.data_type.clone()));
    dropped.chain(stored).filter(|(name, _)| is_new(name)).collect()
}

/// Creates `arrived`: the rows of all groups with one set of columns, and `_row`.
pub(crate) fn create_arrived(
    groups: &[FrameGroup],
    unified: &[(String, SqlType)],
    absent: &[(String, SqlType)],
) -> String {
    let selects: Vec<String> = groups
        .iter()
        .map(|group| {
            let mut columns =
                vec![format!("{FRAME_COLUMN}::BIGINT * {ROWS_PER_FRAME_MAX} + {NUMBER_COLUMN} AS {ROW_COLUMN}")];
            for (name, data_type) in unified {
                let own = group.columns.iter().find(|(own, _)| same_column(own, name));
                let value = match own {
                    Some((own, own_type)) if own_type == data_type => quote(own),
                    Some((own, _)) => format!("CAST({} AS {})", quote(own), data_type.to_duckdb()),
                    None => format!("CAST(NULL AS {})", data_type.to_duckdb()),
                };
                columns.push(format!("{value} AS {}", quote(name)));
            }
            for (name, data_type) in absent {
                columns.push(format!("CAST(NULL AS {}) AS {}", data_type.to_duckdb(), quote(name)));
            }
            format!("SELECT {} FROM {}", columns.join(", "), group.table)
        })
        .collect();
    format!("CREATE TABLE arrived AS {}", selects.join(" UNION ALL "))
}

/// What becomes of a column that the transform (or the frames) give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It becomes this column of the table.
    Kept(Column),
    /// The rules see it, the table does not store it.
    Dropped,
    /// It goes into the JSON of `_rescued`.
    Rescued,
    /// Rows that have a value in it go to quarantine.
    Rejected,
}

/// A column that arrives, with its type and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    pub(crate) name: String,
    pub(crate) data_type: SqlType,
    pub(crate) fate: Fate,
}

/// Creates `typed`: every column of the table in its type, the dropped ones as they came, `_delete`, and `_misfit` for
/// what does not fit.
pub(crate) fn create_typed(table: &Table, arriving: &[Arriving], target: &[Column], source: &str) -> String {
    let mut columns = vec![ROW_COLUMN.to_owned()];
    let mut misfits = Vec::new();
    let mut rescued = Vec::new();
    for column in target.iter().filter(|column| !column.name.starts_with('_')) {
        let from = arriving
            .iter()
            .find(|arriving| matches!(&arriving.fate, Fate::Kept(kept) if same_column(&kept.name, &column.name)));
        columns.push(format!("{} AS {}", typed_value(from, column, &mut misfits), quote(&column.name)));
    }
    for arriving in arriving {
        let name = quote(&arriving.name);
        match arriving.fate {
            Fate::Kept(_) => {}
            Fate::Dropped => columns.push(name),
            Fate::Rescued => rescued.push(format!("{} := {name}", name)),
            Fate::Rejected => misfits.push(format!(
                "WHEN {name} IS NOT NULL THEN {}",
                literal(&format!(
                    "column {:?} is not in the table, which takes no new ones (on_new_column = \"reject\")",
                    arriving.name
                ))
            )),
        }
    }
    let delete = table
        .delete_when
        .as_ref()
        .map_or("false".to_owned(), |sql| format!("coalesce(({}\n)::BOOLEAN, false)", sql.text));
    columns.push(format!("{delete} AS _delete"));
    columns.push(rescued_value(&rescued, arriving));
    columns.push(if misfits.is_empty() {
        "NULL::VARCHAR AS _misfit".to_owned()
    } else {
        format!("CASE {} END AS _misfit", misfits.join(" "))
    });
    format!("CREATE TABLE typed AS SELECT {} FROM {source}", columns.join(", "))
}

fn typed_value(from: Option<&Arriving>, column: &Column, misfits: &mut Vec<String>) -> String {
    let to = column.data_type.to_duckdb();
    let Some(from) = from else { return format!("CAST(NULL AS {to})") };
    let name = quote(&from.name);
    misfits.extend(out_of_calendar(&name, &from.data_type, column));
    if from.data_type == column.data_type {
        return name;
    }
    if column.data_type.can_hold(&from.data_type) {
        return format!("CAST({name} AS {to})");
    }
    // Text is read; of everything else the value must be the same on the way back, so that nothing is rounded.
    let is_text = |data_type: &SqlType| matches!(data_type, SqlType::Varchar | SqlType::Json);
    let fails = if is_text(&from.data_type) || is_text(&column.data_type) {
        format!("TRY_CAST({name} AS {to}) IS NULL")
    } else {
        format!("TRY_CAST(TRY_CAST({name} AS {to}) AS {}) IS DISTINCT FROM {name}", from.data_type.to_duckdb())
    };
    misfits.push(format!(
        "WHEN {name} IS NOT NULL AND {fails} THEN {} || left({name}::VARCHAR, 100)",
        literal(&format!("column {:?} can't be {} without loss: ", column.name, column.data_type))
    ));
    format!("TRY_CAST({name} AS {to})")
}

/// Dates and times outside of the years that Delta's readers and its statistics can express.
fn out_of_calendar(name: &str, from: &SqlType, column: &Column) -> Option<String> {
    let is_time = |data_type: &SqlType| matches!(data_type, SqlType::Date | SqlType::Timestamp | SqlType::TimestampNtz);
    (is_time(from) && is_time(&column.data_type)).then(|| {
        let reason = format!("column {:?} is outside of the years 1 to 9999", column.name);
        format!(
            "WHEN {name} IS NOT NULL AND (NOT isfinite({name}) OR year({name}) NOT BETWEEN 1 AND 9999) THEN {}",
            literal(&reason)
        )
    })
}

fn rescued_value(rescued: &[String], arriving: &[Arriving]) -> String {
    let any: Vec<String> = arriving
        .iter()
        .filter(|arriving| arriving.fate == Fate::Rescued)
        .map(|arriving| format!("{} IS NOT NULL", quote(&arriving.name)))
        .collect();
    if rescued.is_empty() {
        return "NULL::VARCHAR AS _rescued_now".to_owned();
    }
    format!(
        "CASE WHEN {} THEN to_json(struct_pack({}))::VARCHAR END AS _rescued_now",
        any.join(" OR "),
        rescued.join(", ")
    )
}

/// Creates `judged`: `typed` with the rule that a row breaks first, and why; NULL for a good row.
pub(crate) fn create_judged(table: &Table, target: &[Column]) -> String {
    let mut rules = vec![
        "WHEN _misfit IS NOT NULL THEN ['type', _misfit]".to_owned(),
        rule(&format!("{ROW_COLUMN} IS NULL"), "transform", "the transform made the column _row NULL"),
    ];
    for key in &table.primary_key {
        rules.push(rule(&format!("{} IS NULL", quote(key)), "primary_key", &format!("key column {key:?} is NULL")));
    }
    if let Some(sequence) = &table.sequence_by {
        rules.push(rule(
            &format!("{} IS NULL", quote(sequence)),
            "sequence_by",
            &format!("sequence column {sequence:?} is NULL"),
        ));
    }
    // A delete needs only its key and sequence.
    rules.push("WHEN _delete THEN NULL".to_owned());
    for column in target.iter().filter(|column| !column.nullable && !column.name.starts_with('_')) {
        let is_key = table.is_key(&column.name);
        if !is_key {
            rules.push(rule(
                &format!("{} IS NULL", quote(&column.name)),
                "not_null",
                &format!("column {:?} is NULL", column.name),
            ));
        }
    }
    for expectation in table.expect.iter().filter(|expectation| expectation.on_fail == OnFail::Quarantine) {
        rules.push(rule(
            &format!("({}\n) = false", expectation.check.text),
            expectation.name.as_str(),
            &format!("expectation failed: {}", expectation.check.text),
        ));
    }
    format!("CREATE TABLE judged AS SELECT *, CASE {} END AS _verdict FROM typed", rules.join(" "))
}

fn rule(condition: &str, name: &str, reason: &str) -> String {
    format!("WHEN {condition} THEN [{}, {}]", literal(name), literal(reason))
}

/// Counts the good rows that fail an expectation.
pub(crate) fn count_failing(check: &str) -> String {
    format!("SELECT count(*) FROM judged WHERE _verdict IS NULL AND NOT _delete AND ({check}\n) = false")
}

/// The rows for quarantine, in the order of [`crate::quarantine_schema`].
pub(crate) fn select_bad(table: &Table, arrived: &[(String, SqlType)], now_us: i64) -> String {
    let fields: Vec<String> = arrived.iter().map(|(name, _)| format!("{q} := a.{q}", q = quote(name))).collect();
    format!(
        "SELECT {table_name} AS table_name, j._verdict[2] AS reason, j._verdict[1] AS rule,
                to_json(struct_pack({fields}))::VARCHAR AS row_json,
                f.ingest_id, f.frame, (j.{ROW_COLUMN} % {ROWS_PER_FRAME_MAX})::BIGINT AS row, f.object,
                NULL::BIGINT AS byte_offset, make_timestamptz({now_us}) AS quarantined_at
         FROM judged j
         LEFT JOIN frames f ON f._frame = j.{ROW_COLUMN} // {ROWS_PER_FRAME_MAX}
         LEFT JOIN arrived a ON a.{ROW_COLUMN} = j.{ROW_COLUMN}
         WHERE j._verdict IS NOT NULL
         ORDER BY j.{ROW_COLUMN}",
        table_name = literal(table.name.as_str()),
        fields = fields.join(", "),
    )
}

/// The column that orders the changes of a key.
pub(crate) fn sequence_column(table: &Table) -> &str {
    table.sequence_by.as_deref().unwrap_or(SEQUENCE_COLUMN)
}

/// Creates `good`: the rows that broke no rule, with all columns of the table.
pub(crate) fn create_good(target: &[Column]) -> String {
    let mut columns = Vec::new();
    for column in target {
        let name = quote(&column.name);
        columns.push(match column.name.as_str() {
            SEQUENCE_COLUMN => format!(
                "format('{{:020d}}-{{}}-{{:010d}}-{{:010d}}', f.received_at_us, f.ingest_id, f.frame, j.{ROW_COLUMN} % {ROWS_PER_FRAME_MAX}) AS {name}"
            ),
            lakehouse::schema::RESCUED_COLUMN => format!("j._rescued_now AS {name}"),
            _ => format!("j.{name}"),
        });
    }
    let needs_frames = find(target, SEQUENCE_COLUMN).is_some();
    let join = if needs_frames {
        format!(" JOIN frames f ON f._frame = j.{ROW_COLUMN} // {ROWS_PER_FRAME_MAX}")
    } else {
        String::new()
    };
    format!(
        "CREATE TABLE good AS SELECT {}, j._delete, j.{ROW_COLUMN} FROM judged j{join} WHERE j._verdict IS NULL",
        columns.join(", ")
    )
}

/// Creates `changes`: of a keyed table, the newest change of each key, with `_reset` where a delete came before it.
///
/// With the same sequence, a delete wins; then what arrived first.
pub(crate) fn create_changes(table: &Table, target: &[Column]) -> String {
    let key = list(&table.primary_key);
    let sequence = quote(sequence_column(table));
    if !table.ignore_null_updates {
        return format!(
            "CREATE TABLE changes AS SELECT *, false AS _reset FROM good
             QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {sequence} DESC, _delete DESC, {ROW_COLUMN}) = 1"
        );
    }
    let values: Vec<String> = target
        .iter()
        .filter(|column| !table.is_key(&column.name))
        .map(|column| {
            let name = quote(&column.name);
            format!("first({name} ORDER BY {sequence} DESC, {ROW_COLUMN}) FILTER ({name} IS NOT NULL) AS {name}")
        })
        .collect();
    let all = list(&target.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
    format!(
        "CREATE TABLE changes AS
         WITH ends AS (SELECT {key}, max({sequence}) AS _end FROM good WHERE _delete GROUP BY {key}),
              live AS (SELECT good.*, _end IS NOT NULL AS _after_delete FROM good LEFT JOIN ends USING ({key})
                       WHERE NOT _delete AND (_end IS NULL OR {sequence} > _end)),
              upserts AS (SELECT {key}, {values}, false AS _delete, min({ROW_COLUMN}) AS {ROW_COLUMN},
                                 bool_or(_after_delete) AS _reset FROM live GROUP BY {key})
         SELECT {all}, _delete, {ROW_COLUMN}, _reset FROM upserts
         UNION ALL BY NAME
         SELECT {all}, _delete, {ROW_COLUMN}, false AS _reset FROM good ANTI JOIN upserts USING ({key}) WHERE _delete
         QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {sequence} DESC, {ROW_COLUMN}) = 1",
        values = values.join(", "),
    )
}

/// Deletes from `good` what a stored tombstone (in the table `buried`) has overtaken.
pub(crate) fn apply_tombstones(table: &Table) -> String {
    let sequence = quote(sequence_column(table));
    let same_key: Vec<String> =
        table.primary_key.iter().map(|key| format!("good.{q} = b.{q}", q = quote(key))).collect();
    let key = list(&table.primary_key);
    format!(
        "DELETE FROM good USING (SELECT {key}, max({sequence}) AS _buried FROM buried GROUP BY {key}) b
         WHERE {} AND (good.{sequence} < b._buried OR (good.{sequence} = b._buried AND NOT good._delete))",
        same_key.join(" AND ")
    )
}

/// Quoted names with commas.
pub(crate) fn list(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}
