//! Looks at a client's Arrow messages before they are decoded: [`proto::message`] does, this says it in our errors.

use arrow_flight::FlightData;
use lakehouse::{Error, Result};
use proto::message::{Checked, MessageError, Messages};

pub use proto::message::DECODED_BYTES_MAX;

/// What a message takes when it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    /// In bytes.
    pub(super) bytes: u64,
    /// The dictionary that it is; the decoder holds it until another one of this id comes.
    pub(super) dictionary: Option<i64>,
}

/// Looks through the messages of one call, in their order.
#[derive(Default)]
pub(super) struct Preflight(Messages);

impl Preflight {
    /// What the next message takes.
    ///
    /// # Errors
    /// `Invalid` if the message is damaged, `Exhausted` if it would be too large.
    pub(super) fn check(&mut self, message: &FlightData) -> Result<Weight> {
        // A decoded buffer keeps the whole body alive that it lies in, however little of it is used.
        let body = message.data_body.len() as u64;
        match self.0.check(&message.data_header, &message.data_body).map_err(refuse)? {
            Checked::Schema => Ok(Weight { bytes: message.data_header.len() as u64, dictionary: None }),
            Checked::Batch { bytes, .. } => Ok(Weight { bytes: bytes.max(body), dictionary: None }),
            Checked::Dictionary { id, bytes } => Ok(Weight { bytes: bytes.max(body), dictionary: Some(id) }),
        }
    }
}

fn refuse(error: MessageError) -> Error {
    match error {
        MessageError::TooLarge { most, .. } => Error::exhausted(format!(
            "a batch, or the dictionaries of an ingest, takes more than {most} bytes when decompressed; send smaller \
             batches"
        )),
        MessageError::TooManyRows { rows, most } => {
            Error::exhausted(format!("a batch has {rows} rows; the most is {most}: send smaller batches"))
        }
        damaged => Error::invalid(format!("the Arrow stream is damaged: {damaged}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::encode::FlightDataEncoderBuilder;
    use futures::{TryStreamExt as _, stream};
    use lakehouse::Kind;

    use super::*;

    /// A schema and a compressed batch of zeros.
    async fn messages() -> Vec<FlightData> {
        let zeros = Arc::new(Int64Array::from(vec![0; 10_000]));
        let batch = RecordBatch::try_from_iter([("n", zeros as _)]).unwrap();
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
        let encoder = FlightDataEncoderBuilder::new().with_options(options).build(stream::iter([Ok(batch)]));
        encoder.try_collect().await.unwrap()
    }

    /// The batch, with another length than it has.
    async fn forged(declared: i64) -> FlightData {
        let mut message = messages().await.pop().unwrap();
        let mut body = message.data_body.to_vec();
        let position = body.windows(8).position(|bytes| bytes == 80_000_i64.to_le_bytes()).unwrap();
        body[position..position + 8].copy_from_slice(&declared.to_le_bytes());
        message.data_body = body.into();
        message
    }

    fn kind(message: &FlightData) -> Kind {
        Preflight::default().check(message).unwrap_err().kind()
    }

    #[tokio::test]
    async fn an_honest_stream_passes_and_says_what_it_takes() {
        let mut preflight = Preflight::default();
        let bytes: Vec<u64> = messages().await.iter().map(|message| preflight.check(message).unwrap().bytes).collect();
        assert!(matches!(bytes[..], [1..=4_000, 80_000..=81_000]), "{bytes:?}");
    }

    #[tokio::test]
    async fn what_would_be_too_large_is_exhausted_and_damage_is_invalid() {
        assert_eq!(kind(&forged(100 << 30).await), Kind::Exhausted);
        assert_eq!(kind(&forged(-2).await), Kind::Invalid);
        let mut short = forged(80_000).await;
        short.data_body = short.data_body.slice(..4);
        assert_eq!(kind(&short), Kind::Invalid);
        let foreign =
            FlightData { data_header: bytes::Bytes::from_static(b"not a flatbuffer"), ..FlightData::default() };
        assert_eq!(kind(&foreign), Kind::Invalid);
    }
}
