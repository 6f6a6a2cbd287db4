//! Waking of lanes: into a run queue, or by a timer.

use jiff::Timestamp;

use super::Lanes;
use super::lane::new_throttle;
use crate::common::job::Lane;
use crate::queue::throttle::Allowance;

impl<J: Clone> Lanes<J> {
    /// Puts a lane into its run queue, sets the timer that will do so, or forgets the lane if it has no jobs.
    ///
    /// A lane with as many leases as it may have is woken when one is settled, and a lane that is loading when it has
    /// been loaded.
    pub(super) fn wake(&mut self, lane: &Lane, now: Timestamp) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.is_empty() && !state.is_in_a_run_queue() {
            self.forget(lane);
            return;
        }
        let Some(first_due) = state.window.first_due() else { return };
        if state.is_loading && state.window.is_unloaded() {
            return;
        }
        let (limit, throttled_until) = match state.throttle.allowance(now) {
            Allowance::NotBefore(time) => (1, Some(time)),
            Allowance::UpTo(limit) => (limit, None),
        };
        let max_leases = if state.ordered { 1 } else { limit };
        if state.leased >= max_leases {
            return;
        }
        match throttled_until.map_or(first_due, |until| until.max(first_due)) {
            time if now < time => self.set_timer(lane, time),
            _ => self.run_queues.put(lane, state),
        }
    }

    /// Wakes every lane.
    pub(super) fn wake_all(&mut self, now: Timestamp) {
        for lane in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.wake(&lane, now);
        }
    }

    /// Removes a lane without jobs. Its throttle is kept for a while.
    fn forget(&mut self, lane: &Lane) {
        if let Some((lane, state)) = self.lanes.remove_entry(lane) {
            if let Some(timer) = state.timer {
                self.timers.remove(&timer);
            }
            self.idle.put(lane, state.throttle);
        }
    }

    /// Forgets the throttles of `lanes` and makes their jobs due at once, because their endpoints have changed.
    pub fn release<'a>(&mut self, lanes: impl IntoIterator<Item = &'a Lane>, now: Timestamp) {
        for lane in lanes {
            self.idle.pop(lane);
            if let Some(state) = self.lanes.get_mut(lane) {
                state.throttle = new_throttle(&self.config);
                state.window.release(now);
            }
            for (_, lease) in self.leases.iter_mut().filter(|(_, lease)| lease.lane == *lane) {
                lease.position.0 = lease.position.0.min(now);
            }
            self.wake(lane, now);
        }
    }

    /// Sets a timer that wakes the lane at `at`, unless an earlier one is set.
    pub(super) fn set_timer(&mut self, lane: &Lane, at: Timestamp) {
        let timer = (at, self.next_serial());
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.timer.is_some_and(|(earlier, _)| earlier <= at) {
            return;
        }
        if let Some(later) = state.timer.replace(timer) {
            self.timers.remove(&later);
        }
        self.timers.insert(timer, lane.clone());
    }

    /// Wakes the lanes whose timers are due.
    pub(super) fn fire_timers(&mut self, now: Timestamp) {
        while let Some(due) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let lane = due.remove();
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.timer = None;
            }
            self.wake(&lane, now);
        }
    }
}
