//! What the listener bears.

use std::sync::Arc;

use defib::http::View;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{LONG, Served, talk};
use crate::support::snapshots::{peer, settings, snapshot, with_healthz};

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_cut_off() {
    let served = Served::start(vec![]);
    for beginning in ["", "GET /livez HTTP/1.1\r\nX: "] {
        let mut slow = TcpStream::connect(served.address).await.unwrap();
        slow.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, slow.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_kept_for_ever() {
    let served = Served::start(vec![]);
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut all = Vec::new();
    timeout(LONG, idle.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&all).starts_with("HTTP/1.1 200 OK"));
    served.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = Served::start(vec![]);
    let mut large = b"GET /livez HTTP/1.1\r\nHost: x\r\n".to_vec();
    large.extend_from_slice(format!("X: {}\r\n\r\n", "x".repeat(17 * 1024)).as_bytes());
    assert_eq!(served.raw(&large).await.status, 431);
    let fits = format!(
        "GET /livez HTTP/1.1\r\nConnection: close\r\nX: {}\r\n\r\n",
        "x".repeat(15 * 1024)
    );
    assert_eq!(served.raw(fits.as_bytes()).await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let served = Served::with_admin(vec![]);
    let announced = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n";
    assert_eq!(served.raw(announced).await.status, 413);
    let large = format!(r#"{{"reason": "{}"}}"#, "x".repeat(17 * 1024));
    assert_eq!(served.post("/api/v1/pause", &large).await.status, 413);
    let chunk = "x".repeat(0x5000);
    let chunked = format!(
        "POST /api/v1/pause HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         5000\r\n{chunk}\r\n0\r\n\r\n"
    );
    let stream = UnixStream::connect(served.socket.as_ref().unwrap())
        .await
        .unwrap();
    assert_eq!(talk(stream, chunked.as_bytes()).await.status, 413);
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_arrives_is_given_up() {
    let served = Served::with_admin(vec![]);
    let stream = UnixStream::connect(served.socket.as_ref().unwrap())
        .await
        .unwrap();
    let answer = talk(
        stream,
        b"POST /api/v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    )
    .await;
    assert_eq!(answer.status, 408, "{answer:?}");
    served.stop().await;
}

#[tokio::test]
async fn what_is_not_http_harms_nobody() {
    let served = Served::start(vec![]);
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(
            !String::from_utf8_lossy(&answer).contains(" 200 "),
            "{nonsense:?}"
        );
    }
    assert_eq!(served.get("/livez").await.status, 200);
    served.stop().await;
}

/// Connections that say nothing, or hardly anything, and stay.
async fn idlers(served: &Served, count: usize) -> Vec<TcpStream> {
    let mut idlers = Vec::new();
    for index in 0..count {
        let mut idler = TcpStream::connect(served.address).await.unwrap();
        if index % 2 == 0 {
            idler.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.unwrap();
        }
        idlers.push(idler);
    }
    idlers
}

#[tokio::test]
async fn a_flood_of_idle_connections_pushes_out_itself() {
    let view = View::starting(&settings(&snapshot(vec![])));
    let served = Served::with(view, |settings, _| settings.max_connections = 16);
    let mut held = idlers(&served, 100).await;
    for path in ["/livez", "/metrics"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    let mut piece = [0; 1];
    let first = timeout(LONG, held[0].read(&mut piece)).await.unwrap();
    assert!(matches!(first, Ok(0) | Err(_)), "the longest idle went first");
    let page = served.get("/metrics").await.body;
    assert!(
        page.contains(r#"defib_http_connections_cut_total{listener="public",reason="idle"}"#),
        "{page}"
    );
    served.stop().await;
}

#[tokio::test]
async fn a_flood_past_requests_in_flight_starves_no_probe() {
    let seen = snapshot(vec![with_healthz(peer("feed"))]);
    let view = View::starting(&settings(&seen)).with_snapshot(Arc::new(seen));
    let served = Served::with(view, |settings, _| settings.max_connections = 2);
    // Each has been answered once, so each is known to hold its place.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream
            .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut piece = [0; 4096];
        assert!(timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap() > 0);
        held.push(stream);
    }
    let more = idlers(&served, 100).await;
    for (path, status) in [
        ("/livez", 200),
        ("/healthz/feed", 200),
        ("/startupz", 200),
        ("/readyz", 200),
        ("/metrics", 503),
        ("/", 503),
    ] {
        assert_eq!(served.get(path).await.status, status, "{path}");
    }
    for stream in &mut held {
        let more = stream.try_read(&mut [0; 1]);
        assert!(more.is_err(), "what is in flight goes on: {more:?}");
    }
    // It ends with the flood.
    drop((held, more));
    timeout(LONG, async {
        while served.get("/metrics").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    served.stop().await;
}
