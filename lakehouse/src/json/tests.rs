use proptest::prelude::*;

use super::*;

/// As another reader gives it; it has no numbers over 64 bits.
fn plain(node: &Node<'_>) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number => serde_json::from_str(node.text).unwrap(),
        Value::Text(text) => text.as_ref().into(),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Object(entries) => entries.iter().map(|(key, value)| (key.to_string(), plain(value))).collect(),
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..30)
                .prop_map(|entries| entries.into_iter().collect::<serde_json::Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        // Texts of floats are read by the same reader on both sides.
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(plain(&whole(&text).unwrap()), expected);
    }

    #[test]
    fn any_text_is_read_as_another_reader_reads_it(text in r#"[\[\]{}",:0-9eE.+\-truefalsn\\ u]{0,24}"#) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match (whole(&text), theirs) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(plain(&ours), theirs),
            (Err(_), Err(_)) => {}
            // It takes keys twice, and no number beyond a float's range.
            (Err(broken), Ok(_)) => prop_assert!(broken.what.contains("twice"), "{text}: {broken:?}"),
            (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{text}: {error}"),
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in any::<String>()) {
        let _ = whole(&text);
    }
}

#[test]
fn numbers_keep_their_digits_and_values_their_text() {
    let text = r#" {"a" : 123456789012345678901234567890.10, "b": [1, "x\n"]} "#;
    let Value::Object(entries) = whole(text).unwrap().value else { panic!("no object") };
    assert_eq!(entries[0].1.text, "123456789012345678901234567890.10");
    assert_eq!(entries[1].1.text, r#"[1, "x\n"]"#);
}

#[test]
fn escapes_are_read_and_half_characters_are_told() {
    let node = whole(r#""\ud83e\udd86 \u00e9\/""#).unwrap();
    assert!(matches!(node.value, Value::Text(text) if text == "🦆 é/"));
    for half in [r#""\ud83e""#, r#""\ud83e\u0041""#, r#""\udd86""#] {
        assert!(whole(half).unwrap_err().what.contains("half a character"), "{half}");
    }
}

#[test]
fn a_key_that_is_there_twice_is_told_however_many_there_are() {
    let many: Vec<String> = (0..40).map(|key| format!("\"{key}\":1")).collect();
    for text in [r#"{"a":1,"a":2}"#.to_owned(), format!("{{{},\"7\":2}}", many.join(","))] {
        assert!(whole(&text).unwrap_err().what.contains("twice"), "{text}");
    }
    whole(&format!("{{{}}}", many.join(","))).unwrap();
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    let text = "{\"a\": 1,\n \"b\": NaN}";
    let broken = whole(text).unwrap_err();
    assert!(broken.what.contains("NaN"), "{broken:?}");
    assert_eq!(place(text, broken.at), (2, 7));
    for bad in ["-Infinity", "01", "1.", "1e", "1e+", "-", "+1", "'a'", "{a:1}", "[1,]", "\"\u{1}\"", "tru", ""] {
        assert!(whole(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_deep_or_has_endless_values_is_refused() {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    whole(&deep(DEPTH_MAX)).unwrap();
    assert!(whole(&deep(DEPTH_MAX + 1)).unwrap_err().what.contains("deeper"));
    assert!(whole(&deep(1 << 20)).unwrap_err().what.contains("deeper"));
    let long = format!("[{}1]", "1,".repeat(VALUES_MAX));
    assert!(whole(&long).unwrap_err().what.contains("values"));
}
