//! `dpone observability`: the metrics of runs, for the tools that watch them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use dpone_engine::evidence::metrics::{Kind, Labels, check_label, check_name, instruments};
use dpone_engine::{Error, Result};

use crate::args::Format;
use crate::exit::Exit;
use crate::observability::export::{self, Request};

/// Hand what is known of runs to the tools that watch them.
#[derive(Debug, Args)]
pub(crate) struct ObservabilityArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    MetricsExport(Box<MetricsExportArgs>),
}

/// Write the metrics of runs as files: Prometheus text, OTLP JSON, a document for machines and a report for people.
///
/// Counters are added up over the runs that are given, gauges are of the newest run of each pipeline. The files are listed
/// with their SHA-256 in metrics_index.json.
#[derive(Debug, Args)]
struct MetricsExportArgs {
    /// Reports of runs: what `dpone run --format json` printed, or a folder of runs. Default: .dpone/runs
    #[arg(value_name = "FILE_OR_DIR")]
    reports: Vec<PathBuf>,
    /// The same as an option; may be repeated
    #[arg(long = "run-report", value_name = "FILE_OR_DIR")]
    run_reports: Vec<PathBuf>,
    /// Where the files are written
    #[arg(long, value_name = "DIR", default_value = ".dpone/observability/latest")]
    output_dir: PathBuf,
    /// A label of every metric, such as env=prod; may be repeated. Several at once: k=v,k=v
    #[arg(long, visible_alias = "label", value_name = "K=V", value_parser = parse_labels)]
    labels: Vec<Pairs>,
    /// A metric of your own, a number with only the labels that are given; may be repeated
    #[arg(long, value_name = "NAME=NUMBER", value_parser = parse_metric)]
    metric: Vec<(String, f64)>,
    /// An attribute of the resource that OpenTelemetry reports on; may be repeated
    #[arg(long, value_name = "K=V", value_parser = parse_attribute)]
    resource_attr: Vec<(String, String)>,
    /// The service.name of OpenTelemetry
    #[arg(long, value_name = "NAME", default_value = "dpone")]
    service_name: String,
    /// The service.namespace of OpenTelemetry
    #[arg(long, value_name = "NAME", default_value = "dpone.local")]
    namespace: String,
    /// Give every run series of its own, with the label run_id. Each run then adds series: for short histories
    #[arg(long, overrides_with = "no_run_id_label")]
    run_id_label: bool,
    /// No label run_id: the default
    #[arg(long)]
    no_run_id_label: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = ExportFormat::Md)]
    format: ExportFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// Markdown
    Md,
    /// JSON
    Json,
    /// The same as md
    Text,
}

impl ObservabilityArgs {
    pub(crate) fn format(&self) -> Format {
        let Verb::MetricsExport(args) = &self.verb;
        if args.format == ExportFormat::Json { Format::Json } else { Format::Md }
    }
}

pub(crate) fn observability(args: ObservabilityArgs) -> Result<Exit> {
    let format = args.format();
    let Verb::MetricsExport(args) = args.verb;
    check_metrics(&args.metric)?;
    let request = Request {
        reports: args.reports.into_iter().chain(args.run_reports).collect(),
        output_dir: args.output_dir,
        labels: args.labels.into_iter().flat_map(|pairs| pairs.0).collect(),
        metrics: args.metric,
        resource_attributes: args.resource_attr.into_iter().collect(),
        service_name: args.service_name,
        namespace: args.namespace,
        run_id: args.run_id_label,
    };
    export::export(&request, format)
}

/// A page on which one name stands twice is refused by whoever scrapes it.
fn check_metrics(metrics: &[(String, f64)]) -> Result<()> {
    let ours = |name: &str| {
        instruments()
            .any(|i| name == i.name || (i.kind == Kind::Counter && name.strip_suffix("_total") == Some(i.name)))
    };
    for (n, (name, value)) in metrics.iter().enumerate() {
        if ours(name) {
            return Err(Error::configuration(format!("--metric {name}: dpone has a metric of this name"))
                .with_hint("give it a name that does not begin with dpone_"));
        }
        if metrics.iter().take(n).any(|(other, _)| other == name) {
            return Err(Error::configuration(format!("--metric {name} is given twice")));
        }
        if name.ends_with("_total") && *value < 0.0 {
            return Err(Error::configuration(format!("--metric {name}: a counter is not negative")));
        }
    }
    Ok(())
}

#[derive(Debug, Clone)]
struct Pairs(Labels);

fn parse_labels(text: &str) -> Result<Pairs, String> {
    let mut labels = Labels::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not K=V"))?;
        if !check_label(key) {
            return Err(format!("{key:?} is no name of a label: expected letters, digits and _, as in ci_run_id"));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(Pairs(labels))
}

fn parse_metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "expected NAME=NUMBER".to_owned())?;
    if !check_name(name) {
        return Err(format!("{name:?} is no name of a metric: expected letters, digits and _, as in queue_length"));
    }
    match value.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((name.to_owned(), number)),
        _ => Err(format!("{value:?} is no finite number")),
    }
}

fn parse_attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected K=V".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn labels_and_metrics_are_checked_where_they_are_typed() {
        assert_eq!(parse_labels("env=prod,team=a=b").unwrap().0.len(), 2);
        for wrong in ["env", "1x=2", "a-b=c", "__name__=x", "=x"] {
            assert!(parse_labels(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_metric("lag_seconds=1.5"), Ok(("lag_seconds".to_owned(), 1.5)));
        for wrong in ["x", "x=NaN", "x=inf", "x=", "a b=1"] {
            assert!(parse_metric(wrong).is_err(), "{wrong}");
        }
        let metrics = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), -1.0)).collect::<Vec<_>>();
        assert!(check_metrics(&metrics(&["a", "b"])).is_ok());
        for wrong in [&["a", "a"][..], &["dpone_inserted_rows"], &["dpone_inserted_rows_total"], &["a_total"]] {
            assert!(check_metrics(&metrics(wrong)).is_err(), "{wrong:?}");
        }
    }
}
