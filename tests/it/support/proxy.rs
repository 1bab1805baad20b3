//! A [`FaultProxy`] for tests that are not async: it runs on a thread of its own.

use std::net::SocketAddr;

use defib::cli::fault_proxy::{Direction, FaultProxy, Seen, Which};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// It ends with its handle.
pub(crate) struct Proxy {
    inner: FaultProxy,
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Proxy {
    /// Everything goes on to `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let (end, ended) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            ready
                .send((FaultProxy::start(upstream).unwrap(), runtime.handle().clone()))
                .unwrap();
            let _ = runtime.block_on(ended);
        });
        let (inner, runtime) = started.recv().unwrap();
        Self {
            inner,
            runtime,
            _end: end,
        }
    }

    /// `redis://…`, through the proxy.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.inner.address())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.inner.address()
    }

    /// Nothing passes on the node's subscription: on the one it has, or on every one that it makes.
    pub(crate) fn silence_subscription(&self, new_ones_too: bool) {
        self.inner
            .silence(&Which::ending(":sub"), Direction::Both, new_ones_too);
    }

    /// Nothing passes on the connection that leases are asked over now; the next one works.
    pub(crate) fn silence_leases(&self) {
        self.inner
            .silence(&Which::ending(":lease"), Direction::Both, false);
    }

    /// The same, but what is sent to the server arrives.
    pub(crate) fn swallow_answers_to_leases(&self) {
        self.inner
            .silence(&Which::ending(":lease"), Direction::ToClient, false);
    }

    /// What comes from now on works.
    pub(crate) fn restore(&self) {
        self.runtime.block_on(self.inner.restore());
    }

    /// The connections that stand.
    pub(crate) fn connections(&self) -> Vec<Seen> {
        self.inner.connections()
    }

    /// The newest connection with a name that ends so.
    pub(crate) fn newest(&self, suffix: &str) -> Option<u64> {
        let named = |seen: &Seen| seen.name.as_ref().is_some_and(|name| name.ends_with(suffix));
        self.connections()
            .into_iter()
            .filter(named)
            .map(|seen| seen.number)
            .max()
    }
}
