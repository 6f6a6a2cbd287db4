//! Environment variables, compared with clap and with what the sources read.

use std::collections::BTreeSet;

use super::command_line::{all_below, whk};
use super::markdown::{Document, code};
use super::{assert_none, documents, files_below};

/// Variables of the shell, and of cargo.
const OF_OTHERS: [&str; 1] = ["RUST_BACKTRACE"];

/// Returns the names of variables in code: capitals joined by `_`, or capitals before a `=`.
fn variables(code: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find(|c: char| c.is_ascii_uppercase()).map(|start| at + start) {
        let end = code[start..].find(|c: char| !is_name(c)).map_or(code.len(), |length| start + length);
        at = end.max(start + 1);
        let is_whole = !code[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let goes_on = code[end..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        let name = &code[start..end];
        let is_set = code[end..].starts_with('=') && name.len() > 1;
        if is_whole && !goes_on && (is_set || name.trim_matches('_').contains('_')) {
            names.push(name);
        }
    }
    names
}

/// Returns the variables that exist: those of clap, and those that sources, scripts and example receivers name.
fn known() -> BTreeSet<String> {
    let whk = whk();
    let mut known: BTreeSet<String> = OF_OTHERS.map(str::to_owned).into();
    for command in all_below(&whk) {
        let of_flags = command.get_arguments().filter_map(|argument| argument.get_env());
        known.extend(of_flags.map(|name| name.to_string_lossy().into_owned()));
    }
    for (folder, extensions) in [
        ("src", &["rs"][..]),
        ("tests/e2e", &["rs"]),
        ("scripts", &["sh"]),
        ("fixtures/receivers", &["mjs", "py"]),
    ] {
        for path in files_below(folder, extensions) {
            let text = std::fs::read_to_string(path).unwrap();
            known.extend(read_in(&text));
        }
    }
    known
}

/// Returns the variables that a source reads: quoted names in Rust and Python, `$NAME` in shells, `env.NAME` in Node.js.
fn read_in(text: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut names = Vec::new();
    for before in ["\"", "${", "$", "env."] {
        for (start, _) in text.match_indices(before) {
            let name: String = text[start + before.len()..].chars().take_while(|c| is_name(*c)).collect();
            let after = &text[start + before.len() + name.len()..];
            if name.len() > 1 && (before != "\"" || after.starts_with('"')) {
                names.push(name);
            }
        }
    }
    names
}

/// Checks all of a document.
fn check(known: &BTreeSet<String>, document: &Document) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, code) in document.parts.iter().flat_map(code) {
        let unknown = variables(code).into_iter().filter(|name| !known.contains(*name));
        findings.extend(unknown.map(|name| document.at(line, &format!("nothing reads the variable {name}"))));
    }
    findings
}

#[test]
fn variables_exist() {
    let known = known();
    let findings: Vec<String> = documents().iter().flat_map(|document| check(&known, document)).collect();
    assert_none(&findings);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn findings(text: &str) -> usize {
        check(&known(), &Document::parse(Path::new("a.md"), text)).len()
    }

    #[test]
    fn variables_of_flags_sources_and_scripts_are_known() {
        for name in
            ["REDIS_URL", "WHK_API_KEY", "KAFKA_PASSWORD", "WHK_TEST_REDIS", "SIGNING_SECRET", "SEED=2"]
        {
            assert_eq!(findings(&format!("Set `{name}`.\n")), 0, "{name}");
        }
    }

    #[test]
    fn a_wrong_name_is_found() {
        assert_eq!(findings("Set `REDIS_URLS`.\n"), 1);
        assert_eq!(findings("```sh\nSEEED=2 scripts/check-api.sh\n```\n"), 1);
        assert_eq!(findings("```sh\necho $WHK_NOTHING\n```\n"), 1);
    }

    #[test]
    fn words_that_are_no_variables_are_passed_over() {
        assert!(variables("RSA-OAEP-256 A256GCM SCRAM-SHA-256 Retry-After ToSchema NAME").is_empty());
    }
}
