use super::*;

/// A definition of these models over the table `silver.t`, with columns `a` and `b`.
fn definition(models: &[(&str, &str)]) -> (tempfile::TempDir, Definition) {
    let folder = tempfile::tempdir().unwrap();
    let mut toml = "name = \"lab\"\n[tables.t]\ncolumns = [{ name = \"a\", type = \"bigint\" }, { name = \"b\", type = \"varchar\" }]\n[tables.undeclared]\n".to_owned();
    for (name, sql) in models {
        std::fs::write(folder.path().join(format!("{name}.sql")), sql).unwrap();
        toml.push_str(&format!("[models.{name}]\nsql = \"{name}.sql\"\n"));
    }
    std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
    let definition = Definition::load(folder.path()).unwrap();
    (folder, definition)
}

fn order_of(plan: &Plan) -> Vec<&str> {
    plan.steps().iter().map(|step| step.model.name.as_str()).collect()
}

fn problems(models: &[(&str, &str)]) -> String {
    let (_folder, definition) = definition(models);
    let problems = match Plan::of(&definition) {
        Ok(plan) => plan.bind(&definition),
        Err(problems) => problems,
    };
    problems.iter().map(Error::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_model_comes_after_the_models_it_reads() {
    let (_folder, definition) = definition(&[
        ("a_last", "SELECT * FROM gold.middle JOIN gold.z_first USING (n)"),
        ("middle", "SELECT n FROM gold.z_first"),
        ("z_first", "SELECT count(*) AS n FROM silver.t"),
    ]);
    let plan = Plan::of(&definition).unwrap();
    assert_eq!(order_of(&plan), ["z_first", "middle", "a_last"]);
    assert!(plan.bind(&definition).is_empty());
}

#[test]
fn a_circle_is_named_with_its_place() {
    let text = problems(&[("x", "SELECT * FROM gold.y"), ("y", "SELECT * FROM gold.z"), ("z", "SELECT * FROM gold.x")]);
    assert!(text.starts_with("lakehouse.toml:"), "{text}");
    assert!(text.contains("x reads y reads z reads x"), "{text}");
}

#[test]
fn a_table_that_does_not_exist_is_named_with_its_place() {
    let text = problems(&[("m", "-- two lines\nSELECT * FROM silver.tt")]);
    assert!(text.contains("m.sql:1") && text.contains("\"tt\"") && text.contains("there are: t, undeclared"), "{text}");
}

#[test]
fn a_column_that_does_not_exist_is_named_with_its_line() {
    let text = problems(&[("m", "SELECT a,\n  c\nFROM silver.t")]);
    assert!(text.starts_with("m.sql:2: ") && text.contains("\"c\""), "{text}");
}

#[test]
fn a_name_without_schema_is_refused_with_the_cure() {
    let text = problems(&[("m", "SELECT * FROM t")]);
    assert!(text.contains("silver.t or gold.t"), "{text}");
}

#[test]
fn what_is_not_one_select_is_refused() {
    assert!(problems(&[("m", "DROP TABLE silver.t")]).contains("m.sql:1"));
    assert!(problems(&[("m", "SELECT 1 AS a; SELECT 2 AS a")]).contains("write one SELECT"));
}

#[test]
fn a_model_over_an_undeclared_table_is_not_bound_before_its_first_ingest() {
    assert_eq!(problems(&[("m", "SELECT whatever FROM silver.undeclared")]), "");
}

#[test]
fn a_column_that_delta_can_not_store_is_refused_before_any_refresh() {
    let text = problems(&[("m", "SELECT a, INTERVAL 1 DAY AS span FROM silver.t")]);
    assert!(text.starts_with("m.sql:1: ") && text.contains("column \"span\""), "{text}");
    assert!(problems(&[("m", "SELECT a AS _a FROM silver.t")]).contains("reserved"));
}
