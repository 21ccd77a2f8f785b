//! Measures for people, and as one plain document for machines.

use serde_json::{Value, json};

use super::measures::{Kind, Measure};

/// Every measure with its labels.
pub fn machine(measures: &[Measure], reports: &[Value]) -> Value {
    let passed = reports.iter().all(|report| report.get("passed").and_then(Value::as_bool).unwrap_or(false));
    json!({
        "schema_version": 1,
        "runs_passed": passed,
        "report_count": reports.len(),
        "metrics": measures.iter().map(|measure| json!({
            "name": measure.name,
            "type": if measure.kind == Kind::Counter { "counter" } else { "gauge" },
            "unit": measure.unit,
            "help": measure.help,
            "labels": measure.labels,
            "value": measure.value,
        })).collect::<Vec<_>>(),
    })
}

/// A table.
pub fn markdown(measures: &[Measure]) -> String {
    let mut out = String::from("# Metrics of runs\n\n| metric | labels | value | unit |\n|---|---|---:|---|\n");
    for measure in measures {
        let labels: Vec<String> = measure.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        out.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            cell(&measure.name),
            cell(&labels.join(", ")),
            measure.value,
            cell(measure.unit)
        ));
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ")
}
