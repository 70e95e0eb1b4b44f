//! Which objects of a table lie in bronze, of a time.
//!
//! Firehose files objects by day and hour, so only the folders of the days in question are listed: the cost follows the
//! time, not the age of the table. Folders of other shapes (other producers name theirs as they like) are listed whole.

use bronze_to_silver::BronzeObject;
use deltalake::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use futures::TryStreamExt as _;
use host::place::Window;
use lakehouse::{Context as _, Error, Kind, Name, Result};

/// The objects of `table` that are of the time of `window`, by key.
///
/// # Errors
/// `Unavailable` if bronze can't be listed.
pub(super) async fn objects(store: &dyn ObjectStore, table: &Name, window: Window) -> Result<Vec<BronzeObject>> {
    let unlisted = || format!("can't list bronze/{table}/");
    let root = Path::from(format!("bronze/{table}"));
    let top = store.list_with_delimiter(Some(&root)).await.context(Kind::Unavailable, unlisted)?;
    let mut found = top.objects;
    let (years, others): (Vec<Path>, Vec<Path>) = top.common_prefixes.into_iter().partition(is_year);
    let folders: Vec<Path> = match window.days() {
        Some(days) => {
            let has_year = |day: &str| years.iter().any(|year| year.filename() == day.split('/').next());
            let days =
                days.iter().filter(|day| has_year(day.as_str())).map(|day| Path::from(format!("bronze/{table}/{day}")));
            others.into_iter().chain(days).collect()
        }
        None => [others, years].concat(),
    };
    for folder in folders {
        let listed: Vec<ObjectMeta> =
            store.list(Some(&folder)).try_collect().await.context(Kind::Unavailable, unlisted)?;
        found.extend(listed);
    }
    let mut objects: Vec<BronzeObject> =
        found.iter().map(of_meta).filter(|object| window.has(&object.key, object.delivered_at_us)).collect();
    objects.sort();
    Ok(objects)
}

/// One object, as storage knows it.
///
/// # Errors
/// `NotFound` if there is no such object, `Unavailable` if storage does not say.
pub(super) async fn object(store: &dyn ObjectStore, key: &str) -> Result<BronzeObject> {
    // A key that storage gave is taken as it is; `Path::from` would encode it once more.
    let path = Path::parse(key).unwrap_or_else(|_| Path::from(key));
    match store.head(&path).await {
        // Some stores tell the place below their own root.
        Ok(meta) => Ok(BronzeObject { key: key.to_owned(), ..of_meta(&meta) }),
        Err(StoreError::NotFound { .. }) => Err(Error::not_found(format!("there is no object {key} in the lake"))),
        Err(error) => Err(error).context(Kind::Unavailable, || format!("can't look for object {key}")),
    }
}

fn of_meta(meta: &ObjectMeta) -> BronzeObject {
    BronzeObject { key: meta.location.to_string(), delivered_at_us: meta.last_modified.timestamp_micros() }
}

fn is_year(folder: &Path) -> bool {
    folder.filename().is_some_and(|name| name.len() == 4 && name.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use lakehouse::Lake;

    use super::*;

    const DAY_US: i64 = 86_400_000_000;
    /// 2026-01-31T08:00:00Z.
    const EIGHT_US: i64 = 1_769_846_400_000_000;

    async fn listed(keys: &[&str], window: Window) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for key in keys {
            let path = folder.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let store = Lake::in_folder(folder.path()).unwrap().object_store().unwrap();
        let found = objects(store.as_ref(), &Name::new("t").unwrap(), window).await.unwrap();
        found.into_iter().map(|object| object.key).collect()
    }

    const KEYS: [&str; 6] = [
        "bronze/t/2026/01/31/08/in_time",
        "bronze/t/2026/01/31/09/later",
        "bronze/t/2019/01/31/08/long_ago",
        "bronze/t/other/shape.json",
        "bronze/t/top.json",
        "bronze/tt/2026/01/31/08/other_table",
    ];

    #[tokio::test]
    async fn an_hour_of_the_past_is_what_lies_in_its_folder() {
        let hour = Window { from_us: EIGHT_US, to_us: EIGHT_US + 3_600_000_000 };
        assert_eq!(listed(&KEYS, hour).await, ["bronze/t/2026/01/31/08/in_time"]);
    }

    #[tokio::test]
    async fn all_time_is_all_objects_of_the_table_in_order() {
        let ever = Window { from_us: 0, to_us: EIGHT_US + 100_000 * DAY_US };
        let mut all = KEYS[..5].to_vec();
        all.sort_unstable();
        assert_eq!(listed(&KEYS, ever).await, all);
    }

    #[tokio::test]
    async fn a_table_without_bronze_has_no_objects() {
        assert!(listed(&[], Window { from_us: 0, to_us: DAY_US }).await.is_empty());
    }

    #[tokio::test]
    async fn an_object_is_there_or_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("bronze/t")).unwrap();
        std::fs::write(folder.path().join("bronze/t/a=1"), "x").unwrap();
        let store = Lake::in_folder(folder.path()).unwrap().object_store().unwrap();
        assert_eq!(object(store.as_ref(), "bronze/t/a=1").await.unwrap().key, "bronze/t/a=1");
        let missing = object(store.as_ref(), "bronze/t/b").await.unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
    }
}
