//! What the checks of one beat ask of the kernel, done together on one thread: to list a few sockets costs a walk
//! through the kernel's whole table, and those of one node mostly ask for the same ones.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::call::dump;
use super::{Dump, Filter};

/// How long a round waits for others that were woken by the same beat.
const GATHERING: Duration = Duration::from_millis(2);

/// Where looks are asked for. Clones share the rounds.
#[derive(Clone, Default)]
pub struct Rounds(Arc<Mutex<Vec<Look>>>);

type Look = Box<dyn FnOnce(&mut Round) + Send>;

/// One round: what was listed in it so far.
#[derive(Debug, Default)]
pub(super) struct Round(Vec<(Filter, Dump)>);

impl Rounds {
    /// [`dump`], shared with whoever asks for the same at this time. It begins after this was called.
    ///
    /// # Errors
    /// In words, for an outcome that is `unknown`.
    pub async fn dump(&self, filter: Filter, within: Duration) -> Result<Dump, String> {
        self.take_part(within, move |round| round.dump(&filter)).await?
    }

    /// Runs `look` in the next round, which begins after this was called.
    pub(super) async fn take_part<T: Send + 'static>(
        &self,
        within: Duration,
        look: impl FnOnce(&mut Round) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (tell, told) = oneshot::channel();
        let look: Look = Box::new(move |round| drop(tell.send(look(round))));
        self.join(look);
        match tokio::time::timeout(within, told).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => Err("looking at the sockets failed".to_owned()),
            Err(_) => Err(format!("looking at the sockets has not ended within {within:?}")),
        }
    }

    /// Opens a round, unless somebody waits for one already. Nobody is left waiting if no thread can be had for it
    /// (`spawn_blocking` panics then): everybody later would wait for a round that never comes.
    fn join(&self, look: Look) {
        let mut waiting = self.waiting();
        if waiting.is_empty() {
            let rounds = self.clone();
            // Not waited for: it tells each by itself, and who was first may have given up.
            drop(tokio::task::spawn_blocking(move || rounds.next()));
        }
        waiting.push(look);
    }

    fn next(&self) {
        std::thread::sleep(GATHERING);
        let looks = std::mem::take(&mut *self.waiting());
        let mut round = Round::default();
        for look in looks {
            look(&mut round);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds").finish_non_exhaustive()
    }
}

impl Round {
    pub(super) fn dump(&mut self, filter: &Filter) -> Result<Dump, String> {
        if let Some((_, listed)) = self.0.iter().find(|(listed, _)| listed == filter) {
            return Ok(listed.clone());
        }
        let listed = dump(filter).map_err(|error| error.to_string())?;
        self.0.push((filter.clone(), listed.clone()));
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_asks_for_the_same_at_the_same_time_gets_the_same_list() {
        let rounds = Rounds::default();
        let port = 1;
        let look = |filter: Filter| {
            rounds.take_part(WITHIN, move |round| {
                round.dump(&filter).unwrap();
                round.0.len()
            })
        };
        let (same, other) = (Filter::listening(port), Filter::listening(port + 1));
        let seen = tokio::join!(look(same.clone()), look(same.clone()), look(other));
        assert_eq!(seen, (Ok(1), Ok(1), Ok(2)));
        assert_eq!(look(same).await, Ok(1), "a later one has another list");
    }

    #[tokio::test]
    async fn who_gives_up_or_panics_holds_up_nobody() {
        let rounds = Rounds::default();
        let (given_up, wait) = std::sync::mpsc::channel::<()>();
        let gives_up = async {
            let first = rounds.take_part(Duration::ZERO, move |_| wait.recv()).await;
            drop(given_up);
            first
        };
        let (first, second) = tokio::join!(gives_up, rounds.take_part(WITHIN, |_| 2));
        assert!(first.unwrap_err().contains("has not ended"));
        assert_eq!(second, Ok(2));
        let fallen = rounds.take_part(WITHIN, |_| panic!("on purpose")).await;
        assert_eq!(fallen, Err::<(), _>("looking at the sockets failed".to_owned()));
        assert_eq!(rounds.take_part(WITHIN, |_| 3).await, Ok(3));
    }
}
