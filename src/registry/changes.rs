//! Changes of the registry. Each is durable and visible when its method returns. Dropping the future doesn't undo a
//! change that has begun.

mod api_keys;
mod endpoints;
mod public_keys;
mod tenants;

use jiff::Timestamp;

use super::error::RegistryError;
use super::state::{State, TenantEntry};
use crate::common::id::TenantId;

const NO_TENANT: RegistryError = RegistryError::NoSuch("tenant");

fn tenant_entry(state: &State, id: TenantId) -> Result<&TenantEntry, RegistryError> {
    state.tenant(id).ok_or(NO_TENANT)
}

fn check_version(expected: Option<u64>, found: u64) -> Result<(), RegistryError> {
    if expected.is_none_or(|expected| expected == found) { Ok(()) } else { Err(RegistryError::Changed) }
}

fn check_limit(what: &'static str, have: usize, max: usize) -> Result<(), RegistryError> {
    if have < max {
        return Ok(());
    }
    Err(RegistryError::Limit { what, max: u64::try_from(max).unwrap_or(u64::MAX) })
}

/// Returns the current time in whole milliseconds, the precision of the stores.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
