//! CloudEvents 1.0 over HTTP, in structured and in binary mode.
//!
//! Source: CloudEvents 1.0.2, its JSON event format and its HTTP protocol binding.

use std::borrow::Cow;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::{PublishRequest, present_json};
use crate::common::json::Object;
use crate::server::extract::invalid_json;
use crate::server::problem::Problem;

/// Supported version of CloudEvents.
const VERSION: &str = "1.0";
/// Maximum length of an id or a source, in characters. The idempotency cache remembers both.
const MAX_ID_CHARS: usize = 512;

/// A CloudEvent in structured mode. Unknown attributes are ignored.
#[derive(Deserialize)]
struct StructuredEvent<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
    #[serde(borrow)]
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present_json")]
    data: Option<&'a RawValue>,
    data_base64: Option<serde::de::IgnoredAny>,
}

/// Parses an event in structured mode. The payload is borrowed from `body`.
///
/// # Errors
/// 400, with the name of the attribute that is wrong.
pub(super) fn parse_structured(body: &[u8]) -> Result<PublishRequest<'_>, Problem> {
    let Object(event): Object<StructuredEvent<'_>> = serde_json::from_slice(body).map_err(|error| {
        if !error.is_data() {
            return invalid_json(&error);
        }
        Problem::bad_request(format!(
            "the body must be a JSON object with CloudEvents attributes: texts, each given once (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    if event.data_base64.is_some() {
        return Err(Problem::bad_request("'data_base64' isn't supported; send JSON in 'data'"));
    }
    let data_type = event.datacontenttype.as_deref().unwrap_or("application/json");
    let data_type = data_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if data_type != "application/json" && !data_type.ends_with("+json") {
        return Err(Problem::bad_request("'datacontenttype' must be application/json, or end in +json"));
    }
    let identity = identity(event.specversion.as_deref(), event.id.as_deref(), event.source.as_deref())?;
    Ok(PublishRequest {
        kind: event.kind,
        payload: Some(event.data.unwrap_or(RawValue::NULL)),
        tenant: event.tenant,
        cloud_event_identity: Some(identity),
    })
}

/// Parses an event in binary mode. The payload is borrowed from `body`; an empty body stands for `null`.
///
/// # Errors
/// 400, with the name of the attribute that is wrong.
pub(super) fn parse_binary<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<PublishRequest<'a>, Problem> {
    let attribute =
        |name: &str| headers.get(name).map(|value| decode_attribute(value.as_bytes())).transpose();
    let (version, id) = (attribute("ce-specversion")?, attribute("ce-id")?);
    let identity = identity(version.as_deref(), id.as_deref(), attribute("ce-source")?.as_deref())?;
    let payload: &RawValue = if body.is_empty() {
        RawValue::NULL
    } else {
        serde_json::from_slice(body).map_err(|error| invalid_json(&error))?
    };
    Ok(PublishRequest {
        kind: attribute("ce-type")?.map(Cow::Owned),
        payload: Some(payload),
        tenant: attribute("ce-tenant")?.map(Cow::Owned),
        cloud_event_identity: Some(identity),
    })
}

/// Checks the attributes that every event must have. Returns the event's identity: its source and id.
fn identity(version: Option<&str>, id: Option<&str>, source: Option<&str>) -> Result<Vec<u8>, Problem> {
    if version != Some(VERSION) {
        return Err(Problem::bad_request(format!("'specversion' must be {VERSION}")));
    }
    let required = |name: &str, value: Option<&str>| {
        let value = value.filter(|value| !value.is_empty() && value.chars().count() <= MAX_ID_CHARS);
        value.map(str::to_owned).ok_or_else(|| {
            Problem::bad_request(format!("'{name}' is required, with 1 to {MAX_ID_CHARS} characters"))
        })
    };
    let (id, source) = (required("id", id)?, required("source", source)?);
    // The length keeps ("a b", "c") and ("a", "b c") apart.
    Ok(format!("{} {source} {id}", source.len()).into_bytes())
}

/// Decodes an attribute from a header: percent-encoded text, possibly in quotes (HTTP binding, section 3.1.3.2).
fn decode_attribute(value: &[u8]) -> Result<String, Problem> {
    let unreadable = || Problem::bad_request("a ce- header must be percent-encoded UTF-8");
    let text = std::str::from_utf8(value).map_err(|_| unreadable())?;
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let text = inner.map_or(Cow::Borrowed(text), |inner| unescape(inner).into());
    percent_decode_str(&text).decode_utf8().map(Cow::into_owned).map_err(|_| unreadable())
}

/// Removes the backslashes of a quoted string (RFC 9110, section 5.6.4).
fn unescape(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        text.extend(if char == '\\' { chars.next() } else { Some(char) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_in_headers_are_decoded() {
        for (header, expected) in [
            ("/billing", "/billing"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("\"a \\\"b\\\" c\"", "a \"b\" c"),
            ("%41%", "A%"),
            ("\"", "\""),
        ] {
            assert_eq!(decode_attribute(header.as_bytes()).unwrap(), expected, "{header}");
        }
        assert!(decode_attribute(b"%ff").is_err() && decode_attribute(b"\xff").is_err());
    }

    #[test]
    fn source_and_id_together_identify_an_event() {
        let of = |source, id| identity(Some("1.0"), Some(id), Some(source)).unwrap();
        assert_eq!(of("a", "1"), of("a", "1"));
        assert_ne!(of("a", "1"), of("b", "1"));
        assert_ne!(of("a b", "c"), of("a", "b c"));
        assert!(identity(Some("0.3"), Some("1"), Some("a")).is_err());
        assert!(identity(Some("1.0"), Some(""), Some("a")).is_err());
        assert!(identity(Some("1.0"), Some("1"), None).is_err());
    }
}
