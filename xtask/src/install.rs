//! `cargo xtask install`: heirloom for C, built optimised and put where a C compiler finds it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Build heirloom for C, and install the libraries, the header and what pkg-config reads.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where: `lib`, `include` and `lib/pkgconfig` are below. `DESTDIR` of the environment is put before it.
    #[arg(long, value_name = "DIR")]
    prefix: PathBuf,
    /// The flavour for kernels instead, a static library without std, for this target.
    #[arg(long, value_name = "TARGET")]
    kernel: Option<String>,
}

/// The number in the shared library's name: programs that were linked to one with another do not run with it.
const ABI: &str = "0";

/// What the static library needs beside the C library itself, as rustc's `native-static-libs` has it for Linux.
const PRIVATE: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let prefix = std::path::absolute(&arguments.prefix)?;
    let into = match std::env::var_os("DESTDIR") {
        Some(above) => Path::new(&above).join(prefix.strip_prefix("/").unwrap_or(&prefix)),
        None => prefix.clone(),
    };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let built = build(root, arguments.kernel.as_deref(), &target)?;
    let (lib, include) = (into.join("lib"), into.join("include"));
    fs::create_dir_all(&lib)?;
    fs::create_dir_all(&include)?;
    copy(&root.join("capi/include/heirloom.h"), &include.join("heirloom.h"))?;
    copy(&built.join("libheirloom_capi.a"), &lib.join("libheirloom.a"))?;
    if arguments.kernel.is_none() {
        copy(&root.join("capi/include/heirloom.hpp"), &include.join("heirloom.hpp"))?;
        let version = env!("CARGO_PKG_VERSION");
        let (full, abi) = (format!("libheirloom.so.{version}"), format!("libheirloom.so.{ABI}"));
        copy(&built.join("libheirloom_capi.so"), &lib.join(&full))?;
        link(&full, &lib.join(&abi))?;
        link(&abi, &lib.join("libheirloom.so"))?;
        fs::create_dir_all(lib.join("pkgconfig"))?;
        let path = lib.join("pkgconfig/heirloom.pc");
        fs::write(&path, pkg_config(&prefix)?).with_context(|| path.display().to_string())?;
    }
    println!("heirloom for C is in {}", into.display());
    Ok(())
}

/// Builds the libraries. Returns the directory that they are in.
fn build(root: &Path, kernel: Option<&str>, target: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["rustc", "-p", "heirloom-capi", "--lib", "--release", "--target-dir"]).arg(target);
    let mut built = target.to_owned();
    if let Some(kernel) = kernel {
        // A kernel does not unwind.
        cargo.args(["--no-default-features", "--crate-type", "staticlib", "--target", kernel]);
        cargo.env("CARGO_PROFILE_RELEASE_PANIC", "abort");
        // A target file has the name that its directory has.
        built.push(Path::new(kernel).file_stem().context("a target has a name")?);
    } else {
        let name = format!("link-arg=-Wl,-soname,libheirloom.so.{ABI}");
        cargo.args(["--crate-type", "staticlib,cdylib", "--", "-C", &name]);
    }
    let status = cargo.current_dir(root).status().context("cargo rustc")?;
    if !status.success() {
        bail!("{cargo:?}: {status}");
    }
    Ok(built.join("release"))
}

/// What pkg-config is told.
fn pkg_config(prefix: &Path) -> Result<String> {
    let prefix = prefix.to_str().context("a prefix in UTF-8")?;
    let (version, about) =
        (env!("CARGO_PKG_VERSION"), "A preservation allocator: memory that outlives its kernel");
    Ok(format!(
        "prefix={prefix}\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\n\
         Name: heirloom\nDescription: {about}\nVersion: {version}\n\
         Libs: -L${{libdir}} -lheirloom\nLibs.private: {PRIVATE}\nCflags: -I${{includedir}}\n"
    ))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Makes `at` lead to a file beside it.
fn link(to: &str, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    symlink(to, at).with_context(|| at.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pkg_config_is_told_has_the_prefix_once() {
        let told = pkg_config(Path::new("/opt/heirloom")).unwrap();
        assert_eq!(told.matches("/opt/heirloom").count(), 1);
        assert!(told.contains("\nLibs: -L${libdir} -lheirloom\n"), "{told}");
        assert!(told.contains("\nCflags: -I${includedir}\n"), "{told}");
    }
}
