//! The environment of a Lambda, read once and parsed into valid values.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `MALLARD_LAKE` | the lake: a folder, `file://` or `s3://` | needed |
//! | `MALLARD_DEFINITION` | the definition's folder | `definition` beside the binary |
//! | `MALLARD_EVENT_BUS` | the EventBridge bus that commits are told to | none: they are not told |
//! | `MALLARD_QUEUE_URL` | the FIFO queue that missed objects are sent to | none |
//! | `MALLARD_MEMORY_MB` | memory of the function, in MB | `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`, else 1,024 |
//! | `MALLARD_SPILL_MB` | what may be spilled to /tmp, in MB | 400 |
//! | `MALLARD_OBJECT_TRIES` | after how many tries an object that can't be merged is set aside | 3 |

use std::fmt;
use std::path::{Path, PathBuf};

use lakehouse::{Error, Result};

/// Memory if neither Mallard nor Lambda says it, in MB.
const MEMORY_MB_DEFAULT: u64 = 1_024;

/// The least memory that a merge can do with, in MB.
pub const MEMORY_MB_MIN: u64 = 256;

/// Spill unless it is said, in MB: /tmp has 512 unless more is paid for
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
const SPILL_MB_DEFAULT: u64 = 400;

/// Tries of an object unless it is said. A queue's `maxReceiveCount` should be more than twice as high, so that an object
/// is set aside before its message goes to the dead letters.
const OBJECT_TRIES_DEFAULT: u64 = 3;

/// More MB than any machine has.
const MB_MAX: u64 = 1 << 30;

/// How a Lambda is set up.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The function's name, for logs and metrics.
    pub function: String,
    /// Where the lake is: a folder or a URI.
    pub lake: String,
    /// The definition's folder.
    pub definition: PathBuf,
    /// The bus that commits are told to.
    pub event_bus: Option<String>,
    /// The FIFO queue that missed objects are sent to.
    pub queue_url: Option<String>,
    /// Memory of the function, in bytes.
    pub memory_bytes: u64,
    /// What may be spilled to /tmp, in bytes, by all engines together.
    pub spill_bytes_max: u64,
    /// After how many tries an object that can't be merged is set aside.
    pub object_tries: u32,
}

impl Settings {
    /// Reads the environment; `function` is its name unless Lambda gives it one.
    ///
    /// # Errors
    /// `Invalid` if a variable is missing or wrong; the message names it.
    pub fn from_env(function: &str) -> Result<Self> {
        let program = std::env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent);
        Self::parse(function, beside, |name| std::env::var(name).ok())
    }

    fn parse(function: &str, beside: Option<&Path>, read: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let read = |name: &str| read(name).filter(|value| !value.trim().is_empty());
        let lake = read("MALLARD_LAKE").ok_or_else(|| {
            Error::invalid("MALLARD_LAKE is not set; give the lake: s3://bucket/prefix, or a folder on this machine")
        })?;
        let definition = read("MALLARD_DEFINITION").map(PathBuf::from);
        let definition = definition.unwrap_or_else(|| beside.unwrap_or_else(|| Path::new(".")).join("definition"));
        let queue_url = read("MALLARD_QUEUE_URL");
        if let Some(url) = queue_url.as_deref().filter(|url| !url.ends_with(".fifo")) {
            return Err(Error::invalid(format!(
                "MALLARD_QUEUE_URL is {url:?}, which is no FIFO queue; give one whose name ends in .fifo, so that the \
                 objects of a table keep their order"
            )));
        }
        let of_lambda = number(&read, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY_MB_DEFAULT, 1, MB_MAX)?;
        let memory_mb = number(&read, "MALLARD_MEMORY_MB", of_lambda, MEMORY_MB_MIN, MB_MAX)?;
        let spill_mb = number(&read, "MALLARD_SPILL_MB", SPILL_MB_DEFAULT, 1, MB_MAX)?;
        let tries = number(&read, "MALLARD_OBJECT_TRIES", OBJECT_TRIES_DEFAULT, 1, u64::from(u32::MAX))?;
        Ok(Self {
            function: read("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| function.to_owned()),
            lake,
            definition,
            event_bus: read("MALLARD_EVENT_BUS"),
            queue_url,
            memory_bytes: memory_mb.max(MEMORY_MB_MIN) << 20,
            spill_bytes_max: spill_mb << 20,
            object_tries: u32::try_from(tries).unwrap_or(u32::MAX),
        })
    }
}

impl fmt::Debug for Settings {
    /// Without what could hold a password or an account.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("function", &self.function)
            .field("definition", &self.definition)
            .field("memory_bytes", &self.memory_bytes)
            .field("spill_bytes_max", &self.spill_bytes_max)
            .field("object_tries", &self.object_tries)
            .finish_non_exhaustive()
    }
}

fn number(read: &impl Fn(&str) -> Option<String>, name: &str, default: u64, min: u64, max: u64) -> Result<u64> {
    let Some(text) = read(name) else { return Ok(default) };
    let value = text.trim().parse().ok().filter(|value| (min..=max).contains(value));
    value.ok_or_else(|| Error::invalid(format!("{name} is {text:?}; give a whole number from {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Settings> {
        let read =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::parse("bronze-to-silver", Some(Path::new("/var/task")), read)
    }

    #[test]
    fn the_lake_alone_is_enough() {
        let settings = parse(&[("MALLARD_LAKE", "s3://bucket/lake")]).unwrap();
        assert_eq!(settings.function, "bronze-to-silver");
        assert_eq!(settings.definition, Path::new("/var/task/definition"));
        assert_eq!(settings.memory_bytes, 1_024 << 20);
        assert_eq!(settings.spill_bytes_max, 400 << 20);
        assert_eq!(settings.object_tries, 3);
        assert_eq!((settings.event_bus, settings.queue_url), (None, None));
    }

    #[test]
    fn the_memory_is_that_of_the_function_unless_it_is_said() {
        let lambda = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512");
        let lake = ("MALLARD_LAKE", "lake");
        assert_eq!(parse(&[lake, lambda]).unwrap().memory_bytes, 512 << 20);
        assert_eq!(parse(&[lake, lambda, ("MALLARD_MEMORY_MB", "900")]).unwrap().memory_bytes, 900 << 20);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused =
            |name: &str, value: &str| parse(&[("MALLARD_LAKE", "lake"), (name, value)]).unwrap_err().to_string();
        assert!(refused("MALLARD_MEMORY_MB", "64").starts_with("MALLARD_MEMORY_MB is \"64\"; give a whole number"));
        assert!(refused("MALLARD_OBJECT_TRIES", "0").contains("from 1 to"));
        assert!(refused("MALLARD_SPILL_MB", "much").contains("MALLARD_SPILL_MB"));
        assert!(refused("MALLARD_QUEUE_URL", "https://sqs/1/standard").contains("no FIFO queue"));
        assert!(parse(&[("MALLARD_LAKE", " ")]).unwrap_err().to_string().contains("MALLARD_LAKE is not set"));
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let settings = parse(&[
            ("MALLARD_LAKE", "s3://id:hidden@bucket"),
            ("MALLARD_QUEUE_URL", "https://sqs/hidden/q.fifo"),
            ("MALLARD_EVENT_BUS", "arn:hidden"),
        ]);
        assert!(!format!("{:?}", settings.unwrap()).contains("hidden"));
    }
}
