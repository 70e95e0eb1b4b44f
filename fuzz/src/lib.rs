//! Fuzz targets for frames, Arrow messages and handles, as they come from the network and from bronze. `scripts/fuzz` builds and runs them.

pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Panics that the project catches are no crash; the fuzzer's own hook would make one of each. To be called once.
pub fn prepare() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Runs a target. A panic that comes through it is a crash.
pub fn run(target: fn(&[u8]), data: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(data))) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        eprintln!("panicked: {text}");
        std::process::abort();
    }
}
