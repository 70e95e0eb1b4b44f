//! Reads `[tables.NAME]`.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::columns::{self, Declared};
use super::section::{Entry, Report, Section};
use super::{Column, Table, did_you_mean, foreign, sql, units, upkeep};
use crate::name::{check_column_name, same_column};
use crate::types::SqlType;

/// How long a deleted key is remembered, unless its table says another time.
pub const TOMBSTONE_RETENTION_DEFAULT: Duration = units::days(30);

/// A change waits for its merge as long as that after a failure or behind a full buffer; what it finds then must not
/// have forgotten the delete that overtook it.
const TOMBSTONE_RETENTION_MIN: Duration = units::HOUR;

const KEYS: [&str; 16] = [
    "description",
    "primary_key",
    "sequence_by",
    "delete_when",
    "tombstone_retention",
    "history",
    "drop_columns",
    "partition_by",
    "foreign_keys",
    "on_new_column",
    "ignore_null_updates",
    "transform",
    "columns",
    "expect",
    "deletion_vectors",
    "maintenance",
];

/// The table, if its name is good; what is wrong is reported.
pub(super) fn read(entry: Entry, report: &mut Report) -> Option<Table> {
    let (key, _) = entry;
    let name = report.name("table", key.get_ref(), &key.span());
    let section = Section::of_value(&format!("table {:?}", key.get_ref()), entry, &KEYS, report)?;
    let declared = columns::read(&section, report);
    let named = Named::read(&section, &declared, report);
    named.check_key(&section, &declared, report);
    named.check_sequence(&section, &declared, report);
    named.check_partitions(&section, &declared, report);
    named.check_what_needs_a_key(&section, report);
    check_history(&section, report);
    named.check_that_columns_remain(&section, &declared, report);
    let origin = report.origin(section.span.start);
    let foreign_keys = foreign::read(&section, &declared, report);
    let maintenance = upkeep::maintenance(&section, &declared, &named.partition_by, &named.drop_columns, report);
    let table = Table {
        description: section.text("description", report).map(|text| text.get_ref().to_string()),
        delete_when: sql::inline(&section, "delete_when", report),
        tombstone_retention: tombstone_retention(&section, report),
        history: section.flag("history", report).is_some_and(Spanned::into_inner),
        on_new_column: section.word("on_new_column", report).map(Spanned::into_inner).unwrap_or_default(),
        ignore_null_updates: section.flag("ignore_null_updates", report).is_some_and(Spanned::into_inner),
        transform: sql::from_file(&section, "transform", report),
        columns: declared.into_iter().filter_map(|declared| named.column(declared)).collect(),
        expect: sql::expectations(&section, report),
        deletion_vectors: upkeep::deletion_vectors(&section, report),
        maintenance,
        primary_key: plain(&named.primary_key),
        sequence_by: plain(&named.sequence_by),
        drop_columns: plain(&named.drop_columns),
        partition_by: plain(&named.partition_by),
        name: name?,
        foreign_keys,
        origin,
    };
    Some(table)
}

/// The columns that the rules of a table name, spelt as they are declared.
struct Named {
    primary_key: Vec<Spanned<String>>,
    sequence_by: Vec<Spanned<String>>,
    drop_columns: Vec<Spanned<String>>,
    partition_by: Vec<Spanned<String>>,
}

impl Named {
    fn read(section: &Section, declared: &[Declared], report: &mut Report) -> Self {
        let mut list = |key: &str| {
            let names = column_list(section, key, report);
            names.into_iter().map(|name| resolved(section, key, name, declared, report)).collect()
        };
        Self {
            primary_key: list("primary_key"),
            drop_columns: list("drop_columns"),
            partition_by: list("partition_by"),
            sequence_by: list("sequence_by"),
        }
    }

    fn drops(&self, name: &str) -> bool {
        self.drop_columns.iter().any(|dropped| same_column(dropped.get_ref(), name))
    }

    fn column(&self, declared: Declared) -> Option<Column> {
        let is_key = self.primary_key.iter().any(|key| same_column(key.get_ref(), &declared.name));
        let nullable = declared.nullable.map_or(!is_key, Spanned::into_inner);
        Some(Column {
            name: declared.name,
            data_type: declared.data_type?,
            nullable,
            description: declared.description,
        })
    }

    fn check_key(&self, section: &Section, declared: &[Declared], report: &mut Report) {
        for key in &self.primary_key {
            let name = key.get_ref();
            if self.drops(name) {
                let message =
                    format!("primary_key column {name:?} is in drop_columns, but a key must be stored; take it out");
                section.say(&key.span(), message, report);
            }
            let Some(column) = find(declared, name) else { continue };
            if let Some(nullable) = column.nullable.as_ref().filter(|nullable| *nullable.get_ref()) {
                let message = format!("column {name:?} can't be nullable, since it is in primary_key; remove nullable");
                section.say(&nullable.span(), message, report);
            }
            if let Some(data_type) = &column.data_type
                && let Some(why) = why_no_key(data_type)
            {
                let message = format!("column {name:?} has type {data_type} and is in primary_key, but {why}");
                section.say(&column.type_span, message, report);
            }
        }
    }

    fn check_sequence(&self, section: &Section, declared: &[Declared], report: &mut Report) {
        for sequence in &self.sequence_by {
            let name = sequence.get_ref();
            if self.drops(name) {
                let message = format!(
                    "sequence_by column {name:?} is in drop_columns, but later rows are compared with it; take it out"
                );
                section.say(&sequence.span(), message, report);
            }
            let data_type =
                find(declared, name).and_then(|column| column.data_type.as_ref().map(|it| (it, &column.type_span)));
            if let Some((data_type, span)) = data_type
                && (data_type.is_nested() || *data_type == SqlType::Json)
            {
                let message = format!(
                    "column {name:?} has type {data_type} and is sequence_by, but has no order; use a number, a \
                     timestamp or text"
                );
                section.say(span, message, report);
            }
        }
    }

    fn check_partitions(&self, section: &Section, declared: &[Declared], report: &mut Report) {
        for partition in &self.partition_by {
            let name = partition.get_ref();
            if self.drops(name) {
                let message =
                    format!("partition_by column {name:?} is in drop_columns, but is stored; take it out of one");
                section.say(&partition.span(), message, report);
            }
            let data_type = find(declared, name).and_then(|column| column.data_type.as_ref());
            if let Some(data_type) = data_type.filter(|data_type| data_type.is_nested()) {
                let message = format!(
                    "column {name:?} has type {data_type} and is in partition_by, but a partition is one value; use another"
                );
                section.say(&partition.span(), message, report);
            }
        }
        let Some(first) = self.partition_by.first() else { return };
        let is_partition =
            |name: &str| self.partition_by.iter().any(|partition| same_column(partition.get_ref(), name));
        let mut stored = declared.iter().filter(|column| !self.drops(&column.name)).peekable();
        if stored.peek().is_some() && stored.all(|column| is_partition(&column.name)) {
            let message = "partition_by names all columns, so that its files would be empty; leave one out";
            section.say(&first.span(), message, report);
        }
    }

    fn check_what_needs_a_key(&self, section: &Section, report: &mut Report) {
        if section.value("primary_key").is_some() {
            return;
        }
        let needs = [
            ("sequence_by", "it decides between rows of the same key"),
            ("delete_when", "it deletes the stored row of the same key"),
            ("ignore_null_updates", "it keeps values of the stored row of the same key"),
            ("history", "it keeps the versions of the row of a key"),
        ];
        for (key, why) in needs {
            let Some(value) = section.value(key) else { continue };
            if value.get_ref().as_bool() != Some(false) {
                let message = format!("{key} needs a primary_key, since {why}; add one, or leave {key} out");
                section.say(&value.span(), message, report);
            }
        }
    }

    fn check_that_columns_remain(&self, section: &Section, declared: &[Declared], report: &mut Report) {
        if let Some(dropped) = self.drop_columns.first()
            && !declared.is_empty()
            && declared.iter().all(|column| self.drops(&column.name))
        {
            section.say(
                &dropped.span(),
                "drop_columns names all columns, so that none is stored; leave one out",
                report,
            );
        }
    }
}

/// What a history can't be combined with.
fn check_history(section: &Section, report: &mut Report) {
    let is_set = |key: &str| section.value(key).filter(|value| value.get_ref().as_bool() == Some(true));
    if is_set("history").is_none() {
        return;
    }
    if let Some(value) = is_set("ignore_null_updates") {
        let message = "ignore_null_updates can't be combined with history: a version that comes late would have to be \
                       filled in from the one before it and change all later ones, but which of their values were \
                       filled in is not known any more; fill them in a model, or leave one out";
        section.say(&value.span(), message, report);
    }
}

fn tombstone_retention(section: &Section, report: &mut Report) -> Duration {
    const KEY: &str = "tombstone_retention";
    if let Some(value) = section.value(KEY)
        && section.value("delete_when").is_none()
    {
        let message =
            format!("{KEY} needs a delete_when, since only deletes leave tombstones; add one, or leave it out");
        section.say(&value.span(), message, report);
    }
    let why = "a change that waits longer for its merge would bring back what was deleted";
    let retention = units::span(section, KEY, (TOMBSTONE_RETENTION_MIN, why), report);
    retention.map_or(TOMBSTONE_RETENTION_DEFAULT, Spanned::into_inner)
}

/// The column names under `key`: good ones, each once; at least one if the key is one that tells rows apart or orders
/// them. A sequence of one column may be written without a list.
pub(super) fn column_list<'a>(section: &Section<'a>, key: &str, report: &mut Report) -> Vec<Spanned<&'a str>> {
    let is_sequence = key == "sequence_by";
    let written = match section.value(key).filter(|value| is_sequence && value.get_ref().as_array().is_none()) {
        Some(value) if value.get_ref().as_str().is_some() => section.text(key, report).into_iter().collect(),
        Some(_) => {
            section.typed(key, "a column's name in quotes, or a list of such", report, DeValue::as_str);
            Vec::new()
        }
        None => section.texts(key, report),
    };
    let list = section.value(key);
    if let Some(list) = list.filter(|list| list.get_ref().as_array().is_some_and(|list| list.is_empty()))
        && (is_sequence || key.ends_with("_key"))
    {
        section.say(&list.span(), format!("{key} names no columns; name some, or leave it out"), report);
    }
    let mut names: Vec<Spanned<&str>> = Vec::new();
    for name in written {
        if names.iter().any(|earlier| same_column(earlier.get_ref(), name.get_ref())) {
            section.say(&name.span(), format!("{key} names {:?} twice; remove one", name.get_ref()), report);
        } else if is_column_name(section, key, &name, report) {
            names.push(name);
        }
    }
    names
}

fn is_column_name(section: &Section, key: &str, name: &Spanned<&str>, report: &mut Report) -> bool {
    let checked = check_column_name(name.get_ref());
    if let Err(error) = &checked {
        section.say(&name.span(), format!("{key}: {error}"), report);
    }
    checked.is_ok()
}

/// `name` as it is declared. If columns are declared, and it is not among them, that is a problem, except for what is
/// dropped: the table has no such column, the incoming rows do.
pub(super) fn resolved(
    section: &Section,
    key: &str,
    name: Spanned<&str>,
    declared: &[Declared],
    report: &mut Report,
) -> Spanned<String> {
    let written = *name.get_ref();
    let column = find(declared, written);
    if column.is_none() && !declared.is_empty() && key != "drop_columns" {
        let cure = match did_you_mean(written, declared.iter().map(|column| column.name.as_str())) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => "declare it, or correct the name".to_owned(),
        };
        let message = format!("{key} names {written:?}, which is not among its columns; {cure}");
        section.say(&name.span(), message, report);
    }
    Spanned::new(name.span(), column.map_or(written, |column| &column.name).to_owned())
}

fn find<'a>(declared: &'a [Declared], name: &str) -> Option<&'a Declared> {
    declared.iter().find(|column| same_column(&column.name, name))
}

/// Why no row can be found again by a value of this type.
fn why_no_key(data_type: &SqlType) -> Option<&'static str> {
    if data_type.is_float() {
        Some("floats that look equal may differ (rounding, NaN); use decimal(p,s), an integer or varchar")
    } else if data_type.is_nested() {
        Some("nested values can't be compared in a merge; use its parts as columns")
    } else {
        None
    }
}

fn plain(names: &[Spanned<String>]) -> Vec<String> {
    names.iter().map(|name| name.get_ref().clone()).collect()
}
