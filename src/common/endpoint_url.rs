//! URLs of endpoints, checked when they are parsed.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use url::{Host, Url};

/// Maximum length in bytes. Every job of direct mode carries its URL, so the length is bounded.
const MAX_BYTES: usize = 2_048;

/// URL that a delivery can be sent to: `http` or `https`, with a host and without credentials.
///
/// It is normalized as browsers do (WHATWG), so that `http://2130706433/` becomes `http://127.0.0.1/`. `Debug` and
/// `Display` show the origin only, because paths and queries may hold tokens.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl(Uri);

/// Refusal of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    /// The text isn't an absolute URL.
    #[error("must be an absolute URL such as https://example.com/webhook")]
    Invalid,
    /// The scheme is neither `http` nor `https`.
    #[error("must be an http or https URL")]
    Scheme,
    /// The URL holds a user name or a password.
    #[error("must not hold credentials; whk signs its deliveries instead")]
    Credentials,
    /// The URL is longer than 2,048 bytes before or after it is normalized.
    #[error("must be at most {MAX_BYTES} bytes")]
    TooLong,
}

impl EndpointUrl {
    /// Parses, checks and normalizes a URL.
    ///
    /// # Errors
    /// The text isn't an absolute `http` or `https` URL, holds credentials, or is too long.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > MAX_BYTES {
            return Err(EndpointUrlError::TooLong);
        }
        let mut url = Url::parse(text).map_err(|_| EndpointUrlError::Invalid)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EndpointUrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointUrlError::Credentials);
        }
        url.set_fragment(None);
        // Percent-encoding turns one character into up to nine bytes.
        if url.as_str().len() > MAX_BYTES {
            return Err(EndpointUrlError::TooLong);
        }
        Uri::try_from(String::from(url)).map(Self).map_err(|_| EndpointUrlError::Invalid)
    }

    /// Returns the URL for hyper. A clone of it shares the text.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether the scheme is `https`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Returns the host if it is an IP address. `None` for a name.
    #[must_use]
    pub fn literal_address(&self) -> Option<IpAddr> {
        literal_address(&self.0)
    }
}

/// Returns the host of `uri` if it is an IP address, in any spelling that resolvers accept. `None` for a name.
#[must_use]
pub fn literal_address(uri: &Uri) -> Option<IpAddr> {
    match Host::parse(uri.host()?).ok()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", http::uri::Authority::as_str);
        write!(f, "{}://{authority}", self.0.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_urls_are_refused_and_fragments_removed() {
        use EndpointUrlError::{Credentials, Invalid, Scheme, TooLong};
        let refused = |url: &str| EndpointUrl::parse(url).unwrap_err();
        assert_eq!(refused("ftp://example.com/"), Scheme);
        assert_eq!(refused("file:///etc/passwd"), Scheme);
        assert_eq!(refused("http://user:pw@example.com/"), Credentials);
        assert_eq!(refused("http://user@example.com/"), Credentials);
        assert_eq!(refused("example.com/webhook"), Invalid);
        assert_eq!(refused("http://"), Invalid);
        assert_eq!(refused(""), Invalid);
        assert_eq!(refused("http://[::1/"), Invalid);
        assert_eq!(refused("http://exa mple.com/"), Invalid);
        assert_eq!(refused(&format!("http://example.com/{}", "a".repeat(MAX_BYTES))), TooLong);
        assert_eq!(refused(&format!("http://example.com/{}", "é".repeat(900))), TooLong);
        assert_eq!(
            EndpointUrl::parse("https://example.com/a?b=1#c").unwrap().uri(),
            "https://example.com/a?b=1"
        );
    }

    #[test]
    fn every_spelling_of_an_address_is_recognized() {
        for spelling in
            ["127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "１２７.0.0.1"]
        {
            let url = EndpointUrl::parse(&format!("http://{spelling}/")).unwrap();
            assert_eq!(url.literal_address(), Some(IpAddr::from([127, 0, 0, 1])), "{spelling}");
        }
        let mapped = EndpointUrl::parse("http://[::ffff:127.0.0.1]:80/").unwrap();
        assert_eq!(mapped.literal_address(), Some("::ffff:127.0.0.1".parse().unwrap()));
        assert_eq!(EndpointUrl::parse("http://example.com/").unwrap().literal_address(), None);
    }

    #[test]
    fn only_the_origin_is_shown() {
        let url = EndpointUrl::parse("https://hooks.example.com:8443/T000/secret?token=secret").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://hooks.example.com:8443 https://hooks.example.com:8443");
    }
}
