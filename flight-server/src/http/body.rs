//! Takes a request's body in: all of it, within bounds of size, time, and memory shared by all requests.
//!
//! Rows are taken all or none, so a body is looked at as a whole before any of it goes on. What requests hold at one
//! time comes out of one [`Room`]: the bytes that came, their text, and then the rows that were read from it. When that
//! is used up, the next one is told to come again. While a text is read it takes more than it has bytes, so only some
//! are read at once.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use flate2::read::MultiGzDecoder;
use futures::StreamExt as _;
use lakehouse::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::errors::ApiError;

/// The largest body that is taken as it comes, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// The largest body after it was decompressed, in bytes.
pub const DECODED_BYTES_MAX: usize = 64 << 20;

/// What the bodies of all requests may hold at once, in bytes: four that are as large as can be.
const ROOM_BYTES: usize = 256 << 20;

/// How many large bodies are read at once, and how many small ones: each may take some hundred MiB until its rows lie
/// in columns.
const READ_AT_ONCE_MAX: usize = 2;

/// Bodies of at most this many bytes have turns of their own, so that large ones don't hold them up.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// How long a client may pause in a body.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a body may take in all.
const BODY_TIME_MAX: Duration = Duration::from_secs(120);

/// How long a body that is refused is still read, so that a client that sends before it reads sees the answer.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// How much of a compressed body is decompressed at a time, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// The memory for bodies.
#[derive(Clone, Debug)]
pub(super) struct Room {
    bytes: Arc<Semaphore>,
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Room {
    pub(super) fn new() -> Self {
        let [bytes, large, small] =
            [ROOM_BYTES, READ_AT_ONCE_MAX, READ_AT_ONCE_MAX].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { bytes, large, small }
    }

    /// Waits until a body may be read. Its turn ends when what this gives is dropped.
    pub(super) async fn turn(&self, body: &Held, encoding: Encoding) -> Option<OwnedSemaphorePermit> {
        let turns = if body.is_small(encoding) { &self.small } else { &self.large };
        // The semaphores are never closed.
        Arc::clone(turns).acquire_owned().await.ok()
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.bytes).try_acquire_many_owned(count).map_err(|_| {
            let what = "the server holds as many bodies as it can; send this one again in a moment";
            ApiError::from(Error::exhausted(what))
        })
    }
}

/// A part of the room, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    permit: OwnedSemaphorePermit,
}

impl Share {
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.permit.merge(self.room.take(bytes)?);
        Ok(())
    }

    /// Makes it this large: what was read takes other room than its text.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.permit.num_permits();
        if bytes > held {
            return self.grow(bytes - held);
        }
        drop(self.permit.split(held - bytes));
        Ok(())
    }
}

/// A body, and its share of the room.
pub(super) struct Held {
    bytes: Vec<u8>,
    share: Share,
}

/// Reads a body.
///
/// # Errors
/// If it is too large or too slow, if it breaks off, or if there is no room for it.
pub(super) async fn read(headers: &HeaderMap, body: Body, room: &Room) -> Result<Held, ApiError> {
    let share = Share { permit: room.take(0)?, room: room.clone() };
    let mut held = Held { bytes: Vec::new(), share };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut pieces = body.into_data_stream();
    let refused = if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
        too_large()
    } else {
        match fill(&mut held, &mut pieces).await {
            Ok(()) => return Ok(held),
            Err(refused) => refused,
        }
    };
    // Who waits for leave to send need not be read out.
    if !headers.contains_key(EXPECT) {
        let drain = async { while let Some(Ok(_)) = pieces.next().await {} };
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain).await;
    }
    Err(refused)
}

async fn fill(held: &mut Held, pieces: &mut axum::body::BodyDataStream) -> Result<(), ApiError> {
    let end = Instant::now() + BODY_TIME_MAX;
    loop {
        let until = end.min(Instant::now() + PAUSE_MAX);
        let piece = match tokio::time::timeout_at(until, pieces.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return Err(ApiError::invalid(format!("the body breaks off: {error}"))),
            Err(_elapsed) => return Err(too_slow()),
        };
        if held.bytes.len() + piece.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        held.share.grow(piece.len())?;
        held.bytes.extend_from_slice(&piece);
    }
}

fn too_large() -> ApiError {
    ApiError::too_large(format!(
        "the body has more than {BODY_BYTES_MAX} bytes; send it in parts, or compressed (content-encoding: gzip)"
    ))
}

fn too_slow() -> ApiError {
    ApiError::too_slow(format!(
        "the body did not come within {} s, or paused for {} s; send it in parts, or faster",
        BODY_TIME_MAX.as_secs(),
        PAUSE_MAX.as_secs()
    ))
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut names = headers.get_all(CONTENT_ENCODING).iter();
        let (name, more) = (names.next(), names.next());
        match name.map(|name| name.to_str().unwrap_or("?").trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") if more.is_none() => Ok(Self::Plain),
            Some("gzip" | "x-gzip") if more.is_none() => Ok(Self::Gzip),
            other => Err(ApiError::unsupported(format!(
                "content-encoding {} is not known; send gzip, or leave it out",
                other.unwrap_or_default()
            ))),
        }
    }
}

impl Held {
    fn is_small(&self, encoding: Encoding) -> bool {
        encoding == Encoding::Plain && self.bytes.len() <= SMALL_BYTES_MAX
    }

    /// The body as text. Takes time, so it is not for an async task.
    pub(super) fn into_text(mut self, encoding: Encoding) -> Result<(String, Share), ApiError> {
        if encoding == Encoding::Gzip {
            self.decompress()?;
        }
        let text = String::from_utf8(self.bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            ApiError::invalid(format!("the body is not UTF-8 from byte {at} on; encode it so"))
        })?;
        Ok((text, self.share))
    }

    fn decompress(&mut self) -> Result<(), ApiError> {
        let compressed = std::mem::take(&mut self.bytes);
        let mut decoder = MultiGzDecoder::new(compressed.as_slice());
        loop {
            self.share.grow(PIECE_BYTES)?;
            let limit = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
            let read = decoder.by_ref().take(limit).read_to_end(&mut self.bytes);
            let count = read.map_err(|error| ApiError::invalid(format!("the body is no gzip, or damaged: {error}")))?;
            if count == 0 {
                return Ok(());
            }
            if self.bytes.len() > DECODED_BYTES_MAX {
                return Err(ApiError::too_large(format!(
                    "the body has more than {DECODED_BYTES_MAX} bytes when decompressed; send it in parts"
                )));
            }
        }
    }
}

/// The media type of a body in lower case, without parameters; empty if there is none.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures::stream;

    use super::*;

    fn held(bytes: Vec<u8>) -> Held {
        let room = Room::new();
        let permit = room.take(bytes.len()).unwrap();
        Held { bytes, share: Share { room, permit } }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_opened_in_all_its_members() {
        let compressed = [gzip("{\"a\":1}\n".as_bytes()), gzip("{\"a\":2}\n".as_bytes())].concat();
        let (text, _) = held(compressed).into_text(Encoding::Gzip).unwrap();
        assert_eq!(text, "{\"a\":1}\n{\"a\":2}\n");
    }

    #[test]
    fn a_bomb_is_refused_and_its_room_is_given_back() {
        let bomb = held(gzip(&vec![b' '; DECODED_BYTES_MAX + 1]));
        assert!(bomb.bytes.len() < 1 << 20);
        let room = bomb.share.room.clone();
        let error = bomb.into_text(Encoding::Gzip).unwrap_err();
        assert_eq!(error.status().as_u16(), 413, "{}", error.message());
        assert_eq!(room.bytes.available_permits(), ROOM_BYTES);
    }

    #[test]
    fn what_is_no_gzip_or_no_text_is_refused() {
        for (bytes, encoding, word) in [
            (b"{}".to_vec(), Encoding::Gzip, "gzip"),
            (gzip(b"{}")[..12].to_vec(), Encoding::Gzip, "gzip"),
            (b"{\"a\":\"\xff\"}".to_vec(), Encoding::Plain, "byte 6"),
        ] {
            let error = held(bytes).into_text(encoding).unwrap_err();
            assert!(error.message().contains(word), "{}", error.message());
        }
    }

    #[test]
    fn only_gzip_and_plain_bodies_are_known() {
        let of = |name: &'static str| {
            Encoding::of(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(name))]))
        };
        assert_eq!(Encoding::of(&HeaderMap::new()).unwrap(), Encoding::Plain);
        assert_eq!(of("identity").unwrap(), Encoding::Plain);
        assert_eq!(of("GZIP").unwrap(), Encoding::Gzip);
        for other in ["br", "gzip, gzip", "deflate"] {
            assert_eq!(of(other).unwrap_err().status().as_u16(), 415, "{other}");
        }
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_cut_off_at_the_limit() {
        let piece = bytes::Bytes::from(vec![b' '; 1 << 20]);
        let endless = stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())).take(40);
        let room = Room::new();
        let error = read(&HeaderMap::new(), Body::from_stream(endless), &room).await.err().unwrap();
        assert_eq!(error.status().as_u16(), 413);
        assert_eq!(room.bytes.available_permits(), ROOM_BYTES);
    }

    #[tokio::test]
    async fn bodies_beyond_the_room_are_told_to_come_again() {
        let room = Room::new();
        let all = room.take(ROOM_BYTES - 1).unwrap();
        let error = read(&HeaderMap::new(), Body::from("{}"), &room).await.err().unwrap();
        assert_eq!(error.status().as_u16(), 429);
        drop(all);
        read(&HeaderMap::new(), Body::from("{}"), &room).await.unwrap();
    }

    #[test]
    fn rows_take_the_place_of_their_text() {
        let (_, mut share) = held(vec![b' '; 1000]).into_text(Encoding::Plain).unwrap();
        let bytes = Arc::clone(&share.room.bytes);
        for size in [1500, 10, 0, ROOM_BYTES] {
            share.resize(size).unwrap();
            assert_eq!(bytes.available_permits(), ROOM_BYTES - size);
        }
        assert_eq!(share.resize(ROOM_BYTES + 1).unwrap_err().status().as_u16(), 429);
        drop(share);
        assert_eq!(bytes.available_permits(), ROOM_BYTES);
    }

    #[tokio::test]
    async fn bodies_are_read_some_at_once() {
        let room = Room::new();
        let (large, small) = (held(vec![b' '; SMALL_BYTES_MAX + 1]), held(vec![b' '; SMALL_BYTES_MAX]));
        let turn = |body| room.turn(body, Encoding::Plain);
        let turns = [turn(&large).await, turn(&large).await];
        let mut next = Box::pin(turn(&large));
        assert!(futures::poll!(next.as_mut()).is_pending());
        // Who knows what is in a compressed one.
        let mut compressed = Box::pin(room.turn(&small, Encoding::Gzip));
        assert!(futures::poll!(compressed.as_mut()).is_pending());
        assert!(turn(&small).await.is_some());
        drop(turns);
        assert!(next.await.is_some() && compressed.await.is_some());
    }
}
