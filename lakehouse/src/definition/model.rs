//! Reads `[models.NAME]`.

use super::section::{Entry, Report, Section};
use super::table::column_list;
use super::{Mode, Model, OnFail, Refresh, sql};

const KEYS: [&str; 6] = ["description", "sql", "mode", "unique_key", "refresh", "expect"];

/// The model, if nothing about it is wrong; what is, is reported.
pub(super) fn read(entry: Entry, report: &mut Report) -> Option<Model> {
    let (key, _) = entry;
    let name = report.name("model", key.get_ref(), &key.span());
    let section = Section::of_value(&format!("model {:?}", key.get_ref()), entry, &KEYS, report)?;
    if section.value("sql").is_none() {
        section.say(&section.span, "it has no sql; add sql = \"gold/NAME.sql\"", report);
    }
    let sql = sql::from_file(&section, "sql", report);
    let description = section.text("description", report).map(|text| text.get_ref().to_string());
    let mode = section.word::<Mode>("mode", report).map(|mode| mode.into_inner());
    let unique_key = unique_key(&section, mode, report);
    let refresh = refresh(&section, report);
    let expect = sql::expectations(&section, report);
    for expectation in expect.iter().filter(|expectation| expectation.on_fail == OnFail::Quarantine) {
        let span = expectation_span(&section, &expectation.name, report);
        let message = format!(
            "expectation {:?} can't quarantine, since a model has no incoming rows; use on_fail = \"warn\" or \"fail\"",
            expectation.name
        );
        section.say(&span, message, report);
    }
    let origin = report.origin(section.span.start);
    Some(Model {
        name: name?,
        description,
        sql: sql?,
        mode: mode.unwrap_or_default(),
        unique_key,
        refresh,
        expect,
        origin,
    })
}

fn unique_key(section: &Section, mode: Option<Mode>, report: &mut Report) -> Vec<String> {
    let names = column_list(section, "unique_key", report);
    let span = section.value("unique_key").map_or(section.span.clone(), toml::Spanned::span);
    let mode_is_known = mode.is_some() || section.value("mode").is_none();
    if mode == Some(Mode::Merge) && names.is_empty() {
        let message = "mode \"merge\" needs a unique_key; name the columns that tell its rows apart";
        section.say(&span, message, report);
    }
    if mode_is_known && mode != Some(Mode::Merge) && section.value("unique_key").is_some() {
        let mode = mode.unwrap_or_default();
        let message = format!("mode \"{mode}\" has no use for unique_key; use mode = \"merge\", or leave the key out");
        section.say(&span, message, report);
    }
    names.into_iter().map(|name| name.into_inner().to_owned()).collect()
}

fn refresh(section: &Section, report: &mut Report) -> Refresh {
    let Some(text) = section.text("refresh", report) else { return Refresh::default() };
    text.get_ref().parse().unwrap_or_else(|error| {
        section.say(&text.span(), format!("refresh {error}"), report);
        Refresh::default()
    })
}

fn expectation_span(section: &Section, name: &str, report: &mut Report) -> super::section::Span {
    let entries = section.entries("expect", report);
    let found = entries.into_iter().find(|(key, _)| key.get_ref() == name);
    found.map_or(section.span.clone(), |(key, _)| key.span())
}
