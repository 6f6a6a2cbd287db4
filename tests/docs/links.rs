//! Relative links and their anchors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::markdown::Document;
use super::{assert_none, documents, root};

/// Returns the targets of the links of a document, with the numbers of their lines. Code blocks hold none.
fn links(document: &Document) -> Vec<(usize, String)> {
    // A link's text may go on in the next line.
    let mut targets = Vec::new();
    for (number, line) in (1..).zip(&document.prose_lines) {
        let outside_code: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        for (start, _) in outside_code.match_indices("](") {
            let rest = &outside_code[start + 2..];
            if let Some(end) = rest.find(')') {
                targets.push((number, rest[..end].to_owned()));
            }
        }
    }
    targets
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn anchors(document: &Document) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in &document.prose_lines {
        let Some(heading) = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
        else {
            continue;
        };
        let slug: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let times = seen.entry(slug.clone()).and_modify(|times| *times += 1).or_insert(0);
        anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
    }
    anchors
}

/// Returns `path` without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Checks the links of one document. `anchors` holds the headings of every document by its path.
fn check(document: &Document, anchors: &BTreeMap<PathBuf, BTreeSet<String>>) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, target) in links(document) {
        if target.contains("://") {
            continue;
        }
        let (file, anchor) =
            target.split_once('#').map_or((target.as_str(), None), |(file, at)| (file, Some(at)));
        let folder = document.path.parent().unwrap_or(Path::new(""));
        let path = if file.is_empty() { document.path.clone() } else { normal(&folder.join(file)) };
        let known = anchors.get(&path);
        if known.is_none() && !root().join(&path).exists() {
            findings.push(document.at(line, &format!("the link leads nowhere: {target}")));
        } else if let Some(anchor) = anchor
            && !known.is_some_and(|known| known.contains(anchor))
        {
            findings.push(document.at(line, &format!("no heading has this anchor: {target}")));
        }
    }
    findings
}

/// Returns the anchors of all documents.
fn all_anchors(documents: &[Document]) -> BTreeMap<PathBuf, BTreeSet<String>> {
    documents.iter().map(|document| (document.path.clone(), anchors(document))).collect()
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let anchors = all_anchors(&documents);
    let findings: Vec<String> = documents.iter().flat_map(|document| check(document, &anchors)).collect();
    assert_none(&findings);
}

/// A page that no other page links to is found by nobody.
#[test]
fn every_page_is_linked() {
    let documents = documents();
    let linked: BTreeSet<PathBuf> = documents
        .iter()
        .flat_map(|document| {
            let folder = document.path.parent().unwrap().to_owned();
            let own = document.path.clone();
            links(document)
                .into_iter()
                .map(move |(_, target)| normal(&folder.join(target.split('#').next().unwrap())))
                .filter(move |path| *path != own)
        })
        .collect();
    let missing: Vec<String> = documents
        .iter()
        .filter(|document| document.path != Path::new("README.md") && !linked.contains(&document.path))
        .map(|document| format!("no page links to {}", document.path.display()))
        .collect();
    assert_none(&missing);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        let document = Document::parse(Path::new("docs/a.md"), text);
        let anchors = all_anchors(std::slice::from_ref(&document));
        check(&document, &anchors).len()
    }

    #[test]
    fn a_link_must_lead_to_a_file() {
        assert_eq!(findings("[toml](../Cargo.toml) [web](https://example.org/nothing)\n"), 0);
        assert_eq!(findings("[toml](Cargo.toml)\n"), 1);
        assert_eq!(findings("`[toml](Cargo.toml)` is code\n"), 0);
        assert_eq!(findings("```text\n[toml](Cargo.toml)\n```\n"), 0);
    }

    #[test]
    fn an_anchor_must_be_a_heading() {
        assert_eq!(findings("# Stop, restart: `whk`\n\n[stop](#stop-restart-whk)\n"), 0);
        assert_eq!(findings("# Stop\n\n[stop](#stops)\n"), 1);
        assert_eq!(findings("[toml](../Cargo.toml#lints)\n"), 1);
    }

    #[test]
    fn equal_headings_are_numbered() {
        let document = Document::parse(Path::new("a.md"), "# Redis\n## Redis\n");
        assert_eq!(anchors(&document), ["redis".to_owned(), "redis-1".to_owned()].into());
    }
}
