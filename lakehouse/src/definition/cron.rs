//! When a model is due by the calendar: AWS's cron, with AWS's meaning, so that a schedule fires at the same minutes
//! on a laptop as in EventBridge Scheduler, which is given the same text.
//!
//! Six fields: minute, hour, day of month, month, day of week (1 is Sunday), year; UTC. One of the two day fields is
//! `?`. `L` is the last day (of the month, or with a weekday before it, of that weekday), `15W` the weekday nearest to
//! the 15th within its month, `3#2` the second Tuesday. Source:
//! <https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html#cron-based>

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, Utc};

use crate::{Error, Result};

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A schedule by the calendar, in UTC. `FromStr` reads the six fields, `Display` gives them back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cron {
    text: String,
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    months: BTreeSet<u32>,
    years: BTreeSet<u32>,
    days: Vec<Day>,
}

/// Which days of a month are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Day {
    /// These days of the month.
    OnDates(BTreeSet<u32>),
    /// The last day of the month.
    LastDate,
    /// The day from Monday to Friday that is nearest to this one, in the same month; none if the month lacks the day.
    NearestWeekday(u32),
    /// These days of the week, 1 is Sunday.
    OnWeekdays(BTreeSet<u32>),
    /// The last such day of the week in the month.
    LastWeekday(u32),
    /// Such a day of the week, for the n-th time in the month.
    NthWeekday(u32, u32),
}

impl Cron {
    /// The first time after `after`, at a full minute; none when all its years are over.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.naive_utc();
        let first_year = u32::try_from(after.year()).unwrap_or(0);
        let months =
            self.years.range(first_year..).flat_map(|year| self.months.iter().map(move |month| (*year, *month)));
        months
            .skip_while(|(year, month)| (*year, *month) < (first_year, after.month()))
            .flat_map(|(year, month)| dates_of(year, month))
            .filter(|date| *date >= after.date() && self.days.iter().any(|day| day.includes(*date)))
            .find_map(|date| self.times_of(date).find(|time| *time > after))
            .map(|time| time.and_utc())
    }

    /// The times of a day, in order.
    fn times_of(&self, date: NaiveDate) -> impl Iterator<Item = NaiveDateTime> + '_ {
        self.hours
            .iter()
            .flat_map(|hour| self.minutes.iter().map(move |minute| (*hour, *minute)))
            .filter_map(move |(hour, minute)| date.and_hms_opt(hour, minute, 0))
    }
}

impl Day {
    fn includes(&self, date: NaiveDate) -> bool {
        let weekday = date.weekday().number_from_sunday();
        match self {
            Self::OnDates(dates) => dates.contains(&date.day()),
            Self::LastDate => date.day() == days_in_month(date),
            Self::NearestWeekday(day) => date.with_day(*day).and_then(nearest_weekday) == Some(date),
            Self::OnWeekdays(weekdays) => weekdays.contains(&weekday),
            Self::LastWeekday(wanted) => weekday == *wanted && date.day() + 7 > days_in_month(date),
            Self::NthWeekday(wanted, nth) => weekday == *wanted && date.day().div_ceil(7) == *nth,
        }
    }
}

fn dates_of(year: u32, month: u32) -> impl Iterator<Item = NaiveDate> {
    let first = i32::try_from(year).ok().and_then(|year| NaiveDate::from_ymd_opt(year, month, 1));
    let length = first.map_or(0, days_in_month);
    first.into_iter().flat_map(move |first| first.iter_days().take(length as usize))
}

fn days_in_month(date: NaiveDate) -> u32 {
    u32::from(date.num_days_in_month())
}

fn nearest_weekday(date: NaiveDate) -> Option<NaiveDate> {
    const SUNDAY: u32 = 1;
    const SATURDAY: u32 = 7;
    match date.weekday().number_from_sunday() {
        SATURDAY if date.day() == 1 => date.checked_add_days(Days::new(2)),
        SATURDAY => date.checked_sub_days(Days::new(1)),
        SUNDAY if date.day() == days_in_month(date) => date.checked_sub_days(Days::new(2)),
        SUNDAY => date.checked_add_days(Days::new(1)),
        _ => Some(date),
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Cron {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week, year] = fields.as_slice() else {
            return Err(Error::invalid(format!(
                "a cron has six fields (minute, hour, day of month, month, day of week, year), this one has {}; \
                 every morning at six is cron(0 6 * * ? *)",
                fields.len()
            )));
        };
        let days = match (*day_of_month, *day_of_week) {
            ("?", "?") => return Err(Error::invalid("both day fields are ?; write * for one of them")),
            (of_month, "?") => items(of_month).map(day_of_month_item).collect::<Result<_>>()?,
            ("?", of_week) => items(of_week).map(day_of_week_item).collect::<Result<_>>()?,
            _ => return Err(Error::invalid("one of the two day fields must be ?, as in cron(0 6 * * ? *)")),
        };
        let cron = Self {
            text: fields.join(" "),
            minutes: MINUTE.read(minute)?,
            hours: HOUR.read(hour)?,
            months: MONTH.read(month)?,
            years: YEAR.read(year)?,
            days,
        };
        if cron.next_after(DateTime::<Utc>::MIN_UTC).is_none() {
            return Err(Error::invalid("no month has such a day, so it would never run; change the day or the month"));
        }
        Ok(cron)
    }
}

fn items(field: &str) -> impl Iterator<Item = &str> {
    field.split(',')
}

fn day_of_month_item(item: &str) -> Result<Day> {
    if item == "L" {
        return Ok(Day::LastDate);
    }
    match item.strip_suffix('W') {
        Some(day) => Ok(Day::NearestWeekday(DAY_OF_MONTH.number(day)?)),
        None => Ok(Day::OnDates(DAY_OF_MONTH.read(item)?)),
    }
}

fn day_of_week_item(item: &str) -> Result<Day> {
    const SATURDAY: u32 = 7;
    if item == "L" {
        return Ok(Day::OnWeekdays(BTreeSet::from([SATURDAY])));
    }
    if let Some(weekday) = item.strip_suffix('L') {
        return Ok(Day::LastWeekday(DAY_OF_WEEK.number(weekday)?));
    }
    match item.split_once('#') {
        Some((weekday, nth)) => Ok(Day::NthWeekday(DAY_OF_WEEK.number(weekday)?, NTH.number(nth)?)),
        None => Ok(Day::OnWeekdays(DAY_OF_WEEK.read(item)?)),
    }
}

/// A field: what it is called, what it may hold, and the names of its first values.
struct Field {
    name: &'static str,
    range: RangeInclusive<u32>,
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", range: 0..=59, names: &[] };
const HOUR: Field = Field { name: "hour", range: 0..=23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day of month", range: 1..=31, names: &[] };
const MONTH: Field = Field { name: "month", range: 1..=12, names: &MONTHS };
const DAY_OF_WEEK: Field = Field { name: "day of week", range: 1..=7, names: &WEEKDAYS };
const YEAR: Field = Field { name: "year", range: 1970..=2199, names: &[] };
const NTH: Field = Field { name: "number behind #", range: 1..=5, names: &[] };

impl Field {
    /// Reads `*`, numbers, names, ranges and steps, joined by commas.
    fn read(&self, text: &str) -> Result<BTreeSet<u32>> {
        let mut values = BTreeSet::new();
        for item in items(text) {
            let (span, step) = match item.split_once('/') {
                Some((span, step)) => (span, Some(self.step(step)?)),
                None => (item, None),
            };
            let (start, end) = match span.split_once('-') {
                _ if span == "*" => (*self.range.start(), *self.range.end()),
                Some((start, end)) => (self.number(start)?, self.number(end)?),
                // 10/15 goes on from 10 to the end.
                None if step.is_some() => (self.number(span)?, *self.range.end()),
                None => (self.number(span)?, self.number(span)?),
            };
            if start > end {
                return Err(Error::invalid(format!(
                    "{}: range {span} runs backwards; split it in two, with a comma",
                    self.name
                )));
            }
            values.extend((start..=end).step_by(step.unwrap_or(1)));
        }
        Ok(values)
    }

    fn number(&self, text: &str) -> Result<u32> {
        let first = *self.range.start();
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(position) => u32::try_from(position).ok().map(|position| first + position),
            None => text.parse().ok(),
        };
        number.filter(|number| self.range.contains(number)).ok_or_else(|| {
            let names = match (self.names.first(), self.names.last()) {
                (Some(first), Some(last)) => format!(" or {first} to {last}"),
                _ => String::new(),
            };
            Error::invalid(format!(
                "{}: {text:?} is not a number from {first} to {}{names}",
                self.name,
                self.range.end()
            ))
        })
    }

    fn step(&self, text: &str) -> Result<usize> {
        let step: Option<usize> = text.parse().ok();
        step.filter(|step| *step > 0)
            .ok_or_else(|| Error::invalid(format!("{}: step {text:?} is not a number above 0", self.name)))
    }
}
