//! How the rows of a claim are cut into frames: by the rows alone, so that a replay that is begun anew makes the same
//! frames under the same numbers, whatever the table has become meanwhile.

use crate::replay::rows::{Place, Row};

/// The most rows of a frame: which of them came back to quarantine is a number of as many bits (see
/// [`returned`](super::returned)), which must not be negative.
pub(super) const GROUP_ROWS_MAX: usize = 62;

/// Most bytes of JSON of a frame with more than one row: their Arrow form must fit
/// [`FRAME_BYTES_MAX`](proto::frame::FRAME_BYTES_MAX), and numbers can take some times the bytes of their digits.
const GROUP_JSON_BYTES_MAX: usize = 192 << 10;

/// Rows that become one frame: they came in one, too.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The frame's number.
    pub(super) number: u64,
    /// Each with its position.
    pub(super) rows: Vec<(usize, Row)>,
}

impl Group {
    /// Where its rows came from.
    pub(super) fn place(&self) -> Option<&Place> {
        self.rows.first().map(|(_, row)| &row.place)
    }
}

/// Cuts rows, which come in order.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    open: Vec<(usize, Row)>,
    json_bytes: usize,
    /// Groups that were given out.
    count: u64,
}

impl Cutter {
    /// Takes a row; gives the group that it ends, if it does not belong to it.
    pub(super) fn push(&mut self, row: Row) -> Option<Group> {
        let Some((_, last)) = self.open.last() else {
            self.take(row);
            return None;
        };
        let is_same_frame = last.place == row.place;
        if is_same_frame && row.row.is_some() && last.row == row.row {
            // A transform made several rows of one, and more than one of them was bad; it will do so again.
            return None;
        }
        let bytes = self.json_bytes + row.json_bytes();
        let group = if is_same_frame && self.open.len() < GROUP_ROWS_MAX && bytes <= GROUP_JSON_BYTES_MAX {
            None
        } else {
            self.end()
        };
        self.take(row);
        group
    }

    fn take(&mut self, row: Row) {
        self.json_bytes += row.json_bytes();
        self.open.push((self.open.len(), row));
    }

    /// The last group, if there is one.
    pub(super) fn end(&mut self) -> Option<Group> {
        if self.open.is_empty() {
            return None;
        }
        self.json_bytes = 0;
        let number = self.count;
        self.count += 1;
        Some(Group { number, rows: std::mem::take(&mut self.open) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(frame: u64, number: u64, bytes: usize) -> Row {
        let place = Place { ingest_id: Some("i".to_owned()), frame: Some(frame), ..Place::default() };
        Row { place, row: Some(number), row_json: Some("x".repeat(bytes)), ..Row::default() }
    }

    fn cut(rows: Vec<Row>) -> Vec<Group> {
        let mut cutter = Cutter::default();
        let mut groups: Vec<Group> = rows.into_iter().filter_map(|row| cutter.push(row)).collect();
        groups.extend(cutter.end());
        groups
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_group_in_order_within_its_limits(
            sizes in prop::collection::vec((0_u64..4, prop::sample::select(vec![1, 1, 1, 1, 1, 1, 1, 10, 100 << 10, 300 << 10])), 0..300),
        ) {
            let mut rows: Vec<Row> =
                sizes.iter().enumerate().map(|(at, (frame, bytes))| row(*frame, at as u64, *bytes)).collect();
            rows.sort_by_key(|row| row.place.frame);
            let groups = cut(rows.clone());
            for (number, group) in groups.iter().enumerate() {
                prop_assert_eq!(group.number, number as u64);
                prop_assert!(group.rows.len() <= GROUP_ROWS_MAX);
                prop_assert!(group.rows.iter().enumerate().all(|(at, (position, _))| at == *position));
                prop_assert!(group.rows.iter().all(|(_, row)| Some(&row.place) == group.place()));
                let bytes: usize = group.rows.iter().map(|(_, row)| row.json_bytes()).sum();
                prop_assert!(bytes <= GROUP_JSON_BYTES_MAX || group.rows.len() == 1);
            }
            let back: Vec<Row> = groups.into_iter().flat_map(|group| group.rows).map(|(_, row)| row).collect();
            prop_assert_eq!(back, rows);
        }
    }

    #[test]
    fn a_row_that_a_transform_made_several_of_comes_once() {
        let groups = cut(vec![row(0, 7, 1), row(0, 7, 1), row(0, 8, 1), row(1, 8, 1)]);
        let lengths: Vec<usize> = groups.iter().map(|group| group.rows.len()).collect();
        assert_eq!(lengths, [2, 1]);
    }
}
