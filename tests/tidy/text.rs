//! Rust as text: taking comments and literals out, finding whole words.

/// The name that the text begins with; empty when there is none.
pub(crate) fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Where `word` stands as a whole word, with the text that follows it.
pub(crate) fn words<'a>(code: &'a str, word: &str) -> Vec<(usize, &'a str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let found = code
        .match_indices(word)
        .map(|(at, _)| (at, &code[at + word.len()..]));
    found
        .filter(|(at, rest)| !code[..*at].ends_with(part) && !rest.starts_with(part))
        .collect()
}

/// The text with comments, and literals if asked, replaced by spaces; offsets and line breaks stay.
pub(crate) fn blank(text: &str, literals: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let comment = comment_length(rest);
        let literal = if comment == 0 {
            literal_length(rest, out.chars().next_back())
        } else {
            0
        };
        let length = comment.max(literal).max(first.len_utf8()).min(rest.len());
        let (token, after) = rest.split_at(length);
        if comment > 0 || (literal > 0 && literals) {
            out.extend(
                token
                    .bytes()
                    .map(|byte| if byte == b'\n' { '\n' } else { ' ' }),
            );
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out
}

/// Bytes of the comment that the text begins with, or 0. Block comments nest.
fn comment_length(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if !text.starts_with("/*") {
        return 0;
    }
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Bytes of the string or character literal that the text begins with, or 0. A lifetime is not a literal.
fn literal_length(text: &str, before: Option<char>) -> usize {
    let in_word =
        before.is_some_and(|c| c.is_alphanumeric() && !matches!(c, 'b' | 'c') || c == '_');
    if let Some(hashed) = text.strip_prefix('r').filter(|_| !in_word) {
        let body = hashed.trim_start_matches('#');
        if body.starts_with('"') {
            let hashes = hashed.len() - body.len();
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 1 + hashes + 1;
            return text[open..]
                .find(&close)
                .map_or(text.len(), |at| open + at + close.len());
        }
    }
    let mut chars = text.chars();
    match chars.next() {
        Some('"') => quoted_length(text, '"'),
        // `'a'` and `'\n'` are literals, `'a` and `'static` are lifetimes.
        Some('\'')
            if matches!(
                (chars.next(), chars.next()),
                (Some('\\'), _) | (_, Some('\''))
            ) =>
        {
            quoted_length(text, '\'')
        }
        _ => 0,
    }
}

/// Bytes up to the quote that closes the one at the start, past escaped quotes.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}
