//! Where things lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Returns the project's directory.
pub(crate) fn project() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the project")
}

/// Returns where cargo puts what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}
