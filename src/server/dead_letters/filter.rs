//! Selection of dead letters, common to all of their routes.

use crate::api::DeadSelection;
use crate::common::id::TenantId;
use crate::common::retry::{CauseKind, Fault};
use crate::queue::dead::{DeadFilter, MAX_BATCH};
use crate::server::auth::Caller;
use crate::server::problem::Problem;
use crate::server::{Server, response};

/// Returns the filter for a replay or a purge, limited to the tenant `scope` if the route has one. `None` means that
/// no dead letter can match.
///
/// # Errors
/// 404 for a tenant that the caller may not see. 400 for a selection without a condition, unless it says `all`.
pub(super) fn of_selection(
    selection: &DeadSelection,
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
) -> Result<Option<DeadFilter>, Problem> {
    let tenant = tenant(server, caller, scope, selection.tenant.as_deref())?;
    if selection.is_unconditional() && !selection.all && !selection.dry_run {
        let detail = "the body has no condition such as 'message', 'endpoint', 'cause' or 'since'; \
                      to select all dead letters, send \"all\": true";
        return Err(Problem::bad_request(detail));
    }
    let given_causes = selection.cause.clone();
    if given_causes.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::bad_request("'cause' must not be empty; name a cause or leave it out"));
    }
    let Some(causes) = causes(given_causes.unwrap_or_default(), selection.fault) else { return Ok(None) };
    let DeadSelection { endpoint, message: id, since, until, .. } = *selection;
    Ok(Some(DeadFilter { tenant, endpoint, id, causes, since, until }))
}

/// Returns the maximum number of dead letters that a replay or a purge takes.
///
/// # Errors
/// 400 for a limit out of range.
pub(super) fn limit(selection: &DeadSelection) -> Result<usize, Problem> {
    let limit = selection.limit.map_or(MAX_BATCH, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if !(1..=MAX_BATCH).contains(&limit) {
        return Err(Problem::bad_request(format!("'limit' must be from 1 to {MAX_BATCH}")));
    }
    Ok(limit)
}

/// Returns the causes that are `fault`'s. `None` means that no cause is left. An empty list stands for any cause, so
/// it isn't returned then.
pub(super) fn causes(mut causes: Vec<CauseKind>, fault: Option<Fault>) -> Option<Vec<CauseKind>> {
    let Some(fault) = fault else { return Some(causes) };
    if causes.is_empty() {
        causes.extend(CauseKind::ALL);
    }
    causes.retain(|cause| cause.fault() == fault);
    Some(causes).filter(|causes| !causes.is_empty())
}

/// Returns the tenant that is selected. On a tenant's own route that is `scope`.
///
/// # Errors
/// 404 for a tenant that the caller may not see, or for any other tenant than `scope`.
pub(super) fn tenant(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    named: Option<&str>,
) -> Result<Option<TenantId>, Problem> {
    let Some(named) = named else { return Ok(scope) };
    let found = match caller.tenant(server, named) {
        Ok(tenant) => tenant.id,
        // The provider may still select dead letters of a deleted tenant, by its id.
        Err(unknown) if scope.is_none() => named.parse().map_err(|_| unknown)?,
        Err(unknown) => return Err(unknown),
    };
    match scope {
        Some(scope) if scope != found => Err(response::no_such("tenant")),
        _ => Ok(Some(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_keeps_its_own_causes_and_never_selects_any_cause() {
        use CauseKind::{Damaged, Gone, Interrupted};
        assert_eq!(causes(vec![], None), Some(vec![]));
        assert_eq!(causes(vec![], Some(Fault::System)), Some(vec![Interrupted, Damaged]));
        assert_eq!(causes(vec![Gone, Damaged], Some(Fault::System)), Some(vec![Damaged]));
        assert_eq!(causes(vec![Gone], Some(Fault::System)), None);
    }
}
