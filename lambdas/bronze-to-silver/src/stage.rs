//! A merge's rows on their way through DuckDB, from frames to changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use duck::{Duck, Settings, quote};
use lakehouse::definition::{Column, OnFail, OnNewColumn, Table};
use lakehouse::schema::{ROW_COLUMN, arrow_schema, cast_strictly, conform, find, known_columns};
use lakehouse::{Error, Result, SqlType};

use crate::bronze::{Damaged, FoundFrame};
use crate::sql::{self, Arriving, Fate, FrameGroup};

/// What DuckDB made of the frames of one merge.
pub(crate) struct Stage {
    duck: Duck,
    table: Arc<Table>,
    /// The columns that the table has after this merge.
    pub(crate) target: Vec<Column>,
    /// Rows for quarantine.
    pub(crate) bad: Vec<RecordBatch>,
    /// How many they are, by ingest id.
    pub(crate) bad_by_ingest: BTreeMap<String, u64>,
    /// Rows that failed an expectation that only warns, by its name.
    pub(crate) warned: BTreeMap<String, u64>,
    /// Frames whose payload can't be decoded.
    pub(crate) unreadable: Vec<Damaged>,
}

/// The changes that are left to be merged.
pub(crate) struct Changes {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) rows: u64,
    pub(crate) deletes: u64,
}

impl Stage {
    /// Loads frames and judges their rows. Blocks.
    pub(crate) fn run(
        table: &Arc<Table>,
        stored: Option<&Schema>,
        frames: &[FoundFrame],
        settings: &Settings,
        now_us: i64,
    ) -> Result<Self> {
        let mut duck = Duck::open(settings)?;
        let (groups, unreadable) = load_frames(&mut duck, frames)?;
        let known = known_columns(table, stored)?;
        let unified = sql::unify(&groups);
        let absent = sql::absent(table, &known, &unified);
        let mut stage = Self {
            duck,
            table: Arc::clone(table),
            target: known,
            bad: Vec::new(),
            bad_by_ingest: BTreeMap::new(),
            warned: BTreeMap::new(),
            unreadable,
        };
        if groups.is_empty() {
            return Ok(stage);
        }
        stage.duck.execute(&sql::create_arrived(&groups, &unified, &absent))?;
        let source = stage.transform()?;
        let arriving = stage.arriving(&source)?;
        stage.widen_target(&arriving)?;
        stage.duck.execute(&sql::create_typed(table, &arriving, &stage.target, &source))?;
        stage.duck.execute(&sql::create_judged(table, &stage.target)).map_err(|error| stage.at_definition(&error))?;
        stage.expect()?;
        stage.take_bad(&unified, now_us)?;
        stage.duck.execute(&sql::create_good(&stage.target))?;
        stage.duck.execute("DROP TABLE judged; DROP TABLE typed")?;
        Ok(stage)
    }

    /// Takes the newest change of each key. What a tombstone has overtaken must be gone by then: it is part of no row.
    pub(crate) fn fold(&self) -> Result<()> {
        if self.table.is_keyed() {
            self.duck.execute(&sql::create_changes(&self.table, &self.target))
        } else {
            self.duck.execute("CREATE VIEW changes AS SELECT *, false AS _reset FROM good")
        }
    }

    fn at_definition(&self, error: &Error) -> Error {
        Error::new(error.kind(), format!("table {:?} ({}): {error}", self.table.name.as_str(), self.table.origin))
    }

    /// Runs the transform, if the table has one; gives the name of what to go on with.
    fn transform(&self) -> Result<String> {
        let Some(transform) = &self.table.transform else { return Ok("arrived".to_owned()) };
        self.duck.execute("CREATE VIEW incoming AS SELECT * FROM arrived")?;
        let create = format!("CREATE TABLE transformed AS {}", transform.text);
        self.duck.execute(&create).map_err(|error| duck::locate(&error, &transform.origin))?;
        Ok("transformed".to_owned())
    }

    /// The columns that go on, with their types and what becomes of each.
    fn arriving(&self, source: &str) -> Result<Vec<Arriving>> {
        let schema = self.duck.describe(&format!("SELECT * FROM {source}"))?;
        if !schema.fields().iter().any(|field| field.name() == ROW_COLUMN) {
            return Err(Error::invalid(format!(
                "table {:?}: its transform loses the column {ROW_COLUMN}; add it to the SELECT list",
                self.table.name.as_str()
            )));
        }
        let arrived = schema.fields().iter().filter(|field| field.name() != ROW_COLUMN);
        arrived.map(|field| self.fate(field)).collect()
    }

    fn fate(&self, field: &Field) -> Result<Arriving> {
        let name = field.name().clone();
        let data_type = SqlType::from_arrow(field.data_type()).map_err(|error| {
            Error::invalid(format!("table {:?}, column {name:?}", self.table.name.as_str())).because(error)
        })?;
        let declares_itself = self.target.is_empty();
        let fate = if self.table.drops(&name) {
            Fate::Dropped
        } else if let Some(column) = find(&self.target, &name) {
            Fate::Kept(column.clone())
        } else if declares_itself || self.table.on_new_column == OnNewColumn::Add {
            let nullable = !self.table.is_key(&name);
            Fate::Kept(Column { name: name.clone(), data_type: data_type.clone(), nullable, description: None })
        } else if self.table.on_new_column == OnNewColumn::Rescue {
            Fate::Rescued
        } else {
            Fate::Rejected
        };
        Ok(Arriving { name, data_type, fate })
    }

    /// Adds the new columns to the target, and to a table that declares itself, those that Mallard adds.
    fn widen_target(&mut self, arriving: &[Arriving]) -> Result<()> {
        for arriving in arriving {
            if let Fate::Kept(column) = &arriving.fate
                && find(&self.target, &column.name).is_none()
            {
                self.target.push(column.clone());
            }
        }
        let stored = arrow_schema(&self.target);
        let all = known_columns(&self.table, Some(&stored))?;
        self.target.extend(all.into_iter().skip(self.target.len()));
        Ok(())
    }

    /// Counts what warns; stops at what fails.
    fn expect(&mut self) -> Result<()> {
        for expectation in &self.table.expect {
            if expectation.on_fail == OnFail::Quarantine {
                continue;
            }
            let failing = self
                .duck
                .count(&sql::count_failing(&expectation.check.text))
                .map_err(|error| duck::locate(&error, &expectation.check.origin))?;
            if failing == 0 {
                continue;
            }
            if expectation.on_fail == OnFail::Fail {
                return Err(Error::invalid(format!(
                    "{}: table {:?}: expectation {:?} failed for {failing} rows ({}); nothing of them was merged. \
                     Mend the rows' source or the expectation; the bronze objects stay queued",
                    expectation.check.origin,
                    self.table.name.as_str(),
                    expectation.name.as_str(),
                    expectation.check.text,
                )));
            }
            self.warned.insert(expectation.name.to_string(), failing);
        }
        Ok(())
    }

    fn take_bad(&mut self, unified: &[(String, SqlType)], now_us: i64) -> Result<()> {
        if self.duck.count("SELECT count(*) FROM judged WHERE _verdict IS NOT NULL")? == 0 {
            return Ok(());
        }
        self.bad = self.duck.query(&sql::select_bad(&self.table, unified, now_us))?.1;
        let by_ingest = format!(
            "SELECT f.ingest_id, count(*) AS n FROM judged j JOIN frames f ON f._frame = j.{ROW_COLUMN} // {}
             WHERE j._verdict IS NOT NULL GROUP BY ALL",
            sql::ROWS_PER_FRAME_MAX
        );
        for batch in self.duck.query(&by_ingest)?.1 {
            for row in 0..batch.num_rows() {
                let text = |column: usize| {
                    arrow::util::display::array_value_to_string(batch.column(column), row).unwrap_or_default()
                };
                self.bad_by_ingest.insert(text(0), text(1).parse().unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Whether anything is left to be merged.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let is_judged = self.duck.count("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'good'")? > 0;
        Ok(!is_judged || self.duck.count("SELECT count(*) FROM good")? == 0)
    }

    /// The lowest and highest value of a column among the good rows.
    pub(crate) fn range(&self, column: &str) -> Result<Option<(ScalarValue, ScalarValue)>> {
        let name = quote(column);
        let (_, batches) = self.duck.query(&format!("SELECT min({name}), max({name}) FROM good"))?;
        let Some(batch) = batches.first().filter(|batch| batch.num_rows() == 1) else { return Ok(None) };
        let value = |at: usize| {
            ScalarValue::try_from_array(batch.column(at), 0)
                .map_err(|error| Error::internal("a key's range is no scalar").because(error))
        };
        Ok(Some((value(0)?, value(1)?)))
    }

    /// Removes the rows that a tombstone has overtaken.
    pub(crate) fn bury(&mut self, schema: SchemaRef, tombstones: Vec<RecordBatch>) -> Result<()> {
        self.duck.load("buried", schema, tombstones.into_iter().map(Ok))?;
        self.duck.execute(&sql::apply_tombstones(&self.table))
    }

    /// The keys and sequences of the deletes.
    pub(crate) fn deletes(&self) -> Result<Vec<RecordBatch>> {
        let sequence = quote(sql::sequence_column(&self.table));
        let key = sql::list(&self.table.primary_key);
        Ok(self.duck.query(&format!("SELECT {key}, {sequence} FROM changes WHERE _delete"))?.1)
    }

    /// The table's own columns (all nullable, since a delete needs only its key), then `_delete` and `_reset`.
    fn changes_schema(&self) -> SchemaRef {
        let own = arrow_schema(&self.target);
        let mut fields: Vec<Field> =
            own.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        if self.table.is_keyed() {
            fields.extend(["_delete", "_reset"].map(|name| Field::new(name, DataType::Boolean, true)));
        }
        Arc::new(Schema::new(fields))
    }

    /// Takes the changes out. For a keyed table they have `_delete` and `_reset`.
    pub(crate) fn take(self) -> Result<Changes> {
        let mut columns: Vec<String> = self.target.iter().map(|column| quote(&column.name)).collect();
        if self.table.is_keyed() {
            columns.extend(["_delete".to_owned(), "_reset".to_owned()]);
        }
        // The key's order makes files whose key ranges overlap little, so that later merges skip most of them.
        let order = if self.table.is_keyed() { sql::list(&self.table.primary_key) } else { ROW_COLUMN.to_owned() };
        let sql = format!("SELECT {} FROM changes ORDER BY {order}", columns.join(", "));
        let schema = self.changes_schema();
        let mut batches = Vec::new();
        let mut rows = 0;
        self.duck.query_each(&sql, |batch| {
            rows += batch.num_rows() as u64;
            batches.push(conform(&batch, &schema)?);
            Ok(())
        })?;
        let deletes = self.duck.count("SELECT count(*) FROM changes WHERE _delete")?;
        Ok(Changes { batches, rows, deletes })
    }
}

/// Loads the frames into one table a schema, and `frames`, which says where each comes from.
fn load_frames(duck: &mut Duck, frames: &[FoundFrame]) -> Result<(Vec<FrameGroup>, Vec<Damaged>)> {
    duck.load("frames", frames_schema(), vec![frames_batch(frames)])?;
    let mut by_schema: BTreeMap<u64, Vec<(usize, FoundFrame)>> = BTreeMap::new();
    for (position, frame) in frames.iter().enumerate() {
        by_schema.entry(frame.frame.header.schema_fingerprint).or_default().push((position, frame.clone()));
    }
    let unreadable = Arc::new(Mutex::new(Vec::new()));
    let mut groups = Vec::new();
    for members in by_schema.into_values() {
        // The first frame that can be decoded tells the schema of the group.
        let Some(columns) = members.iter().find_map(|(_, found)| storable(&found.frame.decode_batches().ok()?.0))
        else {
            let mut unreadable = unreadable.lock().unwrap_or_else(PoisonError::into_inner);
            unreadable.extend(members.iter().map(|(_, found)| refuse(found)));
            continue;
        };
        let group = FrameGroup { table: format!("frames_{}", groups.len()), columns };
        let schema = group_schema(&group.columns);
        let rows = FrameRows {
            schema: Arc::clone(&schema),
            members: members.into_iter(),
            unreadable: Arc::clone(&unreadable),
        };
        duck.load(&group.table, schema, rows)?;
        groups.push(group);
    }
    let unreadable = std::mem::take(&mut *unreadable.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((groups, unreadable))
}

fn refuse(found: &FoundFrame) -> Damaged {
    match found.frame.decode_batches() {
        Err(error) => unreadable(found, &Error::internal("its rows can't be decoded").because(error).chain()),
        Ok(_) => unreadable(found, "its columns have types that no table can store"),
    }
}

fn unreadable(found: &FoundFrame, reason: &str) -> Damaged {
    let header = &found.frame.header;
    Damaged {
        object: found.object.clone(),
        offset: found.offset,
        reason: format!("frame {} of ingest {}: {reason}", header.frame, header.ingest_id),
    }
}

/// The columns of a frame in types that Delta and DuckDB share.
fn storable(schema: &Schema) -> Option<Vec<(String, SqlType)>> {
    schema
        .fields()
        .iter()
        .map(|field| SqlType::from_arrow(field.data_type()).ok().map(|data_type| (field.name().clone(), data_type)))
        .collect()
}

fn group_schema(columns: &[(String, SqlType)]) -> SchemaRef {
    let mut fields: Vec<Field> =
        columns.iter().map(|(name, data_type)| Field::new(name, data_type.to_arrow(), true)).collect();
    fields.push(Field::new(sql::FRAME_COLUMN, DataType::Int32, false));
    fields.push(Field::new(sql::NUMBER_COLUMN, DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

fn frames_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(sql::FRAME_COLUMN, DataType::Int32, false),
        Field::new("ingest_id", DataType::Utf8, false),
        Field::new("frame", DataType::Int64, false),
        Field::new("received_at_us", DataType::Int64, false),
        Field::new("object", DataType::Utf8, false),
    ]))
}

fn frames_batch(frames: &[FoundFrame]) -> Result<RecordBatch, ArrowError> {
    let headers = || frames.iter().map(|found| &found.frame.header);
    let number: UInt64Array = headers().map(|header| header.frame).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new((0..frames.len()).map(|position| i32::try_from(position).ok()).collect::<Int32Array>()),
        Arc::new(headers().map(|header| Some(header.ingest_id.as_str())).collect::<StringArray>()),
        cast(&number, &DataType::Int64)?,
        Arc::new(headers().map(|header| header.received_at_us).collect::<Int64Array>()),
        Arc::new(frames.iter().map(|found| Some(found.object.as_str())).collect::<StringArray>()),
    ];
    RecordBatch::try_new(frames_schema(), columns)
}

/// Rows that are handed to DuckDB together, at least, if there are as many. It makes a row group of each batch that it
/// gets, which takes hundreds of KiB however few the rows are.
const BATCH_ROWS_MIN: usize = 8 << 10;

/// Bytes of rows that are enough however few they are.
const BATCH_BYTES_MIN: usize = 4 << 20;

/// The rows of a group's frames, decoded one frame at a time, with the columns that tell where each comes from.
struct FrameRows {
    schema: SchemaRef,
    members: std::vec::IntoIter<(usize, FoundFrame)>,
    unreadable: Arc<Mutex<Vec<Damaged>>>,
}

impl FrameRows {
    fn decode(&self, position: usize, found: &FoundFrame) -> Result<Vec<RecordBatch>, ArrowError> {
        let (_, batches) = found.frame.decode_batches().map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let position = i32::try_from(position).map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let mut number = 0_i64;
        batches
            .into_iter()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| {
                let rows = batch.num_rows();
                let mut columns = Vec::with_capacity(batch.num_columns() + 2);
                for (column, field) in batch.columns().iter().zip(self.schema.fields()) {
                    columns.push(cast_strictly(column, field.data_type())?);
                }
                columns.push(Arc::new(Int32Array::from(vec![position; rows])));
                let end = number + rows as i64;
                columns.push(Arc::new(Int64Array::from_iter_values(number..end)));
                number = end;
                RecordBatch::try_new(Arc::clone(&self.schema), columns)
            })
            .collect()
    }
}

impl Iterator for FrameRows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut gathered, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while rows < BATCH_ROWS_MIN
            && bytes < BATCH_BYTES_MIN
            && let Some((position, found)) = self.members.next()
        {
            match self.decode(position, &found) {
                Ok(batches) => {
                    rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
                    bytes += batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
                    gathered.extend(batches);
                }
                Err(error) => {
                    let damaged = unreadable(&found, &error.to_string());
                    self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).push(damaged);
                }
            }
        }
        (rows > 0).then(|| concat_batches(&self.schema, &gathered))
    }
}
