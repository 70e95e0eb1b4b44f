//! Which delivery streams a table has.

use lakehouse::{Error, Name, Result};

/// The most delivery streams of one table. One stream takes up to 5 MiB/s before its quota is raised
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>), so these take more than one server sends.
pub const STREAMS_PER_TABLE_MAX: usize = 64;

/// The longest name of a delivery stream, in bytes
/// (<https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>).
pub const STREAM_NAME_BYTES_MAX: usize = 64;

/// How the delivery streams of a table are named: a template such as `mallard-{table}`, or `mallard-{table}-{n}` where
/// a table has several. `{n}` counts from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamNames {
    parts: Vec<Part>,
    streams_per_table: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Table,
    Number,
}

impl StreamNames {
    /// Reads `template`.
    ///
    /// # Errors
    /// `Invalid` if it does not name the table, if several streams would get one name, if what stands in braces is
    /// neither `{table}` nor `{n}`, or if it has what no name of a stream may have.
    pub fn parse(template: &str, streams_per_table: usize) -> Result<Self> {
        let wrong = |what: &str| {
            Error::invalid(format!(
                "the stream name template {template:?} {what}; write one such as mallard-{{table}}, \
                 or mallard-{{table}}-{{n}} for several streams a table"
            ))
        };
        if !(1..=STREAMS_PER_TABLE_MAX).contains(&streams_per_table) {
            return Err(Error::invalid(format!(
                "a table can't have {streams_per_table} delivery streams: give it 1 to {STREAMS_PER_TABLE_MAX}"
            )));
        }
        let parts = split(template).map_err(|what| wrong(&what))?;
        if !parts.contains(&Part::Table) {
            return Err(wrong("has no {table}, so that all tables would share a stream"));
        }
        if streams_per_table > 1 && !parts.contains(&Part::Number) {
            return Err(wrong("has no {n}, so that all streams of a table would have one name"));
        }
        Ok(Self { parts, streams_per_table })
    }

    /// How many streams each table has.
    pub fn streams_per_table(&self) -> usize {
        self.streams_per_table
    }

    /// The names of a table's streams.
    ///
    /// # Errors
    /// `Invalid` if a name would be longer than [`STREAM_NAME_BYTES_MAX`].
    pub fn of(&self, table: &Name) -> Result<Vec<String>> {
        (0..self.streams_per_table).map(|n| self.name(table, n)).collect()
    }

    fn name(&self, table: &Name, n: usize) -> Result<String> {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Table => name.push_str(table),
                Part::Number => name.push_str(&n.to_string()),
            }
        }
        if name.len() > STREAM_NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the delivery stream {name:?} of table {table} would have a name of {} bytes; the most is \
                 {STREAM_NAME_BYTES_MAX}: shorten the stream name template, or the table's name",
                name.len()
            )));
        }
        Ok(name)
    }
}

/// Splits a template at its braces, or says what is wrong with it.
fn split(template: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let (text, behind) = match rest.split_once('{') {
            Some((text, behind)) => (text, Some(behind)),
            None => (rest, None),
        };
        if let Some(other) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "_.-".contains(*c))) {
            return Err(format!("has {other:?}, where stream names have letters, digits and _.- only"));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        let Some(behind) = behind else { break };
        rest = match behind.split_once('}') {
            Some(("table", rest)) => {
                parts.push(Part::Table);
                rest
            }
            Some(("n", rest)) => {
                parts.push(Part::Number);
                rest
            }
            Some((other, _)) => return Err(format!("has {{{other}}}, which is neither {{table}} nor {{n}}")),
            None => return Err("has a { that no } closes".to_owned()),
        };
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str, streams: usize, table: &str) -> Result<Vec<String>> {
        StreamNames::parse(template, streams)?.of(&table.parse().unwrap())
    }

    #[test]
    fn a_template_gives_the_names_of_a_tables_streams() {
        assert_eq!(names("mallard-{table}", 1, "air_ports").unwrap(), ["mallard-air_ports"]);
        assert_eq!(names("{n}.{table}_x", 3, "flights").unwrap(), ["0.flights_x", "1.flights_x", "2.flights_x"]);
        assert_eq!(names("{table}-{n}", 1, "flights").unwrap(), ["flights-0"]);
        assert_eq!(names("{table}", 1, &"t".repeat(64)).unwrap(), ["t".repeat(64)]);
    }

    #[test]
    fn a_template_that_can_not_serve_is_refused_with_the_reason() {
        for (template, streams, reason) in [
            ("", 1, "no {table}"),
            ("mallard", 1, "no {table}"),
            ("mallard-{n}", 1, "no {table}"),
            ("mallard-{table}", 2, "no {n}"),
            ("mallard-{tabel}", 1, "{tabel}"),
            ("mallard-{}{table}", 1, "{}"),
            ("mallard-{table", 1, "no } closes"),
            ("mallard-table}", 1, "'}'"),
            ("mallard {table}", 1, "' '"),
            ("änten-{table}", 1, "'ä'"),
            ("{table}-{n}", 0, "0 delivery streams"),
            ("{table}-{n}", STREAMS_PER_TABLE_MAX + 1, "65 delivery streams"),
        ] {
            let refusal = names(template, streams, "flights").unwrap_err();
            assert!(refusal.to_string().contains(reason), "{template}: {refusal}");
        }
        let too_long = names("m{table}", 1, &"t".repeat(64)).unwrap_err();
        assert!(too_long.to_string().contains("65 bytes"), "{too_long}");
    }
}
