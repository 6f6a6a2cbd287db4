//! The receiver: size, signature and timestamp, seen this id?, key id, unwrap, open; in that order.

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

use super::seen::{InHand, MOST_ID_BYTES, Seen, Sighting};
use crate::common::crypto::envelope::{Envelope, OpenError, Opener};
use crate::common::crypto::legacy::{self, LegacyError, LegacyMessage};
use crate::common::crypto::signature::{SignatureError, Verifier};
use crate::common::http::{BodyError, read_body};
use crate::deliver::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// What deliveries are checked against.
#[derive(Debug)]
pub struct ReceiverConfig {
    /// Opens envelopes.
    pub opener: Opener,
    /// Verifies signatures; without one everybody who has the public key is believed.
    pub verifier: Option<Verifier>,
    /// Bytes of a body.
    pub max_body: usize,
    /// How long a body may take to come.
    pub request_time: Duration,
    /// Ids that are remembered.
    pub window: NonZeroUsize,
}

/// Checks and opens deliveries.
pub(super) struct Receiver {
    opener: Arc<Opener>,
    verifier: Option<Verifier>,
    max_body: usize,
    request_time: Duration,
    seen: Seen,
    /// As many RSA operations at once as there are cores. Who waits for one finds the content key that another
    /// delivery unwrapped meanwhile.
    rsa: Arc<Semaphore>,
}

/// A delivery that passed every check.
#[derive(Debug)]
pub(super) enum Received {
    /// Handled before: answer 2xx, do nothing.
    Duplicate,
    /// To be handled now.
    Event(Opened),
}

/// Decrypted bytes, shared with the request that forwards them and wiped when both are done.
pub(super) type Plaintext = Arc<Zeroizing<Vec<u8>>>;

/// An opened event. `Debug` shows no payload.
pub(super) struct Opened {
    plaintext: Plaintext,
    /// The `webhook-id` header, where there is one.
    pub(super) id: Option<String>,
    in_hand: Option<InHand>,
    is_legacy: bool,
}

/// What an event says, whichever format it came in. Without `Debug`, which would show the payload.
pub(super) struct Event<'a> {
    /// What it is deduped by: the `webhook-id` header, or where there is none, what was sealed.
    pub(super) id: Option<Cow<'a, str>>,
    /// What was sealed: the event's own id, the same at every endpoint.
    pub(super) event_id: Option<Cow<'a, str>>,
    pub(super) kind: Option<Cow<'a, str>>,
    pub(super) time: Cow<'a, str>,
    pub(super) data: &'a RawValue,
}

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

/// Why a delivery is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("webhook-id is over {MOST_ID_BYTES} bytes")]
    Id,
    #[error("another delivery of this id is being handled")]
    InHand,
    #[error(transparent)]
    Envelope(#[from] OpenError),
    #[error("the decrypted message isn't a whk message")]
    Message,
    #[error("stdout can't be written: {0}")]
    Stdout(ErrorKind),
    #[error("the application can't be reached (--forward): {0}")]
    Unreachable(String),
    #[error("the application gave no answer (--forward) within {} s", .0.as_secs())]
    Unanswered(Duration),
}

impl Rejection {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::TimedOut(_)) => StatusCode::REQUEST_TIMEOUT,
            Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::InHand => StatusCode::CONFLICT,
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
            seen: Seen::new(config.window),
            rsa: Arc::new(Semaphore::new(cores)),
        }
    }

    pub(super) async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<Received, Rejection> {
        let body = read_body(body, self.max_body, self.request_time).await?;
        let id = text(headers, &WEBHOOK_ID);
        self.verify(headers, id, &body)?;
        let in_hand = match id {
            Some(id) if id.len() > MOST_ID_BYTES => return Err(Rejection::Id),
            Some(id) => match self.seen.sight(id) {
                Sighting::New(in_hand) => Some(in_hand),
                Sighting::InHand => return Err(Rejection::InHand),
                Sighting::Handled => return Ok(Received::Duplicate),
            },
            None => None,
        };
        let is_legacy = body.trim_ascii_start().starts_with(b"\"");
        let plaintext = if is_legacy { self.open_legacy(body).await? } else { self.open(&body).await? };
        Ok(Received::Event(Opened {
            plaintext: Arc::new(plaintext),
            id: id.map(str::to_owned),
            in_hand,
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

    /// Does RSA off the runtime's threads. The permit goes along, since the work goes on when the delivery that
    /// wanted it is broken off.
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

impl Opened {
    /// Reads the message.
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

    /// The decrypted message as it was sealed.
    pub(super) fn plaintext(&self) -> &Plaintext {
        &self.plaintext
    }

    /// From now on its id is known as handled.
    pub(super) fn handled(mut self) {
        if let Some(in_hand) = self.in_hand.take() {
            in_hand.handled();
        }
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("id", &self.id).finish_non_exhaustive()
    }
}
