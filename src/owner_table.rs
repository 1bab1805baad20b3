//! Who is a peer's owner right now: written by the owner watch, read by the executors' fence and by the checks that
//! look at an owner's sockets. A leaf, so that they need not know each other. It decides nothing.
//!
//! A pid is only a number that the kernel gives to somebody else later; a pidfd is one life. Whoever wants to
//! touch a process takes the pidfd from here, and can then only ever touch the life that was looked at.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::engine::event::{Incarnation, PeerId};

/// One running process of a peer, held by a pidfd.
#[derive(Clone, Debug)]
pub struct LiveOwner {
    /// Which life it is.
    pub incarnation: Incarnation,
    /// Its number in the pid namespace of this node.
    pub pid: u32,
    /// The life itself. `incarnation` was read while this was open and its process still ran.
    pub pidfd: Arc<OwnedFd>,
}

impl LiveOwner {
    /// True once the process has ended, a zombie included. An error of the call counts as still running: only
    /// the kernel's word ends a life.
    pub fn exited(&self) -> bool {
        exited(&self.pidfd)
    }

    /// Waits until the process has ended. Cancel-safe; several may wait at once.
    ///
    /// # Errors
    /// If the pidfd cannot be watched (no file descriptor or epoll watch is left).
    pub async fn wait_exit(&self) -> io::Result<()> {
        wait_exit(&self.pidfd).await
    }
}

/// True if the process of this pidfd has ended, a zombie included.
pub fn exited(pidfd: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Waits until the process of this pidfd has ended.
///
/// # Errors
/// If the pidfd cannot be watched.
pub async fn wait_exit(pidfd: &OwnedFd) -> io::Result<()> {
    // A copy, because epoll takes the same descriptor only once and several may wait for one process.
    let copy = pidfd.try_clone()?;
    #[allow(
        deprecated,
        reason = "tokio#8587: unsound for types that change their descriptor; an OwnedFd cannot, and its safe \
                  successor does not exist (the new ones are unsafe fn)"
    )]
    let watched = AsyncFd::with_interest(copy, Interest::READABLE)?;
    loop {
        let mut ready = watched.readable().await?;
        if exited(pidfd) {
            return Ok(());
        }
        ready.clear_ready();
    }
}

/// A life of which only the LISTEN socket can be seen: its process is in another pid namespace. The socket's cookie
/// is given to no other one, so a restart changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Which life it is.
    pub incarnation: Incarnation,
    /// The address it listens on, if it was found by that.
    pub ip: Option<IpAddr>,
    /// The port it listens on.
    pub port: u16,
    /// Why its process cannot be seen, with the cure.
    pub why: String,
}

/// What is held of an owner.
#[derive(Clone, Debug)]
pub enum Held {
    /// Its process.
    Process(LiveOwner),
    /// No more than its LISTEN socket: nothing can be signalled.
    Listener(Listener),
}

impl Held {
    /// Which life it is.
    pub const fn incarnation(&self) -> &Incarnation {
        match self {
            Self::Process(live) => &live.incarnation,
            Self::Listener(listener) => &listener.incarnation,
        }
    }
}

/// Looks for a peer's process anew, by the peer's own rule. May block for the time of a walk through /proc.
pub type Look = Arc<dyn Fn() -> Option<Incarnation> + Send + Sync>;

/// What the table knows of a peer.
#[derive(Clone, Debug)]
pub enum Holding {
    /// The peer has no process owner here.
    Unwatched,
    /// It has one, and no process is held at the moment.
    Nothing,
    /// This process is held. It may have ended a moment ago: ask [`LiveOwner::exited`].
    Live(LiveOwner),
    /// This LISTEN socket was there when it was last looked for.
    Listening(Listener),
}

/// All held processes of this node. Clones share one table.
#[derive(Clone, Default)]
pub struct OwnerTable(Arc<Mutex<BTreeMap<PeerId, Entry>>>);

struct Entry {
    look: Look,
    held: Option<Held>,
}

impl OwnerTable {
    /// Declares that this peer has a process owner, and how its process is looked for anew. What is already
    /// held stays.
    pub fn watch(&self, peer: PeerId, look: Look) {
        let mut table = self.lock();
        let held = table.remove(&peer).and_then(|entry| entry.held);
        table.insert(peer, Entry { look, held });
    }

    /// This is the peer's from now on.
    pub fn hold(&self, peer: PeerId, held: Held) {
        if let Some(entry) = self.lock().get_mut(&peer) {
            entry.held = Some(held);
        }
    }

    /// Nothing is held for the peer any more.
    pub fn release(&self, peer: PeerId) {
        if let Some(entry) = self.lock().get_mut(&peer) {
            entry.held = None;
        }
    }

    /// The peer has no process owner here any more: its owner is a unit whose process is gone or out of sight.
    pub fn forget(&self, peer: PeerId) {
        self.lock().remove(&peer);
    }

    /// What is held for the peer.
    pub fn get(&self, peer: PeerId) -> Holding {
        match self.lock().get(&peer).map(|entry| entry.held.clone()) {
            None => Holding::Unwatched,
            Some(None) => Holding::Nothing,
            Some(Some(Held::Process(live))) => Holding::Live(live),
            Some(Some(Held::Listener(listener))) => Holding::Listening(listener),
        }
    }

    /// How the peer's process is looked for anew, if it has an owner.
    pub fn look(&self, peer: PeerId) -> Option<Look> {
        self.lock().get(&peer).map(|entry| Arc::clone(&entry.look))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Entry>> {
        // No code panics while it holds the lock, and a half-done change cannot be left behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for OwnerTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.lock();
        f.debug_map()
            .entries(table.iter().map(|(peer, entry)| (peer, &entry.held)))
            .finish()
    }
}
