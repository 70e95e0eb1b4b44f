//! What is wrong with tables and models, each with its line and cure.

use super::*;

/// Declares columns of these names and types, in one line.
fn columns(list: &[(&str, &str)]) -> String {
    let list: Vec<_> = list.iter().map(|(name, of)| format!("{{ name = {name:?}, type = {of:?} }}")).collect();
    format!("columns = [{}]\n", list.join(", "))
}

#[test]
fn a_lakehouse_needs_a_name_and_tables() {
    assert_eq!(
        problems(""),
        "1: the lakehouse has no name; add name = \"…\" at the top\n\
         1: the lakehouse has no tables; add a section [tables.NAME]"
    );
    assert_eq!(problems("name = 5\n[tables.t]"), "1: lakehouse: name must be text in quotes, not integer");
    assert_eq!(
        problems("\nname = \"Our Flights\"\n[tables.t]"),
        r#"2: lakehouse name "Our Flights" must begin with a letter a-z and have only a-z, 0-9 and _; did you mean "our_flights"?"#
    );
    for name in crate::name::RESERVED_LAKEHOUSE_NAMES {
        let expected = format!("1: lakehouse: name {name:?} is that of a schema in it; choose another");
        assert_eq!(problems(&format!("name = {name:?}\n[tables.t]")), expected);
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    assert_eq!(
        problems("name = \"f\"\n[tables.t]\n[table.u]"),
        r#"3: lakehouse: unknown key "table"; did you mean "tables"?"#
    );
    assert_eq!(
        table_problems("primry_key = [\"a\"]"),
        r#"3: table "t": unknown key "primry_key"; did you mean "primary_key"?"#
    );
    assert_eq!(
        model_problems("sql = \"gold/delays.sql\"\ncolour = 1"),
        r#"5: model "m": unknown key "colour"; there are: description, sql, mode, unique_key, refresh, expect"#
    );
    assert_eq!(
        table_problems("[[tables.t.columns]]\nname = \"a\"\ntype = \"int\"\nnulable = true"),
        r#"6: table "t", column "a": unknown key "nulable"; did you mean "nullable"?"#
    );
    assert_eq!(
        table_problems("expect.e = { check = \"a > 0\", on_fail = \"warn\", onfail = 1 }"),
        r#"3: table "t", expectation "e": unknown key "onfail"; did you mean "on_fail"?"#
    );
}

#[test]
fn names_of_tables_models_and_expectations_are_checked() {
    assert_eq!(
        problems("name = \"f\"\n[tables.Big-One]"),
        r#"2: table name "Big-One" must begin with a letter a-z and have only a-z, 0-9 and _; did you mean "big_one"?"#
    );
    assert_eq!(
        problems("name = \"f\"\n[tables.t]\n[models.2nd]\nsql = \"gold/delays.sql\""),
        r#"3: model name "2nd" must begin with a letter a-z and have only a-z, 0-9 and _"#
    );
    assert_eq!(
        table_problems("expect.Good = { check = \"a > 0\", on_fail = \"warn\" }"),
        r#"3: table "t": expectation name "Good" must begin with a letter a-z and have only a-z, 0-9 and _; did you mean "good"?"#
    );
}

#[test]
fn values_of_another_kind_are_refused() {
    for (line, message) in [
        ("primary_key = \"a\"", "primary_key must be a list of texts in quotes, not string"),
        ("primary_key = [1]", "primary_key must be a list of texts in quotes, not of integer"),
        ("description = 1", "description must be text in quotes, not integer"),
        ("description = \" \"", "description is empty; fill it, or leave it out"),
        ("columns = 1", "columns must be a list of columns, as in [[…columns]], not integer"),
        ("columns = [1]", "columns must be a list of { name = …, type = … }, not of integer"),
        ("expect = 1", "expect must be a section with keys, not integer"),
        ("on_new_column = \"adds\"", r#"on_new_column can't be "adds"; write one of "add", "rescue", "reject""#),
    ] {
        assert_eq!(table_problems(line), format!("3: table \"t\": {message}"));
    }
    assert_eq!(
        table_problems("primary_key = [\"a\"]\nignore_null_updates = \"yes\""),
        r#"4: table "t": ignore_null_updates must be true or false, not string"#
    );
    assert_eq!(problems("name = \"f\"\ntables.t = 1"), r#"2: table "t" must be a section with keys, not integer"#);
}

#[test]
fn columns_need_good_names_and_types_and_differ() {
    for (list, message) in [
        (
            columns(&[("_row", "int")]),
            r#"table "t": column name "_row" begins with _, which is reserved for Mallard's own columns; rename it"#,
        ),
        (columns(&[("", "int")]), r#"table "t": column name "" is empty; give it at least one letter"#),
        (
            columns(&[("a", "int"), ("A", "int")]),
            r#"table "t": column "A" is there twice (case does not count); remove one"#,
        ),
        (
            columns(&[("a", "intt")]),
            r#"table "t", column "a": type "intt", column 1: there is no type "intt"; did you mean "int"?"#,
        ),
        ("columns = [{ name = \"a\" }]".into(), r#"table "t", column "a": it has no type; add type = "…""#),
        ("columns = [{ type = \"int\" }]".into(), r#"table "t", a column: it has no name; add name = "…""#),
    ] {
        assert_eq!(table_problems(&list), format!("3: {message}"));
    }
}

#[test]
fn columns_that_rules_name_must_be_declared() {
    let declared = columns(&[("flight_id", "bigint"), ("updated_at", "timestamp"), ("month", "int")]);
    assert_eq!(
        table_problems(&format!("{declared}primary_key = [\"flight_idd\"]")),
        r#"4: table "t": primary_key names "flight_idd", which is not among its columns; did you mean "flight_id"?"#
    );
    assert_eq!(
        table_problems(&format!("{declared}primary_key = [\"flight_id\"]\nsequence_by = \"when\"")),
        r#"5: table "t": sequence_by names "when", which is not among its columns; declare it, or correct the name"#
    );
    assert_eq!(
        table_problems(&format!("{declared}partition_by = [\n\"month\",\n\"years\"]")),
        r#"6: table "t": partition_by names "years", which is not among its columns; declare it, or correct the name"#
    );
    // What is dropped may come from the producer alone; without declared columns, nothing can be checked.
    load(&format!("name = \"f\"\n[tables.t]\n{declared}drop_columns = [\"op\"]"));
    load("name = \"f\"\n[tables.t]\nprimary_key = [\"a\"]\nsequence_by = \"b\"\npartition_by = [\"c\"]");
}

#[test]
fn lists_of_columns_name_each_once_and_keys_name_some() {
    assert_eq!(
        table_problems("primary_key = [\"a\", \"A\"]"),
        r#"3: table "t": primary_key names "A" twice; remove one"#
    );
    assert_eq!(
        table_problems("primary_key = []"),
        r#"3: table "t": primary_key names no columns; name some, or leave it out"#
    );
    assert_eq!(
        table_problems("partition_by = [\"_sequence\"]"),
        r#"3: table "t": partition_by: column name "_sequence" begins with _, which is reserved for Mallard's own columns; rename it"#
    );
}

#[test]
fn a_key_is_stored_never_null_and_comparable() {
    assert_eq!(
        table_problems("primary_key = [\"a\"]\ndrop_columns = [\"A\"]"),
        r#"3: table "t": primary_key column "a" is in drop_columns, but a key must be stored; take it out"#
    );
    assert_eq!(
        table_problems("primary_key = [\"a\"]\n[[tables.t.columns]]\nname = \"a\"\ntype = \"int\"\nnullable = true"),
        r#"7: table "t": column "a" can't be nullable, since it is in primary_key; remove nullable"#
    );
    for float in ["float", "double"] {
        let expected = format!(
            "3: table \"t\": column \"a\" has type {float} and is in primary_key, but floats that look equal may differ \
             (rounding, NaN); use decimal(p,s), an integer or varchar"
        );
        let list = columns(&[("a", float), ("b", "int")]);
        assert_eq!(table_problems(&format!("{list}primary_key = [\"a\"]")), expected);
    }
    for nested in ["integer[]", "struct(x integer)", "map(integer, date)"] {
        let expected = format!(
            "3: table \"t\": column \"a\" has type {nested} and is in primary_key, but nested values can't be compared in a \
             merge; use its parts as columns"
        );
        let list = columns(&[("a", nested), ("b", "int")]);
        assert_eq!(table_problems(&format!("{list}primary_key = [\"a\"]")), expected);
    }
}

#[test]
fn a_sequence_is_stored_and_has_an_order() {
    assert_eq!(
        table_problems("primary_key = [\"a\"]\nsequence_by = \"b\"\ndrop_columns = [\"b\"]"),
        r#"4: table "t": sequence_by column "b" is in drop_columns, but later rows are compared with it; take it out"#
    );
    for (of, line) in [("integer[]", 3), ("json", 3)] {
        let expected = format!(
            "{line}: table \"t\": column \"b\" has type {of} and is sequence_by, but has no order; use a number, a timestamp or text"
        );
        let list = columns(&[("a", "int"), ("b", of)]);
        assert_eq!(table_problems(&format!("{list}primary_key = [\"a\"]\nsequence_by = \"b\"")), expected);
    }
}

#[test]
fn rules_that_compare_with_the_stored_row_need_a_key() {
    for (key, value, why) in [
        ("sequence_by", "\"a\"", "it decides between rows of the same key"),
        ("delete_when", "\"op = 'd'\"", "it deletes the stored row of the same key"),
        ("ignore_null_updates", "true", "it keeps values of the stored row of the same key"),
        ("history", "true", "it keeps the versions of the row of a key"),
    ] {
        let expected = format!("3: table \"t\": {key} needs a primary_key, since {why}; add one, or leave {key} out");
        assert_eq!(table_problems(&format!("{key} = {value}")), expected);
    }
    load("name = \"f\"\n[tables.t]\nignore_null_updates = false\nhistory = false");
}

#[test]
fn a_sequence_is_one_column_or_several_each_once() {
    let sequence = |written: &str| {
        let toml = format!("name = \"f\"\n[tables.t]\nprimary_key = [\"a\"]\nsequence_by = {written}");
        load(&toml).table("t").unwrap().sequence_by.clone()
    };
    assert_eq!(sequence("\"b\""), ["b"]);
    assert_eq!(sequence("[\"b\"]"), ["b"]);
    assert_eq!(sequence("[\"c\", \"b\"]"), ["c", "b"]);
    for (written, message) in [
        ("[]", "sequence_by names no columns; name some, or leave it out"),
        ("[\"b\", \"B\"]", r#"sequence_by names "B" twice; remove one"#),
        ("[1]", "sequence_by must be a list of texts in quotes, not of integer"),
        ("1", "sequence_by must be a column's name in quotes, or a list of such, not integer"),
        ("\" \"", "sequence_by is empty; fill it, or leave it out"),
    ] {
        assert_eq!(
            table_problems(&format!("primary_key = [\"a\"]\nsequence_by = {written}")),
            format!("4: table \"t\": {message}")
        );
    }
    let list = columns(&[("a", "int"), ("b", "int"), ("c", "json")]);
    assert_eq!(
        table_problems(&format!("{list}primary_key = [\"a\"]\nsequence_by = [\"b\", \"c\"]")),
        r#"3: table "t": column "c" has type json and is sequence_by, but has no order; use a number, a timestamp or text"#
    );
}

#[test]
fn a_history_keeps_what_came_and_has_its_columns_for_itself() {
    let message = table_problems("primary_key = [\"a\"]\nhistory = true\nignore_null_updates = true");
    assert!(message.starts_with("5: table \"t\": ignore_null_updates can't be combined with history: a version that"));
    load("name = \"f\"\n[tables.t]\nprimary_key = [\"a\"]\nhistory = true\nignore_null_updates = false");
    for own in crate::schema::HISTORY_COLUMNS {
        let list = columns(&[("a", "int"), (own, "timestamp")]);
        assert_eq!(
            table_problems(&format!("{list}primary_key = [\"a\"]\nhistory = true")),
            format!(
                "3: table \"t\": column name {own:?} begins with _, which is reserved for Mallard's own columns; rename it"
            )
        );
    }
}

#[test]
fn partitions_are_stored_plain_and_leave_other_columns() {
    assert_eq!(
        table_problems("partition_by = [\"a\"]\ndrop_columns = [\"a\"]"),
        r#"3: table "t": partition_by column "a" is in drop_columns, but is stored; take it out of one"#
    );
    let list = columns(&[("a", "int[]"), ("b", "int")]);
    assert_eq!(
        table_problems(&format!("{list}partition_by = [\"a\"]")),
        r#"4: table "t": column "a" has type integer[] and is in partition_by, but a partition is one value; use another"#
    );
    let list = columns(&[("a", "int"), ("b", "int"), ("op", "text")]);
    assert_eq!(
        table_problems(&format!("{list}drop_columns = [\"op\"]\npartition_by = [\"a\", \"b\"]")),
        r#"5: table "t": partition_by names all columns, so that its files would be empty; leave one out"#
    );
    let list = columns(&[("a", "int")]);
    assert_eq!(
        table_problems(&format!("{list}drop_columns = [\"a\"]")),
        r#"4: table "t": drop_columns names all columns, so that none is stored; leave one out"#
    );
}

#[test]
fn expectations_need_a_check_and_what_happens_when_it_fails() {
    assert_eq!(
        table_problems("[tables.t.expect]\ne = {}"),
        "4: table \"t\", expectation \"e\": it has no check; add check = \"a DuckDB boolean over the row\"\n\
         4: table \"t\", expectation \"e\": it has no on_fail; say what happens to a row that fails"
    );
    assert_eq!(
        table_problems("[tables.t.expect]\ne = { check = \"\", on_fail = \"warn\" }"),
        r#"4: table "t", expectation "e": check is empty; fill it, or leave it out"#
    );
    assert_eq!(
        table_problems("[tables.t.expect]\ne = { check = \"a > 0\", on_fail = \"drop\" }"),
        r#"4: table "t", expectation "e": on_fail can't be "drop"; write one of "warn", "quarantine", "fail""#
    );
    assert_eq!(
        table_problems("[tables.t.expect]\ne = \"a > 0\""),
        r#"4: table "t", expectation "e" must be a section with keys, not string"#
    );
    assert_eq!(
        model_problems(
            "sql = \"gold/delays.sql\"\n[models.m.expect]\ne = { check = \"a > 0\", on_fail = \"quarantine\" }"
        ),
        r#"6: model "m": expectation "e" can't quarantine, since a model has no incoming rows; use on_fail = "warn" or "fail""#
    );
}

#[test]
fn a_model_needs_sql_and_a_key_to_merge_by() {
    assert_eq!(model_problems(""), r#"3: model "m": it has no sql; add sql = "gold/NAME.sql""#);
    let sql = "sql = \"gold/delays.sql\"\n";
    assert_eq!(
        model_problems(&format!("{sql}mode = \"merge\"")),
        r#"3: model "m": mode "merge" needs a unique_key; name the columns that tell its rows apart"#
    );
    for (mode, line) in [("replace", 6), ("append", 6)] {
        let expected = format!(
            "{line}: model \"m\": mode \"{mode}\" has no use for unique_key; use mode = \"merge\", or leave the key out"
        );
        assert_eq!(model_problems(&format!("{sql}mode = \"{mode}\"\nunique_key = [\"a\"]")), expected);
    }
    assert_eq!(
        model_problems(&format!("{sql}mode = \"upsert\"\nunique_key = [\"a\"]")),
        r#"5: model "m": mode can't be "upsert"; write one of "replace", "append", "merge""#
    );
    assert_eq!(
        model_problems(&format!("{sql}refresh = \"hourly\"")),
        r#"5: model "m": refresh "hourly" is no refresh rule; write "on-change", "rate(15 minutes)" or "cron(0 6 * * ? *)""#
    );
}
