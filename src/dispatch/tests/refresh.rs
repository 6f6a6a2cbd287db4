//! Endpoints that were changed at another server.

use super::*;
use crate::common::retry::{Cause, EndpointState};
use crate::queue::Settlement;
use crate::registry::two_servers::TwoServers;

/// Delivers a job to `endpoint` and returns the verdict.
async fn verdict_on(dispatcher: &Dispatcher, endpoint: &Endpoint) -> Verdict {
    let target = Target::Endpoint(endpoint.tenant, endpoint.id);
    let job = job(target, &endpoint.tenant.to_string(), dispatcher.clock);
    dispatcher.queue.push(vec![job]).await.unwrap();
    let lease = dispatcher.queue.claim(1).await.unwrap().pop().unwrap();
    let (verdict, attempt) = dispatcher.deliver(&lease).await;
    // Done, so that the next job of the lane isn't delayed.
    let settlement = Settlement { lease, verdict: Verdict::Done, attempt };
    dispatcher.queue.settle(&[settlement]).await.unwrap();
    verdict
}

#[tokio::test]
async fn an_endpoint_that_another_server_just_created_or_enabled_is_attempted() {
    let TwoServers { one, unnotified, .. } = TwoServers::open().await;
    let dispatcher = dispatcher(unnotified, RetryPolicy::default()).await;
    // The guard refuses the endpoint's address, which shows that an attempt was made.
    let attempted = |verdict| matches!(verdict, Verdict::Dead { cause: Cause::Refused(_) });
    let endpoint = TwoServers::endpoint(&one).await;
    assert!(attempted(verdict_on(&dispatcher, &endpoint).await), "created");
    TwoServers::enable(&one, &endpoint, false).await;
    dispatcher.registry.refreshed().await.unwrap();
    assert_eq!(verdict_on(&dispatcher, &endpoint).await, Verdict::Dead { cause: Cause::Disabled });
    TwoServers::enable(&one, &endpoint, true).await;
    assert!(attempted(verdict_on(&dispatcher, &endpoint).await), "enabled");
    one.delete_endpoint(endpoint.tenant, endpoint.id, None).await.unwrap();
    dispatcher.registry.refreshed().await.unwrap();
    assert_eq!(verdict_on(&dispatcher, &endpoint).await, Verdict::Dropped);
}

#[tokio::test]
async fn a_job_is_retried_while_the_registry_is_unavailable() {
    let servers = TwoServers::open().await;
    let dispatcher = dispatcher(servers.unnotified.clone(), RetryPolicy::default()).await;
    let endpoint = TwoServers::endpoint(&servers.one).await;
    servers.lose().await;
    let verdict = verdict_on(&dispatcher, &endpoint).await;
    assert!(matches!(verdict, Verdict::Retry { endpoint: EndpointState::NotContacted, .. }), "{verdict:?}");
}
