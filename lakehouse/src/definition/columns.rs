//! Reads `[[tables.NAME.columns]]`.

use toml::Spanned;
use toml::de::DeValue;

use super::section::{Report, Section, Span};
use crate::name::{check_column_name, same_column};
use crate::types::SqlType;

const KEYS: [&str; 4] = ["name", "type", "nullable", "description"];

/// A column as written, before the rules of its table.
pub(super) struct Declared {
    pub name: String,
    /// None if it could not be read, which is reported.
    pub data_type: Option<SqlType>,
    pub type_span: Span,
    pub nullable: Option<Spanned<bool>>,
    pub description: Option<String>,
}

/// The columns with a good name, each once.
pub(super) fn read(table: &Section, report: &mut Report) -> Vec<Declared> {
    let Some(list) = table.typed("columns", "a list of columns, as in [[…columns]]", report, DeValue::as_array)
    else {
        return Vec::new();
    };
    let mut columns: Vec<Declared> = Vec::new();
    for item in list.get_ref().iter() {
        let Some(column) = read_one(table, item, report) else { continue };
        if columns.iter().any(|earlier| same_column(&earlier.name, &column.name)) {
            let message = format!("column {:?} is there twice (case does not count); remove one", column.name);
            table.say(&item.span(), message, report);
        } else {
            columns.push(column);
        }
    }
    columns
}

fn read_one(table: &Section, item: &Spanned<DeValue>, report: &mut Report) -> Option<Declared> {
    let Some(keys) = item.get_ref().as_table() else {
        let message = "columns must be a list of { name = …, type = … }";
        table.say(&item.span(), format!("{message}, not of {}", item.get_ref().type_str()), report);
        return None;
    };
    let written = keys.iter().find(|(key, _)| key.get_ref() == "name").and_then(|(_, name)| name.get_ref().as_str());
    let what =
        written.map_or_else(|| format!("{}, a column", table.what), |name| format!("{}, column {name:?}", table.what));
    let section = Section::open(&what, &item.span(), keys, &KEYS, report);
    for key in ["name", "type"].into_iter().filter(|key| section.value(key).is_none()) {
        section.say(&section.span, format!("it has no {key}; add {key} = \"…\""), report);
    }
    let name = section.typed("name", "text in quotes", report, DeValue::as_str);
    let type_text = section.text("type", report);
    let data_type = type_text.as_ref().and_then(|text| {
        text.get_ref().parse().map_err(|error: crate::Error| section.say(&text.span(), error.to_string(), report)).ok()
    });
    let nullable = section.flag("nullable", report);
    let description = section.text("description", report).map(|text| text.get_ref().to_string());
    let name = name?;
    if let Err(error) = check_column_name(name.get_ref()) {
        table.say(&name.span(), error.to_string(), report);
        return None;
    }
    let type_span = type_text.map_or(item.span(), |text| text.span());
    Some(Declared { name: name.get_ref().to_string(), data_type, type_span, nullable, description })
}
