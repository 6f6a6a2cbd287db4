//! Values by the health of an endpoint.

use crate::queue::throttle::EndpointHealth;

/// A value for each health of an endpoint.
#[derive(Debug, Default)]
pub(super) struct PerHealth<T> {
    healthy: T,
    new: T,
    failing: T,
}

impl<T> PerHealth<T> {
    pub(super) fn of(&self, health: EndpointHealth) -> &T {
        match health {
            EndpointHealth::Healthy => &self.healthy,
            EndpointHealth::New => &self.new,
            EndpointHealth::Failing => &self.failing,
        }
    }

    pub(super) fn of_mut(&mut self, health: EndpointHealth) -> &mut T {
        match health {
            EndpointHealth::Healthy => &mut self.healthy,
            EndpointHealth::New => &mut self.new,
            EndpointHealth::Failing => &mut self.failing,
        }
    }
}

/// Returns the order in which the run queues are served, beginning with `first`.
pub(super) fn round_robin_from(first: EndpointHealth) -> [EndpointHealth; 3] {
    use EndpointHealth::{Failing, Healthy, New};
    match first {
        Healthy => [Healthy, New, Failing],
        New => [New, Failing, Healthy],
        Failing => [Failing, Healthy, New],
    }
}
