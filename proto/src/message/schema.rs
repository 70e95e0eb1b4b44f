//! Looks at the schema of a message: are its types such as Arrow has, and how much is it?
//!
//! Arrow's own conversion ends in a panic where a type's parameters or children are not those it expects, and follows
//! each pointer: the same long name under ten thousand fields is copied ten thousand times.

use arrow::ipc::{
    DateUnit, Decimal, Endianness, Field, Int, IntervalUnit, KeyValue, Precision, Schema, TimeUnit, Type, Union,
    UnionMode,
};

use super::MessageError;

/// Most fields of a schema, nested ones counted: a table has at most 2,000 columns.
pub const FIELDS_MAX: usize = 16 << 10;

/// How deep fields may nest: twice what a table's types do, since Arrow's maps and dictionaries have levels of their
/// own.
pub const NESTING_MAX: usize = 64;

/// Most bytes of a schema's names and metadata, each counted as often as it is pointed at.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

const NO_SUCH_TYPE: MessageError = MessageError::Malformed("a field has a type that Arrow does not have");

/// Refuses a schema that must not be decoded.
pub(super) fn check(schema: Schema<'_>) -> Result<(), MessageError> {
    if schema.endianness() != Endianness::Little {
        return Err(MessageError::Malformed("it is not little-endian"));
    }
    let fields = schema.fields().ok_or(MessageError::Malformed("a schema has no list of fields"))?;
    let mut size = Size::default();
    size.add_metadata(schema.custom_metadata().into_iter().flatten())?;
    fields.iter().try_for_each(|field| size.add_field(field, 1))
}

/// What was seen of a schema so far.
#[derive(Default)]
struct Size {
    fields: usize,
    text_bytes: usize,
}

impl Size {
    fn add_field(&mut self, field: Field<'_>, depth: usize) -> Result<(), MessageError> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(MessageError::Malformed("a schema has too many fields"));
        }
        if depth > NESTING_MAX {
            return Err(MessageError::Malformed("a schema nests too deep"));
        }
        self.add_text(field.name())?;
        self.add_metadata(field.custom_metadata().into_iter().flatten())?;
        if field.type_type() == Type::Timestamp {
            self.add_text(field.type_as_timestamp().and_then(|timestamp| timestamp.timezone()))?;
        }
        if let Some(dictionary) = field.dictionary()
            && !dictionary.indexType().is_some_and(is_int)
        {
            return Err(NO_SUCH_TYPE);
        }
        if !has_type(field) {
            return Err(NO_SUCH_TYPE);
        }
        field.children().into_iter().flatten().try_for_each(|child| self.add_field(child, depth + 1))
    }

    fn add_metadata<'a>(&mut self, mut pairs: impl Iterator<Item = KeyValue<'a>>) -> Result<(), MessageError> {
        pairs.try_for_each(|pair| {
            // Each costs a place in a map, too.
            self.text_bytes = self.text_bytes.saturating_add(size_of::<[String; 2]>());
            self.add_text(pair.key()).and_then(|()| self.add_text(pair.value()))
        })
    }

    fn add_text(&mut self, text: Option<&str>) -> Result<(), MessageError> {
        self.text_bytes = self.text_bytes.saturating_add(text.map_or(0, str::len));
        if self.text_bytes > TEXT_BYTES_MAX {
            return Err(MessageError::Malformed("a schema has too long names or metadata"));
        }
        Ok(())
    }
}

/// Whether the field's type is one that Arrow has, its children's left aside.
fn has_type(field: Field<'_>) -> bool {
    let children = field.children().map_or(0, |children| children.len());
    match field.type_type() {
        Type::Null
        | Type::Bool
        | Type::Binary
        | Type::BinaryView
        | Type::LargeBinary
        | Type::Utf8
        | Type::Utf8View
        | Type::LargeUtf8
        | Type::Struct_ => true,
        Type::Int => field.type_as_int().is_some_and(is_int),
        Type::FloatingPoint => field
            .type_as_floating_point()
            .is_some_and(|float| [Precision::HALF, Precision::SINGLE, Precision::DOUBLE].contains(&float.precision())),
        Type::Decimal => field.type_as_decimal().is_some_and(is_decimal),
        Type::FixedSizeBinary => field.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() >= 0),
        Type::Date => {
            field.type_as_date().is_some_and(|date| [DateUnit::DAY, DateUnit::MILLISECOND].contains(&date.unit()))
        }
        Type::Time => field.type_as_time().is_some_and(|time| match time.bitWidth() {
            32 => [TimeUnit::SECOND, TimeUnit::MILLISECOND].contains(&time.unit()),
            64 => [TimeUnit::MICROSECOND, TimeUnit::NANOSECOND].contains(&time.unit()),
            _ => false,
        }),
        Type::Timestamp => field.type_as_timestamp().is_some_and(|timestamp| is_unit(timestamp.unit())),
        Type::Duration => field.type_as_duration().is_some_and(|duration| is_unit(duration.unit())),
        Type::Interval => field.type_as_interval().is_some_and(|interval| {
            let units = [IntervalUnit::YEAR_MONTH, IntervalUnit::DAY_TIME, IntervalUnit::MONTH_DAY_NANO];
            units.contains(&interval.unit())
        }),
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => children == 1,
        Type::FixedSizeList => {
            children == 1 && field.type_as_fixed_size_list().is_some_and(|list| list.listSize() >= 0)
        }
        Type::Map => field.type_as_map().is_some() && children == 1 && has_entries(field),
        Type::RunEndEncoded => children == 2 && has_run_ends(field),
        Type::Union => field.type_as_union().is_some_and(|union| is_union(union, children)),
        _ => false,
    }
}

fn is_int(int: Int<'_>) -> bool {
    [8, 16, 32, 64].contains(&int.bitWidth())
}

fn is_unit(unit: TimeUnit) -> bool {
    [TimeUnit::SECOND, TimeUnit::MILLISECOND, TimeUnit::MICROSECOND, TimeUnit::NANOSECOND].contains(&unit)
}

/// A precision within the width, and a scale within the precision; negative scales (tens, hundreds) are as wide.
fn is_decimal(decimal: Decimal<'_>) -> bool {
    let most = match decimal.bitWidth() {
        32 => 9,
        64 => 18,
        128 => 38,
        256 => 76,
        _ => return false,
    };
    (1..=most).contains(&decimal.precision()) && (-most..=decimal.precision()).contains(&decimal.scale())
}

fn has_entries(map: Field<'_>) -> bool {
    map.children().into_iter().flatten().all(|entries| {
        let children = entries.children().map_or(0, |children| children.len());
        entries.type_type() == Type::Struct_ && entries.dictionary().is_none() && children == 2
    })
}

fn has_run_ends(runs: Field<'_>) -> bool {
    runs.children().into_iter().flatten().next().is_some_and(|ends| {
        let is_end = |int: Int<'_>| int.is_signed() && [16, 32, 64].contains(&int.bitWidth());
        ends.dictionary().is_none() && ends.type_as_int().is_some_and(is_end)
    })
}

/// A union whose children each have a number of their own.
fn is_union(union: Union<'_>, children: usize) -> bool {
    const CHILDREN_MAX: usize = i8::MAX as usize;
    if ![UnionMode::Dense, UnionMode::Sparse].contains(&union.mode()) || children > CHILDREN_MAX {
        return false;
    }
    let Some(ids) = union.typeIds() else { return true };
    let mut taken = [false; CHILDREN_MAX + 1];
    let is_new = |id: i32| {
        let place = usize::try_from(id).ok().and_then(|id| taken.get_mut(id));
        place.is_some_and(|taken| !std::mem::replace(taken, true))
    };
    ids.len() == children && ids.iter().all(is_new)
}
