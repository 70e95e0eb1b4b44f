//! Metrics in CloudWatch's embedded format: a JSON line that CloudWatch Logs takes for metrics, without any call.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use lakehouse::{Clock, Name};
use serde_json::{Map, Value, json};

/// The namespace of all metrics.
pub const NAMESPACE: &str = "Mallard";

/// The most metrics of one line, by the format's specification.
const METRICS_PER_LINE_MAX: usize = 100;

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    name: Cow<'static, str>,
    unit: Unit,
    value: u64,
}

impl Metric {
    /// A number of things.
    pub fn count(name: impl Into<Cow<'static, str>>, value: u64) -> Self {
        Self { name: name.into(), unit: Unit::Count, value }
    }

    /// A number of bytes.
    pub fn bytes(name: impl Into<Cow<'static, str>>, value: u64) -> Self {
        Self { name: name.into(), unit: Unit::Bytes, value }
    }

    /// A time in milliseconds.
    pub fn milliseconds(name: impl Into<Cow<'static, str>>, value: u64) -> Self {
        Self { name: name.into(), unit: Unit::Milliseconds, value }
    }
}

/// Where metric lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Where Lambda looks for them.
    Stdout,
    /// Where they don't mix with an answer on stdout.
    Stderr,
}

/// Writes the metrics of one function.
#[derive(Clone)]
pub struct Metrics {
    function: String,
    clock: Arc<dyn Clock>,
    sink: Sink,
}

impl Metrics {
    /// Metrics of `function`.
    pub fn new(function: impl Into<String>, clock: Arc<dyn Clock>, sink: Sink) -> Self {
        Self { function: function.into(), clock, sink }
    }

    /// Writes metrics of a table, or of the function as a whole.
    pub fn write(&self, table: Option<&Name>, metrics: &[Metric]) {
        for metrics in metrics.chunks(METRICS_PER_LINE_MAX) {
            let line = line(&self.function, table, self.clock.now_us() / 1_000, metrics).to_string();
            // A metric that can't be written must not stop the work.
            let written = match self.sink {
                Sink::Stdout => writeln!(std::io::stdout().lock(), "{line}"),
                Sink::Stderr => writeln!(std::io::stderr().lock(), "{line}"),
            };
            drop(written);
        }
    }
}

/// The line that says `metrics`.
fn line(function: &str, table: Option<&Name>, at_ms: i64, metrics: &[Metric]) -> Value {
    let mut line = Map::new();
    let mut dimensions = vec!["function"];
    line.insert("function".to_owned(), function.into());
    if let Some(table) = table {
        dimensions.push("table");
        line.insert("table".to_owned(), table.as_str().into());
    }
    let declared: Vec<Value> = metrics
        .iter()
        .map(|metric| {
            let unit = match metric.unit {
                Unit::Count => "Count",
                Unit::Bytes => "Bytes",
                Unit::Milliseconds => "Milliseconds",
            };
            json!({ "Name": metric.name, "Unit": unit })
        })
        .collect();
    for metric in metrics {
        line.insert(metric.name.clone().into_owned(), metric.value.into());
    }
    let directive = json!({ "Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": declared });
    line.insert("_aws".to_owned(), json!({ "Timestamp": at_ms, "CloudWatchMetrics": [directive] }));
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_declares_each_metric_and_has_its_value_beside() {
        let table = Name::new("orders").unwrap();
        let metrics = [Metric::count("RowsIn", 3), Metric::bytes("BytesRead", 10), Metric::milliseconds("Duration", 5)];
        assert_eq!(
            line("bronze-to-silver", Some(&table), 1_700_000_000_000, &metrics),
            json!({
                "_aws": {
                    "Timestamp": 1_700_000_000_000_i64,
                    "CloudWatchMetrics": [{
                        "Namespace": "Mallard",
                        "Dimensions": [["function", "table"]],
                        "Metrics": [
                            { "Name": "RowsIn", "Unit": "Count" },
                            { "Name": "BytesRead", "Unit": "Bytes" },
                            { "Name": "Duration", "Unit": "Milliseconds" },
                        ],
                    }],
                },
                "function": "bronze-to-silver",
                "table": "orders",
                "RowsIn": 3,
                "BytesRead": 10,
                "Duration": 5,
            })
        );
    }

    #[test]
    fn metrics_of_the_whole_function_have_one_dimension() {
        let line = line("f", None, 0, &[Metric::count("Unreadable", 1)]);
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["function"]]));
        assert_eq!(line.get("table"), None);
    }
}
