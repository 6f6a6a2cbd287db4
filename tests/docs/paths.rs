//! Paths in the repository and in a data dir, compared with what is there.

use std::path::Path;

use super::markdown::{Document, code};
use super::server::Server;
use super::{assert_none, documents, root};

/// Folders at the root. A word that begins with one of them is a path.
const FOLDERS: [&str; 7] = ["src/", "tests/", "benches/", "scripts/", "fixtures/", "docs/", ".ci/"];

/// Suffixes of source files. A word with such a suffix is a path as well.
const ENDINGS: [&str; 8] = [".rs", ".lua", ".sql", ".sh", ".py", ".mjs", ".toml", ".md"];

/// The data dir unless `--data-dir` names another.
const DATA_DIR: &str = "whk-data/";

/// Returns the paths that code names.
fn paths(code: &str) -> Vec<&str> {
    code.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-".contains(c)))
        .map(|word| word.trim_end_matches('.'))
        // The Deno scripts' names begin with a number.
        .filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()))
        .filter(|word| {
            [&FOLDERS[..], &[DATA_DIR]].concat().iter().any(|folder| word.starts_with(folder))
                || ENDINGS.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending))
        })
        .collect()
}

/// Checks all of a document.
fn check(data_dir: &Path, document: &Document) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, code) in document.parts.iter().flat_map(code) {
        for path in paths(code) {
            let full = match path.strip_prefix(DATA_DIR) {
                Some(file) => data_dir.join(file),
                None => root().join(path),
            };
            if !full.exists() {
                findings.push(document.at(line, &format!("there is no {path}")));
            }
        }
    }
    findings
}

#[test]
fn paths_exist() {
    let server = Server::start("paths");
    let findings: Vec<String> =
        documents().iter().flat_map(|document| check(&server.data_dir, document)).collect();
    assert_none(&findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        // A folder that has a file of that name stands for the data dir.
        check(&root().join("fixtures/registry/v1"), &Document::parse(Path::new("a.md"), text)).len()
    }

    #[test]
    fn a_path_must_exist() {
        assert_eq!(
            findings("See `src/queue.rs`, `src/queue/`, `Cargo.toml` and `scripts/test.sh --full`.\n"),
            0
        );
        assert_eq!(findings("See `src/queues.rs`.\n"), 1);
        assert_eq!(findings("See `src/queues/`.\n"), 1);
        assert_eq!(findings("See `queue.rs`, which isn't at the root.\n"), 1);
        assert_eq!(findings("```text\nsrc/nothing.rs   is missing\n```\n"), 1);
    }

    #[test]
    fn a_file_of_the_data_dir_must_exist() {
        assert_eq!(findings("See `whk-data/secret.key`.\n"), 0);
        assert_eq!(findings("See `whk-data/secrets.key`.\n"), 1);
    }

    #[test]
    fn names_of_the_scripts_and_words_are_no_paths() {
        assert!(paths("4_publish.sh 0_kafka_setup.ts whk.tenants queue.db openapi.json --port").is_empty());
    }
}
