//! To the terminal, or to the program that reads instead. A reader that reads no further has seen
//! enough: that is no error, and changes nothing about the exit status.

use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use clap::ColorChoice;
use serde::Serialize;

/// A heading.
pub(crate) const HEAD: Style = Style::new().bold().underline();
/// What stands out.
pub(crate) const STRONG: Style = Style::new().bold();
/// What is there for completeness.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// A name that a user or an owner gave.
pub(crate) const NAME: Style = AnsiColor::Cyan.on_default();
/// In order.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Not known to be in order.
pub(crate) const UNSURE: Style = AnsiColor::Yellow.on_default();
/// Not in order.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Prints text that has styles in it.
pub(crate) fn text(text: &str, color: ColorChoice) -> Result<()> {
    let choice = match color {
        ColorChoice::Auto => AutoStream::choice(&io::stdout()),
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    let mut out = AutoStream::new(io::stdout().lock(), choice);
    seen(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    seen(written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()))
}

/// Lines that are printed as they come, as there may be any number of them.
pub(crate) struct Lines(io::BufWriter<io::StdoutLock<'static>>);

impl Lines {
    pub(crate) fn new() -> Self {
        Self(io::BufWriter::new(io::stdout().lock()))
    }

    /// Prints a line. Returns whether there is a reader for more.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn line(&mut self, line: &str) -> Result<bool> {
        match writeln!(self.0, "{line}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).context("cannot write the output"),
        }
    }

    /// Prints what was not yet.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn finish(mut self) -> Result<()> {
        seen(self.0.flush())
    }
}

/// Prints bytes as they are. `true`, as there is nothing that could be found wrong with them.
pub(crate) fn bytes(bytes: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    seen(out.write_all(bytes).and_then(|()| out.flush()))?;
    Ok(true)
}

/// Returns the result of writing, where a reader that has gone is no error.
fn seen(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(()),
    }
}
