//! What each version of a model contains of silver, through all models between.
//!
//! A refresh tells the versions that it read. A model contains of a silver table the lowest version that it read of it
//! on any way: the rows of an ingest are in all that it computes only if they came by all of them.
//!
//! ```text
//! silver.orders@7 ──► gold.daily@3 ──► gold.report@2      gold.report@2 contains orders up to version 5
//! silver.orders@5 ────────────────────────┘
//! ```
//!
//! What a table has nothing of is in no story, so the model's SQL is asked too: its names are `silver.x` and `gold.y`.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::dialect::DuckDbDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use lakehouse::Name;
use lakehouse::definition::Definition;

/// The tables that each model's SQL names, as `schema.table`.
pub(super) type Inputs = BTreeMap<Name, BTreeSet<String>>;

/// The refreshes of each model, in the order of their versions.
pub(super) type Refreshes = BTreeMap<Name, Vec<Refresh>>;

/// Up to which version of each silver table something has its rows. `None`: it reads the table, and has nothing of it.
pub(super) type Contents = BTreeMap<Name, Option<u64>>;

/// In place of a version: the newest.
pub(super) const NEWEST: u64 = u64::MAX;

/// A version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refresh {
    pub(super) version: u64,
    /// The versions that it read, by `schema.table`.
    pub(super) read: BTreeMap<String, u64>,
}

/// The tables that the models of a definition name.
pub(super) fn inputs(definition: &Definition) -> Inputs {
    let is_declared = |table: &String| match table.split_once('.') {
        Some(("silver", name)) => definition.tables.contains_key(name),
        Some(("gold", name)) => definition.models.contains_key(name),
        _ => false,
    };
    let models = definition.models.iter();
    models.map(|(name, model)| (name.clone(), named(&model.sql.text).filter(is_declared).collect())).collect()
}

/// What looks like a table's name in a text of SQL; comments and texts don't.
fn named(sql: &str) -> impl Iterator<Item = String> {
    // SQL that can't be cut into tokens never ran, so it has read nothing.
    let tokens = Tokenizer::new(&DuckDbDialect {}, sql).tokenize().unwrap_or_default();
    let tokens: Vec<Token> = tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let names = tokens.windows(3).filter_map(|tokens| match tokens {
        [Token::Word(schema), Token::Period, Token::Word(table)] => {
            Some(format!("{}.{}", schema.value.to_lowercase(), table.value.to_lowercase()))
        }
        _ => None,
    });
    names.collect::<Vec<_>>().into_iter()
}

/// The newest refresh of a model at a version or before it.
pub(super) fn refresh_at(refreshes: &[Refresh], version: u64) -> Option<&Refresh> {
    refreshes.get(refreshes.partition_point(|refresh| refresh.version <= version).checked_sub(1)?)
}

/// What models contain, by what they name and what their refreshes tell.
#[derive(Clone, Copy)]
pub(super) struct Lineage<'a> {
    pub(super) inputs: &'a Inputs,
    pub(super) refreshes: &'a Refreshes,
}

impl Lineage<'_> {
    /// What a version of a model contains.
    pub(super) fn contents(&self, model: &Name, version: u64) -> Contents {
        let mut contents = Contents::new();
        self.collect(model, Some(version), &mut Vec::new(), &mut contents);
        contents
    }

    /// Adds what `model` contains at `version`; at none, it contains nothing of what it reads. `way` are the models
    /// that were gone through.
    fn collect(&self, model: &Name, version: Option<u64>, way: &mut Vec<Name>, contents: &mut Contents) {
        if way.contains(model) {
            return;
        }
        way.push(model.clone());
        let refreshes = self.refreshes.get(model).map(Vec::as_slice).unwrap_or_default();
        let refresh = version.and_then(|version| refresh_at(refreshes, version));
        let named = self.inputs.get(model).into_iter().flatten();
        let read = refresh.into_iter().flat_map(|refresh| refresh.read.keys());
        let all: BTreeSet<&String> = named.chain(read).collect();
        for input in all {
            let version = refresh.and_then(|refresh| refresh.read.get(input).copied());
            match input.split_once('.').map(|(schema, name)| (schema, Name::new(name))) {
                Some(("silver", Ok(table))) => {
                    contents.entry(table).and_modify(|known| *known = (*known).min(version)).or_insert(version);
                }
                Some(("gold", Ok(model))) => self.collect(&model, version, way, contents),
                _ => {}
            }
        }
        way.pop();
    }

    /// By silver table, the models that read it, with the versions at which they came to contain more of it.
    pub(super) fn steps(&self) -> Steps {
        let mut steps = Steps::default();
        for (model, refreshes) in self.refreshes {
            for refresh in refreshes {
                for (table, contained) in self.contents(model, refresh.version) {
                    let Some(contained) = contained else { continue };
                    let its = steps.0.entry(table).or_default().entry(model.clone()).or_default();
                    if its.last().is_none_or(|(before, _)| *before < contained) {
                        its.push((contained, refresh.version));
                    }
                }
            }
        }
        steps
    }
}

/// By silver table and model: versions of the table, ascending, with the first version of the model that contains them.
#[derive(Debug, Default)]
pub(super) struct Steps(BTreeMap<Name, BTreeMap<Name, Vec<(u64, u64)>>>);

impl Steps {
    /// The models that contain a version of a table, with their first versions that do.
    pub(super) fn firsts(&self, table: &str, version: u64) -> BTreeMap<&str, u64> {
        let models = self.0.get(table).into_iter().flatten();
        let firsts = models.filter_map(|(model, steps)| {
            let (_, first) = steps.get(steps.partition_point(|(contained, _)| *contained < version))?;
            Some((model.as_str(), *first))
        });
        firsts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn inputs(all: &[(&str, &[&str])]) -> Inputs {
        let owned = |tables: &[&str]| tables.iter().map(|&table| table.to_owned()).collect();
        all.iter().map(|(model, tables)| (name(model), owned(tables))).collect()
    }

    /// Model, version, what it read.
    type Told<'a> = (&'a str, u64, &'a [(&'a str, u64)]);

    fn refreshes(all: &[Told<'_>]) -> Refreshes {
        let mut refreshes = Refreshes::new();
        for (model, version, read) in all {
            let read = read.iter().map(|&(table, version)| (table.to_owned(), version)).collect();
            refreshes.entry(name(model)).or_default().push(Refresh { version: *version, read });
        }
        refreshes
    }

    fn contents(all: &[(&str, Option<u64>)]) -> Contents {
        all.iter().map(|&(table, version)| (name(table), version)).collect()
    }

    #[test]
    fn names_are_found_in_sql_and_not_in_comments_or_texts() {
        let sql =
            "-- silver.no\nSELECT 'silver.no', s.a /* gold.no */ FROM silver . \"Orders\" s JOIN GOLD.daily USING (a)";
        let found: BTreeSet<String> = named(sql).collect();
        assert_eq!(found, BTreeSet::from(["s.a", "silver.orders", "gold.daily"].map(str::to_owned)));
        assert_eq!(named("SELECT 'open").count(), 0);
    }

    #[test]
    fn a_model_contains_the_lowest_version_of_all_ways() {
        let inputs = inputs(&[("daily", &["silver.orders"]), ("report", &["gold.daily", "silver.orders"])]);
        let refreshes = refreshes(&[
            ("daily", 3, &[("silver.orders", 7)]),
            ("report", 2, &[("silver.orders", 5), ("gold.daily", 3)]),
            ("report", 3, &[("silver.orders", 9), ("gold.daily", 3)]),
        ]);
        let lineage = Lineage { inputs: &inputs, refreshes: &refreshes };
        assert_eq!(lineage.contents(&name("report"), 2), contents(&[("orders", Some(5))]));
        assert_eq!(lineage.contents(&name("report"), NEWEST), contents(&[("orders", Some(7))]));
    }

    #[test]
    fn versions_without_a_refresh_of_their_own_are_those_before_them() {
        let inputs = inputs(&[("daily", &["silver.orders"]), ("report", &["gold.daily"])]);
        let refreshes = refreshes(&[
            ("daily", 1, &[("silver.orders", 1)]),
            ("daily", 4, &[("silver.orders", 2)]),
            ("report", 0, &[("gold.daily", 3)]),
        ]);
        let lineage = Lineage { inputs: &inputs, refreshes: &refreshes };
        assert_eq!(lineage.contents(&name("report"), NEWEST), contents(&[("orders", Some(1))]));
        assert_eq!(lineage.contents(&name("daily"), 0), contents(&[("orders", None)]));
    }

    #[test]
    fn what_is_named_and_was_never_read_is_missing() {
        let inputs = inputs(&[
            ("daily", &["silver.orders", "silver.customers"]),
            ("report", &["gold.daily", "gold.never"]),
            ("never", &["silver.stock"]),
        ]);
        let refreshes = refreshes(&[("daily", 1, &[("silver.orders", 4)]), ("report", 1, &[("gold.daily", 1)])]);
        let lineage = Lineage { inputs: &inputs, refreshes: &refreshes };
        let expected = contents(&[("customers", None), ("orders", Some(4)), ("stock", None)]);
        assert_eq!(lineage.contents(&name("report"), NEWEST), expected);
    }

    #[test]
    fn a_circle_ends() {
        let inputs = inputs(&[("a", &["gold.b", "silver.t"]), ("b", &["gold.a"])]);
        let refreshes = Refreshes::new();
        let lineage = Lineage { inputs: &inputs, refreshes: &refreshes };
        assert_eq!(lineage.contents(&name("b"), NEWEST), contents(&[("t", None)]));
    }

    #[test]
    fn the_first_version_that_contains_another_is_told_a_model() {
        let inputs = inputs(&[("daily", &["silver.orders"]), ("report", &["gold.daily"])]);
        let refreshes = refreshes(&[
            ("daily", 0, &[("silver.orders", 1)]),
            ("daily", 1, &[("silver.orders", 4)]),
            ("daily", 2, &[("silver.orders", 4)]),
            ("daily", 5, &[("silver.orders", 6)]),
            ("report", 0, &[("gold.daily", 0)]),
            ("report", 1, &[("gold.daily", 2)]),
        ]);
        let steps = Lineage { inputs: &inputs, refreshes: &refreshes }.steps();
        assert_eq!(steps.firsts("orders", 1), BTreeMap::from([("daily", 0), ("report", 0)]));
        assert_eq!(steps.firsts("orders", 2), BTreeMap::from([("daily", 1), ("report", 1)]));
        assert_eq!(steps.firsts("orders", 5), BTreeMap::from([("daily", 5)]));
        assert_eq!(steps.firsts("orders", 7), BTreeMap::new());
        assert_eq!(steps.firsts("stock", 0), BTreeMap::new());
    }
}
