//! Where bronze objects lie: from a bucket's key to a table and a key of the lake, and the hours in keys.
//!
//! ```text
//!  s3://bucket/prefix          the lake
//!  prefix/bronze/orders/2026/01/31/08/orders-1-2026-01-31-08-15-30-<uuid>     a bucket's key
//!         bronze/orders/2026/01/31/08/orders-1-2026-01-31-08-15-30-<uuid>     the lake's key, of table orders
//! ```
//!
//! A bucket may hold more than the lake, and the lake more than bronze: what is told of such objects is not for us, and
//! is no error. What lies in bronze and can't be a table's object is one.

use chrono::{DateTime, Days, NaiveDate, Utc};
use lakehouse::{Error, Lake, Name, Result};
use url::Url;

use crate::events::{Notice, Origin};

/// The folder of bronze in a lake.
const BRONZE: &str = "bronze/";

/// The most days whose folders are listed one by one; for more, all folders are listed.
const DAYS_MAX: usize = 400;

/// How long before an object was written its folder's hour can lie, in days: Firehose names it by the time of the
/// oldest record in it, and retries for a day (<https://docs.aws.amazon.com/firehose/latest/dev/retry.html>).
const DELIVERY_DAYS_MAX: u64 = 1;

const HOUR_US: i64 = 3_600_000_000;

/// A lake's place in object storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `None`: a local folder, to which every bucket's keys are relative.
    bucket: Option<String>,
    /// What the keys of the lake's objects begin with: nothing, or text with a slash at its end.
    prefix: String,
}

/// What an object is to the lake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// A bronze object.
    Bronze {
        /// Its table.
        table: Name,
        /// Its key, relative to the lake's root.
        key: String,
    },
    /// Not in this lake's bronze, for the reason given.
    Elsewhere(String),
}

impl Place {
    /// The place of `lake`.
    pub fn of(lake: &Lake) -> Self {
        Self::at(lake.root())
    }

    fn at(root: &Url) -> Self {
        match root.host_str().filter(|_| root.scheme() != "file") {
            Some(bucket) => {
                Self { bucket: Some(bucket.to_owned()), prefix: root.path().trim_start_matches('/').to_owned() }
            }
            None => Self { bucket: None, prefix: String::new() },
        }
    }

    /// Finds out whose object it is that `notice` tells of.
    ///
    /// # Errors
    /// `Invalid` if it lies in bronze, or says so, but not where a table's objects lie.
    pub fn locate(&self, notice: &Notice) -> Result<Located> {
        let key = match &notice.origin {
            Origin::Table(table) => return of_table(table, &notice.key),
            Origin::Bucket(bucket) => {
                if let Some(own) = self.bucket.as_ref().filter(|own| *own != bucket) {
                    return Ok(Located::Elsewhere(format!("it is in bucket {bucket:?}, the lake in {own:?}")));
                }
                match notice.key.strip_prefix(&self.prefix) {
                    Some(key) => key,
                    None => return Ok(Located::Elsewhere(format!("the lake's keys begin with {:?}", self.prefix))),
                }
            }
        };
        let Some(in_bronze) = key.strip_prefix(BRONZE) else {
            return Ok(Located::Elsewhere("it is not in the lake's bronze/".to_owned()));
        };
        if in_bronze.is_empty() || in_bronze.ends_with('/') {
            return Ok(Located::Elsewhere("it marks a folder".to_owned()));
        }
        let table = in_bronze.split_once('/').and_then(|(table, _)| Name::new(table).ok());
        let table = table.ok_or_else(|| wrong(key, "it lies in no table's folder"))?;
        of_table(&table, key)
    }
}

/// An object of a table that is named beside its key.
fn of_table(table: &Name, key: &str) -> Result<Located> {
    let rest = key.strip_prefix(BRONZE).and_then(|rest| rest.strip_prefix(table.as_str()));
    let Some(rest) = rest.and_then(|rest| rest.strip_prefix('/')) else {
        return Err(wrong(key, &format!("table {table} has its objects in bronze/{table}/")));
    };
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(wrong(key, "a part of it is empty or made of dots"));
    }
    Ok(Located::Bronze { table: table.clone(), key: key.to_owned() })
}

fn wrong(key: &str, what: &str) -> Error {
    Error::invalid(format!("{key:?} is no key of a bronze object: {what}; write bronze/<table>/<name>"))
}

/// A stretch of time: from its begin, to before its end, in microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its begin.
    pub from_us: i64,
    /// Its end, which is not in it.
    pub to_us: i64,
}

impl Window {
    /// Whether an object is of this time: written in it, or lying in the folder of an hour that overlaps it.
    pub fn has(&self, key: &str, written_us: i64) -> bool {
        let is_written = (self.from_us..self.to_us).contains(&written_us);
        let is_foldered =
            hour_of(key).is_some_and(|hour_us| hour_us < self.to_us && hour_us.saturating_add(HOUR_US) > self.from_us);
        is_written || is_foldered
    }

    /// The folders `YYYY/MM/DD` in which objects of this time can lie; `None` if they are too many to ask for each.
    pub fn days(&self) -> Option<Vec<String>> {
        let day = |us| DateTime::<Utc>::from_timestamp_micros(us).map(|time| time.date_naive());
        let first = day(self.from_us)?.checked_sub_days(Days::new(DELIVERY_DAYS_MAX))?;
        let last = day(self.to_us)?;
        let days: Vec<NaiveDate> = first.iter_days().take_while(|day| *day <= last).take(DAYS_MAX + 1).collect();
        (days.len() <= DAYS_MAX).then(|| days.iter().map(|day| day.format("%Y/%m/%d").to_string()).collect())
    }
}

/// The hour of an object's folder, `bronze/<table>/YYYY/MM/DD/HH/…`, in microseconds since the epoch.
fn hour_of(key: &str) -> Option<i64> {
    let mut parts = key.strip_prefix(BRONZE)?.split('/').skip(1);
    let mut number = |digits: usize| -> Option<u32> {
        let part = parts.next()?;
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok())?
    };
    let (year, month, day, hour) = (number(4)?, number(2)?, number(2)?, number(2)?);
    // A file's name is no hour.
    parts.next()?;
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Some(date.and_hms_opt(hour, 0, 0)?.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests;
