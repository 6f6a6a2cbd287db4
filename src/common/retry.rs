//! Retries: the outcome of an attempt, the policy of delays, and the verdict on a job.
//!
//! Everything here is pure: no clock, no network and no storage. The dispatcher makes an attempt, [`judge`] turns
//! its result into a [`Verdict`], and the queue settles the job accordingly.

mod cause;
mod outcome;
mod policy;
mod verdict;

pub use cause::{Cause, CauseKind, Fault};
pub use outcome::{Failure, Outcome};
pub use policy::{RetryPolicy, RetryPolicyError};
pub use verdict::{
    DeliveryResult, EndpointState, JobProgress, MAX_RETRY_AFTER, SkipReason, Verdict, judge, may_attempt,
};
