//! Fan-out: turns one event into one job per endpoint.
//!
//! The payload is sealed once per tenant and envelope. An event for many tenants is sealed by several threads, as many
//! as there are processors.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;

use super::seal::{PlainEvent, SealedBody};
use super::{Event, IdempotencyKey, PublishError, PublishRefusal, Publisher, RefusalReason};
use crate::common::crypto::legacy::LegacyError;
use crate::common::id::{EventId, MessageId};
use crate::common::job::{Job, Target};
use crate::registry::Recipient;
use crate::registry::endpoint::{Endpoint, EnvelopeKind};

/// Maximum number of tenants that the request's own task seals for. One takes 5 µs, or 250 µs when a new content key
/// is wrapped with a 4096-bit key. With more tenants the task would block other requests.
const MAX_INLINE_TENANTS: usize = 16;

/// Minimum number of tenants per thread. Starting a thread costs as much as a few dozen seals.
const MIN_TENANTS_PER_THREAD: usize = 128;

/// Jobs of one event, and the endpoints that its payload is too large for.
#[derive(Default)]
pub(super) struct FanOut {
    pub(super) jobs: Vec<Job>,
    pub(super) refusals: Vec<PublishRefusal>,
}

/// Seals `event` for `recipients`, and makes a job for each of their endpoints.
pub(super) fn seal(
    publisher: &Publisher,
    recipients: &[Recipient],
    event: &Event<'_>,
    id: EventId,
) -> Result<FanOut, PublishError> {
    let plain =
        PlainEvent { id, kind: event.kind.as_str(), payload: event.payload, timestamp: Timestamp::now() };
    if recipients.len() <= MAX_INLINE_TENANTS {
        seal_in_order(publisher, recipients, event, plain)
    } else {
        tokio::task::block_in_place(|| seal_in_threads(publisher, recipients, event, plain))
    }
}

fn seal_in_threads(
    publisher: &Publisher,
    recipients: &[Recipient],
    event: &Event<'_>,
    plain: PlainEvent<'_>,
) -> Result<FanOut, PublishError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = recipients.len().div_ceil(threads).max(MIN_TENANTS_PER_THREAD);
    if share >= recipients.len() {
        return seal_in_order(publisher, recipients, event, plain);
    }
    let parts: Vec<FanOut> = thread::scope(|scope| {
        let spawn = |part| scope.spawn(move || seal_in_order(publisher, part, event, plain));
        let threads: Vec<_> = recipients.chunks(share).map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<_, PublishError>>()
    })?;
    let mut all = FanOut::default();
    all.jobs.reserve_exact(parts.iter().map(|part| part.jobs.len()).sum());
    for mut part in parts {
        all.jobs.append(&mut part.jobs);
        all.refusals.append(&mut part.refusals);
    }
    Ok(all)
}

fn seal_in_order(
    publisher: &Publisher,
    recipients: &[Recipient],
    event: &Event<'_>,
    plain: PlainEvent<'_>,
) -> Result<FanOut, PublishError> {
    let mut fan_out = FanOut::default();
    for recipient in recipients {
        fan_out.add(publisher, recipient, event, plain)?;
    }
    Ok(fan_out)
}

impl FanOut {
    /// Adds a job for each endpoint of `recipient`.
    fn add(
        &mut self,
        publisher: &Publisher,
        recipient: &Recipient,
        event: &Event<'_>,
        plain: PlainEvent<'_>,
    ) -> Result<(), PublishError> {
        let sealer = recipient.key.sealer(publisher.key_reuse)?;
        let tenant: Arc<str> = recipient.tenant.id.to_string().into();
        let (mut jwe, mut rsa_oaep) = (None, None);
        for endpoint in &recipient.endpoints {
            let (content_type, body) = match endpoint.settings.envelope {
                EnvelopeKind::Jwe => {
                    let (_, body) = get_or_seal(&mut jwe, || plain.seal_as_jwe(sealer))?;
                    (endpoint.settings.content_type, body)
                }
                EnvelopeKind::RsaOaep => {
                    match get_or_seal(&mut rsa_oaep, || plain.seal_as_rsa_oaep(sealer.key())) {
                        Ok(sealed) => sealed,
                        Err(LegacyError::TooLarge { .. }) => {
                            self.refusals.push(PublishRefusal {
                                tenant: endpoint.tenant,
                                endpoint: Some(endpoint.id),
                                reason: RefusalReason::TooLargeForEnvelope,
                            });
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            let target = Target::Endpoint(endpoint.tenant, endpoint.id);
            self.jobs.push(Job {
                id: message_id(event.idempotency_key.as_ref(), endpoint),
                tenant: Arc::clone(&tenant),
                lane: target.lane(),
                ordered: endpoint.settings.ordered,
                target,
                content_type,
                body,
                published_at: publisher.clock.now(),
                trace: event.trace,
            });
        }
        Ok(())
    }
}

/// Returns the body in `sealed`, and seals it first if there is none. Endpoints of one tenant share its bytes.
fn get_or_seal<E>(
    sealed: &mut Option<SealedBody>,
    seal: impl FnOnce() -> Result<SealedBody, E>,
) -> Result<SealedBody, E> {
    if let Some(sealed) = sealed {
        return Ok(sealed.clone());
    }
    Ok(sealed.insert(seal()?).clone())
}

fn message_id(key: Option<&IdempotencyKey>, endpoint: &Endpoint) -> MessageId {
    key.map_or_else(MessageId::new, |key| key.message_id(endpoint.id))
}
