//! Storage that fails as object stores do, at places that a plan names.
//!
//! All processes of a case see one memory store, each through a [`Faulty`] of its own, under a URL of its own
//! (`faulty://<name>/`), for which delta-rs asks a factory that is registered here:
//!
//! ```text
//!  process 1 ─ faulty://17-1/ ─► Faulty, dead ─┐
//!  process 2 ─ faulty://17-2/ ─► Faulty ───────┼─► InMemory
//!  the rival ─ faulty://17-3/ ─► Faulty ───────┘
//! ```
//!
//! A process that died reaches storage no more, whatever tasks it has left behind. Accesses are counted by what they
//! are for. Commits come one after the other, so a fault in one hits the same commit in every run of a seed; reads and
//! lists go on side by side, so which of them is the n-th may differ.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use deltalake::logstore::object_store::memory::InMemory;
use deltalake::logstore::object_store::{
    self, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories,
    object_store_factories,
};
use deltalake::{DeltaResult, DeltaTableError, Path};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, oneshot};
use url::Url;

const SCHEME: &str = "faulty";

/// A version in Delta's log that adds nothing, as another writer may commit one at any time.
const RIVAL_COMMIT: &[u8] = br#"{"commitInfo":{"timestamp":1800000000000,"operation":"OPTIMIZE"}}"#;

static STORES: LazyLock<Mutex<HashMap<String, Arc<Faulty>>>> = LazyLock::new(|| {
    let scheme = Url::parse(&format!("{SCHEME}://")).unwrap();
    object_store_factories().insert(scheme.clone(), Arc::new(Factory));
    logstore_factories().insert(scheme, Arc::new(Factory));
    Mutex::default()
});

/// What an access to storage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// A version of a Delta log.
    Commit,
    /// Any other object that is written.
    Write,
    Read,
    List,
}

/// What happens to an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Nothing is done, and an error told.
    Fails,
    /// It is done, and the server's error told all the same.
    LandsThenFails,
    /// It is done, and the answer does not come.
    LandsThenTimesOut,
    /// It is done, and then told to be there already: what a repeated conditional write is answered.
    LandsThenExists,
    /// Nothing is done or there, and it is told to be there already: what S3 may answer to two writes at once.
    Exists,
    /// Another writer's commit, of no rows, is there first.
    Overtaken,
    /// Another process merges, from beginning to end, before this is done.
    Raced,
    /// The caller is dropped before it is done; its process goes on.
    DroppedBefore,
    /// The caller is dropped behind it; its process goes on.
    DroppedBehind,
    /// The process dies before it is done.
    DiesBefore,
    /// The process dies behind it.
    DiesBehind,
}

impl Fault {
    /// What can happen to a commit.
    pub const OF_COMMITS: [Self; 11] = [
        Self::Fails,
        Self::LandsThenFails,
        Self::LandsThenTimesOut,
        Self::LandsThenExists,
        Self::Exists,
        Self::Overtaken,
        Self::Raced,
        Self::DroppedBefore,
        Self::DroppedBehind,
        Self::DiesBefore,
        Self::DiesBehind,
    ];
    /// What can happen to any other access.
    pub const OF_OTHERS: [Self; 3] = [Self::Fails, Self::DiesBefore, Self::DiesBehind];
}

/// A fault, and the access that meets it: the `nth` of its kind since the plan was made, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub access: Access,
    pub nth: u32,
    pub fault: Fault,
}

/// What storage asks of whoever drives the merge.
#[derive(Debug)]
pub enum Signal {
    /// Drop the merge.
    Drop,
    /// Let another process merge, then answer.
    Race(oneshot::Sender<()>),
}

/// The storage of a case.
#[derive(Debug)]
pub struct Storage {
    pub inner: Arc<InMemory>,
    case: u64,
    names: Vec<String>,
}

impl Storage {
    /// An empty storage.
    pub fn new() -> Self {
        static CASES: AtomicU64 = AtomicU64::new(0);
        Self { inner: Arc::default(), case: CASES.fetch_add(1, Ordering::Relaxed), names: Vec::new() }
    }

    /// A new process' way to it, and the URL under which delta-rs finds that.
    pub fn process(&mut self) -> (Url, Arc<Faulty>) {
        let name = format!("{}-{}", self.case, self.names.len());
        let faulty = Arc::new(Faulty { inner: Arc::clone(&self.inner), state: Mutex::default() });
        STORES.lock().unwrap().insert(name.clone(), Arc::clone(&faulty));
        let url = Url::parse(&format!("{SCHEME}://{name}/")).unwrap();
        self.names.push(name);
        (url, faulty)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let mut stores = STORES.lock().unwrap();
        for name in &self.names {
            stores.remove(name);
        }
    }
}

/// One process' way to the storage.
pub struct Faulty {
    inner: Arc<InMemory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_dead: bool,
    plan: Vec<Planned>,
    counts: HashMap<Access, u32>,
    met: BTreeSet<(Access, Fault)>,
    signals: Option<mpsc::UnboundedSender<Signal>>,
}

impl Faulty {
    /// Makes `plan` what goes wrong from now on; gives the way on which storage speaks up.
    pub fn arm(&self, plan: &[Planned]) -> mpsc::UnboundedReceiver<Signal> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock().unwrap();
        state.plan = plan.to_vec();
        state.counts.clear();
        state.signals = Some(sender);
        receiver
    }

    pub fn is_dead(&self) -> bool {
        self.state.lock().unwrap().is_dead
    }

    /// The faults that were met since it was made.
    pub fn met(&self) -> BTreeSet<(Access, Fault)> {
        self.state.lock().unwrap().met.clone()
    }

    /// Counts an access; gives the fault that it meets.
    fn meet(&self, access: Access) -> object_store::Result<Option<Fault>> {
        let mut state = self.state.lock().unwrap();
        if state.is_dead {
            return Err(failed("the process is dead"));
        }
        let count = state.counts.entry(access).or_default();
        *count += 1;
        let count = *count;
        let fault = state.plan.iter().find(|planned| planned.access == access && planned.nth == count);
        let fault = fault.map(|planned| planned.fault);
        state.met.extend(fault.map(|fault| (access, fault)));
        Ok(fault)
    }

    fn signal(&self, signal: Signal) {
        if let Some(signals) = &self.state.lock().unwrap().signals {
            // If nobody listens any more, the merge was dropped already.
            let _ = signals.send(signal);
        }
    }

    fn die(&self) -> object_store::Error {
        self.state.lock().unwrap().is_dead = true;
        self.signal(Signal::Drop);
        failed("the process dies")
    }

    /// Has the merge dropped, if this access is part of it and not of a task that it left behind.
    async fn drop_caller(&self) {
        self.signal(Signal::Drop);
        tokio::task::yield_now().await;
    }

    /// Does `access`, unless a fault says otherwise.
    async fn run<T: Send>(
        &self,
        kind: Access,
        path: &Path,
        access: impl Future<Output = object_store::Result<T>> + Send,
    ) -> object_store::Result<T> {
        let Some(fault) = self.meet(kind)? else { return access.await };
        match fault {
            Fault::Fails => Err(failed("503 Slow Down")),
            Fault::LandsThenFails => access.await.and(Err(failed("500 Internal Server Error"))),
            Fault::LandsThenTimesOut => access.await.and(Err(failed("operation timed out"))),
            Fault::LandsThenExists => access.await.and(Err(exists(path))),
            Fault::Exists => Err(exists(path)),
            Fault::Overtaken => {
                // A log begins with the table's columns.
                if !path.as_ref().ends_with("/00000000000000000000.json") {
                    let rival = PutPayload::from_static(RIVAL_COMMIT);
                    self.inner.put_opts(path, rival, PutMode::Create.into()).await?;
                }
                access.await
            }
            Fault::Raced => {
                let (done, is_done) = oneshot::channel();
                self.signal(Signal::Race(done));
                let _ = is_done.await;
                access.await
            }
            Fault::DroppedBefore => {
                self.drop_caller().await;
                access.await
            }
            Fault::DroppedBehind => {
                let result = access.await;
                self.drop_caller().await;
                result
            }
            Fault::DiesBefore => Err(self.die()),
            Fault::DiesBehind => access.await.and(Err(self.die())),
        }
    }

    /// What the n-th list meets; a list is no future, so that it either fails or goes well.
    fn list_meets(&self) -> Option<object_store::Error> {
        match self.meet(Access::List) {
            Err(error) => Some(error),
            Ok(None) => None,
            Ok(Some(Fault::DiesBefore | Fault::DiesBehind)) => Some(self.die()),
            Ok(Some(_)) => Some(failed("503 Slow Down")),
        }
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let kind = if is_commit(location) { Access::Commit } else { Access::Write };
        self.run(kind, location, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        // No merge of a case is so large that the parts matter.
        self.run(Access::Write, location, self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.run(Access::Read, location, self.inner.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        if self.is_dead() {
            return stream::once(async { Err(failed("the process is dead")) }).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.list_meets() {
            Some(error) => stream::once(async move { Err(error) }).boxed(),
            None => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        match self.list_meets() {
            Some(error) => Err(error),
            None => self.inner.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let kind = if is_commit(to) { Access::Commit } else { Access::Write };
        self.run(kind, to, self.inner.copy_opts(from, to, options)).await
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty storage")
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

/// Whether this is `_delta_log/<20 digits>.json`.
fn is_commit(path: &Path) -> bool {
    let is_version = |name: &str| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    let name = path.filename().and_then(|name| name.strip_suffix(".json"));
    path.as_ref().contains("_delta_log/") && name.is_some_and(is_version)
}

fn failed(what: &str) -> object_store::Error {
    object_store::Error::Generic { store: SCHEME, source: what.into() }
}

fn exists(path: &Path) -> object_store::Error {
    object_store::Error::AlreadyExists { path: path.to_string(), source: "412 Precondition Failed".into() }
}

struct Factory;

impl ObjectStoreFactory for Factory {
    fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let store = url.host_str().and_then(|name| STORES.lock().unwrap().get(name).cloned());
        let store = store.ok_or_else(|| DeltaTableError::InvalidTableLocation(url.to_string()))?;
        Ok((store, Path::from(url.path())))
    }
}

impl LogStoreFactory for Factory {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed_store, root_store, location, options))
    }
}
