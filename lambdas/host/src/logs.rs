//! Logs as Lambda likes them: one JSON object a line, with `timestamp`, `level` and the fields at its top, and the
//! call's id in its span (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html>).

use std::io;

use tracing_subscriber::EnvFilter;

/// What is logged unless `MALLARD_LOG` says otherwise. Of the Delta libraries errors only: they warn of missing metrics
/// at every merge.
const LOG_DEFAULT: &str =
    "warn,host=info,bronze_to_silver=info,table_maintenance=info,deltalake_core=error,buoyant_kernel=error";

/// Begins logging, to stderr. A second call changes nothing.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_env("MALLARD_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    // A log that can't be written must not stop the work.
    let begun = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .try_init();
    // Only tests begin twice.
    drop(begun);
}
