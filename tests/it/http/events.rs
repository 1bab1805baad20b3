//! The stream of events.

use std::sync::Arc;

use defib::engine::decision::What;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LONG, Served, notice};
use crate::support::snapshots::peer;

/// Reads until `end` has come.
async fn read_until(stream: &mut TcpStream, seen: &mut String, end: &str) {
    let mut piece = [0; 4096];
    while !seen.contains(end) {
        let read = timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "ended before {end:?}: {seen}");
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
}

async fn follow(served: &Served) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, ": following").await;
    (stream, seen)
}

#[tokio::test]
async fn events_arrive_and_a_client_that_lags_is_told_how_many_it_missed() {
    let served = Served::start(vec![peer("feed")]);
    let (mut stream, mut seen) = follow(&served).await;
    served
        .notices
        .send(Arc::new(notice("feed", What::Goodbye)))
        .unwrap();
    read_until(&mut stream, &mut seen, "\n\n").await;
    read_until(&mut stream, &mut seen, "event: goodbye\ndata: ").await;
    read_until(&mut stream, &mut seen, "\"peer\":\"feed\"").await;
    // Ten at once, into a channel that keeps four: this thread is the server's too, so it takes none in between.
    for for_ms in 0..10 {
        served
            .notices
            .send(Arc::new(notice("feed", What::Stalled { for_ms })))
            .unwrap();
    }
    read_until(&mut stream, &mut seen, "\"for_ms\":9").await;
    assert!(seen.contains("event: lagged\ndata: {\"missed\":6}"), "{seen}");
    assert!(
        !seen.contains("\"for_ms\":5") && seen.contains("\"for_ms\":6"),
        "{seen}"
    );
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_http_sse_missed_total 6")
    );
    served.stop().await;
    let mut rest = Vec::new();
    timeout(LONG, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn only_so_many_may_follow() {
    let served = Served::start(vec![]);
    let mut following = Vec::new();
    for _ in 0..16 {
        following.push(follow(&served).await.0);
    }
    assert_eq!(served.get("/api/v1/events").await.status, 503);
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_http_sse_clients 16")
    );
    drop(following);
    timeout(LONG, async {
        while !served
            .get("/metrics")
            .await
            .body
            .contains("defib_http_sse_clients 0")
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    served.stop().await;
}
