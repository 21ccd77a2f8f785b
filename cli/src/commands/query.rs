//! `dpone query`: one SQL statement over any connections.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dpone_engine::{Error, Result, federation};
use futures::StreamExt;

use crate::args::{DefinitionOptions, EngineArgs, Format, When};
use crate::exit::Exit;
use crate::output::{self, Stdout};
use crate::style::Style;
use crate::{interrupt, render};

/// Run a query over any of the connections, and print or save its result.
///
/// Each connection is a catalog: `connection.schema.table`. One query may join several; filters, projections and
/// limits are pushed to the systems. The result is streamed, so it may be larger than memory.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// A SELECT statement
    #[arg(value_name = "SQL")]
    sql: String,
    #[command(flatten)]
    definition: DefinitionOptions,
    /// How the result is printed [default: by the ending of --output, else table]
    #[arg(long, value_enum)]
    format: Option<ResultFormat>,
    /// Where the result goes; the file appears when it is complete [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Stop after this many rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultFormat {
    /// Aligned columns
    #[value(alias = "text")]
    Table,
    /// NULL is an empty field, an empty text is ""
    Csv,
    /// One array of objects
    Json,
    /// One object a line
    Ndjson,
    /// A Markdown table
    Md,
    /// Compressed with zstd; needs --output
    Parquet,
}

impl QueryArgs {
    pub(crate) fn error_format(&self) -> Format {
        match self.format {
            Some(ResultFormat::Json | ResultFormat::Ndjson) => Format::Json,
            _ => Format::Text,
        }
    }

    fn result_format(&self) -> Result<ResultFormat> {
        let by_ending = || match self.output.as_deref().and_then(Path::extension).and_then(|e| e.to_str()) {
            None | Some("txt") => Ok(ResultFormat::Table),
            Some("ndjson" | "jsonl") => Ok(ResultFormat::Ndjson),
            Some(ending) => ResultFormat::from_str(ending, true).map_err(|_| {
                Error::configuration(format!("no result format goes with a file that ends in .{ending}"))
                    .with_hint("say which with --format csv, json, ndjson, md, table or parquet")
            }),
        };
        let format = self.format.map_or_else(by_ending, Ok)?;
        if format == ResultFormat::Parquet && self.output.is_none() {
            return Err(Error::configuration("Parquet is not printed to a terminal or a pipe")
                .with_hint("say where it goes: --output result.parquet"));
        }
        Ok(format)
    }
}

pub(crate) async fn query(args: QueryArgs, color: When) -> Result<Exit> {
    let format = args.result_format()?;
    let loaded = args.definition.load()?;
    loaded.warn(&[], Style::for_stderr(color));
    let mut context = loaded.context(args.engine.options());
    context.cancel = interrupt::token();
    let cancel = context.cancel.clone();
    interrupt::abort_on(&cancel, async {
        let stream = federation::query(&context, &args.sql).await?;
        match &args.output {
            None => write(stream, format, args.limit, BufWriter::with_capacity(1 << 16, Stdout)).await,
            Some(path) => save(stream, format, args.limit, path).await,
        }
    })
    .await?;
    Ok(Exit::Done)
}

/// Writes beside the file and renames: nobody sees half a result, and an earlier one survives a failure.
async fn save(stream: federation::QueryStream, format: ResultFormat, limit: Option<usize>, path: &Path) -> Result<()> {
    let unfinished = Unfinished::new(path)?;
    let file = File::create(&unfinished.path).map_err(|e| cannot_write(path, &e))?;
    write(stream, format, limit, BufWriter::with_capacity(1 << 16, file)).await?;
    std::fs::rename(&unfinished.path, path).map_err(|e| cannot_write(path, &e))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::configuration(format!("cannot write {}: {error}", path.display()))
}

/// A file that goes away unless it is finished, also when the query is cancelled.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn new(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::configuration(format!("{} is not a file name", target.display())))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.unfinished", std::process::id()));
        Ok(Self { path: target.with_file_name(hidden) })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It may not have been created, or it has its name by now.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn write(
    mut stream: federation::QueryStream,
    format: ResultFormat,
    limit: Option<usize>,
    out: impl Write + Send,
) -> Result<()> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut writer = render::batches::writer(format, &stream.schema, out)?;
    while left > 0 && !output::is_closed() {
        let Some(batch) = stream.batches.next().await else { break };
        let batch = batch?;
        let batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
        writer.write(&batch)?;
    }
    writer.finish()?;
    stream.verify().await
}
