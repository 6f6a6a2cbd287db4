//! `cargo test` commands: their targets and modules exist, so that none runs no test at all.

use super::markdown::{Document, Part, code};
use super::words::{command_lines, shell_words};
use super::{assert_none, documents, root};

/// Whether `folder` has the module, which may have its tests inside another file.
fn has_module(folder: &str, module: &str) -> bool {
    let path = root().join(folder).join(module.replace("::", "/"));
    path.is_dir() || path.with_extension("rs").is_file()
}

/// Checks one command, and returns what is wrong with it.
fn check_command(command: &str) -> Option<String> {
    let words = shell_words(command);
    let words: Vec<&str> = words.iter().map(String::as_str).take_while(|word| *word != "--").collect();
    let ["cargo", "test", rest @ ..] = words.as_slice() else { return None };
    let (folder, filter) = match rest {
        ["--lib", filter @ ..] => ("src".to_owned(), filter),
        ["--test", target, filter @ ..] => (format!("tests/{target}"), filter),
        _ => return None,
    };
    if !root().join(&folder).is_dir() {
        return Some(format!("there is no test target {folder}"));
    }
    filter
        .iter()
        .find(|module| !has_module(&folder, module))
        .map(|module| format!("{folder} has no module {module}"))
}

/// Checks all of a document.
fn check(document: &Document) -> Vec<String> {
    let mut findings = Vec::new();
    for part in &document.parts {
        let commands = match part {
            Part::Sentence { .. } => {
                code(part).into_iter().map(|(line, code)| (line, code.to_owned())).collect()
            }
            Part::Block { line, language, text } => command_lines(line + 1, language, text),
        };
        for (line, command) in commands {
            findings.extend(check_command(&command).map(|finding| document.at(line, &finding)));
        }
    }
    findings
}

#[test]
fn cargo_commands_run_tests() {
    let findings: Vec<String> = documents().iter().flat_map(check).collect();
    assert_none(&findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_modules_must_exist() {
        for good in [
            "cargo test --lib queue::lanes",
            "cargo test --test docs",
            "cargo test --test docs links",
            "cargo test --lib -- --skip redis",
            "cargo build --release",
        ] {
            assert_eq!(check_command(good), None, "{good}");
        }
        for bad in ["cargo test --lib queue::lane", "cargo test --test doc", "cargo test --test docs nothing"]
        {
            assert!(check_command(bad).is_some(), "{bad}");
        }
    }
}
