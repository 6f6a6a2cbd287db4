//! Views and changes of many lanes at once, for a backend whose jobs can move to another process.

use jiff::Timestamp;

use super::Lanes;
use super::lane::LaneView;
use super::lease::ActiveLease;
use super::window::{LanePosition, WaitingJob};
use crate::queue::LeaseId;

impl<J: Clone> Lanes<J> {
    /// Removes the waiting and leased jobs for which `is_gone` holds. They no longer belong to this queue.
    pub(in crate::queue) fn remove(&mut self, is_gone: impl Fn(&J) -> bool, now: Timestamp) {
        let leases = self.leases.iter().filter(|(_, lease)| is_gone(&lease.waiting.job));
        let ids: Vec<_> = leases.map(|(slot, lease)| LeaseId { slot, serial: lease.serial }).collect();
        for id in ids {
            let Some(ActiveLease { lane, .. }) = self.end_lease(id) else { continue };
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.leased = state.leased.saturating_sub(1);
            }
        }
        for state in self.lanes.values_mut() {
            state.window.remove(|waiting| is_gone(&waiting.job));
        }
        self.wake_all(now);
    }

    /// Returns a view of every lane that has jobs.
    pub(in crate::queue) fn views(&self, now: Timestamp) -> impl Iterator<Item = LaneView<'_, J>> {
        self.lanes.values().map(move |state| LaneView::new(state, now))
    }

    /// Removes the waiting jobs that `chosen` selects from each lane. Returns them in the order of each lane, each with
    /// whether its lane is ordered.
    pub(in crate::queue) fn take(
        &mut self,
        chosen: impl Fn(&LaneView<'_, J>) -> Vec<LanePosition>,
        now: Timestamp,
    ) -> Vec<(bool, (LanePosition, WaitingJob<J>))> {
        let mut taken = Vec::new();
        for state in self.lanes.values_mut() {
            let positions = chosen(&LaneView::new(state, now)).into_iter();
            let of_lane = positions
                .filter_map(|position| Some((state.ordered, (position, state.window.take(position)?))));
            taken.extend(of_lane);
        }
        if !taken.is_empty() {
            self.wake_all(now);
        }
        taken
    }

    /// Returns the number of leases whose jobs satisfy `is_meant`.
    #[must_use]
    pub(in crate::queue) fn leased_of(&self, is_meant: impl Fn(&J) -> bool) -> usize {
        self.leases.iter().filter(|(_, lease)| is_meant(&lease.waiting.job)).count()
    }
}
