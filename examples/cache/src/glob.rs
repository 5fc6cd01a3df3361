//! Patterns of keys, as `SCAN MATCH` has them.

/// Returns whether `text` is what `pattern` says: `*` is any bytes, `?` is one, and what a backslash stands before is itself.
/// (Sets of bytes, as in `[a-z]`, are not known.)
pub(crate) fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // What is behind the last star, and what it stands before: the star takes one byte more each time.
    let mut star = None;
    loop {
        (pattern, text) = match (pattern, text) {
            ([b'*', behind @ ..], _) => {
                star = Some((behind, text));
                (behind, text)
            }
            ([], []) => return true,
            ([b'?', rest @ ..], [_, more @ ..]) => (rest, more),
            ([b'\\', each, rest @ ..], [byte, more @ ..]) if each == byte => (rest, more),
            ([each, rest @ ..], [byte, more @ ..]) if each == byte && *each != b'\\' => {
                (rest, more)
            }
            _ => match star {
                Some((behind, [_, more @ ..])) => {
                    star = Some((behind, more));
                    (behind, more)
                }
                _ => return false,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_what_they_are_elsewhere() {
        let cases: [(&str, &str, bool); 11] = [
            ("*", "", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("user:*", "user:17", true),
            ("user:*", "users", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a?\\?", "ab?", true),
            ("", "a", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        // Many stars are no exponential search.
        let pattern = "*a".repeat(200);
        assert!(!matches(pattern.as_bytes(), &[b'b'; 4000]));
    }
}
