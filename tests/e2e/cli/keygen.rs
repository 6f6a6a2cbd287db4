//! `whk keygen`: key pairs as files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use whk::common::crypto::keys::PublicKey;

use crate::support::{Server, fixture, stderr, whk};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn keygen_creates_a_key_pair_with_safe_modes_and_prints_its_key_id() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("keys");
    let arguments = ["keygen", "--bits", "2048", "--signing-secret", "--output", "json", "--out-dir"];
    let made = whk(&arguments).arg(&out).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["bits"], 2048);
    let public = PublicKey::read(&out.join("public_key.pem")).unwrap();
    assert_eq!(made["key_id"], public.kid());
    assert_eq!(mode(&out.join("private_key.pem")), 0o600);
    assert_eq!(mode(&out.join("public_key.pem")) & 0o022, 0, "only the owner may write the public key");
    assert_eq!(mode(&out.join("signing_secret.txt")), 0o600);
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(text("private_key.pem").starts_with("-----BEGIN PRIVATE KEY-----"));
    assert!(text("public_key.pem").starts_with("-----BEGIN PUBLIC KEY-----"));
    assert!(text("signing_secret.txt").starts_with("whsec_"));
}

#[test]
fn keygen_creates_4096_bits_by_default_and_prints_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let made = whk(&["keygen", "--out-dir"]).arg(folder.path()).output().unwrap();
    assert_eq!(PublicKey::read(&folder.path().join("public_key.pem")).unwrap().bits(), 4096);
    let message = String::from_utf8(made.stdout).unwrap();
    assert!(message.contains("hand it to the provider") && message.contains("key id"), "{message}");
    assert!(!folder.path().join("signing_secret.txt").exists());
}

#[test]
fn keygen_overwrites_only_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let keygen = |more: &[&str]| {
        whk(&["keygen", "--bits", "2048", "--out-dir"]).arg(folder.path()).args(more).output().unwrap()
    };
    let private = folder.path().join("private_key.pem");
    assert!(keygen(&[]).status.success());
    let first = std::fs::read(&private).unwrap();
    let refused = keygen(&[]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(std::fs::read(&private).unwrap(), first);
    assert!(keygen(&["--force"]).status.success());
    assert_ne!(std::fs::read(&private).unwrap(), first);
    assert_eq!(mode(&private), 0o600);
    assert_eq!(folder.path().read_dir().unwrap().count(), 2, "no partial file may be left");
}

#[test]
fn keygen_encrypts_the_private_key_with_a_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let mut keygen = whk(&["keygen", "--bits", "2048", "--passphrase-file"]);
    keygen.arg(fixture("keys/passphrase.txt")).arg("--out-dir").arg(folder.path());
    assert!(keygen.output().unwrap().status.success());
    let private = folder.path().join("private_key.pem");
    assert!(std::fs::read_to_string(&private).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let mut command = whk(&["customer", "--port", "0", "--allow-unsigned", "--private-key"]);
    command.arg(&private).arg("--passphrase-file").arg(fixture("keys/passphrase.txt"));
    drop(Server::start(command));
}
