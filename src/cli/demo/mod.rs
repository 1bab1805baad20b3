//! `defib demo`: the main job, shown on real processes in about 35 seconds, with nothing installed.
//!
//! A broker, a telemetry publisher, a plain subscriber without any liveness logic of its own, and a node beside
//! them; five faults; a timeline; and at the end what was expected against what was seen.

mod acts;
pub mod children;
mod stage;
mod timeline;

use std::process::ExitCode;

use super::args::DemoArgs;
use super::exit;
use stage::Stage;

/// Runs the demo, or (hidden) one of the processes that it is about.
pub fn execute(args: &DemoArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("defib demo: cannot start the runtime: {error}");
            return ExitCode::from(exit::INTERNAL);
        }
    };
    let outcome = match (args.role, &args.dir) {
        (Some(role), Some(dir)) => runtime.block_on(children::play(role, dir)).map(|()| true),
        _ => runtime.block_on(show(args)),
    };
    match outcome {
        Ok(true) => ExitCode::from(exit::OK),
        Ok(false) => ExitCode::from(exit::FAILED),
        Err(error) => {
            eprintln!("defib demo: {error:#}");
            ExitCode::from(exit::INTERNAL)
        }
    }
}

/// True if everything went as expected.
async fn show(args: &DemoArgs) -> anyhow::Result<bool> {
    let mut stage = Stage::set(args.redis.as_deref()).await?;
    let performance = async {
        let outcomes = acts::perform(&mut stage).await?;
        let as_expected = timeline::table(&outcomes);
        if args.keep {
            stage.invite();
            std::future::pending::<()>().await;
        }
        anyhow::Ok(as_expected)
    };
    let result = tokio::select! {
        result = performance => result,
        _ = tokio::signal::ctrl_c() => Ok(args.keep),
    };
    stage.strike().await;
    result
}
