use std::mem::discriminant;

use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;

use super::*;
use crate::Kind;
use crate::definition::Definition;
use crate::schema::{admit, arrow_schema};

fn sql(text: &str) -> SqlType {
    text.parse().unwrap()
}

fn table(rules: &str) -> Table {
    Definition::made_table(&format!("[tables.t]\n{rules}\n"), "t.toml").unwrap()
}

fn named(columns: &[(&str, &str)]) -> Vec<(String, SqlType)> {
    columns.iter().map(|(name, text)| ((*name).to_owned(), sql(text))).collect()
}

/// A stored schema; `!` behind a type: not nullable.
fn stored(columns: &[(&str, &str)]) -> Schema {
    let field = |(name, text): &(&str, &str)| {
        let data_type = sql(text.trim_end_matches('!')).to_arrow();
        Field::new(*name, data_type, !text.ends_with('!'))
    };
    Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

fn texts(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| format!("{} {}", column.name, column.data_type)).collect()
}

#[test]
fn new_columns_wider_types_and_new_fields_are_taken_where_they_are_added() {
    let was = stored(&[("a", "integer"), ("s", "struct(x integer)"), ("d", "date"), ("l", "float[]")]);
    let now = named(&[
        ("A", "bigint"),
        ("s", "struct(y date, x decimal(5,2))"),
        ("d", "timestamp_ntz"),
        ("l", "double[]"),
        ("n", "varchar"),
    ]);
    let evolved = evolve(&table(""), Some(&was), &now).unwrap();
    let expected = ["a bigint", "s struct(x decimal(12,2), y date)", "d timestamp_ntz", "l double[]", "n varchar"]
        .map(String::from);
    assert_eq!(texts(&evolved.columns), expected);
    assert_eq!(evolved.added, ["n"]);
    let widened: Vec<_> = evolved.widened.iter().map(|(name, was, is)| format!("{name}: {was} to {is}")).collect();
    let expected = [
        "a: integer to bigint",
        "s: struct(x integer) to struct(x decimal(12,2), y date)",
        "d: date to timestamp_ntz",
        "l: float[] to double[]",
    ];
    assert_eq!(widened, expected);
    assert_eq!(evolved.fates, vec![Fate::Kept; 5]);
    assert!(evolved.changes_table());
}

#[test]
fn narrower_and_fewer_columns_change_nothing() {
    let was = stored(&[("a", "bigint"), ("s", "struct(x bigint, y date)"), ("b", "varchar")]);
    let evolved = evolve(&table(""), Some(&was), &named(&[("s", "struct(X integer)"), ("a", "tinyint")])).unwrap();
    assert_eq!(evolved.fates, [Fate::Kept, Fate::Kept]);
    assert!(!evolved.changes_table());
    assert_eq!(evolved.columns.len(), 3);
}

#[test]
fn what_no_type_holds_is_refused_at_the_door_and_tried_by_the_merge() {
    let was = stored(&[("a", "bigint")]);
    let evolved = evolve(&table(""), Some(&was), &named(&[("a", "varchar")])).unwrap();
    let why = evolved.fates[0].refusal().unwrap();
    assert_eq!(
        why,
        "the table has bigint, which can't hold varchar without loss; no type holds both; cast it before sending"
    );
    assert!(matches!(evolved.fates[0], Fate::KeptOrRefused(_)));
    assert!(!evolved.changes_table());
}

#[test]
fn a_declared_column_is_as_declared_and_what_comes_in_has_to_fit() {
    let rules = "columns = [{ name = \"A\", type = \"bigint\" }, { name = \"n\", type = \"date\", nullable = false }]";
    let was = stored(&[("a", "integer"), ("extra", "float")]);
    let evolved = evolve(&table(rules), Some(&was), &named(&[("a", "decimal(20,0)"), ("extra", "double")])).unwrap();
    assert_eq!(texts(&evolved.columns), ["a bigint", "extra double", "n date"]);
    assert!(evolved.columns[2].nullable, "rows that are there have no value for it");
    let why = evolved.fates[0].refusal().unwrap();
    assert!(why.contains("bigint, which can't hold decimal(20,0)") && why.contains("declare a wider type"), "{why}");
    assert_eq!(evolved.fates[1], Fate::Kept);

    // What is stored is never made narrower, and what has no type in common is not guessed at.
    let kept = evolve(&table(rules), Some(&stored(&[("a", "decimal(30,2)")])), &[]).unwrap();
    assert_eq!(texts(&kept.columns), ["a decimal(30,2)", "n date"]);
    let error = evolve(&table(rules), Some(&stored(&[("a", "varchar")])), &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped);
    assert!(error.to_string().contains("is stored as varchar and declared as bigint"), "{error}");
}

#[test]
fn json_is_stored_as_text_and_stays_so() {
    let rules = "columns = [{ name = \"a\", type = \"json\" }]";
    let evolved = evolve(&table(rules), Some(&stored(&[("a", "varchar")])), &named(&[("a", "varchar")])).unwrap();
    assert!(!evolved.changes_table());
    assert_eq!(evolved.fates, [Fate::Kept]);
}

#[test]
fn a_table_that_rescues_takes_all_and_changes_nothing_for_it() {
    let rules = "primary_key = [\"id\"]\nsequence_by = \"seq\"\non_new_column = \"rescue\"";
    let was = stored(&[("id", "integer!"), ("seq", "integer"), ("a", "integer"), ("_rescued", "varchar")]);
    let now = named(&[("id", "bigint"), ("seq", "integer"), ("a", "varchar"), ("n", "date")]);
    let evolved = evolve(&table(rules), Some(&was), &now).unwrap();
    assert!(matches!(
        evolved.fates.as_slice(),
        [Fate::KeptOrRefused(_), Fate::Kept, Fate::KeptOrRescued, Fate::Rescued]
    ));
    assert!(!evolved.changes_table());
}

#[test]
fn a_table_that_rejects_takes_what_it_has() {
    let rules = "on_new_column = \"reject\"";
    let was = stored(&[("a", "bigint")]);
    let evolved = evolve(&table(rules), Some(&was), &named(&[("a", "integer"), ("n", "date")])).unwrap();
    assert_eq!(evolved.fates[0], Fate::Kept);
    let why = evolved.fates[1].refusal().unwrap();
    assert!(why.contains("takes no new ones") && why.ends_with("it has: a"), "{why}");
    // Of a table that is neither declared nor stored, the first rows say what it has.
    let first = evolve(&table(rules), None, &named(&[("a", "integer"), ("n", "date")])).unwrap();
    assert_eq!(first.fates, [Fate::Kept, Fate::Kept]);
    assert!(first.added.is_empty());
}

#[test]
fn partitions_keep_their_type() {
    let was = stored(&[("p", "integer"), ("a", "integer")]);
    let evolved = evolve(&table("partition_by = [\"p\"]"), Some(&was), &named(&[("p", "bigint")])).unwrap();
    assert!(evolved.fates[0].refusal().unwrap().contains("partitions the table"));
    assert!(!evolved.changes_table());
    let rules =
        "partition_by = [\"p\"]\ncolumns = [{ name = \"p\", type = \"bigint\" }, { name = \"a\", type = \"int\" }]";
    let error = evolve(&table(rules), Some(&was), &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped);
    assert!(error.to_string().contains("declare it as integer"), "{error}");
}

#[test]
fn keys_widen_and_never_to_what_cannot_be_compared() {
    let table = table("primary_key = [\"id\"]\nsequence_by = \"seq\"");
    let was = stored(&[("id", "integer!"), ("seq", "date")]);
    let wider = evolve(&table, Some(&was), &named(&[("id", "bigint"), ("seq", "timestamp_ntz")])).unwrap();
    assert_eq!(texts(&wider.columns), ["id bigint", "seq timestamp_ntz"]);
    assert!(!wider.columns[0].nullable && wider.relaxed.is_empty());
    let float = evolve(&table, Some(&was), &named(&[("id", "float"), ("seq", "date")])).unwrap();
    assert!(float.fates[0].refusal().unwrap().contains("can't become a float"));
    for (column, data_type) in [("id", "double"), ("id", "integer[]"), ("seq", "struct(a integer)")] {
        let error = evolve(&table, None, &named(&[(column, data_type)])).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{column} {data_type}");
    }
}

#[test]
fn what_need_not_be_there_may_be_null() {
    let rules = "primary_key = [\"id\"]\ndrop_columns = [\"gone\"]\ncolumns = [{ name = \"id\", type = \"int\" }, \
                 { name = \"must\", type = \"int\", nullable = false }, { name = \"may\", type = \"int\" }, \
                 { name = \"gone\", type = \"int\", nullable = false }]";
    let was = stored(&[
        ("id", "integer!"),
        ("must", "integer!"),
        ("may", "integer!"),
        ("gone", "integer!"),
        ("undeclared", "integer!"),
        ("_sequence", "varchar"),
    ]);
    let evolved = evolve(&table(rules), Some(&was), &[]).unwrap();
    assert_eq!(evolved.relaxed, ["may", "gone", "undeclared"]);
    assert!(evolved.changes_table() && evolved.added.is_empty() && evolved.widened.is_empty());
}

#[test]
fn the_times_of_a_history_follow_its_sequence() {
    let keyed = "primary_key = [\"id\"]\nhistory = true\n";
    let first =
        evolve(&table(&format!("{keyed}sequence_by = [\"at\", \"n\"]")), None, &named(&[("at", "date")])).unwrap();
    let expected = ["at date", "_valid_from date", "_valid_to date", "_is_current boolean"];
    assert_eq!(texts(&first.columns), expected);

    let was = arrow_schema(&first.columns);
    let table_by_at = table(&format!("{keyed}sequence_by = \"at\""));
    let wider = evolve(&table_by_at, Some(&was), &named(&[("at", "timestamp_ntz")])).unwrap();
    let names: Vec<_> = wider.widened.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["at", "_valid_from", "_valid_to"]);

    let arriving = evolve(&table(keyed), None, &named(&[("id", "integer")])).unwrap();
    let expected =
        ["id integer", "_sequence varchar", "_valid_from timestamp", "_valid_to timestamp", "_is_current boolean"];
    assert_eq!(texts(&arriving.columns), expected);
}

#[test]
fn a_history_can_neither_be_begun_nor_given_up_later() {
    let keyed = "primary_key = [\"id\"]\n";
    let with = arrow_schema(
        &evolve(&table(&format!("{keyed}history = true")), None, &named(&[("id", "int")])).unwrap().columns,
    );
    let without = arrow_schema(&evolve(&table(keyed), None, &named(&[("id", "int")])).unwrap().columns);
    for (rules, was) in [(format!("{keyed}history = true"), &without), (keyed.to_owned(), &with)] {
        let error = evolve(&table(&rules), Some(was), &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Stopped);
        assert!(error.to_string().contains("another name"), "{error}");
    }
}

#[test]
fn the_limit_on_columns_counts_what_is_rescued_and_what_lies_in_structs() {
    let many = |count: usize| -> Vec<_> { (0..count).map(|at| (format!("c{at}"), SqlType::Integer)).collect() };
    assert!(evolve(&table(""), None, &many(COLUMNS_MAX)).is_ok());
    for policy in ["add", "rescue"] {
        let table = table(&format!("on_new_column = {policy:?}"));
        let error = evolve(&table, Some(&stored(&[("a", "date")])), &many(COLUMNS_MAX)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("the most is 2000"), "{error}");
    }
    let fields = many(COLUMNS_MAX).into_iter().map(|(name, data_type)| crate::types::StructField { name, data_type });
    let wide = vec![("s".to_owned(), SqlType::Struct(fields.collect()))];
    let evolved = evolve(&table(""), Some(&stored(&[("s", "struct(x integer)")])), &wide).unwrap();
    assert!(evolved.fates[0].refusal().unwrap().ends_with("it would have 2001, and the most is 2000; send a map"));
}

#[test]
fn names_that_are_mallards_own_are_refused() {
    for policy in ["add", "rescue"] {
        let table = table(&format!("on_new_column = {policy:?}"));
        let evolved = evolve(&table, Some(&stored(&[("a", "date")])), &named(&[("_row", "integer")])).unwrap();
        assert!(evolved.fates[0].refusal().unwrap().contains("reserved"));
    }
}

/// A table, what is stored of it (by another definition of the same rules), and what comes.
#[derive(Debug)]
struct Case {
    table: Table,
    rescues: bool,
    stored: Option<Schema>,
    incoming: Vec<(String, SqlType)>,
}

const KEYS: [&str; 4] = ["integer", "bigint", "varchar", "double"];
const PLAIN: [&str; 3] = ["smallint", "bigint", "date"];
const ALL: [&str; 13] = [
    "tinyint",
    "integer",
    "bigint",
    "float",
    "double",
    "decimal(10,2)",
    "varchar",
    "date",
    "timestamp_ntz",
    "struct(x integer)",
    "struct(y date, x bigint)",
    "integer[]",
    "bigint[]",
];

/// Some columns, of a few names and types.
fn some_columns() -> impl Strategy<Value = Vec<(String, SqlType)>> {
    let of = |name: &'static str, types: &'static [&'static str]| {
        let column = prop::sample::select(types).prop_map(move |text| (name.to_owned(), sql(text)));
        prop::option::weighted(0.75, column)
    };
    (of("id", &KEYS), of("part", &PLAIN), of("a", &ALL), of("b", &ALL))
        .prop_map(|(id, part, a, b)| [a, id, part, b].into_iter().flatten().collect())
}

/// The declaration of columns, with those that rules name among them.
fn declaration(mut columns: Vec<(String, SqlType)>, rules: &[&str]) -> String {
    columns.retain(|(name, data_type)| name != "id" || *data_type != SqlType::Double);
    if columns.is_empty() {
        return String::new();
    }
    for name in rules.iter().chain(&["b"]) {
        if !columns.iter().any(|(known, _)| known == name) {
            columns.push(((*name).to_owned(), SqlType::BigInt));
        }
    }
    let columns = columns.iter().map(|(name, data_type)| format!("{{ name = {name:?}, type = \"{data_type}\" }}"));
    format!("columns = [{}]\n", columns.collect::<Vec<_>>().join(", "))
}

fn case() -> impl Strategy<Value = Case> {
    let policy = prop::sample::select(&["add", "rescue", "reject"][..]);
    let declared = prop_oneof![Just(Vec::new()), some_columns()];
    let stored = prop::option::of(some_columns());
    let parts = (policy, any::<[bool; 3]>(), declared, stored, some_columns());
    parts.prop_map(|(policy, [keyed, history, partitioned], declared, stored, incoming)| {
        let mut rules = format!("on_new_column = {policy:?}\n");
        let mut ruled = Vec::new();
        if keyed {
            rules.push_str(&format!("primary_key = [\"id\"]\nhistory = {history}\n"));
            ruled.push("id");
        }
        if partitioned {
            rules.push_str("partition_by = [\"part\"]\n");
            ruled.push("part");
        }
        let former = table(&rules);
        let stored = stored.and_then(|columns| evolve(&former, None, &columns).ok());
        let stored = stored.map(|evolved| Schema::clone(&arrow_schema(&evolved.columns)));
        let table = table(&format!("{rules}{}", declaration(declared, &ruled)));
        Case { table, rescues: policy == "rescue", stored, incoming }
    })
}

proptest! {
    #[test]
    fn no_stored_column_moves_narrows_or_is_lost(case in case()) {
        let Ok(evolved) = evolve(&case.table, case.stored.as_ref(), &case.incoming) else { return Ok(()) };
        let fields = case.stored.as_ref().map(Schema::fields).into_iter().flatten();
        for (was, is) in fields.zip(&evolved.columns) {
            prop_assert_eq!(was.name(), &is.name);
            prop_assert!(is.data_type.can_hold(&SqlType::from_arrow(was.data_type()).unwrap()));
            prop_assert!(is.nullable || !was.is_nullable());
        }
        for declared in &case.table.columns {
            prop_assert!(find(&evolved.columns, &declared.name).unwrap().data_type.can_hold(&declared.data_type));
        }
    }

    #[test]
    fn what_is_kept_fits_and_a_second_time_changes_nothing(case in case()) {
        let Ok(evolved) = evolve(&case.table, case.stored.as_ref(), &case.incoming) else { return Ok(()) };
        for ((name, data_type), fate) in case.incoming.iter().zip(&evolved.fates) {
            let column = find(&evolved.columns, name);
            match fate {
                Fate::Kept => prop_assert!(column.unwrap().data_type.can_hold(data_type)),
                Fate::KeptOrRescued | Fate::KeptOrRefused(_) => {
                    prop_assert!(!column.unwrap().data_type.can_hold(data_type))
                }
                Fate::Rescued | Fate::Refused(_) | Fate::Dropped => prop_assert!(column.is_none()),
            }
        }
        if evolved.columns.is_empty() {
            return Ok(());
        }
        let again = evolve(&case.table, Some(&arrow_schema(&evolved.columns)), &case.incoming).unwrap();
        prop_assert!(!again.changes_table(), "{:?}", again);
        let kinds = |evolved: &Evolved| evolved.fates.iter().map(discriminant).collect::<Vec<_>>();
        prop_assert_eq!(kinds(&again), kinds(&evolved));
    }

    #[test]
    fn the_door_admits_exactly_what_the_table_takes(case in case()) {
        let fields = case.incoming.iter().map(|(name, data_type)| Field::new(name, data_type.to_arrow(), true));
        let admitted = admit(&case.table, case.stored.as_ref(), &Schema::new(fields.collect::<Vec<_>>()));
        let comes = |name: &str| case.incoming.iter().any(|(known, _)| known == name);
        let takes = evolve(&case.table, case.stored.as_ref(), &case.incoming).is_ok_and(|evolved| {
            let fits = case.incoming.iter().all(|(name, data_type)| match find(&evolved.columns, name) {
                Some(column) if column.data_type.can_hold(data_type) => true,
                Some(_) => {
                    // A row without the value would be none of the table.
                    let is_required = case.table.column(name).is_some_and(|declared| !declared.nullable);
                    case.rescues && !is_required && !case.table.is_key(name)
                }
                None => case.rescues,
            });
            let parts = &case.table.partition_by;
            let complete = case.table.primary_key.iter().all(|key| comes(key))
                && parts.iter().all(|part| find(&evolved.columns, part).is_some());
            fits && complete && !case.incoming.is_empty()
        });
        prop_assert_eq!(admitted.is_ok(), takes, "{:?}", admitted);
    }
}
