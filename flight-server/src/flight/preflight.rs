//! Looks at a client's Arrow message before it is decoded.
//!
//! A compressed buffer begins with its length when decompressed, and the decoder allocates what it says: a message of
//! a few kilobytes can ask for a hundred gigabytes. So the declared lengths are added up first, against
//! [`DECODED_BYTES_MAX`].

use arrow::ipc::{MessageHeader, RecordBatch, root_as_message};
use arrow_flight::FlightData;
use lakehouse::{Error, Result};

/// The most that one message may hold when decompressed, in bytes.
pub const DECODED_BYTES_MAX: u64 = 256 << 20;

/// A declared length of -1 says that the buffer is not compressed after all:
/// <https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message>.
const NOT_COMPRESSED: i64 = -1;

/// The declared length, in bytes.
const LENGTH_BYTES: usize = 8;

/// Refuses what must not be decoded.
///
/// # Errors
/// `Invalid` if the message is damaged, `Exhausted` if it would be too large.
pub(super) fn check(message: &FlightData) -> Result<()> {
    let root = root_as_message(&message.data_header)
        .map_err(|error| damaged("its header is not an Arrow message").because(error.to_string()))?;
    let batch = match root.header_type() {
        MessageHeader::RecordBatch => root.header_as_record_batch(),
        MessageHeader::DictionaryBatch => root.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()),
        _ => None,
    };
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else { return Ok(()) };
    let bytes = decoded_bytes(&batch, &message.data_body)?;
    if bytes > DECODED_BYTES_MAX {
        return Err(Error::exhausted(format!(
            "a batch holds {bytes} bytes when decompressed; the most is {DECODED_BYTES_MAX}: send smaller batches"
        )));
    }
    Ok(())
}

fn decoded_bytes(batch: &RecordBatch<'_>, body: &[u8]) -> Result<u64> {
    let mut total: u64 = 0;
    for buffer in batch.buffers().into_iter().flatten() {
        let within = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let bytes = within.and_then(|(offset, length)| body.get(offset..offset.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| damaged("a buffer lies outside its body"))?;
        if bytes.is_empty() {
            continue;
        }
        let declared = bytes.first_chunk::<LENGTH_BYTES>().ok_or_else(|| damaged("a compressed buffer is cut off"))?;
        let length = match i64::from_le_bytes(*declared) {
            NOT_COMPRESSED => bytes.len() as u64,
            length => u64::try_from(length).map_err(|_| damaged("a compressed buffer declares a negative length"))?,
        };
        total = total.saturating_add(length);
    }
    Ok(total)
}

fn damaged(how: &str) -> Error {
    Error::invalid(format!("the Arrow stream is damaged: {how}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch as Batch};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::encode::FlightDataEncoderBuilder;
    use futures::{TryStreamExt as _, stream};

    use super::*;

    /// A compressed batch of zeros.
    async fn compressed() -> FlightData {
        let zeros = Arc::new(Int64Array::from(vec![0; 10_000]));
        let batch = Batch::try_from_iter([("n", zeros as _)]).unwrap();
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
        let encoder = FlightDataEncoderBuilder::new().with_options(options).build(stream::iter([Ok(batch)]));
        let messages: Vec<FlightData> = encoder.try_collect().await.unwrap();
        messages.into_iter().next_back().unwrap()
    }

    /// Where the values' declared length lies, and the message's body.
    fn declared_length(message: &FlightData) -> (usize, Vec<u8>) {
        let body = message.data_body.to_vec();
        let position = body.windows(8).position(|bytes| bytes == 80_000_i64.to_le_bytes()).unwrap();
        (position, body)
    }

    #[tokio::test]
    async fn an_honest_batch_passes() {
        check(&compressed().await).unwrap();
    }

    #[tokio::test]
    async fn a_forged_length_is_refused_before_it_is_allocated() {
        let mut message = compressed().await;
        let (position, mut body) = declared_length(&message);
        body[position..position + 8].copy_from_slice(&(100_i64 << 30).to_le_bytes());
        message.data_body = body.into();
        let error = check(&message).unwrap_err();
        assert_eq!(error.kind(), lakehouse::Kind::Exhausted);
        assert!(error.to_string().contains("the most is 268435456"), "{error}");
    }

    #[tokio::test]
    async fn a_negative_length_a_short_body_and_a_foreign_header_are_damage() {
        let mut negative = compressed().await;
        let (position, mut body) = declared_length(&negative);
        body[position..position + 8].copy_from_slice(&(-2_i64).to_le_bytes());
        negative.data_body = body.into();
        let mut short = compressed().await;
        short.data_body = short.data_body.slice(..4);
        let mut foreign = compressed().await;
        foreign.data_header = bytes::Bytes::from_static(b"not a flatbuffer");
        for message in [negative, short, foreign] {
            assert_eq!(check(&message).unwrap_err().kind(), lakehouse::Kind::Invalid);
        }
    }
}
