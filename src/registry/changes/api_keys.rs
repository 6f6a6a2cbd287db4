//! Creating and revoking API keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NO_TENANT, check_limit, now};
use crate::common::crypto::api_key::{ApiKey, KeyHash, KeyKind};
use crate::common::id::{ApiKeyId, TenantId};
use crate::registry::Registry;
use crate::registry::error::RegistryError;
use crate::registry::name::Name;
use crate::registry::state::Change;
use crate::registry::tenant::ApiKeyRecord;

/// Maximum number of API keys of one tenant, or of the provider.
const MAX_API_KEYS: usize = 64;

impl Registry {
    /// Creates an API key for a tenant, or for the provider. The registry keeps only its hash.
    ///
    /// # Errors
    /// The tenant doesn't exist or has too many keys, or the change can't be written.
    pub async fn create_api_key(
        &self,
        owner: Option<TenantId>,
        description: Option<Name>,
    ) -> Result<(Arc<ApiKeyRecord>, ApiKey), RegistryError> {
        self.change(move |state| {
            let keys = state.api_keys_of(owner).ok_or(NO_TENANT)?;
            check_limit("API keys (revoke one)", keys.len(), MAX_API_KEYS)?;
            let key = ApiKey::generate(if owner.is_some() { KeyKind::Tenant } else { KeyKind::Provider })?;
            let record = record_of(&key, owner, description);
            Ok((vec![Change::PutApiKey(Arc::clone(&record))], (record, key)))
        })
        .await
    }

    /// Adds an API key of the provider, unless the provider has one already. Returns whether it was added.
    ///
    /// # Errors
    /// The change can't be written.
    pub async fn first_provider_key(&self, key: &ApiKey) -> Result<bool, RegistryError> {
        let record = record_of(key, None, None);
        self.change(move |state| {
            let is_first = state.api_keys_of(None).is_none_or(BTreeMap::is_empty);
            Ok((is_first.then_some(Change::PutApiKey(record)).into_iter().collect(), is_first))
        })
        .await
    }

    /// Adds an API key of the provider, and revokes the one with the hash `old`, if it exists.
    ///
    /// # Errors
    /// The change can't be written.
    pub async fn replace_provider_key(
        &self,
        key: &ApiKey,
        old: Option<KeyHash>,
    ) -> Result<(), RegistryError> {
        let record = record_of(key, None, None);
        self.change(move |state| {
            let old = old.and_then(|hash| state.api_key(&hash)).filter(|old| old.tenant.is_none());
            let revocation = old.map(|old| Change::DeleteApiKey(None, old.id));
            Ok(([Some(Change::PutApiKey(record)), revocation].into_iter().flatten().collect(), ()))
        })
        .await
    }

    /// Revokes an API key at once.
    ///
    /// # Errors
    /// The key doesn't exist or is the provider's last, or the change can't be written.
    pub async fn revoke_api_key(&self, owner: Option<TenantId>, id: ApiKeyId) -> Result<(), RegistryError> {
        self.change(move |state| {
            let keys = state.api_keys_of(owner).ok_or(NO_TENANT)?;
            if !keys.contains_key(&id) {
                return Err(RegistryError::NoSuch("API key"));
            }
            if owner.is_none() && keys.len() == 1 {
                return Err(RegistryError::Conflict(
                    "this is the provider's last API key: create another one first",
                ));
            }
            Ok((vec![Change::DeleteApiKey(owner, id)], ()))
        })
        .await
    }
}

fn record_of(key: &ApiKey, owner: Option<TenantId>, description: Option<Name>) -> Arc<ApiKeyRecord> {
    Arc::new(ApiKeyRecord {
        id: ApiKeyId::new(),
        tenant: owner,
        hash: key.hash(),
        hint: key.hint(),
        description,
        created_at: now(),
    })
}
