//! `GET /openapi.json`: the HTTP API as OpenAPI 3.1, made from the routes' own types.

use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response as Documented,
    ResponseBuilder, Schema,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::api::ProblemView;

const ABOUT: &str = "Webhooks, encrypted for each tenant. Errors are application/problem+json (RFC 9457). A POST with an \
                     Idempotency-Key (1 to 255 visible ASCII characters) is answered the same again for a day, and done once.";

/// What is said of the API as a whole.
pub(super) fn about() -> OpenApi {
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key of the provider (whk_provider_…) or of a tenant (whk_tenant_…)"))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme("api_key", SecurityScheme::Http(key))
        .schema(ProblemView::name(), ProblemView::schema())
        .build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("whk")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(ABOUT))
                .license(Some(utoipa::openapi::License::new("MIT")))
                .build(),
        )
        .components(Some(components))
        .build()
}

/// Adds the errors that follow from what an operation takes, and says whether events may come without a key.
pub(super) fn document(mut api: OpenApi, direct_mode: bool) -> String {
    for (path, item) in &mut api.paths.paths {
        if let Some(operation) = &mut item.get {
            add_problems(path, operation, false);
        }
        for operation in [&mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten() {
            add_problems(path, operation, true);
            if direct_mode && path == "/publish" {
                operation
                    .security
                    .get_or_insert_default()
                    .push(utoipa::openapi::SecurityRequirement::default());
            }
        }
    }
    api.to_json().unwrap_or_default()
}

/// The answer that holds it.
pub(super) fn answer(document: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response()
}

fn add_problems(path: &str, operation: &mut Operation, changes: bool) {
    let mut statuses = Vec::new();
    let has_parameters = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let takes_if_match = operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "if-match"));
    if operation.security.is_some() {
        statuses.extend([400, 401, 403]);
    } else if path == "/readyz" {
        statuses.push(503);
    }
    if has_parameters || path == "/publish" {
        statuses.push(404);
    }
    if takes_if_match {
        statuses.push(412);
    }
    if operation.request_body.is_some() {
        statuses.extend([408, 413, 415]);
    }
    if changes {
        statuses.extend([409, 429, 503]);
    }
    for status in statuses {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_string()).or_insert_with(|| problem(status).into());
    }
}

fn problem(status: u16) -> Documented {
    let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let schema: RefOr<Schema> = Ref::from_schema_name(ProblemView::name()).into();
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(title.unwrap_or("Error"))
        .content("application/problem+json", content)
        .build()
}
