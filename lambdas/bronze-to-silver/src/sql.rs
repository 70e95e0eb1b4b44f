//! The SQL of a merge, as pure text: what DuckDB runs between the frames and the changes.
//!
//! ```text
//!  frames_0, frames_1, … ─► arrived ─► [transform] ─► typed ─► judged ─► good ─► changes
//!  (one per schema)        (unified)                 (cast)   (rules)   (rest)  (newest per key)
//! ```

pub(crate) mod history;
pub(crate) mod matching;

use duck::{literal, quote};
use lakehouse::SqlType;
use lakehouse::definition::{Column, OnFail, Table};
use lakehouse::name::same_column;
use lakehouse::schema::{Fate, HISTORY_COLUMNS, RESCUED_COLUMN, ROW_COLUMN, SEQUENCE_COLUMN, find};

use crate::quarantine::{RECORDED_FRAME, RECORDED_INGEST, readable};

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

/// All columns of all groups, each with the type that holds its values in every group.
pub(crate) fn unify(groups: &[FrameGroup]) -> Vec<(String, SqlType)> {
    let mut unified: Vec<(String, SqlType)> = Vec::new();
    for (name, data_type) in groups.iter().flat_map(|group| &group.columns) {
        match unified.iter_mut().find(|(known, _)| same_column(known, name)) {
            // What no type holds is read from its text again.
            Some((_, known)) => *known = known.widened(data_type).unwrap_or(SqlType::Varchar),
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

/// A column that arrives, with its type and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    pub(crate) name: String,
    pub(crate) data_type: SqlType,
    pub(crate) fate: Fate,
}

impl Arriving {
    /// Whether the table has a column for it.
    fn is_kept(&self) -> bool {
        matches!(self.fate, Fate::Kept | Fate::KeptOrRescued | Fate::KeptOrRefused(_))
    }
}

/// Creates `typed`: every column of the table in its type, the dropped ones as they came, `_delete`, and what does not
/// fit: of key and sequence in `_misfit_key`, of all others, which a delete does not need, in `_misfit`.
pub(crate) fn create_typed(table: &Table, arriving: &[Arriving], target: &[Column], source: &str) -> String {
    let mut columns = vec![ROW_COLUMN.to_owned()];
    let (mut misfits, mut key_misfits) = (Vec::new(), Vec::new());
    let mut rescued = Vec::new();
    for column in target.iter().filter(|column| !column.name.starts_with('_')) {
        let from = arriving.iter().find(|arriving| arriving.is_kept() && same_column(&arriving.name, &column.name));
        let value = match from {
            Some(from) => {
                let is_needed =
                    table.is_key(&column.name) || table.sequence_by.iter().any(|it| same_column(it, &column.name));
                let misfits = if is_needed { &mut key_misfits } else { &mut misfits };
                typed_value(from, column, misfits, &mut rescued)
            }
            None => format!("CAST(NULL AS {})", column.data_type.to_duckdb()),
        };
        columns.push(format!("{value} AS {}", quote(&column.name)));
    }
    for arriving in arriving {
        let name = quote(&arriving.name);
        match &arriving.fate {
            Fate::Dropped => columns.push(name),
            Fate::Rescued => rescued.push((name.clone(), format!("{name} IS NOT NULL"))),
            Fate::Refused(why) => misfits.push(format!(
                "WHEN {name} IS NOT NULL THEN {}",
                literal(&format!("column {:?}: {why}", arriving.name))
            )),
            Fate::Kept | Fate::KeptOrRescued | Fate::KeptOrRefused(_) => {}
        }
    }
    let delete = table
        .delete_when
        .as_ref()
        .map_or("false".to_owned(), |sql| format!("coalesce(({}\n)::BOOLEAN, false)", sql.text));
    columns.push(format!("{delete} AS _delete"));
    columns.push(rescued_value(&rescued));
    for (misfits, name) in [(key_misfits, "_misfit_key"), (misfits, "_misfit")] {
        columns.push(if misfits.is_empty() {
            format!("NULL::VARCHAR AS {name}")
        } else {
            format!("CASE {} END AS {name}", misfits.join(" "))
        });
    }
    format!("CREATE TABLE typed AS SELECT {} FROM {source}", columns.join(", "))
}

/// The value of a column of the table. Adds when it does not fit to `misfits`, or to `rescued`, with the column.
fn typed_value(
    from: &Arriving,
    column: &Column,
    misfits: &mut Vec<String>,
    rescued: &mut Vec<(String, String)>,
) -> String {
    let to = column.data_type.to_duckdb();
    let name = quote(&from.name);
    misfits.extend(out_of_calendar(&name, &from.data_type, column));
    if from.data_type == column.data_type {
        return name;
    }
    if from.fate == Fate::Kept {
        return format!("CAST({name} AS {to})");
    }
    // Text is read; of everything else the value must be the same on the way back, so that nothing is rounded.
    let is_text = |data_type: &SqlType| matches!(data_type, SqlType::Varchar | SqlType::Json);
    let fails = if is_text(&from.data_type) {
        format!("(TRY_CAST({name} AS {to}) IS NULL{})", rounded(&name, &column.data_type))
    } else if is_text(&column.data_type) {
        format!("TRY_CAST({name} AS {to}) IS NULL")
    } else {
        format!("TRY_CAST(TRY_CAST({name} AS {to}) AS {}) IS DISTINCT FROM {name}", from.data_type.to_duckdb())
    };
    let fails = format!("{name} IS NOT NULL AND {fails}");
    if from.fate == Fate::KeptOrRescued {
        rescued.push((name.clone(), fails.clone()));
    } else {
        misfits.push(format!(
            "WHEN {fails} THEN {} || left({name}::VARCHAR, 100)",
            literal(&format!("column {:?} can't be {} without loss: ", column.name, column.data_type))
        ));
    }
    format!("CASE WHEN {fails} THEN NULL ELSE TRY_CAST({name} AS {to}) END")
}

/// When DuckDB would round the number that a text is.
fn rounded(name: &str, to: &SqlType) -> String {
    const DIGITS_MAX: u8 = 38;
    let whole = match to {
        SqlType::TinyInt | SqlType::SmallInt | SqlType::Integer | SqlType::BigInt => 19,
        SqlType::Decimal { precision, scale } => precision - scale,
        _ => return String::new(),
    };
    let exact = format!("DECIMAL({DIGITS_MAX}, {})", DIGITS_MAX - whole);
    format!(" OR TRY_CAST({name} AS {exact}) IS DISTINCT FROM TRY_CAST({name} AS {})", to.to_duckdb())
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

/// The JSON of what has no place: each column with the condition under which that is so of a row.
fn rescued_value(rescued: &[(String, String)]) -> String {
    if rescued.is_empty() {
        return "NULL::VARCHAR AS _rescued_now".to_owned();
    }
    let any: Vec<String> = rescued.iter().map(|(_, condition)| format!("({condition})")).collect();
    let fields: Vec<String> =
        rescued.iter().map(|(name, condition)| format!("{name} := CASE WHEN {condition} THEN {name} END")).collect();
    format!(
        "CASE WHEN {} THEN to_json(struct_pack({}))::VARCHAR END AS _rescued_now",
        any.join(" OR "),
        fields.join(", ")
    )
}

/// Creates `judged`: `typed` with the rule that a row breaks first, and why; NULL for a good row.
pub(crate) fn create_judged(table: &Table, target: &[Column]) -> String {
    let mut rules = vec![
        "WHEN _misfit_key IS NOT NULL THEN ['type', _misfit_key]".to_owned(),
        rule(&format!("{ROW_COLUMN} IS NULL"), "transform", "the transform made the column _row NULL"),
    ];
    for key in &table.primary_key {
        rules.push(rule(&format!("{} IS NULL", quote(key)), "primary_key", &format!("key column {key:?} is NULL")));
    }
    for sequence in &table.sequence_by {
        rules.push(rule(
            &format!("{} IS NULL", quote(sequence)),
            "sequence_by",
            &format!("sequence column {sequence:?} is NULL"),
        ));
    }
    // A delete needs only its key and sequence.
    rules.push("WHEN _delete THEN NULL".to_owned());
    rules.push("WHEN _misfit IS NOT NULL THEN ['type', _misfit]".to_owned());
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

/// The rows for quarantine, with the columns of [`crate::quarantine_schema`], and the frame that records them there.
pub(crate) fn select_bad(table: &Table, arrived: &[(String, SqlType)], now_us: i64) -> String {
    let field = |(name, data_type): &(String, SqlType)| {
        let name = quote(name);
        format!("{name} := {}", readable(&format!("a.{name}"), data_type))
    };
    let fields: Vec<String> = arrived.iter().map(field).collect();
    format!(
        "SELECT {table_name} AS table_name, j._verdict[2] AS reason, j._verdict[1] AS rule,
                to_json(struct_pack({fields}))::VARCHAR AS row_json,
                f.first_ingest_id AS ingest_id, f.first_frame AS frame,
                (j.{ROW_COLUMN} % {ROWS_PER_FRAME_MAX})::BIGINT AS row, f.object,
                make_timestamptz({now_us}) AS quarantined_at, make_timestamptz(f.received_at_us) AS received_at,
                f.ingest_id AS {RECORDED_INGEST}, f.frame AS {RECORDED_FRAME}
         FROM judged j
         LEFT JOIN frames f ON f._frame = j.{ROW_COLUMN} // {ROWS_PER_FRAME_MAX}
         LEFT JOIN arrived a ON a.{ROW_COLUMN} = j.{ROW_COLUMN}
         WHERE j._verdict IS NOT NULL
         ORDER BY j.{ROW_COLUMN}",
        table_name = literal(table.name.as_str()),
        fields = fields.join(", "),
    )
}

/// The columns that order the changes of a key, the first one counting most.
pub(crate) fn sequence_columns(table: &Table) -> Vec<String> {
    if table.sequence_by.is_empty() { vec![SEQUENCE_COLUMN.to_owned()] } else { table.sequence_by.clone() }
}

/// The sequence, each column in this order, with commas.
fn ordered(table: &Table, order: &str) -> String {
    let columns = sequence_columns(table);
    columns.iter().map(|name| format!("{} {order}", quote(name))).collect::<Vec<_>>().join(", ")
}

/// Creates `good`: the rows that broke no rule, with all columns of the table.
pub(crate) fn create_good(target: &[Column]) -> String {
    let mut columns = Vec::new();
    for column in target {
        let name = quote(&column.name);
        columns.push(match column.name.as_str() {
            SEQUENCE_COLUMN => format!(
                "format('{{:020d}}-{{}}-{{:020d}}-{{:010d}}', f.received_at_us, f.first_ingest_id, f.first_frame, j.{ROW_COLUMN} % {ROWS_PER_FRAME_MAX}) AS {name}"
            ),
            RESCUED_COLUMN => format!("j._rescued_now AS {name}"),
            own if HISTORY_COLUMNS.contains(&own) => format!("CAST(NULL AS {}) AS {name}", column.data_type.to_duckdb()),
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

/// Creates `changes`: of a keyed table, the newest change of each key, with `_reset` where a delete came before it, and
/// a number.
///
/// With the same sequence, a delete wins; then what arrived first.
pub(crate) fn create_changes(table: &Table, target: &[Column]) -> String {
    let newest = if table.ignore_null_updates { folded(table, target) } else { newest(table) };
    format!("CREATE TABLE changes AS SELECT *, row_number() OVER () AS _id FROM ({newest})")
}

fn newest(table: &Table) -> String {
    format!(
        "SELECT *, false AS _reset FROM good
         QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {sequence}, _delete DESC, {ROW_COLUMN}) = 1",
        key = list(&table.primary_key),
        sequence = ordered(table, "DESC"),
    )
}

/// The updates behind a key's last delete in one row: of each column, the newest value that is none of NULL.
fn folded(table: &Table, target: &[Column]) -> String {
    let key = list(&table.primary_key);
    let sequence = ordered(table, "DESC");
    let values: Vec<String> = target
        .iter()
        .filter(|column| !table.is_key(&column.name))
        .map(|column| {
            let name = quote(&column.name);
            format!("first({name} ORDER BY {sequence}, {ROW_COLUMN}) FILTER ({name} IS NOT NULL) AS {name}")
        })
        .collect();
    let all = list(&target.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
    let first = quote(&sequence_columns(table)[0]);
    format!(
        "WITH ends AS (SELECT {key}, {all_sequences} FROM good WHERE _delete
                       QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {sequence}) = 1),
              live AS (SELECT good.*, ends.{first} IS NOT NULL AS _after_delete FROM good LEFT JOIN ends ON {same_key}
                       WHERE NOT good._delete AND {after}),
              upserts AS (SELECT {key}, {values}, false AS _delete, min({ROW_COLUMN}) AS {ROW_COLUMN},
                                 bool_or(_after_delete) AS _reset FROM live GROUP BY {key})
         SELECT {all}, _delete, {ROW_COLUMN}, _reset FROM upserts
         UNION ALL BY NAME
         SELECT {all}, _delete, {ROW_COLUMN}, false AS _reset FROM good ANTI JOIN upserts USING ({key}) WHERE _delete
         QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {sequence}, {ROW_COLUMN}) = 1",
        all_sequences = sequence_columns(table).iter().map(|name| quote(name)).collect::<Vec<_>>().join(", "),
        same_key = matching::same_key(table, "good", "ends"),
        // A key without a delete has none that it could be above; NULL counts as below all.
        after = matching::is_above(table, "good", "ends", false),
        values = values.join(", "),
    )
}

/// Deletes from `good` what a stored tombstone (in the table `buried`) has overtaken.
pub(crate) fn apply_tombstones(table: &Table) -> String {
    let key = list(&table.primary_key);
    format!(
        "DELETE FROM good USING (
           SELECT * FROM buried QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {sequence}) = 1) b
         WHERE {same_key} AND NOT CASE WHEN good._delete THEN {not_below} ELSE {above} END",
        sequence = ordered(table, "DESC"),
        same_key = matching::same_key(table, "good", "b"),
        not_below = matching::is_above(table, "good", "b", true),
        above = matching::is_above(table, "good", "b", false),
    )
}

/// Quoted names with commas.
pub(crate) fn list(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}
