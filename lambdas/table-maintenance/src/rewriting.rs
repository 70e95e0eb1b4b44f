//! New files in the place of old ones: the same rows, fewer files, in a better order, without those that are gone.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use deltalake::DeltaTable;
use deltalake::kernel::Add;
use deltalake::logstore::object_store::ObjectStore;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use lakehouse::delta::{self, FileWriter};
use lakehouse::name::same_column;
use lakehouse::{Kind, Result};
use tracing::warn;

use crate::job::{Job, Order};
use crate::landing::{Landing, land};
use crate::plan::{self, Sizes};
use crate::rows::{self, Source};
use crate::sorting;
use crate::tally::Tally;
use crate::zorder::ZOrder;

/// Full files that are made of a group at most: the more, the narrower each one's range of values is.
const FILES_PER_GROUP: u64 = 4;

/// How many times larger than it should be a file may get if its rows are larger than those before them.
const OVERSHOOT_MAX: u64 = 2;

/// Bytes that are rewritten before they are committed, unless a group has more: what is lost if the process dies.
const LANDING_BYTES: u64 = 1 << 30;

/// Old files, and the new ones that hold their rows.
pub(crate) struct Rewritten {
    pub(crate) sources: Vec<Source>,
    pub(crate) added: Vec<Add>,
}

impl Rewritten {
    fn bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.file.bytes()).sum()
    }
}

/// Makes small files one, sorts their rows, and leaves out those that are deleted.
pub(crate) async fn compact(job: &Job<'_>) -> Result<Tally> {
    let table = job.open().await?;
    let sources = rows::sources(&table)?;
    let mut tally = Tally::of(&sources);
    if is_undatable(job, &table)? {
        return Ok(tally);
    }
    let files: Vec<_> = sources.iter().map(Source::candidate).collect();
    let landing = Landing::same_rows(job.policy.maintenance.target_file_bytes);
    let mut ready: Vec<Rewritten> = Vec::new();
    for group in plan::groups(&files, sizes(job)) {
        let group: Vec<Source> = group.into_iter().map(|at| sources[at].clone()).collect();
        let Some(rewritten) = rewrite(job, &table, group).await? else {
            tally.is_late = true;
            break;
        };
        ready.push(rewritten);
        if ready.iter().map(Rewritten::bytes).sum::<u64>() >= LANDING_BYTES {
            land(job, &table, std::mem::take(&mut ready), &landing, &mut tally).await?;
        }
    }
    land(job, &table, ready, &landing, &mut tally).await?;
    Ok(tally)
}

/// Whether rows would lose their age, which only their files' dates tell: the table has no column for it yet.
fn is_undatable(job: &Job<'_>, table: &DeltaTable) -> Result<bool> {
    let Some(expiry) = &job.policy.expiry else { return Ok(false) };
    Ok(delta::stored_schema(table)?.column_with_name(expiry.column).is_none())
}

fn sizes(job: &Job<'_>) -> Sizes {
    let target = job.policy.maintenance.target_file_bytes;
    let group_max = target.saturating_mul(FILES_PER_GROUP);
    let is_sorted = job.policy.order != Order::Arrival;
    Sizes { target, group_max: if is_sorted { group_max.min(job.sorted_bytes_max) } else { group_max } }
}

/// Writes the rows of some files of one partition into new files; `None` if there is no time left for it.
pub(crate) async fn rewrite(job: &Job<'_>, table: &DeltaTable, sources: Vec<Source>) -> Result<Option<Rewritten>> {
    let bytes: u64 = sources.iter().map(|source| source.file.bytes()).sum();
    let order = if bytes > job.sorted_bytes_max { &Order::Arrival } else { &job.policy.order };
    let added = match write_in(job, table, &sources, order).await {
        // Files in no order are better than many small ones.
        Err(error) if error.kind() == Kind::Exhausted && *order != Order::Arrival => {
            warn!(table = %job.name, error = error.chain(), "rows need more than they may to be sorted; left unsorted");
            write_in(job, table, &sources, &Order::Arrival).await?
        }
        other => other?,
    };
    Ok(added.map(|added| Rewritten { sources, added }))
}

async fn write_in(job: &Job<'_>, table: &DeltaTable, sources: &[Source], order: &Order) -> Result<Option<Vec<Add>>> {
    let store = table.object_store();
    let schema: SchemaRef = Arc::new(delta::stored_schema(table)?);
    let dated = job.policy.expiry.as_ref().map(|expiry| expiry.column);
    let rows = rows::of_files(&store, sources, &schema, dated);
    let rows = match order {
        Order::Arrival => rows,
        Order::Sorted(columns) => sorting::sorted(rows, &schema, &stored(columns, &schema), job.session).await?,
        Order::Curved(columns) => {
            let curve = learn(&store, sources, &schema, &stored(columns, &schema)).await?;
            sorting::curved(rows, &schema, curve, job.session).await?
        }
    };
    let (mut live_rows, mut live_bytes) = (Some(0_u64), 0_u64);
    for file in sources.iter().map(Source::candidate) {
        live_rows = live_rows.zip(file.live_rows()).map(|(all, its)| all + its);
        live_bytes += file.live_bytes();
    }
    let files = plan::files_of(live_bytes, job.policy.maintenance.target_file_bytes);
    // If the log does not tell how many rows there are, the writer goes by bytes.
    let rows_per_file = live_rows.map_or(u64::MAX, |rows| rows.div_ceil(files).max(1));
    write(job, table, rows, rows_per_file, false).await
}

/// The columns as the table spells them, those that it has.
fn stored(columns: &[String], schema: &Schema) -> Vec<String> {
    let spelt = |name: &String| schema.fields().iter().find(|field| same_column(field.name(), name));
    columns.iter().filter_map(|name| spelt(name).map(|field| field.name().clone())).collect()
}

/// Learns the curve from the columns that it needs.
async fn learn(
    store: &Arc<dyn ObjectStore>,
    sources: &[Source],
    schema: &Schema,
    columns: &[String],
) -> Result<ZOrder> {
    let fields = columns.iter().filter_map(|column| schema.field_with_name(column).ok().cloned());
    let its_schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let count = sources.iter().filter_map(|source| source.file.rows()).sum();
    let rows = rows::of_files(store, sources, &its_schema, None);
    ZOrder::learn(columns, &its_schema, rows, count).await
}

/// Writes rows into new files of so many rows; `None` if there is no time left for it. What has been written then is an
/// orphan, which goes with a later vacuum.
///
/// Files are parted by rows: how many bytes a file has, a writer only knows at its end, and files that turn out to be
/// small would be rewritten again.
pub(crate) async fn write(
    job: &Job<'_>,
    table: &DeltaTable,
    mut rows: BoxStream<'static, Result<RecordBatch>>,
    rows_per_file: u64,
    data_change: bool,
) -> Result<Option<Vec<Add>>> {
    let bytes_max = job.policy.maintenance.target_file_bytes.saturating_mul(OVERSHOOT_MAX);
    let mut writer = FileWriter::new(table, bytes_max)?;
    let (mut added, mut room) = (Vec::new(), rows_per_file);
    while let Some(mut batch) = rows.try_next().await? {
        if job.is_late() {
            return Ok(None);
        }
        while batch.num_rows() as u64 >= room {
            let fits = usize::try_from(room).unwrap_or(usize::MAX);
            writer.write(&batch.slice(0, fits)).await?;
            batch = batch.slice(fits, batch.num_rows() - fits);
            let full = std::mem::replace(&mut writer, FileWriter::new(table, bytes_max)?);
            added.extend(full.finish().await?);
            room = rows_per_file;
        }
        writer.write(&batch).await?;
        room -= batch.num_rows() as u64;
    }
    added.extend(writer.finish().await?);
    for add in &mut added {
        add.data_change = data_change;
    }
    Ok(Some(added))
}
