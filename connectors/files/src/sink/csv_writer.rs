//! Arrow to CSV. NULL is an empty field, or the marker; the empty string, and text that reads like NULL, is quoted.

use std::fmt::Write as _;
use std::io::{self, Write};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dpone_planner::types::is_uuid;

use super::options::{Codec, CsvLayout, WriteOptions};
use super::writer::Output;

pub(crate) struct CsvWriter {
    output: Compressor,
    options: CsvLayout,
    /// One batch as text, and one value.
    buffer: Vec<u8>,
    value: String,
    bytes: usize,
}

enum Compressor {
    None(Box<dyn Output>),
    Gzip(flate2::write::GzEncoder<Box<dyn Output>>),
    Zstd(zstd::stream::write::Encoder<'static, Box<dyn Output>>),
}

impl CsvWriter {
    pub(crate) fn new(output: Box<dyn Output>, schema: &Schema, options: WriteOptions) -> io::Result<Self> {
        let output = match options.codec {
            Codec::Gzip => Compressor::Gzip(flate2::write::GzEncoder::new(output, flate2::Compression::default())),
            Codec::Zstd(level) => Compressor::Zstd(zstd::stream::write::Encoder::new(output, level)?),
            Codec::None | Codec::Snappy => Compressor::None(output),
        };
        let mut writer = Self { output, options: options.csv, buffer: Vec::new(), value: String::new(), bytes: 0 };
        if writer.options.header {
            for (i, field) in schema.fields().iter().enumerate() {
                if i > 0 {
                    writer.buffer.push(writer.options.delimiter);
                }
                put(&mut writer.buffer, field.name().as_bytes(), &writer.options);
            }
            writer.buffer.push(b'\n');
            writer.flush()?;
        }
        Ok(writer)
    }

    /// Bytes of text written so far.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> io::Result<usize> {
        let format = FormatOptions::new().with_display_error(false);
        let schema = batch.schema();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (array, field) in batch.columns().iter().zip(schema.fields()) {
            columns.push(Column::new(array.as_ref(), is_uuid(field), &format)?);
        }
        for row in 0..batch.num_rows() {
            for (i, column) in columns.iter().enumerate() {
                if i > 0 {
                    self.buffer.push(self.options.delimiter);
                }
                if column.array.is_null(row) {
                    self.buffer.extend_from_slice(self.options.null_marker.as_bytes());
                    continue;
                }
                self.value.clear();
                let value = column.text(row, &mut self.value)?;
                put(&mut self.buffer, value.as_bytes(), &self.options);
            }
            self.buffer.push(b'\n');
        }
        self.flush()?;
        Ok(self.bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.bytes += self.buffer.len();
        match &mut self.output {
            Compressor::None(output) => output.write_all(&self.buffer),
            Compressor::Gzip(output) => output.write_all(&self.buffer),
            Compressor::Zstd(output) => output.write_all(&self.buffer),
        }?;
        self.buffer.clear();
        Ok(())
    }

    /// Bytes of text, before compression.
    pub(crate) fn finish(self) -> io::Result<u64> {
        let mut output = match self.output {
            Compressor::None(output) => output,
            Compressor::Gzip(encoder) => encoder.finish()?,
            Compressor::Zstd(encoder) => encoder.finish()?,
        };
        output.finish()?;
        Ok(self.bytes as u64)
    }
}

fn put(buffer: &mut Vec<u8>, value: &[u8], options: &CsvLayout) {
    let quote = value.is_empty()
        || value == options.null_marker.as_bytes()
        || value.iter().any(|b| *b == options.delimiter || matches!(b, b'"' | b'\n' | b'\r'));
    if !quote {
        buffer.extend_from_slice(value);
        return;
    }
    buffer.push(b'"');
    for byte in value {
        if *byte == b'"' {
            buffer.push(b'"');
        }
        buffer.push(*byte);
    }
    buffer.push(b'"');
}

/// A column and how its values become text that reads back as the same value.
struct Column<'a> {
    array: &'a dyn Array,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Text(&'a arrow::array::StringArray),
    Bytes(&'a arrow::array::BinaryArray),
    Uuid(&'a arrow::array::FixedSizeBinaryArray),
    /// Dates and timestamps, whose years outside of 1 to 9999 have a sign.
    Dated(ArrayFormatter<'a>),
    Other(ArrayFormatter<'a>),
}

impl<'a> Column<'a> {
    fn new(array: &'a dyn Array, uuid: bool, format: &FormatOptions<'a>) -> io::Result<Self> {
        let kind = match array.data_type() {
            DataType::Utf8 => Kind::Text(array.as_string::<i32>()),
            DataType::Binary => Kind::Bytes(array.as_binary::<i32>()),
            DataType::FixedSizeBinary(16) if uuid => Kind::Uuid(array.as_fixed_size_binary()),
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
                Kind::Dated(ArrayFormatter::try_new(array, format).map_err(io::Error::other)?)
            }
            _ => Kind::Other(ArrayFormatter::try_new(array, format).map_err(io::Error::other)?),
        };
        Ok(Self { array, kind })
    }

    fn text<'b>(&'b self, row: usize, buffer: &'b mut String) -> io::Result<&'b str> {
        match &self.kind {
            Kind::Text(array) => return Ok(array.value(row)),
            Kind::Bytes(array) => {
                buffer.push_str("\\x");
                for byte in array.value(row) {
                    write!(buffer, "{byte:02x}").map_err(io::Error::other)?;
                }
            }
            Kind::Uuid(array) => {
                let uuid = uuid::Uuid::from_slice(array.value(row)).map_err(io::Error::other)?;
                write!(buffer, "{uuid}").map_err(io::Error::other)?;
            }
            Kind::Dated(formatter) => {
                write!(buffer, "{}", formatter.value(row)).map_err(io::Error::other)?;
                if buffer.starts_with("0000-") {
                    buffer.insert(0, '+');
                }
            }
            Kind::Other(formatter) => write!(buffer, "{}", formatter.value(row)).map_err(io::Error::other)?,
        }
        Ok(buffer)
    }
}
