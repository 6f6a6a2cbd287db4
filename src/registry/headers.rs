//! Static headers of an endpoint, and the rules for them.

use std::fmt;

use http::{HeaderName, HeaderValue};

/// Maximum number of headers of one endpoint.
pub const MAX_HEADERS: usize = 16;
/// Maximum length of a header's name in bytes.
pub const MAX_HEADER_NAME_BYTES: usize = 256;
/// Maximum length of a header's value in bytes.
pub const MAX_HEADER_BYTES: usize = 1_024;

/// Headers of every delivery to an endpoint. `Debug` shows only their names, because values may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StaticHeaders(Vec<(HeaderName, HeaderValue)>);

/// A header that an endpoint can't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The name isn't a header name (RFC 9110, section 5.1), or is too long.
    #[error("a name must be of letters, digits and !#$%&'*+-.^_`|~, at most {MAX_HEADER_NAME_BYTES} bytes")]
    Name,
    /// The header is set by whk or by HTTP.
    #[error("'{0}' is set by whk or by HTTP itself")]
    Reserved(HeaderName),
    /// The value isn't a header value (RFC 9110, section 5.5), or is too long.
    #[error("the value of '{0}' must be visible ASCII and single spaces, at most {MAX_HEADER_BYTES} bytes")]
    Value(HeaderName),
    /// The name occurs twice, whatever its case.
    #[error("'{0}' is given twice")]
    Twice(HeaderName),
    /// The number of headers exceeds [`MAX_HEADERS`].
    #[error("at most {MAX_HEADERS} headers are allowed")]
    TooMany,
}

/// Headers that control how the request itself is read or routed.
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
    /// Parses names and values.
    ///
    /// # Errors
    /// A name or value is malformed, a name is reserved or occurs twice, or there are too many headers.
    pub fn parse<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, HeaderError> {
        let mut parsed: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in headers {
            let name = Some(name).filter(|name| name.len() <= MAX_HEADER_NAME_BYTES);
            let name = name.and_then(|name| HeaderName::try_from(name).ok()).ok_or(HeaderError::Name)?;
            if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("webhook-") {
                return Err(HeaderError::Reserved(name));
            }
            let visible = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            if !visible || value.len() > MAX_HEADER_BYTES || value.trim() != value {
                return Err(HeaderError::Value(name));
            }
            let mut checked = HeaderValue::from_str(value).map_err(|_| HeaderError::Value(name.clone()))?;
            checked.set_sensitive(true);
            if parsed.iter().any(|(known, _)| *known == name) {
                return Err(HeaderError::Twice(name));
            }
            parsed.push((name, checked));
            if parsed.len() > MAX_HEADERS {
                return Err(HeaderError::TooMany);
            }
        }
        Ok(Self(parsed))
    }

    /// Returns the names and values.
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

    fn headers(pairs: &[(&str, &str)]) -> Result<StaticHeaders, HeaderError> {
        StaticHeaders::parse(pairs.iter().copied())
    }

    #[test]
    fn injected_and_reserved_headers_are_refused() {
        for value in ["a\r\nx: y", "a\nb", "a\0", "a\tb", " a", "a ", "ü", "a\u{7f}"] {
            assert!(matches!(headers(&[("x-a", value)]), Err(HeaderError::Value(_))), "{value:?}");
        }
        for name in ["", "a b", "a:", "x\r\ny", "ü", "x-a ", &"x".repeat(MAX_HEADER_NAME_BYTES + 1)] {
            assert_eq!(headers(&[(name, "v")]), Err(HeaderError::Name), "{name:?}");
        }
        for name in
            ["Host", "content-length", "Content-Type", "Webhook-Id", "webhook-anything", "TE", "traceparent"]
        {
            assert!(matches!(headers(&[(name, "v")]), Err(HeaderError::Reserved(_))), "{name}");
        }
        assert!(matches!(headers(&[("x-a", "1"), ("X-A", "2")]), Err(HeaderError::Twice(_))));
        let many: Vec<String> = (0..=MAX_HEADERS).map(|n| format!("x-{n}")).collect();
        let pairs: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(headers(&pairs), Err(HeaderError::TooMany));
        assert!(headers(&pairs[1..]).is_ok());
    }

    #[test]
    fn debug_hides_header_values() {
        let headers = headers(&[("authorization", "Bearer secret")]).unwrap();
        assert_eq!(format!("{headers:?}"), r#"["authorization"]"#);
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(name in "\\PC{0,40}", value in "\\PC{0,60}") {
            drop(headers(&[(&name, &value)]));
        }
    }
}
