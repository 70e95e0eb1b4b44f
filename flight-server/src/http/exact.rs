//! The values that arrow-json writes with a loss, or not at all, written exactly: see [`formats`](super::formats).

use std::io::Write as _;

use arrow::array::{Array, ArrowPrimitiveType, AsArray as _, Float32Array, Float64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(super) fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView)
}

/// Encodes what arrow-json would write with a loss, or not at all.
#[derive(Debug)]
pub(super) struct Exact;

impl EncoderFactory for Exact {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Box::new(Shown(ArrayFormatter::try_new(array, &FormatOptions::default())?))
            }
            DataType::Float32 if has_odd::<Float32Type>(array, f32::is_finite) => {
                Box::new(Floats32(array.as_primitive::<Float32Type>()))
            }
            DataType::Float64 if has_odd::<Float64Type>(array, f64::is_finite) => {
                Box::new(Floats64(array.as_primitive::<Float64Type>()))
            }
            other if is_bytes(other) => Box::new(Bytes(array)),
            DataType::Map(entries, _) if !has_text_keys(entries) => {
                let map = array.as_map();
                let keys = make_encoder(field, map.keys().as_ref(), options)?;
                let values = make_encoder(field, map.values().as_ref(), options)?;
                Box::new(Keyed { offsets: map.offsets().clone(), keys, values, key: Vec::new() })
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

fn has_odd<T: ArrowPrimitiveType>(array: &dyn Array, is_finite: fn(T::Native) -> bool) -> bool {
    array.as_primitive::<T>().values().iter().any(|value| !is_finite(*value))
}

fn has_text_keys(entries: &FieldRef) -> bool {
    let DataType::Struct(fields) = entries.data_type() else { return true };
    let key = fields.first().map(|key| key.data_type());
    matches!(key, Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
}

/// A value as Arrow shows it, in quotes: digits, which need no escapes.
struct Shown<'a>(ArrayFormatter<'a>);

impl Encoder for Shown<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        // Writing to memory does not fail.
        let _ = write!(out, "\"{}\"", self.0.value(row));
    }
}

/// Floats, some of which are no numbers.
struct Floats32<'a>(&'a Float32Array);

impl Encoder for Floats32<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        let _ = if value.is_finite() { write!(out, "{value:?}") } else { write!(out, "\"{}\"", odd(value.into())) };
    }
}

struct Floats64<'a>(&'a Float64Array);

impl Encoder for Floats64<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        let _ = if value.is_finite() { write!(out, "{value:?}") } else { write!(out, "\"{}\"", odd(value)) };
    }
}

fn odd(value: f64) -> &'static str {
    match value {
        value if value.is_nan() => "NaN",
        value if value > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

/// Bytes in base64.
struct Bytes<'a>(&'a dyn Array);

impl Encoder for Bytes<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let bytes = match self.0.data_type() {
            DataType::Binary => self.0.as_binary::<i32>().value(row),
            DataType::LargeBinary => self.0.as_binary::<i64>().value(row),
            DataType::BinaryView => self.0.as_binary_view().value(row),
            _ => self.0.as_fixed_size_binary().value(row),
        };
        let _ = write!(out, "\"{}\"", STANDARD.encode(bytes));
    }
}

/// A map whose keys are no texts: they become texts.
struct Keyed<'a> {
    offsets: OffsetBuffer<i32>,
    keys: NullableEncoder<'a>,
    values: NullableEncoder<'a>,
    key: Vec<u8>,
}

impl Encoder for Keyed<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let offset = |at: usize| self.offsets.get(at).and_then(|offset| usize::try_from(*offset).ok()).unwrap_or(0);
        let (start, end) = (offset(row), offset(row + 1));
        out.push(b'{');
        for entry in start..end {
            if entry > start {
                out.push(b',');
            }
            self.key.clear();
            self.keys.encode(entry, &mut self.key);
            let quote: &[u8] = if self.key.first() == Some(&b'"') { b"" } else { b"\"" };
            out.extend_from_slice(quote);
            out.extend_from_slice(&self.key);
            out.extend_from_slice(quote);
            out.push(b':');
            if self.values.is_null(entry) {
                out.extend_from_slice(b"null");
            } else {
                self.values.encode(entry, out);
            }
        }
        out.push(b'}');
    }
}
