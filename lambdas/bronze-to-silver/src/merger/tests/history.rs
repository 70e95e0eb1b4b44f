//! Versions of rows, and what is known of deletes for a time only.

use super::*;

const DAY_US: i64 = 86_400_000_000;

/// [`KEYED`], with every version kept.
fn kept() -> String {
    KEYED.replace("sequence_by", "history = true\nsequence_by")
}

/// `id seq v`, from, to, whether it counts now.
async fn seen(lab: &Lab) -> Vec<String> {
    lab.seen(&["id", "seq", "v", "_valid_from", "_valid_to", "_is_current"]).await
}

#[tokio::test]
async fn a_version_that_was_ended_stays_ended_when_its_delete_is_forgotten() {
    // The tombstone counts for 30 days.
    for days in [0, 31] {
        let mut lab = Lab::new(&kept());
        lab.events(&[upsert(1, 3, "a"), upsert(2, 3, "a")]).await;
        lab.events(&[delete(1, 7)]).await;
        lab.clock.advance_us(days * DAY_US);
        lab.events(&[upsert(1, 5, "late")]).await;
        let ended = ["1 3 a 3 5 false", "1 5 late 5 7 false", "2 3 a 3 - true"];
        assert_eq!(seen(&lab).await, ended, "after {days} days");
        lab.events(&[upsert(1, 4, "more")]).await;
        lab.events(&[upsert(1, 9, "new"), upsert(1, 8, "anew")]).await;
        let after = [
            "1 3 a 3 4 false",
            "1 4 more 4 5 false",
            "1 5 late 5 7 false",
            "1 8 anew 8 9 false",
            "1 9 new 9 - true",
            "2 3 a 3 - true",
        ];
        assert_eq!(seen(&lab).await, after, "after {days} days");
    }
}

#[tokio::test]
async fn a_delete_that_comes_again_when_it_is_forgotten_changes_nothing() {
    let mut lab = Lab::new(&kept());
    lab.events(&[upsert(1, 3, "a")]).await;
    lab.events(&[delete(1, 7)]).await;
    lab.clock.advance_us(31 * DAY_US);
    let work = lab.events(&[delete(1, 7)]).await.work;
    assert_eq!((work.inserted, work.updated, work.files_rewritten, work.files_added), (0, 0, 0, 0));
    assert_eq!(seen(&lab).await, ["1 3 a 3 7 false"]);
}

#[tokio::test]
async fn every_version_and_mark_is_counted_as_what_it_did() {
    let mut lab = Lab::new(&kept());
    lab.events(&[upsert(1, 3, "a")]).await;
    // The second one is there already.
    let outcome = lab.events(&[upsert(1, 5, "b"), upsert(1, 3, "dup"), delete(1, 8), upsert(2, 1, "c")]).await;
    let work = &outcome.work;
    assert_eq!((work.inserted, work.updated, work.deleted, work.late, work.superseded), (1, 1, 1, 1, 0));
    assert_eq!((outcome.story.changes, outcome.story.deletes, outcome.story.late), (4, 1, 1));
    assert_eq!(seen(&lab).await, ["1 3 a 3 5 false", "1 5 b 5 8 false", "2 1 c 1 - true"]);
}

#[tokio::test]
async fn a_delete_holds_back_late_updates_for_as_long_as_the_table_says() {
    for (days, left) in [(29, BTreeMap::new()), (31, BTreeMap::from([(1, row(4, "late"))]))] {
        let mut lab = Lab::new(KEYED);
        lab.events(&[upsert(1, 1, "a")]).await;
        lab.events(&[delete(1, 5)]).await;
        lab.clock.advance_us(days * DAY_US);
        lab.events(&[upsert(1, 4, "late")]).await;
        assert_eq!(lab.silver().await, left, "after {days} days");
    }
}
