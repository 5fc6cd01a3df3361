//! The command's manual and completions, made from its own arguments.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::arguments::Arguments;

/// The completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "heirloom", &mut out);
    out
}

/// The manual page of the command, in roff.
///
/// # Errors
/// None that writing to memory has.
pub(crate) fn page() -> Result<Vec<u8>> {
    render(&command(), &command())
}

/// Writes the pages of the command and of each of its parts into `dir`. `true`, as for printing.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn pages(dir: &Path) -> Result<bool> {
    let at = || dir.display().to_string();
    std::fs::create_dir_all(dir).with_context(at)?;
    let whole = command();
    for of in std::iter::once(&whole).chain(whole.get_subcommands()) {
        let path = dir.join(format!("{}.1", name(of)));
        let page = render(of, &whole)?;
        std::fs::write(&path, page).with_context(|| path.display().to_string())?;
    }
    Ok(true)
}

/// The command, with all that its parts inherit.
fn command() -> clap::Command {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

/// What a page is called: `heirloom-check`.
fn name(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// The page of a command, which is `whole` or a part of it. What stands behind its options is in sections of its own, where
/// readers of manuals look for them.
fn render(command: &clap::Command, whole: &clap::Command) -> Result<Vec<u8>> {
    let version = command.get_version().unwrap_or_default();
    let man = Man::new(command.clone()).source(format!("{} {version}", whole.get_name()));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let behind = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for part in behind.split("\n\n") {
        section(&mut out, part)?;
    }
    let others = std::iter::once(whole).chain(whole.get_subcommands());
    // The first has all parts, each of which has it.
    let others = others
        .filter(|of| name(of) != name(command))
        .filter(|of| name(command) == whole.get_name() || name(of) == whole.get_name());
    let others: Vec<_> = others.map(|of| format!("\\fB{}\\fR(1)", escaped(name(of)))).collect();
    writeln!(out, ".SH \"SEE ALSO\"\n{}", others.join(", "))?;
    Ok(out)
}

/// Writes a paragraph of what stands behind a command's options as a section.
fn section(out: &mut Vec<u8>, text: &str) -> Result<()> {
    const STATUS: &str = "Exit status: ";
    const EXAMPLES: &str = "Examples:\n";
    if let Some(status) = text.strip_prefix(STATUS) {
        writeln!(out, ".SH \"EXIT STATUS\"\n{}", escaped(status))?;
    } else if let Some(examples) = text.strip_prefix(EXAMPLES) {
        // As they are, line by line.
        writeln!(out, ".SH EXAMPLES\n.nf\n{}\n.fi", escaped(examples))?;
    } else {
        writeln!(out, ".SH NOTES\n{}", escaped(text))?;
    }
    Ok(())
}

/// A text in roff, to which a backslash, a hyphen, and a dot or a quote at the start of a line are more than that.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        let is_control = line.starts_with('.');
        // Writing to a string does not fail.
        let _ = writeln!(out, "{}{line}", if is_control { "\\&" } else { "" });
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_to_roff_than_a_letter_is_escaped() {
        assert_eq!(escaped("a-b\n.SH\n'c' \\d"), "a\\-b\n\\&.SH\n\\(aqc\\(aq \\ed");
    }
}
