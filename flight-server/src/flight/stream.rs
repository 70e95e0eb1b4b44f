//! Plain DoPut: a long-lived stream of numbered batches, acknowledged as they are kept.
//!
//! ```text
//! client ── path ["orders"], schema ──► decode ── stream ──► door
//!        ◄── {"offset": -1}: ready ───────┘
//!        ── batch, 0 ── batch, 1 ─────► push ─────────────► OpenStream
//!        ◄── {"offset": 1} ◄── outbox ◄── kept ────────────────┘     the highest offset up to which all is kept
//! ```
//!
//! The stream may go on for days, over which the client may read its results as seldom as it likes: the outbox holds
//! the newest. Whatever ends the stream, what was pushed is waited for and told first.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_flight::{FlightData, PutResult};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use lakehouse::{Error, Result};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

use super::batches::{Arrived, Batches};
use super::ingest::{self, INGEST_ID_HEADER, LeftOut, PutStream};
use super::service::SqlService;
use super::statements::KEEP_ALIVE_INTERVAL;
use super::status::status;
use super::stopping::{LAST_WORD_MAX, Stopping};
use crate::door::{IngestOptions, OpenStream};
use crate::engine::SILVER;

/// Answers a DoPut whose descriptor is a path; `messages` begin with its first message.
pub(super) async fn put(
    service: &SqlService,
    path: &[String],
    metadata: &MetadataMap,
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Response<PutStream>, Status> {
    let table = table(path, &service.engine.definition().name).map_err(status)?;
    let mut batches = Batches::new(messages, service.decoding());
    let schema = batches.schema().await?;
    let options = options(metadata, &batches.metadata)?;
    let needs_offsets = options.ingest_id.is_some();
    let stream = service.door.stream(&table, schema, options).await.map_err(status)?;

    let id = stream.ingest_id().to_owned();
    let outbox = Arc::new(Outbox::new(id.clone(), KEEP_ALIVE_INTERVAL));
    let mut work = JoinSet::new();
    let own = Arc::clone(&outbox);
    let reading = Reading::new(stream, batches, service.stopping.clone(), needs_offsets);
    work.spawn(async move {
        let ended = AssertUnwindSafe(run(reading, &own)).catch_unwind().await;
        let broken = || Err(status(Error::internal("the stream broke; go on behind what was acknowledged")));
        own.note(|news| news.end = Some(ended.unwrap_or_else(|_| broken())));
    });
    let mut response = Response::new(results(outbox, work));
    if let Ok(id) = MetadataValue::try_from(id) {
        response.metadata_mut().insert(INGEST_ID_HEADER, id);
    }
    Ok(response)
}

/// The silver table that a path names: `["table"]`, `["silver", "table"]`, or with the catalog before these.
fn table(path: &[String], catalog: &str) -> Result<String> {
    match path {
        [table] => Ok(table.clone()),
        [schema, table] if schema.as_str() == SILVER => Ok(table.clone()),
        [first, schema, table] if first.as_str() == catalog && schema.as_str() == SILVER => Ok(table.clone()),
        _ => Err(Error::invalid(format!(
            "the path {path:?} names no silver table; write [\"table\"] or [\"silver\", \"table\"]"
        ))),
    }
}

/// What the client says about its rows, in headers or with the schema.
fn options(metadata: &MetadataMap, with_schema: &[u8]) -> Result<IngestOptions, Status> {
    let mut options =
        IngestOptions { ingest_id: ingest::ingest_id(metadata)?, is_partial: ingest::is_partial(metadata)? };
    if with_schema.is_empty() {
        return Ok(options);
    }
    let wrong = |what: String| {
        status(Error::invalid(format!(
            "app_metadata of the schema {what}; send a JSON object such as {{\"ingest_id\": \"…\", \"partial\": true}}, \
             or nothing"
        )))
    };
    let Ok(Value::Object(fields)) = serde_json::from_slice(with_schema) else {
        return Err(wrong("is no JSON object".to_owned()));
    };
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("ingest_id", Value::String(id)) => options.ingest_id = Some(id),
            ("partial", Value::Bool(is_partial)) => options.is_partial = is_partial,
            (name, value) => return Err(wrong(format!("has {name:?}: {value}"))),
        }
    }
    Ok(options)
}

/// The number that came with a batch, if one did.
fn offset(metadata: &[u8]) -> Result<Option<u64>> {
    if metadata.is_empty() {
        return Ok(None);
    }
    let value = match serde_json::from_slice(metadata) {
        Ok(Value::Object(fields)) if fields.len() == 1 => fields.get("offset").cloned(),
        Ok(value @ Value::Number(_)) => Some(value),
        _ => None,
    };
    value.as_ref().and_then(Value::as_u64).map(Some).ok_or_else(|| {
        let shown = String::from_utf8_lossy(metadata.get(..metadata.len().min(40)).unwrap_or_default());
        Error::invalid(format!(
            "app_metadata of a batch is {shown:?}; send its offset, a whole number from 0, as 7 or {{\"offset\": 7}}"
        ))
    })
}

/// Reads batches into the stream until something ends it.
async fn run(mut reading: Reading, outbox: &Outbox) -> Result<(), Status> {
    let end = reading.read(outbox).await;
    // What was pushed before is kept all the same, and the client wants to know.
    let flushed = match &end {
        Ok(()) => reading.stream.flush().await,
        Err(_) => timeout(LAST_WORD_MAX, reading.stream.flush()).await.unwrap_or(Ok(())),
    };
    if let Some(offset) = reading.stream.take_kept() {
        outbox.kept(offset, reading.stream.receipt().rows);
    }
    end.and(flushed.map_err(status))
}

/// A stream as it is read.
struct Reading {
    stream: Box<dyn OpenStream>,
    /// The next batch is decoded while the one before it is framed.
    batches: mpsc::Receiver<Result<Option<Arrived>, Status>>,
    _decoding: JoinSet<()>,
    stopping: Stopping,
    /// Whether the client must number its batches: it can come back under its id, and the server would begin at 0 again.
    needs_offsets: bool,
    next: u64,
}

impl Reading {
    fn new(stream: Box<dyn OpenStream>, mut batches: Batches, stopping: Stopping, needs_offsets: bool) -> Self {
        let (decoded, received) = mpsc::channel(1);
        let mut decoding = JoinSet::new();
        decoding.spawn(async move {
            loop {
                let next = batches.next().await;
                let is_end = !matches!(next, Ok(Some(_)));
                if decoded.send(next).await.is_err() || is_end {
                    return;
                }
            }
        });
        Self { stream, batches: received, _decoding: decoding, stopping, needs_offsets, next: 0 }
    }

    async fn read(&mut self, outbox: &Outbox) -> Result<(), Status> {
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stopping.begun() => return Err(status(self.stopping.refusal())),
                kept = self.stream.kept() => {
                    outbox.kept(kept.map_err(status)?, self.stream.receipt().rows);
                    continue;
                }
                batch = async {
                    outbox.room().await;
                    self.batches.recv().await
                } => batch,
            };
            let batch = batch.unwrap_or_else(|| Err(status(Error::internal("the stream's decoder broke"))))?;
            let Some(Arrived { batch, metadata, .. }) = &batch else { return Ok(()) };
            let number = self.number(metadata).map_err(status)?;
            let rejected = tokio::select! {
                biased;
                rejected = self.stream.push(number, batch.clone()) => rejected.map_err(status)?,
                // It may have been sent in part; it is not acknowledged, so it comes again.
                () = self.stopping.begun() => return Err(status(self.stopping.refusal())),
            };
            if rejected.count > 0 {
                outbox.note(|news| news.left_out.add(rejected, |row| json!({ "offset": number, "row": row + 1 })));
            }
            self.next = number + 1;
        }
    }

    fn number(&mut self, metadata: &[u8]) -> Result<u64> {
        if let Some(offset) = offset(metadata)? {
            self.needs_offsets = false;
            return Ok(offset);
        }
        if self.needs_offsets {
            return Err(Error::invalid(
                "a stream under an id of the client's own needs the offset of its first batch, so that it can go on \
                 after a broken connection; send it as app_metadata, or leave the id out",
            ));
        }
        Ok(self.next)
    }
}

/// What the client was not told yet.
#[derive(Default)]
struct News {
    /// The highest offset up to which all is kept.
    offset: Option<u64>,
    rows: u64,
    is_fresh: bool,
    left_out: LeftOut,
    end: Option<Result<(), Status>>,
}

/// Holds the newest result until the client takes it.
struct Outbox {
    ingest_id: String,
    /// After how long without news the same is told again.
    keep_alive: Duration,
    news: Mutex<News>,
    wake: Notify,
    /// Told when rows that were left out have been told.
    taken: Notify,
}

impl Outbox {
    /// Its first result says that the stream is ready.
    fn new(ingest_id: String, keep_alive: Duration) -> Self {
        let news = News { is_fresh: true, ..News::default() };
        Self { ingest_id, keep_alive, news: Mutex::new(news), wake: Notify::new(), taken: Notify::new() }
    }

    fn kept(&self, offset: u64, rows: u64) {
        self.note(|news| (news.offset, news.rows, news.is_fresh) = (Some(offset), rows, true));
    }

    fn note(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.lock());
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next result: news, or after a while without any the same again, since load balancers drop what idles.
    async fn next(&self) -> Option<Result<PutResult, Status>> {
        loop {
            {
                let mut news = self.lock();
                if let Some(result) = self.tell(&mut news) {
                    return Some(Ok(result));
                }
                match news.end.take() {
                    Some(Ok(())) => return None,
                    Some(Err(error)) => return Some(Err(error)),
                    None => {}
                }
            }
            if tokio::time::timeout(self.keep_alive, self.wake.notified()).await.is_err() {
                self.lock().is_fresh = true;
            }
        }
    }

    fn tell(&self, news: &mut News) -> Option<PutResult> {
        let must_be_told = news.left_out.count > 0 && (news.end.is_some() || news.left_out.is_full());
        if !std::mem::take(&mut news.is_fresh) && !must_be_told {
            return None;
        }
        let offset = news.offset.map_or(-1, |offset| i64::try_from(offset).unwrap_or(i64::MAX));
        let mut result = json!({ "offset": offset, "ingest_id": self.ingest_id, "rows": news.rows });
        if news.left_out.count > 0 {
            news.left_out.tell(&mut result);
            self.taken.notify_one();
        }
        Some(PutResult { app_metadata: Bytes::from(result.to_string()) })
    }

    /// Waits until the client has read of the rows that were left out, if there are very many.
    async fn room(&self) {
        while self.lock().left_out.is_full() {
            self.taken.notified().await;
        }
    }
}

/// The results as a stream; when it is dropped, the client is gone, and the work with it.
fn results(outbox: Arc<Outbox>, work: JoinSet<()>) -> PutStream {
    let state = Some((outbox, work));
    stream::unfold(state, |state| async move {
        let (outbox, work) = state?;
        let result = outbox.next().await?;
        let rest = result.is_ok().then_some((outbox, work));
        Some((result, rest))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_silver_table() {
        let parts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for path in [&["t"][..], &["silver", "t"], &["shop", "silver", "t"]] {
            assert_eq!(table(&parts(path), "shop").unwrap(), "t");
        }
        for path in [&[][..], &["gold", "t"], &["other", "silver", "t"], &["shop", "silver", "t", "x"]] {
            assert!(table(&parts(path), "shop").unwrap_err().to_string().contains("names no silver table"));
        }
    }

    #[test]
    fn offsets_are_whole_numbers_alone_or_in_an_object() {
        assert_eq!(offset(b"").unwrap(), None);
        assert_eq!(offset(b"0").unwrap(), Some(0));
        assert_eq!(offset(b" {\"offset\": 17} ").unwrap(), Some(17));
        for wrong in
            [&b"-1"[..], b"1.5", b"\"1\"", b"{}", b"{\"offset\": 1, \"x\": 2}", b"\xff", b"1e99", b"[1]", b"null"]
        {
            assert!(offset(wrong).unwrap_err().to_string().contains("whole number from 0"));
        }
    }

    #[tokio::test]
    async fn the_outbox_tells_the_newest_and_then_the_end() {
        let outbox = Outbox::new("i".to_owned(), KEEP_ALIVE_INTERVAL);
        let text = |result: Option<Result<PutResult, Status>>| {
            serde_json::from_slice::<Value>(&result.unwrap().unwrap().app_metadata).unwrap()
        };
        assert_eq!(text(outbox.next().await), json!({ "offset": -1, "ingest_id": "i", "rows": 0 }));
        outbox.kept(3, 30);
        outbox.kept(5, 50);
        outbox.note(|news| news.end = Some(Err(Status::unavailable("stop"))));
        assert_eq!(text(outbox.next().await), json!({ "offset": 5, "ingest_id": "i", "rows": 50 }));
        assert_eq!(outbox.next().await.unwrap().unwrap_err().message(), "stop");
    }

    #[tokio::test]
    async fn an_idle_stream_is_told_the_same_again() {
        let outbox = Outbox::new("i".to_owned(), Duration::from_millis(10));
        for _ in 0..3 {
            assert!(outbox.next().await.unwrap().is_ok());
        }
    }
}
