//! What a step found and did.

use crate::rows::Source;

/// Numbers of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) files_before: u64,
    pub(crate) files_after: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
    /// Rows that were rewritten, or that went.
    pub(crate) rows: u64,
    /// The newest version that it committed, or read.
    pub(crate) version: Option<u64>,
    /// Whether it changed anything.
    pub(crate) is_done: bool,
    /// Groups of files that others changed meanwhile, so that they were left as they are.
    pub(crate) overtaken: u64,
    /// Whether something is left to do, for want of time.
    pub(crate) is_late: bool,
}

impl Tally {
    /// Before anything is done to these files.
    pub(crate) fn of(sources: &[Source]) -> Self {
        let bytes = sources.iter().map(|source| source.file.bytes()).sum();
        Self::at(sources.len() as u64, bytes)
    }

    /// Before anything is done to so many files.
    pub(crate) fn at(files: u64, bytes: u64) -> Self {
        Self { files_before: files, files_after: files, bytes_before: bytes, bytes_after: bytes, ..Self::default() }
    }

    /// Counts files that went.
    pub(crate) fn gone(&mut self, files: u64, bytes: u64) {
        self.files_after = self.files_after.saturating_sub(files);
        self.bytes_after = self.bytes_after.saturating_sub(bytes);
        self.is_done = true;
    }

    /// Counts files that came.
    pub(crate) fn came(&mut self, files: u64, bytes: u64) {
        self.files_after += files;
        self.bytes_after += bytes;
        self.is_done = true;
    }
}
