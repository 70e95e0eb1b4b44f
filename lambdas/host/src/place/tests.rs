use super::*;

fn place(root: &str) -> Place {
    Place::at(&Url::parse(root).unwrap())
}

fn in_bucket(bucket: &str, key: &str) -> Notice {
    Notice { origin: Origin::Bucket(bucket.to_owned()), key: key.to_owned(), delivered_at_us: None }
}

fn of(table: &str, key: &str) -> Notice {
    Notice { origin: Origin::Table(Name::new(table).unwrap()), key: key.to_owned(), delivered_at_us: None }
}

fn bronze(table: &str, key: &str) -> Located {
    Located::Bronze { table: Name::new(table).unwrap(), key: key.to_owned() }
}

#[test]
fn the_prefix_of_the_lake_is_cut_off_a_buckets_key() {
    let notice = in_bucket("b", "deep/lake/bronze/orders/2026/a b");
    let found = place("s3://b/deep/lake/").locate(&notice).unwrap();
    assert_eq!(found, bronze("orders", "bronze/orders/2026/a b"));
    assert_eq!(place("s3://b/").locate(&in_bucket("b", "bronze/t/x")).unwrap(), bronze("t", "bronze/t/x"));
    assert_eq!(place("file:///lake/").locate(&in_bucket("any", "bronze/t/x")).unwrap(), bronze("t", "bronze/t/x"));
}

#[test]
fn what_is_not_in_this_lakes_bronze_is_not_for_us() {
    let lake = place("s3://b/lake/");
    for (bucket, key) in [
        ("other", "lake/bronze/t/x"),
        ("b", "bronze/t/x"),
        ("b", "lake/silver/t/part.parquet"),
        ("b", "lake/bronze/"),
        ("b", "lake/bronze/t/2026/"),
    ] {
        let located = lake.locate(&in_bucket(bucket, key)).unwrap();
        assert!(matches!(located, Located::Elsewhere(_)), "{bucket}/{key}: {located:?}");
    }
}

#[test]
fn what_is_in_bronze_and_no_tables_is_an_error() {
    let lake = place("s3://b/");
    for key in ["bronze/x", "bronze/Orders/x", "bronze/t/../x", "bronze/t//x", "bronze/t/./x"] {
        assert!(lake.locate(&in_bucket("b", key)).is_err(), "{key}");
    }
    for key in ["silver/t/x", "bronze/other/x", "bronze/t", "bronze/tt/x", "bronze/t/"] {
        assert!(lake.locate(&of("t", key)).is_err(), "{key}");
    }
    assert_eq!(lake.locate(&of("t", "bronze/t/x")).unwrap(), bronze("t", "bronze/t/x"));
}

fn us(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

#[test]
fn an_object_is_of_the_time_of_its_folder_and_of_its_writing() {
    let window = Window { from_us: us("2026-01-31T08:30:00Z"), to_us: us("2026-01-31T10:00:00Z") };
    let later = us("2026-02-20T00:00:00Z");
    assert!(window.has("bronze/t/2026/01/31/08/x", later));
    assert!(window.has("bronze/t/2026/01/31/09/x", later));
    assert!(!window.has("bronze/t/2026/01/31/10/x", later));
    assert!(!window.has("bronze/t/2026/01/31/07/x", later));
    assert!(!window.has("bronze/t/2026/01/31/08", later), "a file's name is no hour");
    assert!(!window.has("bronze/t/events.json", later));
    assert!(window.has("bronze/t/events.json", us("2026-01-31T08:30:00Z")));
    assert!(!window.has("bronze/t/events.json", us("2026-01-31T10:00:00Z")));
}

#[test]
fn the_folders_of_a_time_begin_a_day_before_it() {
    let window = Window { from_us: us("2026-03-01T00:30:00Z"), to_us: us("2026-03-02T00:00:00Z") };
    assert_eq!(window.days().unwrap(), ["2026/02/28", "2026/03/01", "2026/03/02"]);
    assert_eq!(Window { from_us: 0, to_us: us("2026-03-02T00:00:00Z") }.days(), None);
}
