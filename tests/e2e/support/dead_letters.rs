//! Making dead letters, and asking the API for them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{Api, FAILS, OK, RawCustomer, Tenant, wait_until};

/// Starts a customer that fails until the flag is set.
pub(crate) fn failing_until_set() -> (RawCustomer, Arc<AtomicBool>) {
    let is_up = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&is_up);
    let customer = RawCustomer::start(move |stream, _| {
        let answer = if answers.load(Ordering::SeqCst) { OK } else { FAILS };
        drop(stream.write_all(answer.as_bytes()));
    });
    (customer, is_up)
}

/// Starts a customer that never answers.
pub(crate) fn never_answering() -> RawCustomer {
    RawCustomer::start(|stream, _| drop(stream.read(&mut [0])))
}

/// Returns the items of a list of the API.
pub(crate) fn listed(api: &Api, path: &str) -> Vec<Value> {
    let answer = api.get(path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()["data"].as_array().unwrap().clone()
}

/// Returns the ids of dead letters.
pub(crate) fn ids(letters: &[Value]) -> BTreeSet<String> {
    letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

/// Publishes `count` events to a tenant whose customer fails, waits until all are dead letters, and returns their ids.
pub(crate) fn make_dead_letters(tenant: &Tenant, count: usize) -> BTreeSet<String> {
    let published = (0..count).flat_map(|n| tenant.api.published("invoice.paid", json!(n))).collect();
    let dead = || ids(&listed(&tenant.api, "/tenants/me/dead-letters?limit=100"));
    wait_until("dead letters", || dead().is_superset(&published));
    published
}

/// Returns the state of a message.
pub(crate) fn state(api: &Api, id: &str) -> Value {
    api.get(&format!("/messages/{id}")).json()["state"].clone()
}
