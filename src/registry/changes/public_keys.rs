//! Adding and retiring public keys.

use std::sync::Arc;

use super::{now, tenant_entry};
use crate::common::crypto::keys::PublicKey;
use crate::common::id::TenantId;
use crate::registry::Registry;
use crate::registry::error::RegistryError;
use crate::registry::state::Change;
use crate::registry::tenant::{KeyState, TenantKey};

/// Maximum number of public keys of one tenant, retired ones included. A new key replaces the longest retired one.
const MAX_PUBLIC_KEYS: usize = 32;

impl Registry {
    /// Adds a public key, which new events are sealed to from now on. The previous active key becomes retiring. A key that
    /// the tenant had before becomes active again. Returns the key, and whether it is new to the tenant.
    ///
    /// # Errors
    /// The tenant doesn't exist, has too many keys that aren't retired, or the change can't be written.
    pub async fn add_public_key(
        &self,
        tenant: TenantId,
        key: PublicKey,
    ) -> Result<(Arc<TenantKey>, bool), RegistryError> {
        self.change(move |state| {
            let entry = tenant_entry(state, tenant)?;
            let (now, kid) = (now(), key.kid());
            let known = entry.public_keys.iter().find(|known| *known.kid == *kid);
            if let Some(active) = known.filter(|known| known.state == KeyState::Active) {
                return Ok((Vec::new(), (Arc::clone(active), false)));
            }
            let mut changes = Vec::new();
            if known.is_none() && entry.public_keys.len() >= MAX_PUBLIC_KEYS {
                let retired = entry.public_keys.iter().filter(|key| key.state == KeyState::Retired);
                let oldest = retired.min_by_key(|key| key.changed_at).ok_or(RegistryError::Limit {
                    what: "public keys that aren't retired",
                    max: u64::try_from(MAX_PUBLIC_KEYS).unwrap_or(u64::MAX),
                })?;
                changes.push(Change::DeletePublicKey(tenant, oldest.kid.clone()));
            }
            // This change comes first, because a tenant has at most one active key at any time.
            changes.extend(entry.active_key().map(|active| {
                Change::PutPublicKey(tenant, Arc::new(active.in_state(KeyState::Retiring, now)))
            }));
            let added = match known {
                Some(known) => known.in_state(KeyState::Active, now),
                None => TenantKey::new(kid, &key.to_pem()?, key.bits(), KeyState::Active, [now, now]),
            };
            let added = Arc::new(added);
            changes.push(Change::PutPublicKey(tenant, Arc::clone(&added)));
            Ok((changes, (added, known.is_none())))
        })
        .await
    }

    /// Retires a public key that another one has replaced.
    ///
    /// # Errors
    /// The key doesn't exist or is the active one, or the change can't be written.
    pub async fn retire_public_key(
        &self,
        tenant: TenantId,
        kid: String,
    ) -> Result<Arc<TenantKey>, RegistryError> {
        self.change(move |state| {
            let keys = &tenant_entry(state, tenant)?.public_keys;
            let key = keys.iter().find(|key| *key.kid == *kid).ok_or(RegistryError::NoSuch("public key"))?;
            match key.state {
                KeyState::Active => Err(RegistryError::Conflict(
                    "events are sealed to this key: add the key that replaces it first",
                )),
                KeyState::Retired => Ok((Vec::new(), Arc::clone(key))),
                KeyState::Retiring => {
                    let retired = Arc::new(key.in_state(KeyState::Retired, now()));
                    Ok((vec![Change::PutPublicKey(tenant, Arc::clone(&retired))], retired))
                }
            }
        })
        .await
    }
}
