//! What a check did not look at: it is counted and named, and the exit status says so.

mod common;

use common::{Core, FIXTURE, FLBS, Ran, findings, heirloom};

const ROOT: u64 = 0x50_f000;
const LUO: u64 = 0x70_a000;
const MEMFD: u64 = 0x7b_5000;

/// The entry of the first file of the first session.
fn first_file(core: &Core) -> u64 {
    core.word(core.word(LUO + 16) + 16 + 64) + 16
}

fn with_kind(core: &mut Core, kind: &str) {
    let mut name = kind.as_bytes().to_vec();
    name.resize(48, 0);
    core.put(first_file(core), &name);
}

fn check(core: &Core, more: &[&str]) -> Ran {
    let file = core.file();
    heirloom(&[&["check", "--color", "never", file.as_str()], more].concat())
}

/// The root page with another value of `compatible`.
fn with_root(compatible: &[u8]) -> Core {
    let mut core = Core::fixture();
    let at = core.offset(ROOT);
    let mut page = core.0[at..at + 4096].to_vec();
    let field = |page: &[u8], i: usize| {
        u32::from_be_bytes(page[i * 4..i * 4 + 4].try_into().unwrap()) as usize
    };
    let put = |page: &mut [u8], i: usize, value: usize| {
        page[i * 4..i * 4 + 4].copy_from_slice(&(value as u32).to_be_bytes());
    };
    let value = page.windows(7).position(|bytes| bytes == b"kho-v4\0").unwrap();
    let old = field(&page, value / 4 - 2).next_multiple_of(4);
    let mut padded = compatible.to_vec();
    padded.resize(compatible.len().next_multiple_of(4), 0);
    let more = |value: usize| value + padded.len() - old;
    let grown: Vec<_> = [&page[..value], &padded[..], &page[value + old..]].concat();
    page = grown;
    page.resize(4096, 0);
    put(&mut page, value / 4 - 2, compatible.len());
    let tree = field(&page, 2);
    // The whole tree, its struct block, and what lies behind that.
    for i in [1, 9] {
        let length = field(&page, i);
        put(&mut page, i, more(length));
    }
    for i in [3, 4] {
        let place = field(&page, i);
        if place > tree {
            put(&mut page, i, more(place));
        }
    }
    core.put(ROOT, &page);
    core
}

/// The name of a kind that is nearly the one that is known, over a list that is corrupt: before the
/// list is even looked at, the kind is the finding.
#[test]
fn a_memfd_under_another_name_is_refused_by_that_name() {
    let not_known = |kind: &str| format!("\"{kind}\" is not known, \"memfd-v2\" is");
    let named = ["memfd", "memfd-v02", "memfd-v+2", "memfd-v2-", "memfd-v", "memfd;vmalloc-v1"];
    let named = named.map(|kind| (kind, not_known(kind)));
    let parts = [
        ("memfd-v3", "version 3 is not known, version 2 is"),
        ("memfd-v3;vmalloc-v1", "version 3 is not known, version 2 is"),
        ("memfd-v2;vmalloc-v2", "version 2 of its vmalloc is not known, version 1 is"),
        ("memfd-v2;xarray-v1", "it is built of \"xarray-v1\", which is not known"),
    ];
    let parts = parts.map(|(kind, said)| (kind, said.to_owned()));
    for (kind, said) in named.into_iter().chain(parts) {
        let mut core = Core::fixture();
        core.put(MEMFD + 24, &(1_u64 << 40).to_le_bytes());
        with_kind(&mut core, kind);
        let at = first_file(&core);
        let file = core.file();
        let expected = format!("file at {at:#x}, byte 0: {said}");
        assert_eq!(findings(&[file.as_str()]), std::slice::from_ref(&expected), "{kind}");
        let ran = heirloom(&["inspect", file.as_str()]);
        assert!(ran.out.contains(&format!("not sound: {expected}")), "{}", ran.out);
        let to = common::Temporary::path();
        let ran = heirloom(&["extract", file.as_str(), "session-0", "0", "-o", to.as_str()]);
        assert_eq!((ran.code, to.exists()), (2, false));
        assert!(ran.err.contains(&expected), "{}", ran.err);
    }
}

/// What `--json` says, but for the file itself.
fn facts(core: &Core) -> serde_json::Value {
    let ran = heirloom(&["inspect", "--json", core.file().as_str()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let mut facts = ran.json();
    facts.as_object_mut().unwrap().remove("image").unwrap();
    facts
}

/// The way in which Linux is about to say what its structures are built of: the same is read of them.
#[test]
fn a_memfd_that_says_what_it_is_built_of_is_read() {
    let mut core = Core::fixture();
    with_kind(&mut core, "memfd-v2;vmalloc-v1");
    let mut expected = facts(&Core::fixture());
    let file = &mut expected["subtrees"]["LUO"]["sessions"][0]["files"][0];
    assert_eq!(file["compatible"], "memfd-v2");
    file["compatible"] = "memfd-v2;vmalloc-v1".into();
    assert_eq!(facts(&core), expected);
    assert_eq!(check(&core, &["--accept", FLBS]).code, 0);
    // And what is wrong with it is found.
    core.put(MEMFD + 24, &(1_u64 << 40).to_le_bytes());
    let found = findings(&[core.file().as_str()]);
    assert!(found.len() == 1 && found[0].starts_with("memfd at "), "{found:?}");
}

#[test]
fn a_root_that_says_what_it_is_built_of_is_read() {
    for compatible in ["kho-v4;radix-v1;vmalloc-v1", "kho-v4;radix-v1", "kho-v4;vmalloc-v1"] {
        let core = with_root(format!("{compatible}\0").as_bytes());
        let mut expected = facts(&Core::fixture());
        expected["compatible"] = compatible.into();
        assert_eq!(facts(&core), expected);
        assert_eq!(check(&core, &["--accept", FLBS]).code, 0);
    }
}

/// The live update's structure with this text of what it is, and its other fields behind that.
fn with_luo(text: &str, bytes: u64) -> Core {
    let mut core = Core::fixture();
    let fields: Vec<u8> = (1..4).flat_map(|i| core.word(LUO + i * 8).to_le_bytes()).collect();
    let mut field = text.as_bytes().to_vec();
    field.resize((text.len() + 1).next_multiple_of(8), 0);
    core.put(LUO, &[&field[..], &fields].concat());
    // What the root page says of its length.
    let page = core.offset(ROOT);
    let node = core.0[page..page + 4096].windows(4).position(|name| name == b"LUO\0").unwrap();
    let size = core.0[page + node..page + 4096].windows(8);
    let size = size.clone().position(|word| word == 32_u64.to_le_bytes()).unwrap();
    core.put(ROOT + (node + size) as u64, &bytes.to_le_bytes());
    core
}

/// Its field for the text is longer then, and what follows lies further on.
#[test]
fn a_live_update_that_says_what_it_is_built_of_is_read() {
    let core = with_luo("luo-v5;block-v1", 40);
    let mut expected = facts(&Core::fixture());
    expected["subtrees"]["LUO"]["compatible"] = "luo-v5;block-v1".into();
    expected["subtrees"]["LUO"]["size"] = 40.into();
    assert_eq!(facts(&core), expected);
    assert_eq!(expected["subtrees"]["LUO"]["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(check(&core, &["--accept", FLBS]).code, 0);
    // The list of states is named by the last field.
    let mut core = core;
    core.put(LUO + 32, &0x10_u64.to_le_bytes());
    let found = findings(&[core.file().as_str()]);
    assert!(found[0].starts_with("LUO at 0x70a000, byte 32: "), "{found:?}");
}

#[test]
fn a_file_of_an_unknown_kind_is_counted_and_named() {
    let mut core = Core::fixture();
    with_kind(&mut core, "unheard-v1");
    core.put(first_file(&core) + 48, &0x0dea_d000_u64.to_le_bytes());
    let ran = check(&core, &[]);
    let expected = "\
        ? file unheard-v1: not looked at\n\
        ? FLB liveupdate-test-flb-v0: not looked at\n\
        ? FLB liveupdate-test-flb-v1: not looked at\n\
        ? FLB liveupdate-test-flb-v2: not looked at\n\
        in order as far as looked at: root 0x50f000, 93 folios, 28 nodes, 3 subtrees; \
        not looked at: 1 file, 3 FLBs of unknown kind; scratch is not known\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (3, expected, ""));
    let json = check(&core, &["--json"]);
    assert_eq!(json.code, 3);
    let json = json.json();
    assert_eq!(json["verdict"], "in order as far as looked at");
    let at = format!("{:#x}", first_file(&core));
    let file = serde_json::json!({ "what": "file", "name": "unheard-v1", "count": 1, "at": at });
    assert_eq!(json["not_looked_at"][0], file);
    assert_eq!(json["not_looked_at"].as_array().unwrap().len(), 4);
    // A name that the user vouches for is said, and does not count.
    assert_eq!(check(&core, &["--accept", FLBS]).code, 3);
    let ran = check(&core, &["--accept", FLBS, "--accept", "unheard-v1"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.starts_with("? file unheard-v1: not looked at, accepted\n"), "{}", ran.out);
    assert!(ran.out.contains("\nin order as far as looked at: "), "{}", ran.out);
    // Two of one kind are one line; a name of many files says how many.
    let second = first_file(&core) + 64;
    core.put(second, b"unheard-v1\0");
    let ran = check(&core, &[]);
    assert!(ran.out.starts_with("? 2 files unheard-v1: not looked at\n"), "{}", ran.out);
    assert!(ran.out.contains("not looked at: 2 files, 3 FLBs of unknown kind"), "{}", ran.out);
    // What is wrong is wrong.
    core.put(0x58_4000, b"x");
    let ran = check(&core, &["--accept", "*"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("? 2 files unheard-v1"), "{}", ran.out);
}

#[test]
fn an_unknown_subtree_is_named() {
    let mut core = Core::fixture();
    let page = core.offset(ROOT);
    let at = core.0[page..page + 4096].windows(9).position(|bytes| bytes == b"kho_test\0").unwrap();
    core.put(ROOT + at as u64 + 7, b"u");
    // What would be found, were it known.
    core.put(0x58_4000, b"x");
    let ran = check(&core, &["--accept", FLBS]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.contains("? subtree kho_tesu: not looked at\n"), "{}", ran.out);
    assert!(ran.out.contains("not looked at: 1 subtree, 3 FLBs of unknown kind"), "{}", ran.out);
    assert_eq!(check(&core, &["--accept", FLBS, "--accept", "kho_tes*"]).code, 0);
}

#[test]
fn a_root_of_another_make_is_refused_by_its_name() {
    let unknown = |text: &str| format!("\"{text}\" is not known, \"kho-v4\" is");
    for (compatible, said) in [
        (&b"kho-v4\0radix-v1\0"[..], unknown(r"kho-v4\x00radix-v1")),
        (b"kho-v4;vmalloc-v1;radix-v1\0", unknown("kho-v4;vmalloc-v1;radix-v1")),
        (b"kho-v4;\0", unknown("kho-v4;")),
        (b"kho-v04\0", unknown("kho-v04")),
        (b"kho-v4", "no zero at the end of the text".to_owned()),
        (b"kho\0", unknown("kho")),
        (
            b"kho-v4;a-very-long-list-of-structures-that-there-are\0",
            "it is built of \"a-very-long-list-of-structures-that-th…\", which is not known"
                .to_owned(),
        ),
        (
            b"kho-v4;radix-v2;vmalloc-v1\0",
            "version 2 of its radix is not known, version 1 is".to_owned(),
        ),
        (
            b"kho-v4;radix-v1;vmalloc-v9\0",
            "version 9 of its vmalloc is not known, version 1 is".to_owned(),
        ),
        (
            b"kho-v4;radix-v1;vmalloc-v1;xarray-v1\0",
            "it is built of \"xarray-v1\", which is not known".to_owned(),
        ),
    ] {
        let core = with_root(compatible);
        let file = core.file();
        let reasons = findings(&[file.as_str(), "--root", "0x50f000"]);
        assert_eq!(reasons, [format!("root page at 0x50f000, byte 76: {said}")]);
    }
    // A version is a version, and scanning finds it all the same.
    for compatible in [&b"kho-v5\0"[..], b"kho-v5;radix-v2\0"] {
        let core = with_root(compatible);
        let file = core.file();
        let version = "root page at 0x50f000, byte 76: version 5 is not known, version 4 is";
        assert_eq!(findings(&[file.as_str()]), [version]);
    }
}

#[test]
fn a_live_update_of_another_make_is_refused_by_its_name() {
    let not_known = "is not known, \"luo-v5\" is";
    for (text, bytes, said) in [
        ("luo-v5;block-v1", 32, "length 32, not 40".to_owned()),
        ("luo-v6;block-v1", 40, "version 6 is not known, version 5 is".to_owned()),
        ("luo-v5;block-v2", 40, "version 2 of its block is not known, version 1 is".to_owned()),
        ("luo-v5;xarray-v1", 48, "it is built of \"xarray-v1\", which is not known".to_owned()),
        (
            "luo-v5;block-v1;radix-v1",
            64,
            "it is built of \"radix-v1\", which is not known".to_owned(),
        ),
        ("luo-v5;block", 40, "it is built of \"block\", which is not known".to_owned()),
        ("luo", 32, format!("\"luo\" {not_known}")),
        ("luo-v5;", 32, format!("\"luo-v5;\" {not_known}")),
    ] {
        let core = with_luo(text, bytes);
        let expected = format!("subtree LUO, by its name Linux's: LUO at 0x70a000, byte 0: {said}");
        let file = core.file();
        assert_eq!(findings(&[file.as_str()]), [expected], "{text}");
    }
    // Text without an end.
    let mut core = with_luo("luo-v5;block-v1", 40);
    for (byte, said) in [
        (b"1", "version 11 of its block is not known, version 1 is"),
        (b"\x01", "no zero at the end of the text"),
    ] {
        core.put(LUO + 15, byte);
        let expected = format!("subtree LUO, by its name Linux's: LUO at 0x70a000, byte 0: {said}");
        assert_eq!(findings(&[core.file().as_str()]), [expected]);
    }
}

/// Whoever else takes the name of one of Linux's subtrees may be right: the finding says what it
/// goes by.
#[test]
fn a_name_that_another_producer_took_is_said_to_be_just_that() {
    let mut core = Core::fixture();
    let at = core.offset(0x58_c000);
    let text =
        core.0[at..at + 240].windows(12).position(|bytes| bytes == b"kho-test-v1\0").unwrap();
    core.put(0x58_c000 + text as u64, b"my-record-v7");
    let file = core.file();
    let reasons = findings(&[file.as_str()]);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    let expected = "subtree kho_test, by its name Linux's: kho_test at 0x58c000, byte ";
    assert!(reasons[0].starts_with(expected), "{reasons:?}");
    assert!(
        reasons[0].ends_with("\"my-record-v7\" is not known, \"kho-test-v1\" is"),
        "{reasons:?}"
    );
}

#[test]
fn contents_of_files_that_cannot_be_read_are_not_compared() {
    let mut core = Core::fixture();
    with_kind(&mut core, "unheard-v1");
    let (a, b) = (core.file(), core.file());
    let ran = heirloom(&["diff", a.as_str(), b.as_str(), "--contents"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("LUO.sessions[session-0].files[0]"), "{}", ran.out);
}

#[test]
fn the_output_says_its_version() {
    for command in [&["inspect", FIXTURE, "--json"][..], &["check", FIXTURE, "--json"]] {
        assert_eq!(heirloom(command).json()["version"], 1, "{command:?}");
    }
    assert_eq!(heirloom(&["diff", FIXTURE, FIXTURE, "--json"]).json()["version"], 1);
}
