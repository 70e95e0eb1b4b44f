//! Deletes files that nobody needs any more, a part at a time.

use deltalake::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStore};
use futures::{StreamExt as _, stream};
use lakehouse::{Error, Result};

use crate::job::Job;
use crate::tally::Tally;

/// Files that are deleted before it is looked whether there is time for more: what S3 deletes in one call.
const FILES_AT_ONCE: usize = 1_000;

/// Deletes files, with their sizes, in their order. One that is gone already counts too.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub(crate) async fn remove(
    job: &Job<'_>,
    store: &dyn ObjectStore,
    files: Vec<(Path, u64)>,
    tally: &mut Tally,
) -> Result<()> {
    for part in files.chunks(FILES_AT_ONCE) {
        if job.is_late() {
            tally.is_late = true;
            return Ok(());
        }
        let paths: Vec<_> = part.iter().map(|(path, _)| Ok(path.clone())).collect();
        let mut deleted = store.delete_stream(stream::iter(paths).boxed());
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => {
                    let what = format!("can't delete old files of {}.{}", job.layer, job.name);
                    return Err(Error::unavailable(what).because(error));
                }
            }
        }
        tally.gone(part.len() as u64, part.iter().map(|(_, bytes)| bytes).sum());
    }
    Ok(())
}
