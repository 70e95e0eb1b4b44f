//! Batches to an Arrow IPC stream and back, with Arrow's panics caught.
//!
//! Arrow's IPC code has panics that a schema or metadata can reach (arrow-rs issue 10437). Writer and reader therefore
//! run behind `catch_unwind`; all that they touch is dropped when they panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion};
use bytes::Bytes;

use super::compact::compact;
use super::{Compression, FrameError};
use crate::schema_fingerprint;

/// Bytes that buffers are padded to: the format's least, since small frames would be mostly padding with more.
const ALIGNMENT: usize = 8;

impl From<Compression> for Option<CompressionType> {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => None,
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::Zstd => Some(CompressionType::ZSTD),
        }
    }
}

/// A stream of `schema` and `batches`.
pub(super) fn encode(schema: &Schema, batches: &[RecordBatch], compression: Compression) -> Result<Bytes, FrameError> {
    let fingerprint = schema_fingerprint(schema);
    let same = |batch: &RecordBatch| {
        batch.schema_ref().fields() == schema.fields() || schema_fingerprint(batch.schema_ref()) == fingerprint
    };
    if let Some(batch) = batches.iter().position(|batch| !same(batch)) {
        return Err(FrameError::Schema { batch });
    }
    caught(|| write(schema, batches, compression))?.map_err(FrameError::Encode)
}

fn write(schema: &Schema, batches: &[RecordBatch], compression: Compression) -> Result<Bytes, ArrowError> {
    let options =
        IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?.try_with_compression(compression.into())?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), schema, options)?;
    // Arrow cannot read back all empty arrays that it writes (sliced runs), and no rows are lost without them.
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        writer.write(&compact(batch)?)?;
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// The schema and batches of a stream that passed the preflight.
pub(super) fn decode(payload: &Bytes) -> Result<(SchemaRef, Vec<RecordBatch>), FrameError> {
    caught(|| read(payload))?.map_err(FrameError::Decode)
}

fn read(payload: &Bytes) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let mut rest = Buffer::from(payload.clone());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        batches.extend(decoder.decode(&mut rest)?);
    }
    decoder.finish()?;
    let schema = decoder.schema().ok_or_else(|| ArrowError::IpcError("it has no schema".to_owned()))?;
    Ok((schema, batches))
}

fn caught<T>(call: impl FnOnce() -> T) -> Result<T, FrameError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| FrameError::Panic(panic_text(panic.as_ref())))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_an_error_with_its_text() {
        let error = caught(|| panic!("bit width {}", 33)).unwrap_err();
        assert!(matches!(&error, FrameError::Panic(text) if text == "bit width 33"), "{error}");
        let error = caught(|| panic!("plain")).unwrap_err();
        assert!(matches!(&error, FrameError::Panic(text) if text == "plain"), "{error}");
    }
}
