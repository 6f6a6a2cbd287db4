//! The registry in memory, which answers all look-ups. No I/O, no locks.
//!
//! ```text
//! tenants        one entry per tenant: its public keys (oldest first), API keys and endpoints
//! names          ids of tenants by name
//! provider_keys  API keys of the provider
//! api_keys       all API keys by the first 64 bits of their hash
//! subscriptions  enabled endpoints by event type
//! ```

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::endpoint::Endpoint;
use super::limits::{LimitOverrides, Limits};
use super::name::Name;
use super::subscriptions::Subscriptions;
use super::tenant::{ApiKeyRecord, KeyState, Tenant, TenantKey, TenantRef};
use crate::common::crypto::api_key::KeyHash;
use crate::common::event_type::EventType;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};

/// A change of the registry, for the store and for the memory.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Adds or replaces a tenant.
    PutTenant(Arc<Tenant>),
    /// Removes a tenant with its keys and endpoints.
    DeleteTenant(TenantId),
    /// Adds an API key.
    PutApiKey(Arc<ApiKeyRecord>),
    /// Revokes an API key of a tenant, or of the provider.
    DeleteApiKey(Option<TenantId>, ApiKeyId),
    /// Adds or replaces a public key.
    PutPublicKey(TenantId, Arc<TenantKey>),
    /// Removes a public key.
    DeletePublicKey(TenantId, Box<str>),
    /// Adds or replaces an endpoint.
    PutEndpoint(Arc<Endpoint>),
    /// Removes an endpoint.
    DeleteEndpoint(TenantId, EndpointId),
}

/// Position in the shared log. All changes up to it are in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Number of the last change.
    pub(super) version: u64,
    /// Unique mark of the last change. The number alone isn't enough: it is used again if the store loses changes.
    pub(super) mark: String,
    /// Number of the last change that this server made.
    pub(super) own: u64,
}

/// All tenants with their keys and endpoints.
pub(super) struct State {
    /// Position in the shared log. Unused if the registry is in the data dir.
    pub(super) at: Position,
    limits: Limits,
    tenants: BTreeMap<TenantId, TenantEntry>,
    names: HashMap<Name, TenantId>,
    provider_keys: BTreeMap<ApiKeyId, Arc<ApiKeyRecord>>,
    api_keys: HashMap<u64, Vec<Arc<ApiKeyRecord>>>,
    subscriptions: Subscriptions,
}

/// A tenant with its keys and endpoints.
pub(super) struct TenantEntry {
    pub(super) tenant: Arc<Tenant>,
    /// Public keys in the order in which they were added.
    pub(super) public_keys: Vec<Arc<TenantKey>>,
    pub(super) api_keys: BTreeMap<ApiKeyId, Arc<ApiKeyRecord>>,
    pub(super) endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// Limiter of the tenant's publishes. A change of the limit replaces it.
    pub(super) rate: Arc<DefaultDirectRateLimiter>,
}

impl TenantEntry {
    /// Returns the key that new events are sealed to.
    pub(super) fn active_key(&self) -> Option<&Arc<TenantKey>> {
        self.public_keys.iter().find(|key| key.state == KeyState::Active)
    }
}

/// A tenant that receives an event.
pub struct Recipient {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// Key that its events are sealed to.
    pub key: Arc<TenantKey>,
    /// Endpoints that receive the event.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            at: Position::default(),
            limits,
            tenants: BTreeMap::new(),
            names: HashMap::new(),
            provider_keys: BTreeMap::new(),
            api_keys: HashMap::new(),
            subscriptions: Subscriptions::default(),
        }
    }

    /// Applies one change. A change of an unknown tenant's key or endpoint has no effect.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::PutTenant(tenant) => self.put_tenant(tenant),
            Change::DeleteTenant(id) => self.delete_tenant(id),
            Change::PutApiKey(key) => self.put_api_key(key),
            Change::DeleteApiKey(owner, id) => self.delete_api_key(owner, id),
            Change::PutPublicKey(id, key) => {
                if let Some(entry) = self.tenants.get_mut(&id) {
                    match entry.public_keys.iter_mut().find(|known| known.kid == key.kid) {
                        Some(known) => *known = key,
                        None => entry.public_keys.push(key),
                    }
                }
            }
            Change::DeletePublicKey(id, kid) => {
                if let Some(entry) = self.tenants.get_mut(&id) {
                    entry.public_keys.retain(|known| known.kid != kid);
                }
            }
            Change::PutEndpoint(endpoint) => self.put_endpoint(endpoint),
            Change::DeleteEndpoint(tenant, id) => {
                if let Some(old) = self.tenants.get_mut(&tenant).and_then(|entry| entry.endpoints.remove(&id))
                {
                    self.subscriptions.remove(&old);
                }
            }
        }
    }

    /// Takes over the rate limiters of the state that this one replaces, so that recent publishes still count.
    pub(super) fn inherit_rates(&mut self, old: &Self) {
        for (id, entry) in &mut self.tenants {
            let has_same_limit = |old: &&TenantEntry| {
                old.tenant.limits.publishes_per_second == entry.tenant.limits.publishes_per_second
            };
            if let Some(old) = old.tenants.get(id).filter(has_same_limit) {
                entry.rate = Arc::clone(&old.rate);
            }
        }
    }

    fn put_tenant(&mut self, tenant: Arc<Tenant>) {
        let rate = rate_of(self.limits.with(tenant.limits));
        self.names.insert(tenant.name.clone(), tenant.id);
        match self.tenants.get_mut(&tenant.id) {
            Some(entry) => {
                if entry.tenant.name != tenant.name {
                    self.names.remove(&entry.tenant.name);
                }
                if entry.tenant.limits.publishes_per_second != tenant.limits.publishes_per_second {
                    entry.rate = rate;
                }
                entry.tenant = tenant;
            }
            None => {
                let entry = TenantEntry {
                    public_keys: Vec::new(),
                    api_keys: BTreeMap::new(),
                    endpoints: BTreeMap::new(),
                    rate,
                    tenant: Arc::clone(&tenant),
                };
                self.tenants.insert(tenant.id, entry);
            }
        }
    }

    fn delete_tenant(&mut self, id: TenantId) {
        let Some(entry) = self.tenants.remove(&id) else { return };
        self.names.remove(&entry.tenant.name);
        for key in entry.api_keys.values() {
            self.forget_hash(key);
        }
        for endpoint in entry.endpoints.values() {
            self.subscriptions.remove(endpoint);
        }
    }

    fn put_api_key(&mut self, key: Arc<ApiKeyRecord>) {
        let keys = match key.tenant {
            None => Some(&mut self.provider_keys),
            Some(tenant) => self.tenants.get_mut(&tenant).map(|entry| &mut entry.api_keys),
        };
        if let Some(keys) = keys {
            keys.insert(key.id, Arc::clone(&key));
            self.api_keys.entry(key.hash.bucket()).or_default().push(key);
        }
    }

    fn delete_api_key(&mut self, owner: Option<TenantId>, id: ApiKeyId) {
        let keys = match owner {
            None => Some(&mut self.provider_keys),
            Some(tenant) => self.tenants.get_mut(&tenant).map(|entry| &mut entry.api_keys),
        };
        if let Some(key) = keys.and_then(|keys| keys.remove(&id)) {
            self.forget_hash(&key);
        }
    }

    fn forget_hash(&mut self, key: &ApiKeyRecord) {
        if let Some(bucket) = self.api_keys.get_mut(&key.hash.bucket()) {
            bucket.retain(|known| known.id != key.id);
            if bucket.is_empty() {
                self.api_keys.remove(&key.hash.bucket());
            }
        }
    }

    fn put_endpoint(&mut self, endpoint: Arc<Endpoint>) {
        let Some(entry) = self.tenants.get_mut(&endpoint.tenant) else { return };
        if let Some(old) = entry.endpoints.insert(endpoint.id, Arc::clone(&endpoint)) {
            self.subscriptions.remove(&old);
        }
        if endpoint.disabled.is_none() {
            self.subscriptions.insert(&endpoint);
        }
    }

    /// Returns the API key with the hash `hash`.
    pub(super) fn api_key(&self, hash: &KeyHash) -> Option<&Arc<ApiKeyRecord>> {
        self.api_keys.get(&hash.bucket())?.iter().find(|key| key.hash == *hash)
    }

    pub(super) fn resolve(&self, tenant: &TenantRef) -> Option<&TenantEntry> {
        let id = match tenant {
            TenantRef::Id(id) => id,
            TenantRef::Name(name) => self.names.get(name.as_str())?,
        };
        self.tenants.get(id)
    }

    pub(super) fn tenant(&self, id: TenantId) -> Option<&TenantEntry> {
        self.tenants.get(&id)
    }

    pub(super) fn endpoint(&self, tenant: TenantId, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.tenants.get(&tenant)?.endpoints.get(&id)
    }

    /// Returns tenants in the order of their ids, from the first one after `after`.
    pub(super) fn tenants_after(&self, after: Option<TenantId>) -> impl Iterator<Item = &Arc<Tenant>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.tenants.range((from, Bound::Unbounded)).map(|(_, entry)| &entry.tenant)
    }

    /// Returns the API keys of a tenant, or of the provider. `None` if the tenant doesn't exist.
    pub(super) fn api_keys_of(
        &self,
        owner: Option<TenantId>,
    ) -> Option<&BTreeMap<ApiKeyId, Arc<ApiKeyRecord>>> {
        match owner {
            None => Some(&self.provider_keys),
            Some(tenant) => self.tenants.get(&tenant).map(|entry| &entry.api_keys),
        }
    }

    /// Returns the enabled endpoints that subscribe to an event type, of one tenant or of all, grouped by tenant.
    pub(super) fn recipients(&self, kind: &EventType, of: Option<TenantId>) -> Vec<Recipient> {
        let mut recipients: Vec<Recipient> = Vec::new();
        for (tenant, endpoint) in self.subscriptions.subscribers(kind, of) {
            let Some(entry) = self.tenants.get(&tenant) else { continue };
            let Some(endpoint) = entry.endpoints.get(&endpoint).cloned() else { continue };
            match recipients.last_mut().filter(|last| last.tenant.id == tenant) {
                Some(last) => last.endpoints.push(endpoint),
                None => recipients.extend(entry.active_key().map(|key| Recipient {
                    tenant: Arc::clone(&entry.tenant),
                    key: Arc::clone(key),
                    endpoints: vec![endpoint],
                })),
            }
        }
        recipients
    }

    /// Returns the limits of a tenant with those overrides.
    pub(super) fn limits(&self, overrides: LimitOverrides) -> Limits {
        self.limits.with(overrides)
    }

    /// Returns the number of tenants and of endpoints.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.tenants.len(), self.tenants.values().map(|entry| entry.endpoints.len()).sum())
    }
}

fn rate_of(limits: Limits) -> Arc<DefaultDirectRateLimiter> {
    let per_second = NonZeroU32::new(limits.publishes_per_second).unwrap_or(NonZeroU32::MIN);
    Arc::new(RateLimiter::direct(Quota::per_second(per_second)))
}
