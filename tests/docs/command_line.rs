//! Flags and subcommands, compared with clap.

use clap::{Command, CommandFactory as _, Parser as _};
use whk::cli::Cli;

use super::markdown::{Document, Part, code_spans};
use super::words::{command_lines, shell_words};
use super::{assert_none, documents, root};

/// Returns the whole command line of `whk`, with global flags in every subcommand.
pub(crate) fn whk() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Returns every subcommand of `command` and `command` itself.
pub(crate) fn all_below(command: &Command) -> Vec<&Command> {
    let mut all = vec![command];
    for below in command.get_subcommands() {
        all.extend(all_below(below));
    }
    all
}

/// Whether `command` or a subcommand of it takes the flag.
fn takes(command: &Command, flag: &str) -> bool {
    let name = flag.trim_start_matches("--");
    all_below(command)
        .iter()
        .any(|command| command.get_arguments().any(|argument| argument.get_long() == Some(name)))
}

/// Returns the flags that code names.
fn flags(code: &str) -> Vec<&str> {
    code.split([' ', ',', '=', '(', ')', '"', '\'', '|', '[', ']', ':', ';'])
        .filter(|word| {
            word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        })
        .map(|word| word.trim_end_matches(['.', '…']))
        .collect()
}

/// Resolves the subcommand that words name after `whk`.
fn resolve<'a>(whk: &'a Command, words: &[&str]) -> Result<&'a Command, String> {
    let mut command = whk;
    for word in words {
        if word.starts_with('-') || !command.has_subcommands() {
            break;
        }
        command = command
            .find_subcommand(word)
            .ok_or_else(|| format!("`{word}` isn't a subcommand of `{}`", command.get_name()))?;
    }
    Ok(command)
}

/// Checks a code span that begins with `whk`, and returns the subcommand that it names.
fn check_span<'a>(whk: &'a Command, span: &str, findings: &mut Vec<String>) -> Option<&'a Command> {
    let words: Vec<&str> = span.split_whitespace().skip(1).collect();
    match resolve(whk, &words) {
        Ok(command) => {
            findings.extend(
                flags(span)
                    .into_iter()
                    .filter(|flag| !takes(command, flag))
                    .map(|flag| format!("`{}` takes no {flag}", command.get_name())),
            );
            Some(command)
        }
        Err(finding) => {
            findings.push(finding);
            None
        }
    }
}

/// Returns the text of the script that a code span runs.
fn script(span: &str) -> Option<String> {
    let path = span.split_whitespace().find(|word| word.starts_with("scripts/"))?;
    let text = std::fs::read_to_string(root().join(path)).ok()?;
    if !path.ends_with("bench.sh") {
        return Some(text);
    }
    // The benchmark hands its flags to a program.
    let program =
        super::files_below("benches", &["rs"]).into_iter().map(|path| std::fs::read_to_string(path).unwrap());
    Some(program.fold(text, |all, file| all + &file))
}

/// Checks the flags and subcommands of one sentence. A flag belongs to a subcommand that the sentence names; if it
/// names none, to any.
fn check_sentence(whk: &Command, sentence: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let spans = code_spans(sentence);
    let named: Vec<&Command> = spans
        .iter()
        .filter(|span| **span == "whk" || span.starts_with("whk "))
        .filter_map(|span| check_span(whk, span, &mut findings))
        .collect();
    let scripts: Vec<String> = spans.iter().filter_map(|span| script(span)).collect();
    for span in &spans {
        let program = span.split_whitespace().next().unwrap_or_default();
        if program == "whk" || program == "cargo" {
            continue;
        }
        for flag in flags(span) {
            let known = if program.starts_with("scripts/") {
                script(span).is_some_and(|text| text.contains(flag))
            } else {
                scripts.iter().any(|text| text.contains(flag))
                    || if named.is_empty() { takes(whk, flag) } else { named.iter().any(|c| takes(c, flag)) }
            };
            if !known {
                let names: Vec<&str> = named.iter().map(|command| command.get_name()).collect();
                findings.push(format!("no flag {flag} in {names:?}"));
            }
        }
    }
    findings
}

/// Checks one command line of a shell block: `whk` must accept it as it stands.
fn check_command_line(line: &str) -> Vec<String> {
    let words = shell_words(line);
    let mut findings = Vec::new();
    // Variables may stand before the program.
    let start = words.iter().position(|word| !word.contains('=') || word.starts_with('-')).unwrap_or(0);
    let program = &words[start];
    if program == "whk" {
        let end = words.iter().position(|word| ["|", "&&", ";", ">"].contains(&word.as_str()));
        let arguments = &words[start..end.unwrap_or(words.len())];
        if let Err(error) = Cli::try_parse_from(arguments) {
            findings.push(format!(
                "whk doesn't accept this: {}",
                error.to_string().lines().next().unwrap_or_default()
            ));
        }
    } else if program.starts_with("scripts/") {
        let text = script(line);
        findings.extend(
            flags(line)
                .into_iter()
                .filter(|flag| !text.as_ref().is_some_and(|text| text.contains(flag)))
                .map(|flag| format!("{program} has no {flag}")),
        );
    }
    findings
}

/// Checks all of a document.
fn check(whk: &Command, document: &Document) -> Vec<String> {
    let mut findings = Vec::new();
    for part in &document.parts {
        match part {
            Part::Sentence { line, text } => {
                findings.extend(check_sentence(whk, text).iter().map(|finding| document.at(*line, finding)));
            }
            Part::Block { line, language, text } => {
                for (line, command) in command_lines(line + 1, language, text) {
                    findings.extend(
                        check_command_line(&command).iter().map(|finding| document.at(line, finding)),
                    );
                }
                if language == "text" {
                    let unknown = flags(text).into_iter().filter(|flag| !takes(whk, flag));
                    findings.extend(
                        unknown.map(|flag| document.at(*line, &format!("no subcommand takes {flag}"))),
                    );
                }
            }
        }
    }
    findings
}

#[test]
fn flags_and_subcommands_exist() {
    let whk = whk();
    let findings: Vec<String> = documents().iter().flat_map(|document| check(&whk, document)).collect();
    assert_none(&findings);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn findings(text: &str) -> usize {
        check(&whk(), &Document::parse(Path::new("a.md"), text)).len()
    }

    #[test]
    fn a_flag_must_exist_in_the_subcommand_that_the_sentence_names() {
        assert_eq!(findings("`whk customer` verifies with `--secret-file`.\n"), 0);
        assert_eq!(findings("`whk keygen` verifies with `--secret-file`.\n"), 1);
        assert_eq!(findings("`whk keygen --secret-file x` is wrong.\n"), 1);
    }

    #[test]
    fn a_flag_without_a_subcommand_must_exist_in_any() {
        assert_eq!(findings("Give `--secret-file`.\n"), 0);
        assert_eq!(findings("Give `--secret-fil`.\n"), 1);
    }

    #[test]
    fn a_flag_of_another_sentence_is_not_held_against_this_one() {
        assert_eq!(findings("`whk keygen` writes keys. `--secret-file` names a secret.\n"), 0);
    }

    #[test]
    fn a_subcommand_must_exist() {
        assert_eq!(findings("See `whk tenant endpoint add`.\n"), 0);
        assert_eq!(findings("See `whk tenant endpoint make`.\n"), 1);
        assert_eq!(findings("See `whk serve`.\n"), 1);
    }

    #[test]
    fn a_command_of_a_block_must_be_accepted() {
        assert_eq!(findings("```sh\nwhk tenant create Acme\n```\n"), 0);
        assert_eq!(findings("```sh\nwhk tenant create\n```\n"), 1, "a name is missing");
        assert_eq!(findings("```sh\nwhk keygen --bits 1024\n```\n"), 1, "a value is wrong");
        assert_eq!(findings("```console\n$ whk keygen --nothing\n```\n"), 1);
    }

    #[test]
    fn flags_of_output_must_exist() {
        assert_eq!(findings("```text\nwith --session-timeout 6s\n```\n"), 0);
        assert_eq!(findings("```text\nwith --session-time 6s\n```\n"), 1);
    }

    #[test]
    fn flags_of_scripts_are_looked_for_in_the_script() {
        assert_eq!(findings("Run `scripts/torture.sh --rounds 20`.\n"), 0);
        assert_eq!(findings("Run `scripts/torture.sh --times 20`.\n"), 1);
        assert_eq!(findings("```sh\nscripts/bench.sh --queues\n```\n"), 0);
        assert_eq!(findings("```sh\nscripts/bench.sh --kews\n```\n"), 1);
    }
}
