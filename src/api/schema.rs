//! OpenAPI schemas of texts with a format: patterns and lengths that a Rust type doesn't express.

use utoipa::openapi::schema::{AdditionalProperties, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Object, ObjectBuilder, Schema};

use crate::common::event_type::MAX_TYPE_BYTES;
use crate::registry::endpoint::MAX_FILTERS;
use crate::registry::headers::{MAX_HEADER_BYTES, MAX_HEADER_NAME_BYTES, MAX_HEADERS, RESERVED_HEADERS};
use crate::registry::name::{DECEPTIVE, MAX_NAME_CHARS};

/// Pattern of one name within an event type.
const EVENT_NAME: &str = "[A-Za-z0-9_:/-]+";

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Returns the pattern of a name: no white space at its ends, and none of the deceptive characters.
fn name_pattern() -> String {
    // `\u` takes exactly four digits, so characters beyond U+FFFF appear literally.
    let escaped = |c: char| if c > '\u{ffff}' { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    let ranges = DECEPTIVE.iter().map(|range| match (*range.start(), *range.end()) {
        (start, end) if start == end => escaped(start),
        (start, end) => format!("{}-{}", escaped(start), escaped(end)),
    });
    let deceptive: String = ranges.collect();
    format!(r"[^\s{deceptive}]([^{deceptive}]*[^\s{deceptive}])?")
}

/// Returns the schema of a tenant's name.
pub(super) fn tenant_name() -> Object {
    let description = "Name of the tenant, unique on this server. It has no white space at its ends, and no control \
                       characters, direction marks or invisible characters. It isn't `me` and doesn't begin with `ten_`";
    string()
        .description(Some(description))
        .pattern(Some(format!("^(?!me$|ten_){}$", name_pattern())))
        .max_length(Some(MAX_NAME_CHARS))
        .examples(["Acme"])
        .build()
}

/// Returns the schema of a description, which may be null.
pub(super) fn description() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .description(Some("Note for people, on one line. The server doesn't interpret it"))
        .pattern(Some(format!("^{}$", name_pattern())))
        .max_length(Some(MAX_NAME_CHARS))
        .build()
}

/// Returns the schema of an event type.
pub(super) fn event_type() -> Object {
    string()
        .description(Some("Event type: names of ASCII letters, digits and _ - : / separated by dots"))
        .pattern(Some(format!(r"^{EVENT_NAME}(\.{EVENT_NAME})*$")))
        .max_length(Some(MAX_TYPE_BYTES))
        .examples(["invoice.paid"])
        .build()
}

/// Returns the schema of a list of event-type filters.
pub(super) fn events() -> utoipa::openapi::schema::Array {
    let filter = string()
        .pattern(Some(format!(r"^(\*|{EVENT_NAME}(\.{EVENT_NAME})*(\.\*)?)$")))
        .max_length(Some(MAX_TYPE_BYTES))
        .examples(["invoice.*"])
        .build();
    utoipa::openapi::schema::ArrayBuilder::new()
        .items(utoipa::openapi::RefOr::T(Schema::Object(filter)))
        .min_items(Some(1))
        .max_items(Some(MAX_FILTERS))
        .description(Some(
            "Event types to subscribe to: `invoice.paid` for one, `invoice.*` for a group, `*` for all",
        ))
        .build()
}

/// Returns the schema of an endpoint's own headers.
pub(super) fn headers() -> Object {
    let value = string().pattern(Some("^([!-~]([ -~]*[!-~])?)?$")).max_length(Some(MAX_HEADER_BYTES)).build();
    let reserved: Vec<String> = RESERVED_HEADERS.iter().map(|name| in_any_case(name)).collect();
    let name = string()
        .pattern(Some(format!(
            "^(?!({})$|{})[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
            reserved.join("|"),
            in_any_case("webhook-")
        )))
        .max_length(Some(MAX_HEADER_NAME_BYTES))
        .build();
    ObjectBuilder::new()
        .property_names(Some(Schema::Object(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(Schema::Object(value).into())))
        .max_properties(Some(MAX_HEADERS))
        .description(Some("Headers of every delivery. Values are stored encrypted and never shown"))
        .build()
}

/// Returns a pattern that matches `name` in any case. JSON Schema patterns have no flag for that.
fn in_any_case(name: &str) -> String {
    let letter = |c: char| match c {
        'a'..='z' => format!("[{}{c}]", c.to_ascii_uppercase()),
        _ => c.to_string(),
    };
    name.chars().map(letter).collect()
}

/// Returns the schema of a URL that events are delivered to.
pub(super) fn url() -> Object {
    string()
        .format(Some(SchemaFormat::Custom("uri".into())))
        .description(Some("URL that events are delivered to. It must be https with a public address, except in networks that the provider allows"))
        .max_length(Some(2_048))
        .examples(["https://example.com/webhook"])
        .build()
}
