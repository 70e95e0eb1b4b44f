//! The values of one column, from JSON: each fits its type exactly, or its row is told why not.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int8Builder, Int16Builder, Int32Builder, Int64Builder, ListArray, MapArray, NullBufferBuilder, StringBuilder,
    StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::scalars::{any_text, blob, boolean, date, decimal, float, integer, text, time, wrong};
use super::{Node, Value};
use crate::SqlType;
use crate::name::same_column;

/// The most values that one request may make, those that are missing counted: each takes some bytes, even where the
/// text has none.
pub const CELLS_MAX: usize = 8_000_000;

/// How a value is read that could have been written more clearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Whoever sent it is there to be told: it is refused.
    Door,
    /// It lies in a file, and nobody can be told. What has one exact reading is taken: a varchar takes every value (as
    /// its JSON text, if it is none), and an instant without an offset is in UTC.
    File,
}

/// How many more values may be made.
#[derive(Debug)]
pub struct Cells(usize);

impl Default for Cells {
    fn default() -> Self {
        Self::new(CELLS_MAX)
    }
}

impl Cells {
    /// At most `count`.
    pub fn new(count: usize) -> Self {
        Self(count)
    }

    /// Whether there are no more; what was appended then is not complete.
    pub fn is_over(&self) -> bool {
        self.0 == 0
    }

    /// Takes one; whether there are more.
    pub fn take(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

/// A column, or a part of one, that grows.
#[derive(Debug)]
pub struct Values {
    data_type: SqlType,
    manner: Manner,
    builder: Builder,
}

#[derive(Debug)]
enum Builder {
    Boolean(BooleanBuilder),
    TinyInt(Int8Builder),
    SmallInt(Int16Builder),
    Integer(Int32Builder),
    BigInt(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    AnyText(StringBuilder),
    Date(Date32Builder),
    Time(TimestampMicrosecondBuilder),
    Blob(BinaryBuilder),
    List(Ranges, Box<Values>),
    Struct(NullBufferBuilder, Vec<(String, Values)>),
    Map(Ranges, Box<Values>, Box<Values>),
}

/// Which of the items belong to which value.
#[derive(Debug)]
struct Ranges {
    ends: Vec<i32>,
    items: i32,
    nulls: NullBufferBuilder,
}

impl Ranges {
    fn new() -> Self {
        Self { ends: vec![0], items: 0, nulls: NullBufferBuilder::new(0) }
    }

    /// Ends a value that has `count` items more.
    fn end(&mut self, count: usize, is_valid: bool) {
        // `CELLS_MAX` bounds it.
        self.items = self.items.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
        self.ends.push(self.items);
        self.nulls.append(is_valid);
    }

    fn offsets(&mut self) -> OffsetBuffer<i32> {
        OffsetBuffer::new(ScalarBuffer::from(std::mem::take(&mut self.ends)))
    }
}

impl Values {
    /// An empty column of `data_type`, whose values are read in `manner`.
    pub fn new(data_type: &SqlType, manner: Manner) -> Self {
        let arrow = data_type.to_arrow();
        let builder = match data_type {
            SqlType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            SqlType::TinyInt => Builder::TinyInt(Int8Builder::new()),
            SqlType::SmallInt => Builder::SmallInt(Int16Builder::new()),
            SqlType::Integer => Builder::Integer(Int32Builder::new()),
            SqlType::BigInt => Builder::BigInt(Int64Builder::new()),
            SqlType::Float => Builder::Float(Float32Builder::new()),
            SqlType::Double => Builder::Double(Float64Builder::new()),
            SqlType::Decimal { .. } => Builder::Decimal(Decimal128Builder::new().with_data_type(arrow)),
            SqlType::Varchar if manner == Manner::File => Builder::AnyText(StringBuilder::new()),
            SqlType::Varchar | SqlType::Json => Builder::Text(StringBuilder::new()),
            SqlType::Date => Builder::Date(Date32Builder::new()),
            SqlType::Timestamp | SqlType::TimestampNtz => {
                Builder::Time(TimestampMicrosecondBuilder::new().with_data_type(arrow))
            }
            SqlType::Blob => Builder::Blob(BinaryBuilder::new()),
            SqlType::List(item) => Builder::List(Ranges::new(), Box::new(Self::new(item, manner))),
            SqlType::Struct(fields) => {
                let fields = fields.iter().map(|field| (field.name.clone(), Self::new(&field.data_type, manner)));
                Builder::Struct(NullBufferBuilder::new(0), fields.collect())
            }
            SqlType::Map(key, value) => {
                Builder::Map(Ranges::new(), Box::new(Self::new(key, manner)), Box::new(Self::new(value, manner)))
            }
        };
        Self { data_type: data_type.clone(), manner, builder }
    }

    /// An empty column of texts as they are, and of the JSON text of everything else.
    pub fn any_text() -> Self {
        Self::new(&SqlType::Varchar, Manner::File)
    }

    /// Appends a value; NULL if there is none, and if it doesn't fit.
    ///
    /// # Errors
    /// Why it doesn't fit. The column is one value longer all the same, unless `cells` are over.
    pub fn append(&mut self, node: Option<&Node<'_>>, cells: &mut Cells) -> Result<(), String> {
        if !cells.take() {
            return Err("there are too many values".to_owned());
        }
        let node = node.filter(|node| !matches!(node.value, Value::Null));
        let (data_type, manner) = (&self.data_type, self.manner);
        match &mut self.builder {
            Builder::Boolean(to) => put(node, |node| boolean(node), |value| to.append_option(value)),
            Builder::TinyInt(to) => put(node, |node| integer(node, data_type), |value| to.append_option(value)),
            Builder::SmallInt(to) => put(node, |node| integer(node, data_type), |value| to.append_option(value)),
            Builder::Integer(to) => put(node, |node| integer(node, data_type), |value| to.append_option(value)),
            Builder::BigInt(to) => put(node, |node| integer(node, data_type), |value| to.append_option(value)),
            Builder::Float(to) => put(node, |node| float(node, data_type), |value| to.append_option(value)),
            Builder::Double(to) => put(node, |node| float(node, data_type), |value| to.append_option(value)),
            Builder::Decimal(to) => put(node, |node| decimal(node, data_type), |value| to.append_option(value)),
            Builder::Text(to) => put(node, |node| text(node, data_type), |value| to.append_option(value)),
            Builder::AnyText(to) => put(node, |node| Ok(any_text(node)), |value| to.append_option(value)),
            Builder::Date(to) => put(node, |node| date(node), |value| to.append_option(value)),
            Builder::Time(to) => put(node, |node| time(node, data_type, manner), |value| to.append_option(value)),
            Builder::Blob(to) => put(node, |node| blob(node), |value| to.append_option(value)),
            Builder::List(ranges, items) => append_list(ranges, items, node, cells),
            Builder::Struct(nulls, fields) => append_struct(nulls, fields, node, cells),
            Builder::Map(ranges, keys, values) => append_map(ranges, keys, values, node, cells),
        }
    }

    /// Whether a value that is not nested would be taken.
    fn check(&self, node: &Node<'_>) -> Result<(), String> {
        let data_type = &self.data_type;
        match data_type {
            SqlType::Boolean => boolean(node).map(drop),
            SqlType::TinyInt => integer::<i8>(node, data_type).map(drop),
            SqlType::SmallInt => integer::<i16>(node, data_type).map(drop),
            SqlType::Integer => integer::<i32>(node, data_type).map(drop),
            SqlType::BigInt => integer::<i64>(node, data_type).map(drop),
            SqlType::Float => float::<f32>(node, data_type).map(drop),
            SqlType::Double => float::<f64>(node, data_type).map(drop),
            SqlType::Decimal { .. } => decimal(node, data_type).map(drop),
            SqlType::Varchar | SqlType::Json => text(node, data_type).map(drop),
            SqlType::Date => date(node).map(drop),
            SqlType::Timestamp | SqlType::TimestampNtz => time(node, data_type, self.manner).map(drop),
            SqlType::Blob => blob(node).map(drop),
            SqlType::List(_) | SqlType::Struct(_) | SqlType::Map(..) => Err(wrong(node, data_type, "another type")),
        }
    }

    /// All values, as the type's Arrow array.
    ///
    /// # Errors
    /// Arrow's, if the values of a nested type are none; only where [`append`](Self::append) ran out of cells.
    pub fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let array: ArrayRef = match &mut self.builder {
            Builder::Boolean(values) => Arc::new(values.finish()),
            Builder::TinyInt(values) => Arc::new(values.finish()),
            Builder::SmallInt(values) => Arc::new(values.finish()),
            Builder::Integer(values) => Arc::new(values.finish()),
            Builder::BigInt(values) => Arc::new(values.finish()),
            Builder::Float(values) => Arc::new(values.finish()),
            Builder::Double(values) => Arc::new(values.finish()),
            Builder::Decimal(values) => Arc::new(values.finish()),
            Builder::Text(values) | Builder::AnyText(values) => Arc::new(values.finish()),
            Builder::Date(values) => Arc::new(values.finish()),
            Builder::Time(values) => Arc::new(values.finish()),
            Builder::Blob(values) => Arc::new(values.finish()),
            Builder::List(..) | Builder::Struct(..) | Builder::Map(..) => return self.finish_nested(),
        };
        Ok(array)
    }

    fn finish_nested(self) -> Result<ArrayRef, ArrowError> {
        match (self.builder, self.data_type.to_arrow()) {
            (Builder::List(mut ranges, items), DataType::List(field)) => {
                let (offsets, nulls) = (ranges.offsets(), ranges.nulls.finish());
                Ok(Arc::new(ListArray::try_new(field, offsets, items.finish()?, nulls)?))
            }
            (Builder::Struct(mut nulls, fields), DataType::Struct(named)) => {
                let length = nulls.len();
                let columns = fields.into_iter().map(|(_, values)| values.finish()).collect::<Result<Vec<_>, _>>()?;
                Ok(Arc::new(StructArray::try_new_with_length(named, columns, nulls.finish(), length)?))
            }
            (Builder::Map(mut ranges, keys, values), DataType::Map(field, is_sorted)) => {
                let DataType::Struct(named) = field.data_type() else {
                    return Err(ArrowError::SchemaError("a map without entries".to_owned()));
                };
                let entries = StructArray::try_new(named.clone(), vec![keys.finish()?, values.finish()?], None)?;
                let (offsets, nulls) = (ranges.offsets(), ranges.nulls.finish());
                Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, is_sorted)?))
            }
            (_, other) => Err(ArrowError::SchemaError(format!("{other} is not nested"))),
        }
    }
}

fn put<'n, 'a, T>(
    node: Option<&'n Node<'a>>,
    read: impl FnOnce(&'n Node<'a>) -> Result<T, String>,
    append: impl FnOnce(Option<T>),
) -> Result<(), String> {
    match node.map(read).transpose() {
        Ok(value) => {
            append(value);
            Ok(())
        }
        Err(reason) => {
            append(None);
            Err(reason)
        }
    }
}

fn append_list(
    ranges: &mut Ranges,
    items: &mut Values,
    node: Option<&Node<'_>>,
    cells: &mut Cells,
) -> Result<(), String> {
    let list = match node.map(|node| &node.value) {
        Some(Value::List(list)) => list,
        other => {
            ranges.end(0, false);
            return other.map_or(Ok(()), |value| Err(format!("it is a list, and the row has {}", value.kind())));
        }
    };
    let mut fault = Ok(());
    for (item, place) in list.iter().zip(1..) {
        let appended = items.append(Some(item), cells).map_err(|reason| format!("item {place}: {reason}"));
        if cells.is_over() {
            return appended;
        }
        fault = fault.and(appended);
    }
    ranges.end(list.len(), true);
    fault
}

fn append_struct(
    nulls: &mut NullBufferBuilder,
    fields: &mut [(String, Values)],
    node: Option<&Node<'_>>,
    cells: &mut Cells,
) -> Result<(), String> {
    let empty = Vec::new();
    let (entries, mut fault) = match node.map(|node| &node.value) {
        None => (&empty, Ok(())),
        Some(Value::Object(entries)) => (entries, check_fields(fields, entries)),
        Some(other) => {
            (&empty, Err(format!("it is a struct, which JSON has as an object; the row has {}", other.kind())))
        }
    };
    for (name, values) in fields {
        let entry = entries.iter().find(|(key, _)| same_column(key, name)).map(|(_, value)| value);
        let appended = values.append(entry, cells).map_err(|reason| format!("field {name:?}: {reason}"));
        if cells.is_over() {
            return appended;
        }
        fault = fault.and(appended);
    }
    nulls.append(node.is_some());
    fault
}

fn check_fields(fields: &[(String, Values)], entries: &[(Cow<'_, str>, Node<'_>)]) -> Result<(), String> {
    for (at, (key, _)) in entries.iter().enumerate() {
        if !fields.iter().any(|(name, _)| same_column(name, key)) {
            let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("its type has no field {key:?}; it has: {}", names.join(", ")));
        }
        if entries[..at].iter().any(|(other, _)| same_column(other, key)) {
            return Err(format!("field {key:?} is there twice (case is not told apart); send it once"));
        }
    }
    Ok(())
}

fn append_map(
    ranges: &mut Ranges,
    keys: &mut Values,
    values: &mut Values,
    node: Option<&Node<'_>>,
    cells: &mut Cells,
) -> Result<(), String> {
    let entries = match node.map(|node| &node.value) {
        Some(Value::Object(entries)) => entries,
        other => {
            ranges.end(0, false);
            let what = "it is a map, which JSON has as an object; the row has";
            return other.map_or(Ok(()), |value| Err(format!("{what} {}", value.kind())));
        }
    };
    // An array of keys can't have a NULL, so they are looked at first.
    let as_keys: Vec<Node<'_>> = entries.iter().map(|(key, _)| as_key(key, &keys.data_type)).collect();
    for (node, (key, _)) in as_keys.iter().zip(entries) {
        if let Err(reason) = keys.check(node) {
            ranges.end(0, false);
            return Err(format!("key {key:?}: {reason}"));
        }
    }
    let mut fault = Ok(());
    for (node, (key, value)) in as_keys.iter().zip(entries) {
        let appended = keys.append(Some(node), cells).and_then(|()| values.append(Some(value), cells));
        if cells.is_over() {
            return appended;
        }
        fault = fault.and(appended.map_err(|reason| format!("key {key:?}: {reason}")));
    }
    ranges.end(entries.len(), true);
    fault
}

/// A key of an object, which is always a text, as the value that it stands for.
fn as_key<'a>(key: &'a str, data_type: &SqlType) -> Node<'a> {
    let is_text = matches!(data_type, SqlType::Varchar | SqlType::Json);
    match super::whole(key) {
        Ok(node) if !is_text && matches!(node.value, Value::Number | Value::Bool(_)) => node,
        _ => Node { text: key, value: Value::Text(Cow::Borrowed(key)) },
    }
}
