//! `defib init`: looks at what runs here, and writes the configuration to begin with: commented, in a dry run, and
//! without a secret in it.

mod compose;
mod listen;
mod render;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use super::args::InitArgs;
use super::{api, exit};
use crate::config::{Sources, load};
use crate::docker::{self, Docker, Host};
use crate::redis_client::Endpoint;
use compose::Project;
use listen::{Heard, Redis};

/// Where a Redis is looked for if nobody says.
const USUAL: &str = "redis://127.0.0.1:6379";

/// What was found out.
#[derive(Default)]
struct Found {
    project: Option<Project>,
    /// Where the Redis was that was listened to, and what was heard there.
    redis: Option<(Redis, Heard)>,
    /// What could not be found out, and why.
    notes: Vec<String>,
}

/// Writes the file and says what comes next. Exit 1: nothing was written.
pub fn execute(args: &InitArgs) -> ExitCode {
    let written = api::on_one_thread(init(args)).unwrap_or_else(|error| Err(format!("{error:#}")));
    match written {
        Ok(said) => {
            if !said.is_empty() {
                super::say_error(&said);
            }
            ExitCode::from(exit::OK)
        }
        Err(why) => {
            super::say_error(&format!("defib init: {why}"));
            ExitCode::from(exit::FAILED)
        }
    }
}

async fn init(args: &InitArgs) -> Result<String, String> {
    let to_stdout = args.output == Path::new("-");
    if !to_stdout && !args.force && args.output.exists() {
        let file = args.output.display();
        return Err(format!(
            "{file} is there already: name another with --output, or add --force"
        ));
    }
    let found = find(args).await?;
    let text = render::file(args.group.as_deref(), &found);
    checked(&text)?;
    if to_stdout {
        api::print(&text);
        return Ok(String::new());
    }
    write(&args.output, &text, args.force).map_err(|error| format!("{}: {error}", args.output.display()))?;
    Ok(format!(
        "{} written, in a dry run: read it, then\n  defib check-config --config {0} --explain\n  defib doctor --config {0}\n  \
         defib run --config {0}",
        args.output.display()
    ))
}

async fn find(args: &InitArgs) -> Result<Found, String> {
    let mut found = Found::default();
    match (&args.compose, args.no_docker) {
        (Some(file), _) => found.project = Some(Project::read(file)?),
        (None, true) => {}
        (None, false) => match running(args).await {
            Ok(project) => found.project = Some(project),
            Err(why) if args.project.is_some() => return Err(why),
            Err(why) => found
                .notes
                .push(format!("Docker was asked for nothing that could be used: {why}")),
        },
    }
    let named = args.redis.clone().or_else(|| std::env::var("REDIS_URL").ok());
    let published = found.project.as_ref().and_then(Project::published_redis);
    let guessed = published.map_or_else(|| USUAL.to_owned(), |port| format!("redis://127.0.0.1:{port}"));
    let url = named.clone().unwrap_or(guessed);
    // The error repeats nothing of the URL: a password may stand in it.
    let endpoint = Endpoint::parse(&url).map_err(|error| format!("the URL of the Redis: {error}"))?;
    let place = endpoint.address.to_string();
    match listen::listen(&endpoint, args.listen).await {
        Ok(heard) => {
            let redis = Redis {
                endpoint,
                // Where this command found it need not be where the node will.
                inside: found
                    .project
                    .as_ref()
                    .filter(|_| named.is_none())
                    .and_then(Project::redis_inside),
            };
            found.redis = Some((redis, heard));
        }
        Err(why) if args.redis.is_some() => return Err(format!("{place}: {why}")),
        Err(why) => found.notes.push(format!("no Redis was heard at {place}: {why}")),
    }
    Ok(found)
}

async fn running(args: &InitArgs) -> Result<Project, String> {
    let settings = match &args.docker {
        Some(host) => docker::Settings {
            host: Host::parse(host).map_err(|error| error.to_string())?,
            ..docker::Settings::default()
        },
        None => docker::Settings::default(),
    };
    let docker = Docker::new(settings);
    let all = docker.composed().await.map_err(|error| error.to_string())?;
    let own = docker.own_project().await.unwrap_or_default();
    Project::running(&all, args.project.as_deref().or(own.as_deref()))
}

/// What is handed out has to pass its own check.
fn checked(text: &str) -> Result<(), String> {
    let sources = Sources {
        file: Some(("defib.toml".into(), text.to_owned())),
        // Whatever it is: here only its name is written.
        env: [(render::PASSWORD.to_owned(), "x".to_owned())].into(),
        ..Sources::default()
    };
    load(&sources).map(drop).map_err(|report| {
        format!("what was made of it is no good configuration: a fault of defib.\n{report}\n{text}")
    })
}

/// Whole, or not at all; over another file only with `--force`.
fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    if !force {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)?;
        return file.write_all(text.as_bytes());
    }
    let name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&draft);
    })
}
