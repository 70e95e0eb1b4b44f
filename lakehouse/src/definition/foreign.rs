//! Reads `[[tables.NAME.foreign_keys]]`, and checks that what they point to is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::columns::Declared;
use super::section::{Report, Section};
use super::{ForeignKey, Problem, Table, did_you_mean, table};
use crate::Name;

const KEYS: [&str; 2] = ["columns", "references"];

/// The foreign keys that can be read; what is wrong is reported.
pub(super) fn read(section: &Section, declared: &[Declared], report: &mut Report) -> Vec<ForeignKey> {
    let keys: Vec<_> = sections(section, report);
    let read = keys.into_iter().filter_map(|key| {
        for name in KEYS.into_iter().filter(|name| key.value(name).is_none()) {
            key.say(&key.span, format!("it has no {name}; say which columns point to which table"), report);
        }
        let columns = table::column_list(&key, "columns", report);
        let columns =
            columns.into_iter().map(|name| table::resolved(&key, "columns", name, declared, report).into_inner());
        let columns: Vec<String> = columns.collect();
        let references = key.text("references", report)?;
        let references = report.name("table", references.get_ref(), &references.span())?;
        Some(ForeignKey { columns, references })
    });
    read.collect()
}

/// Checks that each foreign key points to a whole primary key.
pub(super) fn check(tables: &BTreeMap<Name, Arc<Table>>, report: &mut Report) {
    for (name, table) in tables {
        for key in &table.foreign_keys {
            let what = format!("table {:?}: a foreign key references {:?}", name.as_str(), key.references.as_str());
            let wrong = match tables.get(&key.references) {
                None => Some(match did_you_mean(&key.references, tables.keys().map(Name::as_str)) {
                    Some(near) => format!("{what}, which is no table; did you mean {near:?}?"),
                    None => format!("{what}, which is no table; name one"),
                }),
                Some(target) if target.primary_key.is_empty() => {
                    Some(format!("{what}, which has no primary_key; give it one"))
                }
                Some(target) if target.primary_key.len() != key.columns.len() => Some(format!(
                    "{what} with {} columns, but its primary_key has {}; name as many, in its order",
                    key.columns.len(),
                    target.primary_key.len()
                )),
                Some(_) => None,
            };
            if let Some(message) = wrong {
                report.add(Problem::at(&table.origin, message));
            }
        }
    }
}

fn sections<'a>(section: &Section<'a>, report: &mut Report) -> Vec<Section<'a>> {
    let list = section.typed("foreign_keys", "a list, as in [[…foreign_keys]]", report, DeValue::as_array);
    let items = list.map(Spanned::into_inner).into_iter().flat_map(|list| list.iter());
    let what = format!("{}, a foreign key", section.what);
    let sections = items.filter_map(|item| match item.get_ref().as_table() {
        Some(keys) => Some(Section::open(&what, &item.span(), keys, &KEYS, report)),
        None => {
            section.say(&item.span(), "foreign_keys must be a list of { columns = …, references = … }", report);
            None
        }
    });
    sections.collect()
}
