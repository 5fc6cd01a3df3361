//! What a machine prints, line by line, by a deadline.

use std::fmt;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

/// That a machine did not end, nor say what was awaited, by its deadline.
#[derive(Debug)]
pub(crate) struct TookTooLong;

impl fmt::Display for TookTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the machine took too long")
    }
}

impl std::error::Error for TookTooLong {}

/// The serial lines, of which the first is the console. A thread reads each, so that the machine never waits for its
/// reader.
///
/// The kernel's messages cut what a process prints on the console into pieces. On a serial line of its own it stays whole.
pub(crate) struct Console {
    lines: Receiver<String>,
    said: String,
    say: String,
    show: bool,
}

impl Console {
    /// Reads all of `from` until they end. Prints lines that begin with `say`; `show`: all of them.
    pub(crate) fn new<R: Read + Send + 'static>(
        from: impl IntoIterator<Item = R>,
        say: &str,
        show: bool,
    ) -> Self {
        let (sender, lines) = channel();
        for from in from {
            let sender = sender.clone();
            thread::spawn(move || send_lines(from, &sender));
        }
        Self { lines, said: String::new(), say: say.to_owned(), show }
    }

    /// The next line; `None` when the machine has ended.
    pub(crate) fn line(&mut self, deadline: Instant) -> Result<Option<String>> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                if self.show || line.starts_with(&self.say) {
                    println!("    | {line}");
                }
                self.said.push_str(&line);
                self.said.push('\n');
                Ok(Some(line))
            }
            Err(Disconnected) => Ok(None),
            Err(Timeout) => bail!(TookTooLong),
        }
    }

    /// All that was read.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }
}

/// Reads `from` until it ends, and sends each line, what is behind the last one too.
fn send_lines(mut from: impl Read, lines: &Sender<String>) {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        for byte in buffer.iter().take(read) {
            match byte {
                b'\n' => {
                    if lines.send(clean(&line)).is_err() {
                        return;
                    }
                    line.clear();
                }
                byte => line.push(*byte),
            }
        }
    }
    if !line.is_empty() {
        // It fails where the console is read no more.
        let _ = lines.send(clean(&line));
    }
}

/// A line without what moves a terminal's cursor or sets its colours.
fn clean(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let (mut text, mut chars) = (String::new(), line.chars());
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // A control sequence ends with a letter.
            let _ = chars.by_ref().find(char::is_ascii_alphabetic);
        } else if !c.is_control() || c == '\t' {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_come_without_control_sequences_and_then_the_end() {
        let mut console = Console::new(
            [Cursor::new("\x1b[2J\x1b[1;31mred\x1b[0m\r\nplain\r\nrest")],
            "red",
            false,
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut next = || console.line(deadline).unwrap();
        assert_eq!(next().as_deref(), Some("red"));
        assert_eq!(next().as_deref(), Some("plain"));
        assert_eq!(next().as_deref(), Some("rest"));
        assert_eq!(next(), None);
        assert_eq!(console.said(), "red\nplain\nrest\n");
    }

    #[test]
    fn a_line_is_whole_whatever_comes_on_another_meanwhile() {
        let (kernel, mut says) = std::io::pipe().unwrap();
        let (process, mut prints) = std::io::pipe().unwrap();
        let mut console = Console::new([kernel, process], "none", false);
        let deadline = Instant::now() + Duration::from_secs(60);
        prints.write_all(b"one and ").unwrap();
        says.write_all(b"[ 1.0] tsc: refined\n").unwrap();
        assert_eq!(console.line(deadline).unwrap().as_deref(), Some("[ 1.0] tsc: refined"));
        prints.write_all(b"the same\n").unwrap();
        assert_eq!(console.line(deadline).unwrap().as_deref(), Some("one and the same"));
        drop((says, prints));
        assert_eq!(console.line(deadline).unwrap(), None);
    }
}
