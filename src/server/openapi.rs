//! `GET /openapi.json`: the HTTP API as OpenAPI 3.1, generated from the routes and their types.

use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, License, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    Response as DocumentedResponse, ResponseBuilder, Schema, SecurityRequirement,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::idempotency::IDEMPOTENCY_KEY;
use crate::api::ProblemView;

/// Description of the API as a whole.
const DESCRIPTION: &str = "Publishes events and delivers them as webhooks, encrypted for each tenant. The provider runs \
                           the server; a tenant is one of its customers, with API keys, public keys and endpoints. \
                           Direct mode, which is off by default, publishes to a URL without a tenant. \
                           Errors are application/problem+json (RFC 9457): `detail` says what to do.";

/// Returns the document without routes.
pub(super) fn base() -> OpenApi {
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
                .description(Some(DESCRIPTION))
                .license(Some(License::new("MIT")))
                .build(),
        )
        .components(Some(components))
        .build()
}

/// Adds error responses and the idempotency header to each operation, and renders the document as JSON. In direct mode
/// `/publish` also accepts requests without an API key.
pub(super) fn document(mut api: OpenApi, direct_mode: bool) -> String {
    for (path, item) in &mut api.paths.paths {
        let methods = [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in methods {
            let Some(operation) = operation else { continue };
            add_problems(path, &method, operation);
            if method == Method::POST {
                operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
            }
            if direct_mode && path == "/publish" {
                operation.security.get_or_insert_default().push(SecurityRequirement::default());
            }
        }
    }
    api.to_json().unwrap_or_default()
}

/// Returns the response with the rendered document.
pub(super) fn response(document: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response()
}

/// Returns the header parameter of all POST operations.
fn idempotency_key() -> Parameter {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[!-~]{1,255}$"))
        .max_length(Some(255))
        .build();
    ParameterBuilder::new()
        .name(IDEMPOTENCY_KEY.as_str())
        .parameter_in(ParameterIn::Header)
        .description(Some("Within 24 hours of a successful response, a request with the same key isn't executed again and gets that response"))
        .schema(Some(key))
        .build()
}

/// Adds the error responses that follow from an operation's route, method and parameters.
fn add_problems(path: &str, method: &Method, operation: &mut Operation) {
    let is_secured = operation.security.is_some();
    let parameters: Vec<&str> = operation
        .parameters
        .iter()
        .flatten()
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter.name.as_str()),
            RefOr::Ref(_) => None,
        })
        .collect();
    let mut statuses = Vec::new();
    if is_secured {
        statuses.extend([400, 401, 403]);
    }
    // Requests about events and dead letters may name a tenant in the body or the query.
    if path.contains('{') || path == "/publish" || path.starts_with("/dead-letters") {
        statuses.push(404);
    }
    if parameters.contains(&"if-match") {
        statuses.push(412);
    }
    if operation.request_body.is_some() || *method == Method::POST {
        statuses.extend([408, 413, 415]);
    }
    if *method == Method::POST {
        statuses.push(429);
    }
    if matches!(*method, Method::POST | Method::PATCH) || path == "/api-keys/{key_id}" {
        statuses.push(409);
    }
    if path == "/readyz" || is_secured {
        statuses.push(503);
    }
    if is_secured && *method != Method::GET {
        statuses.push(500);
    }
    for status in statuses {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_string()).or_insert_with(|| problem(status).into());
    }
}

/// Returns the description of an error status.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request isn't as described here; `detail` names the mistake",
        401 => "The API key is missing or unknown",
        403 => "The API key doesn't permit this operation",
        404 => "No resource that is visible to the API key has this id or name",
        408 => "The body wasn't received in time",
        409 => {
            "The state of the resource doesn't permit the operation, or the Idempotency-Key was used for another request"
        }
        412 => "The resource no longer has the version in `If-Match`",
        413 => "The body is too large, or the event makes more jobs than the queue can hold",
        415 => "The content-type isn't JSON",
        429 => "A limit of the tenant is reached",
        503 => {
            "The queue is full or unreachable, or a change can't be stored. Nothing was changed, unless `detail` says so"
        }
        _ => "The server failed; its log has the cause",
    }
}

/// Returns the documentation of an error response.
fn problem(status: u16) -> DocumentedResponse {
    let schema: RefOr<Schema> = Ref::from_schema_name(ProblemView::name()).into();
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let problem =
        ResponseBuilder::new().description(meaning(status)).content("application/problem+json", content);
    let header = |text: &str| HeaderBuilder::new().description(Some(text)).build();
    match status {
        401 => problem.header("www-authenticate", header("Bearer")),
        429 | 503 => problem.header(
            "retry-after",
            header("Seconds after which a retry may succeed. Absent if time alone doesn't help"),
        ),
        _ => problem,
    }
    .build()
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::path::{HttpMethod, PathItem};

    use super::*;

    #[test]
    fn each_operation_documents_its_errors() {
        let mut api = base();
        let operation = || {
            let mut operation = Operation::new();
            operation.security = Some(vec![SecurityRequirement::new("api_key", [""; 0])]);
            operation
        };
        api.paths.paths.insert("/tenants/{tenant}".into(), PathItem::new(HttpMethod::Post, operation()));
        api.paths.paths.insert("/healthz".into(), PathItem::new(HttpMethod::Get, Operation::new()));
        let document: serde_json::Value = serde_json::from_str(&document(api, false)).unwrap();
        let post = &document["paths"]["/tenants/{tenant}"]["post"];
        assert_eq!(post["parameters"][0]["name"], "idempotency-key");
        for status in ["400", "401", "403", "404", "409", "429", "503"] {
            let problem = &post["responses"][status]["content"]["application/problem+json"];
            assert_eq!(problem["schema"]["$ref"], "#/components/schemas/ProblemView", "{status}");
        }
        assert!(post["responses"]["429"]["headers"]["retry-after"].is_object());
        assert_eq!(document["paths"]["/healthz"]["get"]["responses"], serde_json::json!({}));
    }
}
