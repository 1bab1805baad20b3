//! Whose word a datagram is: which life of the peer, or a stranger's.
//!
//! The user is what protects the socket; the process is told apart against mistakes, such as a NOTIFY_SOCKET that
//! another program inherited. So where a process cannot be looked at any more (a `systemd-notify` that ended at
//! once), or is in another pid namespace, the user and the peer's own socket are enough.

use super::datagram::Said;
use crate::checks::process::{Stat, incarnation, uid_of};
use crate::engine::event::Incarnation;
use crate::owner_table::Holding;

/// Generations between a process and its owner that are looked at.
const GENERATIONS: usize = 64;

/// Whose word it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This life's, by its main process.
    Life(Incarnation),
    /// This life's, by another process of it.
    Child(Incarnation),
    /// The peer's; which life's cannot be told.
    Peer,
    /// Of a process that is not the peer's.
    Stranger,
}

/// A process, as long as its number is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    life: Incarnation,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid).ok()?;
        Some(Self {
            pid,
            life: incarnation(pid, stat.start).ok()?,
        })
    }

    /// A zombie has said its last.
    fn runs(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| {
            !matches!(stat.state, 'Z' | 'X' | 'x')
                && incarnation(self.pid, stat.start).as_ref() == Ok(&self.life)
        })
    }
}

/// The main process of a peer without an owner: who said READY, or was named by MAINPID, or spoke first. Others speak
/// for it as long as it runs.
#[derive(Debug, Default)]
pub(super) struct Main(Option<Process>);

impl Main {
    /// `pid` is 0 in a namespace that cannot be seen.
    pub(super) fn whose(&mut self, pid: u32, uid: u32, said: &Said) -> Whose {
        let running = self.0.take_if(|main| main.runs());
        let named = said
            .main_pid
            .filter(|main| uid == 0 || uid_of(*main) == Some(uid))
            .and_then(Process::of);
        self.0 = match (named, running) {
            (Some(named), _) => Some(named),
            // Another instance is ready, perhaps while the one before it still ends.
            (None, Some(main)) if said.ready && pid != main.pid && descends(pid, main.pid) == Some(false) => {
                Process::of(pid).or(Some(main))
            }
            (None, Some(main)) => Some(main),
            (None, None) => Process::of(pid),
        };
        match &self.0 {
            Some(main) if pid == main.pid || pid == 0 => Whose::Life(main.life.clone()),
            Some(main) => Whose::Child(main.life.clone()),
            None => Whose::Peer,
        }
    }
}

/// Of a peer whose owner is looked after by the owner watch.
pub(super) fn whose(pid: u32, owner: &Holding) -> Whose {
    let Holding::Live(live) = owner else {
        // No process of it is held: perhaps the watch has not seen the new one yet.
        let own = Process::of(pid).filter(|_| matches!(owner, Holding::Nothing));
        return own.map_or(Whose::Peer, |own| Whose::Life(own.life));
    };
    if pid == live.pid || pid == 0 {
        let successor = Process::of(pid).filter(|own| own.life != live.incarnation);
        return match (pid, successor) {
            (0, _) => Whose::Peer,
            (_, Some(successor)) => Whose::Life(successor.life),
            (_, None) => Whose::Life(live.incarnation.clone()),
        };
    }
    match descends(pid, live.pid) {
        Some(true) => Whose::Child(live.incarnation.clone()),
        Some(false) if live.exited() => Process::of(pid).map_or(Whose::Peer, |own| Whose::Life(own.life)),
        Some(false) => Whose::Stranger,
        None => Whose::Peer,
    }
}

/// Whether `pid` is a child of `of`, or a child's child; `None` if that cannot be told (any more).
fn descends(pid: u32, of: u32) -> Option<bool> {
    let mut at = pid;
    for _ in 0..GENERATIONS {
        at = Stat::read(at).ok()?.parent;
        if at == of {
            return Some(true);
        }
        if at <= 1 {
            return Some(false);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Kept(Child);

    impl Drop for Kept {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeps() -> Kept {
        let child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Kept(child)
    }

    fn life(pid: u32) -> Whose {
        Whose::Life(Process::of(pid).unwrap().life)
    }

    fn child_of(pid: u32) -> Whose {
        Whose::Child(Process::of(pid).unwrap().life)
    }

    fn owner(pid: u32) -> Holding {
        let held = crate::checks::hold_again(&Process::of(pid).unwrap().life).unwrap();
        Holding::Live(held)
    }

    fn ready() -> Said {
        Said {
            ready: true,
            ..Said::default()
        }
    }

    #[test]
    fn an_owner_speaks_for_itself_and_its_children_for_it() {
        let (us, child, other) = (std::process::id(), sleeps(), sleeps());
        let ours = owner(us);
        assert_eq!(whose(us, &ours), life(us));
        assert_eq!(whose(child.0.id(), &ours), child_of(us));
        assert_eq!(whose(other.0.id(), &owner(child.0.id())), Whose::Stranger);
        assert_eq!(whose(0, &ours), Whose::Peer, "another pid namespace");
        assert_eq!(whose(u32::MAX - 7, &ours), Whose::Peer, "gone already");
        assert_eq!(whose(child.0.id(), &Holding::Nothing), life(child.0.id()));
        assert_eq!(
            whose(child.0.id(), &Holding::Unwatched),
            Whose::Peer,
            "a container's"
        );
    }

    #[test]
    fn who_speaks_after_its_owner_ended_is_another_life() {
        let (mut old, new) = (sleeps(), sleeps());
        let held = owner(old.0.id());
        old.0.kill().unwrap();
        old.0.wait().unwrap();
        assert_eq!(whose(new.0.id(), &held), life(new.0.id()));
        let Holding::Live(ended) = &held else {
            unreachable!()
        };
        assert_eq!(
            whose(old.0.id(), &held),
            Whose::Life(ended.incarnation.clone()),
            "last words"
        );
    }

    #[test]
    fn without_an_owner_the_first_is_the_main_process_until_it_ends_or_another_is_ready() {
        let uid = rustix::process::getuid().as_raw();
        let (mut first, second) = (sleeps(), sleeps());
        let mut main = Main::default();
        assert_eq!(main.whose(0, uid, &ready()), Whose::Peer);
        assert_eq!(
            main.whose(first.0.id(), uid, &Said::default()),
            life(first.0.id())
        );
        assert_eq!(
            main.whose(second.0.id(), uid, &Said::default()),
            child_of(first.0.id()),
            "a helper"
        );
        assert_eq!(main.whose(0, uid, &Said::default()), life(first.0.id()));
        assert_eq!(main.whose(second.0.id(), uid, &ready()), life(second.0.id()));
        let named = Said {
            main_pid: Some(first.0.id()),
            ..Said::default()
        };
        assert_eq!(main.whose(second.0.id(), uid, &named), child_of(first.0.id()));
        let was = life(first.0.id());
        first.0.kill().unwrap();
        assert!(matches!(
            main.whose(second.0.id(), uid, &Said::default()),
            Whose::Life(_) | Whose::Child(_)
        ));
        first.0.wait().unwrap();
        assert_eq!(
            main.whose(second.0.id(), uid, &Said::default()),
            life(second.0.id())
        );
        assert_ne!(life(second.0.id()), was);
    }

    #[test]
    fn a_main_process_of_another_user_is_not_believed() {
        let uid = rustix::process::getuid().as_raw() + 1;
        let (sender, claimed) = (sleeps(), sleeps());
        let named = Said {
            main_pid: Some(claimed.0.id()),
            ..Said::default()
        };
        let mut main = Main::default();
        assert_eq!(main.whose(sender.0.id(), uid, &named), life(sender.0.id()));
    }
}
