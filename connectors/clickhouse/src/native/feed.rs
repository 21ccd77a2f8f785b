//! The bytes of an answer in the order in which they are needed, whatever pieces they come in.

use std::time::Duration;

use arrow::buffer::{Buffer, MutableBuffer};
use bytes::{Buf, Bytes, BytesMut};
use dpone_planner::{Error, Result};

use crate::answer::Answer;

/// Memory that is taken before there is anything to put into it: what is said of a length may be garbled.
const AHEAD: usize = 16 << 20;
/// A name or type is no longer than a statement may be.
const MAX_TEXT: usize = 1 << 20;

/// Frames of compressed answers: a checksum of sixteen bytes, how it is packed, both sizes as four bytes.
const CHECKSUM: usize = 16;
const FRAME_HEAD: usize = 9;
const LZ4: u8 = 0x82;
const PLAIN: u8 = 0x02;
/// The server packs a megabyte at a time.
const MAX_FRAME: usize = 1 << 30;

/// What is read of an answer that makes no sense, for the reason that may be in it.
const LOOKED_THROUGH: usize = 4 << 20;
const LOOKED_FOR: Duration = Duration::from_secs(5);

/// Why a block cannot be read to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The answer ended in it.
    Cut,
    /// This of it is not what the format says.
    Garbled(&'static str),
    Failed(Error),
}

impl Stop {
    pub(super) fn garbled(what: &'static str) -> Self {
        Self::Garbled(what)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[derive(Debug)]
pub(super) struct Feed {
    answer: Answer,
    /// What of the last piece is not used yet.
    piece: Bytes,
    /// Where the answer is compressed: of the next frame, what has arrived.
    frame: Option<BytesMut>,
}

impl Feed {
    pub(super) fn new(answer: Answer, packed: bool) -> Result<Self> {
        // Of an answer that ends with its connection nobody can say whether it is whole.
        if !answer.has_length() {
            let refused = Error::configuration("the answer does not say where it ends, so it may be cut off unseen");
            return Err(answer.named(
                refused.with_hint("is there a proxy that speaks HTTP/1.0? it has to pass on chunks, or lengths"),
            ));
        }
        Ok(Self { answer, piece: Bytes::new(), frame: packed.then(BytesMut::new) })
    }

    pub(super) fn answer(&self) -> &Answer {
        &self.answer
    }

    /// The error that a stop means. The reason may be still on its way.
    pub(super) async fn error(&mut self, stop: Stop) -> Error {
        match stop {
            Stop::Failed(error) => error,
            Stop::Cut => self.answer.broken(None),
            Stop::Garbled(what) => {
                let mut left = LOOKED_THROUGH;
                let rest = async {
                    while let Ok(Some(piece)) = self.answer.piece().await
                        && left > piece.len()
                    {
                        left -= piece.len();
                    }
                };
                let _ = tokio::time::timeout(LOOKED_FOR, rest).await;
                self.answer.broken(Some(what))
            }
        }
    }

    /// Whether there is another byte. Waits for it.
    pub(super) async fn more(&mut self) -> Result<bool, Stop> {
        while self.piece.is_empty() {
            if let Some(piece) = self.unpacked()? {
                self.piece = piece;
                continue;
            }
            match (self.answer.piece().await?, &mut self.frame) {
                (Some(piece), None) => self.piece = piece,
                (Some(piece), Some(frame)) => frame.extend_from_slice(&piece),
                (None, Some(frame)) if !frame.is_empty() => return Err(Stop::Cut),
                (None, _) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next frame's bytes, where all of it is there. The checksums are not looked at: TCP and TLS have theirs.
    fn unpacked(&mut self) -> Result<Option<Bytes>, Stop> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let Some(head) = frame.get(CHECKSUM..CHECKSUM + FRAME_HEAD) else { return Ok(None) };
        let size = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (method, packed, plain) = (head[0], size(1), size(5));
        if !(FRAME_HEAD..=MAX_FRAME).contains(&packed) || plain > MAX_FRAME || ![LZ4, PLAIN].contains(&method) {
            return Err(Stop::garbled("a compressed frame"));
        }
        if frame.len() < CHECKSUM + packed {
            return Ok(None);
        }
        let mut whole = frame.split_to(CHECKSUM + packed).freeze();
        whole.advance(CHECKSUM + FRAME_HEAD);
        if method == PLAIN {
            return Ok(Some(whole));
        }
        let bytes = lz4_flex::block::decompress(&whole, plain).map_err(|_| Stop::garbled("a compressed frame"))?;
        if bytes.len() != plain {
            return Err(Stop::garbled("a compressed frame"));
        }
        let bytes = Bytes::from(bytes);
        self.answer.unpacked(&bytes);
        Ok(Some(bytes))
    }

    /// What is there without waiting.
    pub(super) fn here(&self) -> &[u8] {
        &self.piece
    }

    /// Has used so many bytes of what is there.
    pub(super) fn used(&mut self, bytes: usize) {
        self.piece.advance(bytes);
    }

    /// Appends the next bytes to a buffer.
    pub(super) async fn append(&mut self, mut bytes: usize, out: &mut impl Grows) -> Result<(), Stop> {
        while bytes > 0 {
            if !self.more().await? {
                return Err(Stop::Cut);
            }
            let now = bytes.min(self.piece.len());
            out.grow(&self.piece[..now]);
            self.piece.advance(now);
            bytes -= now;
        }
        Ok(())
    }

    /// The next bytes, aligned for any type.
    pub(super) async fn bytes(&mut self, rows: usize, width: usize) -> Result<Buffer, Stop> {
        let bytes = rows.checked_mul(width).ok_or_else(|| Stop::garbled("the number of rows"))?;
        let mut out = MutableBuffer::with_capacity(bytes.min(AHEAD));
        self.append(bytes, &mut out).await?;
        Ok(out.into())
    }

    pub(super) async fn u64(&mut self) -> Result<u64, Stop> {
        let mut out = Vec::with_capacity(8);
        self.append(8, &mut out).await?;
        Ok(out.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// An integer of seven bits a byte.
    pub(super) async fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for at in 0..10 {
            if !self.more().await? {
                return Err(Stop::Cut);
            }
            let byte = self.piece[0];
            self.piece.advance(1);
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::garbled("a length"))
    }

    /// A text of the head of a column.
    pub(super) async fn text(&mut self, what: &'static str) -> Result<String, Stop> {
        let length = usize::try_from(self.varint().await?).ok().filter(|length| *length <= MAX_TEXT);
        let length = length.ok_or_else(|| Stop::garbled(what))?;
        let mut out = Vec::with_capacity(length);
        self.append(length, &mut out).await?;
        String::from_utf8(out).map_err(|_| Stop::garbled(what))
    }
}

/// A buffer that grows by bytes.
pub(super) trait Grows {
    fn grow(&mut self, bytes: &[u8]);
}

impl Grows for MutableBuffer {
    fn grow(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Grows for Vec<u8> {
    fn grow(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
