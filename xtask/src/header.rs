//! `cargo xtask header`: the C header of heirloom, made from the functions that have C's interface.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Write capi/include/heirloom.h: what heirloom offers to C.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail if the header is not what would be written.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let header = made(&root.join("capi"))?;
    let path = root.join("capi/include/heirloom.h");
    if !arguments.check {
        return std::fs::write(&path, header).with_context(|| path.display().to_string());
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = kept.lines().zip(header.lines()).enumerate();
    if kept != header {
        let place = lines.find(|(_, (kept, made))| kept != made);
        let (line, made) = place.map_or((0, ""), |(line, (_, made))| (line + 1, made));
        bail!(
            "capi/include/heirloom.h is not current: line {line} would be {made:?}\n`cargo xtask header` writes it anew"
        );
    }
    println!("header: {} lines, as in capi/include/heirloom.h", header.lines().count());
    Ok(())
}

/// The header of the crate in a directory.
fn made(directory: &Path) -> Result<String> {
    let config = cbindgen::Config::from_file(directory.join("cbindgen.toml"));
    let config = config.map_err(|error| anyhow::anyhow!("cbindgen.toml: {error}"))?;
    let bindings = cbindgen::Builder::new().with_crate(directory).with_config(config).generate();
    let mut text = Vec::new();
    bindings.context("cbindgen")?.write(&mut text);
    // Headings as a reader of C knows them.
    Ok(String::from_utf8(text)?.replace(" * # Safety\n", " * Safety:\n"))
}
