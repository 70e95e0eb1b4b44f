//! The server's binary: settings, logs, and nothing else.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser;
use flight_server::config::Cli;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

/// What is logged unless `MALLARD_LOG` says otherwise: our warnings, and of the Delta libraries, errors only; they warn
/// of missing metrics at every merge.
const LOG_DEFAULT: &str = "warn,deltalake_core=error,buoyant_kernel=error";

/// Planning a query recurses as deep as the query nests; tokio's 2 MiB are little for that.
const STACK_BYTES: usize = 16 << 20;

/// Threads for blocking work at most, each with such a stack. More than all that can wait for each other: see
/// `lakehouse::lake::read_log`.
const BLOCKING_THREADS_MAX: usize = 256;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("MALLARD_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    // A log that can't be written must not stop the work: without this, a full disk would panic whoever logs.
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let cli = Cli::parse();
    // Each connection is a file, and many systems give a process 1,024 if it does not ask for more.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("can't start the async runtime: {error}")),
    };
    let result = runtime.block_on(flight_server::run(cli.command));
    // A merge that is cut off here is done again at the next start.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.chain()),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command-line program")]
fn fail(message: &str) -> ExitCode {
    eprintln!("flight-server: {message}");
    ExitCode::FAILURE
}
