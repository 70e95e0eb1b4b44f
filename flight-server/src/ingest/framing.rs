//! Batches to frames to records, as pure functions of what came in.
//!
//! Batches are gathered until they have [`GATHERED_BYTES`] in memory, so that small ones share a frame; what does not
//! fit in one frame is halved until it does. Frames are laid end to end into records.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{Bytes, BytesMut};
use lakehouse::{Error, Result};
use proto::frame::{Compression, Frame, FrameError, FrameOrigin};

use crate::engine::batch_bytes;

/// Bytes in memory of the rows that are framed together. Compressed, they make a record of some hundred KiB.
const GATHERED_BYTES: usize = 2 << 20;

/// The most rows that are framed together.
const GATHERED_ROWS: usize = 64 << 10;

/// Gathers batches of one schema and frames them.
pub(super) struct Framer {
    schema: SchemaRef,
    compression: Compression,
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
    gathered_rows: usize,
}

impl Framer {
    pub(super) fn new(schema: SchemaRef, compression: Compression) -> Self {
        Self { schema, compression, gathered: Vec::new(), gathered_bytes: 0, gathered_rows: 0 }
    }

    /// Takes a batch; gives the rows that are to be framed now, each group for one frame.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Vec<Vec<RecordBatch>> {
        let mut ready = Vec::new();
        for piece in cut(batch) {
            let bytes = batch_bytes(&piece);
            let is_full =
                self.gathered_bytes + bytes > GATHERED_BYTES || self.gathered_rows + piece.num_rows() > GATHERED_ROWS;
            if is_full {
                ready.extend(self.rest());
            }
            self.gathered_bytes += bytes;
            self.gathered_rows += piece.num_rows();
            self.gathered.push(piece);
        }
        ready
    }

    /// The rows that are gathered, if any.
    pub(super) fn rest(&mut self) -> Vec<Vec<RecordBatch>> {
        self.gathered_bytes = 0;
        self.gathered_rows = 0;
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.is_empty() { Vec::new() } else { vec![gathered] }
    }

    /// Encodes rows as one frame, or as several if one can't hold them, numbered from `next`. Gives each frame with
    /// its rows.
    pub(super) fn encode(&self, origin: FrameOrigin, next: u64, rows: Vec<RecordBatch>) -> Result<Vec<(Bytes, u64)>> {
        let mut frames = Vec::new();
        let mut waiting = vec![rows];
        while let Some(rows) = waiting.pop() {
            let origin = FrameOrigin { frame: next + frames.len() as u64, ..origin.clone() };
            let table = origin.table.clone();
            let encoded = Frame::from_batches(origin, &self.schema, &rows, self.compression)
                .and_then(|frame| Ok((frame.encode()?, frame.header.rows)));
            match encoded {
                Ok(frame) => frames.push(frame),
                Err(error) if asks_for_fewer_rows(&error) => {
                    let Some((head, tail)) = halve(&rows) else {
                        return Err(Error::invalid(format!(
                            "a single row of the ingest into table {table:?} is too large; make its values smaller"
                        ))
                        .because(error));
                    };
                    waiting.push(tail);
                    waiting.push(head);
                }
                Err(error) => {
                    return Err(Error::invalid(format!("the rows of the ingest into table {table:?} can't be framed"))
                        .because(error));
                }
            }
        }
        Ok(frames)
    }
}

fn asks_for_fewer_rows(error: &FrameError) -> bool {
    matches!(error, FrameError::TooLarge { .. } | FrameError::TooManyRows { .. } | FrameError::DecodedTooLarge { .. })
}

/// Cuts a batch into pieces of about [`GATHERED_BYTES`]; none of no rows.
fn cut(batch: RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Vec::new();
    }
    let row_bytes = batch_bytes(&batch).div_ceil(rows).max(1);
    let piece = (GATHERED_BYTES / row_bytes).clamp(1, GATHERED_ROWS);
    (0..rows).step_by(piece).map(|start| batch.slice(start, piece.min(rows - start))).collect()
}

/// The first and the second half of some rows; `None` for a single row.
fn halve(batches: &[RecordBatch]) -> Option<(Vec<RecordBatch>, Vec<RecordBatch>)> {
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if total < 2 {
        return None;
    }
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut room = total / 2;
    for batch in batches {
        let taken = room.min(batch.num_rows());
        if taken > 0 {
            head.push(batch.slice(0, taken));
        }
        if taken < batch.num_rows() {
            tail.push(batch.slice(taken, batch.num_rows() - taken));
        }
        room -= taken;
    }
    Some((head, tail))
}

/// Lays frames end to end into as few records of at most `record_bytes_max` as their order allows.
pub(super) fn records(frames: Vec<Bytes>, record_bytes_max: usize) -> Vec<Bytes> {
    let mut records = Vec::new();
    let mut open: Vec<Bytes> = Vec::new();
    let mut open_bytes = 0;
    for frame in frames {
        if open_bytes + frame.len() > record_bytes_max && !open.is_empty() {
            records.push(join(std::mem::take(&mut open)));
            open_bytes = 0;
        }
        open_bytes += frame.len();
        open.push(frame);
    }
    if !open.is_empty() {
        records.push(join(open));
    }
    records
}

fn join(mut frames: Vec<Bytes>) -> Bytes {
    if frames.len() == 1 {
        return frames.remove(0);
    }
    let mut record = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    frames.iter().for_each(|frame| record.extend_from_slice(frame));
    record.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;
    use proto::frame::{FRAME_BYTES_MAX, FrameReader, Item};

    use super::*;

    fn batch(first: i64, texts: &[String]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, false)]);
        let numbers = Int64Array::from_iter_values(first..first + texts.len() as i64);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(numbers), Arc::new(StringArray::from(texts.to_vec()))])
            .unwrap()
    }

    /// All frames of some batches, as an ingest makes them.
    fn frame(batches: &[RecordBatch]) -> Result<Vec<(Bytes, u64)>> {
        let mut framer = Framer::new(batches[0].schema(), Compression::Lz4);
        let origin = FrameOrigin { table: "t".into(), ingest_id: "i".into(), frame: 0, received_at_us: 0 };
        let mut frames = Vec::new();
        let mut groups: Vec<_> = batches.iter().flat_map(|batch| framer.push(batch.clone())).collect();
        groups.extend(framer.rest());
        for rows in groups {
            frames.extend(framer.encode(origin.clone(), frames.len() as u64, rows)?);
        }
        Ok(frames)
    }

    /// Text that does not compress.
    fn noise(bytes: usize, seed: u64) -> String {
        let mut state = seed | 1;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + (state >> 57) as u8 % 90)
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_row_is_in_one_legal_frame_in_order(
            sizes in prop::collection::vec((0_usize..40, 1_usize..60_000, any::<u64>()), 1..8)
        ) {
            let mut first = 0;
            let batches: Vec<_> = sizes.iter().map(|(rows, bytes, seed)| {
                let texts: Vec<String> = (0..*rows as u64).map(|row| noise(*bytes, seed ^ (row << 8))).collect();
                let batch = batch(first, &texts);
                first += *rows as i64;
                batch
            }).collect();
            let frames = frame(&batches).unwrap();
            let mut next = 0;
            for (number, (bytes, rows)) in frames.iter().enumerate() {
                prop_assert!(bytes.len() <= FRAME_BYTES_MAX);
                let Some(Item::Frame { frame, .. }) = FrameReader::new(bytes.clone()).next() else { panic!("no frame") };
                prop_assert_eq!(frame.header.frame, number as u64);
                prop_assert_eq!(frame.header.rows, *rows);
                for batch in frame.decode_batches().unwrap().1 {
                    let numbers = batch.column(0).to_data();
                    for value in numbers.buffer::<i64>(0).iter().take(batch.num_rows()) {
                        prop_assert_eq!(*value, next);
                        next += 1;
                    }
                }
            }
            prop_assert_eq!(next, first);
            let lengths: Vec<usize> = frames.iter().map(|(bytes, _)| bytes.len()).collect();
            let records = records(frames.into_iter().map(|(bytes, _)| bytes).collect(), RECORD);
            prop_assert_eq!(records.iter().map(Bytes::len).sum::<usize>(), lengths.iter().sum::<usize>());
            prop_assert!(records.iter().all(|record| record.len() <= RECORD));
        }
    }

    const RECORD: usize = crate::delivery::RECORD_BYTES_MAX;

    #[test]
    fn the_same_batches_make_the_same_frames() {
        let batches = [batch(0, &vec![noise(500, 3); 7000]), batch(7000, &vec!["x".to_owned(); 5])];
        assert_eq!(frame(&batches).unwrap(), frame(&batches).unwrap());
    }

    #[test]
    fn a_row_larger_than_a_frame_is_refused() {
        let error = frame(&[batch(0, &[noise(FRAME_BYTES_MAX + 1, 9)])]).unwrap_err();
        assert!(error.to_string().contains("single row"), "{error}");
    }

    #[test]
    fn small_frames_share_a_record() {
        let frames: Vec<Bytes> = (0..10).map(|_| Bytes::from(vec![0; 300])).collect();
        assert_eq!(records(frames, 1000).iter().map(Bytes::len).collect::<Vec<_>>(), [900, 900, 900, 300]);
    }
}
