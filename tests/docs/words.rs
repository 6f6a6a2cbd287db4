//! Splits code into words, as a shell does.

/// Splits a command line into words. Quotes are removed; `$(…)` and variables stay as they are.
pub(crate) fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut depth, mut is_word) = (None, 0_usize, false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('$', _) if characters.peek() == Some(&'(') => {
                depth += 1;
                word.push(character);
                is_word = true;
            }
            (')', _) if depth > 0 => {
                depth -= 1;
                word.push(character);
            }
            (' ', None) if depth == 0 => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            ('"' | '\'', None) => (quote, is_word) = (Some(character), true),
            (_, Some(open)) if open == character && depth == 0 => quote = None,
            _ => {
                word.push(character);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

/// Returns the command lines of a shell block with the numbers of their lines. A line that ends in `\` goes on. In a
/// `console` block only lines after a `$` prompt are commands.
pub(crate) fn command_lines(first_line: usize, language: &str, text: &str) -> Vec<(usize, String)> {
    let mut commands = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (first_line..).zip(text.lines()) {
        let line = line.trim();
        let (start, mut command) = match (open.take(), language) {
            (Some((start, command)), _) => (start, command + " " + line),
            (None, "sh") => (number, line.to_owned()),
            (None, "console") => match line.strip_prefix("$ ") {
                Some(command) => (number, command.to_owned()),
                None => continue,
            },
            (None, _) => return Vec::new(),
        };
        if let Some(cut) = command.strip_suffix('\\') {
            command.truncate(cut.len());
            open = Some((start, command));
        } else if !command.is_empty() && !command.starts_with('#') {
            commands.push((start, command));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_substitutions_and_lose_quotes() {
        assert_eq!(
            shell_words(r#"curl -H "key: $(cat a b)" -d '{"a": 1}' x"#),
            ["curl", "-H", "key: $(cat a b)", "-d", r#"{"a": 1}"#, "x"]
        );
    }

    #[test]
    fn lines_that_end_in_a_backslash_go_on() {
        let commands = command_lines(5, "sh", "whk a \\\n    --b\nwhk c\n");
        assert_eq!(commands, [(5, "whk a  --b".to_owned()), (7, "whk c".to_owned())]);
    }

    #[test]
    fn only_prompts_of_a_console_block_are_commands() {
        assert_eq!(command_lines(1, "console", "$ whk a\nwhk b\n"), [(1, "whk a".to_owned())]);
        assert!(command_lines(1, "text", "whk a\n").is_empty());
    }
}
