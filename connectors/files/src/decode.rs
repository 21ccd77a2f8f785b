//! From a file's bytes to plain bytes: decompression in a thread of its own, ahead of the parser.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};

use crate::config::Compression;

/// Bytes of one chunk, and chunks in flight, between the two threads.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// The decompressed bytes. Files of several gzip members or zstd frames are read to their end.
pub(crate) fn decompressed(input: Box<dyn Read + Send>, compression: Compression) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => input,
        Compression::Gzip => Box::new(ReadAhead::new(flate2::read::MultiGzDecoder::new(input))),
        Compression::Zstd => Box::new(ReadAhead::new(zstd::stream::read::Decoder::new(input)?)),
    })
}

/// Reads in another thread. Dropping it ends the thread at its next chunk.
struct ReadAhead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    position: usize,
}

impl ReadAhead {
    fn new(mut input: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = sync_channel(CHUNKS);
        std::thread::spawn(move || {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let outcome = (&mut input).take(CHUNK as u64).read_to_end(&mut chunk);
                let last = match outcome {
                    Ok(n) => n == 0,
                    Err(_) => true,
                };
                // The bytes before a failure are passed on too: a parser error in them comes first.
                if !chunk.is_empty() && sender.send(Ok(chunk)).is_err() {
                    return;
                }
                if let Err(error) = outcome {
                    let _ = sender.send(Err(error));
                }
                if last {
                    return;
                }
            }
        });
        Self { chunks, chunk: Vec::new(), position: 0 }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.position == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => {
                    self.chunk = chunk?;
                    self.position = 0;
                }
                // The thread has ended: at the end of the file, or after the error that was passed on.
                Err(_) => return Ok(0),
            }
        }
        let n = out.len().min(self.chunk.len() - self.position);
        out[..n].copy_from_slice(&self.chunk[self.position..self.position + n]);
        self.position += n;
        Ok(n)
    }
}
