//! Text that this program did not write, as it can be shown.
//!
//! A name in an image is any bytes: what would move a terminal's cursor, set its colours, end the
//! line, or turn the direction of reading is shown by its number.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with everything that a terminal would obey escaped, as Rust writes it.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        // Writing to a string does not fail.
        let _ = if obeyed(c) { write!(out, "{}", c.escape_default()) } else { out.write_char(c) };
    }
    Cow::Owned(out)
}

/// Whether a character does something rather than being something.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Marks of direction, embeddings, overrides, isolates.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Separators of lines and paragraphs, and what has no width.
            | '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_is_not() {
        for plain in ["", "guest-0", "Gäste \\ \"0\"", "客人"] {
            assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(shown("a\x1b[31mb\n\tc\x7f\u{9b}"), "a\\u{1b}[31mb\\n\\tc\\u{7f}\\u{9b}");
        assert_eq!(shown("\u{202e}cba"), "\\u{202e}cba");
    }
}
