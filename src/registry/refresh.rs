//! Look-ups that include what other servers changed a moment ago.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::{Principal, Registry};
use crate::common::crypto::api_key::KeyHash;
use crate::common::id::{EndpointId, TenantId};

impl Registry {
    /// Makes sure that this server has every change that was answered before now, at any server. It costs one round trip
    /// to the store, which concurrent callers share. A registry in the data dir needs none.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn refreshed(&self) -> Result<(), RegistryError> {
        self.0.store.refreshed().await.map_err(RegistryError::Behind)
    }

    /// Looks something up. If the result isn't complete, refreshes and looks it up again, because another server may have
    /// added or enabled it a moment ago.
    ///
    /// # Errors
    /// The first result isn't complete, and the store can't be reached.
    pub async fn look_up_or_refresh<T>(
        &self,
        look_up: impl Fn() -> T,
        is_complete: impl Fn(&T) -> bool,
    ) -> Result<T, RegistryError> {
        let known = look_up();
        if is_complete(&known) {
            return Ok(known);
        }
        self.refreshed().await?;
        Ok(look_up())
    }

    /// Returns an endpoint. If it seems to be missing or disabled, refreshes and looks again.
    ///
    /// # Errors
    /// The endpoint isn't known as enabled, and the store can't be reached.
    pub async fn endpoint_or_refresh(
        &self,
        tenant: TenantId,
        id: EndpointId,
    ) -> Result<Option<Arc<Endpoint>>, RegistryError> {
        let look_up = || self.endpoint(tenant, id);
        self.look_up_or_refresh(look_up, |known| {
            known.as_ref().is_some_and(|endpoint| endpoint.disabled.is_none())
        })
        .await
    }

    /// Returns the owner of the API key with that hash. If the key isn't known, refreshes at a bounded rate and looks
    /// again.
    ///
    /// # Errors
    /// The key isn't known, and the store can't be reached.
    pub async fn identify(&self, hash: &KeyHash) -> Result<Option<Principal>, RegistryError> {
        let known = self.authenticate(hash);
        if known.is_some() {
            return Ok(known);
        }
        self.0.store.refreshed_for_unauthenticated().await.map_err(RegistryError::Behind)?;
        Ok(self.authenticate(hash))
    }
}
