//! One owner's sockets, looked for again and again. Who holds a connection costs a walk through `/proc`, and hardly
//! ever changes while it stands: what was found out twice is believed for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use super::round::Rounds;
use super::whose::{established, of_one_cgroup, sockets_of};
use super::{Cookie, Dump, Filter, Socket, Whose};

/// So many looks are answered from memory before `/proc` is read again: a descriptor can be passed on.
const BELIEVED: u32 = 30;

/// Looks for one owner's sockets.
#[derive(Debug, Default)]
pub struct Lookout {
    memory: Memory,
}

/// What `/proc` said last.
#[derive(Debug, Default)]
struct Memory {
    whose: Option<Whose>,
    /// Every connection that was asked for, and whether it is theirs. A connection that nobody holds yet or any more
    /// has the inode 0, and is another one than when somebody does.
    sockets: BTreeMap<(Cookie, u32), bool>,
    /// Looks that it may still answer. A walk through `/proc` is no snapshot either (a process that was just forked
    /// is missed): only one that agrees with the one before is believed.
    left: u32,
}

impl Lookout {
    /// Lists what the filter asks for, and keeps what is the owner's: [`sockets_of`], on a thread of its own.
    ///
    /// # Errors
    /// In words, for an outcome that is `unknown`.
    pub async fn look(
        &mut self,
        rounds: &Rounds,
        whose: Whose,
        filter: Filter,
        within: Duration,
    ) -> Result<Dump, String> {
        let mut memory = std::mem::take(&mut self.memory);
        let look = rounds.take_part(within, move |round| {
            let seen = round.dump(&filter).and_then(|dump| memory.look(&whose, dump));
            (memory, seen)
        });
        let (memory, seen) = look.await?;
        self.memory = memory;
        seen
    }
}

#[cfg(test)]
impl Lookout {
    /// Looks that `/proc` is not needed for.
    pub(super) fn answers_left(&self) -> u32 {
        self.memory.left
    }
}

impl Memory {
    fn look(&mut self, whose: &Whose, dump: Dump) -> Result<Dump, String> {
        match whose {
            Whose::Process(_) | Whose::Namespace => self.theirs(whose, dump),
            // Told by what the kernel lists with each.
            Whose::Cgroups(_) | Whose::Listener(_) => sockets_of(whose, dump),
        }
    }

    fn theirs(&mut self, whose: &Whose, mut dump: Dump) -> Result<Dump, String> {
        let known = |socket: &Socket| self.sockets.contains_key(&key(socket));
        if self.left == 0 || self.whose.as_ref() != Some(whose) || !dump.sockets.iter().all(known) {
            return self.find_out(whose, dump);
        }
        self.left -= 1;
        let is_theirs = |socket: &Socket| self.sockets.get(&key(socket)) == Some(&true);
        dump.others = established(dump.sockets.iter().filter(|socket| !is_theirs(socket)));
        dump.sockets.retain(is_theirs);
        if *whose == Whose::Namespace {
            of_one_cgroup(&dump.sockets)?;
        }
        Ok(dump)
    }

    fn find_out(&mut self, whose: &Whose, dump: Dump) -> Result<Dump, String> {
        let before = std::mem::take(self);
        let mut sockets: BTreeMap<_, _> = dump.sockets.iter().map(|socket| (key(socket), false)).collect();
        let theirs = sockets_of(whose, dump)?;
        sockets.extend(theirs.sockets.iter().map(|socket| (key(socket), true)));
        let agrees = before.whose.as_ref() == Some(whose) && before.sockets == sockets;
        *self = Self {
            whose: Some(whose.clone()),
            sockets,
            left: if agrees { BELIEVED } else { 0 },
        };
        Ok(theirs)
    }
}

fn key(socket: &Socket) -> (Cookie, u32) {
    (socket.id.cookie, socket.inode)
}
