//! What the fuzzers found worth keeping, and everything that ever was at fault, once more: on the
//! stable toolchain, on a small stack.

use std::path::{Path, PathBuf};

use heirloom_verify::hostile::{TARGETS, Target};

/// A revive, and all that follows, needs no more than this.
const STACK: usize = 256 << 10;

/// Says which file it was.
struct Culprit(PathBuf);

impl Drop for Culprit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {}", self.0.display());
        }
    }
}

/// Runs every file of a target's corpus, and of what once was a crash.
fn replay(target: &Target) -> usize {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut count = 0;
    for kind in ["corpus", "crashes"] {
        let Ok(dir) = fuzz.join(kind).join(target.name).read_dir() else { continue };
        let mut files: Vec<_> = dir.map(|file| file.unwrap().path()).collect();
        files.sort_unstable();
        for file in files {
            let file = Culprit(file);
            (target.run)(&std::fs::read(&file.0).unwrap());
            count += 1;
        }
    }
    count
}

#[test]
fn every_file_of_every_corpus_keeps_the_contract() {
    let (mut files, mut threads) = (0, Vec::new());
    for target in TARGETS {
        let thread = std::thread::Builder::new().stack_size(STACK).name(target.name.to_owned());
        threads.push(thread.spawn(move || replay(target)).unwrap());
    }
    for (thread, target) in threads.into_iter().zip(TARGETS) {
        let count = thread.join().unwrap_or_else(|_| panic!("target {}", target.name));
        files += count;
    }
    println!("corpus: {files} files, {} targets, {STACK} bytes of stack", TARGETS.len());
}

#[test]
fn numbers_that_look_random_keep_the_contract() {
    let mut state = 0x6865_6972_6c6f_6f6d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for target in TARGETS {
        for _ in 0..60 {
            let bytes: Vec<u8> = (0..8 + next() % 32).flat_map(|_| next().to_le_bytes()).collect();
            (target.run)(&bytes);
        }
    }
}
