//! Which files are written anew, and which of them together: a pure function of a table's files.
//!
//! Small files are rewritten like the levels of a log-structured tree: a file joins those that are smaller than it only
//! if they are together at least half as large as it is. So each rewriting makes a row's file half as large again, and a
//! row is rewritten at most as often as that takes to fill a file; and of the small files that stay, each is more than
//! twice as large as all smaller ones together, so there are few of them, however long rows trickle in:
//!
//! ```text
//!  1 1 1 | 7 | 40    the ones become 3; 7 is more than twice that, so it stays, and so does 40
//!  1 3 7 | 40        a new one: 3 is more than twice 1, but 7 is no more than twice 4: the three become 11
//! ```
//!
//! Files with deleted rows are rewritten too, when the rows that are gone are many, or the file is so small that it costs
//! little.

use std::collections::BTreeMap;

/// The share of a file's rows that must be deleted before it is rewritten for that alone, in percent: what a reader
/// reads in vain against what is rewritten.
pub(crate) const DELETED_PERCENT_MIN: u64 = 20;

/// The size of files that are rewritten for any deleted row, in bytes.
pub(crate) const CHEAP_FILE_BYTES_MAX: u64 = 4 << 20;

/// How many times larger than all smaller files together a file may be to be rewritten with them.
const JOINING_RATIO: u64 = 2;

/// A file is full with this share of the size that files should have, in percent.
const FULL_PERCENT: u64 = 75;

/// Files of one partition, which can be rewritten together.
pub(crate) type Partition = BTreeMap<String, Option<String>>;

/// A data file, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    pub(crate) partition: Partition,
    pub(crate) bytes: u64,
    /// With those that are deleted; `None` if the log does not tell.
    pub(crate) rows: Option<u64>,
    pub(crate) deleted_rows: u64,
    pub(crate) modified_ms: i64,
}

impl Candidate {
    /// Rows that are left, if the log tells.
    pub(crate) fn live_rows(&self) -> Option<u64> {
        self.rows.map(|rows| rows.saturating_sub(self.deleted_rows))
    }

    /// Bytes of the rows that are left, roughly.
    pub(crate) fn live_bytes(&self) -> u64 {
        match self.rows {
            Some(rows) if rows > 0 => {
                let left = u128::from(rows.saturating_sub(self.deleted_rows));
                u64::try_from(u128::from(self.bytes) * left / u128::from(rows)).unwrap_or(self.bytes)
            }
            _ => self.bytes,
        }
    }

    /// Whether it is rewritten because of its deleted rows, whatever files there are beside it.
    fn is_worn(&self) -> bool {
        let Some(rows) = self.rows else { return self.deleted_rows > 0 };
        let is_much = self.deleted_rows.saturating_mul(100) >= rows.saturating_mul(DELETED_PERCENT_MIN);
        self.deleted_rows > 0 && (is_much || self.bytes <= CHEAP_FILE_BYTES_MAX)
    }
}

/// Sizes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// That files should have.
    pub(crate) target: u64,
    /// That are rewritten at once, at most, unless one file has more.
    pub(crate) group_max: u64,
}

/// The files to rewrite, in groups that are rewritten together, by their positions in `files`; oldest first.
pub(crate) fn groups(files: &[Candidate], sizes: Sizes) -> Vec<Vec<usize>> {
    let mut partitions: BTreeMap<&Partition, Vec<usize>> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        partitions.entry(&file.partition).or_default().push(at);
    }
    partitions.into_values().flat_map(|members| groups_of_partition(files, &members, sizes)).collect()
}

fn groups_of_partition(files: &[Candidate], members: &[usize], sizes: Sizes) -> Vec<Vec<usize>> {
    let full = u128::from(sizes.target) * u128::from(FULL_PERCENT) / 100;
    let is_worn = |at: &usize| files[*at].is_worn();
    let mut chosen: Vec<usize> = members.iter().copied().filter(is_worn).collect();
    let is_small = |at: &usize| u128::from(files[*at].live_bytes()) < full;
    let mut small: Vec<usize> = members.iter().copied().filter(is_small).collect();
    small.sort_by_key(|at| files[*at].live_bytes());
    let joined = small[..joining(files, &small)].iter().filter(|at| !is_worn(at));
    chosen.extend(joined);
    chosen.sort_by_key(|at| (files[*at].modified_ms, *at));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0_u64;
    for at in chosen {
        let size = files[at].bytes;
        match groups.last_mut() {
            Some(group) if bytes.saturating_add(size) <= sizes.group_max => group.push(at),
            _ => {
                groups.push(vec![at]);
                bytes = 0;
            }
        }
        bytes = bytes.saturating_add(size);
    }
    // A file alone only changes if rows of it are deleted.
    groups.retain(|group| group.len() > 1 || group.iter().any(is_worn));
    groups
}

/// How many files so many bytes are to make. Those that small ones make are full, and fewer than they were.
pub(crate) fn files_of(bytes: u64, target: u64) -> u64 {
    bytes.saturating_add(target / 2).checked_div(target).unwrap_or(1).max(1)
}

/// How many of the smallest files are to become one: up to the last that those before it are large enough for.
fn joining(files: &[Candidate], ascending: &[usize]) -> usize {
    let (mut together, mut joining) = (0_u64, 0);
    for (count, at) in ascending.iter().enumerate() {
        let bytes = files[*at].live_bytes();
        if count > 0 && bytes <= together.saturating_mul(JOINING_RATIO) {
            joining = count + 1;
        }
        together = together.saturating_add(bytes);
    }
    joining
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { target: 1_000, group_max: 4_000 };

    fn file(bytes: u64) -> Candidate {
        Candidate { bytes, rows: Some(bytes), ..Candidate::default() }
    }

    /// What rewriting makes of the files: full ones and a rest.
    fn rewritten(files: Vec<Candidate>) -> (Vec<Candidate>, u64) {
        let groups = groups(&files, SIZES);
        let mut kept: Vec<Option<Candidate>> = files.into_iter().map(Some).collect();
        let (mut new, mut bytes) = (Vec::new(), 0);
        for group in groups {
            let members: Vec<Candidate> = group.iter().map(|at| kept[*at].take().expect("in one group only")).collect();
            let all: u64 = members.iter().map(Candidate::live_bytes).sum();
            bytes += all;
            let count = files_of(all, SIZES.target);
            let worn = members.iter().any(Candidate::is_worn);
            assert!(worn || count < members.len() as u64, "{} files become {count}", members.len());
            let place = |part| all * part / count;
            new.extend((0..count).map(|part| file(place(part + 1) - place(part))));
        }
        (kept.into_iter().flatten().chain(new).collect(), bytes)
    }

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn however_long_rows_trickle_in_the_small_files_stay_few_and_no_row_is_rewritten_often() {
        for seed in 0..50 {
            let mut state = seed;
            let (mut files, mut written, mut appended) = (Vec::new(), 0, 0);
            for _ in 0..400 {
                for _ in 0..random(&mut state) % 4 {
                    let size = 1 + random(&mut state) % 40;
                    appended += size;
                    files.push(file(size));
                }
                let (next, bytes) = rewritten(files);
                files = next;
                written += bytes;
            }
            let small = files.iter().filter(|file| file.bytes < 750).count();
            // Each is more than twice as large as all smaller ones together, and 3^7 is more than 750.
            assert!(small <= 8, "{small} small files, seed {seed}");
            assert!(written <= 5 * appended, "{written} bytes written for {appended}, seed {seed}");
            assert_eq!(files.iter().map(|file| file.bytes).sum::<u64>(), appended);
        }
    }

    #[test]
    fn what_is_rewritten_once_is_left_in_peace() {
        for seed in 0..200 {
            let mut state = seed;
            let files = (0..random(&mut state) % 60).map(|_| file(random(&mut state) % 1_500)).collect();
            let mut files = rewritten(files).0;
            for round in 0.. {
                let (next, bytes) = rewritten(files);
                files = next;
                if bytes == 0 {
                    break;
                }
                assert!(round < 10, "seed {seed} never ends");
            }
        }
    }

    #[test]
    fn a_group_has_files_of_one_partition_and_no_more_bytes_than_it_may() {
        for seed in 0..200 {
            let mut state = seed;
            let files: Vec<Candidate> = (0..80)
                .map(|_| {
                    let day = (random(&mut state) % 3).to_string();
                    let bytes = random(&mut state) % 900;
                    let deleted_rows =
                        if random(&mut state).is_multiple_of(2) { random(&mut state) % (bytes + 1) } else { 0 };
                    let partition = Partition::from([("day".to_owned(), Some(day))]);
                    Candidate { partition, deleted_rows, ..file(bytes) }
                })
                .collect();
            let mut seen = vec![false; files.len()];
            for group in groups(&files, SIZES) {
                assert!(group.iter().all(|at| files[*at].partition == files[group[0]].partition));
                assert!(group.iter().map(|at| files[*at].bytes).sum::<u64>() <= SIZES.group_max);
                for at in group {
                    assert!(!std::mem::replace(&mut seen[at], true), "file {at} is in two groups");
                }
            }
            // What is worn is always rewritten.
            assert!(files.iter().zip(&seen).all(|(file, seen)| *seen || !file.is_worn()));
        }
    }

    #[test]
    fn a_large_file_is_rewritten_for_its_deleted_rows_when_they_are_many() {
        let large = 100 * CHEAP_FILE_BYTES_MAX;
        let sizes = Sizes { target: large, group_max: 4 * large };
        let with = |deleted_rows| Candidate { rows: Some(1_000), deleted_rows, ..file(large) };
        assert_eq!(groups(&[with(0), with(199)], sizes), Vec::<Vec<usize>>::new());
        assert_eq!(groups(&[with(0), with(200)], sizes), vec![vec![1]]);
        // If the log does not tell how many rows a file has, any will do.
        assert_eq!(groups(&[Candidate { rows: None, ..with(1) }], sizes), vec![vec![0]]);
    }

    #[test]
    fn a_small_file_is_rewritten_for_one_deleted_row() {
        let sizes = Sizes { target: 128 << 20, group_max: 512 << 20 };
        let worn = Candidate { rows: Some(1_000_000), deleted_rows: 1, ..file(CHEAP_FILE_BYTES_MAX) };
        assert_eq!(groups(&[worn], sizes), vec![vec![0]]);
        assert_eq!(groups(&[file(CHEAP_FILE_BYTES_MAX)], sizes), Vec::<Vec<usize>>::new());
    }
}
