//! What people get wrong, and files as they come: each is read, or refused with what to do about it.

mod common;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::{fs, path::PathBuf};

use common::{Core, FIXTURE, FLBS, LENT, Ran, Temporary, check, heirloom};

/// Runs the command with arguments that need not be text, and with this on its standard input.
fn run<A: AsRef<OsStr>>(arguments: &[A], input: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    let command = command.args(arguments).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It need not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let ran = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: ran.status.code().unwrap_or(-1), out: text(&ran.stdout), err: text(&ran.stderr) }
}

/// A directory with a name that is no UTF-8, removed when the value goes.
struct Odd(PathBuf);

impl Odd {
    fn new() -> Self {
        let mut name = OsString::from(Temporary::path().as_str());
        name.push(OsStr::from_bytes(b"\xff\xfe"));
        fs::create_dir_all(&name).unwrap();
        Self(name.into())
    }

    fn path(&self, name: &str) -> OsString {
        self.0.join(name).into()
    }

    /// A file of it.
    fn file(&self, name: &str, bytes: &[u8]) -> OsString {
        fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut out = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn bytes_behind_what_is_packed_are_said_and_the_image_is_whole() {
    let image = Core::fixture().0;
    let half = image.len() / 2;
    for (name, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd), ("xz", xz)] {
        let [packed, first, second] = [&image[..], &image[..half], &image[half..]].map(pack);
        // Some begin as a stream does, and are none; some are fewer than begin one.
        for rest in [&b"garbage\n"[..], b"\x1f", b"(a remark)", b"\0\0\0\0rest", &packed[..1]] {
            let file = Temporary::new(&[&packed, rest].concat());
            let ran = check(file.as_str());
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}: {rest:?}: {ran:?}");
            let said = format!(
                "; {} bytes behind what is packed are no part of it, passed over\n",
                rest.iter().skip_while(|byte| **byte == 0).count()
            );
            let said = said
                .replace("1 bytes behind what is packed are", "1 byte behind what is packed is");
            assert!(ran.out.ends_with(&said), "{name}: {rest:?}: {ran:?}");
            let json = heirloom(&["inspect", "--json", "--quick", file.as_str()]).json();
            assert!(json["image"]["broken"].is_null(), "{name}: {}", json["image"]);
            assert!(json["image"]["behind_bytes"].as_u64() > Some(0), "{name}: {}", json["image"]);
        }
        // Zeroes fill up a block, and a stream behind another one goes on with it.
        for whole in [
            [&packed, &[0; 512][..]].concat(),
            [&first[..], &second].concat(),
            [&first[..], &second, &[0; 8]].concat(),
        ] {
            let file = Temporary::new(&whole);
            let ran = check(file.as_str());
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}: {ran:?}");
            assert!(ran.out.ends_with("scratch is not known\n"), "{name}: {ran:?}");
        }
        // What is cut is not whole even so.
        let file = Temporary::new(&packed[..packed.len() - 30]);
        let ran = check(file.as_str());
        assert!(ran.out.contains("; not whole: "), "{name}: {ran:?}");
    }
}

#[test]
fn files_may_have_any_name() {
    let odd = Odd::new();
    let image = odd.file("image", &Core::fixture().0);
    let word = |text: &str| OsString::from(text);
    let map = odd.path("map.svg");
    let ran = run(&[word("inspect"), image.clone(), word("--map"), map.clone()], b"");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(fs::read_to_string(map).unwrap().starts_with("<svg"));
    let config = odd.file("table", b"kernel Own\ntakes kho-v4\n");
    let ran = run(&[word("check"), image.clone(), word("--for"), config], b"");
    assert!(ran.out.contains("Own does not take it"), "{ran:?}");
    // Memory in two files: the second has its address behind the last @.
    let raw = Core::fixture().raw(0x50_0000, 0x140_0000);
    let (low, high) = raw.split_at(0x10_0000);
    let (low, mut high) = (odd.file("low", low), odd.file("hi@gh", high));
    high.push("@0x600000");
    for options in [["check", "--base", "--raw"], ["diff", "--base-a", "--raw-a"]] {
        let [command, base, more] = options.map(word);
        let mut arguments = vec![command, low.clone(), base, word("0x500000"), more, high.clone()];
        if options[0] == "diff" {
            arguments.push(image.clone());
        } else {
            arguments.extend([word("--accept"), word(FLBS)]);
        }
        let ran = run(&arguments, b"");
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    }
    for command in ["status", "clear"] {
        let ran = run(&[word(command), image.clone()], b"");
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("image: "), "{ran:?}");
    }
}

#[test]
fn standard_input_is_read_once() {
    let (image, raw) = (Core::fixture().0, Core::fixture().raw(0x50_0000, 0x140_0000));
    for arguments in [
        &["diff", "-", "-"][..],
        &["check", "-", "--against", "-"],
        &["check", "-", "--base", "0x500000", "--raw", "-@0"],
    ] {
        let is_raw = arguments.contains(&"--raw");
        let ran = run(arguments, if is_raw { &raw } else { &image });
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("standard input can be read once"), "{ran:?}");
    }
    // A kernel may come out of it as well as an image.
    let ran = run(&["check", FIXTURE, "--for", "-"], b"kernel Own\ntakes kho-v4\n");
    assert!(ran.out.contains("Own does not take it"), "{ran:?}");
    let ran = run(&["diff", "-", FIXTURE], &image);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_dump_whose_zeroes_were_left_out_says_what_to_do() {
    for command in ["inspect", "check"] {
        let ran = heirloom(&[command, LENT]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("--zero-excluded"), "{ran:?}");
    }
}

#[test]
fn what_is_no_image_is_named_with_what_is() {
    let text = Temporary::new(b"hello");
    let ran = heirloom(&["inspect", text.as_str()]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    for what in ["ELF core", "kdump", "LiME", "arena", "--base"] {
        assert!(ran.err.contains(what), "{what}: {ran:?}");
    }
}

#[test]
fn files_of_memory_that_disagree_are_named() {
    let raw = Core::fixture().raw(0x50_0000, 0x140_0000);
    let (low, high) = (Temporary::new(&raw[..0x10_0000]), Temporary::new(&raw[0x10_0000..]));
    let more = format!("{}@0x580000", high.as_str());
    let ran = heirloom(&["check", low.as_str(), "--base", "0x500000", "--raw", &more]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    let said = format!("{} and {} both have 0x5", low.as_str(), high.as_str());
    assert!(ran.err.contains(&said), "{ran:?}");
}

/// An address without letters is decimal: one that is copied out of a list of hexadecimal ones is told.
#[test]
fn an_address_that_was_meant_in_hexadecimal_is_told() {
    let ran = heirloom(&["inspect", FIXTURE, "--root", "509000"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("509000 is decimal: in hexadecimal it is 0x509000"), "{ran:?}");
    let ran = heirloom(&["inspect", FIXTURE, "--root", "0x50e000"]);
    assert!(ran.code == 2 && !ran.err.contains("decimal"), "{ran:?}");
}

#[test]
fn a_page_size_that_is_wrong_is_said_with_the_fault() {
    let raw = Temporary::new(&Core::fixture().raw(0x50_0000, 0x140_0000));
    for size in ["16k", "64k"] {
        let arguments = ["inspect", raw.as_str(), "--base", "0x500000", "--page-size", size];
        let ran = heirloom(&arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("--page-size"), "{ran:?}");
    }
}

#[test]
fn a_kernel_is_told_from_what_is_none() {
    let said = |name: &str| {
        let ran = heirloom(&["check", FIXTURE, "--for", name]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        ran.err
    };
    let image = said(FIXTURE);
    assert!(image.contains("an image of memory, and no kernel"), "{image}");
    let packed = Temporary::new(&gzip(&Core::fixture().0));
    let packed = said(packed.as_str());
    assert!(packed.contains("an image of memory, and no kernel"), "{packed}");
    for name in ["linux", "v7.3", "7", "nonsense", ""] {
        let error = said(name);
        assert!(error.contains("no file of this name, and no release of Linux"), "{error}");
        assert!(error.contains("6.16") && error.contains("uname -r"), "{error}");
    }
    let none = said("/nosuch/vmlinuz");
    assert!(none.contains("cannot open it"), "{none}");
}

/// As `/proc/config.gz` has it.
#[test]
fn a_configuration_may_be_packed() {
    let config = b"#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 7.3.4 Kernel Configuration\n#\n\
                   CONFIG_64BIT=y\nCONFIG_X86_64=y\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n\
                   CONFIG_LIVEUPDATE_MEMFD=y\n";
    let plain = Temporary::new(config);
    let plain = heirloom(&["check", FIXTURE, "--for", plain.as_str()]);
    assert!(plain.out.contains("Linux 7.3.4, as configured"), "{plain:?}");
    for pack in [gzip as fn(&[u8]) -> Vec<u8>, zstd, xz] {
        let packed = Temporary::new(&pack(config));
        let packed = heirloom(&["check", FIXTURE, "--for", packed.as_str()]);
        assert_eq!((packed.code, packed.out), (plain.code, plain.out.clone()), "{}", packed.err);
    }
}

#[test]
fn what_is_cut_off_is_said_once() {
    let image = Core::fixture().0;
    let file = Temporary::new(&image[..image.len() - 5000]);
    let ran = heirloom(&["inspect", file.as_str()]);
    assert!(
        ran.out.contains("cut off    4.8 KiB that should follow are not in the file"),
        "{ran:?}"
    );
    let ran = heirloom(&["check", file.as_str()]);
    assert!(
        ran.out.contains("; cut off: 4.8 KiB that should follow are not in the file"),
        "{ran:?}"
    );
    let file = Temporary::new(&gzip(&image)[..30_000]);
    let ran = heirloom(&["inspect", file.as_str()]);
    assert!(!ran.out.contains("cut off    not whole: "), "{ran:?}");
}

#[test]
fn what_is_no_arena_says_what_looks_at_it() {
    for command in ["status", "clear"] {
        let ran = heirloom(&[command, FIXTURE]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        let said = "no arena of a process; heirloom inspect looks at images";
        assert!(ran.err.contains(said), "{ran:?}");
    }
}

/// A limit on the size of files ends in a sentence, not in a signal.
#[test]
fn a_file_that_may_not_grow_is_told() {
    let file = Temporary::new(&gzip(&Core::fixture().0));
    let ran = Command::new("sh")
        .args(["-c", "ulimit -f 8; exec \"$0\" check \"$1\"", env!("CARGO_BIN_EXE_heirloom")])
        .arg(file.as_str())
        .output()
        .unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2), "{error}");
    assert!(error.contains("cannot write a temporary file (TMPDIR says where)"), "{error}");
}

#[test]
fn manual_pages_have_everything_in_its_section() {
    let dir = Odd::new();
    let ran = run(&[OsString::from("man"), OsString::from("--dir"), dir.path("")], b"");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let mut pages = 0;
    for entry in fs::read_dir(&dir.0).unwrap() {
        let path = entry.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        assert!(!sections.contains(&"EXTRA"), "{name}: {sections:?}");
        assert!(sections.contains(&"EXAMPLES"), "{name}: {sections:?}");
        assert!(sections.contains(&"\"SEE ALSO\""), "{name}: {sections:?}");
        let is_of_text = ["heirloom", "heirloom-completions", "heirloom-man", "heirloom-schema"];
        let has_status = !is_of_text.contains(&&*name);
        assert_eq!(sections.contains(&"\"EXIT STATUS\""), has_status, "{name}: {sections:?}");
        let footer = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(footer.contains("\"heirloom "), "{footer}");
        pages += 1;
    }
    assert_eq!(pages, 12);
    let first = heirloom(&["man"]).out;
    let written = fs::read_to_string(dir.0.join("heirloom.1")).unwrap();
    assert_eq!(first, written);
}
