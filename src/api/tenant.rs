//! Tenants.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
use crate::common::id::TenantId;
use crate::common::json;
use crate::registry::Limits;
use crate::registry::limits::{LimitOverrides, LimitUpdate};
use crate::registry::tenant::Tenant;

/// A tenant that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name, which no other tenant has: no white space at its ends, control characters or marks of direction
    #[schema(schema_with = schema::tenant_name)]
    pub name: String,
    /// Where it differs from the server's limits
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_object")]
    #[schema(nullable = false)]
    pub limits: Option<LimitOverrides>,
}

/// What is to change of a tenant; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantUpdate {
    /// Another name
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(schema_with = schema::tenant_name)]
    pub name: Option<String>,
    /// Its own limits, those that are to change
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_object")]
    #[schema(nullable = false)]
    pub limits: Option<LimitUpdate>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// Its id
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub id: TenantId,
    /// Its name
    pub name: String,
    /// Where it differs from the server's limits
    pub limits: LimitOverrides,
    /// The limits that hold for it, its own and the server's
    pub effective_limits: LimitsView,
    /// What it has of what is limited
    pub usage: UsageView,
    /// When it was made
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What a tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    /// Jobs in the queue at once, over all endpoints
    #[schema(format = Int64)]
    pub queued_jobs: u32,
    /// Events published to the tenant by name, or by itself, a second
    #[schema(format = Int64)]
    pub publishes_per_second: u32,
    /// Endpoints
    #[schema(format = Int64)]
    pub endpoints: u32,
}

impl From<Limits> for LimitsView {
    fn from(limits: Limits) -> Self {
        let Limits { queued_jobs, publishes_per_second, endpoints } = limits;
        Self { queued_jobs, publishes_per_second, endpoints }
    }
}

/// What a tenant has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Jobs in the queue
    pub queued_jobs: u64,
    /// Endpoints
    pub endpoints: usize,
}

/// What became of a deleted tenant's jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedTenant {
    /// The tenant that is gone
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub id: TenantId,
    /// Its jobs that were in the queue: they are dropped, but for those whose delivery was under way
    pub dropped_jobs: u64,
}

impl TenantView {
    /// A tenant as it is shown.
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
