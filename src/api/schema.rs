//! Schemas of texts that a type alone doesn't tell: what the server takes, as patterns.

use utoipa::openapi::schema::{AdditionalProperties, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Object, ObjectBuilder, Schema};

use crate::registry::endpoint::MOST_FILTERS;
use crate::registry::headers::{MOST_HEADER_BYTES, MOST_HEADER_NAME_BYTES, MOST_HEADERS, RESERVED_HEADERS};
use crate::registry::name::{DECEIVING, MOST_NAME_CHARS};

/// One name in an event type.
const EVENT_NAME: &str = "[A-Za-z0-9_:/-]+";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn name_pattern() -> String {
    // Beyond U+FFFF, \u takes no four digits: those characters stand for themselves.
    let escaped = |c: char| if c > '\u{ffff}' { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    let ranges = DECEIVING.iter().map(|range| match (*range.start(), *range.end()) {
        (start, end) if start == end => escaped(start),
        (start, end) => format!("{}-{}", escaped(start), escaped(end)),
    });
    let deceiving: String = ranges.collect();
    format!(r"[^\s{deceiving}]([^{deceiving}]*[^\s{deceiving}])?")
}

/// A tenant's name.
pub(super) fn tenant_name() -> Object {
    let description = "Its name, which no other tenant has: without white space at its ends, control characters, \
                       marks of direction and what can't be seen; not `me`, nor beginning with `ten_`";
    text()
        .description(Some(description))
        .pattern(Some(format!("^(?!me$|ten_){}$", name_pattern())))
        .max_length(Some(MOST_NAME_CHARS))
        .examples(["Acme"])
        .build()
}

/// A description, or null for none.
pub(super) fn description() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .description(Some("A note for people, in one line"))
        .pattern(Some(format!("^{}$", name_pattern())))
        .max_length(Some(MOST_NAME_CHARS))
        .build()
}

/// An event type.
pub(super) fn event_type() -> Object {
    text()
        .description(Some("The event type: names of ASCII letters, digits and _ - : / separated by dots"))
        .pattern(Some(format!(r"^{EVENT_NAME}(\.{EVENT_NAME})*$")))
        .max_length(Some(256))
        .examples(["invoice.paid"])
        .build()
}

/// Event-type filters.
pub(super) fn events() -> utoipa::openapi::schema::Array {
    let filter = text()
        .pattern(Some(format!(r"^(\*|{EVENT_NAME}(\.{EVENT_NAME})*(\.\*)?)$")))
        .max_length(Some(256))
        .examples(["invoice.*"])
        .build();
    utoipa::openapi::schema::ArrayBuilder::new()
        .items(utoipa::openapi::RefOr::T(Schema::Object(filter)))
        .min_items(Some(1))
        .max_items(Some(MOST_FILTERS))
        .description(Some(
            "The event types that are wanted: `invoice.paid`, `invoice.*` for a group, `*` for all",
        ))
        .build()
}

/// Static headers.
pub(super) fn headers() -> Object {
    let value = text().pattern(Some("^([!-~]([ -~]*[!-~])?)?$")).max_length(Some(MOST_HEADER_BYTES)).build();
    let reserved: Vec<String> = RESERVED_HEADERS.iter().map(|name| in_any_case(name)).collect();
    let name = text()
        .pattern(Some(format!(
            "^(?!({})$|{})[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
            reserved.join("|"),
            in_any_case("webhook-")
        )))
        .max_length(Some(MOST_HEADER_NAME_BYTES))
        .build();
    ObjectBuilder::new()
        .property_names(Some(Schema::Object(name)))
        .additional_properties(Some(AdditionalProperties::RefOr(Schema::Object(value).into())))
        .max_properties(Some(MOST_HEADERS))
        .description(Some(
            "Headers that every delivery carries; values are stored encrypted and never shown again",
        ))
        .build()
}

/// A pattern that matches `name` in any case, for readers of patterns that know no flags.
fn in_any_case(name: &str) -> String {
    let letter = |c: char| match c {
        'a'..='z' => format!("[{}{c}]", c.to_ascii_uppercase()),
        _ => c.to_string(),
    };
    name.chars().map(letter).collect()
}

/// A URL that events can be delivered to.
pub(super) fn url() -> Object {
    text()
        .format(Some(SchemaFormat::Custom("uri".into())))
        .description(Some("Where events go: https and public, but for networks that the provider allows"))
        .max_length(Some(2_048))
        .examples(["https://example.com/webhook"])
        .build()
}
