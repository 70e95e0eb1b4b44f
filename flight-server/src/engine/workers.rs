//! The threads that plan and run queries.
//!
//! They are apart from those that serve gRPC, for three reasons. Operators compute for long between two waits, and
//! health checks and other clients must not stand behind them. Walking a statement's tree takes stack, so these
//! threads have more of it. And a panic in an operator ends its own task, and no more.

use std::future::Future;

use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use futures::StreamExt as _;
use lakehouse::{Context as _, Error, Kind, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// A worker's stack, in bytes. Only what is used of it takes memory.
const STACK_BYTES: usize = 32 << 20;

/// Batches that wait between a worker and the client's stream.
const BATCHES_AHEAD: usize = 2;

/// Threads a core that run queries: more than one, so that operators which compute for long leave others a turn.
const RUNNERS_PER_CORE: usize = 2;

/// Two pools of threads: what is planned does not stand behind what runs.
pub(super) struct Workers {
    /// None only while it is dropped, as below.
    planners: Option<Runtime>,
    runners: Option<Runtime>,
}

impl Workers {
    pub(super) fn start() -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = |name: &str, threads: usize| {
            Builder::new_multi_thread()
                .thread_name(name)
                .worker_threads(threads)
                .thread_stack_size(STACK_BYTES)
                .enable_all()
                .build()
                .context(Kind::Unavailable, || "can't start the threads that run queries".to_owned())
        };
        Ok(Self { planners: Some(pool("plan", cores)?), runners: Some(pool("query", RUNNERS_PER_CORE * cores)?) })
    }

    /// Does `work`, which plans, on a worker; dropping the returned future stops it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let Some(runtime) = &self.planners else { return Err(stopping()) };
        let mut task = JoinSet::new();
        task.spawn_on(work, runtime.handle());
        match task.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) if error.is_panic() => {
                Err(Error::internal("the server failed on this statement, which is a bug"))
            }
            _ => Err(stopping()),
        }
    }

    /// Runs the stream that `open` gives on a worker; dropping the returned stream stops it.
    pub(super) fn stream(
        &self,
        schema: SchemaRef,
        open: impl FnOnce() -> DataFusionResult<SendableRecordBatchStream> + Send + 'static,
    ) -> Result<SendableRecordBatchStream> {
        let Some(runtime) = &self.runners else { return Err(stopping()) };
        let mut builder = RecordBatchReceiverStream::builder(schema, BATCHES_AHEAD);
        let output = builder.tx();
        let produce = async move {
            let mut batches = open()?;
            while let Some(batch) = batches.next().await {
                // The receiver is gone when nobody reads any more.
                if output.send(batch).await.is_err() {
                    break;
                }
            }
            Ok::<_, DataFusionError>(())
        };
        builder.spawn_on(produce, runtime.handle());
        Ok(builder.build())
    }
}

impl Drop for Workers {
    /// A runtime may not be waited for inside another one, which is where engines live.
    fn drop(&mut self) {
        for runtime in [self.planners.take(), self.runners.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

fn stopping() -> Error {
    Error::unavailable("the server is stopping; try again elsewhere, or later")
}
