//! Whose sockets a check looks at: those of the peer's owner, as it is held right now.

use crate::engine::event::{Incarnation, PeerId};
use crate::owner_table::{Holding, OwnerTable};
use crate::sock_diag::Whose;

/// An owner whose sockets can be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    /// By what they are known.
    pub(super) whose: Whose,
    /// The life that they belong to; `None`: the peer has no owner.
    pub(super) incarnation: Option<Incarnation>,
}

/// The owner of the peer's sockets.
///
/// # Errors
/// If it has one and that does not run: nothing can be said of its sockets.
pub(super) fn owned(peer: PeerId, owners: &OwnerTable) -> Result<Owned, String> {
    let (whose, incarnation) = match owners.get(peer) {
        Holding::Unwatched => (Whose::Namespace, None),
        Holding::Nothing => return Err("its owner does not run".to_owned()),
        Holding::Live(live) => (Whose::Process(live.pid), Some(live.incarnation)),
        Holding::Listening(listener) => (Whose::Listener(listener.port), Some(listener.incarnation)),
    };
    Ok(Owned { whose, incarnation })
}
