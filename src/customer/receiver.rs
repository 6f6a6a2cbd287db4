//! The receiver: checks and decrypts deliveries.
//!
//! It checks, in this order: the size, the signature and timestamp, whether the id was handled before, the key id, and
//! the envelope. With a verifier, an unsigned delivery never reaches a private key.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::event::OpenedEvent;
use super::rejection::Rejection;
use super::seen::{MAX_ID_BYTES, SeenId, SeenIds};
use crate::common::crypto::envelope::{Envelope, OpenError, Opener};
use crate::common::crypto::legacy;
use crate::common::crypto::signature::{SignatureError, Verifier};
use crate::common::http::read_body;
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

/// Receiver of deliveries, which it checks and decrypts.
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
