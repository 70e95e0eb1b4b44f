//! Results as JSON, NDJSON, CSV or Arrow, a batch at a time.
//!
//! Nothing is lost without a sign. In JSON, integers are numbers with all their digits, decimals are texts (most
//! readers make numbers floats), floats that are no numbers are the texts `NaN`, `Infinity` and `-Infinity`, and bytes
//! are texts in base64. CSV has the same, and nested values as JSON.

#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_json::writer::{EncoderOptions, JsonFormat, WriterBuilder, make_encoder};
use lakehouse::{Error, Kind, Result};

use super::errors::ApiError;
use super::exact::{Exact, is_bytes};

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An array of objects.
    Json,
    /// An object a line.
    Ndjson,
    /// With a header line; lines end with a line feed.
    Csv,
    /// Arrow's IPC stream.
    Arrow,
}

const FORMATS: [Format; 4] = [Format::Json, Format::Ndjson, Format::Csv, Format::Arrow];

impl Format {
    pub(super) fn named(name: &str) -> Result<Self, ApiError> {
        let found = FORMATS.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| {
            let names = FORMATS.map(Self::name).join(", ");
            ApiError::invalid(format!("there is no format {name:?}; there are: {names}"))
        })
    }

    /// The format of a media type, or of a pattern that it fits.
    pub(super) fn of_media_type(text: &str) -> Option<Self> {
        match text {
            "*/*" | "application/*" => Some(Self::Json),
            "text/*" => Some(Self::Csv),
            "application/ndjson" | "application/jsonl" => Some(Self::Ndjson),
            _ => FORMATS.into_iter().find(|format| format.media_type().split(';').next() == Some(text)),
        }
    }

    pub(super) fn media_types() -> String {
        FORMATS.map(Self::media_type).join(", ")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Writes one result.
pub(super) struct Encoder {
    format: Format,
    schema: SchemaRef,
    /// Of format [`Format::Arrow`].
    arrow: Option<StreamWriter<Vec<u8>>>,
    has_rows: bool,
}

impl Encoder {
    /// For results of `schema`; `compression` is for Arrow alone.
    ///
    /// # Errors
    /// `Invalid` if the format can't hold such results.
    pub(super) fn new(format: Format, schema: &SchemaRef, compression: &str) -> Result<Self> {
        if matches!(format, Format::Json | Format::Ndjson) {
            check_names(schema)?;
        }
        let arrow = match format {
            Format::Arrow => Some(stream_writer(schema, compression).map_err(unencodable)?),
            Format::Json | Format::Ndjson | Format::Csv => None,
        };
        Ok(Self { format, schema: Arc::clone(schema), arrow, has_rows: false })
    }

    /// What comes before the first batch.
    pub(super) fn begin(&mut self) -> Result<Vec<u8>> {
        match self.format {
            Format::Json => Ok(b"[".to_vec()),
            Format::Ndjson => Ok(Vec::new()),
            Format::Csv => csv(&RecordBatch::new_empty(Arc::clone(&self.schema)), true).map_err(unencodable),
            Format::Arrow => Ok(self.written()),
        }
    }

    /// A batch; nothing if it is empty.
    pub(super) fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let follows = std::mem::replace(&mut self.has_rows, true);
        match self.format {
            Format::Json => {
                let start = if follows { vec![b','] } else { Vec::new() };
                json::<Listed>(batch, start).map_err(unencodable)
            }
            Format::Ndjson => json::<Lines>(batch, Vec::new()).map_err(unencodable),
            Format::Csv => csv(batch, false).map_err(unencodable),
            Format::Arrow => {
                if let Some(writer) = &mut self.arrow {
                    writer.write(batch).map_err(unencodable)?;
                }
                Ok(self.written())
            }
        }
    }

    /// What comes behind the last batch.
    pub(super) fn end(&mut self) -> Result<Vec<u8>> {
        match self.format {
            Format::Json => Ok(b"]\n".to_vec()),
            Format::Ndjson | Format::Csv => Ok(Vec::new()),
            Format::Arrow => {
                if let Some(writer) = &mut self.arrow {
                    writer.finish().map_err(unencodable)?;
                }
                Ok(self.written())
            }
        }
    }

    /// What says that the rest is missing, where the format can.
    pub(super) fn fail(&self, error: &Error) -> Vec<u8> {
        match self.format {
            Format::Ndjson => {
                let message = if error.kind() == Kind::Internal { error.to_string() } else { error.chain() };
                let error = ApiError::from(Error::new(error.kind(), message));
                format!("{}\n", error.to_json()).into_bytes()
            }
            Format::Json | Format::Csv | Format::Arrow => Vec::new(),
        }
    }

    fn written(&mut self) -> Vec<u8> {
        self.arrow.as_mut().map(|writer| std::mem::take(writer.get_mut())).unwrap_or_default()
    }
}

fn unencodable(error: ArrowError) -> Error {
    match error {
        // A type that the format doesn't know.
        ArrowError::JsonError(what) | ArrowError::CsvError(what) => {
            Error::invalid(format!("the result does not fit into the format: {what}; cast it, or choose format=arrow"))
        }
        other => Error::internal("the server can't encode its answer").because(other),
    }
}

/// Readers of JSON keep one of two equal keys.
fn check_names(schema: &Schema) -> Result<()> {
    for (at, field) in schema.fields().iter().enumerate() {
        if schema.fields().iter().skip(at + 1).any(|other| other.name() == field.name()) {
            return Err(Error::invalid(format!(
                "two columns are called {:?}, and a JSON object can't have both; rename one with AS",
                field.name()
            )));
        }
    }
    Ok(())
}

fn stream_writer(schema: &Schema, compression: &str) -> Result<StreamWriter<Vec<u8>>, ArrowError> {
    let compression = match compression {
        "lz4" => Some(CompressionType::LZ4_FRAME),
        "zstd" => Some(CompressionType::ZSTD),
        _ => None,
    };
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    StreamWriter::try_new_with_options(Vec::new(), schema, options)
}

/// Objects with commas between them.
#[derive(Debug, Default)]
struct Listed;

impl JsonFormat for Listed {
    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        if !is_first_row {
            writer.write_all(b",")?;
        }
        Ok(())
    }
}

/// Objects with a line end behind each.
#[derive(Debug, Default)]
struct Lines;

impl JsonFormat for Lines {
    fn end_row<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        writer.write_all(b"\n")?;
        Ok(())
    }
}

/// Writes a batch behind `start`.
fn json<F: JsonFormat>(batch: &RecordBatch, start: Vec<u8>) -> Result<Vec<u8>, ArrowError> {
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Exact));
    let mut writer = builder.build::<_, F>(start);
    writer.write(batch)?;
    Ok(writer.into_inner())
}

fn csv(batch: &RecordBatch, has_header: bool) -> Result<Vec<u8>, ArrowError> {
    let fields = batch.schema();
    let columns = fields.fields().iter().zip(batch.columns()).map(|(field, column)| csv_column(field, column));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let named = fields
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(named.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema, columns)?;
    let mut writer = arrow_csv::WriterBuilder::new().with_header(has_header).build(Vec::new());
    writer.write(&batch)?;
    Ok(writer.into_inner())
}

/// What CSV has no form for becomes text: nested values JSON, bytes base64.
fn csv_column(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let is_bytes = is_bytes(column.data_type());
    if !is_bytes && !column.data_type().is_nested() {
        return Ok(Arc::clone(column));
    }
    let options = EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Exact));
    let mut encoder = make_encoder(field, column.as_ref(), &options)?;
    let (mut texts, mut text) = (StringBuilder::new(), Vec::new());
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        let shown: &str = &String::from_utf8_lossy(&text);
        texts.append_value(if is_bytes { shown.trim_matches('"') } else { shown });
    }
    Ok(Arc::new(texts.finish()))
}
