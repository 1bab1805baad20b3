//! The `capture` rung: keeps evidence before the shock destroys it. What can be had is kept, what cannot is said; nothing
//! here is worth holding up the ladder for.

mod disk;
mod files;
mod place;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::fence::Found;
use super::{Executors, exec};
use crate::command::{Ended, Prepared};
use crate::docker::Container;
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;
use crate::engine::time::Time;
use crate::owner_table::{Holding, LiveOwner};
use crate::sock_diag::{Dump, Endpoint, Filter, States, Whose, dump_within, sockets_of};
use disk::{create, write};
use place::{Draft, Place};

/// What one rung keeps, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// The directory of all captures. It is made if it is not there.
    pub dir: PathBuf,
    /// Most bytes of all of them; the oldest go first.
    pub max_total: u64,
    /// Most bytes of one.
    pub max_size: u64,
    /// A command without a shell, whose output is kept; `{pid}` and `{dir}` in it are replaced.
    pub command: Option<Vec<String>>,
    /// Bound on all of it.
    pub timeout: Duration,
    /// The last lines of the container's log; 0: none.
    pub logs: u32,
    /// The owner's TCP sockets.
    pub sockets: bool,
}

/// Holds the first process of a container, if it is in sight. `app` lends that of `checks`.
pub type HoldContainer = fn(&Container) -> Result<LiveOwner, String>;

/// How often the size of what a command writes is looked at.
const WATCHED: Duration = Duration::from_millis(200);
/// Longest words of one part that did not work, in characters.
const SHOWN: usize = 160;
/// Time that is left for putting away what was found, and for a command to obey SIGTERM, at most.
const PUT_AWAY: Duration = Duration::from_secs(2);

impl Capture {
    /// What it takes at most: the next remedy waits for it.
    pub const fn takes(&self) -> Duration {
        self.timeout
    }
}

/// Everything that can be kept of the peer, in its time. Failed only if nothing was.
pub(super) async fn run(
    capture: &Capture,
    found: &Found,
    grant: &Grant,
    executors: &Executors,
) -> RemedyOutcome {
    let times = Times::of(capture, executors);
    let wall = executors.clock.wall();
    let place = Place::of(capture);
    let name = place::name(wall, &grant.name, grant.token);
    let begun = match disk::hangs(executors.clock.now()) {
        Ok(()) => times.on_disk(times.looking(), move || place.begin(&name)).await,
        Err(why) => Err(why),
    };
    let draft = match begun {
        Ok(draft) => draft,
        Err(detail) => return RemedyOutcome::Failed { detail },
    };
    let parts = look(capture, found, grant, &draft, &times).await;
    let about = json!({
        "peer": &*grant.name,
        "cause": grant.cause.as_str(),
        "incarnation": &*grant.incarnation.0,
        "exited": grant.exited,
        "token": grant.token,
        "attempt": grant.attempt,
        "at": humantime::format_rfc3339_millis(std::time::SystemTime::UNIX_EPOCH + wall).to_string(),
        "kept": parts.kept,
        "not_kept": parts.failed,
    });
    let last = draft.path.join("about.json");
    let about = format!("{about:#}\n").into_bytes();
    let path = draft.path.display().to_string();
    let finished = times
        .on_disk(times.all(), move || {
            let told = write(&last, &about);
            draft.finish().map(|kept| (kept, told))
        })
        .await;
    parts.outcome(
        finished.map_err(|why| format!("{why}; what there is lies in {path}")),
        executors,
    )
}

/// A capture has one end, whatever there is to keep: the ladder waits for it.
struct Times<'e> {
    executors: &'e Executors,
    end: Time,
    put_away: Duration,
}

impl<'e> Times<'e> {
    fn of(capture: &Capture, executors: &'e Executors) -> Self {
        Self {
            executors,
            end: executors.clock.now() + capture.timeout,
            put_away: PUT_AWAY.min(capture.timeout / 4),
        }
    }

    /// Until its end.
    fn all(&self) -> Duration {
        self.end.since(self.executors.clock.now())
    }

    /// Until it is time to put away what was found.
    fn looking(&self) -> Duration {
        self.all().saturating_sub(self.put_away)
    }

    /// On a thread that may wait for the disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        disk::on_disk(self.executors.clock.now(), within, work).await
    }

    /// Until a command is told to end, so that it has time to obey.
    fn running(&self) -> Duration {
        self.looking().saturating_sub(self.put_away)
    }
}

/// Writes what there is to be kept into the draft.
async fn look(capture: &Capture, found: &Found, grant: &Grant, draft: &Draft, times: &Times<'_>) -> Parts {
    let mut parts = Parts::default();
    let owner = Owner::of(found, grant, times).await;
    let most = usize::try_from(draft.room / 4).unwrap_or(usize::MAX);
    let (sockets, log) = tokio::join!(
        sockets(capture, &owner, most, times),
        log(capture, &owner, most, times)
    );
    put("sockets.txt", sockets, &mut parts, draft, times).await;
    let ran = match &capture.command {
        Some(argv) => Some(command(argv, &owner, draft, grant, times).await),
        None => None,
    };
    // A command may have had the peer write something: SIGQUIT makes a JVM print its threads.
    let log = match (ran.is_some(), log) {
        (true, Some(before)) => self::log(capture, &owner, most, times)
            .await
            .filter(Result::is_ok)
            .or(Some(before)),
        (_, log) => log,
    };
    put("log.txt", log, &mut parts, draft, times).await;
    if let Some(ran) = ran {
        parts.tell("command", ran);
    }
    parts
}

/// One file of the draft, if there is something to say.
async fn put(
    file: &'static str,
    kept: Option<Result<Vec<u8>, String>>,
    parts: &mut Parts,
    draft: &Draft,
    times: &Times<'_>,
) {
    match kept {
        None => {}
        Some(Ok(bytes)) => {
            let path = draft.path.join(file);
            let put = times.on_disk(times.looking(), move || write(&path, &bytes)).await;
            parts.tell(file, put);
        }
        Some(Err(why)) => parts.tell(file, Err(why)),
    }
}

/// What the evidence is looked for at.
struct Owner {
    process: Option<LiveOwner>,
    whose: Option<Whose>,
    container: Option<std::sync::Arc<Container>>,
}

impl Owner {
    async fn of(found: &Found, grant: &Grant, times: &Times<'_>) -> Self {
        let executors = times.executors;
        let sighting = executors.docker.sighting(grant.peer);
        let container = sighting.and_then(|sighting| sighting.seen.ok());
        // It is the condemned life's, or nobody's.
        let container = container.filter(|seen| seen.life.incarnation() == grant.incarnation);
        let mut owner = Self {
            process: None,
            whose: None,
            container,
        };
        match (found, executors.fence.owners.get(grant.peer)) {
            (Found::Process(live), _) => owner.process = Some(live.clone()),
            (Found::Listener(_), Holding::Listening(listener)) => {
                let (ip, port) = (listener.ip, Some(listener.port));
                owner.whose = Some(Whose::Listener(Endpoint { ip, port }));
            }
            _ => {}
        }
        if let Some(container) = owner.container.clone()
            && owner.process.is_none()
        {
            let hold = executors.hold_container;
            let held = tokio::task::spawn_blocking(move || hold(&container));
            let held = tokio::time::timeout(times.looking(), held).await;
            owner.process = held.ok().and_then(Result::ok).and_then(Result::ok);
        }
        if let Some(process) = &owner.process {
            owner.whose = Some(Whose::Process(process.pid));
        }
        owner
    }

    fn pid(&self) -> Option<u32> {
        let process = self.process.as_ref()?;
        (!process.exited()).then_some(process.pid)
    }
}

async fn sockets(
    capture: &Capture,
    owner: &Owner,
    most: usize,
    times: &Times<'_>,
) -> Option<Result<Vec<u8>, String>> {
    let whose = owner.whose.clone().filter(|_| capture.sockets)?;
    let filter = Filter {
        states: States::all(),
        remote: Vec::new(),
        local: Vec::new(),
    };
    let dumped = match dump_within(filter, times.looking()).await {
        Ok(dump) => dump,
        Err(error) => return Some(Err(error.reason())),
    };
    let told = tokio::task::spawn_blocking(move || sockets_of(&whose, dumped));
    Some(match tokio::time::timeout(times.looking(), told).await {
        Ok(Ok(told)) => told.map(|dump| table(&dump, most)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("there was no time left to tell whose they are".to_owned()),
    })
}

/// As `ss` would show it, within so many bytes.
fn table(dump: &Dump, most: usize) -> Vec<u8> {
    let mut text = String::from("state\tlocal\tremote\trecv_q\tsend_q\tlast_data_s\treceived\tuid\tinode\n");
    let mut truncated = dump.truncated;
    for socket in &dump.sockets {
        if text.len() > most {
            truncated = true;
            break;
        }
        let (last, received) = socket.tcp.map_or((String::new(), String::new()), |tcp| {
            (
                format!("{:.3}", tcp.last_data_recv.as_secs_f64()),
                tcp.bytes_received.to_string(),
            )
        });
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:?}\t{}\t{}\t{}\t{}\t{last}\t{received}\t{}\t{}",
            socket.state,
            socket.id.local,
            socket.id.remote,
            socket.recv_q,
            socket.send_q,
            socket.uid,
            socket.inode
        );
    }
    if truncated {
        text.push_str("(there were more)\n");
    }
    text.into_bytes()
}

async fn log(
    capture: &Capture,
    owner: &Owner,
    most: usize,
    times: &Times<'_>,
) -> Option<Result<Vec<u8>, String>> {
    let container = owner.container.as_ref().filter(|_| capture.logs > 0)?;
    let docker = &times.executors.docker;
    let lines = docker.last_lines(&container.life, capture.logs, most);
    Some(match tokio::time::timeout(times.looking(), lines).await {
        Ok(lines) => lines.map_err(|error| error.with_cure()),
        Err(_) => Err("Docker has not told it in time".to_owned()),
    })
}

async fn command(
    argv: &[String],
    owner: &Owner,
    draft: &Draft,
    grant: &Grant,
    times: &Times<'_>,
) -> Result<(), String> {
    let pid = owner.pid().map(|pid| pid.to_string());
    let dir = draft.path.display().to_string();
    if pid.is_none() && argv.iter().any(|word| word.contains("{pid}")) {
        return Err("no process of the peer is in sight, and {pid} stands for its number".to_owned());
    }
    let pid = pid.unwrap_or_default();
    let argv: Vec<String> = argv
        .iter()
        .map(|word| word.replace("{pid}", &pid).replace("{dir}", &dir))
        .collect();
    let program = argv.first().cloned().unwrap_or_default();
    let files = ["command.out", "command.err"].map(|file| draft.path.join(file));
    let [out, err] = times
        .on_disk(times.looking(), move || {
            let [out, err] = files;
            Ok([create(&out)?, create(&err)?])
        })
        .await?;
    let (token, attempt) = (grant.token.to_string(), grant.attempt.to_string());
    let mut env = exec::environment(grant, &token, &attempt).to_vec();
    env.extend([("DEFIB_PID", pid.as_str()), ("DEFIB_CAPTURE_DIR", dir.as_str())]);
    let running = Prepared::apart(&argv, &env, &times.executors.scrub)
        .into_files(out, err, draft.room)
        .run(times.running(), |_, _| {});
    let overdue = || format!("{program} did not end in time and was ended");
    let ran = tokio::select! {
        ran = tokio::time::timeout(times.looking(), running) => match ran {
            Ok(ran) => ran.map_err(|error| format!("cannot start {program}: {error}"))?,
            // It is killed at once.
            Err(_) => return Err(overdue()),
        },
        () = grows(draft, times) => {
            return Err(format!("{program} wrote more than {} bytes and was ended", draft.room));
        }
    };
    match ran.ended {
        Ended::Itself(status) if status.success() => Ok(()),
        Ended::Itself(status) => Err(format!("{program} ended with {status}")),
        Ended::Killed => Err(overdue()),
        Ended::Unkillable(_) => Err(format!("{program} does not end, not even by SIGKILL")),
        Ended::Lost(error) => Err(format!("{program} could not be waited for: {error}")),
    }
}

/// Until the directory holds more than it may.
async fn grows(draft: &Draft, times: &Times<'_>) {
    loop {
        tokio::time::sleep(WATCHED).await;
        let looked_at = draft.path.clone();
        let size = times
            .on_disk(times.all(), move || Ok(files::size(&looked_at)))
            .await;
        if size.is_ok_and(|size| size > draft.room) {
            return;
        }
    }
}

/// What was kept, and what was not.
#[derive(Default)]
struct Parts {
    kept: Vec<&'static str>,
    failed: Vec<String>,
}

impl Parts {
    fn tell(&mut self, part: &'static str, came: Result<(), String>) {
        match came {
            Ok(()) => self.kept.push(part),
            Err(why) => self.failed.push(format!("{part}: {}", short(&why))),
        }
    }

    fn outcome(
        mut self,
        finished: Result<(place::Kept, Result<(), String>), String>,
        executors: &Executors,
    ) -> RemedyOutcome {
        let (kept, told) = match finished {
            Ok(finished) => finished,
            Err(detail) => return RemedyOutcome::Failed { detail },
        };
        match kept.total {
            Ok((total, evicted)) => executors.metrics.captured(total, evicted),
            Err(why) => self.failed.push(why),
        }
        self.failed.extend(told.err());
        self.failed.extend(kept.refused.iter().map(|why| short(why)));
        let not = if self.failed.is_empty() {
            String::new()
        } else {
            format!("; not kept: {}", self.failed.join("; "))
        };
        let place = kept.path.display();
        if self.kept.is_empty() {
            return RemedyOutcome::Failed {
                detail: format!("no evidence could be kept whole; what there is lies in {place}{not}"),
            };
        }
        RemedyOutcome::Acted {
            detail: format!(
                "{} kept in {place}, {} bytes{not}",
                self.kept.join(", "),
                kept.size
            ),
        }
    }
}

fn short(why: &str) -> String {
    why.chars().take(SHOWN).collect()
}
