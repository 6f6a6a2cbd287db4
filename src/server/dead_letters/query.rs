//! Query parameters of lists of dead letters.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;
use url::form_urlencoded;
use utoipa::IntoParams;

use super::filter;
use crate::common::id::{EndpointId, TenantId};
use crate::common::retry::{CauseKind, Fault};
use crate::queue::dead::{DeadCursor, DeadFilter};
use crate::server::auth::Caller;
use crate::server::problem::Problem;
use crate::server::{Server, page};

/// Query parameters that select a page of dead letters.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::server) struct DeadLetterQuery {
    /// Only dead letters of this tenant, by id or name. A tenant's own route accepts no other tenant
    #[param(nullable = false)]
    tenant: Option<String>,
    /// Only dead letters of this endpoint
    #[param(value_type = Option<String>, nullable = false, pattern = "^ep_[0-9a-f]{32}$")]
    endpoint: Option<EndpointId>,
    /// Only dead letters with one of these causes. Repeat the parameter, or separate causes by commas
    #[param(required = false)]
    cause: Vec<CauseKind>,
    /// Only dead letters that this side is responsible for
    #[param(nullable = false)]
    fault: Option<Fault>,
    /// Only messages that were dead-lettered at this time or later
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    since: Option<Timestamp>,
    /// Only messages that were dead-lettered before this time
    #[param(value_type = Option<String>, format = DateTime, nullable = false)]
    until: Option<Timestamp>,
    /// Maximum number of items on the page
    #[param(minimum = 1, maximum = 100, default = 50, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page
    #[param(value_type = Option<String>, nullable = false, pattern = "^00000[0-9a-f]{43}$")]
    cursor: Option<DeadCursor>,
}

impl FromRequestParts<Arc<Server>> for DeadLetterQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Server>) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl DeadLetterQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// 400, with the name of the parameter that is wrong. Errors never quote values.
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_repeated = match &*name {
                "cause" => {
                    for cause in value.split(',') {
                        parsed.cause.push(parse_cause(cause)?);
                    }
                    false
                }
                "tenant" => parsed.tenant.replace(value.into_owned()).is_some(),
                "endpoint" => parsed
                    .endpoint
                    .replace(parse_value("endpoint", &value, "an endpoint id, ep_…")?)
                    .is_some(),
                "fault" => parsed.fault.replace(parse_fault(&value)?).is_some(),
                "since" => parsed.since.replace(parse_value("since", &value, "an RFC 3339 time")?).is_some(),
                "until" => parsed.until.replace(parse_value("until", &value, "an RFC 3339 time")?).is_some(),
                "limit" => parsed.limit.replace(parse_value("limit", &value, "a whole number")?).is_some(),
                "cursor" => {
                    let cursor = parse_value("cursor", &value, "the next_cursor of the previous page")?;
                    parsed.cursor.replace(cursor).is_some()
                }
                _ => {
                    let detail = "the query has an unknown parameter; see /openapi.json for this route's";
                    return Err(Problem::bad_request(detail));
                }
            };
            if is_repeated {
                let detail = format!("'{name}' is repeated; give each parameter but 'cause' once");
                return Err(Problem::bad_request(detail));
            }
        }
        Ok(parsed)
    }

    /// Returns the cursor to continue from, and the maximum number of items on the page.
    ///
    /// # Errors
    /// 400 for a limit out of range.
    pub(super) fn page(&self) -> Result<(Option<DeadCursor>, usize), Problem> {
        Ok((self.cursor, page::limit(self.limit)?))
    }

    /// Returns the filter, limited to the tenant `scope` if the route has one. `None` means that no dead letter can
    /// match.
    ///
    /// # Errors
    /// 404 for a tenant that the caller may not see.
    pub(super) fn filter(
        self,
        server: &Server,
        caller: &Caller,
        scope: Option<TenantId>,
    ) -> Result<Option<DeadFilter>, Problem> {
        let Some(causes) = filter::causes(self.cause, self.fault) else { return Ok(None) };
        let tenant = filter::tenant(server, caller, scope, self.tenant.as_deref())?;
        let Self { endpoint, since, until, .. } = self;
        Ok(Some(DeadFilter { tenant, endpoint, id: None, causes, since, until }))
    }
}

fn parse_value<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T, Problem> {
    value.parse().map_err(|_| Problem::bad_request(format!("'{name}' must be {expected}")))
}

fn parse_cause(cause: &str) -> Result<CauseKind, Problem> {
    CauseKind::parse(cause).ok_or_else(|| {
        let names = CauseKind::ALL.map(CauseKind::as_str).join(", ");
        Problem::bad_request(format!("'cause' must be one of {names}"))
    })
}

fn parse_fault(fault: &str) -> Result<Fault, Problem> {
    match fault {
        "customer" => Ok(Fault::Customer),
        "system" => Ok(Fault::System),
        _ => Err(Problem::bad_request("'fault' must be customer or system")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_parsed_and_errors_name_the_parameter() {
        let query =
            "cause=gone&cause=exhausted,damaged&fault=customer&limit=7&since=2026-01-01T00:00:00%2B02:00";
        let parsed = DeadLetterQuery::parse(query).unwrap();
        assert_eq!(parsed.cause, [CauseKind::Gone, CauseKind::Exhausted, CauseKind::Damaged]);
        assert_eq!((parsed.fault, parsed.page().unwrap().1), (Some(Fault::Customer), 7));
        assert_eq!(parsed.since, Some("2025-12-31T22:00:00Z".parse().unwrap()));
        for (query, expected) in [
            ("cause=", "'cause'"),
            ("cause=gone,secret", "'cause'"),
            ("fault=mine", "'fault'"),
            ("endpoint=secret", "'endpoint'"),
            ("since=yesterday", "'since'"),
            ("limit=-1", "'limit'"),
            ("cursor=secret", "'cursor'"),
            ("tenant=a&tenant=b", "'tenant' is repeated"),
            ("until=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", "'until' is repeated"),
            ("secret=1", "/openapi.json"),
        ] {
            let problem = format!("{:?}", DeadLetterQuery::parse(query).unwrap_err());
            assert!(problem.contains(expected) && !problem.contains("secret"), "{query}: {problem}");
        }
        for limit in ["0", "101"] {
            assert!(DeadLetterQuery::parse(&format!("limit={limit}")).unwrap().page().is_err(), "{limit}");
        }
    }
}
