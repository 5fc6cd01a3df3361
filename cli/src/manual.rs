//! The command's manual and completions, made from its own arguments.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

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
    let mut out = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut out)?;
    Ok(out)
}

/// Writes the pages of the command and of each of its parts into `dir`. `true`, as for printing.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn pages(dir: &Path) -> Result<bool> {
    let at = || dir.display().to_string();
    std::fs::create_dir_all(dir).with_context(at)?;
    clap_mangen::generate_to(Arguments::command(), dir).with_context(at)?;
    Ok(true)
}
