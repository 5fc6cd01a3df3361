//! Whether the next kernel will take a handover, foretold: a verdict for each structure.

mod common;

use common::{Core, FIXTURE, FLBS, LENT, Ran, Temporary, arena, heirloom, kernel};
use serde_json::Value;

const ROOT: u64 = 0x50_f000;
const LUO: u64 = 0x70_a000;
const MEMFD: u64 = 0x7b_5000;
const METADATA: u64 = 0x51_6000;

/// What an ELF file calls machines.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;
const S390: u16 = 22;

/// The texts of a kernel that takes the fixture, between bytes of other kinds.
const TEXTS: &[u8] =
    b"\0Linux version 7.3.4-a (b@c)\0kho-v4\0\0\xff\xfeluo-v5\0kho-test-v1\0\x80memfd-v2\0\
    liveupdate-test-flb-v0\0liveupdate-test-flb-v1\0liveupdate-test-flb-v2\0";

/// What is said of an image, for these kernels.
fn foretell(image: &str, kernels: &[&str]) -> Ran {
    let mut arguments = vec!["check", "--color", "never", "--accept", FLBS, image];
    for kernel in kernels {
        arguments.extend(["--for", kernel]);
    }
    heirloom(&arguments)
}

/// The structures that are not taken: what, and why.
fn refused(image: &str, kernel: &str) -> Vec<(String, String)> {
    let ran = heirloom(&["check", "--json", "--accept", FLBS, image, "--for", kernel]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    let json = ran.json();
    assert_eq!(json["next"]["verdict"], "not taken");
    let structures = json["next"]["structures"].as_array().unwrap().clone();
    let not = structures.iter().filter(|of| of["takes"] == "not taken");
    let text = |of: &Value, field: &str| of[field].as_str().unwrap().to_owned();
    not.map(|of| (format!("{}: {}", text(of, "code"), text(of, "says")), text(of, "reason")))
        .collect()
}

/// The entry of the first file of the first session.
fn first_file(core: &Core) -> u64 {
    core.word(core.word(LUO + 16) + 16 + 64) + 16
}

fn with_kind(kind: &str) -> Core {
    let mut core = Core::fixture();
    let mut name = kind.as_bytes().to_vec();
    name.resize(48, 0);
    core.put(first_file(&core), &name);
    core
}

/// The last line, and the lines of the kernel's before it.
fn lines(ran: &Ran) -> Vec<&str> {
    let all: Vec<_> = ran.out.lines().collect();
    let verdict = all.iter().position(|line| line.contains("root 0x")).unwrap();
    all[verdict + 1..].to_vec()
}

#[test]
fn the_kernel_that_left_it_takes_it() {
    let ran = foretell(FIXTURE, &["7.3"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let said = [
        "+ root page: kho-v4",
        "+ subtree LUO: luo-v5",
        "+ 4 files: memfd-v2",
        "+ FLB: liveupdate-test-flb-v0",
        "+ FLB: liveupdate-test-flb-v1",
        "+ FLB: liveupdate-test-flb-v2",
        "+ subtree kho_test: kho-test-v1",
        "+ subtree kexec-metadata: kexec-metadata-v1",
        "Linux 7.3 takes it: 11 structures; it must be started with kho=on liveupdate=on",
    ];
    assert_eq!(lines(&ran), said);
    // Whatever stands behind the two numbers.
    let ran = foretell(FIXTURE, &["7.3.4-1~bpo13+1"]);
    assert_eq!((ran.code, lines(&ran)), (0, said.to_vec()));
    // What was not looked at is not known to be sound, whatever takes it.
    assert_eq!(heirloom(&["check", "-q", FIXTURE, "--for", "7.3"]).code, 3);
}

#[test]
fn an_older_kernel_does_not() {
    let found = refused(FIXTURE, "6.19");
    let first = "Linux 6.19 takes kho-v1: it boots as if nothing had been handed over: all that is preserved is lost";
    assert_eq!(found[0], ("next-version: kho-v4".to_owned(), first.to_owned()));
    let kinds: Vec<_> = found.iter().map(|(what, _)| what.as_str()).collect();
    let memfd = "next-version: memfd-v2";
    let metadata = "next-absent: kexec-metadata-v1";
    assert_eq!(
        kinds,
        ["next-version: kho-v4", "next-version: luo-v5", memfd, memfd, memfd, memfd, metadata]
    );
}

/// Each version that is changed is foretold by its structure, and what happens then is said.
#[test]
fn a_version_that_the_kernel_does_not_take_is_named_with_what_it_comes_to() {
    let lost = "it boots as if nothing had been handed over: all that is preserved is lost";
    let closed = "each open of /dev/liveupdate fails with EIO: no session can be retrieved";
    let mut root = Core::fixture();
    root.put(ROOT + 0x4c, b"kho-v5");
    let mut luo = Core::fixture();
    luo.put(LUO, b"luo-v6\0\0");
    let mut metadata = Core::fixture();
    metadata.put(METADATA, &[2]);
    let mut seals = Core::fixture();
    seals.put(MEMFD + 16, &0x41_u32.to_le_bytes());
    for (core, what, why) in [
        (root, "next-version: kho-v5", format!("Linux 7.3 takes kho-v4: {lost}")),
        (
            luo,
            "next-version: luo-v6",
            "Linux 7.3 takes luo-v5: it panics while it boots".to_owned(),
        ),
        (
            with_kind("memfd-v3"),
            "next-version: memfd-v3",
            format!("Linux 7.3 takes memfd-v2: {closed}"),
        ),
        // The kernel compares texts: to it this is another.
        (
            with_kind("memfd-v2;vmalloc-v1"),
            "next-version: memfd-v2;vmalloc-v1",
            format!("Linux 7.3 takes memfd-v2: {closed}"),
        ),
        (with_kind("memfd"), "next-version: memfd", format!("Linux 7.3 takes memfd-v2: {closed}")),
        (
            metadata,
            "next-version: kexec-metadata-v2",
            "Linux 7.3 takes kexec-metadata-v1: it warns, and counts kexecs anew".to_owned(),
        ),
        (
            seals,
            "next-seals: seals 0x41",
            "Linux 7.3 does not know 0x40 of them: the file cannot be retrieved: EOPNOTSUPP"
                .to_owned(),
        ),
    ] {
        assert_eq!(refused(core.file().as_str(), "7.3"), [(what.to_owned(), why)]);
    }
}

#[test]
fn a_kind_that_a_module_may_take_is_not_known_until_the_module_is_there() {
    let file = with_kind("hugetlb-v1").file();
    let ran = foretell(file.as_str(), &["7.3"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    let why = "nothing in Linux 7.3 is for it; a module may be; without it each open of /dev/liveupdate fails with EIO: \
               no session can be retrieved";
    let said = format!("? file session-0, token 0: hugetlb-v1; {why}");
    assert!(lines(&ran).contains(&&*said), "{ran:?}");
    assert!(ran.out.contains("Linux 7.3 may take it: 1 of 11 structures not known"), "{ran:?}");
    let table = Temporary::new(b"kernel hugetlb.ko\ntakes hugetlb-v1\n");
    let ran = foretell(file.as_str(), &["7.3", table.as_str()]);
    assert!(ran.out.contains("+ file session-0, token 0: hugetlb-v1\n"), "{ran:?}");
    assert!(ran.out.contains("Linux 7.3 with hugetlb.ko takes it: 11 structures"), "{ran:?}");
    // What is taken is not looked at even so.
    assert_eq!(ran.code, 3);
    let accepted = ["check", "-q", file.as_str(), "--accept", FLBS, "--accept", "hugetlb-v1"];
    assert_eq!(heirloom(&accepted).code, 0);
    assert_eq!(heirloom(&[&accepted[..], &["--for", "7.3"]].concat()).code, 0);
}

#[test]
fn a_table_a_configuration_and_a_kernel_say_the_same() {
    let table = "# A kernel of one's own.\nkernel Own 1\npage-size 4096\ntakes kho-v4\ntakes luo-v5\n\
                 takes memfd-v2\ntakes kho-test-v1\ntakes kexec-metadata-v1\ntakes liveupdate-test-flb-v0\n\
                 takes liveupdate-test-flb-v1\ntakes liveupdate-test-flb-v2\n";
    let config = "# Linux/x86 7.3.4 Kernel Configuration\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n\
                  CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT=y\nCONFIG_LIVEUPDATE_MEMFD=y\nCONFIG_LIVEUPDATE_TEST=m\n\
                  CONFIG_TEST_KEXEC_HANDOVER=y\nCONFIG_PAGE_SHIFT=12\n";
    let kernel = kernel(X86_64, false, TEXTS);
    let started = "; it must be started with kho=on liveupdate=on";
    for (bytes, name, needs) in [
        (table.as_bytes(), "Own 1", ""),
        (
            config.as_bytes(),
            "Linux 7.3.4, as configured",
            "; it must be started with liveupdate=on",
        ),
        (&kernel, "Linux 7.3.4-a (", started),
    ] {
        let file = Temporary::new(bytes);
        let ran = foretell(FIXTURE, &[file.as_str()]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}: {ran:?}");
        let last = *lines(&ran).last().unwrap();
        assert!(last.starts_with(name), "{last}");
        assert!(last.ends_with(&format!("takes it: 11 structures{needs}")), "{last}");
    }
    // Without the part that takes memfds, it is foretold that it does not.
    let without = Temporary::new(config.replace("CONFIG_LIVEUPDATE_MEMFD=y\n", "").as_bytes());
    let found = refused(FIXTURE, without.as_str());
    assert_eq!(found.len(), 4);
    assert_eq!(found[0].0, "next-absent: memfd-v2");
    let closed = "nothing in Linux 7.3.4, as configured takes it: each open of /dev/liveupdate fails with EIO: no session \
                  can be retrieved";
    assert_eq!(found[0].1, closed);
}

#[test]
fn pages_and_limits_are_foretold() {
    let takes =
        "takes kho-v4\ntakes luo-v5\ntakes memfd-v2\ntakes kho-test-v1\ntakes kexec-metadata-v1\n";
    let table = |more: &str| Temporary::new(format!("kernel Own\n{takes}{more}\n").as_bytes());
    let pages = table("page-size 65536");
    assert_eq!(
        refused(FIXTURE, pages.as_str()),
        [(
            "next-page-size: pages of 4096 bytes".to_owned(),
            "Own has pages of 65536 bytes".to_owned()
        )]
    );
    // A folio of order 3 in place of the first page of the first file.
    let mut core = Core::fixture();
    let list = core.word(core.word(MEMFD + 32) + 8);
    let folio = heirloom(&["inspect", "--quick", "--json", FIXTURE]).json();
    let folio =
        folio["preserved"].as_array().unwrap().iter().find(|of| of[1] == 3).unwrap().clone();
    let addr = u64::from_str_radix(&folio[0].as_str().unwrap()[2..], 16).unwrap();
    core.put(list, &(addr >> 12 | 3 << 52).to_le_bytes());
    let file = core.file();
    let limit = table("at-most folio-order 2\notherwise folio it cannot be retrieved");
    let said = (
        "next-limit: order 3".to_owned(),
        "Own takes order 2 at most: it cannot be retrieved".to_owned(),
    );
    assert_eq!(refused(file.as_str(), limit.as_str()), [said]);
    let scratch = table("at-most scratch-areas 0");
    let mut core = Core::fixture();
    // A scratch list where the kernel's own name is padded: one area, which nothing preserved lies in.
    let at = METADATA + 0x800;
    core.put(at, &[0x800_0000_u64.to_le_bytes(), 0x1000_u64.to_le_bytes()].concat());
    let file = core.file();
    let list = format!("{at:#x}+16");
    let arguments =
        ["check", "--json", file.as_str(), "--scratch", &list, "--for", scratch.as_str()];
    let next = heirloom(&arguments).json()["next"].clone();
    let said: Vec<_> =
        next["structures"].as_array().unwrap().iter().map(|of| &of["what"]).collect();
    assert_eq!(said[..2], ["root page", "scratch"], "{next}");
    assert_eq!(next["structures"][1]["reason"], "Own takes 0 at most");
}

#[test]
fn what_heirloom_left_is_foretold_too() {
    let (bytes, _) = arena();
    let file = Temporary::new(&bytes);
    let ran = heirloom(&["check", "--color", "never", file.as_str(), "--for", "heirloom"]);
    let said = [
        "+ root page: kho-v4",
        "+ subtree heirloom: heirloom-v2",
        "heirloom 0.1 takes it: 2 structures",
    ];
    assert_eq!((ran.code, lines(&ran)), (0, said.to_vec()), "{ran:?}");
    // Linux takes its root page, and knows nothing of the rest.
    let ran = heirloom(&["check", "-q", file.as_str(), "--for", "7.3"]);
    assert_eq!(ran.code, 3);
    let lent =
        ["check", "--color", "never", "--zero-excluded", LENT, "--accept", "*", "--for", "7.3"];
    let ran = heirloom(&[&lent[..], &["--for", "heirloom"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let said = lines(&ran);
    assert!(said.contains(&"+ subtree heirloom: heirloom-loans-v1"), "{ran:?}");
    assert!(said.contains(&"+ subtree heirloom: heirloom-v2"), "{ran:?}");
}

#[test]
fn one_kernel_comes_next_whatever_it_loads() {
    // What another kernel takes is no help to the one that comes.
    for (first, second, called) in
        [("6.19", "7.3", "Linux 7.3"), ("7.3", "6.16", "Linux 6.16 to 6.18")]
    {
        let ran = foretell(FIXTURE, &[first, second]);
        let said = format!(
            "error: {second}: {called} is a kernel: it stands first, and alone but for what it loads\n"
        );
        assert_eq!((ran.code, ran.out.as_str(), ran.err), (2, "", said));
    }
    // It takes the root page before it loads anything: heirloom's module changes nothing in that.
    let lent = ["check", "--color", "never", "--zero-excluded", LENT, "--accept", "*"];
    let ran = heirloom(&[&lent[..], &["--for", "6.19", "--for", "heirloom"]].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.out
            .contains("\n- root page: kho-v4; Linux 6.19 with heirloom 0.1 takes kho-v1: it boots"),
        "{ran:?}"
    );
    assert!(ran.out.contains("\n+ root page heirloom: kho-v4\n"), "{ran:?}");
}

#[test]
fn what_is_no_kernel_is_said() {
    let refused = |kernel: &str| {
        let ran = heirloom(&["check", FIXTURE, "--for", kernel]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        ran.err
    };
    let known = "error: 7.2: what Linux 7.2 takes is not known here, only of 6.16, 6.17, 6.18, 6.19, 7.3, heirloom; \
                 its vmlinuz tells\n";
    assert_eq!(refused("7.2"), known);
    assert_eq!(
        refused("/nonexistent"),
        "error: /nonexistent: cannot open it: No such file or directory (os error 2)\n"
    );
    assert!(refused(FIXTURE).contains("and no kernel"), "{}", refused(FIXTURE));
    let none = Temporary::new(&kernel(62, false, b"nothing that a structure says"));
    assert!(refused(none.as_str()).contains("has not a release"), "{}", refused(none.as_str()));
    let table = Temporary::new(b"kernel Own\nlikes kho-v4\n");
    assert!(refused(table.as_str()).contains("line 2: \"likes\" is no word of such a table"));
    let bytes = Temporary::new(&[0x90; 4096]);
    assert!(refused(bytes.as_str()).contains("neither a kernel"));
}

#[test]
fn a_layout_that_changed_without_its_version_is_found() {
    let against = |new: &str, old: &str| {
        heirloom(&["check", "--color", "never", "--accept", FLBS, new, "--against", old])
    };
    let ran = against(FIXTURE, FIXTURE);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.ends_with("\nno layout changed without its version\n"), "{ran:?}");
    // The size of what LUO's subtree has, as the root page says it.
    let mut longer = Core::fixture();
    let page = longer.offset(ROOT);
    let place = longer.0[page..page + 4096].windows(8).position(|at| at == 32_u64.to_ne_bytes());
    longer.put(ROOT + place.unwrap() as u64, &40_u64.to_ne_bytes());
    let file = longer.file();
    let ran = against(file.as_str(), FIXTURE);
    let said = "- luo-v5: its layout changed, and its version did not; bytes 32, now 40\n";
    assert_eq!(ran.code, 1);
    assert!(ran.out.ends_with(said), "{ran:?}");
    let json = heirloom(&["check", "--json", file.as_str(), "--against", FIXTURE]).json();
    assert_eq!(json["changed"][0]["code"], "layout-changed");
    // Another name for a property of each subtree.
    let mut named = Core::fixture();
    let strings = named.0[page..page + 4096].windows(9).position(|at| at == b"blob-size").unwrap();
    named.put(ROOT + strings as u64, b"blob-ends");
    let ran = against(named.file().as_str(), FIXTURE);
    let said = "- kho-v4: its layout changed, and its version did not; properties of its nodes \
                blob-size:8 preserved-data:8, now blob-ends:8 preserved-data:8\n";
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains(said), "{ran:?}");
    // With another version it may be another.
    longer.put(LUO, b"luo-v6\0\0");
    let file = longer.file();
    let ran = against(file.as_str(), FIXTURE);
    let last = "no layout changed without its version, as far as can be read";
    assert!(
        ran.out.ends_with(&format!("\n{last}: {} is not in order\n", file.as_str())),
        "{ran:?}"
    );
}

#[test]
fn two_tables_are_compared_by_their_layouts() {
    let table = |text: &str| Temporary::new(format!("kernel Own\n{text}").as_bytes());
    let old = table("layout memfd-v2 pos:8  size:8\nlayout luo-v5 number:8\n");
    let same = table("layout luo-v5 number:8\nlayout memfd-v2 pos:8 size:8\nlayout new-v1 a:1\n");
    let grown = table("layout memfd-v2 pos:8 size:8 seals:4\nlayout luo-v6 number:4\n");
    let against = |new: &str| {
        let ran = heirloom(&["check", "--color", "never", new, "--against", old.as_str()]);
        assert_eq!(ran.err, "");
        (ran.code, ran.out)
    };
    let none = "no layout changed without its version: 2 structures in both\n";
    assert_eq!(against(same.as_str()), (0, none.to_owned()));
    let said = "- memfd-v2: its layout changed, and its version did not; fields pos:8 size:8, now pos:8 size:8 seals:4\n\
                1 layout changed without a version: 1 structure in both\n";
    assert_eq!(against(grown.as_str()), (1, said.to_owned()));
    let other = table("layout other-v1 a:1\n");
    assert_eq!(against(other.as_str()).0, 3);
    let json = ["check", "--json", grown.as_str(), "--against", old.as_str()];
    assert_eq!(heirloom(&json).json()["changed"][0]["what"], "fields");
    let ran = heirloom(&["check", FIXTURE, "--against", old.as_str()]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("is a table, and"), "{ran:?}");
    let broken = table("layout memfd-v2\n");
    let ran = heirloom(&["check", broken.as_str(), "--against", old.as_str()]);
    assert!(ran.err.contains("line 2"), "{ran:?}");
}

/// An image of an arm64 kernel with these flags in its header.
fn image(flags: u64, data: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 24];
    image.extend(flags.to_le_bytes());
    image.resize(0x38, 0);
    image.extend(b"ARM\x64");
    image.extend(data);
    image
}

#[test]
fn a_kernel_for_another_machine_does_not_take_it() {
    let named = |file: &Temporary| file.as_str().rsplit('/').next().unwrap().to_owned();
    for (bytes, code, is_for) in [
        (kernel(AARCH64, false, TEXTS), "next-machine", "aarch64"),
        (kernel(S390, true, TEXTS), "next-machine", "s390x"),
        (image(0b10, TEXTS), "next-machine", "aarch64"),
        (kernel(X86_64, true, TEXTS), "next-byte-order", "big-endian"),
    ] {
        let file = Temporary::new(&bytes);
        let found = refused(FIXTURE, file.as_str());
        let why = format!("Linux 7.3.4-a ({}) is ", named(&file));
        let (what, reason) = &found[0];
        assert!(what.starts_with(code), "{found:?}");
        assert!(reason.starts_with(&why) && reason.ends_with(is_for), "{found:?}");
    }
    let own = Temporary::new(b"kernel Own\nmachine aarch64\ntakes kho-v4\n");
    let found = refused(FIXTURE, own.as_str());
    let said = ("next-machine: x86_64".to_owned(), "Own is for aarch64".to_owned());
    assert_eq!(found[0], said);
    // What is loaded into it is for the same one.
    let module = Temporary::new(&kernel(S390, true, b"\0other-v1\0"));
    let ran = foretell(FIXTURE, &[own.as_str(), module.as_str()]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("is for s390x, and Own for aarch64"), "{ran:?}");
}

#[test]
fn the_pages_of_an_arm64_kernel_are_in_the_header_of_its_image() {
    let takes = |flags| {
        let file = Temporary::new(&image(flags, TEXTS));
        let ran = heirloom(&["check", "--json", FIXTURE, "--accept", FLBS, "--for", file.as_str()]);
        let structures = ran.json()["next"]["structures"].as_array().unwrap().clone();
        let pages = structures.into_iter().find(|of| of["what"] == "pages");
        pages.map(|of| (of["takes"].clone(), of["reason"].as_str().unwrap().to_owned()))
    };
    assert_eq!(takes(0b010), None);
    let (verdict, why) = takes(0b110).unwrap();
    assert_eq!(verdict, "not taken");
    assert!(why.ends_with("has pages of 65536 bytes"), "{why}");
    let (verdict, why) = takes(0).unwrap();
    assert_eq!(verdict, "not known");
    assert!(why.contains("which pages") && why.contains("CONFIG_PAGE_SHIFT"), "{why}");
}

/// Raw memory says nothing of its machine: the user does.
#[test]
fn what_cannot_be_told_of_the_machine_is_said() {
    let raw = Temporary::new(&Core::fixture().raw(0x50_0000, 0x140_0000));
    let kernel = Temporary::new(&kernel(X86_64, false, TEXTS));
    let check = ["check", "--color", "never", "--accept", FLBS, raw.as_str(), "--base", "0x500000"];
    let check = |more: &[&str]| heirloom(&[&check[..], &["--for", kernel.as_str()], more].concat());
    let ran = check(&[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let said =
        lines(&ran).into_iter().find(|line| line.starts_with("? machine: not said; ")).unwrap();
    assert!(
        said.ends_with(" is for x86_64, and the image does not say of which machine it is"),
        "{said}"
    );
    assert_eq!(check(&["--accept", "machine"]).code, 0);
}

#[test]
fn a_text_is_compared_whole_and_not_by_its_end() {
    let with = |luo: &[u8]| {
        let texts = TEXTS.split(|byte| *byte == 0).filter(|text| !text.ends_with(b"luo-v5"));
        let mut texts = texts.collect::<Vec<_>>().join(&0);
        texts.extend(luo);
        Temporary::new(&kernel(X86_64, false, &texts))
    };
    // A message of a kernel that takes another.
    let other = with(b"\0cannot read luo-v5\0luo-v6\0");
    let found = refused(FIXTURE, other.as_str());
    assert_eq!(found[0].0, "next-version: luo-v5");
    assert!(found[0].1.contains("takes luo-v6"), "{found:?}");
    // Linkers put a text into the end of another: the two cannot be told apart.
    let tail = with(b"\0cannot read luo-v5\0");
    let ran = foretell(FIXTURE, &[tail.as_str()]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out.contains("at the end of another text"), "{ran:?}");
    // A word before it, without a blank.
    let found = refused(FIXTURE, with(b"\0not-a/luo-v5\0luo-v6\0").as_str());
    assert_eq!(found[0].0, "next-version: luo-v5");
}

#[test]
fn an_unsound_image_is_named_before_layouts_are_compared() {
    let mut broken = Core::fixture();
    broken.put(LUO, b"luo-v9\0\0");
    let broken = broken.file();
    let against = |new: &str, old: &str, more: &[&str]| {
        heirloom(
            &[&["check", "--color", "never", "--accept", FLBS, new, "--against", old], more]
                .concat(),
        )
    };
    let ran = against(FIXTURE, broken.as_str(), &[]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    let said = format!("- {}: subtree LUO, ", broken.as_str());
    assert!(
        ran.out.lines().any(|line| line.starts_with(&said) && line.contains("0x70a000")),
        "{ran:?}"
    );
    let last = format!(
        "no layout changed without its version, as far as can be read: {} is not in order",
        broken.as_str()
    );
    assert_eq!(ran.out.lines().last(), Some(&*last), "{ran:?}");
    let json = against(FIXTURE, broken.as_str(), &["--json"]).json();
    assert_eq!(json["against"]["image"], broken.as_str());
    assert_eq!(json["against"]["findings"][0]["code"], "luo-version", "{json}");
    assert_eq!(json["verdict"], "in order as far as looked at");
    // The other way round it is the image that is checked.
    let ran = against(broken.as_str(), FIXTURE, &[]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out.lines().last(), Some(&*last), "{ran:?}");
    // Nothing in it can be read.
    let mut none = Core::fixture();
    none.put(ROOT + 0x4c, b"kho-v9");
    let none = none.file();
    let ran = against(FIXTURE, none.as_str(), &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains(&format!("- {}: ", none.as_str())), "{ran:?}");
}

/// A kernel that was not copied whole, or that is packed in a way that is not read: the sentence says what to do.
#[test]
fn a_kernel_that_is_cut_short_says_what_to_do() {
    let whole = kernel(X86_64, false, TEXTS);
    let file = |bytes: &[u8]| Temporary::new(bytes);
    let ran = foretell(FIXTURE, &[file(&whole).as_str()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for end in (1..whole.len()).rev().step_by(7).chain([whole.len() - 1]) {
        let ran = foretell(FIXTURE, &[file(&whole[..end]).as_str()]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{end}: {ran:?}");
        assert!(ran.err.contains("cut short"), "{end}: {ran:?}");
    }
    for (head, name) in
        [(&b"\x02\x21\x4c\x18"[..], "lz4"), (b"BZh9", "bzip2"), (b"\x89LZO", "lzop")]
    {
        let ran = foretell(FIXTURE, &[file(&[head, &[0; 64]].concat()).as_str()]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains(name) && ran.err.contains("unpack"), "{ran:?}");
    }
}
