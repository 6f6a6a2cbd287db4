//! The egress guard: decides which addresses a delivery may reach.
//!
//! Tenants choose the URLs of their endpoints. Without the guard, a tenant could make the server call the provider's
//! own network (server-side request forgery). The connector resolves a name once, checks every address, and dials one
//! that passed, so that a second resolution can't smuggle in another address.
//!
//! The ranges are those of the IANA special-purpose address registries for IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::common::endpoint_url::EndpointUrl;

/// Refusal of an address. It names the address, but never the path or query of a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address isn't in the public internet.
    #[error("{0} isn't a public address; allow its network with --allow-net")]
    NotPublic(IpAddr),
    /// The request uses plain HTTP, and the address is in no allowed network.
    #[error("plain http isn't allowed to {0}; use https, or allow its network with --allow-net")]
    PlainHttp(IpAddr),
    /// The request uses plain HTTP, and no network is allowed.
    #[error("plain http isn't allowed; use https, or allow a network with --allow-net")]
    PlainHttpAnywhere,
}

/// Rules for outgoing requests: the public internet over `https`, and allowed networks over `http` and `https`.
#[derive(Debug, Clone, Default)]
pub struct EgressGuard {
    allowed: Arc<[IpNet]>,
}

impl EgressGuard {
    /// Makes a guard that accepts the `allowed` networks beside the public internet.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Checks a URL as far as possible before its name is resolved.
    ///
    /// # Errors
    /// The host is an address that may not be called, or the URL is plain `http` and no network is allowed.
    pub fn check_url(&self, url: &EndpointUrl) -> Result<(), Refusal> {
        match url.literal_address() {
            Some(address) => self.check_address(address, url.is_https()),
            None if url.is_https() || !self.allowed.is_empty() => Ok(()),
            None => Err(Refusal::PlainHttpAnywhere),
        }
    }

    /// Checks an address before it is dialled.
    ///
    /// # Errors
    /// The address may not be called, or only with TLS.
    pub fn check_address(&self, address: IpAddr, https: bool) -> Result<(), Refusal> {
        let actual = unwrap_translated(address);
        if self.allowed.iter().any(|net| net.contains(&actual) || net.contains(&address)) {
            return Ok(());
        }
        if !is_public(actual) {
            return Err(Refusal::NotPublic(address));
        }
        if https { Ok(()) } else { Err(Refusal::PlainHttp(address)) }
    }
}

/// Returns the IPv4 address that an IPv6 address stands for: IPv4-mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056). Returns
/// other addresses unchanged.
fn unwrap_translated(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(mapped) = v6.to_ipv4_mapped() {
        return mapped.into();
    }
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let from_segments = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::from([a, b, c, d])
    };
    match [a, b, c, d, e, f] {
        [0x0064, 0xff9b, 0, 0, 0, 0] => from_segments(g, h),
        [0x2002, high, low, ..] => from_segments(high, low),
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !RESERVED_V4.iter().any(|net| net.contains(&v4)),
        // All assigned global unicast addresses are in 2000::/3.
        IpAddr::V6(v6) => {
            Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3).contains(&v6)
                && !RESERVED_V6.iter().any(|net| net.contains(&v6))
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 ranges that are private, special, or a cloud's metadata service.
const RESERVED_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT, and Alibaba's metadata service
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's host, a public address that every virtual machine reaches
    v4(169, 254, 0, 0, 16),   // link-local, and most clouds' metadata services
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // IETF protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, and broadcast
];

/// Ranges inside 2000::/3 that aren't public.
const RESERVED_V6: [Ipv6Net; 3] = [
    v6(0x2001, 0, 23),      // IETF protocol assignments, Teredo among them
    v6(0x2001, 0x0db8, 32), // documentation
    v6(0x3fff, 0, 20),      // documentation
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &EgressGuard, url: &str) -> Result<(), Refusal> {
        guard.check_url(&EndpointUrl::parse(url).unwrap())
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        let guard = EgressGuard::default();
        for host in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0177.1",
            "168.63.129.16",
            "169.254.169.254",
            "0xA9FEA9FE",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[::7f00:1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::1]",
            "[2001:0:53aa:64c:0:0:f5ff:fffe]",
            "[2001:db8::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
        ] {
            let refused = check(&guard, &format!("https://{host}/"));
            assert!(matches!(refused, Err(Refusal::NotPublic(_))), "{host}: {refused:?}");
        }
    }

    #[test]
    fn the_public_internet_is_accepted_with_tls_only() {
        let guard = EgressGuard::default();
        for host in ["1.1.1.1", "[2606:4700::1111]", "[64:ff9b::1.1.1.1]", "[2002:101:101::1]", "example.com"]
        {
            assert_eq!(check(&guard, &format!("https://{host}/")), Ok(()), "{host}");
            assert!(check(&guard, &format!("http://{host}/")).is_err(), "{host}");
        }
    }

    #[test]
    fn an_allowed_network_is_accepted_with_and_without_tls_and_no_other_is() {
        let guard = EgressGuard::new(vec!["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(check(&guard, "http://127.0.0.1:9000/"), Ok(()));
        assert_eq!(check(&guard, "https://[::ffff:127.0.0.1]/"), Ok(()));
        assert_eq!(check(&guard, "http://localhost/"), Ok(()));
        assert!(check(&guard, "http://10.0.0.1/").is_err());
        assert!(check(&guard, "http://[::1]/").is_err());
        let public = guard.check_address([1, 1, 1, 1].into(), false);
        assert_eq!(public, Err(Refusal::PlainHttp([1, 1, 1, 1].into())));
    }
}
