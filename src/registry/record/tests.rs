use std::collections::BTreeMap;

use super::*;
use crate::common::crypto::tests::{fixture, fixture_text};
use crate::common::crypto::vault::Vault;
use crate::registry::Registry;
use crate::registry::endpoint::Endpoint;
use crate::registry::state::State;
use crate::registry::tests::{Home, LIMITS, database, open_database_at};

const GOLDEN: &str = "registry/records-v1.json";

/// Opens the golden database, and the vault that its secrets are sealed with.
fn golden_database() -> (Vault, Registry) {
    let home = Home::new();
    for file in ["registry.db", "secret.key"] {
        std::fs::copy(fixture(&format!("registry/v1/{file}")), home.folder.path().join(file)).unwrap();
    }
    (Vault::parse(&fixture_text("registry/v1/secret.key")).unwrap(), open_database_at(&home))
}

#[test]
#[ignore = "writes fixtures/registry/records-v1.json again; never to be run once that is released"]
fn write_the_golden_records() {
    let (vault, registry) = golden_database();
    let changes = database(&registry).load().unwrap();
    let records = writes(&changes, &State::new(LIMITS), &vault).unwrap();
    let records: BTreeMap<_, _> = records.into_iter().map(|(key, value)| (key, value.unwrap())).collect();
    std::fs::write(fixture(GOLDEN), serde_json::to_string_pretty(&records).unwrap() + "\n").unwrap();
}

/// Records that version 0.1 wrote. Every later version must read them.
#[test]
fn the_golden_records_of_version_1_are_read() {
    let (vault, database) = golden_database();
    let golden: BTreeMap<String, String> = serde_json::from_str(&fixture_text(GOLDEN)).unwrap();
    let read = read_all(golden.into_iter().map(|(key, value)| (key, Some(value))), &vault).unwrap();
    let mut state = State::new(LIMITS);
    read.into_iter().for_each(|change| state.apply(change));
    // The records and the database were written from the same registry.
    let tenants = database.tenants(None, 9).items;
    assert_eq!(state.tenants_after(None).count(), tenants.len());
    for tenant in &tenants {
        let entry = state.tenant(tenant.id).unwrap();
        assert_eq!(format!("{:?}", entry.tenant), format!("{tenant:?}"));
        let endpoints = database.endpoints(tenant.id, None, 9).items;
        assert_eq!(
            format!("{:?}", entry.endpoints.values().collect::<Vec<_>>()),
            format!("{:?}", endpoints.iter().collect::<Vec<_>>())
        );
        for (known, endpoint) in entry.endpoints.values().zip(&endpoints) {
            assert!(known.settings == endpoint.settings);
            let secrets =
                |of: &Endpoint| of.secrets.iter().map(|live| live.secret.reveal()).collect::<Vec<_>>();
            assert_eq!(secrets(known), secrets(endpoint));
        }
        assert_eq!(format!("{:?}", entry.public_keys), format!("{:?}", database.public_keys(tenant.id)));
        let api_keys = database.api_keys(Some(tenant.id), None, 9).items;
        assert_eq!(
            format!("{:?}", entry.api_keys.values().collect::<Vec<_>>()),
            format!("{:?}", api_keys.iter().collect::<Vec<_>>())
        );
        assert!(api_keys.iter().all(|key| state.api_key(&key.hash).is_some()));
    }
}
