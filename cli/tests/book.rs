//! The book's chapter shows what the command prints.
//!
//! Each `console` block of the chapter is run: lines that start with `$` are commands, the rest is
//! what they print. With `HEIRLOOM_BLESS=1` in the environment the chapter and its picture are
//! written anew instead.

mod common;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Core, FIXTURE, LENT, Temporary};

const CHAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/looking-inside.md");
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/images/linux-handover.svg");

/// A directory with the images that the chapter looks at.
fn images(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::copy(FIXTURE, dir.join("vmcore")).unwrap();
    let mut core = Core::fixture();
    let list = core.word(core.word(0x7b_5000 + 32) + 8);
    core.put(list + 16 * 3, &(0x600 | 3_u64 << 52).to_le_bytes());
    core.put(0x58_4000, b"x");
    fs::write(dir.join("damaged"), &core.0).unwrap();
    fs::copy(LENT, dir.join("lent")).unwrap();
}

/// What a shell prints for `command`, and its status; `status` is that of the command before.
fn shell(dir: &Path, command: &str, status: i32) -> (String, i32) {
    let bin = Path::new(env!("CARGO_BIN_EXE_heirloom")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let ran = Command::new("sh")
        .args(["-c", &format!("(exit {status}); {command}")])
        .current_dir(dir)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    (String::from_utf8(said).unwrap(), ran.status.code().unwrap())
}

/// The chapter with the output of every command as it is now.
fn chapter(dir: &Path, old: &str) -> String {
    let mut new = String::new();
    let (mut console, mut status) = (false, 0);
    for line in old.lines() {
        if line.starts_with("```") {
            console = line == "```console";
        }
        match line.strip_prefix("$ ").filter(|_| console) {
            Some(command) => {
                let said;
                (said, status) = shell(dir, command, status);
                write!(new, "{line}\n{said}").unwrap();
            }
            None if console && line != "```console" => {}
            None => writeln!(new, "{line}").unwrap(),
        }
    }
    new
}

#[test]
fn the_chapter_shows_what_the_command_prints() {
    let place = Temporary::path();
    let dir = Path::new(place.as_str());
    images(dir);
    let old = fs::read_to_string(CHAPTER).unwrap();
    let new = chapter(dir, &old);
    let picture = fs::read_to_string(dir.join("handover.svg")).unwrap();
    fs::remove_dir_all(dir).unwrap();
    if std::env::var_os("HEIRLOOM_BLESS").is_some() {
        fs::write(CHAPTER, &new).unwrap();
        fs::write(PICTURE, &picture).unwrap();
    }
    let commands = new.lines().filter(|line| line.starts_with("$ heirloom")).count();
    assert!(commands >= 8, "{commands} commands");
    assert_eq!(fs::read_to_string(CHAPTER).unwrap(), new);
    assert_eq!(fs::read_to_string(PICTURE).unwrap(), picture);
}
