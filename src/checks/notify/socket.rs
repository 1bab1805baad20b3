//! The socket itself: placed, and read one datagram at a time with the kernel's word on who sent it.
//!
//! Through nix and not through rustix: rustix 1.1 reads the sender's number into a type that cannot be zero, and that
//! of a sender in another pid namespace is. The control messages are taken apart here, because nix does not
//! when some were cut off, and every descriptor that a stranger sends has to be closed.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use std::sync::Arc;

use nix::libc::{SCM_CREDENTIALS, SCM_RIGHTS, SOL_SOCKET};
use nix::sys::socket::{MsgFlags, UnixCredentials, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::datagram;
use crate::socket_file::{self, PlaceError, SocketFile};

/// `SCM_MAX_FD`: the kernel passes no more descriptors in one message. With room for all of them, none is left over
/// that nobody knows of.
const MAX_DESCRIPTORS: usize = 253;
/// Datagrams whose descriptors are still being closed. To close one may take as long as its sender likes, on a thread that
/// others need, too: while so many are, no more are read.
const CLOSING: usize = 16;
/// Directories that have to be made: whoever sends must get through.
const DIR_MODE: u32 = 0o755;

/// The peer's socket.
#[derive(Debug)]
pub(super) struct Mailbox {
    socket: UnixDatagram,
    file: SocketFile,
    bytes: Vec<u8>,
    control: Vec<u8>,
    closing: Arc<Semaphore>,
}

/// A socket that has its place, not yet read from.
#[derive(Debug)]
pub(super) struct Placed {
    socket: StdDatagram,
    file: SocketFile,
}

/// One datagram.
#[derive(Debug)]
pub(super) struct Received<'b> {
    pub(super) bytes: &'b [u8],
    /// It was longer, and its end is lost.
    pub(super) cut: bool,
    pub(super) from: Option<Credentials>,
    /// Closed with it. A sender that waits at a barrier waits for that.
    #[cfg_attr(not(test), expect(dead_code, reason = "closes what was sent when dropped"))]
    pub(super) descriptors: Descriptors,
}

/// Who the kernel says sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    /// 0: in a pid namespace that this node does not see.
    pub(super) pid: u32,
    pub(super) uid: u32,
}

/// Descriptors that came with a datagram. Nothing is done with them but to close them.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    sent: Vec<RawFd>,
    /// One of [`CLOSING`], until all are closed.
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let (sent, place) = (std::mem::take(&mut self.sent), self.place.take());
        // To close one may take as long as its sender likes (SO_LINGER, a flush by FUSE): not on the event loop's thread.
        let close = move || {
            for descriptor in sent {
                if let Err(error) = nix::unistd::close(descriptor) {
                    tracing::debug!(%error, "a descriptor that was sent cannot be closed");
                }
            }
            drop(place);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(close)),
            Err(_) => close(),
        }
    }
}

pub(super) fn place(path: &Path, mode: u32) -> Result<Placed, PlaceError> {
    let bind = |path: &Path| {
        let socket = StdDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        // Before it has its name: a datagram that was sent before this would come without its sender.
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        Ok(socket)
    };
    let (socket, file) = socket_file::place(path, socket2::Type::DGRAM, mode, DIR_MODE, bind)?;
    Ok(Placed { socket, file })
}

impl Placed {
    /// To be called within a tokio runtime.
    pub(super) fn opened(self) -> io::Result<Mailbox> {
        Ok(Mailbox {
            socket: UnixDatagram::from_std(self.socket)?,
            file: self.file,
            // One more than may be, to see that there was more.
            bytes: vec![0; datagram::MAX + 1],
            control: nix::cmsg_space!(UnixCredentials, [RawFd; MAX_DESCRIPTORS]),
            closing: Arc::new(Semaphore::new(CLOSING)),
        })
    }
}

impl Mailbox {
    /// Nobody has removed or replaced its name.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }

    /// The next datagram. Cancel-safe.
    pub(super) async fn receive(&mut self) -> io::Result<Received<'_>> {
        let Self {
            socket,
            bytes,
            control,
            closing,
            ..
        } = self;
        let place = Arc::clone(closing).acquire_owned().await;
        let raw = socket.as_raw_fd();
        let (length, flags) = socket
            .async_io(Interest::READABLE, || {
                control.resize(control.capacity(), 0);
                control.fill(0);
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
                let mut into = [IoSliceMut::new(bytes)];
                let got = recvmsg::<()>(raw, &mut into, Some(control), flags)?;
                Ok((got.bytes, got.flags))
            })
            .await?;
        let (from, mut descriptors) = senders(control);
        descriptors.place = place.ok();
        Ok(Received {
            bytes: &bytes[..length.min(datagram::MAX)],
            cut: length > datagram::MAX || flags.contains(MsgFlags::MSG_TRUNC),
            from,
            descriptors,
        })
    }
}

/// Takes the control messages apart: a header (length, level, type), what it holds, and padding to a whole word.
fn senders(mut control: &[u8]) -> (Option<Credentials>, Descriptors) {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = (WORD + 2 * size_of::<i32>()).next_multiple_of(WORD);
    let (mut from, mut descriptors) = (None, Descriptors::default());
    while let (Some(length), Some(level), Some(kind)) = (
        control.first_chunk().map(|length| usize::from_ne_bytes(*length)),
        int(control, WORD),
        int(control, WORD + size_of::<i32>()),
    ) {
        let Some(held) = control.get(HEADER..length) else {
            break;
        };
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                let numbers = held.chunks_exact(size_of::<i32>()).filter_map(|raw| int(raw, 0));
                descriptors.sent.extend(numbers);
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                from = int(held, 0)
                    .zip(int(held, size_of::<i32>()))
                    .map(|(pid, uid)| Credentials {
                        pid: u32::try_from(pid).unwrap_or(0),
                        uid: uid.cast_unsigned(),
                    });
            }
            _ => {}
        }
        control = control.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    (from, descriptors)
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};

    use super::*;

    fn mailbox(dir: &Path) -> Mailbox {
        place(&dir.join("a.sock"), 0o600).unwrap().opened().unwrap()
    }

    /// A sender chooses what closing does. If it were done here, this would hang for an hour.
    #[tokio::test]
    async fn what_takes_an_hour_to_close_is_closed_on_another_thread() {
        use std::io::{ErrorKind, Read as _, Write as _};
        use std::os::fd::IntoRawFd as _;

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        sender.set_nonblocking(true).unwrap();
        let mut unsent = 0;
        loop {
            match sender.write(&[b'x'; 4_096]) {
                Ok(written) => unsent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let hour = Some(Duration::from_secs(3_600));
        socket2::SockRef::from(&sender).set_linger(hour).unwrap();
        drop(Descriptors {
            sent: vec![sender.into_raw_fd()],
            place: None,
        });
        // Only now what it lingers for is read.
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all.len())
        });
        assert_eq!(reading.await.unwrap().unwrap(), unsent);
    }

    /// The threads that close are everybody's.
    #[tokio::test]
    async fn while_much_is_being_closed_nothing_more_is_read() {
        use std::io::{Read as _, Write as _};
        use std::os::fd::AsFd as _;

        let dir = tempfile::tempdir().unwrap();
        let mut mailbox = mailbox(dir.path());
        let to = SocketAddrUnix::new(dir.path().join("a.sock")).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peers = Vec::new();
        for _ in 0..CLOSING {
            let mut lingers = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            peers.push(listener.accept().unwrap().0);
            lingers.set_nonblocking(true).unwrap();
            while lingers.write(&[b'x'; 4_096]).is_ok() {}
            let hour = Some(Duration::from_secs(3_600));
            socket2::SockRef::from(&lingers).set_linger(hour).unwrap();
            let sender = StdDatagram::unbound().unwrap();
            let sent = [lingers.as_fd()];
            let mut space = vec![std::mem::MaybeUninit::uninit(); 8192];
            let mut along = SendAncillaryBuffer::new(&mut space);
            assert!(along.push(SendAncillaryMessage::ScmRights(&sent)));
            let text = [IoSlice::new(b"BARRIER=1")];
            sendmsg_addr(&sender, &to, &text, &mut along, SendFlags::empty()).unwrap();
            drop(lingers);
            assert_eq!(mailbox.receive().await.unwrap().descriptors.sent.len(), 1);
        }
        assert_eq!(mailbox.closing.available_permits(), 0);
        let last = StdDatagram::unbound().unwrap();
        last.send_to(b"READY=1", dir.path().join("a.sock")).unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            for mut peer in peers {
                peer.read_to_end(&mut Vec::new()).unwrap();
            }
        });
        assert_eq!(mailbox.receive().await.unwrap().bytes, b"READY=1");
        reading.await.unwrap();
    }

    async fn ends(reader: &mut std::io::PipeReader) -> bool {
        let reader = reader.try_clone().unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            let mut reader = reader;
            io::Read::read(&mut reader, &mut [0]).unwrap() == 0
        });
        tokio::time::timeout(Duration::from_secs(20), ended)
            .await
            .is_ok_and(|ended| ended.unwrap())
    }

    #[tokio::test]
    async fn the_kernel_says_who_sent_and_what_was_sent_along_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let mut mailbox = mailbox(dir.path());
        let to = SocketAddrUnix::new(dir.path().join("a.sock")).unwrap();
        for many in [0, 1, 2, MAX_DESCRIPTORS] {
            let sender = StdDatagram::unbound().unwrap();
            let (mut reader, writer) = io::pipe().unwrap();
            let writers = vec![writer.as_fd(); many];
            let mut space = vec![std::mem::MaybeUninit::uninit(); 8192];
            let mut along = SendAncillaryBuffer::new(&mut space);
            assert!(many == 0 || along.push(SendAncillaryMessage::ScmRights(&writers)));
            let text = [IoSlice::new(b"BARRIER=1")];
            sendmsg_addr(&sender, &to, &text, &mut along, SendFlags::empty()).unwrap();
            drop(writers);
            drop(writer);

            let received = mailbox.receive().await.unwrap();
            assert_eq!((received.bytes, received.cut), (&b"BARRIER=1"[..], false));
            let own = Credentials {
                pid: std::process::id(),
                uid: rustix::process::getuid().as_raw(),
            };
            assert_eq!(received.from, Some(own), "{many}");
            assert_eq!(received.descriptors.sent.len(), many);
            drop(received);
            assert!(ends(&mut reader).await, "of {many} some stay open");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_is_cut_and_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut mailbox = mailbox(dir.path());
        let sender = StdDatagram::unbound().unwrap();
        for (length, cut) in [
            (0, false),
            (datagram::MAX, false),
            (datagram::MAX + 1, true),
            (100_000, true),
        ] {
            sender
                .send_to(&vec![b'x'; length], dir.path().join("a.sock"))
                .unwrap();
            let received = mailbox.receive().await.unwrap();
            assert_eq!(
                (received.cut, received.bytes.len()),
                (cut, length.min(datagram::MAX)),
                "{length}"
            );
            assert!(received.from.is_some());
        }
    }

    #[test]
    fn control_messages_that_lie_about_their_length_end_the_reading() {
        for length in [0usize, 1, 15, 17, 4096, usize::MAX] {
            let mut control = length.to_ne_bytes().to_vec();
            control.extend(SOL_SOCKET.to_ne_bytes());
            control.extend(SCM_CREDENTIALS.to_ne_bytes());
            control.extend([0; 24]);
            assert_eq!(senders(&control).0, None, "{length}");
        }
        assert_eq!(senders(&[]).0, None);
    }
}
