//! The URL of an endpoint, checked once and then known to be usable.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use url::{Host, Url};

/// Longer URLs are refused: every job carries one.
const MOST_BYTES: usize = 2_048;

/// A URL that a delivery can be sent to: `http` or `https`, with a host, without credentials, normalised as
/// browsers do (WHATWG), so that `http://2130706433/` is `http://127.0.0.1/`. `Debug` shows its origin alone,
/// since paths and queries hold tokens.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl(Uri);

/// Why a URL can't be an endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    /// It isn't an absolute URL.
    #[error("must be an absolute URL such as https://example.com/webhook")]
    Invalid,
    /// It is of another scheme.
    #[error("must be an http or https URL")]
    Scheme,
    /// It has a user name or a password.
    #[error("must not hold credentials; whk signs its deliveries instead")]
    Credentials,
    /// It is longer than 2,048 bytes, as it was given or normalised.
    #[error("must be at most {MOST_BYTES} bytes")]
    TooLong,
}

impl EndpointUrl {
    /// Parses, checks and normalises.
    ///
    /// # Errors
    /// It isn't an absolute http(s) URL, holds credentials, or is too long.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        if text.len() > MOST_BYTES {
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
        // Normalised, one character may have become nine.
        if url.as_str().len() > MOST_BYTES {
            return Err(EndpointUrlError::TooLong);
        }
        Uri::try_from(String::from(url)).map(Self).map_err(|_| EndpointUrlError::Invalid)
    }

    /// The URL for hyper. Cloning it copies no text.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host where it is an address and not a name.
    #[must_use]
    pub fn literal_address(&self) -> Option<IpAddr> {
        literal_address(&self.0)
    }
}

/// The host of `uri` where it is an address and not a name, in any spelling that resolvers take.
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
    fn other_schemes_credentials_and_fragments() {
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
        assert_eq!(refused(&format!("http://example.com/{}", "a".repeat(MOST_BYTES))), TooLong);
        assert_eq!(refused(&format!("http://example.com/{}", "é".repeat(900))), TooLong);
        assert_eq!(
            EndpointUrl::parse("https://example.com/a?b=1#c").unwrap().uri(),
            "https://example.com/a?b=1"
        );
    }

    #[test]
    fn every_spelling_of_an_address_is_seen() {
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
    fn shown_without_what_may_be_a_token() {
        let url = EndpointUrl::parse("https://hooks.example.com:8443/T000/secret?token=secret").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://hooks.example.com:8443 https://hooks.example.com:8443");
    }
}
