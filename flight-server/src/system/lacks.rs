//! Why a query still waits: what the tables that it reads lack of an ingest, decided from what is known, and told.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use lakehouse::Name;

use super::lineage::Contents;
use super::progress::Progress;
use crate::engine::Awaited;

/// What is lacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) awaited: Awaited,
    pub(super) place: Place,
}

/// Where it is lacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody knows where it goes.
    Unknown,
    /// In a silver table. None: it has nothing of it.
    Silver { table: Name, progress: Option<Box<Progress>> },
    /// In a model: the table has it since a version, the model contains another, or none.
    Gold { model: Name, table: Name, since: u64, contained: Option<u64> },
}

/// What the tables that a query reads lack of an ingest. `tables` are those of silver that it goes into, with how far
/// it is, `models` those that are read, with what they contain.
pub(super) fn lacks(
    awaited: &Awaited,
    tables: &BTreeMap<Name, Option<Progress>>,
    models: &BTreeMap<Name, Contents>,
) -> Vec<Lack> {
    let lack = |place| Lack { awaited: awaited.clone(), place };
    let mut lacks = Vec::new();
    for (table, progress) in tables {
        let Some(since) = progress.as_ref().and_then(|progress| progress.since) else {
            let progress = progress.clone().map(Box::new);
            lacks.push(lack(Place::Silver { table: table.clone(), progress }));
            continue;
        };
        for (model, contents) in models {
            let Some(&contained) = contents.get(table) else { continue };
            if contained < Some(since.version) {
                let (model, table) = (model.clone(), table.clone());
                lacks.push(lack(Place::Gold { model, table, since: since.version, contained }));
            }
        }
    }
    lacks
}

/// What else is known about a lack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aside {
    /// When the first of it was accepted, in microseconds since the epoch.
    pub(super) accepted_at_us: Option<i64>,
    /// When the last of it that waits came to bronze, in microseconds since the epoch.
    pub(super) delivered_at_us: Option<i64>,
    /// Why the last merge or refresh failed.
    pub(super) trouble: Option<String>,
    /// When the model is refreshed.
    pub(super) refresh: Option<String>,
}

impl Lack {
    /// For people.
    pub(super) fn tell(&self, aside: &Aside) -> String {
        let id = format!("ingest {:?}", self.awaited.to_string());
        let trouble = |what: &str| match &aside.trouble {
            None => String::new(),
            Some(why) => format!(" (its last {what} failed: {why})"),
        };
        match &self.place {
            Place::Unknown => {
                format!("{id} is unknown: no silver table has it, and this server accepted none of that id")
            }
            Place::Silver { table, progress } => {
                let how = self.how_far(progress.as_deref(), aside);
                format!("{id} is not yet in silver.{table}: {how}{}", trouble("merge"))
            }
            Place::Gold { model, table, since, contained } => {
                let contained = match contained {
                    Some(version) => format!("contains only version {version} of it"),
                    None => "contains nothing of it yet".to_owned(),
                };
                let refresh = aside.refresh.as_deref().unwrap_or("on-change");
                format!(
                    "{id} is in silver.{table} since version {since}, but gold.{model}, refreshed {refresh}, \
                     {contained}{}",
                    trouble("refresh")
                )
            }
        }
    }

    fn how_far(&self, progress: Option<&Progress>, aside: &Aside) -> String {
        if let Some(progress) = progress {
            if let Some(offset) = self.awaited.offset {
                let wanted = offset.saturating_add(1);
                return format!("{} of its first {wanted} batches are merged", progress.batches());
            }
            if progress.is_stream() {
                let (batches, id) = (progress.batches(), &self.awaited.ingest_id);
                let last = batches.saturating_sub(1);
                return format!(
                    "it is a stream, which has no end, and {batches} batches of it are merged; name the batch to wait \
                     for, as in {id}@{last}"
                );
            }
        }
        let merged = progress.map_or(0, |progress| progress.told.frames);
        let part = if merged > 0 { format!("{merged} of its frames are merged, the rest was ") } else { String::new() };
        match (aside.accepted_at_us, aside.delivered_at_us) {
            (_, Some(at_us)) => format!("{part}delivered at {}, and not merged yet", utc(at_us)),
            (Some(at_us), None) => format!("{part}accepted at {}, and not delivered yet", utc(at_us)),
            (None, None) if merged > 0 => format!("{merged} of its frames are merged, not all"),
            (None, None) => "nothing of it is merged".to_owned(),
        }
    }
}

/// A time for people.
pub(super) fn utc(us: i64) -> String {
    let time = DateTime::from_timestamp_micros(us).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use lakehouse::story::IngestStory;
    use proto::frame::FRAMES_PER_BATCH_MAX;

    use super::*;
    use crate::system::progress::{Commit, Need};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn awaited(text: &str) -> Awaited {
        Awaited::parse(text).unwrap()
    }

    fn progress(awaited: &Awaited, total_frames: Option<u64>, merged_to: u64) -> Progress {
        let mut progress = Progress::new(Need::of(awaited));
        let story = IngestStory { frames: 2, total_frames, merged_to: Some(merged_to), ..IngestStory::default() };
        progress.add(Commit { version: 7, at_us: 1 }, &story);
        progress
    }

    fn models(all: &[(&str, Option<u64>)]) -> BTreeMap<Name, Contents> {
        all.iter().map(|&(model, version)| (name(model), Contents::from([(name("orders"), version)]))).collect()
    }

    #[test]
    fn nothing_is_lacking_once_silver_has_it_and_all_models_read_that() {
        let id = awaited("a");
        let tables = BTreeMap::from([(name("orders"), Some(progress(&id, Some(2), 2)))]);
        assert_eq!(lacks(&id, &tables, &models(&[("daily", Some(7)), ("report", Some(9))])).len(), 0);
        assert_eq!(lacks(&id, &tables, &BTreeMap::new()).len(), 0);
        let elsewhere = BTreeMap::from([(name("stocks"), Contents::from([(name("stock"), None)]))]);
        assert_eq!(lacks(&id, &tables, &elsewhere).len(), 0, "models that don't read the table don't matter");
        assert_eq!(lacks(&id, &BTreeMap::new(), &models(&[("daily", None)])).len(), 0);
    }

    #[test]
    fn models_that_are_behind_are_named() {
        let id = awaited("a");
        let tables = BTreeMap::from([(name("orders"), Some(progress(&id, Some(2), 2)))]);
        let found = lacks(&id, &tables, &models(&[("daily", Some(6)), ("empty", None), ("report", Some(7))]));
        let aside = Aside { refresh: Some("rate(1 day)".to_owned()), ..Aside::default() };
        let told: Vec<String> = found.iter().map(|lack| lack.tell(&aside)).collect();
        let since = "ingest \"a\" is in silver.orders since version 7, but gold";
        assert_eq!(
            told,
            [
                format!("{since}.daily, refreshed rate(1 day), contains only version 6 of it"),
                format!("{since}.empty, refreshed rate(1 day), contains nothing of it yet"),
            ]
        );
    }

    #[test]
    fn what_silver_lacks_is_told_by_how_far_it_is() {
        let tell = |text: &str, total, merged_to, aside: &Aside| {
            let id = awaited(text);
            let tables = BTreeMap::from([(name("orders"), Some(progress(&id, total, merged_to)))]);
            let found = lacks(&id, &tables, &models(&[("daily", None)]));
            assert_eq!(found.len(), 1, "models follow silver: {found:?}");
            found[0].tell(aside).split_once("silver.orders: ").unwrap().1.to_owned()
        };
        let nothing = Aside::default();
        let delivered = Aside { accepted_at_us: Some(0), delivered_at_us: Some(61_000_000), ..Aside::default() };
        let failed = Aside { trouble: Some("no room".to_owned()), ..Aside::default() };
        assert_eq!(tell("a", Some(3), 2, &nothing), "2 of its frames are merged, not all");
        assert_eq!(
            tell("a", None, 2, &delivered),
            "2 of its frames are merged, the rest was delivered at 1970-01-01T00:01:01Z, and not merged yet"
        );
        let n = FRAMES_PER_BATCH_MAX;
        assert_eq!(tell("s@5", None, 3 * n, &nothing), "3 of its first 6 batches are merged");
        assert!(tell("s", None, 3 * n, &nothing).ends_with("as in s@2"));
        assert!(tell("a", None, 2, &failed).ends_with("(its last merge failed: no room)"));
    }

    #[test]
    fn what_is_only_accepted_is_told_too() {
        let id = awaited("a");
        let found = lacks(&id, &BTreeMap::from([(name("orders"), None)]), &BTreeMap::new());
        let accepted = Aside { accepted_at_us: Some(0), ..Aside::default() };
        assert_eq!(
            found[0].tell(&accepted),
            "ingest \"a\" is not yet in silver.orders: accepted at 1970-01-01T00:00:00Z, and not delivered yet"
        );
        let unknown = Lack { awaited: id, place: Place::Unknown };
        assert!(unknown.tell(&Aside::default()).starts_with("ingest \"a\" is unknown"));
    }
}
