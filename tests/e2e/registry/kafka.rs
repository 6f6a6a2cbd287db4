//! Servers that share their tenants through Kafka.

use serde_json::json;

use crate::support::services::named_kafka_brokers;
use crate::support::{Api, OK, RawCustomer, Server, fixture, message_ids, run, stderr, wait_until};

#[test]
fn a_tenant_created_on_one_server_is_known_to_the_other() {
    let brokers = named_kafka_brokers();
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let events = format!("e2e-{}-{since}", std::process::id());
    let registry = format!("{events}.tenants");
    let kafka = ["--kafka-brokers", &brokers, "--kafka-topic", &events, "--kafka-registry-topic", &registry];
    let data_dir = tempfile::tempdir().unwrap();
    let flags = ["publish-server", "--port", "0", "--registry", "kafka", "--data-dir"];
    let too_soon = run(&[&flags[..], &[data_dir.path().to_str().unwrap()], &kafka[..]].concat());
    assert_eq!(too_soon.status.code(), Some(69), "{too_soon:?}");
    assert!(stderr(&too_soon).contains("whk kafka-setup"), "{}", stderr(&too_soon));
    let setup = run(&[&["kafka-setup", "--partitions", "1"][..], &kafka].concat());
    assert_eq!(setup.status.code(), Some(0), "{}", stderr(&setup));

    let key = fixture("registry/v1/secret.key");
    let own = ["--registry", "kafka", "--queue", "memory", "--secret-key-file", key.to_str().unwrap()];
    let flags = [&own[..], &kafka].concat();
    let (one, other) = (Server::tenants(&flags), Server::tenants(&flags));
    assert!(!other.data_dir().join("provider_key.txt").exists(), "the registry has a provider key already");
    let provider = one.api();
    let there = Api { port: other.port, key: provider.key.clone() };
    let customer = RawCustomer::answering(OK);
    let tenant = provider.subscribe("Acme", &customer.url(), &["invoice.*"]);
    let event = json!({"type": "invoice.paid", "payload": 1, "tenant": "Acme"});
    let published = there.post("/publish", event);
    assert_eq!((published.status, message_ids(&published).len()), (202, 1), "{published:?}");
    assert_eq!(customer.request().headers["webhook-id"], message_ids(&published)[0]);
    assert_eq!(there.post("/tenants", json!({"name": "Acme"})).status, 409);
    let own = Api { port: other.port, key: tenant.api.key.clone() };
    assert_eq!(own.get("/tenants/me").json()["id"], *tenant.id);
    let keys = provider.get(&format!("/tenants/{}/api-keys", tenant.id)).json();
    let key = keys["data"][0]["id"].as_str().unwrap();
    assert_eq!(there.delete(&format!("/tenants/{}/api-keys/{key}", tenant.id)).status, 204);
    let own = Api { port: one.port, key: tenant.api.key.clone() };
    wait_until("a revoked key that is refused", || own.publish("x", json!(1)).status == 401);
}
