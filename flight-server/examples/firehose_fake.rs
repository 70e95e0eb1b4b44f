//! A fake Firehose as a program, for benchmarks and for tests of the built server:
//!
//! ```text
//! firehose_fake --port 0 --quota-bytes-per-second 5242880
//! listening on 127.0.0.1:40123
//! curl 127.0.0.1:40123/stats
//! curl -X POST '127.0.0.1:40123/stall?seconds=60'
//! ```
//!
//! The server finds it by `AWS_ENDPOINT_URL_FIREHOSE=http://127.0.0.1:40123`.

#[expect(dead_code, reason = "faults are for tests, which compile it too")]
#[path = "../src/delivery/firehose/fake.rs"]
mod fake;

use std::io;
use std::net::Ipv4Addr;

use clap::Parser;
use fake::{Fake, FakeOptions};
use tokio::net::TcpListener;

/// A fake Firehose on loopback, until Ctrl-C.
#[derive(Debug, Parser)]
struct Arguments {
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// What each delivery stream takes a second; without it, whatever comes.
    #[arg(long)]
    quota_bytes_per_second: Option<u64>,
    /// Keeps and decodes all records, in memory, instead of counting them.
    #[arg(long)]
    keep: bool,
    /// A delivery stream that exists; can be given more than once. Without it all do.
    #[arg(long = "stream")]
    streams: Vec<String>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let Arguments { port, quota_bytes_per_second, keep, streams } = Arguments::parse();
    let streams = Some(streams).filter(|streams| !streams.is_empty());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let fake = Fake::start(listener, FakeOptions { streams, keep, quota_bytes_per_second })?;
    announce(&fake);
    tokio::signal::ctrl_c().await
}

#[expect(clippy::print_stdout, reason = "whoever started it reads the address there")]
fn announce(fake: &Fake) {
    println!("listening on {}", fake.address());
}
