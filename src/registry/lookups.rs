//! Look-ups: from memory, at once.

use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use governor::DefaultDirectRateLimiter;

use super::endpoint::Endpoint;
use super::state::State;
use super::tenant::{ApiKeyRecord, Tenant, TenantKey};
use super::{Limits, Page, Principal, Recipient, Registry, TenantRef};
use crate::common::crypto::api_key::KeyHash;
use crate::common::event_type::EventType;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};

fn page<'a, T: Clone + 'a>(items: impl Iterator<Item = &'a T>, limit: usize) -> Page<T> {
    let mut items = items.cloned();
    Page { items: items.by_ref().take(limit).collect(), more: items.next().is_some() }
}

impl Registry {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who presents a key of that hash.
    #[must_use]
    pub fn authenticate(&self, hash: &KeyHash) -> Option<Principal> {
        let state = self.state();
        state.api_key(hash).map(|key| key.tenant.map_or(Principal::Provider, Principal::Tenant))
    }

    /// A tenant.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantRef) -> Option<Arc<Tenant>> {
        self.state().entry(tenant).map(|entry| Arc::clone(&entry.tenant))
    }

    /// A tenant's limits, its own and the server's.
    #[must_use]
    pub fn limits(&self, tenant: &Tenant) -> Limits {
        self.state().limits(tenant.limits)
    }

    /// What a tenant may still publish now.
    #[must_use]
    pub fn publish_rate(&self, tenant: TenantId) -> Option<Arc<DefaultDirectRateLimiter>> {
        self.state().entry_of(tenant).map(|entry| Arc::clone(&entry.rate))
    }

    /// Tenants, from the one after `after` on.
    #[must_use]
    pub fn tenants(&self, after: Option<TenantId>, limit: usize) -> Page<Arc<Tenant>> {
        page(self.state().tenants_after(after), limit)
    }

    /// The API keys of a tenant, or of the provider, from the one after `after` on.
    #[must_use]
    pub fn api_keys(
        &self,
        owner: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: usize,
    ) -> Page<Arc<ApiKeyRecord>> {
        let state = self.state();
        let keys = state.api_keys_of(owner).into_iter().flatten();
        page(keys.filter(|(id, _)| after.is_none_or(|after| **id > after)).map(|(_, key)| key), limit)
    }

    /// The public keys of a tenant, in the order in which they were added.
    #[must_use]
    pub fn public_keys(&self, tenant: TenantId) -> Vec<Arc<TenantKey>> {
        self.state().entry_of(tenant).map(|entry| entry.public_keys.clone()).unwrap_or_default()
    }

    /// The endpoints of a tenant, from the one after `after` on.
    #[must_use]
    pub fn endpoints(
        &self,
        tenant: TenantId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Page<Arc<Endpoint>> {
        let state = self.state();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let endpoints = state.entry_of(tenant).into_iter();
        let endpoints = endpoints.flat_map(|entry| entry.endpoints.range((after, Bound::Unbounded)));
        page(endpoints.map(|(_, endpoint)| endpoint), limit)
    }

    /// An endpoint of a tenant.
    #[must_use]
    pub fn endpoint(&self, tenant: TenantId, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.state().endpoint(tenant, id).cloned()
    }

    /// The enabled endpoints that want events of that type, of one tenant or all, by tenant.
    #[must_use]
    pub fn recipients(&self, kind: &EventType, of: Option<TenantId>) -> Vec<Recipient> {
        self.state().recipients(kind, of)
    }

    /// One endpoint, whatever it wants, with what its events are sealed to.
    #[must_use]
    pub fn recipient(&self, tenant: TenantId, id: EndpointId) -> Option<Recipient> {
        let state = self.state();
        let entry = state.entry_of(tenant)?;
        Some(Recipient {
            tenant: Arc::clone(&entry.tenant),
            key: Arc::clone(entry.active_key()?),
            endpoints: vec![Arc::clone(entry.endpoints.get(&id)?)],
        })
    }

    /// How many endpoints a tenant has.
    #[must_use]
    pub fn endpoint_count(&self, tenant: TenantId) -> usize {
        self.state().entry_of(tenant).map_or(0, |entry| entry.endpoints.len())
    }

    /// How many tenants and endpoints there are.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        self.state().count()
    }
}
