use host::events::{Origin, body_of};
use lakehouse::Error;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A message of group `group` about an object of the table that the key names.
fn message(id: &str, group: Option<&str>, keys: &[&str]) -> Message {
    let objects: Vec<Value> = keys.iter().map(|key| json!(key)).collect();
    let table = keys.first().and_then(|key| key.split('/').nth(1)).unwrap_or("t");
    let body = json!({ "table": table, "objects": objects }).to_string();
    Message { id: id.to_owned(), group: group.map(str::to_owned), tries: 1, body }
}

fn broken(id: &str, group: Option<&str>) -> Message {
    Message { body: "{".to_owned(), ..message(id, group, &[]) }
}

fn plan(messages: &[Message]) -> Plan {
    let locate = |notice: &Notice| match &notice.origin {
        Origin::Table(_) if notice.key.ends_with("bad") => Err(Error::invalid("bad key")),
        Origin::Table(_) if notice.key.ends_with("foreign") => Ok(Located::Elsewhere("foreign".to_owned())),
        Origin::Table(table) => Ok(Located::Bronze { table: table.clone(), key: notice.key.clone() }),
        Origin::Bucket(_) => panic!("no such notice"),
    };
    Plan::of(messages, locate, 77)
}

fn done(keys: &[&str]) -> BTreeSet<(Name, String)> {
    keys.iter().map(|key| (name(key.split('/').nth(1).unwrap()), (*key).to_owned())).collect()
}

#[test]
fn objects_are_gathered_by_table_in_order() {
    let messages = [
        message("1", None, &["bronze/b/1", "bronze/b/2"]),
        message("2", None, &["bronze/a/1"]),
        message("3", None, &["bronze/b/3"]),
    ];
    let plan = plan(&messages);
    let gathered: Vec<(&str, Vec<&str>)> = plan
        .tables
        .iter()
        .map(|(table, queued)| (table.as_str(), queued.iter().map(|queued| queued.object.key.as_str()).collect()))
        .collect();
    assert_eq!(gathered, [("b", vec!["bronze/b/1", "bronze/b/2", "bronze/b/3"]), ("a", vec!["bronze/a/1"])]);
    assert_eq!(plan.tables[0].1[0].object.delivered_at_us, 77, "told nothing, it is new now");
}

#[test]
fn a_message_is_done_when_all_its_objects_are() {
    let messages = [message("1", None, &["bronze/t/1", "bronze/t/2"]), message("2", None, &["bronze/t/3"])];
    let plan = plan(&messages);
    assert_eq!(plan.failed(&messages, &done(&["bronze/t/1", "bronze/t/3"])), ["1"]);
    assert!(plan.failed(&messages, &done(&["bronze/t/1", "bronze/t/2", "bronze/t/3"])).is_empty());
}

#[test]
fn what_is_behind_a_failure_in_its_group_comes_again_and_other_groups_do_not() {
    let messages = [
        message("1", Some("t"), &["bronze/t/1"]),
        message("2", Some("u"), &["bronze/u/1"]),
        message("3", Some("t"), &["bronze/t/2"]),
        message("4", Some("t"), &["bronze/t/3"]),
        message("5", Some("u"), &["bronze/u/2"]),
        message("6", None, &["bronze/t/4"]),
    ];
    let done = done(&["bronze/t/1", "bronze/u/1", "bronze/t/3", "bronze/u/2", "bronze/t/4"]);
    assert_eq!(plan(&messages).failed(&messages, &done), ["3", "4"]);
}

#[test]
fn a_message_that_nobody_can_read_fails_and_holds_its_group() {
    let messages = [broken("1", Some("t")), message("2", Some("t"), &["bronze/t/1"]), broken("3", None)];
    let plan = plan(&messages);
    assert_eq!(plan.failed(&messages, &done(&["bronze/t/1"])), ["1", "2", "3"]);
    assert_eq!(plan.tables.len(), 1, "what is behind it is merged all the same");
}

#[test]
fn a_key_that_can_be_no_objects_fails_its_message_and_a_foreign_one_does_not() {
    let messages = [message("1", None, &["bronze/t/1", "bronze/t/bad"]), message("2", None, &["bronze/t/foreign"])];
    let plan = plan(&messages);
    assert_eq!(plan.failed(&messages, &done(&["bronze/t/1"])), ["1"]);
    assert_eq!(plan.ignored.len(), 1);
}

#[test]
fn what_reconciliation_sends_is_merged_with_its_time() {
    let body = body_of(&name("t"), "bronze/t/1", 5).to_string();
    let messages = [Message { id: "1".to_owned(), group: Some("t".to_owned()), tries: 4, body }];
    let object = BronzeObject { key: "bronze/t/1".to_owned(), delivered_at_us: 5 };
    assert_eq!(plan(&messages).tables, [(name("t"), vec![Queued { object, tries: 4 }])]);
}
