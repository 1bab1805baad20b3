//! The stream of events.

use std::sync::Arc;

use defib::engine::decision::{Notice, What};
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
    follow_after(served, "").await
}

/// `header`: a line of the request, with its end.
async fn follow_after(served: &Served, header: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
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

#[tokio::test]
async fn who_was_cut_off_gets_what_it_missed_once_and_is_told_what_is_lost() {
    let served = Served::start(vec![peer("feed")]);
    let boot = served.view.borrow().snapshot().unwrap().boot.to_string();
    let tell = |for_ms: u64| {
        let notice = Arc::new(Notice {
            n: for_ms,
            ..notice("feed", What::Stalled { for_ms })
        });
        served.recent.keep(&notice);
        let _ = served.notices.send(notice);
    };
    let (mut first, mut seen) = follow(&served).await;
    tell(1);
    read_until(&mut first, &mut seen, &format!("id: {boot}-1")).await;
    drop(first);
    (2..=4).for_each(tell);
    let (mut again, mut seen) = follow_after(&served, &format!("Last-Event-ID: {boot}-1\r\n")).await;
    tell(5);
    read_until(&mut again, &mut seen, &format!("id: {boot}-5")).await;
    for n in 2..=5 {
        assert_eq!(seen.matches(&format!("\"for_ms\":{n}")).count(), 1, "{seen}");
    }
    assert!(
        !seen.contains("\"for_ms\":1,") && !seen.contains("lagged"),
        "{seen}"
    );
    drop(again);

    // More than is kept went by.
    (6..=2000).for_each(tell);
    let (mut late, mut seen) = follow_after(&served, &format!("Last-Event-ID: {boot}-5\r\n")).await;
    read_until(&mut late, &mut seen, &format!("id: {boot}-2000")).await;
    let kept = seen.matches("id: ").count();
    let lost = 2000 - 5 - kept;
    assert!(kept > 1000, "{kept}");
    assert!(
        seen.contains(&format!("event: lagged\ndata: {{\"missed\":{lost}}}")),
        "{seen}"
    );
    drop(late);

    // A number that was never told: nothing was missed, and what comes is told.
    let id = format!("Last-Event-ID: {boot}-{}\r\n", u64::MAX);
    let (mut ahead, mut seen) = follow_after(&served, &id).await;
    tell(2001);
    read_until(&mut ahead, &mut seen, &format!("id: {boot}-2001")).await;
    assert_eq!(seen.matches("id: ").count(), 1, "{seen}");
    drop(ahead);

    // Of another run of the node, and nonsense: all that is kept, and that it is another run.
    for id in ["another-3", "\"", "-", "99999999999999999999999"] {
        let (mut other, mut seen) = follow_after(&served, &format!("Last-Event-ID: {id}\r\n")).await;
        read_until(&mut other, &mut seen, &format!("id: {boot}-2000")).await;
        assert!(seen.contains("event: restarted"), "{seen}");
    }
}
