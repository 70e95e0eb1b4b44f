//! The words of the definition that are one of a few.

use std::fmt;

use super::{Mode, OnFail, OnNewColumn};

/// A type with a few values, each with its word.
pub(super) trait Word: Copy + 'static {
    const ALL: &'static [Self];

    fn word(self) -> &'static str;
}

impl OnFail {
    /// The word in the definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Quarantine => "quarantine",
            Self::Fail => "fail",
        }
    }
}

impl OnNewColumn {
    /// The word in the definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Rescue => "rescue",
            Self::Reject => "reject",
        }
    }
}

impl Mode {
    /// The word in the definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Merge => "merge",
        }
    }
}

impl Word for OnFail {
    const ALL: &'static [Self] = &[Self::Warn, Self::Quarantine, Self::Fail];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for OnNewColumn {
    const ALL: &'static [Self] = &[Self::Add, Self::Rescue, Self::Reject];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Mode {
    const ALL: &'static [Self] = &[Self::Replace, Self::Append, Self::Merge];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl fmt::Display for OnFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for OnNewColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
