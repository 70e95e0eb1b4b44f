//! The Lambda `table-maintenance`: what calls it is in `handler`, what it does in the library, how it runs in `host`.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    host::run("table-maintenance", handler::Function::open)
}
