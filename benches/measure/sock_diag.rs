//! What it costs to list the connections to one server while a namespace holds many others: filtered in the kernel,
//! as the checks do it, and filtered here, after everything was copied. Root: in a network namespace of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, bail};
use defib::sock_diag::{Filter, State, dump};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::now;
use crate::sample::{Sample, heading};

const SAMPLES: usize = 101;
/// Connections to the server that is asked for.
const WANTED: usize = 3;

pub(crate) fn measure() -> anyhow::Result<()> {
    heading("A dump of sockets");
    let namespace = format!("defib-bench-{}", std::process::id());
    let made = ip(&["netns", "add", &namespace]);
    if !crate::available("root with ip (network namespaces)", made.is_ok()) {
        return Ok(());
    }
    let inside = namespace.clone();
    let measured = std::thread::spawn(move || table(&inside)).join();
    ip(&["netns", "delete", &namespace])?;
    measured.unwrap_or_else(|_| bail!("the measurement panicked"))
}

fn table(namespace: &str) -> anyhow::Result<()> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    ip(&["netns", "exec", namespace, "ip", "link", "set", "lo", "up"])?;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    println!("{WANTED} connections are asked for; median (least–most) of {SAMPLES}, in microseconds.\n");
    println!("| sockets | filtered in the kernel | filtered here |\n|---|---|---|");
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut kept = Vec::new();
    for _ in 0..WANTED {
        kept.extend(connection(&server)?);
    }
    let address = server.local_addr()?;
    let others: Vec<TcpListener> = (1..4)
        .map(|host| TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0)))
        .collect::<Result<_, _>>()?;
    for sockets in [10, 1_000, 15_000] {
        while kept.len() < sockets {
            kept.extend(connection(&others[kept.len() / 2 % others.len()])?);
        }
        let (kernel, here) = (sample(|| in_the_kernel(address))?, sample(|| by_hand(address))?);
        println!("| {sockets} | {kernel} | {here} |");
    }
    Ok(())
}

/// Both ends.
fn connection(server: &TcpListener) -> anyhow::Result<[TcpStream; 2]> {
    let near = TcpStream::connect(server.local_addr()?).context("cannot connect")?;
    Ok([near, server.accept()?.0])
}

fn in_the_kernel(server: SocketAddr) -> anyhow::Result<usize> {
    Ok(dump(&Filter::established_to(vec![server.into()]))?.sockets.len())
}

fn by_hand(server: SocketAddr) -> anyhow::Result<usize> {
    let mut all = dump(&Filter {
        states: [State::Established].into(),
        remote: Vec::new(),
        local: Vec::new(),
    })?;
    all.sockets.retain(|socket| socket.id.remote == server);
    Ok(all.sockets.len())
}

fn sample(look: impl Fn() -> anyhow::Result<usize>) -> anyhow::Result<String> {
    let mut micros = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let from = now();
        let found = look()?;
        micros.push((now() - from).as_secs_f64() * 1e6);
        if found != WANTED {
            bail!("{found} connections found, not {WANTED}");
        }
    }
    Ok(micros.into_iter().collect::<Sample>().spread(0))
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        bail!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
