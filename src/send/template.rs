//! Payload templates: JSON text with the placeholders `{{seq}}` and `{{now}}`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;

/// Payload in which `{{seq}}` stands for the event's number and `{{now}}` for microseconds since 1970.
#[derive(Debug, Clone)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Seq,
    Now,
}

/// The filled template isn't valid JSON.
#[derive(Debug, thiserror::Error)]
#[error(
    "the payload isn't valid JSON after {{{{seq}}}} and {{{{now}}}} are filled in: line {line}, column {column}"
)]
pub struct TemplateError {
    line: usize,
    column: usize,
}

impl Template {
    /// Parses a template, and fills it once to check it.
    ///
    /// # Errors
    /// The filled template isn't valid JSON.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let part = [("seq}}", Part::Seq), ("now}}", Part::Now)]
                .into_iter()
                .find_map(|(name, part)| after.strip_prefix(name).map(|after| (part, after)));
            match part {
                Some((part, after)) => {
                    parts.extend([Part::Text(before.into()), part]);
                    rest = after;
                }
                None => {
                    parts.push(Part::Text(format!("{before}{{{{")));
                    rest = after;
                }
            }
        }
        parts.push(Part::Text(rest.into()));
        let template = Self(parts);
        match serde_json::from_str::<&RawValue>(&template.fill(1)) {
            Ok(_) => Ok(template),
            Err(error) => Err(TemplateError { line: error.line(), column: error.column() }),
        }
    }

    /// Returns the payload of event number `seq`.
    #[must_use]
    pub fn fill(&self, seq: u64) -> String {
        let mut payload = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => payload.push_str(text),
                Part::Seq => payload.push_str(&seq.to_string()),
                Part::Now => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    payload.push_str(&now.as_micros().to_string());
                }
            }
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        let template =
            Template::parse(r#"{"n":{{seq}},"text":"{{seq}} {{other}} }}","deep":{"a":{}}}"#).unwrap();
        assert_eq!(template.fill(7), r#"{"n":7,"text":"7 {{other}} }}","deep":{"a":{}}}"#);
    }

    #[test]
    fn a_template_that_is_no_json_is_refused_with_line_and_column() {
        let error = Template::parse("{\"n\":{{seq}}").unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
        assert!(Template::parse("").is_err());
    }
}
