//! Bronze that is JSON, as other services write it: rows become frames, as if they had come over Flight.
//!
//! ```text
//!  object ─► source: text, unpacked ─► split: rows ─► chunks ─► plan: columns ─► rows: Arrow ─► frame 0, 1, …
//!                                         └── what can't be read, a line at a time ──────► damaged
//! ```
//!
//! Exactly-once hangs on numbers: the merge knows a frame by its ingest id and number. So both follow from the object's
//! bytes alone. The ingest id carries the object's key and checksum, so an object that is rewritten is a new ingest. The
//! frames are cut by counting rows and bytes before a single value is read: whatever columns the table has by then, the
//! same row is in the same frame. What may differ from one reading to the next is types, and with them which rows are
//! good; so a frame is in silver or it is not, with all its rows, and its bad lines belong to it.
//!
//! Memory holds one chunk at a time, besides the object itself.

mod chunks;
mod plan;
mod rows;
mod shape;
mod source;
mod split;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion};
use bytes::Bytes;
use lakehouse::definition::Table;
use lakehouse::schema::COLUMNS_MAX;
use lakehouse::{Error, Result};
use proto::frame::Frame;
use proto::{FrameHeader, schema_fingerprint};

use crate::bronze::{BronzeObject, Damaged, FoundFrame};
use chunks::{Chunk, Chunks, Line};
use plan::Plan;

/// The most bytes of an object's text, unpacked: four times what Firehose writes into one object.
/// <https://docs.aws.amazon.com/firehose/latest/dev/limits.html> (buffer size hint, 128 MiB)
pub(crate) const TEXT_BYTES_MAX: u64 = 512 << 20;

/// The most bytes of one row's text.
const ROW_BYTES_MAX: usize = 16 << 20;

/// The most bytes that quarantine keeps of a row's text.
const RAW_BYTES_MAX: usize = 64 << 10;

/// The most rows of a frame, good and bad. Changing it changes the numbers of frames: objects that are half merged by
/// then would be merged wrongly.
const FRAME_LINES_MAX: usize = 4 << 10;

/// Bytes of text that are enough for a frame; its last row may exceed them. It is as hard to change.
const FRAME_TEXT_BYTES_MAX: u64 = 2 << 20;

/// The most values of a frame, those that are missing counted: all columns that a table can have, and what a text of
/// its size can nest in them.
const FRAME_CELLS_MAX: usize = FRAME_LINES_MAX * COLUMNS_MAX + (2 << 20);

/// What frames begin with; its first byte occurs in no UTF-8 text. See [`proto::frame`].
pub(crate) const FRAME_MAGIC: [u8; 4] = [0xf7, 0x4d, 0x9b, 0xe3];

/// What gzip begins with: <https://www.rfc-editor.org/rfc/rfc1952#section-2.3.1>.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The alignment of a payload's buffers, in bytes: the format's least.
const ALIGNMENT: usize = 8;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Frames, or what is left of some.
    Frames,
    /// JSON that is packed.
    Gzip,
    /// Anything else. What is no JSON in it will be told.
    Json,
}

/// What an object is, by its bytes.
pub(crate) fn detect(bytes: &[u8]) -> Format {
    if bytes.starts_with(&GZIP_MAGIC) {
        return Format::Gzip;
    }
    let is_frame = bytes.windows(FRAME_MAGIC.len()).any(|window| window == FRAME_MAGIC);
    if is_frame { Format::Frames } else { Format::Json }
}

/// A frame, and the lines that belong to it and can't be part of it.
#[derive(Debug)]
pub(crate) struct Piece {
    /// None, if the object has no row at all, and something else is wrong with it.
    pub(crate) frame: Option<FoundFrame>,
    pub(crate) damaged: Vec<Damaged>,
}

/// Reads an object that is JSON, packed or not, for a table that stores the columns `stored`. It may have a text of
/// `text_bytes_max` bytes ([`TEXT_BYTES_MAX`]); what follows is told as damage.
///
/// # Errors
/// `Internal` if the table has a column of a type that none can have.
pub(crate) fn read(
    table: &Table,
    stored: Option<&Schema>,
    object: &BronzeObject,
    bytes: Bytes,
    text_bytes_max: u64,
) -> Result<Pieces> {
    Ok(Pieces {
        plan: Plan::new(table, stored)?,
        is_surveyed: false,
        chunks: Chunks::new(bytes.clone(), text_bytes_max),
        ingest_id: format!("object:{}#{:08x}", object.key, crc32c::crc32c(&bytes)),
        table: table.clone(),
        object: object.clone(),
        bytes,
        text_bytes_max,
    })
}

/// What an object holds, in order, read as it is asked for. Blocks.
pub(crate) struct Pieces {
    table: Table,
    object: BronzeObject,
    ingest_id: String,
    bytes: Bytes,
    text_bytes_max: u64,
    chunks: Chunks,
    plan: Plan,
    /// Whether all rows of the object were looked at for their types.
    is_surveyed: bool,
}

impl Iterator for Pieces {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.chunks.next()?;
        Some(self.piece(&chunk))
    }
}

impl Pieces {
    fn piece(&mut self, chunk: &Chunk) -> Result<Piece> {
        let lines = chunk.lines();
        let is_new = |line: &Line<'_>| line.entries.as_ref().is_ok_and(|entries| !self.plan.covers(entries));
        if !self.is_surveyed && lines.iter().any(is_new) {
            self.survey();
        }
        let rows = rows::build(&self.table, &self.plan, &lines)?;
        let bad = rows.bad.iter().filter_map(|(position, reason)| Some(self.bad_line(lines.get(*position)?, reason)));
        let mut damaged: Vec<Damaged> = bad.collect();
        if let Some(stop) = &chunk.stop {
            damaged.push(Damaged {
                object: self.object.key.clone(),
                offset: stop.offset,
                delivered_at_us: self.object.delivered_at_us,
                reason: stop.reason.clone(),
                rule: "damaged",
                line: None,
                raw: None,
            });
        }
        let frame = if chunk.is_empty() { None } else { Some(self.frame(chunk, &rows.batch)?) };
        Ok(Piece { frame, damaged })
    }

    /// Looks at all rows for what the values of each column have in common.
    fn survey(&mut self) {
        for chunk in Chunks::new(self.bytes.clone(), self.text_bytes_max) {
            for line in chunk.lines() {
                if let Ok(entries) = &line.entries {
                    self.plan.learn(entries);
                }
            }
        }
        self.is_surveyed = true;
    }

    fn bad_line(&self, line: &Line<'_>, reason: &str) -> Damaged {
        Damaged {
            object: self.object.key.clone(),
            offset: line.span.offset,
            delivered_at_us: self.object.delivered_at_us,
            reason: format!("line {}: {reason}", line.span.line),
            rule: "json",
            line: Some(line.span.line),
            raw: Some(raw(line)),
        }
    }

    /// The frame of a chunk. Each has one, though it have no good row: numbers without a gap are what the merge keeps
    /// its books by.
    fn frame(&self, chunk: &Chunk, batch: &RecordBatch) -> Result<FoundFrame> {
        let schema = batch.schema_ref();
        let payload = encode(batch).map_err(|error| {
            Error::internal(format!("the rows of bronze object {} can't be made a frame", self.object.key))
                .because(error)
        })?;
        let header = FrameHeader {
            table: self.table.name.to_string(),
            ingest_id: self.ingest_id.clone(),
            frame: chunk.number,
            schema_fingerprint: schema_fingerprint(schema),
            received_at_us: self.object.delivered_at_us,
            rows: batch.num_rows() as u64,
            next_frame: chunk.number + 1,
            is_last: chunk.is_last,
        };
        Ok(FoundFrame {
            frame: Frame { header, payload },
            offset: chunk.offset(),
            bytes: chunk.bytes,
            object: self.object.key.clone(),
            delivered_at_us: self.object.delivered_at_us,
            damaged: Vec::new(),
            origin: None,
        })
    }
}

/// Rows that come one by one, each as a text, at most as many as a frame has: the good ones, and the positions of the
/// others in order, with the reason.
///
/// # Errors
/// `Internal` if the table has a column of a type that none can have.
pub(crate) fn from_texts(
    table: &Table,
    stored: Option<&Schema>,
    texts: &[&str],
) -> Result<(RecordBatch, Vec<(usize, String)>)> {
    let chunk = Chunk::of_texts(texts);
    let lines = chunk.lines();
    let mut plan = Plan::new(table, stored)?;
    lines.iter().flat_map(|line| &line.entries).for_each(|entries| plan.learn(entries));
    let rows = rows::build(table, &plan, &lines)?;
    Ok((rows.batch, rows.bad))
}

/// A frame's payload. It goes nowhere but into this merge, so it may be larger than frames that must fit a record:
/// where frames are cut can't depend on how large their rows become.
fn encode(batch: &RecordBatch) -> Result<Bytes, ArrowError> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?
        .try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options)?;
    if batch.num_rows() > 0 {
        writer.write(batch)?;
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// The text of a line, as far as it is kept.
fn raw(line: &Line<'_>) -> String {
    let kept = String::from_utf8_lossy(line.text.get(..RAW_BYTES_MAX).unwrap_or(line.text));
    let is_whole = line.text.len() <= RAW_BYTES_MAX && line.span.len <= ROW_BYTES_MAX as u64;
    if is_whole {
        return kept.into_owned();
    }
    // The last character may be half there.
    let kept = kept.trim_end_matches(char::REPLACEMENT_CHARACTER);
    format!("{kept}[… cut; {} bytes in all]", line.span.len)
}
