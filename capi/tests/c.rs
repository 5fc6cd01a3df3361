//! The programs in C: built against the header and the library as they are, and run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Both flavours are built in one place, one after the other.
static BUILDING: Mutex<()> = Mutex::new(());

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A flavour's static library, built as `cargo xtask install` builds it, but unoptimised.
fn library(flavour: &str, cargo: &[&str], rustc: &[&str]) -> PathBuf {
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    // Beside the tests' own: most of it is built already.
    let target = scratch("..");
    let mut command = Command::new(env!("CARGO"));
    command.args(["rustc", "--quiet", "-p", "heirloom-capi", "--lib", "--crate-type", "staticlib"]);
    command.arg("--target-dir").arg(&target).args(cargo).arg("--").args(rustc).current_dir(HERE);
    // What a checker of the test's own build adds is not the library's.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut command);
    let library = scratch(&format!("lib{flavour}.a"));
    std::fs::copy(target.join("debug/libheirloom_capi.a"), &library).expect("the library is there");
    library
}

fn hosted() -> &'static Path {
    static HOSTED: OnceLock<PathBuf> = OnceLock::new();
    HOSTED.get_or_init(|| library("hosted", &[], &[]))
}

/// The compiler of a source, with what it is asked to refuse.
fn cc(source: &Path) -> Command {
    let (variable, usual, standard) = match source.extension() {
        Some(extension) if extension == "cpp" => ("CXX", "c++", "-std=c++17"),
        _ => ("CC", "cc", "-std=c11"),
    };
    let mut cc = Command::new(std::env::var_os(variable).unwrap_or_else(|| usual.into()));
    cc.args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]);
    cc.arg("-I").arg(Path::new(HERE).join("include"));
    cc
}

/// Builds a program. It is named after the test that runs it.
fn program(name: &str, source: &str, library: &Path, flags: &[&str]) -> PathBuf {
    let (program, source) = (scratch(name), Path::new(HERE).join(source));
    run(cc(&source)
        .args(flags)
        .arg(&source)
        .arg(library)
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&program));
    program
}

/// Whether the C compiler has the address sanitizer, to be linked and run.
fn has_asan() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let (source, probe) = (scratch("probe.c"), scratch("probe"));
        std::fs::write(&source, "int main(void) { return 0; }\n").expect("a file can be written");
        let built =
            cc(&source).arg("-fsanitize=address").arg(&source).arg("-o").arg(&probe).output();
        built.is_ok_and(|built| built.status.success())
            && Command::new(&probe).output().is_ok_and(|ran| ran.status.success())
    })
}

/// Runs a program, and once more with the address sanitizer in it.
fn passes(name: &str, source: &str, library: &Path, flags: &[&str]) {
    run(&mut Command::new(program(name, source, library, flags)));
    if has_asan() {
        let flags: Vec<&str> = flags.iter().copied().chain(["-fsanitize=address"]).collect();
        run(&mut Command::new(program(&format!("{name}-asan"), source, library, &flags)));
    } else {
        println!("SKIPPED: {name} under the address sanitizer, which the C compiler has not");
    }
}

#[test]
fn buffers_and_objects_live_on_in_two_successors() {
    passes("life", "tests/c/life.c", hosted(), &[]);
}

#[test]
fn each_mistake_is_named() {
    passes("misuse", "tests/c/misuse.c", hosted(), &[]);
}

#[test]
fn a_kernel_boots_grows_and_revives() {
    let library = library("kernel", &["--no-default-features"], &["-C", "panic=abort"]);
    passes("kernel", "tests/c/kernel.c", &library, &["-DHEIRLOOM_KERNEL"]);
}

fn hands_over(name: &str, source: &str) {
    let program = program(name, source, hosted(), &[]);
    let told = String::from_utf8(run(&mut Command::new(program)).stdout).expect("text");
    let lives: Vec<&str> = told.lines().collect();
    assert_eq!(lives.len(), 4, "{told}");
    assert_eq!(lives[0], "life 0: [written by life 0]");
    assert_eq!(lives[2], "life 2: [written by life 2] [written by life 1] [written by life 0]");
}

#[test]
fn the_example_hands_over() {
    hands_over("handover", "examples/handover.c");
}

#[test]
fn the_example_is_short() {
    let text = include_str!("../examples/handover.c");
    assert!(text.lines().count() <= 100);
}

#[test]
fn the_example_in_c_plus_plus_hands_over() {
    if has_cxx() {
        hands_over("handover-cpp", "examples/handover.cpp");
    }
}

/// Whether there is a compiler for C++.
fn has_cxx() -> bool {
    let has = Command::new("c++").arg("--version").output().is_ok_and(|it| it.status.success());
    if !has {
        println!("SKIPPED: C++, for which there is no compiler");
    }
    has
}

#[test]
fn objects_of_c_plus_plus_live_on_in_two_successors() {
    if has_cxx() {
        passes("life-cpp", "tests/c/life.cpp", hosted(), &[]);
    }
}

#[test]
fn the_header_is_one_for_c_plus_plus_too() {
    if !has_cxx() {
        return;
    }
    for flavour in [&[][..], &["-DHEIRLOOM_KERNEL"]] {
        run(Command::new("c++")
            .args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++"])
            .args(flavour)
            .arg(Path::new(HERE).join("include/heirloom.h")));
    }
}
