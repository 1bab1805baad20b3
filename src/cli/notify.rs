//! `defib notify --test`: one real message to each target, and what the receiver answers.

use std::process::ExitCode;

use super::args::NotifyArgs;
use super::{api, exit, say, say_error};
use crate::engine::time::Clock;
use crate::notify::{Sender, Target, Told, test};
use crate::runtime::clock::MonotonicClock;

/// Sends, prints a line for each target, and exits 0 if every one of them took it.
pub fn execute(args: &NotifyArgs) -> ExitCode {
    let config = match args.config.load(false) {
        Ok(config) => config,
        Err(report) => {
            say_error(&report.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    let name = args.test.as_deref().unwrap_or_default();
    let targets: Vec<&Target> = config
        .notify
        .iter()
        .filter(|target| name.is_empty() || &*target.name == name)
        .collect();
    if targets.is_empty() {
        let known: Vec<&str> = config.notify.iter().map(|target| &*target.name).collect();
        say_error(&match (name, known.is_empty()) {
            (_, true) => "defib: the configuration has no [notify.NAME]".to_owned(),
            (name, false) => format!(
                "defib: there is no [notify.{name}]; there are: {}",
                known.join(", ")
            ),
        });
        return ExitCode::from(exit::FAILED);
    }
    let sender = Sender {
        node: config.node.clone(),
        group: config.group.clone(),
        boot: "cli".into(),
        dry_run: config.dry_run,
    };
    let wall = MonotonicClock::start().wall();
    let trying = async {
        let mut all_good = true;
        for target in targets {
            let told = test(target, &sender, wall).await;
            all_good &= matches!(&told, Ok(told) if told.accepted);
            say(&format!("{}: {}", target.name, words(told)));
        }
        all_good
    };
    match api::on_one_thread(trying) {
        Ok(true) => ExitCode::from(exit::OK),
        Ok(false) => ExitCode::from(exit::FAILED),
        Err(error) => {
            say_error(&format!("defib: {error:#}"));
            ExitCode::from(exit::INTERNAL)
        }
    }
}

fn words(told: Result<Told, String>) -> String {
    match told {
        Ok(told) if told.accepted => format!("taken: {}", told.answer),
        Ok(told) => format!("NOT taken: {}", told.answer),
        Err(why) => format!("NOT taken: {why}"),
    }
}
