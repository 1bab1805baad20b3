//! Accepting connections and bearing with hostile ones: how many, how slow, how large.
//!
//! Probes must be answered even while somebody floods the listener, or the flood would have the application
//! restarted. So whoever comes when all places are taken gets that of the connection that has been idle longest; and
//! if a request is in flight on each, one in a short second lane that answers probes and refuses the rest.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::patience::Patient;
use super::public;
use super::seats::{Room, Seat, Seats};
use crate::socket_file::SocketFile;
use crate::telemetry::metrics::http::{Cut, HttpMetrics, Listener};

/// A request's head must be complete within this; a connection that is kept alive may idle as long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The request line and all headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How long an answer may make no progress.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// After this a connection is asked to close at its next answer, and has no right to its place any more.
const LIFETIME: Duration = Duration::from_secs(600);
/// How long open connections have at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Connections past the limit that are still spoken with, and for how long.
const SECOND_LANE: usize = 32;
const SECOND_LANE_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed accept (no file descriptors left): the cause does not go away by asking at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
#[derive(Debug)]
pub(super) enum Door {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "removes the socket's file when dropped")] SocketFile,
    ),
}

/// Who is on the other end; handlers find it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    /// By SO_PEERCRED. The pid is 0 if it lives in a pid namespace that is not visible from here.
    Process { uid: u32, pid: i32 },
    /// By its address.
    Address(SocketAddr),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid } => write!(f, "uid {uid} pid {pid}"),
            Self::Address(address) => write!(f, "token from {address}"),
        }
    }
}

type Stream = Either<tokio::net::TcpStream, tokio::net::UnixStream>;

impl Door {
    async fn accept(&self) -> io::Result<(Stream, Caller)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Either::Left(stream), Caller::Address(address)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                let caller = Caller::Process {
                    uid: peer.uid(),
                    pid: peer.pid().unwrap_or(0),
                };
                Ok((Either::Right(stream), caller))
            }
        }
    }

    async fn accept_after(&self, pause: Duration) -> io::Result<(Stream, Caller)> {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        self.accept().await
    }
}

/// One listener's way of serving.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) listener: Listener,
    pub(super) max_connections: usize,
    pub(super) metrics: HttpMetrics,
    pub(super) cancel: CancellationToken,
}

impl Serving {
    /// Serves until cancelled, then lets what is open end within [`SHUTDOWN_GRACE`].
    pub(super) async fn run(self, door: Door, router: Router) {
        let mut lanes = Lanes {
            first: Seats::new(self.max_connections),
            second: Seats::new(SECOND_LANE),
        };
        let mut connections = JoinSet::new();
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                Some(ended) = connections.join_next_with_id() => lanes.leave(ended_task(ended)),
                accepted = door.accept_after(pause) => match accepted {
                    Ok((stream, caller)) => {
                        pause = Duration::ZERO;
                        self.admit(&mut lanes, stream, caller, &router, &mut connections);
                    }
                    Err(error) => {
                        tracing::debug!(listener = self.listener.as_str(), %error, "accepting a connection failed");
                        self.metrics.cut(self.listener, Cut::Accept);
                        pause = ACCEPT_PAUSE;
                    }
                },
            }
        }
        drop(door);
        let all_ended = async {
            while let Some(ended) = connections.join_next_with_id().await {
                ended_task(ended);
            }
        };
        if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
            connections.shutdown().await;
        }
    }

    fn admit(
        &self,
        lanes: &mut Lanes,
        stream: Stream,
        caller: Caller,
        router: &Router,
        connections: &mut JoinSet<()>,
    ) {
        let Some((lane, room)) = lanes.room() else {
            self.metrics.cut(self.listener, Cut::Full);
            return;
        };
        if room == Room::Made {
            self.metrics.cut(self.listener, Cut::Idle);
        }
        let open = self.metrics.connection(self.listener);
        let seats = lanes.seats(lane);
        let seat = seats.seat();
        let talk = Conversation {
            listener: self.listener,
            caller,
            seat: seat.clone(),
            router: router.clone(),
            metrics: self.metrics.clone(),
            cancel: self.cancel.clone(),
        };
        let task = connections.spawn(async move {
            match lane {
                Lane::First => talk.full(stream).await,
                Lane::Second => talk.probes_only(stream).await,
            }
            drop(open);
        });
        seats.take(seat, task);
    }
}

#[derive(Clone, Copy, Debug)]
enum Lane {
    First,
    Second,
}

#[derive(Debug)]
struct Lanes {
    first: Seats,
    second: Seats,
}

impl Lanes {
    fn room(&mut self) -> Option<(Lane, Room)> {
        let first = self.first.room().map(|room| (Lane::First, room));
        first.or_else(|| self.second.room().map(|room| (Lane::Second, room)))
    }

    fn seats(&mut self, lane: Lane) -> &mut Seats {
        match lane {
            Lane::First => &mut self.first,
            Lane::Second => &mut self.second,
        }
    }

    fn leave(&mut self, task: Id) {
        self.first.leave(task);
        self.second.leave(task);
    }
}

/// All that one connection needs.
#[derive(Debug)]
struct Conversation {
    listener: Listener,
    caller: Caller,
    seat: Seat,
    router: Router,
    metrics: HttpMetrics,
    cancel: CancellationToken,
}

impl Conversation {
    async fn full(self, stream: Stream) {
        let caller = self.caller;
        let seat = self.seat.clone();
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let busy = seat.busy();
            request.extensions_mut().insert(caller);
            let answer = router.call(request);
            async move {
                answer
                    .await
                    .map(|answer| answer.map(|body| busy.until_sent(body)))
            }
        });
        let io = TokioIo::new(Patient::new(stream, WRITE_STALL));
        let mut connection = pin!(protocol(HEADER_TIMEOUT).serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { tokio::select! {
                () = self.cancel.cancelled() => {}
                () = sleep(LIFETIME) => {}
            } } => {
                self.seat.overdue();
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            self.metrics.cut(self.listener, Cut::of(&error));
        }
    }

    async fn probes_only(self, stream: Stream) {
        let caller = self.caller;
        let router = TowerToHyperService::new(self.router);
        let metrics = self.metrics.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let busy = self.seat.busy();
            let answered = public::is_probe(request.uri().path()).then(|| {
                request.extensions_mut().insert(caller);
                router.call(request)
            });
            if answered.is_none() {
                metrics.cut(self.listener, Cut::Busy);
            }
            async move {
                let answer = match answered {
                    Some(answer) => answer.await?,
                    None => public::busy(),
                };
                Ok::<Response<Body>, Infallible>(answer.map(|body| busy.until_sent(body)))
            }
        });
        let io = TokioIo::new(Patient::new(stream, SECOND_LANE_TIMEOUT));
        let connection = protocol(SECOND_LANE_TIMEOUT)
            .keep_alive(false)
            .serve_connection(io, service);
        match timeout(SECOND_LANE_TIMEOUT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.metrics.cut(self.listener, Cut::of(&error)),
            Err(_) => self.metrics.cut(self.listener, Cut::Slow),
        }
    }
}

fn protocol(header_timeout: Duration) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(4 * MAX_HEADER_BYTES);
    protocol
}

/// Which one has ended; one that was ended to make room is no news.
fn ended_task(ended: Result<(Id, ()), JoinError>) -> Id {
    match ended {
        Ok((id, ())) => id,
        Err(error) => {
            if error.is_panic() {
                tracing::error!(%error, "a connection's task panicked: a fault of defib, please report it");
            }
            error.id()
        }
    }
}
