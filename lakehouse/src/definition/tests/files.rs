//! What is wrong with the folder and its files.

use proptest::prelude::*;

use super::*;

fn with_file(path: &str, bytes: &[u8]) -> String {
    let dir = folder("name = \"f\"\n[tables.t]\n[models.m]\nsql = \"gold/delays.sql\"\n");
    fs::write(dir.path().join(path), bytes).unwrap();
    Definition::load(dir.path()).expect_err("should be refused").to_string()
}

#[test]
fn a_folder_without_a_definition_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = Definition::load(dir.path()).unwrap_err().to_string();
    let expected = format!(
        "lakehouse.toml:1: there is no such file in {}; name the folder of a definition, or write one",
        dir.path().display()
    );
    assert_eq!(message, expected);
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    assert_eq!(
        problems("name = \"f\"\n[tables.t]\nprimary_key = [\"a\"\n"),
        "3: this is not TOML: unclosed array, expected `]`"
    );
    assert_eq!(problems("name = \"f\"\nname = \"g\"\n"), "2: this is not TOML: duplicate key");
}

#[test]
fn text_that_is_no_utf8_is_refused_with_its_line() {
    assert_eq!(
        with_file("lakehouse.toml", b"name = \"f\"\n# \xff\n"),
        "lakehouse.toml:2: the text is not UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        with_file("gold/delays.sql", b"SELECT\n\n'\xe9'"),
        "gold/delays.sql:3: the text is not UTF-8; save the file as UTF-8"
    );
}

#[test]
fn a_file_without_sql_is_refused() {
    for text in ["", " \n\n", "-- later\n  -- maybe\n"] {
        assert_eq!(
            with_file("gold/delays.sql", text.as_bytes()),
            "gold/delays.sql:1: the file has no SQL; write one SELECT in it"
        );
    }
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let large = vec![b' '; 4 * 1024 * 1024 + 1];
    assert_eq!(
        with_file("gold/delays.sql", &large),
        r#"lakehouse.toml:4: model "m": sql names "gold/delays.sql", which has over 4194304 bytes; is it SQL?"#
    );
    assert_eq!(
        with_file("lakehouse.toml", &large),
        "lakehouse.toml:1: the file has 4194305 bytes; the most is 4194304"
    );
}

#[test]
fn a_missing_file_is_refused_with_the_one_that_was_probably_meant() {
    assert_eq!(
        model_problems("sql = \"gold/delay.sql\""),
        r#"4: model "m": sql names "gold/delay.sql", which does not exist; did you mean "gold/delays.sql"?"#
    );
    assert_eq!(
        table_problems("transform = \"other/a.sql\""),
        r#"3: table "t": transform names "other/a.sql", which does not exist; create it, or correct the path"#
    );
}

#[test]
fn a_path_that_leads_out_of_the_folder_or_to_no_file_is_refused() {
    for path in ["/etc/passwd", "../x.sql", "gold/../../x.sql"] {
        let expected = format!(
            "4: model \"m\": sql names {path:?}, which leads out of the definition's folder; name a file inside it, without .."
        );
        assert_eq!(model_problems(&format!("sql = {path:?}")), expected);
    }
    assert_eq!(
        model_problems("sql = \"gold\""),
        r#"4: model "m": sql names "gold", which is no file; name the .sql file in it"#
    );
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_out_of_the_folder_is_refused() {
    let dir = folder("name = \"f\"\n[tables.t]\n[models.m]\nsql = \"gold/link.sql\"\n");
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("gold/link.sql")).unwrap();
    assert_eq!(
        Definition::load(dir.path()).unwrap_err().to_string(),
        r#"lakehouse.toml:4: model "m": sql names "gold/link.sql", a link that leads out of the definition's folder; copy it in"#
    );
}

#[test]
fn sql_is_kept_with_the_line_of_its_first_word_and_without_its_semicolon() {
    let toml = "name = \"f\"\n[tables.t]\nprimary_key = [\"a\"]\ndelete_when = \"\"\"\n\n  op = 'd';\n\"\"\"\n[models.m]\nsql = \"gold/m.sql\"";
    let dir = folder(toml);
    fs::write(dir.path().join("gold/m.sql"), "\u{feff}\r\n\n  SELECT ';'\nFROM x ;\n").unwrap();
    let definition = Definition::load(dir.path()).unwrap();
    let model = definition.model("m").unwrap();
    assert_eq!(model.sql.text, "SELECT ';'\nFROM x");
    assert_eq!(model.sql.origin.to_string(), "gold/m.sql:3");
    let delete_when = definition.table("t").unwrap().delete_when.clone().unwrap();
    assert_eq!(delete_when.text, "op = 'd'");
    assert_eq!(delete_when.origin.to_string(), "lakehouse.toml:6");
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_their_lines() {
    let toml = "nam = \"f\"\n[tables.T]\nprimary_kye = [\"a\"]\n[models.m]\nsql = 1\nmode = \"marge\"\n";
    let found = Definition::load(folder(toml).path()).unwrap_err();
    let lines: Vec<usize> = found.as_slice().iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 1, 2, 3, 5, 6], "{found}");
    let text = found.to_string();
    assert_eq!(text.lines().count(), 6);
    let error = Error::from(found);
    assert_eq!((error.kind(), error.to_string()), (crate::Kind::Invalid, text));
}

#[test]
fn a_table_without_a_header_of_its_own_has_the_line_of_its_first_key() {
    let definition = load("name = \"f\"\n\n[[tables.t.columns]]\nname = \"a\"\ntype = \"int\"\n");
    assert_eq!(definition.table("t").unwrap().origin.to_string(), "lakehouse.toml:3");
}

proptest! {
    #[test]
    fn a_damaged_definition_is_right_or_refused_with_lines_that_exist(at in 0..1100_usize, cut in 0..40_usize, put in "\\PC{0,3}") {
        let mut text: Vec<char> = super::example::FULL.chars().collect();
        let start = at.min(text.len());
        let end = (start + cut).min(text.len());
        text.splice(start..end, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(problems) = Definition::load(folder(&text).path()) {
            let lines = text.matches('\n').count() + 1;
            for problem in problems {
                prop_assert!((1..=lines).contains(&problem.line), "{problem}");
                prop_assert_eq!(problem.to_string().lines().count(), 1, "{}", problem);
            }
        }
    }
}
