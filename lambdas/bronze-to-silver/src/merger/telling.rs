//! What a merge tells of itself, and which frames are new.

use std::collections::{BTreeMap, BTreeSet};

use lakehouse::story::{IngestStory, MergeStory};

use crate::bronze::{BronzeObject, FoundFrame};
use crate::ledger::{Frames, Ledger};
use crate::stage::Stage;

/// The numbers of frames, by ingest.
pub(super) fn frames_of<'a>(frames: impl Iterator<Item = &'a FoundFrame>) -> Frames {
    let mut by_ingest = Frames::new();
    for found in frames {
        let header = &found.frame.header;
        by_ingest.entry(header.ingest_id.clone()).or_default().insert(header.frame, header.following());
    }
    by_ingest
}

/// The frames that are not merged yet, each once, in the order of their arrival.
pub(super) fn unmerged(frames: &[FoundFrame], ledger: &Ledger) -> Vec<FoundFrame> {
    let mut seen = BTreeSet::new();
    frames
        .iter()
        .filter(|found| {
            let header = &found.frame.header;
            !ledger.contains(&header.ingest_id, header.frame) && seen.insert((&header.ingest_id, header.frame))
        })
        .cloned()
        .collect()
}

/// The story of a commit, as far as the frames tell it.
pub(super) fn tell(objects: &[BronzeObject], frames: &[FoundFrame], stage: &Stage) -> MergeStory {
    let mut ingests: BTreeMap<&str, IngestStory> = BTreeMap::new();
    for found in frames {
        let header = &found.frame.header;
        let story = ingests.entry(&header.ingest_id).or_insert_with(|| IngestStory {
            ingest_id: header.ingest_id.clone(),
            accepted_at_us: header.received_at_us,
            ..IngestStory::default()
        });
        story.rows += header.rows;
        story.frames += 1;
        story.bytes += found.bytes;
        if header.is_last {
            story.total_frames = Some(header.frame + 1);
        }
        story.accepted_at_us = story.accepted_at_us.min(header.received_at_us);
        story.delivered_at_us = story.delivered_at_us.max(found.delivered_at_us);
        story.quarantined = stage.bad_by_ingest.get(&header.ingest_id).copied().unwrap_or(0);
    }
    MergeStory {
        objects: objects.iter().map(|object| object.key.clone()).collect(),
        rows_in: frames.iter().map(|found| found.frame.header.rows).sum(),
        warned: stage.warned.clone(),
        ingests: ingests.into_values().collect(),
        ..MergeStory::default()
    }
}
