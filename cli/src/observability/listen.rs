//! `--metrics-listen`: a page of metrics while a run goes on, for Prometheus to scrape.
//!
//! It answers one thing, GET /metrics, and is gone with the run: nothing else may be expected of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dpone_engine::evidence::metrics::{self, Instrument, Kind, Labels, Measure, Options, measures, prometheus_text};
use dpone_engine::evidence::{PipelineRun, Recorder, Status};
use dpone_engine::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request without a body is shorter.
const LONGEST_REQUEST: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens until the run ends. Fails where the address cannot be had: it was asked for.
pub(crate) async fn listen(address: SocketAddr, recorder: Arc<Recorder>) -> Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Error::configuration(format!("--metrics-listen {address}: {e}"))
            .with_hint("name an address of this machine and a port that is free, such as 127.0.0.1:9187")
    })?;
    tracing::info!(%address, "metrics are at /metrics");
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let recorder = Arc::clone(&recorder);
                    tokio::spawn(async move {
                        let answered = tokio::time::timeout(PATIENCE, answer(stream, &recorder)).await;
                        tracing::debug!(?answered, "a scrape");
                    });
                }
                // Out of descriptors, for example: the run needs them more.
                Err(error) => {
                    tracing::debug!(%error, "a scrape could not be accepted");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, recorder: &Recorder) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 2048];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST_REQUEST {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    let line = String::from_utf8_lossy(request.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", text(recorder)),
        ("GET" | "HEAD", _) => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "metrics are read with GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

fn text(recorder: &Recorder) -> String {
    prometheus_text(&now(recorder))
}

/// What has ended, and how far the rest is.
pub(crate) fn now(recorder: &Recorder) -> Vec<Measure> {
    let document = recorder.document();
    let ended: Vec<_> = document
        .runs
        .iter()
        .filter(|run| run.status != Status::Running)
        .filter_map(|run| serde_json::to_value(run).ok())
        .collect();
    let mut all = measures(&ended, &Options::default());
    for run in &document.runs {
        all.extend(progress(run));
    }
    all
}

const IN_PROGRESS: Instrument = gauge("dpone_run_in_progress", "1 while the pipeline runs, else 0.", "1");
const ROWS: Instrument = gauge("dpone_run_staging_rows", "Rows staged so far.", "{row}");
const BYTES: Instrument = gauge("dpone_run_staging_bytes", "Bytes of Arrow data staged so far.", "By");
const DONE: Instrument = gauge("dpone_run_staging_partitions_done", "Partitions staged so far.", "{partition}");
const PARTITIONS: Instrument = gauge("dpone_run_staging_partitions", "Partitions to stage.", "{partition}");
const STAGE: Instrument = gauge("dpone_run_stage", "1 for the stage that the run is in.", "1");

const fn gauge(name: &'static str, help: &'static str, unit: &'static str) -> Instrument {
    Instrument::new(name, help, unit, Kind::Gauge)
}

/// Everything that [`now`] can tell.
pub(super) fn instruments() -> impl Iterator<Item = Instrument> {
    metrics::instruments().chain([IN_PROGRESS, ROWS, BYTES, DONE, PARTITIONS, STAGE])
}

fn progress(run: &PipelineRun) -> Vec<Measure> {
    let labels = || Labels::from([("pipeline".to_owned(), run.process.clone())]);
    let going = run.status == Status::Running;
    let mut all = vec![IN_PROGRESS.measure(labels(), f64::from(u8::from(going)))];
    if going {
        let staged = run.staged;
        all.push(ROWS.measure(labels(), staged.rows as f64));
        all.push(BYTES.measure(labels(), staged.bytes as f64));
        all.push(DONE.measure(labels(), staged.partitions_done as f64));
        all.push(PARTITIONS.measure(labels(), staged.partitions as f64));
        if let Some(stage) = run.stage {
            let mut labels = labels();
            labels.insert("stage".to_owned(), stage.as_str().to_owned());
            all.push(STAGE.measure(labels, 1.0));
        }
    }
    all
}
