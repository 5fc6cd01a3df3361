//! What a client asks: words, as RESP has them (`*2\r\n$3\r\nGET\r\n$1\r\na\r\n`) or on a line of their own.

/// The most words of a request, and the most bytes: what claims more is no client of ours.
const MOST_WORDS: usize = 1 << 20;
const MOST_BYTES: usize = 64 << 20;

/// The longest line: of an inline request, or before a word.
const MOST_LINE: usize = 64 << 10;

/// What stands at the beginning of what a client sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// A request of so many bytes.
    Whole(usize),
    /// The beginning of one, which has so many bytes at least.
    Partial(usize),
}

/// Reads the request at the beginning of `input` into `words`.
///
/// # Errors
/// What a client is told before it is left: what it sends is no request.
pub(crate) fn parse<'i>(
    input: &'i [u8],
    words: &mut Vec<&'i [u8]>,
) -> Result<Parsed, &'static str> {
    words.clear();
    let Some((line, mut at)) = line(input, 0)? else { return Ok(Parsed::Partial(input.len() + 1)) };
    let Some((b'*', count)) = line.split_first() else {
        words.extend(line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()));
        return Ok(Parsed::Whole(at));
    };
    let count = number(count, MOST_WORDS).ok_or("Protocol error: invalid multibulk length")?;
    for _ in 0..count {
        let Some((head, start)) = self::line(input, at)? else {
            return Ok(Parsed::Partial(input.len() + 1));
        };
        let length = head.strip_prefix(b"$").ok_or("Protocol error: expected '$'")?;
        let length = number(length, MOST_BYTES.saturating_sub(start));
        at = start + length.ok_or("Protocol error: invalid bulk length")? + 2;
        let Some(word) = input.get(start..at) else { return Ok(Parsed::Partial(at)) };
        words.push(word.strip_suffix(b"\r\n").ok_or("Protocol error: no end of a word")?);
    }
    Ok(Parsed::Whole(at))
}

/// Returns the line that begins at `at`, without its end, and where the next one begins.
fn line(input: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, &'static str> {
    let rest = input.get(at..).unwrap_or_default();
    let Some(end) = rest.iter().take(MOST_LINE).position(|byte| *byte == b'\n') else {
        let is_long = rest.len() >= MOST_LINE;
        return if is_long { Err("Protocol error: too big inline request") } else { Ok(None) };
    };
    let line = &rest[..end];
    Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1)))
}

/// Returns the number that these digits are, up to `most`.
fn number(digits: &[u8], most: usize) -> Option<usize> {
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number <= most).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(input: &[u8]) -> (Result<Parsed, &'static str>, Vec<&[u8]>) {
        let mut words = Vec::new();
        (parse(input, &mut words), words)
    }

    #[test]
    fn a_request_is_whole_at_its_last_byte_and_not_before() {
        let text = b"*3\r\n$3\r\nSET\r\n$2\r\nab\r\n$4\r\n\r\n\0c\r\n";
        let (whole, words) = parsed(text);
        assert_eq!(whole, Ok(Parsed::Whole(text.len())));
        assert_eq!(words, [&b"SET"[..], b"ab", b"\r\n\0c"]);
        for length in 0..text.len() {
            let Ok(Parsed::Partial(least)) = parsed(&text[..length]).0 else {
                panic!("{length} bytes")
            };
            assert!(length < least && least <= text.len(), "{length} bytes: {least}");
        }
        let twice = [&text[..], &text[..]].concat();
        assert_eq!(parsed(&twice).0, Ok(Parsed::Whole(text.len())));
    }

    #[test]
    fn a_line_is_a_request_too() {
        let (whole, words) = parsed(b"GET  a \r\nPING\r\n");
        assert_eq!((whole, words), (Ok(Parsed::Whole(9)), vec![&b"GET"[..], b"a"]));
        assert_eq!(parsed(b"\r\n"), (Ok(Parsed::Whole(2)), vec![]));
        assert_eq!(parsed(b"*0\r\n"), (Ok(Parsed::Whole(4)), vec![]));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in ["*-1\r\n", "*x\r\n", "*1048577\r\n", "*1\r\n:1\r\n", "*1\r\n$-1\r\n", "*\r\n"]
        {
            assert!(parsed(text.as_bytes()).0.is_err(), "{text:?}");
        }
        assert!(parsed(b"*1\r\n$1\r\nabc").0.is_err());
        assert!(parsed(b"*1\r\n$99999999999\r\n").0.is_err());
        assert!(parsed(&vec![b'a'; MOST_LINE]).0.is_err());
    }
}
