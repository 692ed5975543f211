//! Where in a YAML text a key stands.
//!
//! The parser tells the line of what it cannot read, but a policy that contradicts itself is found
//! later, when lines are gone. So the text is looked at once more: this finds keys of block
//! mappings by their indentation, which is how people write such files. In a flow mapping
//! (`{policy: any}`) it finds the line on which that begins.

/// The line of a key, from 1, or of the nearest key above it that is there.
pub(super) fn line_of(yaml: &str, path: &[&str]) -> Option<usize> {
    let mut found = None;
    let mut depth = 0;
    // The indentation at which the keys of the mapping that is searched stand.
    let mut indents: Vec<usize> = Vec::new();
    for (index, line) in yaml.lines().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with(['#', '-']) {
            continue;
        }
        let indent = line.len() - content.len();
        while indents.last().is_some_and(|last| *last >= indent) {
            indents.pop();
        }
        if indents.len() < depth {
            // What was found has ended, and did not hold the next key.
            return found;
        }
        if indents.len() == depth && key_of(content) == path.get(depth).copied() {
            found = Some(index + 1);
            depth += 1;
            if depth == path.len() {
                return found;
            }
        }
        indents.push(indent);
    }
    found
}

/// The line of an item of a block sequence under a key, from 1 and 0; the key's when the items
/// do not stand on lines of their own.
pub(super) fn line_of_item(yaml: &str, path: &[&str], item: usize) -> Option<usize> {
    let key = line_of(yaml, path)?;
    let dashes = yaml
        .lines()
        .enumerate()
        .skip(key)
        .map(|(index, line)| (index + 1, line.trim_start()))
        .filter(|(_, content)| !content.is_empty() && !content.starts_with('#'))
        .take_while(|(_, content)| content.starts_with('-'));
    dashes.map(|(line, _)| line).nth(item).or(Some(key))
}

/// The key that a line of a block mapping begins with.
fn key_of(content: &str) -> Option<&str> {
    let (key, rest) = content.split_once(':')?;
    let ends = rest.is_empty() || rest.starts_with([' ', '\t']);
    ends.then(|| key.trim_end().trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# a comment\nhttp:\n  port: 8443\n\n  authentication:\n    # who\n    \
                        policy: any\n    allowed_ids:\n    # first\n    - a\n\n    - b\nspire:\n  \
                        trust_domain: x\n";

    #[test]
    fn keys_are_found_where_they_stand() {
        let line = |path: &[&str]| line_of(TEXT, path);
        assert_eq!(line(&["http"]), Some(2));
        assert_eq!(line(&["http", "port"]), Some(3));
        assert_eq!(line(&["http", "authentication", "policy"]), Some(7));
        assert_eq!(line(&["spire", "trust_domain"]), Some(14));
        assert_eq!(
            line_of_item(TEXT, &["http", "authentication", "allowed_ids"], 1),
            Some(12)
        );
    }

    #[test]
    fn a_key_that_is_not_there_is_placed_at_the_one_above() {
        assert_eq!(
            line_of(TEXT, &["http", "authentication", "trust_domain"]),
            Some(5)
        );
        assert_eq!(line_of(TEXT, &["other"]), None);
        assert_eq!(line_of("http: {port: 1}\n", &["http", "port"]), Some(1));
        assert_eq!(line_of_item("ids: [a, b]\nx: 1\n", &["ids"], 1), Some(1));
    }

    proptest! {
        #[test]
        fn blank_lines_and_comments_only_move_a_key(before in "(( *#[ -~]*)?\n){0,5}", gap in "( *#[ -~]*\n|\n){0,5}") {
            let text = format!("{before}http:\n{gap}  port: 1\n{gap}spire:\n{gap}    socket_path: x\n");
            let lines = |text: &str| text.matches('\n').count();
            let (before, gap) = (lines(&before), lines(&gap));
            prop_assert_eq!(line_of(&text, &["http", "port"]), Some(before + 1 + gap + 1));
            prop_assert_eq!(line_of(&text, &["spire", "socket_path"]), Some(before + 3 * gap + 4));
        }

        #[test]
        fn any_text_is_looked_at_without_a_panic(text in "\\PC*(\n\\PC*){0,5}", item in 0_usize..4) {
            line_of(&text, &["http", "port"]);
            line_of_item(&text, &["http"], item);
        }
    }
}
