//! One connection to a message bus: greeting, calls with one bound on each, and the signals that come in between.
//! What is read is bounded by [`Inbox`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zbus::wire::DynamicType;

use super::inbox::Inbox;
use super::wire::{Call, Kind, Message};
use super::{Error, shown};

/// Most bytes of a line of the greeting.
const MAX_LINE: usize = 4096;
/// Read at once.
const CHUNK: usize = 4096;
/// The bus itself.
pub(super) const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// A connection that was greeted. It is used up by the first error that is not a refusal.
pub(super) struct Connection {
    socket: PathBuf,
    stream: UnixStream,
    inbox: Inbox,
    serial: u32,
    within: Duration,
    /// What the bus calls this connection.
    pub(super) unique_name: String,
}

/// Called with every signal that comes while an answer is waited for.
pub(super) type OnSignal<'s> = &'s mut (dyn FnMut(&Message) + Send);

impl Connection {
    /// Connects and says hello, within `within`, which bounds each later call, too.
    pub(super) async fn open(socket: &Path, within: Duration) -> Result<Self, Error> {
        let opening = async {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|source| Error::Connect {
                    socket: socket.to_owned(),
                    source,
                })?;
            let mut connection = Self {
                socket: socket.to_owned(),
                stream,
                inbox: Inbox::default(),
                serial: 0,
                within,
                unique_name: String::new(),
            };
            connection.greet().await?;
            let hello = connection.bus("Hello", &()).await?;
            if let Some((name,)) = hello.arguments::<(String,)>() {
                connection.unique_name = name;
            }
            Ok(connection)
        };
        let opened = tokio::time::timeout(within, opening).await;
        opened.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                socket: socket.to_owned(),
                what: "a greeting".to_owned(),
                within,
            })
        })
    }

    /// SASL: the bus asks the kernel who we are, as sd-bus has it do.
    async fn greet(&mut self) -> Result<(), Error> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\n").await?;
        loop {
            let line = self.line().await?;
            match line.split(' ').next().unwrap_or_default() {
                "OK" => break,
                "DATA" => {}
                "REJECTED" => {
                    return Err(Error::Refused {
                        name: "REJECTED".to_owned(),
                        message: format!(
                            "the bus does not let uid {} in",
                            rustix::process::geteuid().as_raw()
                        ),
                    });
                }
                _ => return Err(Error::Broken(format!("greeted by {:?}", shown(&line)))),
            }
        }
        self.send(b"BEGIN\r\n").await
    }

    async fn line(&mut self) -> Result<String, Error> {
        loop {
            let read = self.inbox.room();
            if let Some(end) = read.windows(2).position(|two| two == b"\r\n") {
                let line = read.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if read.len() > MAX_LINE {
                return Err(Error::Broken("a greeting without an end".to_owned()));
            }
            self.read().await?;
        }
    }

    /// Calls the bus itself.
    pub(super) async fn bus<A: Serialize + DynamicType>(
        &mut self,
        member: &str,
        arguments: &A,
    ) -> Result<Message, Error> {
        let call = Call {
            destination: BUS,
            path: BUS_PATH,
            interface: BUS,
            member,
        };
        self.call(&call, arguments, &mut |_| {}).await
    }

    /// One call; its answer, which is no error.
    pub(super) async fn call<A: Serialize + DynamicType>(
        &mut self,
        call: &Call<'_>,
        arguments: &A,
        on_signal: OnSignal<'_>,
    ) -> Result<Message, Error> {
        let bytes = call
            .encode(self.next_serial(), arguments)
            .map_err(Error::Broken)?;
        let mut answers = self.exchange(&bytes, 1, call.member, on_signal).await?;
        let answer = answers
            .pop()
            .ok_or_else(|| Error::Broken("no answer".to_owned()))?;
        refusal(&answer).map_or(Ok(answer), Err)
    }

    /// Several calls of one member sent at once; the answers in their order, errors among them.
    pub(super) async fn calls<A: Serialize + DynamicType>(
        &mut self,
        calls: &[(Call<'_>, A)],
        on_signal: OnSignal<'_>,
    ) -> Result<Vec<Message>, Error> {
        let mut bytes = Vec::new();
        for (call, arguments) in calls {
            bytes.extend(
                call.encode(self.next_serial(), arguments)
                    .map_err(Error::Broken)?,
            );
        }
        let member = calls.first().map_or("", |(call, _)| call.member);
        self.exchange(&bytes, calls.len(), member, on_signal).await
    }

    /// Sends `bytes`, which hold the last `count` calls that got a serial, and waits for all their answers.
    async fn exchange(
        &mut self,
        bytes: &[u8],
        count: usize,
        member: &str,
        on_signal: OnSignal<'_>,
    ) -> Result<Vec<Message>, Error> {
        let first = self
            .serial
            .wrapping_sub(u32::try_from(count).unwrap_or(0))
            .wrapping_add(1);
        let within = self.within;
        let exchanging = async {
            self.send(bytes).await?;
            let mut answers: Vec<Option<Message>> = (0..count).map(|_| None).collect();
            while answers.iter().any(Option::is_none) {
                let message = self.message().await?;
                let place = message.answers.map(|serial| serial.wrapping_sub(first) as usize);
                match (message.kind, place.and_then(|place| answers.get_mut(place))) {
                    (Kind::Return | Kind::Error, Some(answer)) => *answer = Some(message),
                    (Kind::Signal, _) => on_signal(&message),
                    // An answer that came too late, or one that nobody asked for; whoever calls us is not answered.
                    _ => {}
                }
            }
            Ok(answers.into_iter().flatten().collect())
        };
        let exchanged = tokio::time::timeout(within, exchanging).await;
        exchanged.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                socket: self.socket.clone(),
                what: member.to_owned(),
                within,
            })
        })
    }

    /// The next message. Nothing is lost if it is not waited for to the end.
    pub(super) async fn message(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.inbox.next().map_err(Error::Broken)? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Error> {
        let room = self.inbox.room();
        room.reserve(CHUNK);
        match self.stream.read_buf(room).await {
            Ok(0) => Err(Error::Broken("the bus closed the connection".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(&error)),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = self.stream.write_all(bytes).await;
        sent.map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &io::Error) -> Error {
        Error::Broken(format!("{}: {error}", self.socket.display()))
    }

    fn next_serial(&mut self) -> u32 {
        // 0 is no serial. A connection does not live for four billion calls, or it breaks.
        self.serial = self.serial.wrapping_add(1).max(1);
        self.serial
    }
}

/// What an answer refuses, if it does.
pub(super) fn refusal(answer: &Message) -> Option<Error> {
    let refused = || Error::Refused {
        name: answer.error.clone().unwrap_or_default(),
        message: shown(&answer.words()),
    };
    (answer.kind == Kind::Error).then(refused)
}
