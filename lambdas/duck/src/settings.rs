//! What a DuckDB database may use, and how it is locked down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::literal;
use crate::stop::Stopper;

/// Limits of one DuckDB database.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes that DuckDB may hold in memory before it spills.
    pub memory_bytes: u64,
    /// Where it spills; `None` for nowhere, so that exceeding the memory is an error.
    pub spill_folder: Option<PathBuf>,
    /// Bytes that it may spill.
    pub spill_bytes_max: u64,
    /// Threads that it computes with.
    pub threads: usize,
    /// Time that all its SQL together may take, loads and those who take the rows not counted; `None` for any. When it
    /// is up, what runs and all that comes later fail with `Timeout`.
    pub time_max: Option<Duration>,
    /// What stops it from outside; `None` for a stopper of its own.
    pub stop: Option<Stopper>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            spill_folder: None,
            spill_bytes_max: 8 << 30,
            threads: 2,
            time_max: None,
            stop: None,
        }
    }
}

impl Settings {
    /// The statements that set the limits and then lock them, in an order that DuckDB accepts: resources first, then
    /// extensions, then the door to the outside, and at last the lock itself.
    pub(crate) fn statements(&self, readable: Option<&Path>) -> Vec<String> {
        let mut statements = vec![
            format!("SET memory_limit = '{}B'", self.memory_bytes),
            format!("SET threads = {}", self.threads.max(1)),
            // An instant is shown and cut into days in UTC, wherever the process runs.
            "SET TimeZone = 'UTC'".to_owned(),
            "SET arrow_large_buffer_size = false".to_owned(),
            "SET arrow_lossless_conversion = false".to_owned(),
            "SET enable_progress_bar = false".to_owned(),
            "SET autoinstall_known_extensions = false".to_owned(),
            "SET autoload_known_extensions = false".to_owned(),
        ];
        match &self.spill_folder {
            Some(folder) => {
                statements.push(format!("SET temp_directory = {}", literal(&folder.to_string_lossy())));
                statements.push(format!("SET max_temp_directory_size = '{}B'", self.spill_bytes_max));
            }
            None => statements.push("SET temp_directory = ''".to_owned()),
        }
        if let Some(folder) = readable {
            statements.push(format!("SET allowed_directories = [{}]", literal(&folder.to_string_lossy())));
        }
        statements.push("SET enable_external_access = false".to_owned());
        statements.push("SET lock_configuration = true".to_owned());
        statements
    }
}
