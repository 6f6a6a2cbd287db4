//! Errors of publishing an event.

use std::time::Duration;

use super::outcome::RefusalReason;
use crate::common::crypto::envelope::SealError;
use crate::common::crypto::keys::KeyError;
use crate::common::crypto::legacy::LegacyError;
use crate::deliver::egress::Refusal;
use crate::queue::QueueError;
use crate::registry::RegistryError;

/// Reason why an event wasn't published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The egress guard refuses the URL of a direct-mode event.
    #[error("the url is refused")]
    Refused(#[from] Refusal),
    /// The tenant's limit of published events per second is reached.
    #[error("the tenant's limit of {per_second} published events per second is reached")]
    TooFast {
        /// The tenant's limit.
        per_second: u32,
        /// Delay after which the next event is accepted.
        retry_after: Duration,
    },
    /// The tenant's limit of queued jobs would be exceeded.
    #[error("the tenant's limit of {max} queued jobs would be exceeded")]
    TooManyQueued {
        /// The tenant's limit.
        max: u32,
    },
    /// The tenant's limit of queued bytes would be exceeded.
    #[error("the tenant's limit of {max} bytes of queued jobs would be exceeded")]
    TooManyBytesQueued {
        /// The tenant's limit.
        max: u64,
    },
    /// Every subscribed endpoint uses the rsa-oaep envelope, and the payload is too large for it.
    #[error("the payload is too large for the rsa-oaep envelope, which every subscribed endpoint uses")]
    TooLargeForEnvelope,
    /// The payload of a direct-mode event can't be sealed in the rsa-oaep envelope.
    #[error("seal the payload in the rsa-oaep envelope")]
    Legacy(#[from] LegacyError),
    /// Sealing failed on this machine.
    #[error("seal the payload")]
    Seal(#[from] SealError),
    /// A stored public key can't be read.
    #[error("read a stored public key")]
    Key(#[from] KeyError),
    /// The payload can't be written as JSON. Its parser has already ruled this out.
    #[error("write the plaintext as JSON")]
    Write(#[from] serde_json::Error),
    /// The queue didn't accept the jobs.
    #[error("queue the event")]
    Queue(#[from] QueueError),
    /// This server knows no recipient, and the registry can't be asked whether another server has added one.
    #[error("look up the event's recipients")]
    Registry(#[from] RegistryError),
}

impl From<RefusalReason> for PublishError {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::QueuedJobs { max } => Self::TooManyQueued { max },
            RefusalReason::QueuedBytes { max } => Self::TooManyBytesQueued { max },
            RefusalReason::TooLargeForEnvelope => Self::TooLargeForEnvelope,
        }
    }
}
