use serde_json::json;

use super::request::body_of;
use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn message(body: &str) -> Message {
    Message { id: "m".to_owned(), group: None, tries: 1, body: body.to_owned() }
}

fn in_bucket(key: &str, delivered_at_us: i64) -> Notice {
    Notice { origin: Origin::Bucket("lake".to_owned()), key: key.to_owned(), delivered_at_us: Some(delivered_at_us) }
}

fn of_bridge(kind: &str, key: &str) -> Value {
    json!({
        "version": "0",
        "detail-type": kind,
        "source": "aws.s3",
        "time": "2026-01-31T08:00:00Z",
        "detail": { "bucket": { "name": "lake" }, "object": { "key": key, "size": 5 }, "reason": "PutObject" },
    })
}

fn of_storage(event: &str, key: &str) -> Value {
    json!({
        "eventSource": "aws:s3",
        "eventName": event,
        "eventTime": "2026-01-31T08:00:00.250Z",
        "s3": { "bucket": { "name": "lake", "arn": "arn:aws:s3:::lake" }, "object": { "key": key } },
    })
}

const EIGHT_US: i64 = 1_769_846_400_000_000;

#[test]
fn a_batch_keeps_its_order_its_groups_and_its_counts() {
    let event = json!({ "Records": [
        { "messageId": "1", "body": "x", "eventSource": "aws:sqs",
          "attributes": { "ApproximateReceiveCount": "3", "MessageGroupId": "orders" } },
        { "messageId": "2", "body": "y", "eventSource": "aws:sqs" },
    ] });
    let Event::Batch(messages) = Event::parse(event).unwrap() else { panic!("no batch") };
    let told: Vec<_> = messages.iter().map(|m| (m.id.as_str(), m.group.as_deref(), m.tries)).collect();
    assert_eq!(told, [("1", Some("orders"), 3), ("2", None, 1)]);
}

#[test]
fn the_keys_of_event_bridge_are_taken_as_they_are() {
    let event = of_bridge("Object Created", "bronze/t/a+b%41");
    let content = Content::Objects(vec![in_bucket("bronze/t/a+b%41", EIGHT_US)]);
    assert_eq!(message(&event.to_string()).content(), content);
    assert_eq!(Event::parse(event).unwrap(), Event::Told(content));
}

#[test]
fn the_keys_of_storage_are_decoded() {
    let records = [of_storage("ObjectCreated:Put", "bronze/t/a+b%3D1"), of_storage("ObjectRemoved:Delete", "x")];
    let content = message(&json!({ "Records": records }).to_string()).content();
    assert_eq!(content, Content::Objects(vec![in_bucket("bronze/t/a b=1", EIGHT_US + 250_000)]));
}

#[test]
fn what_needs_nothing_to_be_done_is_ignored() {
    let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "lake" });
    let removed = json!({ "Records": [of_storage("ObjectRemoved:Delete", "x")] });
    for body in [test, removed, of_bridge("Object Deleted", "x")] {
        assert!(matches!(message(&body.to_string()).content(), Content::Ignored(_)), "{body}");
    }
}

#[test]
fn what_nobody_understands_is_never_taken_for_done() {
    let mut with_hole = of_bridge("Object Created", "x");
    with_hole["detail"]["object"] = json!({});
    let mut foreign = of_bridge("Something Else", "x");
    foreign["source"] = json!("shop");
    for body in [
        "",
        "{",
        "[]",
        "7",
        "{}",
        r#"{"table": "t"}"#,
        r#"{"table": "T", "objects": ["x"]}"#,
        r#"{"table": "t", "objects": ["x"], "more": 1}"#,
        r#"{"reconcile": {}}"#,
        r#"{"Records": [{}]}"#,
        &with_hole.to_string(),
        &foreign.to_string(),
        &json!({ "Records": [of_storage("ObjectCreated:Put", "bad%")] }).to_string(),
    ] {
        assert!(matches!(message(body).content(), Content::Unreadable(_)), "{body}");
    }
}

#[test]
fn a_message_of_our_own_is_read_as_it_was_written() {
    let body = body_of(&name("t"), "bronze/t/a+b", 7);
    let notice = Notice { origin: Origin::Table(name("t")), key: "bronze/t/a+b".to_owned(), delivered_at_us: Some(7) };
    assert_eq!(message(&body.to_string()).content(), Content::Objects(vec![notice]));
}

#[test]
fn each_request_has_its_words() {
    let asked = |event: Value| match Event::parse(event).unwrap() {
        Event::Asked(request) => request,
        other => panic!("no request: {other:?}"),
    };
    let objects = asked(json!({ "table": "t", "objects": ["bronze/t/x"] }));
    let notice = Notice { origin: Origin::Table(name("t")), key: "bronze/t/x".to_owned(), delivered_at_us: None };
    assert_eq!(objects, Request::Objects { table: name("t"), notices: vec![notice], again: false });
    let range = asked(json!({ "table": "t", "from": "2026-01-31T08:00:00Z" }));
    assert_eq!(range, Request::Range { table: name("t"), from_us: EIGHT_US, to_us: None, again: false });
    let replay = asked(json!({ "table": "t", "replay": { "where": "rule = 'x'" } }));
    assert_eq!(replay, Request::Replay { table: name("t"), filter: Some("rule = 'x'".to_owned()) });
    let all = asked(json!({ "reconcile": {} }));
    assert_eq!(all, Request::Reconcile { tables: None, hours: 24 });
    let some = asked(json!({ "reconcile": { "tables": ["t"], "hours": 2 } }));
    assert_eq!(some, Request::Reconcile { tables: Some(vec![name("t")]), hours: 2 });
}

#[test]
fn a_request_that_can_not_be_served_says_why() {
    let refused = |event: Value| Event::parse(event).unwrap_err().chain();
    assert!(refused(json!({ "table": "t", "from": "yesterday" })).contains("write it as 2026-01-31T08:00:00Z"));
    let reversed = json!({ "table": "t", "from": "2026-01-31T08:00:00Z", "to": "2026-01-31T08:00:00Z" });
    assert!(refused(reversed).contains("not behind"));
    assert!(refused(json!({ "reconcile": { "hours": 0 } })).contains("give 1 to 696"));
    assert!(refused(json!({ "tabel": "t" })).contains("{\"table\", \"objects\"}"));
    assert!(refused(json!({ "table": "t", "objects": [], "replay": {} })).contains("nothing that this function knows"));
}
