//! What a client is answered, in RESP 2 or 3.

use itoa::Integer;

/// The answers to a client, as they are written one after the other.
#[derive(Default)]
pub(crate) struct Replies {
    pub(crate) bytes: Vec<u8>,
    /// Whether the client asked for RESP 3, which has a null and maps of its own.
    pub(crate) resp3: bool,
}

impl Replies {
    pub(crate) fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Answers an error: its kind, in capitals, and what is wrong.
    pub(crate) fn error(&mut self, text: &str) {
        self.line(b'-', text.as_bytes());
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    /// Announces so many answers as one.
    pub(crate) fn array(&mut self, count: usize) {
        self.head(b'*', count);
    }

    /// Announces so many names, each with an answer.
    pub(crate) fn map(&mut self, count: usize) {
        let (kind, count) = if self.resp3 { (b'%', count) } else { (b'*', 2 * count) };
        self.head(kind, count);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Writes a number on a line.
    fn head(&mut self, kind: u8, number: impl Integer) {
        self.line(kind, itoa::Buffer::new().format(number).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_written_as_clients_read_them() {
        let mut replies = Replies::default();
        for number in [0, -1, 7, 10, i64::MAX, i64::MIN] {
            replies.integer(number);
        }
        replies.bulk(b"a\r\n");
        for resp3 in [false, true] {
            replies.resp3 = resp3;
            replies.map(2);
            replies.null();
        }
        let text = format!(":0\r\n:-1\r\n:7\r\n:10\r\n:{}\r\n:{}\r\n", i64::MAX, i64::MIN);
        assert_eq!(
            replies.bytes,
            [text.as_bytes(), b"$3\r\na\r\n\r\n*4\r\n$-1\r\n%2\r\n_\r\n"].concat()
        );
    }
}
