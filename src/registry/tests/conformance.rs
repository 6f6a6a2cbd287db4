//! Properties of the registry that hold on every backend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::common::clock::after;
use crate::registry::endpoint::{EndpointPatch, MAX_SECRETS};
use crate::registry::tenant::KeyState;

macro_rules! on_every_backend {
    ($($case:ident,)*) => {
        mod sqlite {
            use super::Home;
            $(#[tokio::test]
            async fn $case() {
                super::$case(&Home::new()).await;
            })*
        }

        mod redis {
            use super::Home;
            $(#[tokio::test]
            async fn $case() {
                super::$case(&Home::in_redis()).await;
            })*
        }

        #[cfg(feature = "kafka")]
        mod kafka {
            use super::Home;
            $(#[tokio::test]
            async fn $case() {
                super::$case(&Home::in_kafka().await).await;
            })*
        }
    };
}

on_every_backend! {
    everything_survives_a_restart,
    public_keys_rotate_with_one_active_key,
    old_secrets_sign_until_their_overlap_ends,
    limits_versions_and_unique_names_are_enforced,
    a_revoked_key_is_unknown_and_the_providers_last_key_stays,
    an_endpoint_with_a_new_url_is_not_disabled_for_the_old_one,
    pages_of_a_list_miss_nothing,
}

async fn everything_survives_a_restart(home: &Home) {
    let registry = home.open().await.unwrap();
    let limits = LimitOverrides { queued_jobs: std::num::NonZeroU32::new(7), ..LimitOverrides::default() };
    let tenant = registry.create_tenant(name("Ünïcode"), limits).await.unwrap();
    let gone = tenant_with_key(&registry, "gone").await;
    add_endpoint(&registry, gone, &["*"]).await;
    registry.create_api_key(Some(gone), None).await.unwrap();
    registry.delete_tenant(gone, None).await.unwrap();
    registry.add_public_key(tenant.id, public_key()).await.unwrap();
    registry.add_public_key(tenant.id, other_key()).await.unwrap();
    let endpoint = add_endpoint(&registry, tenant.id, &["invoice.*", "user.created"]).await;
    let secret = Secret::generate().unwrap();
    let day = Duration::from_secs(86_400);
    let endpoint = registry.rotate_secret(tenant.id, endpoint.id, secret, day).await.unwrap();
    let disabled = add_endpoint(&registry, tenant.id, &["*"]).await;
    assert!(registry.disable_gone(Arc::clone(&disabled)).await.unwrap());
    let (_, key) = registry.create_api_key(Some(tenant.id), Some(name("a note"))).await.unwrap();
    let (provider_record, provider_key) = registry.create_api_key(None, None).await.unwrap();
    drop(registry);

    let registry = home.open().await.unwrap();
    let again = registry.tenant(&TenantRef::Name("Ünïcode".into())).unwrap();
    assert_eq!((again.id, again.limits, again.created_at), (tenant.id, tenant.limits, tenant.created_at));
    assert!(registry.tenant(&gone.into()).is_none() && registry.endpoints(gone, None, 9).items.is_empty());
    assert_eq!(registry.count(), (1, 2));
    assert_eq!(registry.authenticate(&key.hash()), Some(Principal::Tenant(tenant.id)));
    assert_eq!(registry.authenticate(&provider_key.hash()), Some(Principal::Provider));
    assert_eq!(registry.api_keys(None, None, 9).items[0].id, provider_record.id);
    let states: Vec<_> = registry.public_keys(tenant.id).iter().map(|key| key.state).collect();
    assert_eq!(states, [KeyState::Retiring, KeyState::Active]);
    let again = registry.endpoint(tenant.id, endpoint.id).unwrap();
    assert_eq!(format!("{again:?}"), format!("{endpoint:?}"));
    assert_eq!(again.settings.url, endpoint.settings.url);
    assert_eq!(again.settings.headers, endpoint.settings.headers);
    let secrets = |of: &Endpoint| of.secrets.iter().map(|live| live.secret.reveal()).collect::<Vec<_>>();
    assert_eq!(secrets(&again), secrets(&endpoint));
    assert_eq!(
        registry.endpoint(tenant.id, disabled.id).unwrap().disabled.as_ref().unwrap().reason,
        DisabledReason::Gone
    );
    assert_eq!((subscribed(&registry, "invoice.paid", None), subscribed(&registry, "other", None)), (1, 0));
}

async fn public_keys_rotate_with_one_active_key(home: &Home) {
    let registry = home.open().await.unwrap();
    let tenant = registry.create_tenant(name("Acme"), LimitOverrides::default()).await.unwrap().id;
    let refused = registry.add_endpoint(tenant, settings(&["*"]), Secret::generate().unwrap()).await;
    assert!(
        matches!(refused, Err(RegistryError::Conflict(_))),
        "a tenant without a public key gets no endpoint"
    );
    let (first, second) = (public_key(), other_key());
    let kids = [first.kid().to_owned(), second.kid().to_owned()];
    let states = || registry.public_keys(tenant).iter().map(|key| key.state).collect::<Vec<_>>();
    assert!(registry.add_public_key(tenant, first.clone()).await.unwrap().1);
    assert!(!registry.add_public_key(tenant, first.clone()).await.unwrap().1, "the key is active already");
    assert!(registry.add_public_key(tenant, second).await.unwrap().1);
    assert_eq!(states(), [KeyState::Retiring, KeyState::Active]);
    let refused = registry.retire_public_key(tenant, kids[1].clone()).await;
    assert!(matches!(refused, Err(RegistryError::Conflict(_))), "the active key can't be retired");
    registry.retire_public_key(tenant, kids[0].clone()).await.unwrap();
    assert_eq!(registry.retire_public_key(tenant, kids[0].clone()).await.unwrap().state, KeyState::Retired);
    assert!(!registry.add_public_key(tenant, first).await.unwrap().1, "a known key becomes active again");
    assert_eq!(states(), [KeyState::Active, KeyState::Retiring]);
    let unknown = registry.retire_public_key(tenant, "x".into()).await;
    assert!(matches!(unknown, Err(RegistryError::NoSuch("public key"))));
}

async fn old_secrets_sign_until_their_overlap_ends(home: &Home) {
    let registry = home.open().await.unwrap();
    let tenant = tenant_with_key(&registry, "Acme").await;
    let endpoint = add_endpoint(&registry, tenant, &["*"]).await;
    let rotate = |overlap| {
        registry.rotate_secret(tenant, endpoint.id, Secret::generate().unwrap(), Duration::from_secs(overlap))
    };
    let rotated = rotate(3_600).await.unwrap();
    let live = |seconds| {
        let at = after(Timestamp::now(), Duration::from_secs(seconds));
        rotated.live_secrets(at).map(|live| live.secret.reveal()).collect::<Vec<_>>()
    };
    assert_eq!(live(3_500), [rotated.secrets[0].secret.reveal(), endpoint.secrets[0].secret.reveal()]);
    assert_eq!(live(3_700), [rotated.secrets[0].secret.reveal()]);
    assert_eq!(rotate(0).await.unwrap().secrets.len(), 1, "an overlap of 0 ends the old secrets at once");
    for _ in 1..MAX_SECRETS {
        rotate(3_600).await.unwrap();
    }
    assert!(matches!(rotate(3_600).await, Err(RegistryError::Limit { .. })));
    rotate(0).await.unwrap();
}

async fn limits_versions_and_unique_names_are_enforced(home: &Home) {
    let registry = home.open().await.unwrap();
    let tenant = tenant_with_key(&registry, "Acme").await;
    let other = tenant_with_key(&registry, "Other").await;
    let endpoint = add_endpoint(&registry, tenant, &["*"]).await;
    add_endpoint(&registry, tenant, &["*"]).await;
    add_endpoint(&registry, tenant, &["*"]).await;
    let fourth = registry.add_endpoint(tenant, settings(&["*"]), Secret::generate().unwrap()).await;
    assert!(matches!(fourth, Err(RegistryError::Limit { max: 3, .. })));
    let taken = registry.update_tenant(other, None, Some(name("Acme")), None).await;
    assert!(matches!(taken, Err(RegistryError::Conflict(_))));
    registry.update_tenant(tenant, Some(1), Some(name("New")), None).await.unwrap();
    assert!(matches!(registry.update_tenant(tenant, Some(1), None, None).await, Err(RegistryError::Changed)));
    registry.update_tenant(other, None, Some(name("Acme")), None).await.unwrap();
    assert_eq!(registry.tenant(&TenantRef::Name("Acme".into())).unwrap().id, other);
    let stale = registry.delete_endpoint(tenant, endpoint.id, Some(9)).await;
    assert!(matches!(stale, Err(RegistryError::Changed)));
    let of_other = registry.delete_endpoint(other, endpoint.id, None).await;
    assert!(matches!(of_other, Err(RegistryError::NoSuch("endpoint"))));
    registry.delete_endpoint(tenant, endpoint.id, Some(1)).await.unwrap();
    assert_eq!(subscribed(&registry, "x", None), 2);
}

async fn a_revoked_key_is_unknown_and_the_providers_last_key_stays(home: &Home) {
    let registry = home.open().await.unwrap();
    let tenant = tenant_with_key(&registry, "Acme").await;
    let (record, key) = registry.create_api_key(Some(tenant), None).await.unwrap();
    let of_another = registry.revoke_api_key(None, record.id).await;
    assert!(matches!(of_another, Err(RegistryError::NoSuch(_))));
    registry.revoke_api_key(Some(tenant), record.id).await.unwrap();
    assert_eq!(registry.authenticate(&key.hash()), None);
    let (first, _) = registry.create_api_key(None, None).await.unwrap();
    assert!(matches!(registry.revoke_api_key(None, first.id).await, Err(RegistryError::Conflict(_))));
    let (_, second) = registry.create_api_key(None, None).await.unwrap();
    registry.revoke_api_key(None, first.id).await.unwrap();
    assert_eq!(registry.authenticate(&second.hash()), Some(Principal::Provider));
    let (_, of_tenant) = registry.create_api_key(Some(tenant), None).await.unwrap();
    registry.delete_tenant(tenant, None).await.unwrap();
    assert_eq!(registry.authenticate(&of_tenant.hash()), None, "the keys of a deleted tenant are unknown");
}

async fn an_endpoint_with_a_new_url_is_not_disabled_for_the_old_one(home: &Home) {
    let registry = home.open().await.unwrap();
    let tenant = tenant_with_key(&registry, "Acme").await;
    let before = add_endpoint(&registry, tenant, &["*"]).await;
    let url = EndpointUrl::parse("https://example.com/moved").unwrap();
    let patch = EndpointPatch { url: Some(url), ..EndpointPatch::default() };
    registry.update_endpoint(tenant, before.id, None, patch, DisabledReason::ByTenant).await.unwrap();
    assert!(!registry.disable_gone(before).await.unwrap());
    assert_eq!(subscribed(&registry, "x", None), 1);
}

async fn pages_of_a_list_miss_nothing(home: &Home) {
    let registry = home.open().await.unwrap();
    let mut made = BTreeSet::new();
    for number in 0..5 {
        let tenant = registry.create_tenant(name(&format!("t{number}")), LimitOverrides::default()).await;
        made.insert(tenant.unwrap().id);
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = registry.tenants(after, 2);
        seen.extend(page.items.iter().map(|tenant| tenant.id));
        after = seen.last().copied();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, made.into_iter().collect::<Vec<_>>());
}
