//! The table of dependencies in docs/architecture.md, compared with Cargo.toml.

use std::collections::BTreeSet;

use super::{assert_none, root};

/// Returns the packages of `[dependencies]` and `[dev-dependencies]`.
fn packages(manifest: &str) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    let mut is_list = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            is_list = section.ends_with("dependencies]");
        } else if is_list
            && line.starts_with(|c: char| c.is_ascii_lowercase())
            && let Some((name, _)) = line.split_once('=')
        {
            packages.insert(name.trim().to_owned());
        }
    }
    packages
}

/// Returns the packages in the first column of the table below the heading "Dependencies".
fn documented(document: &str) -> BTreeSet<String> {
    let section = document.split("\n## Dependencies\n").nth(1).unwrap_or_default();
    section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `")?.split('|').next())
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim_matches([' ', '`']).to_owned())
        .collect()
}

/// Returns the packages that only one side has.
fn differences(manifest: &str, document: &str) -> Vec<String> {
    packages(manifest).symmetric_difference(&documented(document)).cloned().collect()
}

#[test]
fn every_dependency_has_a_reason() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    assert_none(&differences(&read("Cargo.toml"), &read("docs/architecture.md")));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[dependencies]\n# web\na = \"1\"\nb = { version = \"1\" }\n[lints]\nc = 1\n";

    #[test]
    fn a_package_that_is_missing_or_gone_is_found() {
        let table = |row: &str| format!("# x\n\n## Dependencies\n\n| package | reason |\n|---|---|\n{row}\n");
        assert!(differences(MANIFEST, &table("| `a`, `b` | x |")).is_empty());
        assert_eq!(differences(MANIFEST, &table("| `a` | x |")), ["b"]);
        assert_eq!(differences(MANIFEST, &table("| `a`, `b`, `d` | x |")), ["d"]);
    }
}
