//! Who leaves when every place is taken: the connection that has been idle longest. A flood of open connections
//! then pushes out itself, and a probe always gets in. One with a request in flight stays, unless it is over its
//! time.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::{AbortHandle, Id};

/// The marks of a connection that is not idle; anything below is the turn at which it became idle.
const IN_FLIGHT: u64 = u64::MAX;
const OVERDUE: u64 = u64::MAX - 1;

/// The places of one lane.
#[derive(Debug)]
pub(super) struct Seats {
    limit: usize,
    /// Counts what makes a connection idle: its start and the end of each answer. It orders them, so no clock has to.
    turn: Arc<AtomicU64>,
    taken: HashMap<Id, (Seat, AbortHandle)>,
}

/// How a place was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// One was free.
    Free,
    /// Another connection was ended for it.
    Made,
}

impl Seats {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            turn: Arc::default(),
            taken: HashMap::new(),
        }
    }

    /// Finds a place for one more, or nothing if a request is in flight on each.
    pub(super) fn room(&mut self) -> Option<Room> {
        if self.taken.len() < self.limit {
            return Some(Room::Free);
        }
        let (_, id) = self
            .taken
            .iter()
            .map(|(id, (seat, _))| (seat.mark.load(Ordering::Relaxed), *id))
            .filter(|(mark, _)| *mark != IN_FLIGHT)
            .min()?;
        let (_, task) = self.taken.remove(&id)?;
        task.abort();
        Some(Room::Made)
    }

    /// A place for the connection that is about to be served.
    pub(super) fn seat(&self) -> Seat {
        let seat = Seat {
            turn: Arc::clone(&self.turn),
            mark: Arc::default(),
        };
        seat.idle();
        seat
    }

    pub(super) fn take(&mut self, seat: Seat, task: AbortHandle) {
        self.taken.insert(task.id(), (seat, task));
    }

    /// The connection has ended.
    pub(super) fn leave(&mut self, task: Id) {
        self.taken.remove(&task);
    }
}

/// One connection's place.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    turn: Arc<AtomicU64>,
    mark: Arc<AtomicU64>,
}

impl Seat {
    /// A request is in flight until what comes back is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.mark.store(IN_FLIGHT, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Whatever is in flight has had its time.
    pub(super) fn overdue(&self) {
        self.mark.store(OVERDUE, Ordering::Relaxed);
    }

    fn idle(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.mark.store(turn, Ordering::Relaxed);
    }
}

/// A request in flight.
#[derive(Debug)]
#[must_use = "the request is over when this is dropped"]
pub(super) struct Busy(Seat);

impl Busy {
    /// The request is over when its answer has left.
    pub(super) fn until_sent(self, body: Body) -> Body {
        Body::new(Held { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// A body, unchanged.
struct Held {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinSet;

    use super::*;

    fn enter(seats: &mut Seats, tasks: &mut JoinSet<()>) -> (Seat, Id) {
        let seat = seats.seat();
        let task = tasks.spawn(pending());
        let id = task.id();
        seats.take(seat.clone(), task);
        (seat, id)
    }

    #[tokio::test]
    async fn the_longest_idle_leaves_and_what_is_in_flight_only_over_its_time() {
        let (mut seats, mut tasks) = (Seats::new(3), JoinSet::new());
        let (first, first_id) = enter(&mut seats, &mut tasks);
        let (second, second_id) = enter(&mut seats, &mut tasks);
        assert_eq!(seats.room(), Some(Room::Free));
        let (third, third_id) = enter(&mut seats, &mut tasks);
        // The first has just been answered; the second has been idle longest; the third is being answered.
        drop(first.busy());
        let answering = third.busy();
        for expected in [second_id, first_id] {
            assert_eq!(seats.room(), Some(Room::Made));
            let ended = tasks.join_next_with_id().await.unwrap().unwrap_err();
            assert_eq!(ended.id(), expected);
            let (seat, _) = enter(&mut seats, &mut tasks);
            std::mem::forget(seat.busy());
        }
        assert_eq!(seats.room(), None, "a request is in flight on each");
        third.overdue();
        assert_eq!(seats.room(), Some(Room::Made));
        let ended = tasks.join_next_with_id().await.unwrap().unwrap_err();
        assert_eq!(ended.id(), third_id);
        drop((answering, second));
    }

    #[tokio::test]
    async fn who_has_left_makes_room() {
        let (mut seats, mut tasks) = (Seats::new(1), JoinSet::new());
        let (seat, id) = enter(&mut seats, &mut tasks);
        let _answering = seat.busy();
        assert_eq!(seats.room(), None);
        seats.leave(id);
        assert_eq!(seats.room(), Some(Room::Free));
    }
}
