mod example;
mod files;
mod refresh;
mod rules;
mod upkeep;

use std::fs;

use tempfile::TempDir;

use super::*;

/// A folder with `lakehouse.toml` and a few SQL files.
fn folder(toml: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["silver", "gold"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    fs::write(dir.path().join("silver/flights.sql"), "SELECT * FROM incoming").unwrap();
    fs::write(dir.path().join("gold/delays.sql"), "SELECT carrier, 1 AS flights FROM silver.flights").unwrap();
    fs::write(dir.path().join(FILE_NAME), toml).unwrap();
    dir
}

fn load(toml: &str) -> Definition {
    Definition::load(folder(toml).path()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// All problems of `toml`, one a line, without the name of the file.
fn problems(toml: &str) -> String {
    let problems = Definition::load(folder(toml).path()).expect_err("should be refused").to_string();
    problems.replace("lakehouse.toml:", "")
}

/// The problems of a table with these lines, which are lines 3 and on.
fn table_problems(lines: &str) -> String {
    problems(&format!("name = \"f\"\n[tables.t]\n{lines}"))
}

/// The problems of a model with these lines, which are lines 4 and on.
fn model_problems(lines: &str) -> String {
    problems(&format!("name = \"f\"\n[tables.t]\n[models.m]\n{lines}"))
}
