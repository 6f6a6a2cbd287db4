//! Which dead letters a request is about, from its query or its body.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use url::form_urlencoded;
use utoipa::IntoParams;

use super::Server;
use super::answer;
use super::auth::Caller;
use super::problem::Problem;
use crate::api::DeadSelection;
use crate::common::id::{EndpointId, TenantId};
use crate::common::retry::{CauseKind, Fault};
use crate::queue::dead::{DeadCursor, DeadFilter, MAX_BATCH};

/// Items of a page where `limit` isn't given, and at most.
const PAGE_ITEMS: usize = 50;
const MOST_PAGE_ITEMS: usize = 100;

/// Which part of which list is wanted.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadQuery {
    /// Of that tenant, by id or name. On a tenant's own route it can be no other
    #[param(nullable = false)]
    tenant: Option<String>,
    /// For that endpoint
    #[param(value_type = Option<String>, nullable = false, pattern = "^ep_[0-9a-f]{32}$")]
    endpoint: Option<EndpointId>,
    /// Dead for one of these causes: repeated, or separated by commas
    #[param(required = false)]
    cause: Vec<CauseKind>,
    /// Dead by that one's fault
    #[param(nullable = false)]
    fault: Option<Fault>,
    /// Dead since then or later
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    since: Option<Timestamp>,
    /// Dead before then
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    until: Option<Timestamp>,
    /// How many items at most
    #[param(minimum = 1, maximum = 100, default = 50, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the page before
    #[param(value_type = Option<String>, nullable = false, pattern = "^00000[0-9a-f]{43}$")]
    cursor: Option<DeadCursor>,
}

impl FromRequestParts<Arc<Server>> for DeadQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Server>) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl DeadQuery {
    /// Reads a query string; an error names the parameter, and never what is in it.
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_repeated = match &*name {
                "cause" => {
                    for cause in value.split(',') {
                        let known = CauseKind::parse(cause);
                        let names = || CauseKind::ALL.map(CauseKind::as_str).join(", ");
                        read.cause.push(known.ok_or_else(|| {
                            Problem::bad_request(format!("'cause' must be one of {}", names()))
                        })?);
                    }
                    false
                }
                "tenant" => read.tenant.replace(value.into_owned()).is_some(),
                "endpoint" => read.endpoint.replace(text("endpoint", &value, "an id, ep_…")?).is_some(),
                "fault" => {
                    let fault = match &*value {
                        "customer" => Fault::Customer,
                        "system" => Fault::System,
                        _ => return Err(Problem::bad_request("'fault' must be customer or system")),
                    };
                    read.fault.replace(fault).is_some()
                }
                "since" => read.since.replace(text("since", &value, "a time as RFC 3339 has it")?).is_some(),
                "until" => read.until.replace(text("until", &value, "a time as RFC 3339 has it")?).is_some(),
                "limit" => read.limit.replace(text("limit", &value, "a whole number")?).is_some(),
                "cursor" => {
                    let cursor = text("cursor", &value, "the next_cursor of the page before")?;
                    read.cursor.replace(cursor).is_some()
                }
                _ => true,
            };
            if is_repeated {
                let detail = "the query must be as /openapi.json has it, each parameter but 'cause' once";
                return Err(Problem::bad_request(detail));
            }
        }
        Ok(read)
    }

    /// The place to go on from, and how many there may be on the page.
    pub(super) fn page(&self) -> Result<(Option<DeadCursor>, usize), Problem> {
        let limit = self.limit.map_or(PAGE_ITEMS, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if !(1..=MOST_PAGE_ITEMS).contains(&limit) {
            return Err(Problem::bad_request(format!("'limit' must be 1 to {MOST_PAGE_ITEMS}")));
        }
        Ok((self.cursor, limit))
    }

    /// Which are meant, of those of `scope`; none where no dead letter can be.
    pub(super) fn filter(
        self,
        server: &Server,
        caller: &Caller,
        scope: Option<TenantId>,
    ) -> Result<Option<DeadFilter>, Problem> {
        let Some(causes) = causes(self.cause, self.fault) else { return Ok(None) };
        let tenant = tenant(server, caller, scope, self.tenant.as_deref())?;
        let Self { endpoint, since, until, .. } = self;
        Ok(Some(DeadFilter { tenant, endpoint, id: None, causes, since, until }))
    }
}

fn text<T: FromStr>(name: &str, value: &str, needed: &str) -> Result<T, Problem> {
    value.parse().map_err(|_| Problem::bad_request(format!("'{name}' must be {needed}")))
}

/// Which are meant by a request that does something with them, of those of `scope`; none where no dead letter can be.
pub(super) fn selected(
    selection: &DeadSelection,
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
) -> Result<Option<DeadFilter>, Problem> {
    let tenant = tenant(server, caller, scope, selection.tenant.as_deref())?;
    if selection.is_unconditional() && !selection.all && !selection.dry_run {
        let detail = "no condition is given, such as 'message', 'endpoint', 'cause' or 'since': \
                      where all dead letters are meant, say so with \"all\": true";
        return Err(Problem::bad_request(detail));
    }
    let causes_given = selection.cause.clone();
    if causes_given.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::bad_request("'cause' must name one at least, or be left out"));
    }
    let Some(causes) = causes(causes_given.unwrap_or_default(), selection.fault) else { return Ok(None) };
    let DeadSelection { endpoint, message: id, since, until, .. } = *selection;
    Ok(Some(DeadFilter { tenant, endpoint, id, causes, since, until }))
}

/// How many a request does something with at most.
pub(super) fn limit(selection: &DeadSelection) -> Result<usize, Problem> {
    let limit = selection.limit.map_or(MAX_BATCH, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if !(1..=MAX_BATCH).contains(&limit) {
        return Err(Problem::bad_request(format!("'limit' must be 1 to {MAX_BATCH}")));
    }
    Ok(limit)
}

/// Those of the causes that are that one's fault; none where there is none, since no cause at all stands for any.
fn causes(mut causes: Vec<CauseKind>, fault: Option<Fault>) -> Option<Vec<CauseKind>> {
    let Some(fault) = fault else { return Some(causes) };
    if causes.is_empty() {
        causes.extend(CauseKind::ALL);
    }
    causes.retain(|cause| cause.fault() == fault);
    Some(causes).filter(|causes| !causes.is_empty())
}

/// The tenant that is meant: `scope` where the route has one, of which another can't be asked for.
fn tenant(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    named: Option<&str>,
) -> Result<Option<TenantId>, Problem> {
    let Some(named) = named else { return Ok(scope) };
    let found = match caller.tenant(server, named) {
        Ok(tenant) => tenant.id,
        // A tenant that was deleted may have left dead letters, which the provider goes on to see.
        Err(unknown) if scope.is_none() => named.parse().map_err(|_| unknown)?,
        Err(unknown) => return Err(unknown),
    };
    match scope {
        Some(scope) if scope != found => Err(answer::no_such("tenant")),
        _ => Ok(Some(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_what_is_wrong_is_named() {
        let query =
            "cause=gone&cause=exhausted,damaged&fault=customer&limit=7&since=2026-01-01T00:00:00%2B02:00";
        let read = DeadQuery::parse(query).unwrap();
        assert_eq!(read.cause, [CauseKind::Gone, CauseKind::Exhausted, CauseKind::Damaged]);
        assert_eq!((read.fault, read.page().unwrap().1), (Some(Fault::Customer), 7));
        assert_eq!(read.since, Some("2025-12-31T22:00:00Z".parse().unwrap()));
        for (query, told) in [
            ("cause=", "'cause'"),
            ("cause=gone,secret", "'cause'"),
            ("fault=mine", "'fault'"),
            ("endpoint=secret", "'endpoint'"),
            ("since=yesterday", "'since'"),
            ("limit=-1", "'limit'"),
            ("cursor=secret", "'cursor'"),
            ("tenant=a&tenant=b", "once"),
            ("until=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", "once"),
            ("secret=1", "/openapi.json"),
        ] {
            let problem = format!("{:?}", DeadQuery::parse(query).unwrap_err());
            assert!(problem.contains(told) && !problem.contains("secret"), "{query}: {problem}");
        }
        for limit in ["0", "101"] {
            assert!(DeadQuery::parse(&format!("limit={limit}")).unwrap().page().is_err(), "{limit}");
        }
    }

    #[test]
    fn a_fault_leaves_its_own_causes_and_never_stands_for_any() {
        use CauseKind::{Damaged, Gone, Interrupted};
        assert_eq!(causes(vec![], None), Some(vec![]));
        assert_eq!(causes(vec![], Some(Fault::System)), Some(vec![Interrupted, Damaged]));
        assert_eq!(causes(vec![Gone, Damaged], Some(Fault::System)), Some(vec![Damaged]));
        assert_eq!(causes(vec![Gone], Some(Fault::System)), None);
    }
}
