//! One number for a schema, so that frames of the same shape are known without reading them.
//!
//! Arrow's own `Hash`, `Debug` and IPC bytes may change with its version; a fingerprint is stored in bronze for
//! years. So the schema is written as a text of our own, and the text is hashed with FNV-1a (64 bits).
//!
//! ```text
//! schema  = field*
//! field   = name-length-in-bytes ":" name " " type ("!" when not nullable, else "?") ";"
//! type    = word, its parameters in "()", its child fields in "{}"
//! ```
//!
//! Names, types, nullability and their order count. Metadata and whether a dictionary is ordered do not. Names carry
//! their length, so no name can pass for syntax. It tells shapes apart, it does not resist someone who looks for a
//! collision.

use std::fmt::Write;

use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit, UnionMode};

// Parameters of 64-bit FNV-1a: https://www.rfc-editor.org/rfc/rfc9923
const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A number that is equal for schemas of equal names, types and nullability in equal order, in every version of
/// Mallard and Arrow.
pub fn schema_fingerprint(schema: &Schema) -> u64 {
    let mut hash = Fnv1a(FNV_OFFSET_BASIS);
    for field in schema.fields() {
        write_field(&mut hash, field);
    }
    hash.0
}

/// Hashes the text that is written to it.
struct Fnv1a(u64);

impl Fnv1a {
    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }

    fn format(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Hashing cannot fail, so neither can this.
        let _ = self.write_fmt(arguments);
    }
}

impl Write for Fnv1a {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text(text);
        Ok(())
    }
}

fn write_field(out: &mut Fnv1a, field: &Field) {
    out.format(format_args!("{}:{} ", field.name().len(), field.name()));
    write_type(out, field.data_type());
    out.text(if field.is_nullable() { "?;" } else { "!;" });
}

fn write_nested<'a>(out: &mut Fnv1a, word: &str, children: impl IntoIterator<Item = &'a Field>) {
    out.text(word);
    out.text("{");
    for child in children {
        write_field(out, child);
    }
    out.text("}");
}

fn write_type(out: &mut Fnv1a, data_type: &DataType) {
    match data_type {
        DataType::List(item) => write_nested(out, "list", [item.as_ref()]),
        DataType::LargeList(item) => write_nested(out, "large_list", [item.as_ref()]),
        DataType::ListView(item) => write_nested(out, "list_view", [item.as_ref()]),
        DataType::LargeListView(item) => write_nested(out, "large_list_view", [item.as_ref()]),
        DataType::FixedSizeList(item, size) => {
            write_nested(out, &format!("fixed_size_list({size})"), [item.as_ref()]);
        }
        DataType::Struct(fields) => write_nested(out, "struct", fields.iter().map(AsRef::as_ref)),
        DataType::Map(entries, sorted) => {
            write_nested(out, if *sorted { "map(sorted)" } else { "map" }, [entries.as_ref()]);
        }
        DataType::RunEndEncoded(ends, values) => {
            write_nested(out, "run_end_encoded", [ends.as_ref(), values.as_ref()]);
        }
        DataType::Union(fields, mode) => {
            out.text(match mode {
                UnionMode::Sparse => "sparse_union(",
                UnionMode::Dense => "dense_union(",
            });
            for (id, _) in fields.iter() {
                out.format(format_args!("{id},"));
            }
            write_nested(out, ")", fields.iter().map(|(_, field)| field.as_ref()));
        }
        DataType::Dictionary(key, value) => {
            out.text("dictionary(");
            write_type(out, key);
            out.text(",");
            write_type(out, value);
            out.text(")");
        }
        flat => write_flat(out, flat),
    }
}

fn write_flat(out: &mut Fnv1a, data_type: &DataType) {
    match data_type {
        DataType::Timestamp(unit, None) => out.format(format_args!("timestamp({})", unit_word(*unit))),
        DataType::Timestamp(unit, Some(zone)) => {
            out.format(format_args!("timestamp({},{}:{zone})", unit_word(*unit), zone.len()));
        }
        DataType::Time32(unit) => out.format(format_args!("time32({})", unit_word(*unit))),
        DataType::Time64(unit) => out.format(format_args!("time64({})", unit_word(*unit))),
        DataType::Duration(unit) => out.format(format_args!("duration({})", unit_word(*unit))),
        DataType::FixedSizeBinary(size) => out.format(format_args!("fixed_size_binary({size})")),
        DataType::Decimal32(precision, scale) => out.format(format_args!("decimal32({precision},{scale})")),
        DataType::Decimal64(precision, scale) => out.format(format_args!("decimal64({precision},{scale})")),
        DataType::Decimal128(precision, scale) => out.format(format_args!("decimal128({precision},{scale})")),
        DataType::Decimal256(precision, scale) => out.format(format_args!("decimal256({precision},{scale})")),
        word => out.text(type_word(word)),
    }
}

/// The word for a type without parameters.
fn type_word(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Date32 => "date32",
        DataType::Date64 => "date64",
        DataType::Interval(IntervalUnit::YearMonth) => "interval(year_month)",
        DataType::Interval(IntervalUnit::DayTime) => "interval(day_time)",
        DataType::Interval(IntervalUnit::MonthDayNano) => "interval(month_day_nano)",
        DataType::Binary => "binary",
        DataType::LargeBinary => "large_binary",
        DataType::BinaryView => "binary_view",
        DataType::Utf8 => "utf8",
        DataType::LargeUtf8 => "large_utf8",
        DataType::Utf8View => "utf8_view",
        // Written with their parameters or children by the callers; named here so that a new type does not compile.
        DataType::Timestamp(..)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::FixedSizeBinary(_)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..)
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..)
        | DataType::RunEndEncoded(..)
        | DataType::Union(..)
        | DataType::Dictionary(..) => "",
    }
}

fn unit_word(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

#[cfg(test)]
mod tests;
