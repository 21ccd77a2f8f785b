//! An answer as it arrives, and what says that it is not whole: an exception in it, an end that came too early, silence.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dpone_planner::{Error, Result};
use reqwest::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use crate::client::{Server, Summary};
use crate::error;

/// At least this much of an answer's end is kept, to find an exception in it.
const TAIL_BYTES: usize = 64 << 10;
/// An answer that is read whole, such as a catalog's, ends here.
const MAX_ANSWER: usize = 256 << 20;

/// The future's outcome, or `None` when it took longer than the limit.
pub(crate) async fn quiet<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// An answer that has begun.
pub(crate) struct Answer {
    pub(crate) summary: Summary,
    /// What marks an exception in the middle of an answer, since 25.11.
    tag: Option<Vec<u8>>,
    response: reqwest::Response,
    server: Server,
    query_id: String,
    silence: Option<Duration>,
    /// The end of what was received; and of what that held, where it is compressed.
    tail: Tail,
    unpacked: Tail,
}

/// The newest pieces, together at least [`TAIL_BYTES`] where there were so many.
#[derive(Default)]
struct Tail {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, piece: &Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece.clone());
        while let Some(oldest) = self.pieces.front().filter(|oldest| self.bytes - oldest.len() >= TAIL_BYTES) {
            self.bytes -= oldest.len();
            self.pieces.pop_front();
        }
    }

    fn exception(&self, tag: Option<&[u8]>) -> Option<String> {
        let bytes: Vec<u8> = self.pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        exception_text(&bytes, tag)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("query_id", &self.query_id).finish_non_exhaustive()
    }
}

impl Answer {
    /// `tag`: what marks an exception in the middle of it.
    pub(crate) fn new(
        server: Server,
        query_id: &str,
        response: reqwest::Response,
        summary: Summary,
        tag: Option<Vec<u8>>,
    ) -> Self {
        let query_id = query_id.to_owned();
        let (tail, unpacked) = (Tail::default(), Tail::default());
        Self { summary, tag, response, server, query_id, silence: None, tail, unpacked }
    }

    /// The longest silence in it.
    pub(crate) fn within(self, silence: Option<Duration>) -> Self {
        Self { silence, ..self }
    }

    /// The next piece; `None` at the end of the body, which is not yet proof that the answer is whole.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let next = quiet(self.silence, self.response.chunk()).await;
        let piece = match next {
            None => return Err(self.named(error::silent(self.server.config()))),
            // A server that fails in the middle closes the connection after it said why.
            Some(Err(failed)) => {
                return Err(match self.exception() {
                    Some(said) => said,
                    None => self.named(error::from_transport(failed, self.server.config())),
                });
            }
            Some(Ok(piece)) => piece,
        };
        if let Some(piece) = &piece {
            self.tail.push(piece);
        }
        Ok(piece)
    }

    /// The rest of a small answer.
    pub(crate) async fn whole(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_ANSWER {
                return Err(self.named(Error::internal("an answer of the server is larger than it can be")));
            }
        }
        // With `wait_end_of_query` a failure has its own status; a proxy may have begun to answer before.
        match self.exception() {
            Some(error) => Err(error),
            None => Ok(bytes),
        }
    }

    pub(crate) async fn text_of_failure(&mut self) -> String {
        let mut bytes = Vec::new();
        while let Ok(Some(piece)) = self.piece().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() > TAIL_BYTES {
                break;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The exception at the end of what was received, when there is one.
    pub(crate) fn exception(&self) -> Option<Error> {
        self.exception_as(self.tag.as_deref())
    }

    fn exception_as(&self, tag: Option<&[u8]>) -> Option<Error> {
        let text = self.tail.exception(tag).or_else(|| self.unpacked.exception(tag))?;
        Some(self.named(error::from_exception(&text, None)))
    }

    /// Takes note of what a compressed piece held.
    pub(crate) fn unpacked(&mut self, bytes: &Bytes) {
        self.unpacked.push(bytes);
    }

    /// Whether HTTP tells where the body ends, other than by the end of the connection.
    pub(crate) fn has_length(&self) -> bool {
        let headers = self.response.headers();
        let encoding = headers.get_all(TRANSFER_ENCODING).iter().next_back().and_then(|value| value.to_str().ok());
        let last = encoding.and_then(|codings| codings.rsplit(',').next()).unwrap_or_default();
        headers.contains_key(CONTENT_LENGTH) || last.trim().eq_ignore_ascii_case("chunked")
    }

    /// The error of an answer that ended too early, or of which this cannot be read.
    pub(crate) fn broken(&self, what: Option<&str>) -> Error {
        // Between us and a server that marks exceptions there may be one that does not.
        if let Some(error) = self.exception().or_else(|| self.exception_as(None)) {
            return error;
        }
        let address = self.server.config().address();
        self.named(match what {
            Some(what) => {
                Error::internal(format!("what {address} sent is no answer of ClickHouse: {what} cannot be read"))
            }
            None => Error::transient(format!("{address} stopped in the middle of its answer")).with_hint(
                "the server's log has the reason under the query id; where it waited too long for a slow reader, raise \
                     http_send_timeout in its default profile",
            ),
        })
    }

    /// Who answers what.
    pub(crate) fn origin(&self) -> (Server, String) {
        (self.server.clone(), self.query_id.clone())
    }

    pub(crate) fn named(&self, error: Error) -> Error {
        error.with("connection", &self.server.config().connection).with("query_id", &self.query_id)
    }
}

/// An exception that ends these bytes: within its marks since 25.11, before that simply appended.
fn exception_text(tail: &[u8], tag: Option<&[u8]>) -> Option<String> {
    const MARK: &[u8] = b"__exception__\r\n";
    let find = |from: &[u8], what: &[u8]| from.windows(what.len()).rposition(|window| window == what);
    if let Some(tag) = tag.filter(|tag| !tag.is_empty()) {
        let opening = [MARK, tag, b"\r\n"].concat();
        let at = tail.windows(opening.len()).position(|window| window == opening)?;
        let text = &tail[at + opening.len()..];
        // The closing mark repeats the tag after the length of the text; it may be cut off.
        let end = find(text, tag).unwrap_or(text.len());
        let text = String::from_utf8_lossy(&text[..end]).into_owned();
        let trimmed = text.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
        return Some(trimmed.trim_end().to_owned());
    }
    let at = find(tail, b"Code: ")?;
    let text = &tail[at..];
    let text = String::from_utf8_lossy(text);
    let is_exception = text["Code: ".len()..].starts_with(|c: char| c.is_ascii_digit())
        && text.contains("Exception: ")
        && text.trim_end().ends_with(')');
    is_exception.then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OLD: &[u8] = b"\x00\x01dataCode: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) \
                         (version 24.8.1.1 (official build))\n";

    #[test]
    fn an_exception_at_the_end_is_found_in_both_forms() {
        assert!(exception_text(OLD, None).unwrap().starts_with("Code: 241. DB::Exception: Memory"));
        let new = b"data\r\n__exception__\r\nrnywyenlaeqynhmu\r\nCode: 159. DB::Exception: Timeout exceeded. \
                    (TIMEOUT_EXCEEDED) (version 25.12.1.649 (official build))\n142 rnywyenlaeqynhmu\r\n__exception__\r\n";
        let text = exception_text(new, Some(b"rnywyenlaeqynhmu")).unwrap();
        assert!(text.starts_with("Code: 159.") && text.ends_with("(official build))"), "{text}");
        // Cut off in the closing mark.
        let cut = &new[..new.len() - 30];
        assert!(exception_text(cut, Some(b"rnywyenlaeqynhmu")).unwrap().starts_with("Code: 159."));
    }

    #[test]
    fn data_is_no_exception() {
        for data in [&b"Code: red"[..], b"Code: 12 apples", b"", b"Code: 60. DB::Exception: in the middle) and on"] {
            assert_eq!(exception_text(data, None), None, "{data:?}");
        }
        // A server that marks exceptions has its data left alone.
        assert_eq!(exception_text(OLD, Some(b"rnywyenlaeqynhmu")), None);
    }
}
