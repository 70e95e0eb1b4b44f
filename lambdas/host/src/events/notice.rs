//! Notices of new objects, as S3, EventBridge and we ourselves write them.
//!
//! S3's own notifications encode keys as HTML forms do (`+` for a space, `%XX` for what is not plain)
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>); EventBridge's events
//! have them as they are (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>).

use chrono::DateTime;
use serde::Deserialize;
use serde_json::Value;

use super::request::Request;
use super::{Content, Notice, Origin, request};

/// EventBridge's name of the event.
const OBJECT_CREATED: &str = "Object Created";

/// S3's names of the event begin with this.
const OBJECT_CREATED_PREFIX: &str = "ObjectCreated:";

#[derive(Deserialize)]
struct BridgeEvent {
    time: Option<String>,
    detail: Stored,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StorageRecord {
    event_name: String,
    event_time: Option<String>,
    s3: Stored,
}

#[derive(Deserialize)]
struct Stored {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// What a queue's message says. It may also be a request to merge objects.
pub(super) fn of_body(body: &str) -> Content {
    let value: Value = match serde_json::from_str(body) {
        Ok(value) => value,
        Err(error) => return Content::Unreadable(format!("it is no JSON: {error}")),
    };
    if let Some(content) = content(&value) {
        return content;
    }
    match request::parse(value) {
        Ok(Request::Objects { notices, .. }) => Content::Objects(notices),
        Ok(_) => Content::Unreadable("such a request is made by a direct call, not by a queue".to_owned()),
        Err(error) => Content::Unreadable(error.chain()),
    }
}

/// What a notice tells; `None` if `event` is none.
pub(super) fn content(event: &Value) -> Option<Content> {
    if event.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Some(Content::Ignored("S3's test of its notifications".to_owned()));
    }
    if let Some(kind) = event.get("detail-type") {
        return Some(of_bridge(event, kind.as_str().unwrap_or_default()));
    }
    event.get("Records").and_then(Value::as_array).map(|records| of_storage(records))
}

fn of_bridge(event: &Value, kind: &str) -> Content {
    if kind != OBJECT_CREATED {
        let is_of_storage = event.get("source").and_then(Value::as_str) == Some("aws.s3");
        let what = format!("an event {kind:?}");
        return if is_of_storage { Content::Ignored(what) } else { Content::Unreadable(what) };
    }
    match BridgeEvent::deserialize(event) {
        Ok(BridgeEvent { time, detail }) => Content::Objects(vec![Notice {
            origin: Origin::Bucket(detail.bucket.name),
            key: detail.object.key,
            delivered_at_us: time.as_deref().and_then(micros),
        }]),
        Err(error) => Content::Unreadable(format!("an event {OBJECT_CREATED:?} with a hole: {error}")),
    }
}

fn of_storage(records: &[Value]) -> Content {
    let mut notices = Vec::new();
    for record in records {
        let record = match StorageRecord::deserialize(record) {
            Ok(record) => record,
            Err(error) => return Content::Unreadable(format!("a record that is not S3's: {error}")),
        };
        if !record.event_name.trim_start_matches("s3:").starts_with(OBJECT_CREATED_PREFIX) {
            continue;
        }
        let Some(key) = decode(&record.s3.object.key) else {
            return Content::Unreadable(format!("the key {:?} is not encoded as S3 does", record.s3.object.key));
        };
        notices.push(Notice {
            origin: Origin::Bucket(record.s3.bucket.name),
            key,
            delivered_at_us: record.event_time.as_deref().and_then(micros),
        });
    }
    if notices.is_empty() {
        return Content::Ignored("a notification without a new object".to_owned());
    }
    Content::Objects(notices)
}

fn micros(time: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(time).ok().map(|time| time.timestamp_micros())
}

/// Decodes a form's text; `None` if a `%` has no two hexadecimal digits behind it, or the result is no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => (digit(bytes.next()?)? << 4) | digit(bytes.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forms_text_is_decoded_and_a_broken_one_refused() {
        assert_eq!(decode("bronze/t/a+b%3D%C3%A9").unwrap(), "bronze/t/a b=é");
        assert_eq!(decode("a%2Bb").unwrap(), "a+b");
        for broken in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
