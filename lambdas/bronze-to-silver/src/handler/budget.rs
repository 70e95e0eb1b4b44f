//! How a function's memory and /tmp are shared out.
//!
//! ```text
//!  memory   ├── DuckDB 35 % ──┼─ Delta's plans 25 % ─┼── objects read, Arrow on its way, Parquet's buffers, code ──┤
//!  /tmp     ├── DuckDB half of what may be spilled ──┼── Delta's plans the other half ──┤
//! ```
//!
//! Engines count what they reserve, not all that they use, so the two budgets are 60 % of what there is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bronze_to_silver::Settings;
use lakehouse::{Context as _, Kind, Result};

/// Time that the SQL of one commit may take; a function has 15 minutes at most
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>).
const SQL_TIME_MAX: Duration = Duration::from_secs(5 * 60);

/// DuckDB's share of the memory.
const DUCK_PERCENT: u64 = 35;

/// The share of Delta's own plans.
const DELTA_PERCENT: u64 = 25;

/// More threads cost memory each; a function has 6 processors at most
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>).
const THREADS_MAX: usize = 6;

/// The folder in /tmp below which a process spills.
const SPILL_FOLDER: &str = "mallard-spill";

/// The merger's budgets; what is spilled goes below `temporary`.
pub(super) fn settings(host: &host::Settings, temporary: &Path) -> Result<Settings> {
    let spill_bytes_max = host.spill_bytes_max / 2;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Settings {
        duck: duck::Settings {
            memory_bytes: share(host.memory_bytes, DUCK_PERCENT),
            spill_folder: Some(spill_folder(temporary, std::process::id())?),
            spill_bytes_max,
            threads: threads.min(THREADS_MAX),
            time_max: Some(SQL_TIME_MAX),
            stop: None,
        },
        delta_memory_bytes: usize::try_from(share(host.memory_bytes, DELTA_PERCENT)).unwrap_or(usize::MAX),
        delta_spill_bytes_max: spill_bytes_max,
    })
}

fn share(bytes: u64, percent: u64) -> u64 {
    bytes / 100 * percent
}

/// An empty folder of this process. What processes left that died (Lambda keeps /tmp when it starts a killed one again)
/// is removed, or it would fill the disk.
fn spill_folder(temporary: &Path, process: u32) -> Result<PathBuf> {
    let root = temporary.join(SPILL_FOLDER);
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_alive =
            name.to_str().is_some_and(|name| name != process.to_string() && Path::new("/proc").join(name).is_dir());
        if !is_alive && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(folder = %entry.path().display(), %error, "a dead process's spill stays");
        }
    }
    let folder = root.join(process.to_string());
    fs::create_dir_all(&folder)
        .context(Kind::Unavailable, || format!("can't make the folder {} to spill to", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budgets_leave_two_fifths_of_the_memory() {
        let (memory, hundredth) = (512 << 20, (512 << 20) / 100);
        let engines = share(memory, DUCK_PERCENT) + share(memory, DELTA_PERCENT);
        assert!(engines > 59 * hundredth && engines <= 60 * hundredth, "{engines} of {memory}");
    }

    #[test]
    fn the_spill_of_dead_processes_is_removed_and_that_of_living_ones_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join(SPILL_FOLDER);
        // No process has number 0; this one and its parent live.
        let (dead, living, own) = ("0".to_owned(), std::os::unix::process::parent_id(), std::process::id());
        for folder in [dead.clone(), living.to_string(), own.to_string()] {
            fs::create_dir_all(root.join(&folder)).unwrap();
            fs::write(root.join(&folder).join("spilled"), "x").unwrap();
        }
        let folder = spill_folder(temporary.path(), own).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "the own folder is of a former process of that number");
        assert!(!root.join(&dead).exists());
        assert!(root.join(living.to_string()).join("spilled").exists());
    }
}
