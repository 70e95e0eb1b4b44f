//! A client's messages, decoded: they are trusted in nothing.
//!
//! Each message is looked through before Arrow decodes it ([`preflight`](super::preflight)), and takes its decoded
//! bytes from a budget that all producers of the server share, for as long as its batch is held. A panic of the decoder
//! ends the call that caused it and nothing else.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::decode::{DecodedFlightData, DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future};
use lakehouse::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::preflight::{DECODED_BYTES_MAX, Preflight, Weight};
use super::server::MESSAGE_BYTES_MAX;
use super::status::status;

/// What a permit of the budget stands for, in bytes.
const UNIT_BYTES: u64 = 1 << 10;

/// How long a message waits for its part of the budget.
const BUDGET_WAIT_MAX: Duration = Duration::from_secs(60);

/// Messages of at most this many bytes cost nothing: small ones get through whatever others do.
const FREE_BYTES: u64 = 256 << 10;

/// Memory for decoded messages, shared by all producers.
#[derive(Clone)]
pub(super) struct Decoding {
    batches: Arc<Semaphore>,
    /// Dictionaries stay for as long as their stream, which may idle for days: they must not be in the way of batches.
    dictionaries: Arc<Semaphore>,
}

impl Decoding {
    /// A budget of `bytes` for batches, and at least that of one message; half as much for dictionaries.
    pub(super) fn new(bytes: u64) -> Self {
        let room = |bytes: u64| {
            let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
        };
        let bytes = bytes.max(DECODED_BYTES_MAX);
        Self { batches: room(bytes), dictionaries: room(bytes / 2) }
    }

    async fn take(&self, weight: Weight) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if weight.bytes <= FREE_BYTES {
            return Ok(None);
        }
        let room = if weight.dictionary.is_some() { &self.dictionaries } else { &self.batches };
        let units = u32::try_from(weight.bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let taken = tokio::time::timeout(BUDGET_WAIT_MAX, Arc::clone(room).acquire_many_owned(units)).await;
        taken.ok().and_then(Result::ok).map(Some).ok_or_else(|| {
            Error::exhausted(format!(
                "the server's memory for incoming batches was in use for {} s; send again later, or smaller batches",
                BUDGET_WAIT_MAX.as_secs()
            ))
        })
    }
}

/// Decodes a client's messages, trusting none of them.
pub(super) struct Batches {
    decoder: FlightDataDecoder,
    /// What the messages that are decoded take of the budget.
    held: Arc<Mutex<Held>>,
    /// What came with the schema.
    pub(super) metadata: Bytes,
}

/// A batch, and its part of the budget for as long as it is held.
pub(super) struct Arrived {
    pub(super) batch: RecordBatch,
    pub(super) metadata: Bytes,
    _held: Option<OwnedSemaphorePermit>,
}

/// Parts of the budget: the newest message's until its batch is given out, and those of dictionaries by their ids.
#[derive(Default)]
struct Held {
    message: Option<OwnedSemaphorePermit>,
    dictionaries: BTreeMap<i64, Option<OwnedSemaphorePermit>>,
}

impl Held {
    fn add(&mut self, weight: Weight, taken: Option<OwnedSemaphorePermit>) {
        match weight.dictionary {
            Some(id) => drop(self.dictionaries.insert(id, taken)),
            None => self.message = taken,
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Batches {
    pub(super) fn new(
        messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
        decoding: Decoding,
    ) -> Self {
        // The first message may carry the command alone.
        let messages = messages.try_filter(|message| future::ready(!message.data_header.is_empty()));
        let held = Arc::<Mutex<Held>>::default();
        let its = Arc::clone(&held);
        let mut preflight = Preflight::default();
        let checked = messages.then(move |message| {
            let message = message.map_err(from_transport);
            let checked = message.and_then(|message| {
                let weight = preflight.check(&message).map_err(status)?;
                Ok((message, weight))
            });
            let (decoding, held) = (decoding.clone(), Arc::clone(&its));
            async move {
                let (message, weight) = checked?;
                let taken = decoding.take(weight).await.map_err(status)?;
                lock(&held).add(weight, taken);
                Ok::<_, FlightError>(message)
            }
        });
        Self { decoder: FlightDataDecoder::new(checked), held, metadata: Bytes::new() }
    }

    pub(super) async fn schema(&mut self) -> Result<SchemaRef, Status> {
        self.schema_if_any().await?.ok_or_else(|| damaged("it does not begin with a schema"))
    }

    /// `None` if there is no message at all.
    pub(super) async fn schema_if_any(&mut self) -> Result<Option<SchemaRef>, Status> {
        let Some(DecodedFlightData { inner, payload }) = self.payload().await? else { return Ok(None) };
        let DecodedPayload::Schema(schema) = payload else { return Err(damaged("it does not begin with a schema")) };
        self.metadata = inner.app_metadata;
        Ok(Some(schema))
    }

    /// The next batch, with what came with it. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Arrived>, Status> {
        let Some(DecodedFlightData { inner, payload }) = self.payload().await? else { return Ok(None) };
        let DecodedPayload::RecordBatch(batch) = payload else {
            return Err(damaged("it has a second schema; send batches of one schema an ingest"));
        };
        let held = lock(&self.held).message.take();
        Ok(Some(Arrived { batch, metadata: inner.app_metadata, _held: held }))
    }

    /// The next message that says something.
    async fn payload(&mut self) -> Result<Option<DecodedFlightData>, Status> {
        loop {
            // The decoder can panic on a hostile schema or batch; it is not used again after that.
            let decoded = AssertUnwindSafe(self.decoder.next()).catch_unwind().await;
            match decoded.map_err(|_| damaged("a message can't be decoded"))?.transpose().map_err(undecodable)? {
                Some(data) if matches!(data.payload, DecodedPayload::None) => {}
                other => return Ok(other),
            }
        }
    }
}

fn damaged(how: &str) -> Status {
    status(Error::invalid(format!("the Arrow stream is damaged: {}", how.trim_end())))
}

fn undecodable(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => damaged(&other.to_string()),
    }
}

/// gRPC's own refusal of a large message does not say what to do about it.
fn from_transport(refusal: Status) -> Status {
    if refusal.code() == Code::OutOfRange {
        return status(Error::exhausted(format!(
            "a message has more than {MESSAGE_BYTES_MAX} bytes; send smaller batches"
        )));
    }
    refusal
}
