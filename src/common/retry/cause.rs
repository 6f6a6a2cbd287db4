//! The causes for which jobs are dead-lettered.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::outcome::Failure;

/// Cause of a dead letter, with its details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The last retry failed.
    Exhausted(Failure),
    /// The job blocked its ordered lane for longer than allowed.
    Blocked(Failure),
    /// The endpoint answered 410 Gone.
    Gone,
    /// The egress guard or the rules for URLs refuse the address. A retry wouldn't change that.
    Refused(String),
    /// The endpoint is disabled. Nothing was sent.
    Disabled,
    /// Too many attempts ended without a result, because the process or the delivery broke down.
    Interrupted,
    /// The stored job can't be read.
    Damaged(String),
}

impl Cause {
    /// Returns the cause without its details.
    #[must_use]
    pub fn kind(&self) -> CauseKind {
        match self {
            Self::Exhausted(_) => CauseKind::Exhausted,
            Self::Blocked(_) => CauseKind::Blocked,
            Self::Gone => CauseKind::Gone,
            Self::Refused(_) => CauseKind::Refused,
            Self::Disabled => CauseKind::Disabled,
            Self::Interrupted => CauseKind::Interrupted,
            Self::Damaged(_) => CauseKind::Damaged,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted(failure) => write!(f, "retries exhausted: {failure}"),
            Self::Blocked(failure) => write!(f, "blocked its endpoint for too long: {failure}"),
            Self::Interrupted => f.write_str("too many attempts were interrupted"),
            Self::Damaged(reason) => write!(f, "damaged in the queue: {reason}"),
            Self::Gone => f.write_str("answered 410 Gone"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Disabled => f.write_str("the endpoint is disabled"),
        }
    }
}

/// Cause of a dead letter, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// The last retry failed
    Exhausted,
    /// The job blocked an ordered endpoint for longer than allowed
    Blocked,
    /// The endpoint answered 410 Gone
    Gone,
    /// The address may not be called
    Refused,
    /// The endpoint is disabled
    Disabled,
    /// Too many attempts ended without a result
    Interrupted,
    /// The stored job can't be read
    Damaged,
}

impl CauseKind {
    /// All causes.
    pub const ALL: [Self; 7] = [
        Self::Exhausted,
        Self::Blocked,
        Self::Gone,
        Self::Refused,
        Self::Disabled,
        Self::Interrupted,
        Self::Damaged,
    ];

    /// Returns the name, the same as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Blocked => "blocked",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
            Self::Interrupted => "interrupted",
            Self::Damaged => "damaged",
        }
    }

    /// Returns the cause called `name`, or `None` if there is no such cause.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Returns the side that is responsible.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::Exhausted | Self::Blocked | Self::Gone | Self::Refused | Self::Disabled => Fault::Customer,
            Self::Interrupted | Self::Damaged => Fault::System,
        }
    }
}

/// Side that is responsible for a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The customer's endpoint failed, or is gone, disabled or not allowed
    Customer,
    /// The operator's system failed: the delivery was interrupted, or the stored job is damaged
    System,
}
