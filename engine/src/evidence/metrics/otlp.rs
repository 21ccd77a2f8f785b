//! Measures as OTLP in its JSON form, as the collector's file receiver reads it: one document on one line, 64-bit numbers as
//! texts, enumerations as numbers.

use serde_json::{Value, json};

use super::measures::{Kind, Labels, Measure};

/// Who the telemetry is about.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    pub service_name: String,
    pub service_namespace: String,
    pub attributes: Labels,
}

const CUMULATIVE: u8 = 2;

impl Resource {
    pub(super) fn value(&self) -> Value {
        let mut all = Labels::from([
            ("service.name".to_owned(), self.service_name.clone()),
            ("service.namespace".to_owned(), self.service_namespace.clone()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("telemetry.sdk.language".to_owned(), "rust".to_owned()),
            ("telemetry.sdk.name".to_owned(), "dpone".to_owned()),
        ]);
        all.extend(self.attributes.clone());
        all.retain(|_, value| !value.is_empty());
        json!({ "attributes": attributes(&all), "droppedAttributesCount": 0 })
    }
}

pub(super) fn scope() -> Value {
    json!({ "name": "dpone", "version": env!("CARGO_PKG_VERSION"), "attributes": [], "droppedAttributesCount": 0 })
}

pub(super) fn attributes(labels: &Labels) -> Vec<Value> {
    labels.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).collect()
}

/// An `ExportMetricsServiceRequest`. `now`: nanoseconds since 1970, for measures that do not say when.
pub fn metrics(measures: &[Measure], resource: &Resource, now: u64) -> Value {
    let mut names: Vec<&str> = measures.iter().map(|m| m.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let metrics: Vec<Value> = names
        .iter()
        .filter_map(|name| {
            let series: Vec<&Measure> = measures.iter().filter(|m| m.name == *name).collect();
            let first = series.first()?;
            let points: Vec<Value> = series.iter().map(|m| point(m, now)).collect();
            let mut metric = json!({
                "name": dotted(name),
                "description": first.help,
                "unit": first.unit,
                "metadata": [],
            });
            match first.kind {
                Kind::Gauge => metric["gauge"] = json!({ "dataPoints": points }),
                Kind::Counter => {
                    metric["sum"] = json!({
                        "dataPoints": points,
                        "aggregationTemporality": CUMULATIVE,
                        "isMonotonic": true,
                    });
                }
            }
            Some(metric)
        })
        .collect();
    json!({
        "resourceMetrics": [{
            "resource": resource.value(),
            "scopeMetrics": [{ "scope": scope(), "metrics": metrics, "schemaUrl": "" }],
            "schemaUrl": "",
        }],
    })
}

fn point(measure: &Measure, now: u64) -> Value {
    let at = measure.at.unwrap_or(now);
    let started = if measure.kind == Kind::Counter { measure.started_at.unwrap_or(at) } else { 0 };
    let mut point = json!({
        "attributes": attributes(&measure.labels),
        "startTimeUnixNano": started.to_string(),
        "timeUnixNano": at.to_string(),
        "exemplars": [],
        "flags": 0,
    });
    // Counts are exact as long as a double holds them.
    let whole = measure.value.fract() == 0.0 && measure.value.abs() < 9e15;
    if whole && measure.kind == Kind::Counter {
        point["asInt"] = format!("{:.0}", measure.value).into();
    } else {
        point["asDouble"] = measure.value.into();
    }
    point
}

/// `dpone.inserted_rows`: a namespace, and a name in it.
fn dotted(name: &str) -> String {
    match name.strip_prefix("dpone_") {
        Some(rest) => format!("dpone.{rest}"),
        None => name.to_owned(),
    }
}
