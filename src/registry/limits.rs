//! Limits of a tenant: the server's defaults, and the tenant's own.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::common::json::{present_whole_or_null, whole};

/// Limits of one tenant, and the server's defaults for tenants without their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of jobs in the queue at once, over all endpoints.
    pub queued_jobs: u32,
    /// Maximum number of events per second that name the tenant, or that it publishes itself.
    pub publishes_per_second: u32,
    /// Maximum number of endpoints.
    pub endpoints: u32,
}

impl Limits {
    /// Returns these limits with a tenant's own in place of the defaults.
    pub(super) fn with(self, overrides: LimitOverrides) -> Self {
        let or = |own: Option<NonZeroU32>, default| own.map_or(default, NonZeroU32::get);
        Self {
            queued_jobs: or(overrides.queued_jobs, self.queued_jobs),
            publishes_per_second: or(overrides.publishes_per_second, self.publishes_per_second),
            endpoints: or(overrides.endpoints, self.endpoints),
        }
    }
}

/// A tenant's own limits. The server's default applies to each limit that is absent or null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitOverrides {
    /// Maximum number of queued messages, over all endpoints
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub queued_jobs: Option<NonZeroU32>,
    /// Maximum number of events per second that name the tenant, or that it publishes itself
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub publishes_per_second: Option<NonZeroU32>,
    /// Maximum number of endpoints
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub endpoints: Option<NonZeroU32>,
}

/// Changes to a tenant's own limits. Absent members keep their value, and null restores the server's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitUpdate {
    /// Maximum number of queued messages, over all endpoints
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present_whole_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub queued_jobs: Option<Option<NonZeroU32>>,
    /// Maximum number of events per second that name the tenant, or that it publishes itself
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present_whole_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub publishes_per_second: Option<Option<NonZeroU32>>,
    /// Maximum number of endpoints
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present_whole_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64, format = Int64)]
    pub endpoints: Option<Option<NonZeroU32>>,
}

impl LimitUpdate {
    /// Restores the server's default for every limit.
    pub const TO_DEFAULTS: Self =
        Self { queued_jobs: Some(None), publishes_per_second: Some(None), endpoints: Some(None) };

    pub(super) fn applied_to(self, old: LimitOverrides) -> LimitOverrides {
        LimitOverrides {
            queued_jobs: self.queued_jobs.unwrap_or(old.queued_jobs),
            publishes_per_second: self.publishes_per_second.unwrap_or(old.publishes_per_second),
            endpoints: self.endpoints.unwrap_or(old.endpoints),
        }
    }
}
