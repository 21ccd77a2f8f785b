//! Query results, batch by batch: a table for people, CSV, JSON, Markdown or Parquet. Memory holds one batch.

use std::fmt::{Display, LowerExp};
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow::json::{self, Encoder, EncoderFactory, EncoderOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dpone_engine::Result;
use dpone_planner::exact_cast::uuid_text;
use dpone_planner::types::is_uuid;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::table::{escape, visible, visible_lines};
use crate::commands::query::ResultFormat;
use crate::output::unwritable;

/// Writes batches in one format. `finish` completes what `write` began.
pub(crate) trait BatchWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<()>;
}

pub(crate) fn writer<'a, W: Write + Send + 'a>(
    format: ResultFormat,
    schema: &SchemaRef,
    out: W,
) -> Result<Box<dyn BatchWriter + 'a>> {
    Ok(match format {
        ResultFormat::Table => Box::new(Aligned { out, widths: None, schema: schema.clone(), rows: 0 }),
        ResultFormat::Md => Box::new(Markdown { out, schema: schema.clone(), begun: false }),
        ResultFormat::Csv => Box::new(Csv::new(out, schema)?),
        ResultFormat::Json => Box::new(Json { writer: options().build::<W, json::writer::JsonArray>(out) }),
        ResultFormat::Ndjson => Box::new(Json { writer: options().build::<W, json::writer::LineDelimited>(out) }),
        ResultFormat::Parquet => {
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_created_by(concat!("dpone ", env!("CARGO_PKG_VERSION")).to_owned())
                .build();
            Box::new(Parquet { writer: ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(parquet)? })
        }
    })
}

fn options() -> json::WriterBuilder {
    json::WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Encoders))
}

/// What JSON's own numbers cannot say: NaN and the infinities become the texts `NaN`, `Infinity` and `-Infinity`.
#[derive(Debug)]
struct Encoders;

impl EncoderFactory for Encoders {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => Box::new(Float(array.as_primitive::<Float16Type>(), |v| v.to_f32().into())),
            DataType::Float32 => Box::new(Float(array.as_primitive::<Float32Type>(), f64::from)),
            DataType::Float64 => Box::new(Float(array.as_primitive::<Float64Type>(), |v| v)),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Floats, and how each is looked at.
struct Float<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>, fn(T::Native) -> f64);

impl<T: ArrowPrimitiveType<Native: Display + LowerExp>> Encoder for Float<'_, T> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value = self.0.value(index);
        let wide = (self.1)(value);
        // Writing to a vector cannot fail.
        let _ = if wide.is_nan() {
            out.write_all(b"\"NaN\"")
        } else if wide.is_infinite() {
            out.write_all(if wide > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" })
        } else if wide == wide.trunc() && wide.abs() < 1e15 {
            // Digits alone: a float says that it is one.
            write!(out, "{value:.1}")
        } else if wide.abs() < 1e-5 || wide.abs() >= 1e15 {
            write!(out, "{value:e}")
        } else {
            write!(out, "{value}")
        };
    }
}

/// The columns as people read them: a uuid as its text.
fn readable(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| is_uuid(field)) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if is_uuid(field) {
            fields.push(Field::new(field.name(), DataType::Utf8, field.is_nullable()));
            columns.push(uuid_text(column)?);
        } else {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn parquet(error: parquet::errors::ParquetError) -> dpone_engine::Error {
    dpone_engine::Error::unknown(format!("cannot write Parquet: {error}")).with_source(error)
}

/// Every value as text, NULL as `NULL`.
fn cells(batch: &RecordBatch, null: &str) -> Result<Vec<Vec<String>>> {
    let batch = &readable(batch)?;
    let options = FormatOptions::default().with_null(null).with_display_error(false);
    let columns = batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let row = |i: usize| {
        let cell = |c: &ArrayFormatter<'_>| c.value(i).try_to_string();
        columns.iter().map(cell).collect::<Result<Vec<_>, _>>()
    };
    Ok((0..batch.num_rows()).map(row).collect::<Result<Vec<_>, _>>()?)
}

/// Columns as wide as the first batch needs them: a stream has no other widths.
struct Aligned<W> {
    out: W,
    widths: Option<Vec<usize>>,
    schema: SchemaRef,
    rows: u64,
}

impl<W: Write> Aligned<W> {
    fn line(&mut self, row: &[String], widths: &[usize]) -> Result<()> {
        let mut line = String::new();
        for ((cell, width), field) in row.iter().zip(widths).zip(self.schema.fields()) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let number = field.data_type().is_numeric();
            line.push_str(&if number { format!("{padding}{cell}") } else { format!("{cell}{padding}") });
        }
        writeln!(self.out, "{}", line.trim_end()).map_err(unwritable)
    }

    fn begin(&mut self, rows: &[Vec<String>]) -> Result<Vec<usize>> {
        if let Some(widths) = &self.widths {
            return Ok(widths.clone());
        }
        let names: Vec<String> = self.schema.fields().iter().map(|f| visible(f.name())).collect();
        let width = |i: usize| {
            let cells = rows.iter().map(|row| row[i].chars().count());
            cells.chain([names[i].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        self.line(&names, &widths)?;
        let rules: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
        self.line(&rules, &widths)?;
        self.widths = Some(widths.clone());
        Ok(widths)
    }
}

impl<W: Write> BatchWriter for Aligned<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = cells(batch, "NULL")?;
        let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let widths = self.begin(&rows)?;
        for row in &rows {
            self.line(row, &widths)?;
        }
        self.rows += rows.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.begin(&[])?;
        writeln!(self.out, "({})", super::units::rows(self.rows)).map_err(unwritable)?;
        self.out.flush().map_err(unwritable)
    }
}

struct Markdown<W> {
    out: W,
    schema: SchemaRef,
    begun: bool,
}

impl<W: Write> Markdown<W> {
    fn begin(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            let names: Vec<_> = self.schema.fields().iter().map(|f| escape(&visible(f.name()))).collect();
            let rules: Vec<_> =
                self.schema.fields().iter().map(|f| if f.data_type().is_numeric() { "---:" } else { "---" }).collect();
            writeln!(self.out, "| {} |\n|{}|", names.join(" | "), rules.join("|")).map_err(unwritable)?;
        }
        Ok(())
    }
}

impl<W: Write> BatchWriter for Markdown<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.begin()?;
        for row in cells(batch, "NULL")? {
            let row: Vec<_> = row.iter().map(|cell| escape(&visible_lines(cell))).collect();
            writeln!(self.out, "| {} |", row.join(" | ")).map_err(unwritable)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.begin()?;
        self.out.flush().map_err(unwritable)
    }
}

/// NULL is an empty field. An empty text is `""`, so the two stay apart.
struct Csv<W> {
    out: W,
    line: String,
    cell: String,
}

impl<W: Write> Csv<W> {
    fn new(mut out: W, schema: &SchemaRef) -> Result<Self> {
        let names: Vec<_> = schema.fields().iter().map(|f| quoted(f.name())).collect();
        writeln!(out, "{}", names.join(",")).map_err(unwritable)?;
        Ok(Self { out, line: String::new(), cell: String::new() })
    }
}

fn quoted(cell: &str) -> std::borrow::Cow<'_, str> {
    if cell.is_empty() || cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\"")).into()
    } else {
        cell.into()
    }
}

impl<W: Write> BatchWriter for Csv<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = &readable(batch)?;
        let options = FormatOptions::default().with_display_error(false);
        let columns = batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let nulls: Vec<_> = batch.columns().iter().map(|c| c.logical_nulls()).collect();
        for row in 0..batch.num_rows() {
            self.line.clear();
            for (i, (column, nulls)) in columns.iter().zip(&nulls).enumerate() {
                if i > 0 {
                    self.line.push(',');
                }
                if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                    self.cell.clear();
                    column.value(row).write(&mut self.cell)?;
                    self.line.push_str(&quoted(&self.cell));
                }
            }
            self.line.push('\n');
            self.out.write_all(self.line.as_bytes()).map_err(unwritable)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.out.flush().map_err(unwritable)
    }
}

struct Json<W: Write, F: json::writer::JsonFormat> {
    writer: json::Writer<W, F>,
}

impl<W: Write, F: json::writer::JsonFormat> BatchWriter for Json<W, F> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.writer.write(&readable(batch)?)?)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.writer.finish()?;
        let mut out = self.writer.into_inner();
        out.flush().map_err(unwritable)
    }
}

struct Parquet<W: Write + Send> {
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> BatchWriter for Parquet<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(parquet)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut out = self.writer.into_inner().map_err(parquet)?;
        out.flush().map_err(unwritable)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use super::*;

    fn rendered(format: ResultFormat) -> String {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a,b"), Some(""), None, Some("x\n\"y\"|")]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(-20), None, Some(i64::MAX)]));
        let batch = RecordBatch::try_from_iter_with_nullable([("t", text, true), ("n", number, true)]).unwrap();
        let mut out = Vec::new();
        {
            let mut writer = writer(format, &batch.schema(), &mut out).unwrap();
            writer.write(&batch.slice(0, 3)).unwrap();
            writer.write(&batch.slice(3, 1)).unwrap();
            writer.finish().unwrap();
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn null_and_the_empty_text_stay_apart_in_csv() {
        assert_eq!(rendered(ResultFormat::Csv), "t,n\n\"a,b\",1\n\"\",-20\n,\n\"x\n\"\"y\"\"|\",9223372036854775807\n");
    }

    #[test]
    fn a_table_streams_with_the_widths_of_its_first_batch() {
        assert_eq!(
            rendered(ResultFormat::Table),
            "t        n\n----  ----\na,b      1\n       -20\nNULL  NULL\nx\\n\"y\"|  9223372036854775807\n(4 rows)\n"
        );
        assert!(rendered(ResultFormat::Md).ends_with("| x<br>\"y\"\\| | 9223372036854775807 |\n"));
    }

    #[test]
    fn what_would_steer_a_terminal_is_shown_instead() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["\u{1b}[2Jx\u{9b}\u{202e}\t\u{7f}ü"]));
        let batch = RecordBatch::try_from_iter([("t\u{7}", text)]).unwrap();
        for format in [ResultFormat::Table, ResultFormat::Md] {
            let mut out = Vec::new();
            let mut writer = writer(format, &batch.schema(), &mut out).unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            let out = String::from_utf8(out).unwrap();
            assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
            let slash = if format == ResultFormat::Md { "\\\\" } else { "\\" };
            for shown in ["x1b", "x9b", "u{202e}", "t", "x7f"] {
                assert!(out.contains(&format!("{slash}{shown}")), "{shown}: {out}");
            }
        }
    }

    #[test]
    fn json_says_every_float() {
        let values = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.1, 1e300, 3.0, 5e-324];
        let floats: ArrayRef = Arc::new(Float64Array::from(values.clone()));
        let batch = RecordBatch::try_from_iter([("f", floats)]).unwrap();
        let mut out = Vec::new();
        let mut writer = writer(ResultFormat::Json, &batch.schema(), &mut out).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let array: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let found: Vec<_> = array.as_array().unwrap().iter().map(|row| row["f"].clone()).collect();
        assert_eq!(found[..3], ["NaN", "Infinity", "-Infinity"]);
        let numbers: Vec<f64> = found[3..].iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(numbers, values[3..]);
    }

    #[test]
    fn json_names_every_column_of_every_row() {
        let lines = rendered(ResultFormat::Ndjson);
        assert_eq!(lines.lines().nth(2), Some("{\"t\":null,\"n\":null}"));
        let array: serde_json::Value = serde_json::from_str(&rendered(ResultFormat::Json)).unwrap();
        assert_eq!(array.as_array().map(Vec::len), Some(4));
    }
}
