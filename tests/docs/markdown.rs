//! Splits a Markdown document into sentences and code blocks.

use std::path::{Path, PathBuf};

/// A parsed document.
#[derive(Debug)]
pub(crate) struct Document {
    /// Path relative to the root of the repository.
    pub(crate) path: PathBuf,
    /// The document without its code blocks, line by line: a line of a block is empty here.
    pub(crate) prose_lines: Vec<String>,
    /// Sentences and blocks, in order.
    pub(crate) parts: Vec<Part>,
}

/// A sentence or a code block, with the number of its first line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A sentence, table row or heading.
    Sentence { line: usize, text: String },
    /// A fenced block.
    Block { line: usize, language: String, text: String },
}

impl Document {
    /// Parses the text of a document.
    pub(crate) fn parse(path: &Path, text: &str) -> Self {
        let mut document = Self { path: path.to_owned(), prose_lines: Vec::new(), parts: Vec::new() };
        let mut paragraph = (0, String::new());
        let mut block: Option<(usize, String, String)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let trimmed = line.trim();
            if let Some(language) = trimmed.strip_prefix("```") {
                document.prose_lines.push(String::new());
                match block.take() {
                    Some((line, language, text)) => document.parts.push(Part::Block { line, language, text }),
                    None => {
                        document.end_paragraph(&mut paragraph);
                        block = Some((number, language.to_owned(), String::new()));
                    }
                }
            } else if let Some((_, _, text)) = &mut block {
                document.prose_lines.push(String::new());
                text.push_str(line);
                text.push('\n');
            } else {
                document.prose_lines.push(line.to_owned());
                if trimmed.is_empty() || begins_a_paragraph(trimmed) {
                    document.end_paragraph(&mut paragraph);
                }
                if paragraph.1.is_empty() {
                    paragraph.0 = number;
                } else {
                    paragraph.1.push(' ');
                }
                paragraph.1.push_str(trimmed);
            }
        }
        assert!(block.is_none(), "{}: a code block has no end", path.display());
        document.end_paragraph(&mut paragraph);
        document
    }

    fn end_paragraph(&mut self, (line, text): &mut (usize, String)) {
        let text = std::mem::take(text);
        self.parts.extend(
            sentences(&text)
                .into_iter()
                .map(|sentence| Part::Sentence { line: *line, text: sentence.to_owned() }),
        );
    }

    /// Names a line of this document.
    pub(crate) fn at(&self, line: usize, finding: &str) -> String {
        format!("{}:{line}: {finding}", self.path.display())
    }
}

/// Whether a line begins a list item, a table row, a heading or a quotation.
fn begins_a_paragraph(line: &str) -> bool {
    let numbered =
        line.split_once(". ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
    numbered || ["- ", "* ", "|", "#", ">"].iter().any(|start| line.starts_with(start))
}

/// Splits a paragraph at the full stops that stand outside code spans.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let (mut start, mut in_code) = (0, false);
    let bytes = paragraph.as_bytes();
    for (at, byte) in paragraph.bytes().enumerate() {
        match byte {
            b'`' => in_code = !in_code,
            b'.' if !in_code && bytes.get(at + 1) == Some(&b' ') => {
                sentences.push(paragraph[start..=at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    sentences.push(paragraph[start..].trim());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// Returns the code spans of a sentence.
pub(crate) fn code_spans(sentence: &str) -> Vec<&str> {
    sentence.split('`').skip(1).step_by(2).collect()
}

/// Returns each piece of code of a part: its code spans, or the lines of its block with their numbers.
pub(crate) fn code(part: &Part) -> Vec<(usize, &str)> {
    match part {
        Part::Sentence { line, text } => code_spans(text).into_iter().map(|span| (*line, span)).collect(),
        Part::Block { line, text, .. } => (line + 1..).zip(text.lines()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<Part> {
        Document::parse(Path::new("a.md"), text).parts
    }

    #[test]
    fn sentences_end_at_full_stops_outside_code() {
        assert_eq!(sentences("One `a. b` two. Three."), ["One `a. b` two.", "Three."]);
    }

    #[test]
    fn a_block_is_one_part_with_its_language() {
        let expected = [
            Part::Sentence { line: 1, text: "Run:".into() },
            Part::Block { line: 3, language: "sh".into(), text: "whk keygen\n".into() },
            Part::Sentence { line: 7, text: "Done.".into() },
        ];
        assert_eq!(parts("Run:\n\n```sh\nwhk keygen\n```\n\nDone.\n"), expected);
    }

    #[test]
    fn list_items_and_rows_are_sentences_of_their_own() {
        let lines: Vec<usize> = parts("- one\n- two\n  more\n| a | b |\n")
            .iter()
            .map(|part| match part {
                Part::Sentence { line, .. } | Part::Block { line, .. } => *line,
            })
            .collect();
        assert_eq!(lines, [1, 2, 4]);
    }

    #[test]
    fn spans_are_what_stands_between_backticks() {
        assert_eq!(code_spans("Give `--a` to `whk b`."), ["--a", "whk b"]);
    }
}
