//! A server of the test's own, which answers as it is told to and remembers what it was asked; a proxy before one; and
//! certificates for both.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// What both ends of a road are.
pub(crate) trait Road: Read + Write + Send {}
impl<T: Read + Write + Send> Road for T {}

type Answer = dyn Fn(&str, &mut dyn Road) + Send + Sync;

/// Answers each request, and keeps the heads of all of them.
pub(crate) struct Listening {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Listening {
    pub(crate) fn new(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str, &mut dyn Road) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer): (_, Arc<Answer>) = (Arc::clone(&heads), Arc::new(answer));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (kept, answer, tls) = (Arc::clone(&kept), Arc::clone(&answer), tls.clone());
                std::thread::spawn(move || {
                    let client = client.unwrap();
                    let mut raw = client.try_clone().unwrap();
                    let mut road: Box<dyn Road> = match tls {
                        Some(tls) => Box::new(StreamOwned::new(ServerConnection::new(tls).unwrap(), client)),
                        None => Box::new(client),
                    };
                    let Some(head) = request(road.as_mut()) else {
                        // Closed with something unread, a connection is reset, and the alert in it is lost.
                        let _ = raw.shutdown(Shutdown::Write);
                        let _ = raw.read_to_end(&mut Vec::new());
                        return;
                    };
                    kept.lock().unwrap().push(head.clone());
                    answer(&head, road.as_mut());
                    let _ = road.flush();
                });
            }
        });
        Self { port, heads }
    }

    /// Answers each query with one row that holds the number 1.
    pub(crate) fn one(tls: Option<Arc<ServerConfig>>) -> Self {
        Self::new(tls, |_, road| respond(road, "200 OK", r#"{"data": [[1]]}"#))
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> String {
        self.heads().pop().expect("it was asked something")
    }
}

pub(crate) fn respond(road: &mut dyn Road, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = road.write_all(head.as_bytes());
    let _ = road.write_all(body.as_bytes());
}

/// Reads a request with its body; gives its head.
fn request(road: &mut dyn Road) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        let read = road.read(&mut buffer).ok()?;
        bytes.extend_from_slice(&buffer[..read]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length =
                head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0usize) {
                return Some(head);
            }
        }
        if read == 0 {
            return None;
        }
    }
}

/// A proxy that lets those through who show `authorization`: requests for plain HTTP, and tunnels.
pub(crate) fn proxy(authorization: Option<&'static str>) -> Listening {
    Listening::new(None, move |head, road| {
        let shown = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("proxy-authorization").then_some(value)
        });
        if shown != authorization {
            return respond(road, "407 Proxy Authentication Required", "who are you?");
        }
        let line = head.lines().next().unwrap();
        let (method, rest) = line.split_once(' ').unwrap();
        let target = rest.split(' ').next().unwrap();
        if method == "CONNECT" {
            // One answer is all that goes through: what the client sends first is relayed in steps.
            let server = TcpStream::connect(target).unwrap();
            let _ = road.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            let _ = road.flush();
            return tunnel(road, server);
        }
        assert!(target.starts_with("http://"), "a proxy is told the whole address: {line}");
        respond(road, "200 OK", r#"{"data": [[1]]}"#);
    })
}

/// Relays both ways until one end closes.
fn tunnel(road: &mut dyn Road, mut server: TcpStream) {
    // A TLS client speaks first, and each side waits for the other: so taking turns is enough.
    let wait = std::time::Duration::from_millis(50);
    server.set_read_timeout(Some(wait)).unwrap();
    let mut buffer = [0; 65536];
    loop {
        match road.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => server.write_all(&buffer[..read]).unwrap(),
        }
        loop {
            match server.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => road.write_all(&buffer[..read]).unwrap(),
                Err(_) => break,
            }
        }
    }
}

/// Authorities and certificates in a folder, made by `openssl`.
pub(crate) struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Two authorities: `ca`, and `other`, whom nobody trusts.
    pub(crate) fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["ca", "other"] {
            this.openssl(
                &["req", "-x509", "-days", "30", "-subj", &format!("/CN=test {name}"), "-out", &file(name, "crt")],
                name,
            );
        }
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A certificate `name` for `names`, signed by `authority`, that ends in so many days.
    pub(crate) fn sign(&self, name: &str, names: &str, authority: &str, days: &str) {
        std::fs::write(self.path("ext"), format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n")).unwrap();
        self.openssl(&["req", "-subj", &format!("/CN={name}"), "-out", &file(name, "csr")], name);
        self.run(&[
            "x509",
            "-req",
            "-in",
            &file(name, "csr"),
            "-CA",
            &file(authority, "crt"),
            "-CAkey",
            &file(authority, "key"),
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            "ext",
            "-out",
            &file(name, "crt"),
        ]);
    }

    /// With a new key.
    fn openssl(&self, arguments: &[&str], name: &str) {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
        self.run(&[arguments, &key, &[&file(name, "key")]].concat());
    }

    fn run(&self, arguments: &[&str]) {
        let done = Command::new("openssl").args(arguments).current_dir(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// A server with the certificate `name`; `clients`: those alone get in who show one of `ca`.
    pub(crate) fn server(&self, name: &str, clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = match clients {
            false => builder.unwrap().with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                certificates(&self.path("ca.crt")).into_iter().for_each(|c| roots.add(c).unwrap());
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(self.path(&file(name, "key"))).unwrap();
        Arc::new(builder.with_single_cert(certificates(&self.path(&file(name, "crt"))), key).unwrap())
    }
}

fn file(name: &str, kind: &str) -> String {
    format!("{name}.{kind}")
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().collect::<Result<_, _>>().unwrap()
}
