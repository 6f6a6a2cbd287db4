//! Which records of one log are settled: what may be committed, and what is settled beyond that.
//!
//! Kafka remembers one offset a partition: all before it is done with. Jobs are settled in any order, so beside that
//! offset its metadata says which later records are settled as well; whoever reads on from there passes over them, and a
//! consumer that is killed repeats no more than what it settled since its last commit.
//!
//! The metadata is text, `1:2,40,1,7`: version, then in turn how many records from the offset on aren't settled, are, and
//! so on; what isn't mentioned isn't settled. Kafka takes 4,096 bytes of it; what doesn't fit is left out, and would be delivered twice.

use std::collections::BTreeMap;
use std::ops::Range;

/// What metadata begins with.
const VERSION: &str = "1:";

/// Bytes of metadata: what Kafka takes where `offset.metadata.max.bytes` isn't set.
const MOST_METADATA: usize = 4_096;

/// Of a run of records that aren't settled and one of such that are, the shortest text takes so many bytes.
const LEAST_RUNS: usize = 4;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// The offset that reading goes on from; none before the first record.
    next: Option<i64>,
    unsettled: BTreeMap<i64, Unsettled>,
    /// Settled before this reader began.
    passed_over: Vec<Range<i64>>,
    /// How many of them aren't in memory.
    parked: usize,
    /// Bytes of those that are.
    bytes: usize,
    /// Times that the log was found to end earlier than it was read.
    rewinds: u32,
    /// Whether anything is otherwise than when that was last asked.
    has_changed: bool,
}

/// A record that is read and not settled.
#[derive(Debug, Clone, Copy)]
struct Unsettled {
    bytes: usize,
    /// It isn't in memory.
    is_parked: bool,
    /// After how many rewinds it was read.
    rewinds: u32,
}

/// What is told to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// All before it is settled.
    pub(super) offset: i64,
    /// What is settled beyond it.
    pub(super) metadata: String,
}

impl Offsets {
    /// Goes on from what was committed, if anything was.
    pub(super) fn resume(committed: Option<&Progress>) -> Self {
        let Some(Progress { offset, metadata }) = committed else { return Self::default() };
        let passed_over = settled_beyond(*offset, metadata);
        Self { next: Some(*offset), passed_over, has_changed: true, ..Self::default() }
    }

    /// It became known where the log begins, if nothing was known.
    pub(super) fn begin_at(&mut self, offset: i64) {
        self.next.get_or_insert(offset);
        self.has_changed = true;
    }

    /// A record of so many bytes was read; whether its job is still to be done.
    pub(super) fn read(&mut self, offset: i64, bytes: usize) -> bool {
        if self.next.is_some_and(|next| offset < next) {
            // Read before: what of that isn't settled is held.
            return false;
        }
        self.next = Some(offset.saturating_add(1));
        self.has_changed = true;
        self.passed_over.retain(|range| range.end > offset);
        if self.passed_over.iter().any(|range| range.contains(&offset)) {
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.unsettled.insert(offset, Unsettled { bytes, is_parked: false, rewinds: self.rewinds });
        true
    }

    /// A record that is read and not settled leaves memory.
    pub(super) fn park(&mut self, offset: i64) {
        if let Some(record) = self.unsettled.get_mut(&offset).filter(|record| !record.is_parked) {
            record.is_parked = true;
            self.parked = self.parked.saturating_add(1);
            self.bytes = self.bytes.saturating_sub(record.bytes);
        }
    }

    /// A record comes back into memory, if it had left it: after how many rewinds it was read.
    pub(super) fn take_back(&mut self, offset: i64) -> Option<u32> {
        let record = self.unsettled.get_mut(&offset).filter(|record| record.is_parked)?;
        record.is_parked = false;
        self.parked = self.parked.saturating_sub(1);
        self.bytes = self.bytes.saturating_add(record.bytes);
        Some(record.rewinds)
    }

    fn forget(&mut self, record: Unsettled) {
        if record.is_parked {
            self.parked = self.parked.saturating_sub(1);
        } else {
            self.bytes = self.bytes.saturating_sub(record.bytes);
        }
    }

    /// A record's job is done with, that was read after so many rewinds.
    pub(super) fn settle(&mut self, offset: i64, rewinds: u32) {
        if self.unsettled.get(&offset).is_some_and(|record| record.rewinds == rewinds) {
            let settled = self.unsettled.remove(&offset);
            settled.into_iter().for_each(|record| self.forget(record));
            self.has_changed = true;
        }
    }

    /// The log goes on at an offset that was read before, so what stood from there on is gone from it. What stands before
    /// isn't, and is still to be settled.
    pub(super) fn rewind(&mut self, to: i64) {
        let gone = self.unsettled.split_off(&to);
        gone.into_values().for_each(|record| self.forget(record));
        self.passed_over.iter_mut().for_each(|range| range.end = range.end.min(to));
        self.passed_over.retain(|range| !range.is_empty());
        self.next = Some(to);
        self.rewinds = self.rewinds.saturating_add(1);
        self.has_changed = true;
    }

    /// How often the log was rewound.
    pub(super) fn rewinds(&self) -> u32 {
        self.rewinds
    }

    /// Whether there is other progress than when this was last asked.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Where reading goes on.
    pub(super) fn next(&self) -> Option<i64> {
        self.next
    }

    /// Records that are read and not settled, and are in memory.
    pub(super) fn held(&self) -> usize {
        self.unsettled.len().saturating_sub(self.parked)
    }

    /// Such that aren't in memory.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// Bytes of what is in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the ranges of records that were settled before this reader began.
    pub(super) fn passes_over(&self) -> &[Range<i64>] {
        &self.passed_over
    }

    /// What may be committed now; nothing before anything is known.
    pub(super) fn progress(&self) -> Option<Progress> {
        let next = self.next?;
        let past = |range: &Range<i64>| range.contains(&next).then_some(range.end);
        let offset = self.unsettled.first_key_value().map(|(offset, _)| *offset);
        let offset = offset.unwrap_or_else(|| self.passed_over.iter().find_map(past).unwrap_or(next));
        let mut metadata = String::new();
        let mut at = offset;
        for settled in self.settled_from(offset) {
            let separator = if metadata.is_empty() { VERSION } else { "," };
            let (waits, done) = (settled.start.saturating_sub(at), settled.end.saturating_sub(settled.start));
            let runs = format!("{separator}{waits},{done}");
            if metadata.len().saturating_add(runs.len()) > MOST_METADATA {
                break;
            }
            metadata.push_str(&runs);
            at = settled.end;
        }
        Some(Progress { offset, metadata })
    }

    /// What is settled beyond `offset`, in order: between what isn't, and what was before this reader began. As much of it
    /// as metadata can hold.
    fn settled_from(&self, offset: i64) -> Vec<Range<i64>> {
        let mut settled: Vec<Range<i64>> = Vec::new();
        let mut at = offset;
        for unsettled in self.unsettled.keys() {
            if settled.len() > MOST_METADATA / LEAST_RUNS {
                return settled;
            }
            add(&mut settled, at..*unsettled);
            at = unsettled.saturating_add(1);
        }
        add(&mut settled, at..self.next.unwrap_or(at));
        for range in &self.passed_over {
            add(&mut settled, range.start.max(at)..range.end);
        }
        settled
    }
}

/// Adds a range that begins after all others begin.
fn add(ranges: &mut Vec<Range<i64>>, range: Range<i64>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

/// What metadata says is settled from `offset` on; nothing where it isn't ours.
pub(super) fn settled_beyond(offset: i64, metadata: &str) -> Vec<Range<i64>> {
    let Some(lengths) = metadata.strip_prefix(VERSION) else { return Vec::new() };
    let lengths: Option<Vec<i64>> =
        lengths.split(',').map(|length| length.parse().ok().filter(|length| *length > 0)).collect();
    let mut at = offset;
    let mut settled = Vec::new();
    for (index, length) in lengths.unwrap_or_default().into_iter().enumerate() {
        let end = at.saturating_add(length);
        if index % 2 == 1 {
            settled.push(at..end);
        }
        at = end;
    }
    settled
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn progress(offset: i64, metadata: &str) -> Progress {
        Progress { offset, metadata: metadata.into() }
    }

    #[test]
    fn the_highest_offset_below_which_all_is_settled_is_committed() {
        let mut offsets = Offsets::resume(None);
        assert_eq!(offsets.progress(), None);
        for offset in 10..15 {
            assert!(offsets.read(offset, 1));
        }
        assert_eq!(offsets.progress(), Some(progress(10, "")));
        offsets.settle(11, 0);
        offsets.settle(12, 0);
        assert_eq!(offsets.progress(), Some(progress(10, "1:1,2")));
        offsets.settle(14, 0);
        assert_eq!(offsets.progress(), Some(progress(10, "1:1,2,1,1")));
        offsets.settle(10, 0);
        assert_eq!(offsets.progress(), Some(progress(13, "1:1,1")));
        offsets.settle(13, 0);
        assert_eq!((offsets.progress(), offsets.held()), (Some(progress(15, "")), 0));
    }

    #[test]
    fn what_was_settled_beyond_it_is_passed_over() {
        let mut offsets = Offsets::resume(Some(&progress(10, "1:1,2,1,1")));
        let again: Vec<i64> = (10..17).filter(|offset| offsets.read(*offset, 1)).collect();
        assert_eq!(again, [10, 13, 15, 16]);
        assert!(!offsets.read(16, 1), "read before");
    }

    #[test]
    fn what_stands_before_the_end_of_a_log_that_was_cut_off_is_still_to_be_settled() {
        let mut offsets = Offsets::resume(None);
        (0..10).for_each(|offset| assert!(offsets.read(offset, 3)));
        (1..5).for_each(|offset| offsets.settle(offset, 0));
        offsets.rewind(6);
        assert_eq!((offsets.progress(), offsets.bytes()), (Some(progress(0, "1:1,4")), 6));
        assert!(offsets.read(6, 1));
        // What stood there before is another record.
        offsets.settle(6, 0);
        assert_eq!(offsets.held(), 3);
        [0, 5].into_iter().for_each(|offset| offsets.settle(offset, 0));
        assert_eq!(offsets.progress(), Some(progress(6, "")));
        offsets.settle(6, 1);
        assert_eq!((offsets.progress(), offsets.bytes()), (Some(progress(7, "")), 0));
    }

    #[test]
    fn what_is_parked_is_still_to_be_settled() {
        let mut offsets = Offsets::resume(None);
        (0..4).for_each(|offset| assert!(offsets.read(offset, 3)));
        offsets.park(1);
        offsets.park(1);
        offsets.park(3);
        assert_eq!((offsets.held(), offsets.parked(), offsets.bytes()), (2, 2, 6));
        offsets.settle(0, 0);
        assert_eq!(offsets.progress(), Some(progress(1, "")));
        assert_eq!((offsets.take_back(1), offsets.take_back(1), offsets.take_back(9)), (Some(0), None, None));
        offsets.rewind(3);
        assert_eq!((offsets.held(), offsets.parked(), offsets.bytes()), (2, 0, 6));
    }

    #[test]
    fn metadata_that_is_not_ours_repeats_what_is_there() {
        for odd in ["", "1:", "2:1,1", "1:x", "1:1,-4", "1:0,5", "1:1,,1", "noise"] {
            let mut offsets = Offsets::resume(Some(&progress(3, odd)));
            assert!((3..9).all(|offset| offsets.read(offset, 1)), "{odd}");
        }
    }

    #[test]
    fn metadata_stays_within_what_kafka_takes() {
        let mut offsets = Offsets::resume(None);
        for offset in 0..100_000 {
            offsets.read(offset, 1);
            if offset % 2 == 1 {
                offsets.settle(offset, 0);
            }
        }
        let progress = offsets.progress().unwrap();
        assert!(progress.metadata.len() <= MOST_METADATA && progress.metadata.len() > 4_000);
        let mut again = Offsets::resume(Some(&progress));
        assert_eq!((0..100).filter(|offset| again.read(*offset, 1)).count(), 50);
    }

    proptest! {
        /// Whatever is settled in whatever order, and however often it is begun anew: what isn't settled is read again,
        /// and nothing that was committed as settled is.
        #[test]
        fn nothing_is_lost_or_repeated(steps in proptest::collection::vec((any::<bool>(), 0_i64..60), 1..200)) {
            let mut offsets = Offsets::resume(None);
            let mut settled = BTreeSet::new();
            let mut read = BTreeSet::new();
            for (restart, offset) in steps {
                if restart && offset % 4 == 0 {
                    offsets = Offsets::resume(offsets.progress().as_ref());
                    continue;
                }
                let next = offsets.next().unwrap_or(0);
                if offsets.read(next, 1) {
                    prop_assert!(!settled.contains(&next), "{next} was settled");
                }
                read.insert(next);
                if offsets.unsettled.contains_key(&offset) {
                    offsets.settle(offset, 0);
                    settled.insert(offset);
                }
            }
            let end = read.last().copied().unwrap_or(0);
            let mut again = Offsets::resume(offsets.progress().as_ref());
            let from = again.next().unwrap_or(0);
            let held: BTreeSet<i64> = (from..=end).filter(|offset| again.read(*offset, 1)).collect();
            for offset in 0..=end {
                prop_assert!(settled.contains(&offset) || held.contains(&offset), "{offset} is lost");
            }
        }
    }
}
