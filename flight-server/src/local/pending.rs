//! What lies in bronze and is not merged: read from the frames' headers, once an object.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lakehouse::story::IngestStory;
use lakehouse::{Context, Kind, Name, Result};
use proto::frame::{FrameReader, Item};

use crate::delivery::{LocalQueue, QueuedObject};
use crate::system::Delivered;

/// The ingests of the waiting objects.
pub(crate) struct Pending {
    data: PathBuf,
    /// By object key; objects that are merged are forgotten.
    read: Mutex<HashMap<String, Arc<Vec<IngestStory>>>>,
}

impl Pending {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { data, read: Mutex::default() }
    }

    /// The objects that wait, by table, with the ingests in each.
    pub(crate) async fn stories(
        &self,
        queue: &LocalQueue,
        tables: impl Iterator<Item = &Name>,
    ) -> Result<BTreeMap<Name, Vec<Delivered>>> {
        let waiting: BTreeMap<Name, Vec<QueuedObject>> =
            tables.map(|name| (name.clone(), queue.pending(name))).collect();
        let mut all = BTreeMap::new();
        let mut still_waiting = HashMap::new();
        for (table, objects) in waiting {
            let mut delivered = Vec::with_capacity(objects.len());
            for object in objects {
                let stories = self.of(&object).await?;
                delivered.push(Delivered { object: object.key.clone(), ingests: stories.to_vec() });
                still_waiting.insert(object.key, stories);
            }
            all.insert(table, delivered);
        }
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = still_waiting;
        Ok(all)
    }

    async fn of(&self, object: &QueuedObject) -> Result<Arc<Vec<IngestStory>>> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&object.key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let bytes = match tokio::fs::read(self.data.join(&object.key)).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.context(Kind::Unavailable, || format!("can't read bronze object {}", object.key))?,
        };
        Ok(Arc::new(read_headers(bytes.into(), object.delivered_at_us)))
    }
}

fn read_headers(bytes: Bytes, delivered_at_us: i64) -> Vec<IngestStory> {
    let mut ingests = BTreeMap::new();
    for item in FrameReader::new(bytes) {
        let Item::Frame { len, frame, .. } = item else { continue };
        let story = IngestStory {
            ingest_id: frame.header.ingest_id,
            rows: frame.header.rows,
            frames: 1,
            bytes: len as u64,
            accepted_at_us: frame.header.received_at_us,
            delivered_at_us,
            total_frames: frame.header.is_last.then(|| frame.header.frame + 1),
            ..IngestStory::default()
        };
        add(&mut ingests, &story);
    }
    ingests.into_values().collect()
}

fn add(ingests: &mut BTreeMap<String, IngestStory>, story: &IngestStory) {
    match ingests.get_mut(&story.ingest_id) {
        None => drop(ingests.insert(story.ingest_id.clone(), story.clone())),
        Some(known) => {
            known.rows += story.rows;
            known.frames += story.frames;
            known.bytes += story.bytes;
            known.accepted_at_us = known.accepted_at_us.min(story.accepted_at_us);
            known.delivered_at_us = known.delivered_at_us.max(story.delivered_at_us);
            known.total_frames = known.total_frames.or(story.total_frames);
        }
    }
}
