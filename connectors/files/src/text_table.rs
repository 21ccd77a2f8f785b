//! CSV and NDJSON as tables: header, inference, and the provider that makes scans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use dpone_engine::{Error, ReadRequest, Result, ScanExec, SourceTable};
use dpone_planner::definition::nearest;
use dpone_planner::types::{data_type_name, logical_name};

use crate::config::{Format, TextOptions, by_extension};
use crate::csv::{Guess, Records, declared};
use crate::location::{Location, PinnedFile};
use crate::ndjson::{Lines, Shape};
use crate::scan::{TextScan, TextScanSpec, open_text};
use crate::source::{FileSource, deal, table};

/// Opens text files: looks at their header and first rows.
pub(crate) async fn open(
    source: &FileSource,
    files: Vec<PinnedFile>,
    format: Format,
    request: &ReadRequest,
) -> Result<SourceTable> {
    let mut options = source.options().text.clone();
    options.format = format;
    if !source.options().delimiter_given && files.iter().all(|f| by_extension(f.name()).2) {
        options.syntax.delimiter = b'\t';
    }
    let mut columns = source.options().columns.clone();
    for (name, data_type) in &request.types {
        match columns.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = data_type.clone(),
            None => columns.push((name.clone(), data_type.clone())),
        }
    }
    let look = Look { location: source.location().clone(), files: files.clone(), options: options.clone(), columns };
    let runtime = tokio::runtime::Handle::current();
    let looked = tokio::task::spawn_blocking(move || look.schema(&runtime)).await;
    let (schema, notes) = looked.map_err(|e| Error::internal("looking at files failed").with_source(e))??;
    Ok(provide(source, files, options, schema, notes, request))
}

/// Opens files that a CSV sink wrote with this schema.
pub(crate) fn stored(
    source: &FileSource,
    files: Vec<PinnedFile>,
    schema: SchemaRef,
    options: TextOptions,
    request: &ReadRequest,
) -> Result<SourceTable> {
    if let Some(column) = request.types.keys().next() {
        return Err(Error::configuration(format!("column {column:?}: the types of this table are stored with it"))
            .with_hint("convert the column in a query"));
    }
    Ok(provide(source, files, options, schema.as_ref().clone(), Vec::new(), request))
}

fn provide(
    source: &FileSource,
    files: Vec<PinnedFile>,
    options: TextOptions,
    schema: Schema,
    notes: Vec<String>,
    request: &ReadRequest,
) -> SourceTable {
    let provider = TextTable {
        connection: source.connection().to_owned(),
        location: source.location().clone(),
        partitions: deal(files.clone(), request.parallelism),
        options,
        schema: Arc::new(schema),
    };
    table(Arc::new(provider), &files, notes)
}

/// What inference needs, in a thread that may block.
struct Look {
    location: Location,
    files: Vec<PinnedFile>,
    options: TextOptions,
    /// Declared columns, in order.
    columns: Vec<(String, String)>,
}

impl Look {
    fn schema(&self, runtime: &tokio::runtime::Handle) -> Result<(Schema, Vec<String>)> {
        match self.options.format {
            Format::Ndjson => self.ndjson(runtime),
            _ => self.csv(runtime),
        }
    }

    /// Samples rows until there are enough, file after file.
    fn csv(&self, runtime: &tokio::runtime::Handle) -> Result<(Schema, Vec<String>)> {
        let mut left = self.options.infer_rows.unwrap_or(usize::MAX);
        let mut names: Vec<String> = Vec::new();
        let mut guesses: Vec<Guess> = Vec::new();
        for file in &self.files {
            if left == 0 {
                break;
            }
            let input = open_text(&self.location, file, &self.options, runtime)?;
            let mut records = Records::new(input, &file.path, self.options.syntax);
            let mut header = self.options.header;
            while left > 0 {
                let rows = records.read(if header { 1 } else { left.min(8192) })?;
                if rows == 0 {
                    break;
                }
                if names.is_empty() {
                    names = self.names(&records)?;
                    guesses = vec![Guess::default(); names.len()];
                }
                if std::mem::take(&mut header) {
                    continue;
                }
                if records.width() != names.len() {
                    let message = format!("{} columns were expected, {} found", names.len(), records.width());
                    return Err(records.error(records.line(0), message));
                }
                for (index, guess) in guesses.iter_mut().enumerate() {
                    for row in 0..rows {
                        let (bytes, quoted) = records.field(row, index);
                        if !self.options.nulls.is_null(bytes, quoted, true) {
                            guess.see(bytes, quoted);
                        }
                    }
                }
                left -= rows;
            }
        }
        if names.is_empty() {
            let files: Vec<_> = self.files.iter().map(|f| f.path.as_str()).collect();
            return Err(Error::data_quality(format!("{}: the file is empty, without a header", files.join(", "))));
        }
        let declared = self.declared(&names, declared)?;
        let mut fields = Vec::with_capacity(names.len());
        let mut held_back: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, guess) in names.iter().zip(&guesses) {
            match declared.get(name) {
                Some(field) => fields.push(field.clone()),
                None => {
                    fields.push(guess.field(name));
                    if let Some((marker, data_type)) = guess.held_back_by() {
                        let column = format!("{name} {}", data_type_name(&data_type));
                        held_back.entry(marker).or_default().push(column);
                    }
                }
            }
        }
        let mut notes = vec![inferred(&fields, &declared)];
        for (marker, columns) in held_back {
            notes.push(format!(
                "{marker:?} keeps columns from another type ({}): if it means a missing value, add it to null_values",
                columns.join(", ")
            ));
        }
        Ok((Schema::new(fields), notes))
    }

    /// The names in the header, or the declared ones, or `column_1` and so on.
    fn names(&self, records: &Records) -> Result<Vec<String>> {
        if !self.options.header {
            if self.columns.len() == records.width() {
                return Ok(self.columns.iter().map(|(name, _)| name.clone()).collect());
            }
            return Ok((1..=records.width()).map(|i| format!("column_{i}")).collect());
        }
        let mut names = Vec::with_capacity(records.width());
        let mut seen = BTreeSet::new();
        for index in 0..records.width() {
            let refuse = |what: String| {
                records
                    .error(records.line(0), format!("column {} of the header {what}", index + 1))
                    .with_hint("give every column its own name, or set header to false where there is no header")
            };
            let name = std::str::from_utf8(records.field(0, index).0).map_err(|_| {
                let error = refuse("is not UTF-8 text".to_owned());
                Error::configuration(error.message()).with_hint("is it a text file? Convert it, for example with iconv")
            })?;
            if name.is_empty() {
                return Err(refuse("has no name".to_owned()));
            }
            if !seen.insert(name) {
                return Err(refuse(format!("has the name {name:?}, as another one does")));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    fn declared(&self, names: &[String], parse: fn(&str, &str) -> Result<Field>) -> Result<BTreeMap<String, Field>> {
        let mut declared = BTreeMap::new();
        for (name, data_type) in &self.columns {
            if !names.contains(name) {
                let error = Error::configuration(format!(
                    "a type is declared for {name:?}, and {} has no such column",
                    self.files.first().map_or("the file", |f| f.path.as_str())
                ));
                return Err(error.with_hint(match nearest(name, names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("the columns are {}", names.join(", ")),
                }));
            }
            declared.insert(name.clone(), parse(name, data_type)?);
        }
        Ok(declared)
    }

    fn ndjson(&self, runtime: &tokio::runtime::Handle) -> Result<(Schema, Vec<String>)> {
        let mut left = self.options.infer_rows.unwrap_or(usize::MAX);
        let mut shape = Shape::default();
        for file in &self.files {
            let input = open_text(&self.location, file, &self.options, runtime)?;
            let mut lines = Lines::new(input, &file.path);
            while left > 0 {
                let block = lines.next(left.min(8192))?;
                if block.is_empty() {
                    break;
                }
                left -= memchr::memchr_iter(b'\n', block).count().clamp(1, left);
                shape.see(&lines)?;
            }
        }
        let mut declared = BTreeMap::new();
        for (name, data_type) in &self.columns {
            declared.insert(name.clone(), dpone_planner::types::parse_logical(name, data_type)?);
        }
        let mut fields = shape.fields(&declared)?;
        // A declared column that no sampled object has may still appear later.
        for (name, _) in &self.columns {
            if let Some(field) = declared.get(name).filter(|_| !fields.iter().any(|f| f.name() == name)) {
                fields.push(field.clone());
            }
        }
        if fields.is_empty() {
            let files: Vec<_> = self.files.iter().map(|f| f.path.as_str()).collect();
            return Err(Error::data_quality(format!("{}: there is no object to see columns in", files.join(", ")))
                .with_hint("declare the columns under columns"));
        }
        let notes = vec![inferred(&fields, &declared)];
        Ok((Schema::new(fields), notes))
    }
}

fn inferred(fields: &[Field], declared: &BTreeMap<String, Field>) -> String {
    let list = |of_declared: bool| {
        let chosen = fields.iter().filter(|f| declared.contains_key(f.name()) == of_declared);
        chosen.map(|f| format!("{} {}", f.name(), logical_name(f))).collect::<Vec<_>>().join(", ")
    };
    match (list(false), list(true)) {
        (inferred, declared) if declared.is_empty() => format!("inferred: {inferred}"),
        (inferred, declared) if inferred.is_empty() => format!("declared: {declared}"),
        (inferred, declared) => format!("inferred: {inferred}; declared: {declared}"),
    }
}

/// Text files with a known schema.
#[derive(Debug)]
pub(crate) struct TextTable {
    connection: String,
    location: Location,
    partitions: Vec<Vec<PinnedFile>>,
    options: TextOptions,
    schema: SchemaRef,
}

impl TextTable {
    pub(crate) fn new(
        connection: &str,
        location: Location,
        files: Vec<PinnedFile>,
        options: TextOptions,
        schema: SchemaRef,
    ) -> Self {
        Self { connection: connection.to_owned(), location, partitions: vec![files], options, schema }
    }
}

#[async_trait]
impl TableProvider for TextTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let spec = TextScanSpec {
            partitions: self.partitions.clone(),
            options: self.options.clone(),
            schema: self.schema.as_ref().clone(),
            projection: projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect()),
            limit,
        };
        let scan = TextScan::try_new(self.connection.clone(), self.location.clone(), spec)?;
        Ok(Arc::new(ScanExec::new(Arc::new(scan))))
    }
}
