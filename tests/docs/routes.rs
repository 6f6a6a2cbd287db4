//! HTTP routes, compared with the OpenAPI document of a running server.

use std::collections::{BTreeMap, BTreeSet};

use super::command_line::whk;
use super::markdown::{Document, code};
use super::server::Server;
use super::{assert_none, documents};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Address of the quick start's server. Other ports belong to customers and their applications.
const SERVER: [&str; 2] = ["http://localhost:4242", "http://127.0.0.1:4242"];

/// Methods by path.
type Routes = BTreeMap<String, BTreeSet<String>>;

/// Returns the routes of the server, and the path that `whk customer` listens on.
fn known(open_api: &str) -> Routes {
    let document: serde_json::Value = serde_json::from_str(open_api).expect("/openapi.json is JSON");
    let paths = document["paths"].as_object().expect("/openapi.json has paths");
    let mut known: Routes = paths
        .iter()
        .map(|(path, methods)| {
            (path.clone(), methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect())
        })
        .collect();
    // The document doesn't describe itself.
    known.insert("/openapi.json".into(), ["GET".to_owned()].into());
    let whk = whk();
    let customer = whk.find_subcommand("customer").unwrap();
    let path = customer.get_arguments().find(|argument| argument.get_long() == Some("path")).unwrap();
    let path = path.get_default_values()[0].to_string_lossy().into_owned();
    known.insert(path, ["POST".to_owned()].into());
    known
}

/// A route as a document names it: without a method if it names none.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    method: Option<&'a str>,
    path: &'a str,
}

/// Returns the routes that code names: a method and a path, a code span that is a path, or a URL of the server.
fn routes<'a>(code: &'a str, is_span: bool) -> Vec<Named<'a>> {
    let words: Vec<&str> = code.split([' ', '"', '\'', ',']).filter(|word| !word.is_empty()).collect();
    let mut named = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let method = at.checked_sub(1).map(|before| words[before]).filter(|before| METHODS.contains(before));
        let path =
            SERVER.iter().find_map(|server| word.strip_prefix(server)).filter(|path| path.starts_with('/'));
        if let Some(path) = path {
            named.push(Named { method: None, path });
        } else if word.starts_with('/') && (method.is_some() || (is_span && words.len() == 1)) {
            named.push(Named { method, path: word });
        }
    }
    named
}

/// Whether the route exists. `me` may stand for a tenant, as in the API itself.
fn exists(known: &Routes, named: &Named<'_>) -> bool {
    let path = named.path.replace("/tenants/me", "/tenants/{tenant}");
    known.get(&path).is_some_and(|methods| named.method.is_none_or(|method| methods.contains(method)))
}

/// Checks all of a document.
fn check(known: &Routes, document: &Document) -> Vec<String> {
    let mut findings = Vec::new();
    for part in &document.parts {
        let is_span = matches!(part, super::markdown::Part::Sentence { .. });
        for (line, code) in code(part) {
            let unknown = routes(code, is_span).into_iter().filter(|named| !exists(known, named));
            findings.extend(unknown.map(|named| document.at(line, &format!("there is no route {named:?}"))));
        }
    }
    findings
}

#[test]
fn routes_exist() {
    let known = known(&Server::start("routes").get("/openapi.json"));
    let findings: Vec<String> = documents().iter().flat_map(|document| check(&known, document)).collect();
    assert_none(&findings);
}

/// Every route stands in the table of docs/http-api.md.
#[test]
fn every_route_is_documented() {
    let text = std::fs::read_to_string(super::root().join("docs/http-api.md")).unwrap();
    let document: serde_json::Value =
        serde_json::from_str(&Server::start("table").get("/openapi.json")).expect("/openapi.json is JSON");
    let mut missing = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("`{} {path}`", method.to_uppercase());
            if !text.contains(&route) {
                missing.push(route);
            }
        }
    }
    assert_none(&missing);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const OPEN_API: &str = r#"{"paths": {"/publish": {"post": {}}, "/tenants/{tenant}": {"get": {}}}}"#;

    fn findings(text: &str) -> usize {
        check(&known(OPEN_API), &Document::parse(Path::new("a.md"), text)).len()
    }

    #[test]
    fn a_path_must_exist_with_that_method() {
        assert_eq!(findings("`POST /publish`, `/publish`, `GET /tenants/me`, `POST /webhook`\n"), 0);
        assert_eq!(findings("`GET /publish`\n"), 1);
        assert_eq!(findings("`POST /publishes`\n"), 1);
        assert_eq!(findings("`/publishes`\n"), 1);
        assert_eq!(findings("`GET /tenants/{id}`\n"), 1);
        assert_eq!(findings("```text\n─ POST /publishes ─\n```\n"), 1);
    }

    #[test]
    fn a_url_of_the_server_is_a_route() {
        assert_eq!(findings("```sh\ncurl http://localhost:4242/publish\n```\n"), 0);
        assert_eq!(findings("```sh\ncurl http://localhost:4242/send\n```\n"), 1);
        assert_eq!(findings("```sh\ncurl http://localhost:3000/hooks\n```\n"), 0);
    }
}
