//! The voice of doc comments: they name their subject instead of pointing at it.

use super::{files_below, root};

/// Words that point at something instead of naming it.
const POINTING: [&str; 33] = [
    "what", "where", "who", "whom", "whose", "it", "they", "them", "those", "that", "these", "there", "as",
    "by", "from", "in", "of", "on", "to", "with", "until", "since", "so", "nobody", "nothing", "others",
    "one", "same", "beside", "beyond", "because", "whatever", "whoever",
];

/// Doc comments that were looked at, and the first lines of those that open with a pointing word.
#[derive(Debug, Default)]
struct Voice {
    blocks: usize,
    pointing: Vec<String>,
}

impl Voice {
    /// Counts the doc comments of one file.
    fn count(&mut self, name: &str, source: &str) {
        let mut is_open = false;
        for (number, line) in (1..).zip(source.lines()) {
            let line = line.trim();
            let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            if let Some(text) = text.filter(|_| !is_open) {
                self.blocks += 1;
                let word: String = text
                    .trim_start()
                    .chars()
                    .take_while(char::is_ascii_alphabetic)
                    .collect::<String>()
                    .to_lowercase();
                if POINTING.contains(&word.as_str()) {
                    self.pointing.push(format!("{name}:{number}:{text}"));
                }
            }
            is_open = text.is_some();
        }
    }

    /// Whether more than 1 % of the doc comments point.
    fn is_over_the_limit(&self) -> bool {
        self.pointing.len() * 100 > self.blocks
    }
}

#[test]
fn at_most_one_doc_comment_in_a_hundred_points() {
    let mut voice = Voice::default();
    for path in ["src", "tests", "benches"].into_iter().flat_map(|folder| files_below(folder, &["rs"])) {
        let name = path.strip_prefix(root()).unwrap();
        // This folder is rewritten later.
        if !name.starts_with("src/queue/kafka") {
            voice.count(&name.display().to_string(), &std::fs::read_to_string(&path).unwrap());
        }
    }
    assert!(
        !voice.is_over_the_limit(),
        "{} of {} doc comments open with a pointing word:\n{}",
        voice.pointing.len(),
        voice.blocks,
        voice.pointing.join("\n")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voice(source: &str) -> Voice {
        let mut voice = Voice::default();
        voice.count("a.rs", source);
        voice
    }

    #[test]
    fn only_the_first_word_of_a_block_counts() {
        let voice = voice("/// Returns a.\n/// What it is.\nfn a() {}\n//! Of b.\n    /// It's c.\n");
        assert_eq!(voice.blocks, 2);
        assert_eq!(voice.pointing, ["a.rs:4: Of b."]);
    }

    #[test]
    fn more_than_one_in_a_hundred_is_over_the_limit() {
        let good = "/// Returns a.\nfn a() {}\n".repeat(99);
        assert!(!voice(&(good.clone() + "/// What b is.\nfn b() {}\n")).is_over_the_limit());
        assert!(voice(&(good + "/// What b is.\nfn b() {}\n/// Whose c is.\n")).is_over_the_limit());
    }
}
