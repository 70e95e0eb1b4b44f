//! The command line and its `MALLARD_*` variables, parsed once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Mallard: a lakehouse spoken to over Arrow Flight SQL.
#[derive(Debug, Parser)]
#[command(name = "flight-server", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `flight-server` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the flights example end to end on its own data, then keeps serving it.
    #[cfg(feature = "local")]
    Demo {
        /// Where the demo keeps its data; a second start resumes on it.
        #[arg(long, env = "MALLARD_DATA", default_value = "mallard-demo")]
        data: PathBuf,
        /// The example's folder; by default the one of the source tree.
        #[arg(long)]
        example: Option<PathBuf>,
        /// Ends once the gold tables are printed.
        #[arg(long)]
        exit: bool,
        /// The address to listen on.
        #[command(flatten)]
        listen: Listen,
    },
    /// Runs a whole lakehouse in this process, over a folder.
    #[cfg(feature = "local")]
    Local {
        /// The definition's folder.
        #[arg(long, env = "MALLARD_DEFINITION")]
        definition: PathBuf,
        /// Where all data is kept.
        #[arg(long, env = "MALLARD_DATA")]
        data: PathBuf,
        /// The address to listen on.
        #[command(flatten)]
        listen: Listen,
    },
    /// Checks a definition, SQL included, and prints its plan.
    #[cfg(feature = "local")]
    Check {
        /// The definition's folder.
        definition: PathBuf,
    },
    /// Merges the rows that lie in a table's quarantine, after a fix.
    #[cfg(feature = "local")]
    Replay(ReplayFlags),
    /// Serves queries over a lake that others fill, and takes rows for Firehose if it is told to.
    Serve {
        /// The definition's folder.
        #[arg(long, env = "MALLARD_DEFINITION")]
        definition: PathBuf,
        /// The lake's root: a folder, a file:// URI or an s3:// URI.
        #[arg(long, env = "MALLARD_LAKE")]
        lake: String,
        /// Where accepted rows go.
        #[command(flatten)]
        firehose: FirehoseFlags,
        /// The address to listen on.
        #[command(flatten)]
        listen: Listen,
    },
}

/// Which rows are merged again, and where.
#[cfg(feature = "local")]
#[derive(Clone, Debug, Args)]
pub struct ReplayFlags {
    /// The table.
    #[arg(long)]
    pub table: String,
    /// Which of its rows, as a condition in SQL over the columns of system.quarantine; without it, all.
    #[arg(long = "where")]
    pub filter: Option<String>,
    /// The definition's folder; a server has its own.
    #[arg(long, env = "MALLARD_DEFINITION")]
    pub definition: Option<PathBuf>,
    /// Where the rows are.
    #[command(flatten)]
    pub at: ReplayAt,
}

/// Where to replay: one of these.
#[cfg(feature = "local")]
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ReplayAt {
    /// The data folder of a server that does not run.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The root of a lake that Lambdas merge: a folder, a file:// URI or an s3:// URI.
    #[arg(long)]
    pub lake: Option<String>,
    /// The address of a running server, as grpc://HOST:PORT: it replays itself.
    #[arg(long)]
    pub server: Option<String>,
}

/// The Firehose streams that rows go to.
#[derive(Clone, Debug, Args)]
pub struct FirehoseFlags {
    /// Names of the Firehose streams, with {table} and, if a table has several, {n} from 0; without it the server takes
    /// no rows. Region, credentials and endpoint come from where the AWS SDK finds them.
    #[arg(id = "firehose-stream", long = "firehose-stream", env = "MALLARD_FIREHOSE_STREAM")]
    pub stream: Option<String>,
    /// How many streams each table has, to go past one stream's quota.
    #[arg(long = "firehose-streams", env = "MALLARD_FIREHOSE_STREAMS", default_value_t = 1, value_parser = at_least_one)]
    pub streams_per_table: usize,
    /// How long rows wait for others to share their record, in milliseconds.
    #[arg(long, env = "MALLARD_LINGER_MS", default_value_t = 100)]
    pub linger_ms: u64,
}

/// Where to listen, what queries may use, and what seals tickets.
#[derive(Clone, Args)]
pub struct Listen {
    /// Address and port; port 0 takes a free one, which the first line printed tells.
    #[arg(long, env = "MALLARD_LISTEN", default_value = "127.0.0.1:32010")]
    pub listen: SocketAddr,
    /// Address and port for HTTP (JSON in, JSON, CSV or Arrow out); without it there is none.
    #[arg(long, env = "MALLARD_HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,
    /// How long one message of a client may take to arrive, in seconds.
    #[arg(long, env = "MALLARD_INGEST_MESSAGE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub ingest_message_seconds: u64,
    /// Memory that queries may share, in MiB; what they need beyond it they spill.
    #[arg(long, env = "MALLARD_QUERY_MEMORY_MIB", default_value_t = 512)]
    pub query_memory_mib: usize,
    /// How many queries run at once; further ones wait.
    #[arg(long, env = "MALLARD_QUERIES_MAX", default_value_t = 16, value_parser = at_least_one)]
    pub queries_max: usize,
    /// How many queries wait; further ones are refused.
    #[arg(long, env = "MALLARD_QUEUE_MAX", default_value_t = 256)]
    pub queue_max: usize,
    /// How long a query waits for its turn, in seconds.
    #[arg(long, env = "MALLARD_QUEUE_WAIT_SECONDS", default_value_t = 30)]
    pub queue_wait_seconds: u64,
    /// How long a query may take, in seconds, waiting included; 0: as long as it likes.
    #[arg(long, env = "MALLARD_QUERY_TIMEOUT_SECONDS", default_value_t = 3600)]
    pub query_timeout_seconds: u64,
    /// The most that a result may have, in MiB of Arrow memory; 0: no limit.
    #[arg(long, env = "MALLARD_RESULT_MIB_MAX", default_value_t = 0)]
    pub result_mib_max: u64,
    /// How many MiB of files one endpoint of a large result covers.
    #[arg(long, env = "MALLARD_SLICE_MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub slice_mib: u64,
    /// Keys that seal tickets and sessions, separated by commas: 64 hexadecimal digits or 32 bytes in base64 each. The
    /// first seals, all open. Servers of one lakehouse share them.
    #[arg(long, env = "MALLARD_KEY", hide_env_values = true, value_delimiter = ',')]
    pub key: Vec<String>,
    /// A file with such a key.
    #[arg(long, env = "MALLARD_KEY_FILE", conflicts_with = "key")]
    pub key_file: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "it must be a whole number from 1".to_owned())
}

impl fmt::Debug for Listen {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listen").field("listen", &self.listen).finish_non_exhaustive()
    }
}
