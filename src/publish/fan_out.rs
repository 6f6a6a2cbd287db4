//! One event to many endpoints: sealed once a tenant and envelope, by as many threads as there are processors where
//! there are many tenants.

use std::num::NonZeroUsize;
use std::thread;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Event, Plain, PublishError, Published, PublishedMessage, Publisher, Refused, RefusedReason};
use crate::common::crypto::legacy::LegacyError;
use crate::common::id::{EventId, MessageId};
use crate::common::job::{ContentType, Job, Target};
use crate::registry::Recipient;
use crate::registry::endpoint::{Endpoint, EnvelopeKind};

/// Tenants that are sealed to where the request is handled: 5 us each, or a quarter of a millisecond where a new
/// content key is wrapped at 4096 bits. More of them make way for other requests.
const INLINE_TENANTS: usize = 16;

/// Tenants that are worth a thread of their own: it costs as much as a few dozen seals.
const TENANTS_PER_THREAD: usize = 128;

/// What has been made for some of the recipients.
#[derive(Default)]
struct Part {
    jobs: Vec<Job>,
    refused: Vec<Refused>,
}

/// The jobs of an event; its messages and refusals are added to `published`.
pub(super) fn seal(
    publisher: &Publisher,
    recipients: &[Recipient],
    event: &Event<'_>,
    id: EventId,
    published: &mut Published,
) -> Result<Vec<Job>, PublishError> {
    let plain = Plain { id, kind: event.kind.as_str(), payload: event.payload, timestamp: Timestamp::now() };
    let parts = if recipients.len() <= INLINE_TENANTS {
        vec![seal_part(publisher, recipients, event, plain)?]
    } else {
        tokio::task::block_in_place(|| seal_in_threads(publisher, recipients, event, plain))?
    };
    let mut jobs = Vec::with_capacity(parts.iter().map(|part| part.jobs.len()).sum());
    for mut part in parts {
        jobs.append(&mut part.jobs);
        published.refused.append(&mut part.refused);
    }
    published.messages.extend(jobs.iter().map(message_of));
    Ok(jobs)
}

fn seal_in_threads(
    publisher: &Publisher,
    recipients: &[Recipient],
    event: &Event<'_>,
    plain: Plain<'_>,
) -> Result<Vec<Part>, PublishError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = recipients.len().div_ceil(threads).max(TENANTS_PER_THREAD);
    if share >= recipients.len() {
        return Ok(vec![seal_part(publisher, recipients, event, plain)?]);
    }
    thread::scope(|scope| {
        let seal = |part| scope.spawn(move || seal_part(publisher, part, event, plain));
        let sealing: Vec<_> = recipients.chunks(share).map(seal).collect();
        let join = |part: thread::ScopedJoinHandle<'_, _>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        sealing.into_iter().map(join).collect()
    })
}

fn seal_part(
    publisher: &Publisher,
    recipients: &[Recipient],
    event: &Event<'_>,
    plain: Plain<'_>,
) -> Result<Part, PublishError> {
    let mut part = Part::default();
    for recipient in recipients {
        seal_for(publisher, recipient, event, plain, &mut part)?;
    }
    Ok(part)
}

fn seal_for(
    publisher: &Publisher,
    recipient: &Recipient,
    event: &Event<'_>,
    plain: Plain<'_>,
    part: &mut Part,
) -> Result<(), PublishError> {
    let sealer = recipient.key.sealer(publisher.key_reuse)?;
    let tenant: std::sync::Arc<str> = recipient.tenant.id.to_string().into();
    let (mut as_jwe, mut as_the_scripts) = (None, None);
    for endpoint in &recipient.endpoints {
        let (content_type, body): (ContentType, Bytes) = match endpoint.settings.envelope {
            EnvelopeKind::Jwe => {
                let (_, body) = sealed_once(&mut as_jwe, || plain.seal_as_jwe(sealer))?;
                (endpoint.settings.content_type, body)
            }
            EnvelopeKind::RsaOaep => {
                match sealed_once(&mut as_the_scripts, || plain.seal_as_the_scripts(sealer.key())) {
                    Ok(sealed) => sealed,
                    Err(LegacyError::TooLarge { .. }) => {
                        part.refused.push(Refused {
                            tenant: endpoint.tenant,
                            endpoint: Some(endpoint.id),
                            reason: RefusedReason::TooLargeForEnvelope,
                        });
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let target = Target::Endpoint(endpoint.tenant, endpoint.id);
        part.jobs.push(Job {
            id: message_id(event, endpoint),
            tenant: std::sync::Arc::clone(&tenant),
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

type Sealed = (ContentType, Bytes);

/// What was sealed already, or is now: endpoints of one tenant share its bytes.
fn sealed_once<E>(
    sealed: &mut Option<Sealed>,
    seal: impl FnOnce() -> Result<Sealed, E>,
) -> Result<Sealed, E> {
    if let Some(sealed) = sealed {
        return Ok(sealed.clone());
    }
    Ok(sealed.insert(seal()?).clone())
}

fn message_id(event: &Event<'_>, endpoint: &Endpoint) -> MessageId {
    event.repeat.as_ref().map_or_else(MessageId::new, |repeat| repeat.message_id(endpoint.id))
}

fn message_of(job: &Job) -> PublishedMessage {
    match job.target {
        Target::Endpoint(tenant, endpoint) => {
            PublishedMessage { id: job.id, tenant: Some(tenant), endpoint: Some(endpoint) }
        }
        Target::Url(_) => PublishedMessage { id: job.id, tenant: None, endpoint: None },
    }
}
