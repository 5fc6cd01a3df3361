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
    Ok(joined(&String::from_utf8(text)?.replace(" * # Safety\n", " * Safety:\n")))
}

/// The text with one condition around neighbours that each have the same around them.
fn joined(text: &str) -> String {
    let mut joined = String::new();
    let (mut open, mut lines) = (None, text.lines().peekable());
    while let Some(line) = lines.next() {
        if line == "#endif" && lines.peek() == Some(&"") {
            lines.next();
            if open.is_some() && lines.peek().copied() == open {
                lines.next();
                joined.push('\n');
                continue;
            }
            open = None;
            joined.push_str("#endif\n\n");
            continue;
        }
        if line.starts_with("#if") {
            open = Some(line);
        }
        joined.push_str(line);
        joined.push('\n');
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_under_one_condition_have_it_once() {
        let each = "#if A\na\n#endif\n\n#if A\nb\n#endif\n\n#if !A\nc\n#endif\n\nd\n";
        assert_eq!(joined(each), "#if A\na\n\nb\n#endif\n\n#if !A\nc\n#endif\n\nd\n");
        let apart = "#if A\na\n#endif\n\nb\n\n#if A\nc\n#endif\n\n";
        assert_eq!(joined(apart), apart);
    }
}
