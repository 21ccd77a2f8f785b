//! What the standard environment variables say of telemetry. A value that cannot be followed is told: nothing is sent
//! elsewhere, or otherwise, than is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Protocol};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{ResourceDetector, TelemetryResourceDetector};

/// One kind of telemetry that is to be sent. The exporter reads its address and its headers itself.
#[derive(Debug)]
pub(super) struct Signal {
    pub(super) protocol: Protocol,
    pub(super) timeout: Duration,
}

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

pub(super) fn is_disabled() -> bool {
    variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The signal's own variable or else the one for all signals, with its name.
fn either(signal: &str, what: &str) -> Option<(String, String)> {
    [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
        .into_iter()
        .find_map(|name| variable(&name).map(|value| (name, value)))
}

/// A number of milliseconds; what is none is told, and `default` is used.
pub(super) fn milliseconds(name: &str, text: Option<&str>, default: Duration, missing: &mut Vec<String>) -> Duration {
    let Some(text) = text else { return default };
    match text.parse::<u64>() {
        Ok(n) if n > 0 => Duration::from_millis(n),
        _ => {
            missing.push(format!("{name} is no number of milliseconds: it is taken for {}", default.as_millis()));
            default
        }
    }
}

impl Signal {
    /// `METRICS` or `TRACES`; none where the environment names no collector for it. What is asked for and cannot be had is
    /// added to `missing`.
    pub(super) fn find(signal: &str, missing: &mut Vec<String>) -> Option<Self> {
        let endpoint = either(signal, "ENDPOINT");
        let shown = signal.to_lowercase();
        let name = format!("OTEL_{signal}_EXPORTER");
        match variable(&name) {
            Some(list) => {
                let exporters: Vec<&str> = list.split(',').map(str::trim).collect();
                let others: Vec<&str> =
                    exporters.iter().copied().filter(|e| !matches!(*e, "otlp" | "none" | "")).collect();
                if !others.is_empty() {
                    missing.push(format!(
                        "{name} asks for {}, and dpone sends otlp{}",
                        others.join(", "),
                        if signal == "METRICS" { "; --metrics-listen shows metrics to Prometheus" } else { "" }
                    ));
                }
                if !exporters.contains(&"otlp") {
                    return None;
                }
            }
            None if endpoint.is_none() => return None,
            None => {}
        }
        if let Some((name, url)) = &endpoint
            && !["http://", "https://"].iter().any(|scheme| url.to_lowercase().starts_with(scheme))
        {
            missing.push(format!("{shown} are not sent: {name} does not begin with http:// or https://"));
            return None;
        }
        let protocol = match either(signal, "PROTOCOL") {
            None => Protocol::HttpBinary,
            Some((name, value)) => match value.to_lowercase().as_str() {
                "http/protobuf" => Protocol::HttpBinary,
                "http/json" => Protocol::HttpJson,
                "grpc" => {
                    missing.push(format!(
                        "{shown} are not sent: {name} is grpc, and dpone speaks http/protobuf and http/json, which \
                         collectors take at port 4318"
                    ));
                    return None;
                }
                _ => {
                    missing.push(format!(
                        "{shown} are not sent: {name} is {value:?}, expected http/protobuf or http/json"
                    ));
                    return None;
                }
            },
        };
        if let Some((name, value)) =
            either(signal, "COMPRESSION").filter(|(_, v)| !matches!(v.as_str(), "gzip" | "none"))
        {
            missing.push(format!("{shown} are not compressed: {name} is {value:?}, expected gzip or none"));
        }
        let timeout = either(signal, "TIMEOUT");
        let (name, value) = timeout.as_ref().map(|(n, v)| (n.as_str(), v.as_str())).unzip();
        let timeout = milliseconds(name.unwrap_or_default(), value, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, missing);
        Some(Self { protocol, timeout })
    }
}

/// `k=v,k2=v2`, with values in percent encoding.
fn pairs(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), decoded(value.trim())))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let escaped = |two: &&[u8]| *first == b'%' && two.iter().all(u8::is_ascii_hexdigit);
        let code = more.get(..2).filter(escaped).and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &more[2..];
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Who the telemetry is about: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say it.
pub(super) fn resource() -> Resource {
    let mut attributes = variable("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).unwrap_or_default();
    attributes.entry("service.name".to_owned()).or_insert_with(|| "dpone".to_owned());
    attributes.entry("service.version".to_owned()).or_insert_with(|| env!("CARGO_PKG_VERSION").to_owned());
    attributes.extend(variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    let sdk = TelemetryResourceDetector.detect();
    let sdk = sdk.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect::<Vec<_>>();
    let ours = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
    Resource::builder_empty().with_attributes(sdk).with_attributes(ours).build()
}

/// The span that the run is a part of, as `TRACEPARENT` names it.
pub(super) fn parent() -> Option<SpanContext> {
    let state = variable("TRACESTATE").and_then(|text| text.parse::<TraceState>().ok()).unwrap_or_default();
    variable("TRACEPARENT").and_then(|text| parse_parent(&text, state))
}

/// W3C Trace Context: version, trace id, span id and flags in hexadecimal; a later version may have more.
fn parse_parent(text: &str, state: TraceState) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        let digits = |text: &&str| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        parts.next().filter(digits)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let whole = parts.next().is_none();
    if version == "ff" || (version == "00" && !whole) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::default().with_sampled(flags.is_sampled()),
        true,
        state,
    );
    context.is_valid().then_some(context)
}

/// Whether the run's trace is wanted: a parent that is not sampled asks for none.
pub(super) fn is_sampled(missing: &mut Vec<String>) -> bool {
    let of_parent = || parent().map(|parent| parent.is_sampled());
    match variable("OTEL_TRACES_SAMPLER").as_deref() {
        None | Some("parentbased_always_on") => of_parent().unwrap_or(true),
        Some("always_on") => true,
        Some("always_off") => false,
        Some("parentbased_always_off") => of_parent().unwrap_or(false),
        Some(other) => {
            missing.push(format!(
                "OTEL_TRACES_SAMPLER is {other:?}, and dpone knows always_on, always_off, parentbased_always_on and \
                 parentbased_always_off: the trace is sent"
            ));
            of_parent().unwrap_or(true)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attributes_are_decoded() {
        let read = pairs("a=Basic%20abc%3D, x=1,broken,=y,z=50%,u=%C3%BC,s=%+1");
        let want = [("a", "Basic abc="), ("s", "%+1"), ("u", "ü"), ("x", "1"), ("z", "50%")];
        assert_eq!(read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_parent_is_read_as_trace_context_says() {
        let parse = |text: &str| parse_parent(text, TraceState::default());
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = parse(good).unwrap();
        assert_eq!(parent.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((parent.span_id().to_string().as_str(), parent.is_sampled()), ("00f067aa0ba902b7", true));
        assert!(!parse(&good.replace("-01", "-00")).unwrap().is_sampled());
        // A later version may have more parts.
        assert!(parse(&format!("cc{}-more", &good[2..])).is_some());
        for wrong in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("{good}-more"),
            &format!("ff{}", &good[2..]),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &good[1..],
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_told() {
        let mut missing = Vec::new();
        let second = Duration::from_secs(1);
        assert_eq!(milliseconds("X", None, second, &mut missing), second);
        assert_eq!(milliseconds("X", Some("20"), second, &mut missing), Duration::from_millis(20));
        assert!(missing.is_empty());
        for wrong in ["10s", "-1", "0"] {
            assert_eq!(milliseconds("X", Some(wrong), second, &mut missing), second);
        }
        assert_eq!(missing.len(), 3);
    }
}
