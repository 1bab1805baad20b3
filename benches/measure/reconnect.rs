//! How a server's return is met: when each link of many nodes is up again, and how many come at once (scenario 8).
//!
//! `NODES=50 AWAY=30` for other numbers. Ends by itself.

use std::time::Duration;

use crate::common::{now, number, run, start_node, trusted, until};
use crate::redis_server::{self, RedisServer};
use crate::sample::{Sample, heading};
use defib::app::Running;

/// What counts as "at once".
const AT_ONCE: Duration = Duration::from_millis(10);

pub(crate) fn measure() -> anyhow::Result<()> {
    run(table())
}

async fn table() -> anyhow::Result<()> {
    let (nodes, away) = (number("NODES", 20), number("AWAY", 20));
    heading("Reconnecting");
    if !redis_server::there() {
        return Ok(());
    }
    let times = times(nodes, Duration::from_secs(away as u64)).await?;
    let at_once = (0..times.len()).map(|from| {
        let within = |time: &&Duration| **time - times[from] < AT_ONCE;
        times[from..].iter().take_while(within).count()
    });
    println!(
        "{nodes} nodes in one process, {} links; the server was away for {away} s. Milliseconds from the first \
         link that was up again; most within {AT_ONCE:?}: {}.\n",
        times.len(),
        at_once.max().unwrap_or(0)
    );
    let since_first: Sample = times
        .iter()
        .map(|time| (*time - times[0]).as_secs_f64())
        .collect();
    println!("| links | median | p90 | p99 | most |\n|---|---|---|---|---|");
    println!("| {} |", since_first.row(1e-3, 0));
    Ok(())
}

/// When each link was up again, in order.
async fn times(nodes: usize, away: Duration) -> anyhow::Result<Vec<Duration>> {
    let mut server = RedisServer::start();
    let dir = tempfile::tempdir()?;
    let mut running = Vec::new();
    for index in 0..nodes {
        let own = dir.path().join(index.to_string());
        std::fs::create_dir(&own)?;
        let text = format!(
            "node = \"node-{index}\"\n[bus]\nurl = \"{}\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\nadmin_socket = \"none\"\n\
             [store]\npath = \"{}\"\n[log]\nlevel = \"error\"\n",
            server.url(),
            own.join("state.json").display()
        );
        running.push(start_node(&own, &text).await?);
    }
    for node in &running {
        trusted(node).await?;
    }
    server.kill();
    tokio::time::sleep(away).await;
    let _server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let mut links: Vec<(&Running, &str)> = running
        .iter()
        .flat_map(|node| ["pub", "sub"].map(|link| (node, link)))
        .collect();
    let mut times = Vec::new();
    until("every link", Duration::from_secs(30), || {
        let time = now();
        links.retain(|(node, link)| node.metrics().bus.link_up.with_label_values(&[*link]).get() == 0);
        times.resize(2 * nodes - links.len(), time);
        links.is_empty()
    })
    .await?;
    Ok(times)
}
