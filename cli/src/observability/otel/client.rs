//! The HTTP client of the exporters: the one that dpone has anyway, on the runtime of the run, because exporters work on
//! threads of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};
use tokio::runtime::Handle;

/// An answer says how many points were refused; nobody sends more.
const LONGEST_ANSWER: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct Client {
    inner: reqwest::Client,
    runtime: Handle,
    /// How the last request went wrong: the exporters say only that it did.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Client {
    /// `timeout` is of one request. Redirects are not followed: headers may hold a token.
    pub(super) fn new(timeout: Duration) -> Result<Self, String> {
        let inner = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| e.without_url().to_string())?;
        let runtime = Handle::try_current().map_err(|e| e.to_string())?;
        Ok(Self { inner, runtime, complaint: Arc::default() })
    }

    /// What went wrong last, in words; of an address that may hold a token nothing.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn complain(&self, text: Option<String>) {
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let client = self.inner.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = client.execute(request).await.map_err(told)?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(told)? {
                if body.len() + chunk.len() > LONGEST_ANSWER {
                    return Ok((answer, None));
                }
                body.extend_from_slice(&chunk);
            }
            Ok::<_, String>((answer, Some(body)))
        });
        let (answer, body) = match sent.await? {
            Ok(answered) => answered,
            Err(text) => {
                self.complain(Some(text.clone()));
                return Err(text.into());
            }
        };
        let status = answer.status();
        self.complain((!status.is_success()).then(|| format!("the collector answered {status}")));
        let mut response = Response::new(Bytes::from(body.ok_or_else(ResponseBodyTooLarge::new)?));
        *response.status_mut() = status;
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }
}

/// The causes in one line, without the address.
fn told(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the collector did not answer in time".to_owned();
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        let inner = source.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        next = source.source();
    }
    text
}
