//! A life: a kernel, its modules, and what they are told. Each has the next within.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::build::{Build, Builder, Which};
use crate::linux::initramfs::Initramfs;

/// What each kernel is told first.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 kho=on";

/// What a kernel that checks itself has to begin with in the next life: a page for eight of memory, and some.
/// Linux, not told, sets so much aside more than once.
const SCRATCH: &str = "kho_scratch=16M,16M,640M";

/// What a life is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) kernel: Which,
    pub(super) build: Build,
    /// How many CPUs the kernel uses; 0: all.
    pub(super) cpus: u32,
    /// Parameters of the module, with blanks between them.
    pub(super) module: String,
    /// Parameters of the second module.
    pub(super) test: String,
    /// Whether that is the one that counts instructions.
    pub(super) counts: bool,
}

impl Wish {
    /// A life as any other, with parameters of the subsystem's.
    pub(super) fn plain(test: impl Into<String>) -> Self {
        Self {
            kernel: Which::Plain,
            build: Build::Product,
            cpus: 0,
            module: String::new(),
            test: test.into(),
            counts: false,
        }
    }

    /// Returns the kernel's command line.
    pub(super) fn command_line(&self) -> String {
        let mut words = vec![COMMAND_LINE.to_owned()];
        if self.cpus > 0 {
            words.push(format!("nr_cpus={}", self.cpus));
        }
        if self.kernel == Which::Checked {
            words.push(SCRATCH.to_owned());
        }
        if self.kernel == Which::BuiltIn {
            for (name, given) in [("heirloom", &self.module), ("heirloom_test", &self.test)] {
                words.extend(given.split_whitespace().map(|word| format!("{name}.{word}")));
            }
        } else {
            let given = [("MODULE", &self.module), ("TEST", &self.test)];
            let given = given.iter().filter(|(_, given)| !given.is_empty());
            words.extend(given.map(|(name, given)| format!("{name}={}", given.replace(' ', ","))));
        }
        words.join(" ")
    }

    /// Builds what it needs.
    pub(super) fn build(&self, builder: &Builder<'_>) -> Result<Life> {
        let image = builder.kernel(self.kernel)?.image.clone();
        let mut modules = Vec::new();
        if let Some(built) = builder.modules(self.kernel, self.build)? {
            modules.push(("heirloom.ko", built.heirloom.clone()));
            modules.push(if self.counts {
                ("heirloom_bench.ko", built.bench.clone())
            } else {
                ("heirloom_test.ko", built.test.clone())
            });
        }
        Ok(Life { image, modules, command_line: self.command_line() })
    }
}

/// A life whose parts are built.
pub(super) struct Life {
    image: PathBuf,
    modules: Vec<(&'static str, PathBuf)>,
    command_line: String,
}

/// Packs lives into one another. Returns the first one's kernel, initramfs and command line.
pub(super) fn nest(lives: &[Life], init: &[u8]) -> Result<(PathBuf, Vec<u8>, String)> {
    let mut next: Option<(&Life, Vec<u8>)> = None;
    for life in lives.iter().rev() {
        let mut packed = Initramfs::new();
        packed.terminals();
        for directory in ["proc", "sys"] {
            packed.directory(directory);
        }
        packed.file("init", 0o755, init);
        for (name, path) in &life.modules {
            packed.file(name, 0o644, &fs::read(path).with_context(|| path.display().to_string())?);
        }
        if let Some((after, initramfs)) = next {
            packed.directory("next");
            packed.file("next/kernel", 0o644, &fs::read(&after.image)?);
            packed.file("next/initramfs", 0o644, &initramfs);
            packed.file("next/command-line", 0o644, after.command_line.as_bytes());
        }
        next = Some((life, packed.finish()));
    }
    let (first, initramfs) = next.context("a scenario has a life")?;
    Ok((first.image.clone(), initramfs, first.command_line.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_given_as_the_kernel_takes_them() {
        let mut wish = Wish::plain("lives=3 sessions=10");
        wish.cpus = 2;
        assert_eq!(
            wish.command_line(),
            "console=ttyS0 panic=-1 kho=on nr_cpus=2 TEST=lives=3,sessions=10"
        );
        wish.kernel = Which::BuiltIn;
        wish.module = "first_mb=2".into();
        assert!(wish.command_line().ends_with(
            " nr_cpus=2 heirloom.first_mb=2 heirloom_test.lives=3 heirloom_test.sessions=10"
        ));
    }

    #[test]
    fn each_life_has_the_next_within() {
        let dir = tempfile::tempdir().expect("a directory");
        let life = |name: &str| {
            let image = dir.path().join(name);
            fs::write(&image, format!("kernel {name}")).expect("written");
            Life { image, modules: Vec::new(), command_line: format!("line {name}") }
        };
        let (image, packed, told) =
            nest(&[life("a"), life("b"), life("c")], b"init").expect("packed");
        assert_eq!((image.file_name().unwrap().to_str(), told.as_str()), (Some("a"), "line a"));
        let text = String::from_utf8_lossy(&packed);
        assert_eq!(text.matches("next/kernel\0").count(), 2);
        assert!(
            text.contains("kernel b") && text.contains("kernel c") && !text.contains("kernel a")
        );
        assert!(text.contains("line b") && text.contains("line c") && !text.contains("line a"));
    }
}
