//! Which records of one log are settled: what may be committed, and what is settled beyond that.
//!
//! Kafka remembers one offset a partition: all before it is done with. Jobs are settled in any order, so beside that
//! offset its metadata says which later records are settled as well; whoever reads on from there passes over them, and a
//! consumer that is killed repeats no more than what it settled since its last commit.
//!
//! The metadata is text, `1:2,40,1,7`: version, then in turn how many records from the offset on aren't settled, are, and
//! so on; what isn't mentioned isn't settled. Kafka takes 4,096 bytes of it; what doesn't fit is left out, and would be delivered twice.

use std::collections::BTreeSet;
use std::ops::Range;

/// What metadata begins with.
const VERSION: &str = "1:";

/// Bytes of metadata: what Kafka takes where `offset.metadata.max.bytes` isn't set.
const MOST_METADATA: usize = 4_096;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// The offset that reading goes on from; none before the first record.
    next: Option<i64>,
    unsettled: BTreeSet<i64>,
    /// Settled before this reader began.
    passed_over: Vec<Range<i64>>,
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
        Self {
            next: Some(*offset),
            unsettled: BTreeSet::new(),
            passed_over: settled_beyond(*offset, metadata),
        }
    }

    /// A record was read; whether its job is still to be done.
    pub(super) fn read(&mut self, offset: i64) -> bool {
        if self.next.is_some_and(|next| offset < next) {
            // Read before: what of that isn't settled is held.
            return false;
        }
        self.next = Some(offset.saturating_add(1));
        self.passed_over.retain(|range| range.end > offset);
        if self.passed_over.iter().any(|range| range.contains(&offset)) {
            return false;
        }
        self.unsettled.insert(offset)
    }

    /// A record's job is done with.
    pub(super) fn settle(&mut self, offset: i64) {
        self.unsettled.remove(&offset);
    }

    /// Where reading goes on.
    pub(super) fn next(&self) -> Option<i64> {
        self.next
    }

    /// Records that are read and not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// What may be committed now; nothing before anything is known.
    pub(super) fn progress(&self) -> Option<Progress> {
        let next = self.next?;
        let past = |range: &Range<i64>| range.contains(&next).then_some(range.end);
        let offset = self.unsettled.first().copied();
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

    /// What is settled beyond `offset`, in order: between what isn't, and what was before this reader began.
    fn settled_from(&self, offset: i64) -> Vec<Range<i64>> {
        let mut settled: Vec<Range<i64>> = Vec::new();
        let mut add = |range: Range<i64>| match settled.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => settled.push(range),
        };
        let mut at = offset;
        for unsettled in &self.unsettled {
            add(at..*unsettled);
            at = unsettled.saturating_add(1);
        }
        add(at..self.next.unwrap_or(at));
        for range in &self.passed_over {
            add(range.start.max(at)..range.end);
        }
        settled
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
            assert!(offsets.read(offset));
        }
        assert_eq!(offsets.progress(), Some(progress(10, "")));
        offsets.settle(11);
        offsets.settle(12);
        assert_eq!(offsets.progress(), Some(progress(10, "1:1,2")));
        offsets.settle(14);
        assert_eq!(offsets.progress(), Some(progress(10, "1:1,2,1,1")));
        offsets.settle(10);
        assert_eq!(offsets.progress(), Some(progress(13, "1:1,1")));
        offsets.settle(13);
        assert_eq!((offsets.progress(), offsets.unsettled()), (Some(progress(15, "")), 0));
    }

    #[test]
    fn what_was_settled_beyond_it_is_passed_over() {
        let mut offsets = Offsets::resume(Some(&progress(10, "1:1,2,1,1")));
        let again: Vec<i64> = (10..17).filter(|offset| offsets.read(*offset)).collect();
        assert_eq!(again, [10, 13, 15, 16]);
        assert!(!offsets.read(16), "read before");
    }

    #[test]
    fn metadata_that_is_not_ours_repeats_what_is_there() {
        for odd in ["", "1:", "2:1,1", "1:x", "1:1,-4", "1:0,5", "1:1,,1", "noise"] {
            let mut offsets = Offsets::resume(Some(&progress(3, odd)));
            assert!((3..9).all(|offset| offsets.read(offset)), "{odd}");
        }
    }

    #[test]
    fn metadata_stays_within_what_kafka_takes() {
        let mut offsets = Offsets::resume(None);
        for offset in 0..100_000 {
            offsets.read(offset);
            if offset % 2 == 1 {
                offsets.settle(offset);
            }
        }
        let progress = offsets.progress().unwrap();
        assert!(progress.metadata.len() <= MOST_METADATA && progress.metadata.len() > 4_000);
        let mut again = Offsets::resume(Some(&progress));
        assert_eq!((0..100).filter(|offset| again.read(*offset)).count(), 50);
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
                if offsets.read(next) {
                    prop_assert!(!settled.contains(&next), "{next} was settled");
                }
                read.insert(next);
                if offsets.unsettled.contains(&offset) {
                    offsets.settle(offset);
                    settled.insert(offset);
                }
            }
            let end = read.last().copied().unwrap_or(0);
            let mut again = Offsets::resume(offsets.progress().as_ref());
            let from = again.next().unwrap_or(0);
            let held: BTreeSet<i64> = (from..=end).filter(|offset| again.read(*offset)).collect();
            for offset in 0..=end {
                prop_assert!(settled.contains(&offset) || held.contains(&offset), "{offset} is lost");
            }
        }
    }
}
