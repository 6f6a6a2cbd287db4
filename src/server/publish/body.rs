//! JSON bodies of `POST /publish`, parsed in one pass.
//!
//! A body with `url` is a direct-mode event in the Deno scripts' format. Any other body is an event for subscribed
//! endpoints.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::request::PublishRequest;
use crate::server::extract::{invalid_json, printable};
use crate::server::problem::Problem;

/// Members of either body, for error texts.
const EXPECTED: &str = "a JSON object with 'type', 'payload' and optionally 'tenant'; \
                        or, for direct mode, with 'url', 'payload' and optionally 'target' and 'type'";

/// A JSON body of `POST /publish`.
pub(super) enum PublishBody<'a> {
    /// An event for subscribed endpoints.
    Subscribed(PublishRequest<'a>),
    /// A direct-mode event.
    Direct(DirectRequest<'a>),
}

/// A direct-mode event, as it was sent. Its values are unchecked.
pub(super) struct DirectRequest<'a> {
    /// URL that the event is delivered to.
    pub(super) url: Cow<'a, str>,
    /// Payload, borrowed from the request's body.
    pub(super) payload: Option<&'a RawValue>,
    /// Publisher's own name for the recipient.
    pub(super) target: Option<Cow<'a, str>>,
    /// Event type.
    pub(super) kind: Option<Cow<'a, str>>,
}

impl<'a> PublishBody<'a> {
    /// Parses a body. The payload is borrowed from it, not copied.
    ///
    /// # Errors
    /// 400, with the name of the member that is wrong. Errors never quote values, which may be secret.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        let members: Members<'a> = serde_json::from_slice(body).map_err(|error| match error.classify() {
            Category::Data => Problem::bad_request(format!("the body must be {EXPECTED}")),
            Category::Io | Category::Syntax | Category::Eof => invalid_json(&error),
        })?;
        if let Some(name) = members.repeated {
            return Err(Problem::bad_request(format!("'{name}' appears twice; send each member once")));
        }
        match members.url {
            Some(url) => members.into_direct(url).map(Self::Direct),
            None => members.into_subscribed().map(Self::Subscribed),
        }
    }
}

/// Members of a body before its kind is known.
#[derive(Default)]
struct Members<'a> {
    url: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    target: Option<&'a RawValue>,
    tenant: Option<&'a RawValue>,
    /// First member of another name.
    unknown: Option<String>,
    /// First member that appears twice.
    repeated: Option<&'static str>,
}

impl<'a> Members<'a> {
    /// Reads a direct-mode event. Bodies of the Deno scripts may have further members, which are ignored.
    fn into_direct(self, url: &'a RawValue) -> Result<DirectRequest<'a>, Problem> {
        Ok(DirectRequest {
            url: text("url", url)?,
            payload: self.payload,
            target: optional_text("target", self.target)?,
            kind: optional_text("type", self.kind)?,
        })
    }

    /// Reads an event for subscribed endpoints. Unknown members are refused: with a misspelt `tenant`, the event would
    /// go to every tenant.
    fn into_subscribed(self) -> Result<PublishRequest<'a>, Problem> {
        let unknown = self.unknown.as_deref().or(self.target.map(|_| "target"));
        if let Some(name) = unknown {
            return Err(Problem::bad_request(format!(
                "unknown member '{}': the body takes 'type', 'payload' and optionally 'tenant', and nothing else; \
                 a direct-mode body needs 'url'",
                printable(name)
            )));
        }
        Ok(PublishRequest {
            payload: self.payload,
            kind: optional_text("type", self.kind)?,
            // `null` is refused. It is more likely a mistake than a wish to publish to every tenant.
            tenant: self.tenant.map(|tenant| text("tenant", tenant)).transpose()?,
            cloud_event_identity: None,
        })
    }
}

/// Reads a text. It is copied only if it contains escapes.
fn text<'a>(member: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Problem> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text = serde_json::from_str::<Text<'a>>(value.get());
    text.map(|Text(text)| text).map_err(|_| Problem::bad_request(format!("'{member}' must be text")))
}

/// Reads a text that may be absent or `null`.
fn optional_text<'a>(member: &str, value: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, Problem> {
    value.filter(|value| value.get() != "null").map(|value| text(member, value)).transpose()
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(|members: Members<'de>| members)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        let mut members = Members::default();
        while let Some(Name(name)) = map.next_key()? {
            let (name, member) = match &*name {
                "url" => ("url", &mut members.url),
                "payload" => ("payload", &mut members.payload),
                "type" => ("type", &mut members.kind),
                "target" => ("target", &mut members.target),
                "tenant" => ("tenant", &mut members.tenant),
                _ => {
                    members.unknown.get_or_insert(name.into_owned());
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if member.replace(map.next_value()?).is_some() {
                members.repeated.get_or_insert(name);
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        match PublishBody::parse(body.as_bytes()) {
            Ok(_) => panic!("{body} is accepted"),
            Err(problem) => format!("{problem:?}"),
        }
    }

    #[test]
    fn a_url_makes_a_direct_event_and_the_payload_keeps_its_bytes() {
        let direct = br#"{"n":1,"payload": {"b":2,  "a":1} ,"url":"http:\/\/a","tenant":7,"target":null}"#;
        let PublishBody::Direct(direct) = PublishBody::parse(direct).unwrap() else { panic!("not direct") };
        assert_eq!((&*direct.url, direct.target, direct.kind), ("http://a", None, None));
        assert_eq!(direct.payload.unwrap().get(), r#"{"b":2,  "a":1}"#);

        let subscribed = br#"{"type":"x","payload":null,"tenant":"Acme"}"#;
        let PublishBody::Subscribed(event) = PublishBody::parse(subscribed).unwrap() else {
            panic!("not for subscribed endpoints")
        };
        assert_eq!((event.kind.as_deref(), event.tenant.as_deref()), (Some("x"), Some("Acme")));
        assert_eq!(event.payload.unwrap().get(), "null");
    }

    #[test]
    fn a_refusal_names_the_member_and_never_quotes_a_value() {
        for (body, expected) in [
            ("", "isn't JSON"),
            (r#"{"type":"#, "isn't JSON"),
            (r#"{"type":"x"} {}"#, "isn't JSON"),
            (r#"["secret"]"#, "must be a JSON object"),
            (r#""secret""#, "must be a JSON object"),
            (r#"{"type":"x","payload":1,"tenat":"secret"}"#, "unknown member 'tenat'"),
            (r#"{"type":"x","payload":1,"target":7}"#, "unknown member 'target'"),
            (r#"{"type":"x","payload":1,"tenant":null}"#, "'tenant' must be text"),
            (r#"{"type":["secret"],"payload":1}"#, "'type' must be text"),
            (r#"{"url":null,"payload":1}"#, "'url' must be text"),
            (r#"{"url":"http://a","payload":1,"payload":2}"#, "'payload' appears twice"),
        ] {
            let refusal = refusal(body);
            assert!(refusal.contains(expected) && !refusal.contains("secret"), "{body}: {refusal}");
        }
    }
}
