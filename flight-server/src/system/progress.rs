//! How far an ingest is in one silver table, added up from its parts in the table's commits.

use lakehouse::story::IngestStory;
use proto::frame::FRAMES_PER_BATCH_MAX;

use crate::engine::Awaited;

/// What of an ingest is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Need {
    /// All of it.
    #[default]
    All,
    /// Of a stream: its frames below this number.
    Below(u64),
}

impl Need {
    pub(super) fn of(awaited: &Awaited) -> Self {
        match awaited.offset {
            None => Self::All,
            Some(offset) => Self::Below(offset.saturating_add(1).saturating_mul(FRAMES_PER_BATCH_MAX)),
        }
    }
}

/// A commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) version: u64,
    /// When, in microseconds since the epoch.
    pub(super) at_us: i64,
}

/// An ingest in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) need: Need,
    /// The sum of its parts.
    pub(super) told: IngestStory,
    /// The first commit with a part of it that is told.
    pub(super) first: Option<Commit>,
    /// The last one.
    pub(super) last: Option<Commit>,
    /// The commit with which the table came to contain what is asked for.
    pub(super) since: Option<Commit>,
}

impl Progress {
    pub(super) fn new(need: Need) -> Self {
        Self { need, ..Self::default() }
    }

    /// Adds the part in a commit; commits come in their order.
    pub(super) fn add(&mut self, commit: Commit, story: &IngestStory) {
        add(&mut self.told, story);
        self.first.get_or_insert(commit);
        self.last = Some(commit);
        if self.since.is_none() && self.is_enough() {
            self.since = Some(commit);
        }
    }

    fn is_enough(&self) -> bool {
        let IngestStory { frames, total_frames, merged_to, .. } = self.told;
        match self.need {
            Need::All => total_frames.is_some_and(|total| frames >= total || merged_to >= Some(total)),
            Need::Below(frame) => merged_to >= Some(frame),
        }
    }

    /// Takes the ledger's word, once all commits from version `oldest` on were added: it knows of those before, and of
    /// those that don't tell how far they came.
    pub(super) fn close(&mut self, merged_to: u64, oldest: u64) {
        if self.since.is_some() {
            return;
        }
        let is_forgotten = self.last.is_none() && self.need == Need::All && merged_to > 0;
        self.told.merged_to = self.told.merged_to.max(Some(merged_to));
        if is_forgotten || self.is_enough() {
            self.since = self.last.or(Some(Commit { version: oldest, at_us: 0 }));
        }
    }

    /// Whether it is known to be a stream, which never ends: a batch of it is merged, and numbers went on behind it.
    pub(super) fn is_stream(&self) -> bool {
        self.told.total_frames.is_none() && self.told.merged_to >= Some(FRAMES_PER_BATCH_MAX)
    }

    /// How many of a stream's batches are merged without a gap.
    pub(super) fn batches(&self) -> u64 {
        self.told.merged_to.unwrap_or(0) / FRAMES_PER_BATCH_MAX
    }

    /// The commit with which all that is known of the ingest was merged, if `frames_known` frames are. A stream is as
    /// far as its last known frame, and so is an ingest whose server tells what it took (`is_accepted_here`): one that
    /// failed part-way has no end. Of others without a told end, nobody else may have told.
    pub(super) fn merged(&self, frames_known: u64, is_accepted_here: bool) -> Option<Commit> {
        let IngestStory { frames, total_frames, merged_to, .. } = self.told;
        let has_no_end = total_frames.is_none() && (is_accepted_here || self.is_stream() || merged_to.is_none());
        self.since.or_else(|| self.last.filter(|_| has_no_end && frames > 0 && frames >= frames_known))
    }
}

/// Adds a part to a sum.
pub(super) fn add(sum: &mut IngestStory, part: &IngestStory) {
    sum.rows += part.rows;
    sum.frames += part.frames;
    sum.bytes += part.bytes;
    sum.quarantined += part.quarantined;
    sum.delivered_at_us = sum.delivered_at_us.max(part.delivered_at_us);
    sum.accepted_at_us = match sum.accepted_at_us {
        0 => part.accepted_at_us,
        at => at.min(part.accepted_at_us),
    };
    sum.total_frames = sum.total_frames.or(part.total_frames);
    sum.merged_to = sum.merged_to.max(part.merged_to);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(frames: u64, total_frames: Option<u64>, merged_to: Option<u64>) -> IngestStory {
        IngestStory { frames, total_frames, merged_to, ..IngestStory::default() }
    }

    fn at(version: u64) -> Commit {
        Commit { version, at_us: i64::try_from(version).unwrap() }
    }

    fn progress(need: Need, parts: &[(u64, IngestStory)]) -> Progress {
        let mut progress = Progress::new(need);
        for (version, part) in parts {
            progress.add(at(*version), part);
        }
        progress
    }

    #[test]
    fn an_ingest_is_there_once_its_last_frame_and_all_before_it_are() {
        let whole = progress(Need::All, &[(2, part(3, Some(3), Some(3)))]);
        assert_eq!(whole.since, Some(at(2)));
        let in_order = progress(
            Need::All,
            &[(2, part(2, None, Some(2))), (5, part(1, Some(3), Some(3))), (6, part(0, None, Some(3)))],
        );
        assert_eq!(in_order.since, Some(at(5)));
        let last_first = progress(Need::All, &[(2, part(1, Some(3), Some(0))), (3, part(2, None, Some(3)))]);
        assert_eq!(last_first.since, Some(at(3)));
        let lacking = progress(Need::All, &[(2, part(1, Some(3), Some(0))), (3, part(1, None, Some(1)))]);
        assert_eq!(lacking.since, None);
        assert_eq!(lacking.merged(2, false), None, "its total is known, whoever knows of two frames only");
        let endless = progress(Need::All, &[(2, part(2, None, Some(2)))]);
        assert_eq!(endless.since, None);
        assert_eq!(endless.merged(2, false), None, "its last frame may be under way");
        assert_eq!(endless.merged(2, true), Some(at(2)), "it failed part-way");
        assert_eq!(endless.merged(3, true), None);
    }

    #[test]
    fn commits_that_do_not_tell_an_end_are_believed_by_count() {
        let old = progress(Need::All, &[(2, part(2, None, None)), (3, part(1, None, None))]);
        assert_eq!(old.since, None);
        assert_eq!(old.merged(3, false), Some(at(3)));
        assert_eq!(old.merged(4, false), None);
    }

    #[test]
    fn a_stream_is_there_batch_by_batch() {
        let n = FRAMES_PER_BATCH_MAX;
        let parts = [
            (1, part(2, None, Some(2))),
            (4, part(1, None, Some(n))),
            (5, part(2, None, Some(2 * n))),
            (9, part(9, None, Some(9 * n))),
        ];
        let of = |offset| {
            let awaited = Awaited { ingest_id: "s".to_owned(), offset: Some(offset) };
            progress(Need::of(&awaited), &parts).since.map(|commit| commit.version)
        };
        assert_eq!([of(0), of(1), of(2), of(8), of(9), of(u64::MAX)], [Some(4), Some(5), Some(9), Some(9), None, None]);
        let whole = progress(Need::All, &parts);
        assert_eq!((whole.since, whole.is_stream(), whole.batches()), (None, true, 9));
        assert_eq!(whole.merged(14, false), Some(at(9)));
        assert_eq!(whole.merged(15, false), None);
        assert!(!progress(Need::All, &parts[..1]).is_stream());
    }

    #[test]
    fn the_ledger_knows_what_commits_do_not_tell() {
        let n = FRAMES_PER_BATCH_MAX;
        let mut untold = progress(Need::Below(n), &[(2, part(1, None, None)), (7, part(1, None, None))]);
        untold.close(n - 1, 0);
        assert_eq!(untold.since, None);
        untold.close(n, 0);
        assert_eq!(untold.since, Some(at(7)), "at the latest");
        let mut forgotten = Progress::new(Need::All);
        forgotten.close(3, 40);
        assert_eq!(forgotten.since.map(|commit| commit.version), Some(40));
        let mut open = progress(Need::All, &[(2, part(1, None, Some(1)))]);
        open.close(1, 0);
        assert_eq!(open.since, None, "its last frame is not merged");
    }
}
