//! Checks what README.md, CONTRIBUTING.md and docs/ name: flags, environment variables, routes, metrics, paths and links.
//!
//! Each module extracts one kind of name from a document and compares it with the program: flags with clap, routes with the
//! server's OpenAPI document, metrics with the registry that `/metrics` prints. The unit tests of each module show that a
//! wrong name is found. No service is needed.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that can't go on panics"
)]

mod cargo_commands;
mod command_line;
mod dependencies;
mod environment;
mod links;
mod markdown;
mod metrics;
mod paths;
mod routes;
mod server;
mod voice;
mod words;

use std::path::{Path, PathBuf};

use markdown::Document;

/// Root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every file below `folder` of the repository with one of these extensions, sorted.
fn files_below(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // Libraries of the example receivers, fetched by their package managers.
                if path.file_name().is_none_or(|name| name != "node_modules") {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|known| extension == *known))
            {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Returns the documents that are checked.
fn documents() -> Vec<Document> {
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    paths.extend(files_below("docs", &["md"]));
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a document is readable");
            Document::parse(path.strip_prefix(root()).unwrap(), &text)
        })
        .collect()
}

/// Fails with all findings, one a line.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn readme_has_at_most_150_lines() {
    let lines = std::fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "README.md has {lines} lines; details belong in docs/");
}
