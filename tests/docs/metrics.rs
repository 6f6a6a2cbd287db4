//! Metrics, compared with what `/metrics` prints.

use std::collections::BTreeSet;

use whk::common::metrics::Metrics;
use whk::common::retry::{Cause, Verdict};
use whk::common::task;

use super::markdown::{Document, code};
use super::{assert_none, documents};

/// Prefixes of API keys, which look like names of metrics.
const API_KEYS: [&str; 2] = ["whk_provider_", "whk_tenant_"];

/// Returns the names that a text of OpenMetrics has: its samples, and its histograms and gauges as a whole.
fn names_in(open_metrics: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in open_metrics.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(family) if !family.ends_with(" counter") => {
                names.extend(family.split_whitespace().next().map(str::to_owned));
            }
            None if !line.starts_with('#') => {
                names.extend(line.split(['{', ' ']).next().map(str::to_owned));
            }
            _ => {}
        }
    }
    names
}

/// Returns the names of all metrics. A metric with labels is printed only once it has been counted.
fn known() -> BTreeSet<String> {
    let metrics = Metrics::new();
    metrics.count_verdict(&Verdict::Dead { cause: Cause::Gone });
    metrics.set_depth("ready", 1);
    task::report_panic("documentation");
    names_in(&metrics.render())
}

/// Returns the metrics that code names.
fn metrics(code: &str) -> Vec<&str> {
    code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("whk_") && !API_KEYS.iter().any(|key| word.starts_with(key)))
        .collect()
}

/// Checks all of a document.
fn check(known: &BTreeSet<String>, document: &Document) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, code) in document.parts.iter().flat_map(code) {
        let unknown = metrics(code).into_iter().filter(|name| !known.contains(*name));
        findings.extend(unknown.map(|name| document.at(line, &format!("there is no metric {name}"))));
    }
    findings
}

#[test]
fn metrics_exist() {
    let known = known();
    let findings: Vec<String> = documents().iter().flat_map(|document| check(&known, document)).collect();
    assert_none(&findings);
}

/// An operator finds each metric in the table.
#[test]
fn every_metric_is_documented() {
    let document = std::fs::read_to_string(super::root().join("docs/operations.md")).unwrap();
    let is_part = |name: &str| ["_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end));
    let known = known();
    let missing: Vec<String> =
        known.into_iter().filter(|name| !is_part(name) && !document.contains(&format!("`{name}`"))).collect();
    assert_none(&missing);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn findings(text: &str) -> usize {
        check(&known(), &Document::parse(Path::new("a.md"), text)).len()
    }

    #[test]
    fn a_wrong_name_is_found() {
        assert_eq!(
            findings("See `whk_queue_jobs`, `whk_jobs_dead_by_cause_total` and `whk_attempt_seconds`.\n"),
            0
        );
        assert_eq!(findings("See `whk_queue_job`.\n"), 1);
        assert_eq!(findings("A counter's samples end in _total: `whk_jobs_dead`.\n"), 1);
        assert_eq!(findings("```text\nwhk_nothing_total 3\n```\n"), 1);
    }

    #[test]
    fn api_keys_are_no_metrics() {
        assert!(metrics("whk_tenant_7V2Hl47T whk_provider_").is_empty());
    }
}
