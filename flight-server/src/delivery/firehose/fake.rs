//! A Firehose on loopback that remembers what it was given, and misbehaves as it is told.
//!
//! It speaks PutRecordBatch over real HTTP and enforces what the service does: 500 records and 4 MiB a call, 1,000 KiB a
//! record, all before base64. Each delivery stream can have a quota, a script of [`Fault`]s, and a [`Plan`] of faults
//! that follows from a seed alone, so that a failure can be had again.
//!
//! Tests compile it as a module, `examples/firehose_fake.rs` as a program; so it uses nothing of this crate, and says
//! where its own modules lie, which would be looked for elsewhere from there.

#[path = "fake/faults.rs"]
mod faults;
#[path = "fake/wire.rs"]
mod wire;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

pub use faults::{Fault, Plan};
use wire::{Batch, broken_off, decoded_len, refused, verdicts};

/// The most records of a call, bytes of a call and bytes of a record
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>).
const CALL_RECORDS_MAX: usize = 500;
const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;
const RECORD_BYTES_MAX: usize = 1_000 * 1024;

/// The most bytes of a request: a full call in base64, and what is around it.
const REQUEST_BYTES_MAX: usize = 6 * 1024 * 1024;

/// What a record is billed in multiples of (<https://aws.amazon.com/firehose/pricing/>).
const BILLED_UNIT_BYTES: u64 = 5 * 1024;

/// From how many bytes on a record counts as large.
const LARGE_RECORD_BYTES: usize = 900 * 1024;

/// What a fake is like.
#[derive(Clone, Debug, Default)]
pub struct FakeOptions {
    /// The delivery streams that exist; none: whichever is asked for.
    pub streams: Option<Vec<String>>,
    /// Keeps records and calls, for tests to look at; otherwise they are only counted, which is faster.
    pub keep: bool,
    /// What each stream takes a second, in bytes. It may be ahead by one second's worth.
    pub quota_bytes_per_second: Option<u64>,
}

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FakeStats {
    /// Records taken, each time that they were.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their bytes as they would be billed.
    pub billed_bytes: u64,
    /// Records over 900 KiB.
    pub records_over_900_kib: u64,
    /// Their bytes.
    pub bytes_in_records_over_900_kib: u64,
    /// Calls, whatever became of them.
    pub calls: u64,
    /// Records sent that were not taken.
    pub refused_records: u64,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The delivery stream.
    pub stream: String,
    /// What was done to it.
    pub fault: Fault,
    /// What it carried.
    pub records: Vec<Bytes>,
    /// Which of these were taken.
    pub taken: Vec<bool>,
}

/// A running fake; it stops when it is dropped.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    options: FakeOptions,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    streams: HashMap<String, Stream>,
    seen: Vec<Seen>,
    stalled_until: Option<Instant>,
}

/// One delivery stream.
#[derive(Debug, Default)]
struct Stream {
    stats: FakeStats,
    kept: Vec<Bytes>,
    script: VecDeque<Fault>,
    plan: Option<Plan>,
    /// The bytes that it takes at once, and since when; none before its first call.
    tokens: Option<(f64, Instant)>,
}

impl Fake {
    /// Serves on `listener`.
    pub fn start(listener: TcpListener, options: FakeOptions) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { options, memory: Mutex::default() });
        let routes = Router::new()
            .route("/", post(put_record_batch))
            .route("/stats", get(stats))
            .route("/stall", post(stall))
            .with_state(shared.clone());
        let server = tokio::spawn(async move {
            // It never ends by itself, and never fails.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { shared, address, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The records that a stream took, in order.
    pub fn kept(&self, stream: &str) -> Vec<Bytes> {
        self.shared.lock().streams.get(stream).map(|stream| stream.kept.clone()).unwrap_or_default()
    }

    /// The calls to a stream, in order.
    pub fn seen(&self, stream: &str) -> Vec<Seen> {
        self.shared.lock().seen.iter().filter(|seen| seen.stream == stream).cloned().collect()
    }

    /// What all streams took.
    pub fn stats(&self) -> FakeStats {
        self.shared.lock().stats()
    }

    /// The next calls to a stream go wrong in these ways, in order.
    pub fn script(&self, stream: &str, faults: impl IntoIterator<Item = Fault>) {
        self.shared.lock().stream(stream).script.extend(faults);
    }

    /// Calls to a stream that no script covers go by `plan`.
    pub fn plan(&self, stream: &str, plan: Plan) {
        self.shared.lock().stream(stream).plan = Some(plan);
    }

    /// Nothing is taken or answered for so long.
    pub fn stall(&self, time: Duration) {
        self.shared.stall(time);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn put_record_batch(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    if target != Some("Firehose_20150804.PutRecordBatch") {
        return refused(400, "UnknownOperationException", "only PutRecordBatch is known here");
    }
    let Ok(body) = to_bytes(request.into_body(), REQUEST_BYTES_MAX).await else {
        return refused(400, "SerializationException", "the request is too large, or broke off");
    };
    let batch: Batch<'_> = match serde_json::from_slice(&body) {
        Ok(batch) => batch,
        Err(error) => return refused(400, "SerializationException", &error.to_string()),
    };
    shared.stalled().await;
    if let Some(refusal) = shared.refusal(&batch) {
        return refusal;
    }
    let fault = shared.next_fault(&batch);
    if let Fault::Slow(time) = fault {
        sleep(time).await;
    }
    let Some(taken) = shared.land(&batch, &fault) else {
        return refused(400, "SerializationException", "the data of a record is no base64");
    };
    answer(fault, &taken).await
}

/// The answer to a call after which `taken` says what was taken.
async fn answer(fault: Fault, taken: &[bool]) -> Response {
    match fault {
        Fault::Refused { status, code } => refused(status, &code, "as scripted"),
        Fault::Reset | Fault::AnswerLost => broken_off(),
        Fault::BrokenAfter => refused(500, "InternalFailure", "as scripted"),
        Fault::AnswerLate(time) => {
            sleep(time).await;
            verdicts(taken)
        }
        Fault::None | Fault::Slow(_) | Fault::Records(_) => match taken.is_empty() || taken.contains(&true) {
            true => verdicts(taken),
            false => refused(500, "ServiceUnavailableException", "Slow down."),
        },
    }
}

async fn stats(State(shared): State<Arc<Shared>>) -> Response {
    let memory = shared.lock();
    let streams: HashMap<_, _> = memory.streams.iter().map(|(name, stream)| (name.clone(), &stream.stats)).collect();
    let mut stats = serde_json::json!(memory.stats());
    if let Some(stats) = stats.as_object_mut() {
        stats.insert("streams".to_owned(), serde_json::json!(streams));
    }
    json(stats.to_string())
}

#[derive(Deserialize)]
struct Stall {
    seconds: f64,
}

async fn stall(State(shared): State<Arc<Shared>>, Query(stall): Query<Stall>) -> Response {
    match Duration::try_from_secs_f64(stall.seconds) {
        Ok(time) => {
            shared.stall(time);
            json("{}".to_owned())
        }
        Err(error) => (axum::http::StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

fn json(text: String) -> Response {
    ([("content-type", "application/json")], Body::from(text)).into_response()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stall(&self, time: Duration) {
        self.lock().stalled_until = Instant::now().checked_add(time);
    }

    async fn stalled(&self) {
        let until = self.lock().stalled_until;
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }

    /// What the service itself would refuse.
    fn refusal(&self, batch: &Batch<'_>) -> Option<Response> {
        self.lock().stream(&batch.stream).stats.calls += 1;
        let lens: Vec<usize> = batch.records.iter().map(|record| decoded_len(&record.data)).collect();
        let invalid = |what: &str| Some(refused(400, "InvalidArgumentException", what));
        if self.options.streams.as_ref().is_some_and(|streams| !streams.iter().any(|name| *name == batch.stream)) {
            return Some(refused(400, "ResourceNotFoundException", "Firehose not found under this account."));
        }
        if lens.is_empty() || lens.len() > CALL_RECORDS_MAX {
            return invalid("a call has 1 to 500 records");
        }
        if lens.iter().any(|len| *len > RECORD_BYTES_MAX) {
            return invalid("a record has at most 1,000 KiB");
        }
        if lens.iter().sum::<usize>() > CALL_BYTES_MAX {
            return invalid("a call has at most 4 MiB");
        }
        None
    }

    fn next_fault(&self, batch: &Batch<'_>) -> Fault {
        let mut memory = self.lock();
        let stream = memory.stream(&batch.stream);
        let call = stream.stats.calls;
        stream
            .script
            .pop_front()
            .or_else(|| stream.plan.map(|plan| plan.fault(call, batch.records.len())))
            .unwrap_or(Fault::None)
    }

    /// Takes what the fault and the quota leave. None if a record can't be decoded.
    fn land(&self, batch: &Batch<'_>, fault: &Fault) -> Option<Vec<bool>> {
        // Decoding is the dear part: it is done before the lock is taken, and only for those who will look.
        let decode = |data: &str| STANDARD.decode(data).map(Bytes::from).ok();
        let decoded = match self.options.keep {
            true => batch.records.iter().map(|record| decode(&record.data)).collect::<Option<Vec<_>>>()?,
            false => Vec::new(),
        };
        let mut memory = self.lock();
        let stream = memory.stream(&batch.stream);
        let mut taken = Vec::with_capacity(batch.records.len());
        for (position, record) in batch.records.iter().enumerate() {
            let bytes = decoded_len(&record.data);
            let takes = fault.takes(position) && stream.has_room(bytes, self.options.quota_bytes_per_second);
            stream.count(bytes, takes);
            if takes {
                stream.kept.extend(decoded.get(position).cloned());
            }
            taken.push(takes);
        }
        if self.options.keep {
            let (stream, fault) = (batch.stream.to_string(), fault.clone());
            memory.seen.push(Seen { stream, fault, records: decoded, taken: taken.clone() });
        }
        Some(taken)
    }
}

impl Memory {
    fn stream(&mut self, name: &str) -> &mut Stream {
        self.streams.entry(name.to_owned()).or_default()
    }

    fn stats(&self) -> FakeStats {
        let mut sum = FakeStats::default();
        for FakeStats {
            records,
            bytes,
            billed_bytes,
            records_over_900_kib,
            bytes_in_records_over_900_kib,
            calls,
            refused_records,
        } in self.streams.values().map(|stream| &stream.stats)
        {
            sum.records += records;
            sum.bytes += bytes;
            sum.billed_bytes += billed_bytes;
            sum.records_over_900_kib += records_over_900_kib;
            sum.bytes_in_records_over_900_kib += bytes_in_records_over_900_kib;
            sum.calls += calls;
            sum.refused_records += refused_records;
        }
        sum
    }
}

impl Stream {
    /// Whether the quota has room for a record now; if so, it is used.
    fn has_room(&mut self, bytes: usize, quota: Option<u64>) -> bool {
        let Some(quota) = quota.map(|quota| quota as f64) else { return true };
        let now = Instant::now();
        // Whatever the quota, a record of the largest size gets through.
        let most = quota.max(RECORD_BYTES_MAX as f64);
        let (tokens, since) = self.tokens.unwrap_or((most, now));
        let tokens = (tokens + now.saturating_duration_since(since).as_secs_f64() * quota).min(most);
        let has_room = tokens >= bytes as f64;
        self.tokens = Some((if has_room { tokens - bytes as f64 } else { tokens }, now));
        has_room
    }

    fn count(&mut self, bytes: usize, taken: bool) {
        let stats = &mut self.stats;
        if !taken {
            stats.refused_records += 1;
            return;
        }
        stats.records += 1;
        stats.bytes += bytes as u64;
        stats.billed_bytes += (bytes as u64).div_ceil(BILLED_UNIT_BYTES).max(1) * BILLED_UNIT_BYTES;
        if bytes > LARGE_RECORD_BYTES {
            stats.records_over_900_kib += 1;
            stats.bytes_in_records_over_900_kib += bytes as u64;
        }
    }
}
