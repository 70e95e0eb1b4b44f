//! A merge's rows on their way through DuckDB, from frames to changes.

mod blame;
mod matching;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use duck::{Duck, Settings};
use lakehouse::definition::{Column, OnFail, Table};
use lakehouse::schema::{ROW_COLUMN, cast_strictly, evolve, known_columns, spelt_as};
use lakehouse::{Error, Result, SqlType};

use crate::bronze::{Damaged, FoundFrame};
use crate::sql::{self, Arriving, FrameGroup};

use blame::Blame;
pub(crate) use matching::{Effect, Folded, placed};

/// What DuckDB made of the frames of one merge.
pub(crate) struct Stage {
    duck: Duck,
    table: Arc<Table>,
    blame: Blame,
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
    /// Whether the table has tombstones, which are in the table `buried` then.
    has_tombstones: bool,
    /// Rows that broke no rule.
    pub(crate) good_rows: u64,
    /// Of these, those that a tombstone or a stored row has overtaken.
    overtaken_rows: u64,
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
            blame: Blame::new(table, &known, settings),
            target: known,
            bad: Vec::new(),
            bad_by_ingest: BTreeMap::new(),
            warned: BTreeMap::new(),
            unreadable,
            has_tombstones: false,
            good_rows: 0,
            overtaken_rows: 0,
        };
        if groups.is_empty() {
            return Ok(stage);
        }
        stage.duck.execute(&sql::create_arrived(&groups, &unified, &absent))?;
        let source = stage.transform()?;
        let arriving = stage.arriving(&source, stored)?;
        let typed = sql::create_typed(&stage.table, &arriving, &stage.target, &source);
        stage.duck.execute(&typed).map_err(|error| stage.at_definition(error))?;
        let judged = sql::create_judged(&stage.table, &stage.target);
        stage.duck.execute(&judged).map_err(|error| stage.at_definition(error))?;
        stage.expect()?;
        stage.take_bad(&unified, now_us)?;
        stage.duck.execute(&sql::create_good(&stage.target))?;
        stage.duck.execute("DROP TABLE judged; DROP TABLE typed")?;
        stage.good_rows = stage.count_good()?;
        Ok(stage)
    }

    fn at_definition(&self, error: Error) -> Error {
        let error = self.blame.of(error);
        Error::new(error.kind(), format!("table {:?} ({}): {error}", self.table.name.as_str(), self.table.origin))
    }

    /// Runs the transform, if the table has one; gives the name of what to go on with.
    fn transform(&self) -> Result<String> {
        let Some(transform) = &self.table.transform else { return Ok("arrived".to_owned()) };
        self.duck.execute("CREATE VIEW incoming AS SELECT * FROM arrived")?;
        let create = format!("CREATE TABLE transformed AS {}", transform.text);
        self.duck.execute(&create).map_err(|error| duck::locate(&self.blame.of(error), &transform.origin))?;
        Ok("transformed".to_owned())
    }

    /// The columns that go on, with their types and what becomes of each; the table has all that it needs for them.
    fn arriving(&mut self, source: &str, stored: Option<&Schema>) -> Result<Vec<Arriving>> {
        let schema = self.duck.describe(&format!("SELECT * FROM {source}"))?;
        let table = self.table.name.as_str();
        if !schema.fields().iter().any(|field| field.name() == ROW_COLUMN) {
            return Err(Error::stopped(format!(
                "table {table:?}: its transform loses the column {ROW_COLUMN}; add it to the SELECT list"
            )));
        }
        let typed = |field: &Arc<Field>| {
            let data_type = SqlType::from_arrow(field.data_type()).map_err(|error| {
                Error::invalid(format!("table {table:?}, column {:?}", field.name())).because(error)
            })?;
            Ok((field.name().clone(), data_type))
        };
        let columns = schema.fields().iter().filter(|field| field.name() != ROW_COLUMN).map(typed);
        let columns: Vec<(String, SqlType)> = columns.collect::<Result<_>>()?;
        let evolved = evolve(&self.table, stored, &columns)?;
        self.target = evolved.columns;
        self.table = Arc::new(spelt_as(&self.table, &self.target));
        let arriving = columns.into_iter().zip(evolved.fates);
        Ok(arriving.map(|((name, data_type), fate)| Arriving { name, data_type, fate }).collect())
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
                .map_err(|error| duck::locate(&self.blame.of(error), &expectation.check.origin))?;
            if failing == 0 {
                continue;
            }
            if expectation.on_fail == OnFail::Fail {
                return Err(Error::stopped(format!(
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

    fn count_good(&self) -> Result<u64> {
        self.duck.count("SELECT count(*) FROM good")
    }

    /// Takes the stored tombstones of the keys, and removes the rows that one has overtaken. A table that keeps its
    /// history needs them all: each is the end of a version that may come yet.
    pub(crate) fn bury(&mut self, schema: SchemaRef, tombstones: Vec<RecordBatch>) -> Result<()> {
        self.duck.load("buried", schema, tombstones.into_iter().map(Ok))?;
        self.has_tombstones = true;
        if !self.table.history {
            let before = self.count_good()?;
            self.duck.execute(&sql::apply_tombstones(&self.table))?;
            self.overtaken_rows = before - self.count_good()?;
        }
        Ok(())
    }

    /// The keys and sequences of the deletes.
    fn deletes(&self) -> Result<Vec<RecordBatch>> {
        let mut columns = self.table.primary_key.clone();
        columns.extend(sql::sequence_columns(&self.table));
        Ok(self.duck.query(&format!("SELECT {} FROM changes WHERE _delete", sql::list(&columns)))?.1)
    }

    /// Whether any row is to be written.
    pub(crate) fn writes_rows(&self) -> Result<bool> {
        Ok(self.duck.count("SELECT count(*) FROM written")? > 0)
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
    let reason = format!("frame {} of ingest {}: {reason}", header.frame, header.ingest_id);
    Damaged::frame(&found.object, found.delivered_at_us, found.offset, reason)
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
        Field::new("first_ingest_id", DataType::Utf8, false),
        Field::new("first_frame", DataType::Int64, false),
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
        Arc::new(frames.iter().map(|found| Some(found.first().0)).collect::<StringArray>()),
        Arc::new(frames.iter().map(|found| i64::try_from(found.first().1).ok()).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(frames_schema(), columns)
}

/// The numbers of some rows of a frame: those that they had in the frame that they came in first.
fn numbers(found: &FoundFrame, rows: std::ops::Range<i64>) -> ArrayRef {
    let first = |row: i64| {
        let number = found.origin.as_ref().and_then(|origin| origin.rows.get(usize::try_from(row).ok()?).copied());
        number.and_then(|number| i64::try_from(number).ok()).unwrap_or(row)
    };
    Arc::new(Int64Array::from_iter_values(rows.map(first)))
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
                columns.push(numbers(found, number..end));
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
