//! The receiver: checks and decrypts deliveries.
//!
//! It checks, in this order: the size, the signature and timestamp, whether the id was handled before, the key id, and
//! the envelope. With a verifier, an unsigned delivery never reaches a private key.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::seen::{IdGuard, MAX_ID_BYTES, SeenId, SeenIds};
use crate::common::crypto::envelope::{Envelope, OpenError, Opener};
use crate::common::crypto::legacy::{self, LegacyError, LegacyMessage};
use crate::common::crypto::signature::{SignatureError, Verifier};
use crate::common::http::{BodyError, read_body};
use crate::deliver::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// Settings of the checks.
#[derive(Debug)]
pub struct ReceiverConfig {
    /// Opener of envelopes.
    pub opener: Opener,
    /// Verifier of signatures. Without one, anybody who has the public key can send events.
    pub verifier: Option<Verifier>,
    /// Maximum bytes of a body.
    pub max_body: usize,
    /// Time limit for receiving a body.
    pub request_time: Duration,
    /// Number of ids that are remembered.
    pub window: NonZeroUsize,
}

/// Checks and decrypts deliveries.
pub(super) struct Receiver {
    opener: Arc<Opener>,
    verifier: Option<Verifier>,
    max_body: usize,
    request_time: Duration,
    seen: SeenIds,
    /// Permits for RSA operations, one per core. A delivery that waits for a permit may find that another delivery has
    /// unwrapped the content key meanwhile.
    rsa: Arc<Semaphore>,
}

/// Delivery that passed every check.
#[derive(Debug)]
pub(super) enum Received {
    /// The id was handled before. The delivery is acknowledged and nothing else happens.
    Duplicate,
    /// The event is to be handled now.
    Event(OpenedEvent),
}

/// Decrypted bytes. The request that forwards them shares them, and the last owner wipes them.
pub(super) type Plaintext = Arc<Zeroizing<Vec<u8>>>;

/// Decrypted event. `Debug` shows no payload.
pub(super) struct OpenedEvent {
    plaintext: Plaintext,
    /// The `webhook-id` header, if there is one.
    pub(super) id: Option<String>,
    guard: Option<IdGuard>,
    is_legacy: bool,
}

/// Members of an event in either format. It has no `Debug`, which would show the payload.
pub(super) struct Event<'a> {
    /// Id by which duplicates are recognised: the `webhook-id` header, or else the id in the plaintext.
    pub(super) id: Option<Cow<'a, str>>,
    /// Id of the event in the plaintext, the same at every endpoint.
    pub(super) event_id: Option<Cow<'a, str>>,
    pub(super) kind: Option<Cow<'a, str>>,
    pub(super) time: Cow<'a, str>,
    pub(super) data: &'a RawValue,
}

/// Plaintext of an envelope.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Reason why a delivery is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("webhook-id is over {MAX_ID_BYTES} bytes")]
    Id,
    #[error("another delivery of this id is in progress")]
    InProgress,
    #[error(transparent)]
    Envelope(#[from] OpenError),
    #[error("the decrypted message isn't a whk message")]
    Message,
    #[error("stdout can't be written: {0}")]
    Stdout(ErrorKind),
    #[error("the application (--forward) can't be reached: {0}")]
    Unreachable(String),
    #[error("the application (--forward) didn't answer within {} s", .0.as_secs())]
    Unanswered(Duration),
}

impl Rejection {
    /// Returns the HTTP status of the response.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::TimedOut(_)) => StatusCode::REQUEST_TIMEOUT,
            Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::InProgress => StatusCode::CONFLICT,
            Self::Stdout(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Self::Unanswered(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Body(BodyError::Broken) | Self::Id | Self::Envelope(_) | Self::Message => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

impl From<LegacyError> for Rejection {
    fn from(error: LegacyError) -> Self {
        Self::Envelope(match error {
            LegacyError::Malformed => OpenError::Malformed("a JSON string must hold base64"),
            _ => OpenError::Decrypt,
        })
    }
}

impl Receiver {
    pub(super) fn new(config: ReceiverConfig) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            opener: Arc::new(config.opener),
            verifier: config.verifier,
            max_body: config.max_body,
            request_time: config.request_time,
            seen: SeenIds::new(config.window),
            rsa: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Checks and decrypts a delivery. The id is in progress until the result is dropped.
    pub(super) async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<Received, Rejection> {
        let body = read_body(body, self.max_body, self.request_time).await?;
        let id = text(headers, &WEBHOOK_ID);
        self.verify(headers, id, &body)?;
        let guard = match id {
            Some(id) if id.len() > MAX_ID_BYTES => return Err(Rejection::Id),
            Some(id) => match self.seen.look_up(id) {
                SeenId::New(guard) => Some(guard),
                SeenId::InProgress => return Err(Rejection::InProgress),
                SeenId::Handled => return Ok(Received::Duplicate),
            },
            None => None,
        };
        let is_legacy = body.trim_ascii_start().starts_with(b"\"");
        let plaintext = if is_legacy { self.open_legacy(body).await? } else { self.open(&body).await? };
        Ok(Received::Event(OpenedEvent {
            plaintext: Arc::new(plaintext),
            id: id.map(str::to_owned),
            guard,
            is_legacy,
        }))
    }

    fn verify(&self, headers: &HeaderMap, id: Option<&str>, body: &[u8]) -> Result<(), Rejection> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let (timestamp, signatures) = (text(headers, &WEBHOOK_TIMESTAMP), text(headers, &WEBHOOK_SIGNATURE));
        let (Some(id), Some(timestamp), Some(signatures)) = (id, timestamp, signatures) else {
            return Err(SignatureError::Missing.into());
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        Ok(verifier.verify(id, timestamp, signatures, body, now)?)
    }

    async fn open(&self, body: &Bytes) -> Result<Zeroizing<Vec<u8>>, Rejection> {
        let sealed = match self.opener.open_cached(Envelope::parse(body)?)? {
            Ok(plaintext) => return Ok(plaintext),
            Err(sealed) => sealed,
        };
        let opener = Arc::clone(&self.opener);
        self.blocking(move || opener.open(sealed)).await
    }

    async fn open_legacy(&self, body: Bytes) -> Result<Zeroizing<Vec<u8>>, Rejection> {
        let opener = Arc::clone(&self.opener);
        self.blocking(move || legacy::open(opener.keys(), &body)).await
    }

    /// Runs an RSA operation outside of the runtime's threads. The closure keeps the permit, because the operation goes
    /// on if the delivery is broken off.
    async fn blocking<T, E>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Rejection>
    where
        T: Send + 'static,
        E: Into<Rejection> + Send + 'static,
    {
        let permit = Arc::clone(&self.rsa).acquire_owned().await.map_err(|_| OpenError::Decrypt)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        done.await.map_err(|_| OpenError::Decrypt)?.map_err(Into::into)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

impl OpenedEvent {
    /// Parses the plaintext.
    pub(super) fn event(&self) -> Result<Event<'_>, Rejection> {
        if self.is_legacy {
            let message: LegacyMessage<'_> =
                serde_json::from_slice(&self.plaintext).map_err(|_| Rejection::Message)?;
            let time = Timestamp::from_millisecond(message.timestamp).map_err(|_| Rejection::Message)?;
            let id = self.id.as_deref().map(Cow::from);
            let time = time.to_string().into();
            return Ok(Event { id, event_id: None, kind: None, time, data: message.payload });
        }
        let message: Message<'_> = serde_json::from_slice(&self.plaintext).map_err(|_| Rejection::Message)?;
        let Message { id, r#type, timestamp, data } = message;
        let message_id = self.id.as_deref().map_or_else(|| id.clone(), Cow::from);
        let (id, event_id) = (Some(message_id), Some(id));
        Ok(Event { id, event_id, kind: Some(r#type), time: timestamp, data })
    }

    /// Returns the plaintext of the message.
    pub(super) fn plaintext(&self) -> &Plaintext {
        &self.plaintext
    }

    /// Records the id as handled.
    pub(super) fn mark_handled(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.mark_handled();
        }
    }
}

impl std::fmt::Debug for OpenedEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedEvent").field("id", &self.id).finish_non_exhaustive()
    }
}
