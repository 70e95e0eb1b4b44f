//! The second half of a merge's way through DuckDB: changes meet stored rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, StringBuilder};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use lakehouse::delta::DataFile;
use lakehouse::delta::vectors::Positions;
use lakehouse::schema::{VALID_TO_COLUMN, arrow_schema, conform, find};
use lakehouse::{Error, Result};

use super::Stage;
use crate::keys::KeySet;
use crate::sql::history;
use crate::sql::matching::{self, FILE_COLUMN, POSITION_COLUMN, bound_names};
use crate::sql::{self, sequence_columns};

/// The changes that are left of a merge's rows.
pub(crate) struct Folded {
    /// How many there are.
    pub(crate) changes: u64,
    /// Key and sequence of those that delete.
    pub(crate) deletes: Vec<RecordBatch>,
}

/// What the changes of a merge did to the rows that are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    /// Changes that a stored row or a tombstone has overtaken.
    pub(crate) late: u64,
    /// Of these, the rows that were left out before the newest of each key was taken.
    pub(crate) overtaken: u64,
}

impl Stage {
    /// The keys that the good rows change.
    pub(crate) fn keys(&self) -> Result<KeySet> {
        self.duck.execute(&matching::create_keys(&self.table))?;
        let schema = self.columns_schema(&self.table.primary_key)?;
        let mut batches = Vec::new();
        self.duck.query_each("SELECT * FROM keys", |batch| {
            batches.push(conform(&batch, &schema)?);
            Ok(())
        })?;
        KeySet::new(&batches)
    }

    fn columns_schema(&self, names: &[String]) -> Result<SchemaRef> {
        let field = |name: &String| {
            let column = find(&self.target, name)
                .ok_or_else(|| Error::internal(format!("column {name:?} is named by a rule, and is none")))?;
            Ok(Field::new(&column.name, column.data_type.to_arrow(), true))
        };
        Ok(Arc::new(Schema::new(names.iter().map(field).collect::<Result<Vec<_>>>()?)))
    }

    /// The columns of stored rows that are compared: key, sequence, and the end of a version.
    pub(crate) fn compared_schema(&self) -> Result<SchemaRef> {
        let mut names = self.table.primary_key.clone();
        names.extend(sequence_columns(&self.table));
        if self.table.history {
            names.push(VALID_TO_COLUMN.to_owned());
        }
        self.columns_schema(&names)
    }

    /// Which of `files` may hold a key that changes, by their positions.
    pub(crate) fn candidates(&mut self, files: &[DataFile]) -> Result<Vec<usize>> {
        let (schema, batch) = self.bounds(files)?;
        self.duck.load("files", schema, vec![Ok(batch)])?;
        let sql = matching::select_candidates(&self.table, &self.target)?;
        let (_, batches) = self.duck.query(&sql)?;
        self.duck.execute("DROP TABLE files")?;
        let numbers = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int32Type>().values().to_vec());
        Ok(numbers.filter_map(|number| usize::try_from(number).ok()).collect())
    }

    fn bounds(&self, files: &[DataFile]) -> Result<(SchemaRef, RecordBatch)> {
        let key = &self.table.primary_key;
        let mut fields = vec![Field::new(FILE_COLUMN, DataType::Int32, false)];
        let numbers = (0..files.len()).map(|position| i32::try_from(position).unwrap_or(i32::MAX));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from_iter_values(numbers))];
        let mut builders: Vec<[StringBuilder; 2]> =
            key.iter().map(|_| [StringBuilder::new(), StringBuilder::new()]).collect();
        for file in files {
            let partition = file.partition_values();
            let bounds = file.bounds(key);
            for ((name, bounds), [least, greatest]) in key.iter().zip(bounds).zip(&mut builders) {
                let bounds = match partition.get(name) {
                    Some(value) => value.clone().map(|value| (value.clone(), value)),
                    None => bounds,
                };
                least.append_option(bounds.as_ref().map(|bounds| &bounds.0));
                greatest.append_option(bounds.as_ref().map(|bounds| &bounds.1));
            }
        }
        for (position, [mut least, mut greatest]) in builders.into_iter().enumerate() {
            let [least_name, greatest_name] = bound_names(position);
            fields.push(Field::new(least_name, DataType::Utf8, true));
            columns.push(Arc::new(least.finish()));
            fields.push(Field::new(greatest_name, DataType::Utf8, true));
            columns.push(Arc::new(greatest.finish()));
        }
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|error| Error::internal("the bounds of files are no table").because(error))?;
        Ok((schema, batch))
    }

    /// Takes the stored rows of the keys (the compared columns, file and position), and the newest change of each key.
    pub(crate) fn fold(&mut self, stored: Vec<RecordBatch>) -> Result<Folded> {
        let compared = self.compared_schema()?;
        let schema = placed(&compared);
        self.duck.load("stored", schema, stored.into_iter().map(Ok))?;
        // Some keys only have the hash of one that changes.
        self.duck.execute(&matching::leave_out_others(&self.table))?;
        if self.table.ignore_null_updates {
            // What is late must not fill the gaps of what is not.
            let before = self.count_good()?;
            self.duck.execute(&matching::leave_out_late(&self.table))?;
            self.overtaken_rows += before - self.count_good()?;
        }
        self.duck.execute(&if self.table.history {
            history::create_changes(&self.table)
        } else {
            sql::create_changes(&self.table, &self.target)
        })?;
        Ok(Folded { changes: self.duck.count("SELECT count(*) FROM changes")?, deletes: self.deletes()? })
    }

    /// Compares the changes with the stored rows. Gives which rows are needed in full, by file.
    pub(crate) fn compare(&mut self) -> Result<BTreeMap<usize, Positions>> {
        let needed = if self.table.history {
            self.duck.execute(&history::create_line(&self.table, self.has_tombstones))?;
            history::SELECT_NEEDED_BY_LINE
        } else {
            self.duck.execute(&matching::create_hits(&self.table))?;
            if !self.table.ignore_null_updates {
                return Ok(BTreeMap::new());
            }
            matching::SELECT_NEEDED_BY_HITS
        };
        self.positions(needed)
    }

    fn positions(&self, sql: &str) -> Result<BTreeMap<usize, Positions>> {
        let mut by_file: BTreeMap<usize, Positions> = BTreeMap::new();
        self.duck.query_each(sql, |batch| {
            let files = batch.column(0).as_primitive::<Int32Type>().values();
            let positions = batch.column(1).as_primitive::<Int64Type>().values();
            for (file, position) in files.iter().zip(positions) {
                let file = usize::try_from(*file).unwrap_or(usize::MAX);
                by_file.entry(file).or_default().insert(u64::try_from(*position).unwrap_or(u64::MAX));
            }
            Ok(())
        })?;
        Ok(by_file)
    }

    /// All columns of stored rows, file and position.
    pub(crate) fn rows_schema(&self) -> SchemaRef {
        placed(&arrow_schema(&self.target))
    }

    /// Decides what is written and what goes. `rows` are the stored rows that [`Stage::compare`] asked for.
    pub(crate) fn conclude(&mut self, rows: Vec<RecordBatch>) -> Result<Effect> {
        self.duck.load("rows", self.rows_schema(), rows.into_iter().map(Ok))?;
        let (conclude, count) = if self.table.history {
            (history::conclude_line(&self.target), history::count_line(&self.table))
        } else {
            (matching::conclude_hits(&self.table, &self.target), matching::COUNT_HITS.to_owned())
        };
        self.duck.execute(&conclude)?;
        let (_, batches) = self.duck.query(&count)?;
        let batch = batches.first().ok_or_else(|| Error::internal("DuckDB counted nothing"))?;
        let value =
            |at: usize| u64::try_from(batch.column(at).as_primitive::<Int64Type>().value(0)).unwrap_or_default();
        let overtaken = self.overtaken_rows;
        let late = value(3) + overtaken;
        Ok(Effect { inserted: value(0), updated: value(1), deleted: value(2), late, overtaken })
    }

    /// The stored rows that go, by file.
    pub(crate) fn removed(&self) -> Result<BTreeMap<usize, Positions>> {
        self.positions("SELECT _file, _position FROM removed")
    }

    /// The rows that take the places of others in a file, ascending by place.
    pub(crate) fn replacements(&self, file: usize) -> Result<Option<(Vec<u64>, RecordBatch)>> {
        let columns = self.column_list();
        let sql = format!(
            "SELECT {columns}, {POSITION_COLUMN} FROM written WHERE {FILE_COLUMN} = {file} ORDER BY {POSITION_COLUMN}"
        );
        let schema = arrow_schema(&self.target);
        let (mut places, mut batches) = (Vec::new(), Vec::new());
        self.duck.query_each(&sql, |batch| {
            let last = batch.num_columns() - 1;
            let positions = batch.column(last).as_primitive::<Int64Type>().values();
            places.extend(positions.iter().map(|position| u64::try_from(*position).unwrap_or_default()));
            batches.push(conform(&batch, &schema)?);
            Ok(())
        })?;
        if places.is_empty() {
            return Ok(None);
        }
        let rows = concat_batches(&schema, &batches)
            .map_err(|error| Error::internal("replacements are no batch").because(error))?;
        Ok(Some((places, rows)))
    }

    /// Hands over the rows that go into new files, in the key's order, but for those that replace rows in `rewritten`
    /// files.
    pub(crate) fn each_written(
        &self,
        rewritten: &[usize],
        mut each: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let files: Vec<String> = rewritten.iter().map(usize::to_string).collect();
        let others = if files.is_empty() {
            "true".to_owned()
        } else {
            format!("({FILE_COLUMN} IS NULL OR {FILE_COLUMN} NOT IN ({}))", files.join(", "))
        };
        // The key's order makes files whose key ranges overlap little, so that later merges skip most of them.
        let order = sql::list(&self.table.primary_key);
        let sql = format!("SELECT {} FROM written WHERE {others} ORDER BY {order}", self.column_list());
        let schema = arrow_schema(&self.target);
        self.duck.query_each(&sql, |batch| each(conform(&batch, &schema)?)).map(drop)
    }

    /// Hands over all good rows in the order of their arrival: those of a table without a key.
    pub(crate) fn each_good(&self, mut each: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let sql = format!("SELECT {} FROM good ORDER BY {}", self.column_list(), lakehouse::schema::ROW_COLUMN);
        let schema = arrow_schema(&self.target);
        self.duck.query_each(&sql, |batch| each(conform(&batch, &schema)?)).map(drop)
    }

    fn column_list(&self) -> String {
        self.target.iter().map(|column| duck::quote(&column.name)).collect::<Vec<_>>().join(", ")
    }
}

/// The columns, then file and position.
pub(crate) fn placed(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    fields.push(Field::new(FILE_COLUMN, DataType::Int32, false));
    fields.push(Field::new(POSITION_COLUMN, DataType::Int64, false));
    Arc::new(Schema::new(fields))
}
