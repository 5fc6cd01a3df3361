//! What takes minutes to build, kept under a hash of what it is built from.
//!
//! ```text
//! ~/.cache/heirloom/linux-9f2c…/   bzImage  System.map  config
//!                                  manifest: hash of the inputs, then of each file
//! ```
//!
//! A directory appears under its name when it is whole, by `rename`, so that several runs may build
//! the same at once. What is there is used only where its manifest is that of these inputs and of the
//! files as they are: what was cut short, changed or built from something else is built anew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// The file that says what a directory was built from, and what it held then.
const MANIFEST: &str = "manifest";

/// The place of one build among those that are kept.
pub(crate) struct Store {
    cache: PathBuf,
    inputs: String,
}

impl Store {
    /// A store below `cache` for what is built from `inputs`.
    pub(crate) fn new(cache: PathBuf, inputs: String) -> Self {
        Self { cache, inputs }
    }

    fn place(&self) -> PathBuf {
        self.cache.join(format!("linux-{:032x}", xxh3_128(self.inputs.as_bytes())))
    }

    /// Returns the directory of the build, if it was kept and is as it was.
    pub(crate) fn get(&self) -> Option<PathBuf> {
        let place = self.place();
        let kept = fs::read_to_string(place.join(MANIFEST)).ok()?;
        (self.manifest(&place).ok()? == kept).then_some(place)
    }

    /// Keeps what `fill` writes into an empty directory, and returns where it is kept.
    pub(crate) fn put(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        fs::create_dir_all(&self.cache).with_context(|| self.cache.display().to_string())?;
        let near = || tempfile::Builder::new().prefix("fresh-").tempdir_in(&self.cache);
        let fresh = near()?;
        fill(fresh.path())?;
        fs::write(fresh.path().join(MANIFEST), self.manifest(fresh.path())?)?;
        let place = self.place();
        while let Err(error) = fs::rename(fresh.path(), &place) {
            // Another run was faster; or what is there cannot be used, and makes room.
            if let Some(kept) = self.get() {
                return Ok(kept);
            }
            let aside = near()?;
            fs::rename(&place, aside.path().join("broken"))
                .with_context(|| format!("{}: {error}", place.display()))?;
        }
        Ok(place)
    }

    /// Returns what the manifest of `directory` has to say.
    fn manifest(&self, directory: &Path) -> Result<String> {
        let mut lines = vec![format!("{:032x}  inputs", xxh3_128(self.inputs.as_bytes()))];
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name != MANIFEST {
                lines.push(format!("{:016x}  {name}", xxh3_64(&fs::read(&path)?)));
            }
        }
        lines[1..].sort();
        Ok(lines.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(content: &str) -> impl FnOnce(&Path) -> Result<()> {
        move |fresh| Ok(fs::write(fresh.join("bzImage"), content)?)
    }

    fn image(kept: &Path) -> String {
        fs::read_to_string(kept.join("bzImage")).expect("an image")
    }

    #[test]
    fn what_was_kept_is_found_by_its_inputs_alone() {
        let cache = tempfile::tempdir().expect("a directory");
        let store = |inputs: &str| Store::new(cache.path().join("new"), inputs.into());
        assert_eq!(store("a").get(), None);
        let kept = store("a").put(filled("image of a")).expect("kept");
        assert_eq!(image(&kept), "image of a");
        assert_eq!(store("a").get(), Some(kept.clone()));
        assert_eq!(store("b").get(), None);
        // Not even under the other's name.
        fs::rename(&kept, store("b").place()).expect("moved");
        assert_eq!(store("b").get(), None);
    }

    #[test]
    fn what_was_changed_is_replaced() {
        let cache = tempfile::tempdir().expect("a directory");
        let store = Store::new(cache.path().into(), "a".into());
        let damages: [fn(&Path); 4] = [
            |kept| fs::write(kept.join("bzImage"), "imag").expect("cut short"),
            |kept| fs::remove_file(kept.join("bzImage")).expect("gone"),
            |kept| fs::remove_file(kept.join(MANIFEST)).expect("gone"),
            |kept| fs::write(kept.join("another"), "").expect("added"),
        ];
        for damage in damages {
            damage(&store.put(filled("image")).expect("kept"));
            assert_eq!(store.get(), None);
            let kept = store.put(filled("again")).expect("kept");
            assert_eq!(image(&kept), "again");
            assert_eq!(store.get(), Some(kept.clone()));
            fs::remove_dir_all(kept).expect("removed");
        }
    }

    #[test]
    fn a_build_that_fails_leaves_nothing() {
        let cache = tempfile::tempdir().expect("a directory");
        let store = Store::new(cache.path().into(), "a".into());
        store.put(|_| anyhow::bail!("no source")).expect_err("the failure");
        assert_eq!(store.get(), None);
        assert_eq!(fs::read_dir(cache.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn of_two_runs_at_once_one_is_kept_and_both_have_it() {
        let cache = tempfile::tempdir().expect("a directory");
        let store = Store::new(cache.path().into(), "a".into());
        let kept = store.put(|fresh| {
            store.put(filled("faster")).expect("kept");
            filled("slower")(fresh)
        });
        assert_eq!(image(&kept.expect("kept")), "faster");
        assert_eq!(fs::read_dir(cache.path()).expect("a directory").count(), 1);
    }
}
