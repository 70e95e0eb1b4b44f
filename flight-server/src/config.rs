//! The command line and its `MALLARD_*` variables, parsed once.

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
    /// Serves queries over a lake that others fill.
    Serve {
        /// The definition's folder.
        #[arg(long, env = "MALLARD_DEFINITION")]
        definition: PathBuf,
        /// The lake's root: a folder or a file:// URI.
        #[arg(long, env = "MALLARD_LAKE")]
        lake: String,
        /// The address to listen on.
        #[command(flatten)]
        listen: Listen,
    },
}

/// Where to listen, and what queries may use.
#[derive(Clone, Debug, Args)]
pub struct Listen {
    /// Address and port; port 0 takes a free one, which the first line printed tells.
    #[arg(long, env = "MALLARD_LISTEN", default_value = "127.0.0.1:32010")]
    pub listen: SocketAddr,
    /// Memory that queries may share, in MiB; what they need beyond it they spill.
    #[arg(long, env = "MALLARD_QUERY_MEMORY_MIB", default_value_t = 512)]
    pub query_memory_mib: usize,
}
