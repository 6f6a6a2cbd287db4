//! The index from event types to endpoints. The cost of a look-up depends on the number of endpoints that it finds, not
//! on the number of all endpoints.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::common::event_type::{EventFilter, EventType};
use crate::common::id::{EndpointId, TenantId};

/// Endpoints in the order of their tenants.
type Subscribers = BTreeSet<(TenantId, EndpointId)>;

/// Enabled endpoints by filter.
#[derive(Default)]
pub(super) struct Subscriptions {
    all: Subscribers,
    groups: HashMap<Arc<str>, Subscribers>,
    types: HashMap<EventType, Subscribers>,
}

impl Subscriptions {
    pub(super) fn insert(&mut self, endpoint: &Endpoint) {
        let name = (endpoint.tenant, endpoint.id);
        for filter in &endpoint.settings.events {
            match filter {
                EventFilter::All => self.all.insert(name),
                EventFilter::Group(group) => self.groups.entry(Arc::clone(group)).or_default().insert(name),
                EventFilter::Type(kind) => self.types.entry(kind.clone()).or_default().insert(name),
            };
        }
    }

    pub(super) fn remove(&mut self, endpoint: &Endpoint) {
        let name = (endpoint.tenant, endpoint.id);
        for filter in &endpoint.settings.events {
            match filter {
                EventFilter::All => drop(self.all.remove(&name)),
                EventFilter::Group(group) => remove_from(&mut self.groups, group, name),
                EventFilter::Type(kind) => remove_from(&mut self.types, kind, name),
            }
        }
    }

    /// Returns the endpoints that subscribe to an event type, each once, in the order of their tenants. `of` restricts
    /// them to one tenant.
    pub(super) fn subscribers(&self, kind: &EventType, of: Option<TenantId>) -> Subscribers {
        let groups = kind.groups().filter_map(|group| self.groups.get(group));
        let matching = groups.chain(self.types.get(kind)).chain([&self.all]);
        let (from, to) = (of.unwrap_or(TenantId::MIN), of.unwrap_or(TenantId::MAX));
        let range = (from, EndpointId::MIN)..=(to, EndpointId::MAX);
        matching.flat_map(|subscribers| subscribers.range(range.clone())).copied().collect()
    }
}

fn remove_from<K: Hash + Eq>(filters: &mut HashMap<K, Subscribers>, key: &K, name: (TenantId, EndpointId)) {
    if let Some(subscribers) = filters.get_mut(key) {
        subscribers.remove(&name);
        if subscribers.is_empty() {
            filters.remove(key);
        }
    }
}
