use super::*;

fn table() -> Name {
    "flights".parse().unwrap()
}

/// A queue over `data` for the table.
fn open(data: &Path) -> Result<LocalQueue> {
    LocalQueue::open(data, &[table()])
}

/// Delivers an empty object under `id`.
fn deliver(data: &Path, queue: &LocalQueue, id: u64) -> QueuedObject {
    let key = format!("bronze/flights/{id}");
    let object = QueuedObject { table: table(), id, key, bytes: 0, delivered_at_us: 5 };
    queue.write_entry(&object).unwrap();
    fs::create_dir_all(data.join("bronze/flights")).unwrap();
    fs::write(data.join(&object.key), "").unwrap();
    queue.announce(object.clone());
    object
}

fn entry_names(data: &Path) -> Vec<String> {
    let files = fs::read_dir(data.join("queue/flights")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn objects_wait_in_order_until_they_are_done_also_over_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let queue = open(data.path()).unwrap();
    let [ten, nine, eleven] = [10, 9, 11].map(|id| deliver(data.path(), &queue, id));
    assert_eq!(queue.pending(&table()), [nine.clone(), ten.clone(), eleven.clone()]);
    assert_eq!(queue.last_id(&table()), 11);

    queue.done(&nine).await.unwrap();
    queue.done(&nine).await.unwrap();
    assert_eq!(queue.pending(&table()), [ten.clone(), eleven.clone()]);

    drop(queue);
    let queue = open(data.path()).unwrap();
    assert_eq!(queue.pending(&table()), [ten, eleven]);
    assert_eq!(queue.pending(&"stranger".parse().unwrap()), []);
}

#[tokio::test]
async fn a_new_object_wakes_who_waits() {
    let data = tempfile::tempdir().unwrap();
    let queue = open(data.path()).unwrap();
    let mut news = queue.subscribe();
    assert!(!news.has_changed().unwrap());
    deliver(data.path(), &queue, 1);
    news.changed().await.unwrap();
    assert_eq!(*news.borrow_and_update(), 1);
}

#[test]
fn an_entry_without_object_and_a_draft_are_dropped_on_opening() {
    let data = tempfile::tempdir().unwrap();
    let queue = open(data.path()).unwrap();
    let kept = deliver(data.path(), &queue, 1);
    let lost = deliver(data.path(), &queue, 2);
    fs::remove_file(data.path().join(&lost.key)).unwrap();
    fs::write(data.path().join("queue/flights/00000000000000000003.draft"), "{\"obj").unwrap();

    let queue = open(data.path()).unwrap();
    assert_eq!(queue.pending(&table()), [kept]);
    assert_eq!(entry_names(data.path()), ["00000000000000000001"]);
}

#[test]
fn a_damaged_entry_is_an_error_that_names_it_and_the_cure() {
    let data = tempfile::tempdir().unwrap();
    let entry = data.path().join("queue/flights/00000000000000000001");
    drop(open(data.path()).unwrap());
    fs::write(&entry, "{").unwrap();

    let error = open(data.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let text = error.to_string();
    assert!(text.starts_with(&format!("the queue entry {} is damaged; write the name", entry.display())), "{text}");
    assert!(text.contains("\"bronze/flights/…\""), "{text}");
}
