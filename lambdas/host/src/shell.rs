//! The whole of a Lambda's `main`: settings, logs, the handler built once, then calls until the process ends.
//!
//! ```text
//!  bronze-to-silver                         under Lambda (or its emulator): serves calls, one at a time
//!  bronze-to-silver --invoke event.json     serves one call; the answer goes to stdout, all else to stderr
//! ```

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use lakehouse::{Clock, Context as _, Error, Kind, Result, SystemClock};
use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use serde_json::Value;
use tokio::runtime::Builder;
use tracing::Instrument as _;

use crate::metrics::{Metrics, Sink};
use crate::settings::Settings;
use crate::{Call, logs};

/// Planning recurses as deep as an expression nests; tokio's 2 MiB are little for that.
const STACK_BYTES: usize = 8 << 20;

/// What Lambda sets in every function, and its runtime client can't do without.
const OF_LAMBDA: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];

/// What a Lambda does with an event. Built once, called until the process ends.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Serves one call.
    ///
    /// # Errors
    /// What Lambda is to count as a failed call.
    async fn call(&self, event: Value, call: &Call) -> Result<Value>;
}

/// What a handler is built from.
pub struct Host {
    /// The environment.
    pub settings: Settings,
    /// Where to count.
    pub metrics: Metrics,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Runs a Lambda called `function` whose handler `open` builds. The exit code is for `main`.
pub fn run<H, F>(function: &str, open: impl FnOnce(Host) -> F) -> ExitCode
where
    H: Handler,
    F: Future<Output = Result<H>>,
{
    logs::init();
    let ran = match Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build() {
        Ok(runtime) => runtime.block_on(start(function, open)),
        Err(error) => Err(Error::internal("can't start the async runtime").because(error)),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(function, error = error.chain(), "the function ends");
            ExitCode::FAILURE
        }
    }
}

async fn start<H, F>(function: &str, open: impl FnOnce(Host) -> F) -> Result<()>
where
    H: Handler,
    F: Future<Output = Result<H>>,
{
    let event = event_file(std::env::args_os().skip(1).map(PathBuf::from))?;
    if event.is_none()
        && let Some(missing) = OF_LAMBDA.iter().find(|name| std::env::var_os(name).is_none())
    {
        return Err(Error::invalid(format!(
            "{missing} is not set, so this was not started by Lambda; serve one event with --invoke event.json"
        )));
    }
    let settings = Settings::from_env(function)?;
    tracing::info!(?settings, "starting");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sink = if event.is_some() { Sink::Stderr } else { Sink::Stdout };
    let metrics = Metrics::new(settings.function.clone(), Arc::clone(&clock), sink);
    let handler = open(Host { settings, metrics, clock: Arc::clone(&clock) }).await?;
    match event {
        Some(file) => invoke(&handler, &file).await,
        None => serve(Arc::new(handler), clock).await,
    }
}

/// The file behind `--invoke`, if there is one.
fn event_file(mut arguments: impl Iterator<Item = PathBuf>) -> Result<Option<PathBuf>> {
    let wrong = || Error::invalid("the only argument is --invoke event.json");
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(None),
        (Some(flag), Some(file), None) if flag == Path::new("--invoke") => Ok(Some(file)),
        _ => Err(wrong()),
    }
}

async fn invoke(handler: &impl Handler, file: &Path) -> Result<()> {
    let unreadable = || format!("can't read the event {}", file.display());
    let event = std::fs::read(file).context(Kind::Invalid, unreadable)?;
    let event = serde_json::from_slice(&event).context(Kind::Invalid, unreadable)?;
    let answer = handler.call(event, &Call::without_deadline("invoke")).await?;
    writeln!(std::io::stdout().lock(), "{answer}").context(Kind::Unavailable, || "can't write the answer".to_owned())
}

async fn serve<H: Handler>(handler: Arc<H>, clock: Arc<dyn Clock>) -> Result<()> {
    let service = service_fn(move |event: LambdaEvent<Value>| {
        let handler = Arc::clone(&handler);
        let (event, context) = event.into_parts();
        let call = Call::ends_at(context.request_id, context.deadline, clock.now_us());
        async move {
            let span = tracing::info_span!("call", request_id = %call.request_id);
            let answer = handler.call(event, &call).instrument(span).await;
            answer.map_err(|error| {
                tracing::error!(request_id = %call.request_id, error = error.chain(), "the call failed");
                diagnostic(&error)
            })
        }
    });
    Runtime::new(service).run().await.map_err(|error| Error::unavailable("Lambda's runtime API is gone").because(error))
}

/// What Lambda tells whoever called.
fn diagnostic(error: &Error) -> Diagnostic {
    Diagnostic { error_type: format!("{:?}", error.kind()), error_message: error.chain() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(arguments: &[&str]) -> Result<Option<PathBuf>> {
        event_file(arguments.iter().map(PathBuf::from))
    }

    #[test]
    fn one_event_is_served_if_the_command_line_asks_for_it() {
        assert_eq!(file_of(&[]).unwrap(), None);
        assert_eq!(file_of(&["--invoke", "event.json"]).unwrap(), Some(PathBuf::from("event.json")));
        for wrong in [&["--invoke"][..], &["event.json"], &["--invoke", "a", "b"]] {
            assert!(file_of(wrong).unwrap_err().to_string().contains("--invoke event.json"));
        }
    }

    #[test]
    fn whoever_called_is_told_the_kind_and_the_causes() {
        let error = Error::unavailable("can't read").because(Error::internal("broken"));
        let told = diagnostic(&error);
        assert_eq!((told.error_type.as_str(), told.error_message.as_str()), ("Unavailable", "can't read: broken"));
    }
}
