//! Look-ups. All are answered from memory, without I/O.

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

    /// Returns the owner of the API key with that hash, as far as this server knows.
    #[must_use]
    pub fn authenticate(&self, hash: &KeyHash) -> Option<Principal> {
        let state = self.state();
        state.api_key(hash).map(|key| key.tenant.map_or(Principal::Provider, Principal::Tenant))
    }

    /// Returns a tenant.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantRef) -> Option<Arc<Tenant>> {
        self.state().resolve(tenant).map(|entry| Arc::clone(&entry.tenant))
    }

    /// Returns a tenant's limits: its own, and the server's defaults for the rest.
    #[must_use]
    pub fn limits(&self, tenant: &Tenant) -> Limits {
        self.state().limits(tenant.limits)
    }

    /// Returns the limiter of a tenant's publishes.
    #[must_use]
    pub fn publish_rate(&self, tenant: TenantId) -> Option<Arc<DefaultDirectRateLimiter>> {
        self.state().tenant(tenant).map(|entry| Arc::clone(&entry.rate))
    }

    /// Returns at most `limit` tenants, from the first one after `after`.
    #[must_use]
    pub fn tenants(&self, after: Option<TenantId>, limit: usize) -> Page<Arc<Tenant>> {
        page(self.state().tenants_after(after), limit)
    }

    /// Returns at most `limit` API keys of a tenant, or of the provider, from the first one after `after`.
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

    /// Returns the public keys of a tenant, in the order in which they were added.
    #[must_use]
    pub fn public_keys(&self, tenant: TenantId) -> Vec<Arc<TenantKey>> {
        self.state().tenant(tenant).map(|entry| entry.public_keys.clone()).unwrap_or_default()
    }

    /// Returns at most `limit` endpoints of a tenant, from the first one after `after`.
    #[must_use]
    pub fn endpoints(
        &self,
        tenant: TenantId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Page<Arc<Endpoint>> {
        let state = self.state();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let endpoints = state.tenant(tenant).into_iter();
        let endpoints = endpoints.flat_map(|entry| entry.endpoints.range((after, Bound::Unbounded)));
        page(endpoints.map(|(_, endpoint)| endpoint), limit)
    }

    /// Returns an endpoint of a tenant.
    #[must_use]
    pub fn endpoint(&self, tenant: TenantId, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.state().endpoint(tenant, id).cloned()
    }

    /// Returns the enabled endpoints that subscribe to an event type, of one tenant or of all, grouped by tenant.
    #[must_use]
    pub fn recipients(&self, kind: &EventType, of: Option<TenantId>) -> Vec<Recipient> {
        self.state().recipients(kind, of)
    }

    /// Returns one endpoint as a recipient, whatever it subscribes to. `None` if the tenant has no active key.
    #[must_use]
    pub fn recipient(&self, tenant: TenantId, id: EndpointId) -> Option<Recipient> {
        let state = self.state();
        let entry = state.tenant(tenant)?;
        Some(Recipient {
            tenant: Arc::clone(&entry.tenant),
            key: Arc::clone(entry.active_key()?),
            endpoints: vec![Arc::clone(entry.endpoints.get(&id)?)],
        })
    }

    /// Returns the number of a tenant's endpoints.
    #[must_use]
    pub fn endpoint_count(&self, tenant: TenantId) -> usize {
        self.state().tenant(tenant).map_or(0, |entry| entry.endpoints.len())
    }

    /// Returns the number of tenants and of endpoints.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        self.state().count()
    }
}
