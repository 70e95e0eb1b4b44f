//! When a model is computed. The texts are those of EventBridge Scheduler, so that a deployment hands them on as they
//! are; a laptop asks [`Refresh::next_after`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Cron, units};
use crate::{Error, Result};

/// The longest rate, in days: what is rarer than that has a date, so cron says it better.
const MAX_RATE_DAYS: u64 = 366;

const CURE: &str = r#"write "on-change", "rate(15 minutes)" or "cron(0 6 * * ? *)""#;

/// When a model is computed. `FromStr` reads the text, `Display` gives it back (a rate in its largest whole unit).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Refresh {
    /// As soon as something that it reads has changed.
    #[default]
    OnChange,
    /// Each time that this much time has passed; whole minutes.
    Rate(Duration),
    /// By the calendar.
    Cron(Cron),
}

impl Refresh {
    /// When the model is due after it last was at `last`; none for [`Refresh::OnChange`], and for a calendar whose
    /// years are over.
    pub fn next_after(&self, last: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::OnChange => None,
            Self::Rate(every) => last.checked_add_signed(TimeDelta::from_std(*every).ok()?),
            Self::Cron(cron) => cron.next_after(last),
        }
    }
}

impl fmt::Display for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnChange => f.write_str("on-change"),
            Self::Cron(cron) => write!(f, "cron({cron})"),
            Self::Rate(every) => write!(f, "rate({})", units::written(*every)),
        }
    }
}

impl FromStr for Refresh {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text == "on-change" {
            return Ok(Self::OnChange);
        }
        let within = |word| text.strip_prefix(word)?.strip_prefix('(')?.strip_suffix(')');
        if let Some(rate) = within("rate") {
            return parse_rate(rate);
        }
        if let Some(cron) = within("cron") {
            return cron.parse().map(Self::Cron).map_err(|error: Error| Error::invalid(format!("{text:?}: {error}")));
        }
        Err(Error::invalid(format!("{text:?} is no refresh rule; {CURE}")))
    }
}

fn parse_rate(text: &str) -> Result<Refresh> {
    let refuse = |why: &str| Error::invalid(format!("\"rate({text})\": {why}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [count, unit] = words.as_slice() else {
        return Err(refuse("write a number and a unit, as in rate(15 minutes)"));
    };
    let count: u64 = count.parse().map_err(|_| refuse("the number must be a whole one, as in rate(15 minutes)"))?;
    let singular = unit.strip_suffix('s').unwrap_or(unit);
    let Some((_, unit_seconds)) = units::TIME_UNITS.into_iter().find(|(name, _)| *name == singular) else {
        return Err(refuse("the unit must be minutes, hours or days"));
    };
    match count.checked_mul(unit_seconds) {
        Some(0) => Err(refuse("the number must be above 0; the shortest is rate(1 minute)")),
        Some(seconds) if seconds <= units::days(MAX_RATE_DAYS).as_secs() => {
            Ok(Refresh::Rate(Duration::from_secs(seconds)))
        }
        _ => Err(refuse(&format!("the longest rate is {MAX_RATE_DAYS} days; use cron for what is rarer"))),
    }
}
