//! Bodies of the tenant routes: tenants, their limits and their usage.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::common::id::TenantId;
use crate::common::json;
use crate::registry::Limits;
use crate::registry::limits::{LimitOverrides, LimitUpdate};
use crate::registry::tenant::Tenant;

/// A new tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Name of the tenant
    #[schema(schema_with = schema::tenant_name)]
    pub name: String,
    /// Limits that differ from the server's defaults
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_object")]
    #[schema(nullable = false)]
    pub limits: Option<LimitOverrides>,
}

/// Changes to a tenant. Absent members keep their value.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantUpdate {
    /// New name
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::tenant_name)]
    pub name: Option<String>,
    /// Limits to change
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_object")]
    #[schema(nullable = false)]
    pub limits: Option<LimitUpdate>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// Id of the tenant
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub id: TenantId,
    /// Name of the tenant
    pub name: String,
    /// Limits that differ from the server's defaults
    pub limits: LimitOverrides,
    /// Limits that apply: the tenant's own, and the server's defaults for the others
    pub effective_limits: LimitsView,
    /// Current usage of the limited resources
    pub usage: UsageView,
    /// Time of creation
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Limits of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    /// Maximum number of queued messages, over all endpoints
    #[schema(format = Int64)]
    pub queued_jobs: u32,
    /// Maximum number of events per second that name the tenant, or that it publishes itself
    #[schema(format = Int64)]
    pub publishes_per_second: u32,
    /// Maximum number of endpoints
    #[schema(format = Int64)]
    pub endpoints: u32,
}

impl From<Limits> for LimitsView {
    fn from(limits: Limits) -> Self {
        let Limits { queued_jobs, publishes_per_second, endpoints } = limits;
        Self { queued_jobs, publishes_per_second, endpoints }
    }
}

/// Usage of a tenant's limited resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Number of queued messages
    pub queued_jobs: u64,
    /// Number of endpoints
    pub endpoints: usize,
}

/// Result of deleting a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedTenant {
    /// Id of the deleted tenant
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub id: TenantId,
    /// Number of messages that were queued. They are dropped, except those that were being delivered
    pub dropped_jobs: u64,
}

impl TenantView {
    /// Creates the view of a tenant.
    #[must_use]
    pub fn new(tenant: &Tenant, effective_limits: Limits, usage: UsageView) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.as_str().to_owned(),
            limits: tenant.limits,
            effective_limits: effective_limits.into(),
            usage,
            created_at: tenant.created_at,
        }
    }
}
