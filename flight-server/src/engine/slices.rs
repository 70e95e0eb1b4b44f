//! Slices: parts of a large result that several readers, on several servers, fetch at the same time.
//!
//! A plan can be sliced if each of its partitions reads files of its own and meets no other on the way up: scans,
//! filters, projections, unions. Then slice n is partition n, and reading all slices costs what reading the whole does.
//! All other plans (sorts, aggregates, joins) have one slice, since each part of theirs needs the whole input.

use std::sync::Arc;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, displayable};

/// The most slices of a result. More endpoints than a client has connections for gain nothing.
pub const SLICES_MAX: u32 = 16;

/// Operators that keep partitions apart.
const KEEPS_PARTITIONS: [&str; 8] = [
    "ProjectionExec",
    "FilterExec",
    "CoalesceBatchesExec",
    "CooperativeExec",
    "DeltaScanExec",
    "DataSourceExec",
    "UnionExec",
    "EmptyExec",
];

/// Bytes of the files that a plan reads, as they lie in storage.
pub(super) fn file_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = scan(plan).map_or(0, |scan| {
        let files = scan.file_groups.iter().flat_map(|group| group.iter());
        files.map(|file| file.effective_size()).sum()
    });
    plan.children().into_iter().map(file_bytes).sum::<u64>() + own
}

/// How many slices a result of `bytes` should have, a client taking at most `most`.
pub(super) fn wanted(bytes: u64, slice_bytes: u64, most: Option<u32>) -> u32 {
    let most = most.unwrap_or(SLICES_MAX).clamp(1, SLICES_MAX);
    u32::try_from(bytes.div_ceil(slice_bytes.max(1))).unwrap_or(most).clamp(1, most)
}

/// How many slices `plan` can be read by.
pub(super) fn count(plan: &Arc<dyn ExecutionPlan>) -> u32 {
    let partitions = plan.output_partitioning().partition_count();
    if keeps_partitions(plan) { u32::try_from(partitions).unwrap_or(1).max(1) } else { 1 }
}

fn keeps_partitions(plan: &Arc<dyn ExecutionPlan>) -> bool {
    // A limit inside a scan counts rows of all partitions.
    let is_limited = plan.fetch().is_some();
    !is_limited && KEEPS_PARTITIONS.contains(&plan.name()) && plan.children().into_iter().all(keeps_partitions)
}

/// A number that differs if a plan's operators, files or ranges do: FNV-1a over the plan as it is shown, since it must
/// be the same in every process (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub(super) fn fingerprint(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let shown = displayable(plan.as_ref()).indent(true).to_string();
    shown.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_size_and_what_the_client_takes() {
        assert_eq!(wanted(0, 64, None), 1);
        assert_eq!(wanted(64, 64, None), 1);
        assert_eq!(wanted(65, 64, None), 2);
        assert_eq!(wanted(u64::MAX, 64, None), SLICES_MAX);
        assert_eq!(wanted(1000, 64, Some(3)), 3);
        assert_eq!(wanted(1000, 64, Some(0)), 1);
        assert_eq!(wanted(1000, 0, Some(u32::MAX)), SLICES_MAX);
    }
}
