//! Merging against a model that is obviously right, while storage and processes fail.
//!
//! Silver must hold what the events say, whatever the order in which they come, how often, in which frames and objects,
//! and whatever goes wrong on the way. So a case draws all of that from a seed:
//!
//! ```text
//!  seed ─► table's settings (shape), events, frames ─┬─► objects ─► merges, under faults, ─► silver, quarantine
//!                                                    │              again and again                 │
//!                                                    └─► the model: all events, sorted ──────►  equal? │
//!                                                                      merge all again: nothing changed?
//! ```
//!
//! - `shape`: the table; `events`: what comes; `expected`: the model;
//! - `storage`: what fails, and how; `run`: the merges of a case; `actual`: what they left.
//!
//! A seed that fails says so, with its table, its events and its merges. `MALLARD_SEED=17` (or `17..99`) runs it alone,
//! `MALLARD_DEEP=1` thousands. README.md lists the guards that this test is for, and how to see it fail without each.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests may panic, and say why")]

mod actual;
mod events;
mod expected;
mod run;
mod shape;
mod storage;

use std::collections::BTreeSet;
use std::ops::Range;

use run::run;
use storage::{Access, Fault};

/// Seeds of a normal run, and of a deep one.
const SEEDS: u64 = 60;
const SEEDS_DEEP: u64 = 3_000;

fn seeds(few: u64, many: u64) -> Range<u64> {
    let is_deep = std::env::var_os("MALLARD_DEEP").is_some();
    let Ok(asked) = std::env::var("MALLARD_SEED") else { return 0..if is_deep { many } else { few } };
    let number = |text: &str| text.parse::<u64>().unwrap();
    match asked.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&asked)..number(&asked) + 1,
    }
}

#[test]
fn silver_and_quarantine_are_what_the_model_says_whatever_goes_wrong() {
    let seeds = seeds(SEEDS, SEEDS_DEEP);
    let (mut met, mut vectors, mut texts) = (BTreeSet::new(), 0, 0);
    for seed in seeds.clone() {
        let report = run(seed, &[Access::Commit, Access::Write, Access::Read, Access::List]);
        met.extend(report.met);
        vectors += report.vectors;
        texts += report.texts;
    }
    if seeds.end - seeds.start >= SEEDS {
        // Otherwise nothing was shown of them.
        let missed: Vec<Fault> =
            Fault::OF_COMMITS.into_iter().filter(|fault| !met.contains(&(Access::Commit, *fault))).collect();
        assert_eq!(missed, [], "faults that no commit met");
        for access in [Access::Write, Access::Read, Access::List] {
            assert!(met.iter().any(|(hit, _)| *hit == access), "no {access:?} met a fault");
        }
        assert!(vectors > 0, "no commit had a deletion vector");
        assert!(texts > 0, "no object was text");
    }
}

#[test]
fn silver_and_quarantine_are_what_the_model_says_if_nothing_goes_wrong() {
    for seed in seeds(SEEDS / 3, SEEDS_DEEP / 3) {
        run(seed, &[]);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in seeds(3, 30) {
        assert_eq!(run(seed, &[Access::Commit]), run(seed, &[Access::Commit]), "seed {seed}");
    }
}
