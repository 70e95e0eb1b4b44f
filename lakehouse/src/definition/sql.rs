//! SQL, inline and from files: kept as text, with the place where its first line stands.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::section::{Report, Section};
use super::{Expectation, OnFail, Origin, Problem, Sql, did_you_mean};

/// The largest file of a definition, in bytes: a thousand times what people write, and soon read.
pub(super) const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

const EXPECTATION_KEYS: [&str; 2] = ["check", "on_fail"];

/// SQL that is written in `lakehouse.toml` itself.
pub(super) fn inline(section: &Section, key: &str, report: &mut Report) -> Option<Sql> {
    let text = section.text(key, report)?;
    let origin = report.origin_of_content(&text.span());
    Some(Sql { text: trimmed(text.get_ref()).to_owned(), origin })
}

/// SQL in the file that `key` names.
pub(super) fn from_file(section: &Section, key: &str, report: &mut Report) -> Option<Sql> {
    let path = section.text(key, report)?;
    match read_file(report.dir, path.get_ref()) {
        Ok(sql) => Some(sql),
        Err(Fault::Path(message)) => {
            section.say(&path.span(), format!("{key} {message}"), report);
            None
        }
        Err(Fault::Content(problem)) => {
            report.add(problem);
            None
        }
    }
}

/// The checks of a table or model, by name.
pub(super) fn expectations(parent: &Section, report: &mut Report) -> Vec<Expectation> {
    let mut expectations = Vec::new();
    for entry in parent.entries("expect", report) {
        let (key, _) = entry;
        let what = format!("{}, expectation {:?}", parent.what, key.get_ref());
        let name = report.name(&format!("{}: expectation", parent.what), key.get_ref(), &key.span());
        let Some(section) = Section::of_value(&what, entry, &EXPECTATION_KEYS, report) else { continue };
        let check = inline(&section, "check", report);
        let on_fail = section.word::<OnFail>("on_fail", report);
        if section.value("check").is_none() {
            section.say(&section.span, "it has no check; add check = \"a DuckDB boolean over the row\"", report);
        }
        if section.value("on_fail").is_none() {
            section.say(&section.span, "it has no on_fail; say what happens to a row that fails", report);
        }
        if let (Some(name), Some(check), Some(on_fail)) = (name, check, on_fail) {
            expectations.push(Expectation { name, check, on_fail: on_fail.into_inner() });
        }
    }
    expectations
}

/// What is wrong with a file: its path, as written in `lakehouse.toml`, or what is in it.
enum Fault {
    Path(String),
    Content(Problem),
}

fn read_file(dir: &Path, written: &str) -> Result<Sql, Fault> {
    let file = inside(written)?;
    let full = dir.join(&file);
    let shown = file.display();
    let metadata = fs::metadata(&full).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::Path(missing(dir, &file)),
        _ => Fault::Path(format!("names \"{shown}\", which can't be read: {error}")),
    })?;
    if !metadata.is_file() {
        return Err(Fault::Path(format!("names \"{shown}\", which is no file; name the .sql file in it")));
    }
    if !is_within(&full, dir) {
        return Err(Fault::Path(format!(
            "names \"{shown}\", a link that leads out of the definition's folder; copy it in"
        )));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(Fault::Path(format!("names \"{shown}\", which has over {MAX_FILE_BYTES} bytes; is it SQL?")));
    }
    let bytes =
        fs::read(&full).map_err(|error| Fault::Path(format!("names \"{shown}\", which can't be read: {error}")))?;
    let text = utf8(&file, &bytes).map_err(Fault::Content)?;
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("--");
    if text.lines().find(is_code).is_none() {
        let origin = Origin { file, line: 1 };
        return Err(Fault::Content(Problem::at(&origin, "the file has no SQL; write one SELECT in it")));
    }
    let lead = text.len() - text.trim_start().len();
    let line = text[..lead].matches('\n').count() + 1;
    Ok(Sql { text: trimmed(text).to_owned(), origin: Origin { file, line } })
}

/// `bytes` as text, without a byte-order mark.
pub(super) fn utf8<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, Problem> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        let origin = Origin { file: file.to_owned(), line };
        Problem::at(&origin, "the text is not UTF-8; save the file as UTF-8")
    })
}

/// SQL without the space around it and the semicolon behind it, so that it can be put into other SQL.
fn trimmed(sql: &str) -> &str {
    sql.trim_start().trim_end_matches(|c: char| c.is_whitespace() || c == ';')
}

/// `written` as a plain relative path, which can't lead out of its folder.
fn inside(written: &str) -> Result<PathBuf, Fault> {
    let mut path = PathBuf::new();
    for component in Path::new(written).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => {
                return Err(Fault::Path(format!(
                    "names {written:?}, which leads out of the definition's folder; name a file inside it, without .."
                )));
            }
        }
    }
    Ok(path)
}

fn is_within(full: &Path, dir: &Path) -> bool {
    match (full.canonicalize(), dir.canonicalize()) {
        (Ok(full), Ok(dir)) => full.starts_with(dir),
        _ => false,
    }
}

/// What to say of a file that is not there, with a file of a like name if there is one.
fn missing(dir: &Path, file: &Path) -> String {
    let parent = file.parent().unwrap_or(Path::new(""));
    let mut siblings: Vec<String> = fs::read_dir(dir.join(parent))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    siblings.sort();
    let wanted = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let cure = match did_you_mean(wanted, siblings.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean \"{}\"?", parent.join(nearest).display()),
        None => "create it, or correct the path".to_owned(),
    };
    format!("names \"{}\", which does not exist; {cure}", file.display())
}
