//! What a tenant is made of. Values are checked where they are made, so that one that exists is valid.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::OnceLock;

use clap::ValueEnum;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::common::crypto::api_key::{KeyHash, KeyKind};
use crate::common::crypto::envelope::{KeyReuse, Sealer};
use crate::common::crypto::keys::{KeyError, PublicKey};
use crate::common::crypto::signature::Secret;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventFilter;
use crate::common::id::{ApiKeyId, EndpointId, TenantId};
use crate::common::job::ContentType;

/// Names and descriptions have at most so many characters.
pub const MOST_NAME_CHARS: usize = 128;
/// Filters of one endpoint.
pub const MOST_FILTERS: usize = 64;
/// Headers of one endpoint.
pub const MOST_HEADERS: usize = 16;
/// Bytes of one header's name.
pub const MOST_HEADER_NAME_BYTES: usize = 256;
/// Bytes of one header's value.
pub const MOST_HEADER_BYTES: usize = 1_024;
/// Signing secrets of one endpoint that sign at once: Standard Webhooks' libraries look at all of them.
pub const MOST_SECRETS: usize = 8;

/// A text that a person gave something: free of what could deceive the reader of a terminal or a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// The text isn't a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, too long, or with characters that deceive.
    #[error(
        "must be 1 to {MOST_NAME_CHARS} characters, without white space at its ends, control characters or marks of direction"
    )]
    Text,
    /// It would read as something else.
    #[error("must not be `me` nor begin with `ten_`, which name tenants another way")]
    Reserved,
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// It is empty, too long, has white space at an end, or holds control characters or marks of direction.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let deceives = |c: char| {
            c.is_control()
                || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        let length = text.chars().count();
        if length == 0 || length > MOST_NAME_CHARS || text.trim() != text || text.chars().any(deceives) {
            return Err(NameError::Text);
        }
        Ok(Self(text.into()))
    }

    /// Parses the name of a tenant, which mustn't read as an id.
    ///
    /// # Errors
    /// It isn't a name, or reads as an id.
    pub fn of_tenant(text: &str) -> Result<Self, NameError> {
        if text == ME || text.starts_with(TenantId::PREFIX) {
            return Err(NameError::Reserved);
        }
        Self::parse(text)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// How a tenant names itself, in place of its id.
pub const ME: &str = "me";

/// One isolated customer.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// For good.
    pub id: TenantId,
    /// No other tenant has it.
    pub name: Name,
    /// Where it differs from the server's limits.
    pub limits: LimitOverrides,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows with every change.
    pub version: u64,
}

/// A tenant's own limits; what is absent is the server's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitOverrides {
    /// Jobs in the queue at once, over all endpoints
    #[serde(default, deserialize_with = "crate::api::whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64)]
    pub queued_jobs: Option<NonZeroU32>,
    /// Events published to the tenant by name, or by itself, a second
    #[serde(default, deserialize_with = "crate::api::whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64)]
    pub publishes_per_second: Option<NonZeroU32>,
    /// Endpoints
    #[serde(default, deserialize_with = "crate::api::whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4294967295_u64)]
    pub endpoints: Option<NonZeroU32>,
}

/// What is known of an API key.
#[derive(Debug, Clone)]
pub struct ApiKeyRecord {
    /// What it is revoked by.
    pub id: ApiKeyId,
    /// Whose it is: `None` for the provider.
    pub tenant: Option<TenantId>,
    /// What a presented key is compared with.
    pub hash: KeyHash,
    /// Its first characters.
    pub hint: String,
    /// What its owner noted of it.
    pub description: Option<Name>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl ApiKeyRecord {
    /// Whom it is for.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        if self.tenant.is_some() { KeyKind::Tenant } else { KeyKind::Provider }
    }
}

/// Where a public key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// New events are sealed to it. A tenant with keys has exactly one of these.
    Active,
    /// Another took its place: what was sealed to it before is still on its way, so its private half is still needed.
    Retiring,
    /// Nothing is sealed to it any more, nor on its way.
    Retired,
}

/// A public key of a tenant.
#[derive(Debug)]
pub struct TenantKey {
    /// RFC 7638 thumbprint.
    pub kid: Box<str>,
    /// SPKI as PEM.
    pub pem: Box<str>,
    /// Of its modulus.
    pub bits: u32,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it came into this state.
    pub changed_at: Timestamp,
    /// Made when it is first sealed to: most of ten thousand tenants' keys lie idle.
    sealer: OnceLock<Sealer>,
}

impl TenantKey {
    /// A key in that state.
    #[must_use]
    pub fn new(kid: &str, pem: &str, bits: u32, state: KeyState, times: [Timestamp; 2]) -> Self {
        let [created_at, changed_at] = times;
        Self {
            kid: kid.into(),
            pem: pem.into(),
            bits,
            state,
            created_at,
            changed_at,
            sealer: OnceLock::new(),
        }
    }

    /// The same key in another state.
    #[must_use]
    pub fn in_state(&self, state: KeyState, now: Timestamp) -> Self {
        Self::new(&self.kid, &self.pem, self.bits, state, [self.created_at, now])
    }

    /// What seals to it.
    ///
    /// # Errors
    /// What was stored isn't a key any more.
    pub fn sealer(&self, reuse: KeyReuse) -> Result<&Sealer, KeyError> {
        if let Some(sealer) = self.sealer.get() {
            return Ok(sealer);
        }
        let key = PublicKey::parse(&self.pem)?;
        Ok(self.sealer.get_or_init(|| Sealer::new(key, reuse)))
    }
}

/// How an endpoint's events are sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EnvelopeKind {
    /// Flattened JWE
    #[default]
    Jwe,
    /// The Deno scripts' format: at most 470 bytes at 4096 bits
    RsaOaep,
}

/// What an endpoint's owner chooses.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// Where deliveries go.
    pub url: EndpointUrl,
    /// What its owner noted of it.
    pub description: Option<Name>,
    /// The event types it wants.
    pub events: Vec<EventFilter>,
    /// Headers that every delivery carries.
    pub headers: StaticHeaders,
    /// How deliveries are labelled.
    pub content_type: ContentType,
    /// How events are sealed.
    pub envelope: EnvelopeKind,
    /// Whether each delivery waits for the one before it.
    pub ordered: bool,
}

/// One URL of a tenant.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// For good.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What its owner chose.
    pub settings: EndpointSettings,
    /// Live signing secrets, the newest first.
    pub secrets: Vec<SigningSecret>,
    /// Why it takes no deliveries; `None` while it does.
    pub disabled: Option<Disabled>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows with every change.
    pub version: u64,
}

/// What is to change of an endpoint; what is `None` stays.
#[derive(Debug, Default)]
pub struct EndpointPatch {
    /// Where deliveries go: also those that are queued already.
    pub url: Option<EndpointUrl>,
    /// Its note, or none.
    pub description: Option<Option<Name>>,
    /// The event types it wants.
    pub events: Option<Vec<EventFilter>>,
    /// All its headers.
    pub headers: Option<StaticHeaders>,
    /// How deliveries are labelled.
    pub content_type: Option<ContentType>,
    /// How events are sealed.
    pub envelope: Option<EnvelopeKind>,
    /// Whether each delivery waits for the one before it.
    pub ordered: Option<bool>,
    /// Whether it takes deliveries.
    pub enabled: Option<bool>,
}

impl EndpointPatch {
    pub(super) fn apply(self, settings: &mut EndpointSettings) {
        fn set<T>(old: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *old = new;
            }
        }
        set(&mut settings.url, self.url);
        set(&mut settings.description, self.description);
        set(&mut settings.events, self.events);
        set(&mut settings.headers, self.headers);
        set(&mut settings.content_type, self.content_type);
        set(&mut settings.envelope, self.envelope);
        set(&mut settings.ordered, self.ordered);
    }
}

/// A signing secret and its end.
#[derive(Debug, Clone)]
pub struct SigningSecret {
    /// Shared with the customer.
    pub secret: Secret,
    /// From when it doesn't sign any more; `None` for the newest.
    pub expires_at: Option<Timestamp>,
}

/// An endpoint that takes no deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// Why.
    pub reason: DisabledReason,
    /// Since when.
    pub since: Timestamp,
}

/// Why an endpoint takes no deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// The tenant said so
    ByTenant,
    /// The provider said so
    ByProvider,
    /// It answered 410: the customer wants nothing more there
    Gone,
}

impl DisabledReason {
    /// Its name in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ByTenant => "by_tenant",
            Self::ByProvider => "by_provider",
            Self::Gone => "gone",
        }
    }
}

impl Endpoint {
    /// The secrets that sign at `now`.
    pub fn live_secrets(&self, now: Timestamp) -> impl Iterator<Item = &SigningSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|end| now < end))
    }
}

/// Headers that every delivery to an endpoint carries. `Debug` shows their names: values may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StaticHeaders(Vec<(HeaderName, HeaderValue)>);

/// A header that an endpoint can't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a name (RFC 9110, section 5.1).
    #[error("a name must be of letters, digits and !#$%&'*+-.^_`|~, at most {MOST_HEADER_NAME_BYTES} bytes")]
    Name,
    /// It is whk's or HTTP's own.
    #[error("'{0}' is set by whk or by HTTP itself")]
    Reserved(HeaderName),
    /// Not a value (RFC 9110, section 5.5).
    #[error("the value of '{0}' must be visible ASCII and single spaces, at most {MOST_HEADER_BYTES} bytes")]
    Value(HeaderName),
    /// Twice the same name, in another case.
    #[error("'{0}' is there twice")]
    Twice(HeaderName),
    /// Too many.
    #[error("at most {MOST_HEADERS} are taken")]
    TooMany,
}

/// Headers that say how the message itself is to be read or routed.
pub const RESERVED_HEADERS: [&str; 20] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

impl StaticHeaders {
    /// Checks names and values.
    ///
    /// # Errors
    /// A name or value isn't one, is reserved or there twice, or there are too many.
    pub fn parse<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, HeaderError> {
        let mut parsed: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in headers {
            let name = Some(name).filter(|name| name.len() <= MOST_HEADER_NAME_BYTES);
            let name = name.and_then(|name| HeaderName::try_from(name).ok()).ok_or(HeaderError::Name)?;
            if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("webhook-") {
                return Err(HeaderError::Reserved(name));
            }
            let visible = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            if !visible || value.len() > MOST_HEADER_BYTES || value.trim() != value {
                return Err(HeaderError::Value(name));
            }
            let mut checked = HeaderValue::from_str(value).map_err(|_| HeaderError::Value(name.clone()))?;
            checked.set_sensitive(true);
            if parsed.iter().any(|(known, _)| *known == name) {
                return Err(HeaderError::Twice(name));
            }
            parsed.push((name, checked));
            if parsed.len() > MOST_HEADERS {
                return Err(HeaderError::TooMany);
            }
        }
        Ok(Self(parsed))
    }

    /// Names and values.
    #[must_use]
    pub fn as_slice(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0
    }
}

impl fmt::Debug for StaticHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_of_any_script_and_deceive_nobody() {
        for name in ["Acme", "Ünïcode & Söhne", "株式会社", "👩‍💻 GmbH", "a/b?c#d", "..", "O'Brien"]
        {
            assert_eq!(Name::of_tenant(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(MOST_NAME_CHARS + 1);
        for name in
            ["", " ", " a", "a ", "a\n", "a\0b", "a\u{1b}[31m", "a\u{85}", "\u{202e}cba", "\u{feff}a", &long]
        {
            assert_eq!(Name::of_tenant(name), Err(NameError::Text), "{name:?}");
        }
        assert!(Name::parse(&"ü".repeat(MOST_NAME_CHARS)).is_ok());
        for name in ["me", "ten_", "ten_00000000000000000000000000000000"] {
            assert_eq!(Name::of_tenant(name), Err(NameError::Reserved), "{name:?}");
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> Result<StaticHeaders, HeaderError> {
        StaticHeaders::parse(pairs.iter().copied())
    }

    #[test]
    fn headers_can_not_be_injected_nor_take_the_place_of_ours() {
        for value in ["a\r\nx: y", "a\nb", "a\0", "a\tb", " a", "a ", "ü", "a\u{7f}"] {
            assert!(matches!(headers(&[("x-a", value)]), Err(HeaderError::Value(_))), "{value:?}");
        }
        for name in ["", "a b", "a:", "x\r\ny", "ü", "x-a ", &"x".repeat(MOST_HEADER_NAME_BYTES + 1)] {
            assert_eq!(headers(&[(name, "v")]), Err(HeaderError::Name), "{name:?}");
        }
        for name in
            ["Host", "content-length", "Content-Type", "Webhook-Id", "webhook-anything", "TE", "traceparent"]
        {
            assert!(matches!(headers(&[(name, "v")]), Err(HeaderError::Reserved(_))), "{name}");
        }
        assert!(matches!(headers(&[("x-a", "1"), ("X-A", "2")]), Err(HeaderError::Twice(_))));
        let many: Vec<String> = (0..=MOST_HEADERS).map(|n| format!("x-{n}")).collect();
        let pairs: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(headers(&pairs), Err(HeaderError::TooMany));
        assert!(headers(&pairs[1..]).is_ok());
    }

    #[test]
    fn header_values_are_never_shown() {
        let headers = headers(&[("authorization", "Bearer secret")]).unwrap();
        assert_eq!(format!("{headers:?}"), r#"["authorization"]"#);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(name in "\\PC{0,40}", value in "\\PC{0,60}") {
            drop(headers(&[(&name, &value)]));
        }
    }
}
