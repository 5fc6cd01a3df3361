//! The module in Linux's own source, to be built in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xxhash_rust::xxh3::xxh3_128;

use crate::linux::kernel::Driver;

/// Where it lies in Linux's source.
const PLACE: &str = "drivers/heirloom";

/// What is added to files of Linux's.
const ADDED: [(&str, &str); 2] = [
    ("drivers/Makefile", "\nobj-y += heirloom/\n"),
    ("drivers/Kconfig", "\nsource \"drivers/heirloom/Kconfig\"\n"),
];

/// What it is made from, in the project.
const SOURCES: [&str; 8] =
    ["linux/module", "capi", "src", "restore/src", "slab/src", "folio/src", "kho/src", "*Cargo.*"];

/// The project as it is now.
pub(super) struct Tree {
    root: PathBuf,
    identity: String,
}

impl Tree {
    /// Looks at the files that the module is made from: those that git knows.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
        let listed = git.args(SOURCES).output()?;
        ensure!(listed.status.success(), "git ls-files ended with {}", listed.status);
        let listed = String::from_utf8(listed.stdout).context("names of files are text")?;
        let mut lines = Vec::new();
        for name in listed.lines() {
            // One that is deleted is listed still.
            if let Ok(bytes) = fs::read(root.join(name)) {
                lines.push(format!("{:032x}  {name}\n", xxh3_128(&bytes)));
            }
        }
        Ok(Self { root: root.to_owned(), identity: lines.concat() })
    }
}

impl Driver for Tree {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn add(&self, tree: &Path) -> Result<()> {
        let place = tree.join(PLACE);
        copy(&self.root.join("linux/module"), &place)?;
        // There, Kbuild cannot know where the project is.
        let kbuild = place.join("Kbuild");
        let root = format!("export HEIRLOOM_ROOT := {}\n", self.root.display());
        fs::write(&kbuild, root + &fs::read_to_string(&kbuild)?)?;
        for (name, text) in ADDED {
            let path = tree.join(name);
            let mut file = fs::read_to_string(&path).with_context(|| name.to_owned())?;
            file += text;
            fs::write(path, file)?;
        }
        Ok(())
    }
}

/// Copies a directory's files, but for hidden ones.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_the_module_and_leads_to_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project");
        let linux = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(linux.path().join("drivers")).expect("made");
        for (name, _) in ADDED {
            fs::write(linux.path().join(name), "menu\n").expect("written");
        }
        let tree = Tree::new(root).expect("the project's files");
        tree.add(linux.path()).expect("added");
        let read = |name: &str| fs::read_to_string(linux.path().join(name)).expect(name);
        assert!(read("drivers/heirloom/Kbuild").starts_with("export HEIRLOOM_ROOT := /"));
        assert!(read("drivers/heirloom/test/heirloom_test.c").contains("subsystem"));
        assert!(read("drivers/heirloom/Kconfig").contains("config HEIRLOOM"));
        assert!(read("drivers/Makefile").ends_with("obj-y += heirloom/\n"));
        assert!(tree.identity().contains("  linux/module/main.c\n"));
        assert!(tree.identity().contains("  slab/src/"));
    }
}
