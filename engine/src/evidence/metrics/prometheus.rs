//! Measures in Prometheus' text exposition format.

use super::measures::{Kind, Measure};

/// One HELP and one TYPE line a metric, and one line a series. A counter's name ends with `_total`.
pub fn text(measures: &[Measure]) -> String {
    let mut names: Vec<&str> = measures.iter().map(|m| m.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut out = String::new();
    for name in names {
        let mut series = measures.iter().filter(|m| m.name == name).peekable();
        let Some(first) = series.peek() else { continue };
        let (shown, kind) = match first.kind {
            Kind::Counter if name.ends_with("_total") => (name.to_owned(), "counter"),
            Kind::Counter => (format!("{name}_total"), "counter"),
            Kind::Gauge => (name.to_owned(), "gauge"),
        };
        out.push_str(&format!("# HELP {shown} {}\n# TYPE {shown} {kind}\n", escape_help(first.help)));
        for measure in series {
            out.push_str(&shown);
            if !measure.labels.is_empty() {
                let labels: Vec<String> =
                    measure.labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape_label(value))).collect();
                out.push_str(&format!("{{{}}}", labels.join(",")));
            }
            out.push_str(&format!(" {}\n", measure.value));
        }
    }
    out
}

fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn escape_label(text: &str) -> String {
    escape_help(text).replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::super::measures::{Labels, Options, measures};
    use super::*;
    use serde_json::json;

    #[test]
    fn names_types_and_labels_are_as_the_format_asks() {
        let report = json!({"process": "a\"b\\c\nd", "result": {"inserted_rows": 3, "duration_seconds": 0.5}});
        let options = Options { labels: Labels::from([("env".to_owned(), "prod".to_owned())]), run_id: false };
        assert_eq!(
            text(&measures(&[report], &options)),
            "# HELP dpone_duration_seconds How long the run took.\n\
             # TYPE dpone_duration_seconds gauge\n\
             dpone_duration_seconds{env=\"prod\",pipeline=\"a\\\"b\\\\c\\nd\"} 0.5\n\
             # HELP dpone_inserted_rows_total Rows inserted into the target.\n\
             # TYPE dpone_inserted_rows_total counter\n\
             dpone_inserted_rows_total{env=\"prod\",pipeline=\"a\\\"b\\\\c\\nd\"} 3\n"
        );
    }
}
