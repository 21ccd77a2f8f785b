//! Stands before a server of HTTP, and loses answers: the server has done what it was asked, and the client does not know.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A relay that lives as long as the test's process.
#[derive(Debug)]
pub struct LossyRelay {
    pub port: u16,
    times: i64,
    left: Arc<AtomicI64>,
}

impl LossyRelay {
    /// Loses the answers to the first `times` requests with this word in them.
    pub fn start(server: &str, word: &str, times: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicI64::new(times));
        let (server, word, counter) = (server.to_owned(), word.as_bytes().to_vec(), Arc::clone(&left));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                pass(client, server, word.clone(), Arc::clone(&counter));
            }
        });
        Self { port, times, left }
    }

    /// How many answers were lost.
    pub fn lost(&self) -> i64 {
        self.times - self.left.load(Ordering::SeqCst).max(0)
    }
}

fn pass(client: TcpStream, server: TcpStream, word: Vec<u8>, left: Arc<AtomicI64>) {
    let losing = Arc::new(AtomicI64::new(0));
    let (mut from, mut to, loses) = (client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&losing));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut tail = Vec::new();
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            // The word may lie across two reads.
            tail.extend_from_slice(&buffer[..read]);
            if tail.windows(word.len()).any(|window| window == word) {
                if left.fetch_sub(1, Ordering::SeqCst) > 0 {
                    loses.store(1, Ordering::SeqCst);
                }
                tail.clear();
            }
            let kept = tail.len().saturating_sub(word.len() - 1);
            tail.drain(..kept);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if losing.load(Ordering::SeqCst) == 1 || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
