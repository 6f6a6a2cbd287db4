use super::*;
use crate::common::crypto::tests::{fixture, fixture_text, private_key, public_key};

/// Example key of RFC 7638, section 3.1.
const RFC7638_JWK: &str = r#"{
  "kty": "RSA",
  "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
  "e": "AQAB",
  "alg": "RS256",
  "kid": "2011-04-29"
}"#;

#[test]
fn the_key_id_is_the_rfc_7638_thumbprint() {
    let key = PublicKey::parse(RFC7638_JWK).unwrap();
    assert_eq!(key.kid(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!(key.bits(), 2048);
}

#[test]
fn public_keys_are_read_in_every_format() {
    let kid = public_key().kid().to_owned();
    for name in ["public_key.pem", "public_key.pkcs1.pem", "public_key.scripts.pem", "public_key.jwk.json"] {
        let key = PublicKey::read(&fixture(&format!("keys/{name}"))).unwrap();
        assert_eq!(key.kid(), kid, "{name}");
    }
    let with_preamble = format!("Bag Attributes\n  friendlyName: a\n{}", fixture_text("keys/public_key.pem"));
    assert_eq!(PublicKey::parse(&with_preamble).unwrap().kid(), kid);
    assert_eq!(PublicKey::parse(&public_key().to_pem().unwrap()).unwrap().kid(), kid);
    assert_eq!(PublicKey::parse(&public_key().to_jwk().to_string()).unwrap().kid(), kid);
}

#[test]
fn private_keys_are_read_in_every_format() {
    let kid = private_key().kid().to_owned();
    let passphrase = Passphrase::read(&fixture("keys/passphrase.txt")).unwrap();
    for name in
        ["private_key.pem", "private_key.pkcs1.pem", "private_key.scripts.pem", "private_key.encrypted.pem"]
    {
        let key = PrivateKey::read(&fixture(&format!("keys/{name}")), Some(&passphrase)).unwrap();
        assert_eq!(key.kid(), kid, "{name}");
    }
    let encrypted = private_key().to_pem(Some(&passphrase)).unwrap();
    assert!(encrypted.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    assert_eq!(PrivateKey::parse(&encrypted, Some(&passphrase)).unwrap().kid(), kid);
}

#[test]
fn each_unusable_public_key_has_its_own_error() {
    let refused = |name: &str| match PublicKey::read(&fixture(&format!("keys/{name}"))) {
        Err(KeyError::File { source, .. }) => *source,
        other => panic!("{name}: {other:?}"),
    };
    assert!(matches!(refused("private_key.pem"), KeyError::PrivateWherePublic));
    assert!(matches!(refused("private_key.scripts.pem"), KeyError::PrivateWherePublic));
    assert!(matches!(refused("private_key.encrypted.pem"), KeyError::PrivateWherePublic));
    assert!(matches!(refused("private_key.jwk.json"), KeyError::PrivateWherePublic));
    assert!(matches!(refused("short_public_key.pem"), KeyError::TooShort(1024)));
    assert!(matches!(refused("empty.pem"), KeyError::Empty));
    assert!(matches!(refused("truncated_public_key.pem"), KeyError::Malformed));
    assert!(matches!(refused("ec_public_key.pem"), KeyError::Unsupported(_)));
    assert!(matches!(refused("signing_secret.txt"), KeyError::Unsupported(_)));
    assert!(matches!(PublicKey::read(&fixture("keys/none.pem")), Err(KeyError::Read { .. })));
}

#[test]
fn each_unusable_private_key_has_its_own_error() {
    let read = |name: &str, passphrase: Option<&str>| {
        let passphrase = passphrase.map(Passphrase::from);
        match PrivateKey::read(&fixture(&format!("keys/{name}")), passphrase.as_ref()) {
            Err(KeyError::File { source, .. }) => *source,
            other => panic!("{name}: {other:?}"),
        }
    };
    assert!(matches!(read("public_key.pem", None), KeyError::PublicWherePrivate));
    assert!(matches!(read("private_key.encrypted.pem", None), KeyError::PassphraseNeeded));
    assert!(matches!(read("private_key.encrypted.pem", Some("wrong")), KeyError::WrongPassphrase));
    assert!(matches!(read("short_private_key.pem", None), KeyError::TooShort(1024)));
    assert!(matches!(read("ec_private_key.pem", None), KeyError::Unsupported(_)));
    assert!(matches!(read("empty.pem", None), KeyError::Empty));
    assert!(matches!(PrivateKey::generate(1024), Err(KeyError::TooShort(1024))));
}

#[test]
fn debug_shows_no_secret() {
    let (private, passphrase) = (private_key(), Passphrase::from("hunter2"));
    let shown = format!("{private:?} {:?} {passphrase:?}", private.public());
    assert_eq!(shown.matches(private.kid()).count(), 2);
    assert!(!shown.contains("hunter2"));
    assert!(shown.len() < 200, "{shown}");
}

proptest::proptest! {
    #[test]
    fn the_parsers_never_panic(text in "\\PC{0,200}", cut in 0_usize..2000) {
        drop(PublicKey::parse(&text));
        drop(PrivateKey::parse(&text, None));
        let pem = fixture_text("keys/private_key.pem");
        drop(PrivateKey::parse(&pem[..cut.min(pem.len())], None));
    }
}
