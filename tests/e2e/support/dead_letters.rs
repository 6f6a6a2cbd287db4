//! Dead letters: how a test makes them, and how it asks for them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{Api, FAILS, OK, RawCustomer, Tenant, wait_until};

/// A customer that is down until it is told otherwise.
pub(crate) fn moody() -> (RawCustomer, Arc<AtomicBool>) {
    let is_up = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&is_up);
    let customer = RawCustomer::start(move |stream, _| {
        let answer = if says.load(Ordering::SeqCst) { OK } else { FAILS };
        drop(stream.write_all(answer.as_bytes()));
    });
    (customer, is_up)
}

/// A customer that never answers.
pub(crate) fn hanging() -> RawCustomer {
    RawCustomer::start(|stream, _| drop(stream.read(&mut [0])))
}

/// What a list holds.
pub(crate) fn listed(api: &Api, path: &str) -> Vec<Value> {
    let answer = api.get(path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()["data"].as_array().unwrap().clone()
}

pub(crate) fn ids(letters: &[Value]) -> BTreeSet<String> {
    letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

/// Publishes `count` events to a tenant whose customer is down, and waits until all are dead.
pub(crate) fn die(tenant: &Tenant, count: usize) -> BTreeSet<String> {
    let published = (0..count).flat_map(|n| tenant.api.published("invoice.paid", json!(n))).collect();
    let dead = || ids(&listed(&tenant.api, "/tenants/me/dead-letters?limit=100"));
    wait_until("their deaths", || dead().is_superset(&published));
    published
}

pub(crate) fn state(api: &Api, id: &str) -> Value {
    api.get(&format!("/messages/{id}")).json()["state"].clone()
}
