//! What one query may reserve of the memory that all share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::DataFusionError;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;

/// A query's share of the common pool, which its operators share fairly. Those that would pass their part spill, or
/// fail.
pub(super) struct QueryMemory {
    shared: Arc<dyn MemoryPool>,
    own: FairSpillPool,
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl QueryMemory {
    /// A share of at most `limit` bytes of `shared`.
    pub(super) fn new(shared: Arc<dyn MemoryPool>, limit: usize) -> Arc<Self> {
        let own = FairSpillPool::new(limit);
        Arc::new(Self { shared, own, limit, used: AtomicUsize::new(0), peak: AtomicUsize::new(0) })
    }

    /// The most that was reserved at once, in bytes.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed) as u64
    }

    fn add(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
        self.shared.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.shared.unregister(consumer);
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.shared.grow(reservation, additional);
        self.add(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.shared.shrink(reservation, shrink);
        self.own.shrink(reservation, shrink);
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if self.own.try_grow(reservation, additional).is_err() {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} wants {additional} bytes beside the {} in use, and the query may have {} (memory_limit)",
                reservation.consumer().name(),
                self.reserved(),
                self.limit
            )));
        }
        if let Err(error) = self.shared.try_grow(reservation, additional) {
            self.own.shrink(reservation, additional);
            return Err(error);
        }
        self.add(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query of at most {} bytes in {}", self.limit, self.shared)
    }
}

impl fmt::Debug for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `base` with a query's own memory; spill space, caches and object stores stay shared.
pub(super) fn runtime_for(base: &RuntimeEnv, memory: Arc<QueryMemory>) -> Arc<RuntimeEnv> {
    Arc::new(RuntimeEnv { memory_pool: memory, ..base.clone() })
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    fn reservation(memory: &Arc<QueryMemory>) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::clone(memory) as _;
        MemoryConsumer::new("sort").register(&pool)
    }

    #[test]
    fn a_query_stays_within_its_own_limit_and_gives_all_back() {
        let shared: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let memory = QueryMemory::new(Arc::clone(&shared), 60);
        let held = reservation(&memory);
        held.try_grow(50).unwrap();
        let error = held.try_grow(20).unwrap_err().to_string();
        assert!(error.contains("memory_limit"), "{error}");
        held.shrink(30);
        held.try_grow(20).unwrap();
        assert_eq!((memory.reserved(), shared.reserved(), memory.peak_bytes()), (40, 40, 50));
        drop(held);
        assert_eq!((memory.reserved(), shared.reserved()), (0, 0));
    }

    #[test]
    fn what_the_pool_refuses_is_not_counted() {
        let shared: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let (one, other) = (QueryMemory::new(Arc::clone(&shared), 90), QueryMemory::new(shared, 90));
        let (first, second) = (reservation(&one), reservation(&other));
        first.try_grow(80).unwrap();
        second.try_grow(80).unwrap_err();
        assert_eq!((other.reserved(), other.peak_bytes()), (0, 0));
    }
}
