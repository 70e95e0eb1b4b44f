//! What is wrong with a definition: everything, not just the first thing, so that one run of `check` is enough.

use std::fmt;
use std::path::PathBuf;

use super::Origin;
use crate::Error;

/// One thing that is wrong, where, and what to do. `Display` gives `file:line: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{}:{line}: {message}", file.display())]
pub struct Problem {
    /// The file, relative to the definition's folder.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and the cure.
    pub message: String,
}

impl Problem {
    /// A problem at `origin`.
    pub fn at(origin: &Origin, message: impl Into<String>) -> Self {
        Self { file: origin.file.clone(), line: origin.line, message: message.into() }
    }
}

/// All that is wrong, in the order of files and lines; never empty. `Display` gives one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts `found`; none if nothing was found.
    pub fn from_found(mut found: Vec<Problem>) -> Option<Self> {
        found.sort();
        found.dedup();
        (!found.is_empty()).then_some(Self(found))
    }

    /// The problems.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Error::invalid(problems.to_string())
    }
}
