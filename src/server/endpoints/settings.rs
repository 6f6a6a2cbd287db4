//! Settings of an endpoint, read from a request's body.

use std::collections::BTreeMap;

use crate::api::{EndpointUpdate, NewEndpoint};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventFilter;
use crate::registry::endpoint::{EndpointPatch, EndpointSettings, MAX_FILTERS};
use crate::registry::headers::StaticHeaders;
use crate::registry::name::Name;
use crate::server::Server;
use crate::server::problem::{Problem, invalid_field};

/// Reads the settings of a new endpoint.
///
/// # Errors
/// 400, with the name of the member that is wrong.
pub(super) fn of_new(server: &Server, new: &NewEndpoint) -> Result<EndpointSettings, Problem> {
    Ok(EndpointSettings {
        url: url(server, &new.url)?,
        description: description(new.description.as_deref())?,
        events: events(&new.events)?,
        headers: headers(&new.headers)?,
        content_type: new.content_type,
        envelope: new.envelope,
        ordered: new.ordered,
    })
}

/// Reads the settings that an update changes.
///
/// # Errors
/// 400, with the name of the member that is wrong.
pub(super) fn of_update(server: &Server, update: EndpointUpdate) -> Result<EndpointPatch, Problem> {
    Ok(EndpointPatch {
        url: update.url.map(|text| url(server, &text)).transpose()?,
        description: update.description.map(|text| description(text.as_deref())).transpose()?,
        events: update.events.as_deref().map(events).transpose()?,
        headers: update.headers.as_ref().map(headers).transpose()?,
        content_type: update.content_type,
        envelope: update.envelope,
        ordered: update.ordered,
        enabled: update.enabled,
    })
}

fn url(server: &Server, text: &str) -> Result<EndpointUrl, Problem> {
    let url = EndpointUrl::parse(text).map_err(|error| invalid_field("url", &error))?;
    server.publisher.guard.check_url(&url).map_err(|refusal| invalid_field("url", &refusal))?;
    Ok(url)
}

fn description(text: Option<&str>) -> Result<Option<Name>, Problem> {
    text.map(Name::parse).transpose().map_err(|error| invalid_field("description", &error))
}

/// Parses event-type filters and removes duplicates.
fn events(texts: &[String]) -> Result<Vec<EventFilter>, Problem> {
    if texts.is_empty() || texts.len() > MAX_FILTERS {
        let detail =
            format!("'events' must have 1 to {MAX_FILTERS} filters; `*` alone subscribes to all events");
        return Err(Problem::bad_request(detail));
    }
    let mut filters = Vec::with_capacity(texts.len());
    for text in texts {
        let filter = EventFilter::parse(text).map_err(|error| invalid_field("events", &error))?;
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    Ok(filters)
}

fn headers(headers: &BTreeMap<String, String>) -> Result<StaticHeaders, Problem> {
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    StaticHeaders::parse(pairs).map_err(|error| invalid_field("headers", &error))
}
