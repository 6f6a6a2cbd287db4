//! Creating, updating and deleting tenants.

use std::sync::Arc;

use super::{check_version, now, tenant_entry};
use crate::common::id::{EndpointId, TenantId};
use crate::registry::Registry;
use crate::registry::error::RegistryError;
use crate::registry::limits::{LimitOverrides, LimitUpdate};
use crate::registry::name::Name;
use crate::registry::state::{Change, State};
use crate::registry::tenant::{Tenant, TenantRef};

impl Registry {
    /// Creates a tenant.
    ///
    /// # Errors
    /// Another tenant has the name, or the change can't be written.
    pub async fn create_tenant(
        &self,
        name: Name,
        limits: LimitOverrides,
    ) -> Result<Arc<Tenant>, RegistryError> {
        self.change(move |state| {
            refuse_taken(state, &name)?;
            let tenant =
                Arc::new(Tenant { id: TenantId::new(), name, limits, created_at: now(), version: 1 });
            Ok((vec![Change::PutTenant(Arc::clone(&tenant))], tenant))
        })
        .await
    }

    /// Changes a tenant's name or limits.
    ///
    /// # Errors
    /// The tenant doesn't exist or isn't of the version `expected`, another tenant has the name, or the change can't be
    /// written.
    pub async fn update_tenant(
        &self,
        id: TenantId,
        expected: Option<u64>,
        name: Option<Name>,
        limits: Option<LimitUpdate>,
    ) -> Result<Arc<Tenant>, RegistryError> {
        self.change(move |state| {
            let old = &tenant_entry(state, id)?.tenant;
            check_version(expected, old.version)?;
            if let Some(name) = name.as_ref().filter(|name| **name != old.name) {
                refuse_taken(state, name)?;
            }
            let name = name.unwrap_or_else(|| old.name.clone());
            let limits = limits.map_or(old.limits, |update| update.applied_to(old.limits));
            if (&name, limits) == (&old.name, old.limits) {
                return Ok((Vec::new(), Arc::clone(old)));
            }
            let version = old.version.saturating_add(1);
            let tenant = Arc::new(Tenant { name, limits, version, ..Tenant::clone(old) });
            Ok((vec![Change::PutTenant(Arc::clone(&tenant))], tenant))
        })
        .await
    }

    /// Deletes a tenant with its keys and endpoints. Returns the ids of the endpoints.
    ///
    /// # Errors
    /// The tenant doesn't exist or isn't of the version `expected`, or the change can't be written.
    pub async fn delete_tenant(
        &self,
        id: TenantId,
        expected: Option<u64>,
    ) -> Result<Vec<EndpointId>, RegistryError> {
        self.change(move |state| {
            let entry = tenant_entry(state, id)?;
            check_version(expected, entry.tenant.version)?;
            Ok((vec![Change::DeleteTenant(id)], entry.endpoints.keys().copied().collect()))
        })
        .await
    }
}

fn refuse_taken(state: &State, name: &Name) -> Result<(), RegistryError> {
    match state.resolve(&TenantRef::Name(name.as_str().to_owned())) {
        Some(_) => Err(RegistryError::Conflict("another tenant has this name; choose another name")),
        None => Ok(()),
    }
}
