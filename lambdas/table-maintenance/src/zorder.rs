//! Places of rows on a Z-shaped curve: rows that are near each other in any of several columns get near each other.
//!
//! Values are not laid on the curve, but their ranks among a sample: so a column of few values and one of many, text and
//! times, count alike, and one skewed column does not decide alone.
//!
//! ```text
//!  column a: rank 5 = 1 0 1    ─┐
//!                               ├─►  10 01 11   the bits in turn, the highest first
//!  column b: rank 3 = 0 1 1    ─┘
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::Schema;
use arrow::row::{OwnedRow, RowConverter, SortField};
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use lakehouse::{Error, Result};

/// Bits of a rank.
const RANK_BITS: u32 = 10;

/// The most columns that count: their bits fit one number.
pub(crate) const COLUMNS_MAX: usize = 6;

/// About how many rows are looked at to rank all.
const SAMPLE_ROWS: u64 = 64 << 10;

/// Where rows lie on the curve.
pub(crate) struct ZOrder {
    columns: Vec<Ranks>,
}

/// The ranks of one column's values.
struct Ranks {
    column: String,
    converter: RowConverter,
    /// Values that part the column into ranges with about as many rows each, ascending.
    bounds: Vec<OwnedRow>,
}

impl ZOrder {
    /// Learns the ranks from a sample of `rows`, of which there are about `count`. Columns that can't be sorted do not
    /// count.
    pub(crate) async fn learn(
        columns: &[String],
        schema: &Schema,
        mut rows: BoxStream<'static, Result<RecordBatch>>,
        count: u64,
    ) -> Result<Self> {
        let mut ranks = Vec::new();
        for column in columns.iter().take(COLUMNS_MAX) {
            let Ok(field) = schema.field_with_name(column) else { continue };
            let sort = SortField::new(field.data_type().clone());
            if RowConverter::supports_fields(std::slice::from_ref(&sort)) {
                let converter = RowConverter::new(vec![sort]).map_err(failed)?;
                ranks.push(Ranks { column: column.clone(), converter, bounds: Vec::new() });
            }
        }
        let step = (count / SAMPLE_ROWS).max(1);
        let mut next = 0_u64;
        while let Some(batch) = rows.try_next().await? {
            let len = batch.num_rows() as u64;
            let picked: UInt32Array =
                (next..len).step_by(usize::try_from(step).unwrap_or(usize::MAX)).map(to_u32).collect();
            // The first of the next batch, as if there was only one.
            next = (next + picked.len() as u64 * step).saturating_sub(len);
            for ranks in &mut ranks {
                ranks.sample(&batch, &picked)?;
            }
        }
        ranks.iter_mut().for_each(Ranks::part);
        Ok(Self { columns: ranks })
    }

    /// The place of each row of a batch.
    pub(crate) fn places(&self, batch: &RecordBatch) -> Result<UInt64Array> {
        let ranks = self.columns.iter().map(|ranks| ranks.of(batch)).collect::<Result<Vec<_>>>()?;
        Ok((0..batch.num_rows()).map(|row| Some(interleaved(ranks.iter().map(|column| column[row])))).collect())
    }
}

impl Ranks {
    fn values(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let column = batch.column_by_name(&self.column);
        column.cloned().ok_or_else(|| Error::internal(format!("rows have no column {:?} to be sorted by", self.column)))
    }

    fn sample(&mut self, batch: &RecordBatch, picked: &UInt32Array) -> Result<()> {
        let values = take(self.values(batch)?.as_ref(), picked, None).map_err(failed)?;
        let rows = self.converter.convert_columns(&[values]).map_err(failed)?;
        self.bounds.extend(rows.iter().map(|row| row.owned()));
        Ok(())
    }

    /// Leaves of the sample only what parts it.
    fn part(&mut self) {
        self.bounds.sort_unstable();
        let (len, parts) = (self.bounds.len(), 1_usize << RANK_BITS);
        let mut bounds: Vec<OwnedRow> =
            (1..parts).filter_map(|part| self.bounds.get(part * len / parts)).cloned().collect();
        bounds.dedup();
        self.bounds = bounds;
    }

    fn of(&self, batch: &RecordBatch) -> Result<Vec<u64>> {
        let rows = self.converter.convert_columns(&[self.values(batch)?]).map_err(failed)?;
        // Ranks of few values are spread over all bits, so that they count as much as those of many.
        let spread = |rank: usize| ((rank as u64) << RANK_BITS) / (self.bounds.len() as u64 + 1);
        Ok(rows.iter().map(|row| spread(self.bounds.partition_point(|bound| bound.row() <= row))).collect())
    }
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn failed(error: arrow::error::ArrowError) -> Error {
    Error::internal("can't rank the values of a column").because(error)
}

/// The bits of all ranks in turn, the highest first.
fn interleaved(ranks: impl Iterator<Item = u64> + Clone) -> u64 {
    (0..RANK_BITS)
        .rev()
        .fold(0, |place, bit| ranks.clone().fold(place, |place, rank| (place << 1) | ((rank >> bit) & 1)))
}

/// The batch with one more column behind it.
pub(crate) fn with_column(batch: &RecordBatch, schema: &Arc<Schema>, column: ArrayRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().cloned().chain([column]).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use futures::{StreamExt as _, stream};

    use super::*;

    fn grid(side: i64) -> RecordBatch {
        let cells = (0..side).flat_map(|x| (0..side).map(move |y| (x, y)));
        let (x, y): (Vec<i64>, Vec<i64>) = cells.unzip();
        let text: StringArray = y.iter().map(|y| Some(format!("customer-{y:09}"))).collect();
        let columns: [(&str, ArrayRef); 2] = [("x", Arc::new(Int64Array::from(x))), ("y", Arc::new(text))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    async fn learned(batch: &RecordBatch) -> ZOrder {
        let rows = stream::iter([Ok(batch.clone())]).boxed();
        let names = ["x".to_owned(), "y".to_owned(), "missing".to_owned()];
        ZOrder::learn(&names, batch.schema_ref(), rows, batch.num_rows() as u64).await.unwrap()
    }

    #[tokio::test]
    async fn a_quarter_of_the_curve_is_a_quarter_of_the_square_whatever_the_columns_are() {
        let side = 64;
        let batch = grid(side);
        let places = learned(&batch).await.places(&batch).unwrap();
        let mut rows: Vec<usize> = (0..batch.num_rows()).collect();
        rows.sort_by_key(|row| places.value(*row));
        for quarter in rows.chunks(rows.len() / 4) {
            let span = |of: fn(usize) -> usize| {
                let all = || quarter.iter().map(|row| of(*row));
                all().max().unwrap() - all().min().unwrap()
            };
            // Row n is the cell n / 64, n % 64.
            assert_eq!((span(|row| row / 64), span(|row| row % 64)), (31, 31));
        }
    }

    #[tokio::test]
    async fn a_column_with_few_values_still_parts_the_rows() {
        let few: Int64Array = (0..1_000).map(|row| Some(row % 2)).collect();
        let many: StringArray = (0..1_000).map(|row| Some(format!("{row:04}"))).collect();
        let columns: [(&str, ArrayRef); 2] = [("x", Arc::new(few)), ("y", Arc::new(many))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let places = learned(&batch).await.places(&batch).unwrap();
        let highest_even = (0..1_000).step_by(2).map(|row| places.value(row)).max().unwrap();
        let lowest_odd = (1..1_000).step_by(2).map(|row| places.value(row)).min().unwrap();
        assert!(highest_even < lowest_odd, "{highest_even} {lowest_odd}");
    }

    #[tokio::test]
    async fn rows_without_a_value_lie_before_all_others() {
        let x: Int64Array = [Some(3), None, Some(1)].into_iter().collect();
        let batch = RecordBatch::try_from_iter([("x", Arc::new(x) as ArrayRef)]).unwrap();
        let places = learned(&batch).await.places(&batch).unwrap();
        assert!(places.value(1) < places.value(2) && places.value(2) < places.value(0), "{places:?}");
    }

    #[test]
    fn bits_are_taken_in_turn() {
        assert_eq!(interleaved([5, 3].into_iter()), 0b0010_0111);
        assert_eq!(interleaved([1_023; COLUMNS_MAX].into_iter()), (1 << 60) - 1);
    }
}
