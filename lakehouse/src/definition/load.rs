//! From a folder to a [`Definition`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use super::section::{Report, Section};
use super::{Definition, FILE_NAME, Problem, Problems, foreign, model, sql, table};
use crate::Name;
use crate::name::RESERVED_LAKEHOUSE_NAMES;

const KEYS: [&str; 4] = ["name", "allow_create", "tables", "models"];

/// What a declaration in the lake may have.
const MADE_KEYS: [&str; 1] = ["tables"];

/// Reads and checks the folder `dir`.
pub(super) fn load(dir: &Path) -> Result<Definition, Problems> {
    let bytes = read(dir)?;
    let text = sql::utf8(Path::new(FILE_NAME), &bytes).map_err(Problems::from)?;
    let mut report = Report::new(dir, text);
    let (document, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let message = fault.message().replace('\n', ", ");
        report.say(&fault.span().unwrap_or_default(), format!("this is not TOML: {message}"));
    }
    if !faults.is_empty() {
        return finish(None, report);
    }
    let root = Section::open("lakehouse", &document.span(), document.get_ref(), &KEYS, &mut report);
    let name = lakehouse_name(&root, &mut report);
    let allow_create = root.flag("allow_create", &mut report).is_some_and(toml::Spanned::into_inner);
    let tables = tables(&root, allow_create, &mut report);
    let models = models(&root, &mut report);
    foreign::check(&tables, &mut report);
    let definition = name.map(|name| Definition { name, dir: dir.to_owned(), allow_create, tables, models });
    finish(definition, report)
}

/// Reads the one table that a declaration in the lake holds.
pub(super) fn made_table(text: &str, file: &str) -> Result<super::Table, Problems> {
    let broken = |message: String| Problems::from(Problem { file: file.into(), line: 1, message });
    let (document, faults) = DeTable::parse_recoverable(text);
    if let Some(fault) = faults.first() {
        return Err(broken(format!("this is not TOML: {}", fault.message().replace('\n', ", "))));
    }
    let mut report = Report::new(Path::new(""), text);
    let root = Section::open("table", &document.span(), document.get_ref(), &MADE_KEYS, &mut report);
    let entries = root.entries("tables", &mut report);
    let mut tables: Vec<_> = entries.into_iter().filter_map(|entry| table::read(entry, &mut report)).collect();
    if let Some(problems) = Problems::from_found(report.into_found()) {
        return Err(problems);
    }
    let table = tables.pop().filter(|_| tables.is_empty());
    table.ok_or_else(|| broken("it declares no table, or several; write one section [tables.NAME]".to_owned()))
}

/// The definition, if nothing was found wrong with it.
fn finish(definition: Option<Definition>, report: Report) -> Result<Definition, Problems> {
    match (Problems::from_found(report.into_found()), definition) {
        (None, Some(definition)) => Ok(definition),
        (Some(problems), _) => Err(problems),
        (None, None) => Err(whole_file("the file declares no lakehouse; add name = \"…\" at the top")),
    }
}

/// A problem with the file as a whole.
fn whole_file(message: impl Into<String>) -> Problems {
    Problems::from(Problem { file: FILE_NAME.into(), line: 1, message: message.into() })
}

fn read(dir: &Path) -> Result<Vec<u8>, Problems> {
    let path = dir.join(FILE_NAME);
    let length = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let dir = dir.display();
            return Err(whole_file(format!(
                "there is no such file in {dir}; name the folder of a definition, or write one"
            )));
        }
        Err(error) => return Err(whole_file(format!("{} can't be read: {error}", path.display()))),
    };
    if length > sql::MAX_FILE_BYTES {
        return Err(whole_file(format!("the file has {length} bytes; the most is {}", sql::MAX_FILE_BYTES)));
    }
    fs::read(&path).map_err(|error| whole_file(format!("{} can't be read: {error}", path.display())))
}

fn lakehouse_name(root: &Section, report: &mut Report) -> Option<Name> {
    if root.value("name").is_none() {
        report.say(&(0..0), "the lakehouse has no name; add name = \"…\" at the top");
        return None;
    }
    let text = root.text("name", report)?;
    let name = report.name("lakehouse", text.get_ref(), &text.span())?;
    if RESERVED_LAKEHOUSE_NAMES.contains(&name.as_str()) {
        root.say(&text.span(), format!("name {name:?} is that of a schema in it; choose another"), report);
        return None;
    }
    Some(name)
}

fn tables(root: &Section, allow_create: bool, report: &mut Report) -> BTreeMap<Name, Arc<super::Table>> {
    let entries = root.entries("tables", report);
    if entries.is_empty() && !allow_create {
        report.say(&(0..0), "the lakehouse has no tables; add a section [tables.NAME]");
    }
    let tables = entries.into_iter().filter_map(|entry| table::read(entry, report));
    tables.map(|table| (table.name.clone(), Arc::new(table))).collect()
}

fn models(root: &Section, report: &mut Report) -> BTreeMap<Name, Arc<super::Model>> {
    let entries = root.entries("models", report);
    let models = entries.into_iter().filter_map(|entry| model::read(entry, report));
    models.map(|model| (model.name.clone(), Arc::new(model))).collect()
}
