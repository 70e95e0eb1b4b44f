//! Rates and calendars, against instants worked out by hand.

use chrono::{DateTime, Utc};

use super::*;

fn refresh(text: &str) -> Refresh {
    text.parse().unwrap()
}

fn refusal(text: &str) -> String {
    text.parse::<Refresh>().expect_err("should be refused").to_string()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The next times after `from`, one behind the other.
fn next_times(text: &str, from: &str, count: usize) -> Vec<String> {
    let cron = refresh(text);
    std::iter::successors(cron.next_after(at(from)), |last| cron.next_after(*last))
        .take(count)
        .map(|time| time.format("%Y-%m-%dT%H:%M").to_string())
        .collect()
}

#[test]
fn a_rate_is_due_one_period_after_the_last_time() {
    for (text, due) in [
        ("rate(1 minute)", "2026-02-28T23:51:30Z"),
        ("rate(15 minutes)", "2026-03-01T00:05:30Z"),
        ("rate(2 hours)", "2026-03-01T01:50:30Z"),
        ("rate(7 days)", "2026-03-07T23:50:30Z"),
    ] {
        assert_eq!(refresh(text).next_after(at("2026-02-28T23:50:30Z")), Some(at(due)), "{text}");
        assert_eq!(refresh(text).to_string(), text);
    }
    assert_eq!(refresh("on-change").next_after(at("2026-02-28T23:50:30Z")), None);
    assert_eq!(refresh("rate(120 minutes)").to_string(), "rate(2 hours)");
}

#[test]
fn a_rate_that_makes_no_sense_is_refused() {
    for (text, message) in [
        ("rate(0 minutes)", r#""rate(0 minutes)": the number must be above 0; the shortest is rate(1 minute)"#),
        ("rate(x minutes)", r#""rate(x minutes)": the number must be a whole one, as in rate(15 minutes)"#),
        ("rate(15)", r#""rate(15)": write a number and a unit, as in rate(15 minutes)"#),
        ("rate(5 seconds)", r#""rate(5 seconds)": the unit must be minutes, hours or days"#),
        ("rate(400 days)", r#""rate(400 days)": the longest rate is 366 days; use cron for what is rarer"#),
        (
            "rate(18446744073709551615 days)",
            r#""rate(18446744073709551615 days)": the longest rate is 366 days; use cron for what is rarer"#,
        ),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn a_calendar_gives_the_next_times_that_aws_would() {
    // 2026-01-01 is a Thursday; 2026-05-31 a Sunday; 2026-08-01 a Saturday.
    for (text, from, expected) in [
        ("cron(0 6 * * ? *)", "2026-01-01T06:00:00Z", vec!["2026-01-02T06:00", "2026-01-03T06:00"]),
        ("cron(0 6 * * ? *)", "2026-01-01T05:59:59.999999Z", vec!["2026-01-01T06:00"]),
        ("cron(0/20 8-9 ? * MON-FRI *)", "2026-01-02T09:30:00Z", vec!["2026-01-02T09:40", "2026-01-05T08:00"]),
        (
            "cron(*/45 0 1 * ? *)",
            "2026-01-31T12:00:00Z",
            vec!["2026-02-01T00:00", "2026-02-01T00:45", "2026-03-01T00:00"],
        ),
        ("cron(15 10 ? * 6L 2026-2027)", "2026-01-01T00:00:00Z", vec!["2026-01-30T10:15", "2026-02-27T10:15"]),
        ("cron(0 0 L * ? *)", "2027-12-31T00:00:00Z", vec!["2028-01-31T00:00", "2028-02-29T00:00", "2028-03-31T00:00"]),
        ("cron(0 0 ? * L *)", "2026-01-01T00:00:00Z", vec!["2026-01-03T00:00", "2026-01-10T00:00"]),
        ("cron(0 0 ? * 3#2 *)", "2026-01-01T00:00:00Z", vec!["2026-01-13T00:00", "2026-02-10T00:00"]),
        ("cron(0 0 ? * TUE#5 *)", "2026-01-01T00:00:00Z", vec!["2026-03-31T00:00", "2026-06-30T00:00"]),
        ("cron(0 0 ? * 1 *)", "2026-01-01T00:00:00Z", vec!["2026-01-04T00:00"]),
        ("cron(0 0 ? * 7 *)", "2026-01-01T00:00:00Z", vec!["2026-01-03T00:00"]),
        // The 1st is a Saturday, so Monday the 3rd; the 31st a Sunday, so Friday the 29th; the 15th a Sunday, so the 16th.
        ("cron(0 0 1W 8 ? *)", "2026-01-01T00:00:00Z", vec!["2026-08-03T00:00"]),
        ("cron(0 0 31W * ? *)", "2026-04-15T00:00:00Z", vec!["2026-05-29T00:00", "2026-07-31T00:00"]),
        (
            "cron(0 0 15W * ? *)",
            "2026-02-01T00:00:00Z",
            vec!["2026-02-16T00:00", "2026-03-16T00:00", "2026-04-15T00:00"],
        ),
        ("cron(0 0 29 2 ? *)", "2026-01-01T00:00:00Z", vec!["2028-02-29T00:00", "2032-02-29T00:00"]),
        (
            "cron(0 0 1,10-12,L jan,DEC ? *)",
            "2026-01-11T00:00:00Z",
            vec!["2026-01-12T00:00", "2026-01-31T00:00", "2026-12-01T00:00"],
        ),
        ("cron(59 23 31 12 ? 2026)", "2026-12-31T23:58:00Z", vec!["2026-12-31T23:59"]),
        ("cron(0 0 1 1 ? 2030/10)", "2026-01-01T00:00:00Z", vec!["2030-01-01T00:00", "2040-01-01T00:00"]),
    ] {
        let count = expected.len();
        assert_eq!(next_times(text, from, count), expected, "{text}");
    }
}

#[test]
fn a_calendar_whose_years_are_over_is_never_due_again() {
    assert_eq!(refresh("cron(0 0 1 1 ? 2020)").next_after(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(
        refresh("cron(0 0 1 1 ? 1970)").next_after(at("1969-06-01T00:00:00Z")),
        Some(at("1970-01-01T00:00:00Z"))
    );
}

#[test]
fn a_calendar_gives_its_text_back() {
    assert_eq!(refresh("cron( 0  6 * * ? * )").to_string(), "cron(0 6 * * ? *)");
    assert_eq!(refresh(&refresh("cron(0 0 ? * MON#1 *)").to_string()), refresh("cron(0 0 ? * MON#1 *)"));
}

#[test]
fn a_calendar_that_aws_would_refuse_is_refused() {
    for (fields, message) in [
        (
            "0 6 * * *",
            "a cron has six fields (minute, hour, day of month, month, day of week, year), this one has 5; \
             every morning at six is cron(0 6 * * ? *)",
        ),
        ("0 6 * * * *", "one of the two day fields must be ?, as in cron(0 6 * * ? *)"),
        ("0 6 ? * ? *", "both day fields are ?; write * for one of them"),
        ("60 6 * * ? *", "minute: \"60\" is not a number from 0 to 59"),
        ("0 24 * * ? *", "hour: \"24\" is not a number from 0 to 23"),
        ("0 6 0 * ? *", "day of month: \"0\" is not a number from 1 to 31"),
        ("0 6 LW * ? *", "day of month: \"L\" is not a number from 1 to 31"),
        ("0 6 * 13 ? *", "month: \"13\" is not a number from 1 to 12 or JAN to DEC"),
        ("0 6 ? * 0 *", "day of week: \"0\" is not a number from 1 to 7 or SUN to SAT"),
        ("0 6 ? * 8L *", "day of week: \"8\" is not a number from 1 to 7 or SUN to SAT"),
        ("0 6 ? * 2#6 *", "number behind #: \"6\" is not a number from 1 to 5"),
        ("0 6 * * ? 1969", "year: \"1969\" is not a number from 1970 to 2199"),
        ("*/0 6 * * ? *", "minute: step \"0\" is not a number above 0"),
        ("0 22-2 * * ? *", "hour: range 22-2 runs backwards; split it in two, with a comma"),
        ("0,,5 6 * * ? *", "minute: \"\" is not a number from 0 to 59"),
        ("0 0 30 2 ? *", "no month has such a day, so it would never run; change the day or the month"),
    ] {
        assert_eq!(refusal(&format!("cron({fields})")), format!("\"cron({fields})\": {message}"));
    }
}

#[test]
fn what_is_neither_rate_nor_calendar_is_refused_with_the_three_forms() {
    for text in ["", "hourly", "on_change", "rate 5 minutes", "cron(0 6 * * ? *"] {
        let expected =
            format!("{text:?} is no refresh rule; write \"on-change\", \"rate(15 minutes)\" or \"cron(0 6 * * ? *)\"");
        assert_eq!(refusal(text), expected);
    }
}
