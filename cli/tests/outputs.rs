//! Where the command writes: whole files or none, and nothing lost that was there.

mod common;

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use common::{Core, FIXTURE, Ran, Temporary, heirloom};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A directory of the test's own, removed with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path = PathBuf::from(Temporary::path().as_str());
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().map(Result::unwrap);
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn extract(image: &Path, token: &str, to: &Path) -> Ran {
    let (image, to) = (image.to_str().unwrap(), to.to_str().unwrap());
    heirloom(&["extract", image, "session-0", token, "-o", to])
}

/// What the fixture's file has.
fn content(token: &str) -> Vec<u8> {
    let dir = Dir::new();
    assert_eq!(extract(FIXTURE.as_ref(), token, &dir.at("whole")).code, 0);
    fs::read(dir.at("whole")).unwrap()
}

/// The fixture with a folio of file 0 that is not preserved.
fn damaged() -> Core {
    let mut core = Core::fixture();
    let list = core.word(core.word(0x7b_5000 + 32) + 8);
    core.put(list + 16 * 3, &(0x600 | 3_u64 << 52).to_le_bytes());
    core
}

#[test]
fn what_was_there_stays_until_the_new_file_is_whole() {
    let dir = Dir::new();
    let (image, to) = (dir.at("image"), dir.at("precious"));
    fs::write(&image, damaged().0).unwrap();
    fs::write(&to, b"precious").unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(extract(&image, "0", &to).code, 2);
    assert_eq!(extract(&image, "7", &to).code, 2);
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    // A size that no file has is told before anything is written.
    let mut large = Core::fixture();
    large.put(0x7b_5000 + 8, &u64::MAX.to_le_bytes());
    fs::write(&image, large.0).unwrap();
    let ran = extract(&image, "0", &to);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("18446744073709551615 bytes: no file can be"), "{}", ran.err);
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    // And one that is whole takes its place, as accessible as it was.
    assert_eq!(extract(&image, "1", &to).code, 0);
    assert_eq!(fs::read(&to).unwrap(), content("1"));
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(dir.names(), ["image", "precious"]);
}

#[test]
fn the_image_is_nobodys_output() {
    let dir = Dir::new();
    let image = dir.at("image");
    fs::copy(FIXTURE, &image).unwrap();
    let (hard, soft) = (dir.at("hard"), dir.at("soft"));
    fs::hard_link(&image, &hard).unwrap();
    symlink("image", &soft).unwrap();
    for to in [&image, &hard, &soft] {
        let ran = extract(&image, "0", to);
        assert_eq!(ran.code, 2);
        assert!(ran.err.ends_with(": this is the image itself\n"), "{}", ran.err);
        let (image, to) = (image.to_str().unwrap(), to.to_str().unwrap());
        let ran = heirloom(&["inspect", image, "--map", to]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.ends_with(": this is the image itself\n"), "{}", ran.err);
    }
    assert_eq!(fs::read(&image).unwrap(), Core::fixture().0);
    assert_eq!(dir.names(), ["hard", "image", "soft"]);
    assert_eq!(extract(&image, "0", &dir.0).code, 2);
}

#[test]
fn a_link_still_leads_where_it_led() {
    let dir = Dir::new();
    fs::write(dir.at("file"), b"old").unwrap();
    for (link, to) in [("one", "two"), ("two", "file"), ("dangling", "fresh")] {
        symlink(to, dir.at(link)).unwrap();
    }
    assert_eq!(extract(FIXTURE.as_ref(), "0", &dir.at("one")).code, 0);
    assert_eq!(extract(FIXTURE.as_ref(), "1", &dir.at("dangling")).code, 0);
    assert_eq!(fs::read(dir.at("file")).unwrap(), content("0"));
    assert_eq!(fs::read(dir.at("fresh")).unwrap(), content("1"));
    assert_eq!(fs::read_link(dir.at("one")).unwrap(), Path::new("two"));
    assert_eq!(dir.names(), ["dangling", "file", "fresh", "one", "two"]);
    symlink("endless", dir.at("endless")).unwrap();
    assert_eq!(extract(FIXTURE.as_ref(), "0", &dir.at("endless")).code, 2);
}

#[test]
fn a_pipe_gets_the_bytes_and_stays() {
    let dir = Dir::new();
    let (image, pipe) = (dir.at("image"), dir.at("pipe"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // The second file's folios 4 to 15 were never written.
    let mut core = Core::fixture();
    let list = core.word(core.word(0x71_8000 + 32) + 8);
    for i in 4..16 {
        let entry = core.word(list + i * 16);
        core.put(list + i * 16, &(entry & !(2 << 52)).to_le_bytes());
    }
    fs::write(&image, core.0).unwrap();
    let from = pipe.clone();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        fs::File::open(from).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    });
    let ran = extract(&image, "1", &pipe);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let mut expected = content("1");
    expected[4 * 4096..].fill(0);
    assert_eq!(reader.join().unwrap(), expected);
    // Nobody reads: what is not sound is told before anybody is waited for.
    fs::write(&image, damaged().0).unwrap();
    assert_eq!(extract(&image, "0", &pipe).code, 2);
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(dir.names(), ["image", "pipe"]);
}

#[test]
fn standard_output_gets_the_bytes_and_nothing_else() {
    let bin = env!("CARGO_BIN_EXE_heirloom");
    let ran = Command::new(bin).args(["extract", FIXTURE, "session-0", "1", "-o", "-"]).output();
    let ran = ran.unwrap();
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
    assert!(ran.stdout == content("1"));
    // Into a file that a shell opened, which stays that file.
    let dir = Dir::new();
    let to = dir.at("to");
    let command = format!("{bin} extract {FIXTURE} session-0 1 -o - >> {}", to.display());
    fs::write(&to, b"before").unwrap();
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    assert!(fs::read(&to).unwrap() == [&b"before"[..], &content("1")].concat());
    // Where something is not sound, nothing comes.
    let file = damaged().file();
    let ran =
        Command::new(bin).args(["extract", file.as_str(), "session-0", "0", "-o", "-"]).output();
    let ran = ran.unwrap();
    assert_eq!((ran.status.code(), ran.stdout.len()), (Some(2), 0));
}

#[test]
fn a_finding_has_a_code_that_stays() {
    let json = heirloom(&["check", damaged().file().as_str(), "--json"]).json();
    let codes =
        json["findings"].as_array().unwrap().iter().map(|found| found["code"].as_str().unwrap());
    assert_eq!(codes.collect::<Vec<_>>(), ["memfd-folio-not-preserved"]);
    let ran = heirloom(&["check", damaged().file().as_str(), "--quiet"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (1, "", ""));
}
