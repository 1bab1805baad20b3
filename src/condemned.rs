//! The connections that a check has condemned: written by `sockets` and `subscription`, read by the executors of
//! `socket_reset` and `client_kill`. A leaf, so that they need not know each other. It decides nothing.
//!
//! A grant names a peer, a cause and an incarnation; which of the peer's connections is meant stands here. What
//! stands here is a hint, never a permission: an executor acts only on an entry of the granted incarnation, and only
//! if it finds that very socket (its cookie) again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::cause::Cause;
use crate::engine::event::{CheckId, Incarnation, PeerId};
use crate::sock_diag::SocketId;

/// What one check holds against its peer's connections, from its latest run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The life whose connections these are, as it was held when the check looked. `None`: the peer has no owner.
    pub incarnation: Option<Incarnation>,
    /// The worst first; never empty.
    pub connections: Vec<Connection>,
}

/// One connection that is condemned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's socket.
    pub socket: SocketId,
    /// What Redis calls it, where `CLIENT LIST` could be joined.
    pub client: Option<Client>,
    /// What it stands for: `peer_stuck`, `peer_deaf`.
    pub cause: Cause,
    /// In words: "4,096 bytes unread for 12 s".
    pub because: String,
}

/// A connection as the Redis server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// `id=` of `CLIENT LIST`; never given again by that server process.
    pub id: u64,
    /// `addr=`: the client's end.
    pub addr: String,
    /// `name=`; often empty.
    pub name: String,
}

/// All condemned connections of this node. Clones share one table.
#[derive(Clone, Debug, Default)]
pub struct CondemnedTable(Arc<Mutex<BTreeMap<CheckId, Condemned>>>);

impl CondemnedTable {
    /// What this check holds against its peer from now on. No connection: nothing.
    pub fn set(&self, check: CheckId, condemned: Condemned) {
        let mut table = self.lock();
        if condemned.connections.is_empty() {
            table.remove(&check);
        } else {
            table.insert(check, condemned);
        }
    }

    /// The check condemns nothing any more, or does not know.
    pub fn clear(&self, check: CheckId) {
        self.lock().remove(&check);
    }

    /// What is held against this life's connections, of all checks of the peer; no socket twice. What a check of a
    /// peer without an owner holds against it belongs to no life: there the fence compares what the bus tells of it.
    pub fn of(&self, peer: PeerId, incarnation: &Incarnation) -> Vec<Connection> {
        let table = self.lock();
        let entries = table
            .iter()
            .filter(|(check, _)| check.peer == peer)
            .filter(|(_, entry)| entry.incarnation.as_ref().is_none_or(|life| life == incarnation));
        let mut found: Vec<Connection> = Vec::new();
        for connection in entries.flat_map(|(_, entry)| &entry.connections) {
            let same = |other: &&mut Connection| other.socket.cookie == connection.socket.cookie;
            match found.iter_mut().find(same) {
                None => found.push(connection.clone()),
                Some(known) if known.client.is_none() => known.client.clone_from(&connection.client),
                Some(_) => {}
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckId, Condemned>> {
        // No code panics while it holds the lock, and a half-done change cannot be left behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
