//! What a table remembers, and how its files are kept up.

use std::time::Duration;

use super::*;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// The table with these lines.
fn table(lines: &str) -> Arc<Table> {
    Arc::clone(load(&format!("name = \"f\"\n[tables.t]\n{lines}")).table("t").unwrap())
}

#[test]
fn what_is_left_out_is_chosen_well() {
    let table = table("");
    assert_eq!(table.deletion_vectors, DeletionVectors::Auto);
    assert_eq!(table.tombstone_retention, Duration::from_secs(30 * DAY));
    let expected = Maintenance {
        target_file_bytes: 128 << 20,
        cluster_by: Vec::new(),
        vacuum_after: Duration::from_secs(7 * DAY),
        log_retention: Duration::from_secs(30 * DAY),
    };
    assert_eq!(table.maintenance, expected);
    assert!(!table.history && table.sequence_by.is_empty());
}

#[test]
fn every_key_of_upkeep_is_read() {
    let table = table(
        "primary_key = [\"id\"]\ndelete_when = \"gone\"\ntombstone_retention = \"90 days\"\ndeletion_vectors = true\n\
         columns = [{ name = \"id\", type = \"int\" }, { name = \"At\", type = \"date\" }]\n\
         [tables.t.maintenance]\ntarget_file_bytes = \"1 MiB\"\ncluster_by = [\"at\"]\nvacuum_after = \"36 hours\"\n\
         log_retention = \"60 days\"",
    );
    assert_eq!(table.tombstone_retention, Duration::from_secs(90 * DAY));
    assert_eq!(table.deletion_vectors, DeletionVectors::On);
    let expected = Maintenance {
        target_file_bytes: 1 << 20,
        cluster_by: vec!["At".to_owned()],
        vacuum_after: Duration::from_secs(36 * HOUR),
        log_retention: Duration::from_secs(60 * DAY),
    };
    assert_eq!(table.maintenance, expected);
}

#[test]
fn deletion_vectors_are_chosen_demanded_or_forbidden() {
    for (written, read) in
        [("\"auto\"", DeletionVectors::Auto), ("true", DeletionVectors::On), ("false", DeletionVectors::Off)]
    {
        assert_eq!(table(&format!("deletion_vectors = {written}")).deletion_vectors, read);
    }
    for (written, named) in [("\"on\"", "\"on\""), ("1", "integer"), ("[true]", "array")] {
        assert_eq!(
            table_problems(&format!("deletion_vectors = {written}")),
            format!("3: table \"t\": deletion_vectors must be \"auto\", true or false, not {named}")
        );
    }
}

#[test]
fn tombstones_need_deletes_and_outlive_what_waits() {
    assert_eq!(
        table_problems("primary_key = [\"a\"]\ntombstone_retention = \"7 days\""),
        r#"4: table "t": tombstone_retention needs a delete_when, since only deletes leave tombstones; add one, or leave it out"#
    );
    let with = |text: &str| {
        table_problems(&format!("primary_key = [\"a\"]\ndelete_when = \"b\"\ntombstone_retention = {text}"))
    };
    assert_eq!(
        with("\"59 minutes\""),
        r#"5: table "t": tombstone_retention "59 minutes" is too short, since a change that waits longer for its merge would bring back what was deleted; the least is "1 hour""#
    );
    assert_eq!(
        with("\"a while\""),
        r#"5: table "t": tombstone_retention "a while" is no span of time: write a whole number and a unit, as in "7 days""#
    );
    assert_eq!(with("7"), r#"5: table "t": tombstone_retention must be text in quotes, not integer"#);
}

#[test]
fn what_is_read_as_of_the_past_keeps_its_files_and_its_log() {
    assert_eq!(
        table_problems("maintenance = { vacuum_after = \"30 minutes\" }"),
        r#"3: table "t", maintenance: vacuum_after "30 minutes" is too short, since queries that have begun, and results that are being fetched, still read the files; the least is "1 hour""#
    );
    assert_eq!(
        table_problems("maintenance = { vacuum_after = \"40 days\", log_retention = \"39 days\" }"),
        r#"3: table "t", maintenance: log_retention "39 days" is too short, since versions are to be readable until vacuum_after, for which their log is needed; the least is "40 days""#
    );
    // What is not written gives way.
    let kept = table("maintenance = { vacuum_after = \"40 days\" }").maintenance.log_retention;
    assert_eq!(kept, Duration::from_secs(40 * DAY));
}

#[test]
fn files_are_neither_tiny_nor_more_than_a_merge_rewrites() {
    for size in ["63 KiB", "2 GiB"] {
        assert_eq!(
            table_problems(&format!("maintenance = {{ target_file_bytes = \"{size}\" }}")),
            format!(
                "3: table \"t\", maintenance: target_file_bytes {size:?} is not within 64 KiB to 1 GiB: smaller files \
                 cost more to open than to read, and a larger one no longer fits a merge"
            )
        );
    }
    assert_eq!(
        table_problems("maintenance = { target_file_byte = \"1 MiB\" }"),
        r#"3: table "t", maintenance: unknown key "target_file_byte"; did you mean "target_file_bytes"?"#
    );
    assert_eq!(
        table_problems("maintenance = 1"),
        r#"3: table "t": maintenance must be a section with keys, not integer"#
    );
}

#[test]
fn rows_are_clustered_by_stored_columns_of_which_files_know_the_bounds() {
    let declared = "columns = [{ name = \"a\", type = \"int\" }, { name = \"b\", type = \"int[]\" }, \
                    { name = \"p\", type = \"date\" }, { name = \"d\", type = \"int\" }]\n\
                    partition_by = [\"p\"]\ndrop_columns = [\"d\"]\n";
    let with = |column: &str| table_problems(&format!("{declared}maintenance = {{ cluster_by = [{column:?}] }}"));
    for (column, wrong) in [
        ("c", r#"cluster_by names "c", which is not among its columns; declare it, or correct the name"#),
        (
            "B",
            r#"cluster_by: column "b" has type integer[], of which files have no least and greatest value; use another"#,
        ),
        (
            "p",
            r#"cluster_by: column "p" is in partition_by, so that its rows lie together already; take it out of one"#,
        ),
        ("d", r#"cluster_by: column "d" is in drop_columns, so that it is not stored; take it out of one"#),
    ] {
        assert_eq!(with(column), format!("6: table \"t\", maintenance: {wrong}"));
    }
    assert_eq!(
        table_problems("maintenance = { cluster_by = [\"a\", \"A\"] }"),
        r#"3: table "t", maintenance: cluster_by names "A" twice; remove one"#
    );
}
