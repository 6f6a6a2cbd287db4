//! CloudEvents 1.0 over HTTP, structured and binary mode: another way to write an event.
//!
//! Source: CloudEvents 1.0.2, its JSON format and its HTTP protocol binding.

use std::borrow::Cow;

use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::problem::Problem;
use super::publish::{Given, any};
use crate::common::json::Object;

/// The media type of structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// What batches and other formats begin with.
const CLOUD_EVENTS: &str = "application/cloudevents";

const VERSION: &str = "1.0";
/// Ids and sources of more characters are refused: each is remembered.
const MOST_NAME_CHARS: usize = 512;

/// How a request's body holds an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As whk's own body.
    Own,
    /// The body is the event.
    Structured,
    /// The body is its data, headers the rest.
    Binary,
}

#[derive(Deserialize)]
struct Structured<'a> {
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
    #[serde(borrow, default, deserialize_with = "any")]
    data: Option<&'a RawValue>,
    data_base64: Option<serde::de::IgnoredAny>,
}

/// How the body is to be read, by its media type and headers.
pub(super) fn mode(media_type: &str, headers: &HeaderMap) -> Result<Mode, Problem> {
    let media_type = media_type.to_ascii_lowercase();
    if media_type == STRUCTURED {
        return Ok(Mode::Structured);
    }
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    if headers.contains_key("ce-specversion") && is_json && !media_type.starts_with(CLOUD_EVENTS) {
        return Ok(Mode::Binary);
    }
    if media_type == "application/json" {
        return Ok(Mode::Own);
    }
    let detail = format!(
        "content-type must be application/json or {STRUCTURED}; in binary mode of CloudEvents it must be JSON as well"
    );
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// Reads structured mode.
pub(super) fn structured(body: &[u8]) -> Result<Given<'_>, Problem> {
    let Object(event): Object<Structured<'_>> = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_request(format!(
            "the body must be a JSON object with the attributes of CloudEvents 1.0, each once; at line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    if event.data_base64.is_some() {
        return Err(Problem::bad_request("'data_base64' isn't taken: 'data' must be JSON"));
    }
    let data_type = event.datacontenttype.as_deref().unwrap_or("application/json");
    let data_type = data_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if data_type != "application/json" && !data_type.ends_with("+json") {
        return Err(Problem::bad_request("'datacontenttype' must be application/json, or end in +json"));
    }
    let repeat = check(event.specversion.as_deref(), event.id.as_deref(), event.source.as_deref())?;
    Ok(Given {
        kind: event.kind,
        payload: Some(event.data.unwrap_or(RawValue::NULL)),
        tenant: event.tenant,
        repeat: Some(repeat),
    })
}

/// Reads binary mode.
pub(super) fn binary<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Given<'a>, Problem> {
    let attribute = |name: &str| headers.get(name).map(|value| decoded(value.as_bytes())).transpose();
    let (version, id) = (attribute("ce-specversion")?, attribute("ce-id")?);
    let repeat = check(version.as_deref(), id.as_deref(), attribute("ce-source")?.as_deref())?;
    let payload: &RawValue = if body.is_empty() {
        RawValue::NULL
    } else {
        serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Problem::bad_request(format!("the body isn't JSON; at line {line}, column {column}"))
        })?
    };
    Ok(Given {
        kind: attribute("ce-type")?.map(Cow::Owned),
        payload: Some(payload),
        tenant: attribute("ce-tenant")?.map(Cow::Owned),
        repeat: Some(repeat),
    })
}

/// Checks what every event must have; gives what a repeated one is known by.
fn check(version: Option<&str>, id: Option<&str>, source: Option<&str>) -> Result<Vec<u8>, Problem> {
    if version != Some(VERSION) {
        return Err(Problem::bad_request(format!("'specversion' must be {VERSION}")));
    }
    let named = |name: &str, value: Option<&str>| {
        let value = value.filter(|value| !value.is_empty() && value.chars().count() <= MOST_NAME_CHARS);
        value.map(str::to_owned).ok_or_else(|| {
            Problem::bad_request(format!("'{name}' is required, of 1 to {MOST_NAME_CHARS} characters"))
        })
    };
    let (id, source) = (named("id", id)?, named("source", source)?);
    // Lengths keep ("ab", "c") and ("a", "bc") apart.
    Ok(format!("{} {source} {id}", source.len()).into_bytes())
}

/// An attribute in a header: percent-encoded, and in quotes where its writer was careful (section 3.1.3.2).
fn decoded(value: &[u8]) -> Result<String, Problem> {
    let unreadable = || Problem::bad_request("a ce- header isn't UTF-8 once it is percent-decoded");
    let text = std::str::from_utf8(value).map_err(|_| unreadable())?;
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let text = inner.map_or(Cow::Borrowed(text), |inner| unescaped(inner).into());
    percent_decode_str(&text).decode_utf8().map(Cow::into_owned).map_err(|_| unreadable())
}

/// A quoted string without its backslashes (RFC 9110, section 5.6.4).
fn unescaped(quoted: &str) -> String {
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
    fn attributes_in_headers_are_decoded_as_the_binding_says() {
        for (header, meant) in [
            ("/billing", "/billing"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("\"a \\\"b\\\" c\"", "a \"b\" c"),
            ("%41%", "A%"),
            ("\"", "\""),
        ] {
            assert_eq!(decoded(header.as_bytes()).unwrap(), meant, "{header}");
        }
        assert!(decoded(b"%ff").is_err() && decoded(b"\xff").is_err());
    }

    #[test]
    fn a_repeated_event_is_known_by_source_and_id_together() {
        let key = |source, id| check(Some("1.0"), Some(id), Some(source)).unwrap();
        assert_eq!(key("a", "1"), key("a", "1"));
        assert_ne!(key("a", "1"), key("b", "1"));
        assert_ne!(key("a b", "c"), key("a", "b c"));
        assert!(check(Some("0.3"), Some("1"), Some("a")).is_err());
        assert!(check(Some("1.0"), Some(""), Some("a")).is_err());
        assert!(check(Some("1.0"), Some("1"), None).is_err());
    }
}
