//! Tenants.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{schema, strict};
use crate::common::id::TenantId;
use crate::registry::tenant::{LimitOverrides, Tenant};

/// A tenant that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name, which no other tenant has: no white space at its ends, control characters or marks of direction
    #[schema(schema_with = schema::tenant_name)]
    pub name: String,
    /// Where it differs from the server's limits
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::present_object")]
    #[schema(nullable = false)]
    pub limits: Option<LimitOverrides>,
}

/// What is to change of a tenant; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantUpdate {
    /// Another name
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::present")]
    #[schema(schema_with = schema::tenant_name)]
    pub name: Option<String>,
    /// All of its own limits
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::present_object")]
    #[schema(nullable = false)]
    pub limits: Option<LimitOverrides>,
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
    /// When it was made
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
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

impl From<&Tenant> for TenantView {
    fn from(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.as_str().to_owned(),
            limits: tenant.limits,
            created_at: tenant.created_at,
        }
    }
}
