//! A receiver of notifications that behaves as it is told, badly among others.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::until;

/// What the next requests get.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Behaviour {
    /// This status, with these lines of its head.
    Answers(u16, &'static str),
    /// Nothing, and the connection stays.
    Hangs,
    /// The connection's end, after the request was read.
    Vanishes,
    /// 200, and then a body that never comes.
    Dawdles,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) path: String,
    /// Names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
    /// What it got.
    pub(super) behaviour: Behaviour,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(super) fn event(&self) -> String {
        self.json()["event"].as_str().unwrap_or_default().to_owned()
    }
}

struct Inner {
    got: Vec<Got>,
    behaviour: Behaviour,
    /// Connections that are kept open.
    held: Vec<TcpStream>,
}

/// Listens until the test ends.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Receiver {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            inner: Arc::new(Mutex::new(Inner {
                got: Vec::new(),
                behaviour,
                held: Vec::new(),
            })),
        };
        let inner = Arc::clone(&receiver.inner);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let inner = Arc::clone(&inner);
                std::thread::spawn(move || answer(stream, &inner));
            }
        });
        receiver
    }

    pub(super) fn good() -> Self {
        Self::start(Behaviour::Answers(200, ""))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook/s3cret", self.address)
    }

    pub(super) fn behaves(&self, behaviour: Behaviour) {
        self.inner.lock().unwrap().behaviour = behaviour;
    }

    pub(super) fn got(&self) -> Vec<Got> {
        self.inner.lock().unwrap().got.clone()
    }

    /// Waits for a request like this; it may have come already.
    pub(super) fn one(&self, what: &str, is_it: impl Fn(&Got) -> bool) -> Got {
        let mut found = None;
        until(&format!("a receiver got {what}"), || {
            found = self.got().into_iter().find(|got| is_it(got));
            found.is_some()
        });
        found.unwrap()
    }

    /// The events that it took, in order.
    pub(super) fn took(&self) -> Vec<String> {
        let taken = |got: &Got| {
            matches!(
                got.behaviour,
                Behaviour::Answers(200..=299, _) | Behaviour::Dawdles
            )
        };
        self.got()
            .iter()
            .filter(|got| taken(got))
            .map(Got::event)
            .collect()
    }
}

fn answer(mut stream: TcpStream, inner: &Mutex<Inner>) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let Some(mut got) = read(&stream) else { return };
    let mut inner = inner.lock().unwrap();
    let behaviour = inner.behaviour.clone();
    got.behaviour = behaviour.clone();
    inner.got.push(got);
    match behaviour {
        Behaviour::Answers(status, head) => {
            let said = format!("HTTP/1.1 {status} X\r\n{head}Content-Length: 10\r\n\r\nits answer");
            let _ = stream.write_all(said.as_bytes());
        }
        Behaviour::Hangs => inner.held.push(stream),
        Behaviour::Vanishes => {}
        Behaviour::Dawdles => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx");
            inner.held.push(stream);
        }
    }
}

fn read(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Got {
        path,
        headers,
        body: String::from_utf8(body).ok()?,
        behaviour: Behaviour::Hangs,
    })
}
