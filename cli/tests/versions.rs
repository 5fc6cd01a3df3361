//! Versions of Linux's structures that this build does not read: each is refused by its name. The images are written
//! byte by byte, as the headers of the kernels that had these versions say (`include/linux/kho/abi/`).

mod common;

use common::{Core, FIXTURE, FLBS, findings, heirloom};

const ROOT: u64 = 0x50_f000;
const LUO: u64 = 0x70_a000;
const MEMFD: u64 = 0x7b_5000;

type Properties<'p> = &'p [(&'p str, &'p [u8])];

fn word(block: &mut Vec<u8>, word: u32) {
    block.extend(word.to_be_bytes());
}

fn padded(block: &mut Vec<u8>, bytes: &[u8]) {
    block.extend(bytes);
    block.resize(block.len().next_multiple_of(4), 0);
}

/// A device tree of a root and its nodes.
fn device_tree(root: Properties<'_>, nodes: &[(&str, Properties<'_>)]) -> Vec<u8> {
    let (mut block, mut strings) = (Vec::new(), Vec::new());
    let mut properties = |block: &mut Vec<u8>, properties: Properties<'_>| {
        for (name, value) in properties {
            word(block, 3);
            word(block, value.len() as u32);
            word(block, strings.len() as u32);
            strings.extend(name.as_bytes());
            strings.push(0);
            padded(block, value);
        }
    };
    word(&mut block, 1);
    padded(&mut block, b"\0");
    properties(&mut block, root);
    for (name, of) in nodes {
        word(&mut block, 1);
        padded(&mut block, format!("{name}\0").as_bytes());
        properties(&mut block, of);
        word(&mut block, 2);
    }
    word(&mut block, 2);
    word(&mut block, 9);
    // The header, a reserve map of nothing, the block, the strings.
    let (at, strings_at) = (56, 56 + block.len());
    let total = strings_at + strings.len();
    let head = [0xd00d_feed, total, at, strings_at, 40, 17, 16, 0, strings.len(), block.len()];
    let mut tree: Vec<u8> = head.iter().flat_map(|word| (*word as u32).to_be_bytes()).collect();
    tree.resize(56, 0);
    [tree, block, strings].concat()
}

/// A root page of this version, as its kernel wrote it.
fn with_root(version: u32) -> Core {
    let mut core = Core::fixture();
    let says = format!("kho-v{version}\0");
    let map = 0x50_e000_u64.to_ne_bytes();
    let root: Properties<'_> = &[("compatible", says.as_bytes()), ("preserved-memory-map", &map)];
    let (luo, test) = (LUO.to_ne_bytes(), 0x58_c000_u64.to_ne_bytes());
    let (luo_bytes, test_bytes) = (32_u64.to_ne_bytes(), 240_u64.to_ne_bytes());
    let old: [Properties<'_>; 2] = [&[("fdt", &luo)], &[("fdt", &test)]];
    let new: [Properties<'_>; 2] = [
        &[("preserved-data", &luo), ("blob-size", &luo_bytes)],
        &[("preserved-data", &test), ("blob-size", &test_bytes)],
    ];
    // Names alone up to version 2, with a size since.
    let [luo, test] = if version < 3 { old } else { new };
    let mut page = device_tree(root, &[("LUO", luo), ("kho_test", test)]);
    page.resize(4096, 0);
    core.put(ROOT, &page);
    core
}

/// The live update's subtree with these bytes in it.
fn with_luo(bytes: &[u8]) -> Core {
    let mut core = Core::fixture();
    core.put(LUO, bytes);
    let page = core.offset(ROOT);
    let node = core.0[page..page + 4096].windows(4).position(|name| name == b"LUO\0").unwrap();
    let size = core.0[page + node..page + 4096].windows(8);
    let size = size.clone().position(|word| word == 32_u64.to_ne_bytes()).unwrap();
    core.put(ROOT + (node + size) as u64, &(bytes.len() as u64).to_ne_bytes());
    core
}

/// What the check of a table against the kernel of this image says is not taken.
fn refused(core: &Core) -> String {
    let file = core.file();
    let next = heirloom(&["check", "--json", file.as_str(), "--for", "7.3"]).json()["next"].clone();
    let structures = next["structures"].as_array().unwrap();
    let not: Vec<_> = structures.iter().filter(|of| of["takes"] != "taken").collect();
    let texts = not
        .iter()
        .map(|of| format!("{} {}", of["what"].as_str().unwrap(), of["says"].as_str().unwrap()));
    texts.collect::<Vec<_>>().join(", ")
}

#[test]
fn each_version_of_the_root_is_read_or_refused_by_its_name() {
    // The writer of these bytes writes what is read, in the version that is read.
    let file = with_root(4).file();
    let ran = heirloom(&["check", file.as_str(), "--accept", FLBS]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for version in [1, 2, 3, 5] {
        let core = with_root(version);
        let file = core.file();
        let said =
            format!("root page at 0x50f000, byte 76: version {version} is not known, version 4 is");
        // It is found by scanning even so.
        assert_eq!(findings(&[file.as_str()]), [said.as_str()]);
        let advice = match version {
            1 => "Linux 6.16 to 6.19 write this version, and no later one takes it over",
            2 | 3 => {
                "Linux from 7.0 on wrote this version, up to the one before 7.3: no other takes it over; start that one, or \
                 look with its own tools"
            }
            _ => "a later kernel writes this version: look with a later build of this command",
        };
        let ran = heirloom(&["inspect", file.as_str()]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        let whole = format!("no root page at 0x50f000: {said}; {advice}\n");
        assert!(ran.err.ends_with(&whole), "{ran:?}");
        let ran = heirloom(&["check", "--color", "never", file.as_str()]);
        assert!(ran.out.starts_with(&format!("- {said}\n  {advice}\n")), "{ran:?}");
        let json = heirloom(&["check", "--json", file.as_str()]).json();
        assert_eq!(json["findings"][0]["advice"], advice);
        assert_eq!(refused(&core), format!("root page kho-v{version}"));
    }
}

#[test]
fn each_version_of_the_live_update_is_read_or_refused_by_its_name() {
    let (number, header) = (1_u64.to_ne_bytes(), 0x70_b000_u64.to_ne_bytes());
    let sessions: Properties<'_> =
        &[("compatible", b"luo-session-v1\0"), ("luo-session-header", &header)];
    let first = device_tree(
        &[("compatible", b"luo-v1\0"), ("liveupdate-number", &number)],
        &[("luo-session", sessions)],
    );
    let second = device_tree(&[("compatible", b"luo-v2\0"), ("luo-abi-header", &header)], &[]);
    let structure = |says: &str| {
        let mut text = says.as_bytes().to_vec();
        text.resize((says.len() + 1).next_multiple_of(8), 0);
        [text, number.to_vec(), header.to_vec(), vec![0; 8]].concat()
    };
    // Masks of what is supported, required and in use, in a head of 128 bytes, and no text.
    let mut features = [7_u64, 1, 3].map(u64::to_ne_bytes).concat();
    features.resize(128, 0);
    features.extend(structure("")[8..].to_vec());
    let not_known = |version: u32| format!("version {version} is not known, version 5 is");
    for (bytes, place, says, said) in [
        (first, 76, "luo-v1", not_known(1)),
        (second, 76, "luo-v2", not_known(2)),
        (structure("luo-v3"), 0, "luo-v3", not_known(3)),
        (structure("luo-v4"), 0, "luo-v4", not_known(4)),
        (structure("luo-v6"), 0, "luo-v6", not_known(6)),
        (
            structure("luo-v3-block-v1"),
            0,
            "luo-v3-block-v1",
            "\"luo-v3-block-v1\" is not known, \"luo-v5\" is".to_owned(),
        ),
        (
            features,
            0,
            "nothing that can be read",
            "\"\\x07\" is not known, \"luo-v5\" is".to_owned(),
        ),
    ] {
        let core = with_luo(&bytes);
        let found = findings(&[core.file().as_str()]);
        let place = format!("subtree LUO, by its name Linux's: LUO at 0x70a000, byte {place}: ");
        assert_eq!(found, [format!("{place}{said}")]);
        let json = heirloom(&["check", "--json", core.file().as_str()]).json();
        let advice = json["findings"][0]["advice"].as_str().unwrap_or_default();
        let expected = match says {
            "luo-v1" => "Linux 6.19 writes",
            "luo-v2" | "luo-v3" | "luo-v4" => "Linux from 7.0 on wrote",
            "luo-v6" => "a later kernel writes",
            _ => "",
        };
        assert!(
            advice.starts_with(expected) && advice.is_empty() == expected.is_empty(),
            "{says}: {advice}"
        );
        assert_eq!(refused(&core), format!("subtree {says}"));
    }
    // A device tree that calls itself the version that is none.
    let tree = device_tree(&[("compatible", b"luo-v5\0")], &[]);
    let found = findings(&[with_luo(&tree).file().as_str()]);
    assert!(found[0].ends_with("no structure that starts with its own text"), "{found:?}");
    // One that says nothing.
    let tree = device_tree(&[("liveupdate-number", &number)], &[]);
    let found = findings(&[with_luo(&tree).file().as_str()]);
    assert!(found[0].contains("LUO at 0x70a000") && found[0].contains("compatible"), "{found:?}");
}

/// The entry of the first file of the first session.
fn with_kind(kind: &str) -> Core {
    let mut core = Core::fixture();
    let file = core.word(core.word(LUO + 16) + 16 + 64) + 16;
    let mut name = kind.as_bytes().to_vec();
    name.resize(48, 0);
    core.put(file, &name);
    core
}

#[test]
fn the_first_version_of_a_memfd_is_refused_by_its_name() {
    let mut core = with_kind("memfd-v1");
    // Without seals and flags: what follows lies eight bytes before.
    let (size, area) = (core.word(MEMFD + 8), [core.word(MEMFD + 32), core.word(MEMFD + 40)]);
    let fields = [0, size, 16, area[0], area[1], 0].map(u64::to_ne_bytes);
    core.put(MEMFD, &fields.concat());
    let found = findings(&[core.file().as_str()]);
    assert!(found[0].ends_with("byte 0: version 1 is not known, version 2 is"), "{found:?}");
    assert_eq!(found.len(), 1);
    let json = heirloom(&["check", "--json", core.file().as_str()]).json();
    let advice = json["findings"][0]["advice"].as_str().unwrap();
    assert!(advice.contains("before files kept their seals"), "{advice}");
    assert_eq!(refused(&core), "file memfd-v1");
}

/// Layouts that are public are shown, and are no part of a check.
#[test]
fn what_is_under_review_is_shown_as_far_as_its_layout_is_public() {
    let said = |kind: &str, words: &[u64]| {
        let mut core = with_kind(kind);
        let file = core.word(core.word(LUO + 16) + 16 + 64) + 16;
        // (Behind the name, what only its owner understands: an address, here.)
        let data = core.word(file + 48);
        core.put(data, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
        let file = core.file();
        let ran = heirloom(&["inspect", "--quick", "--color", "never", file.as_str()]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let line = ran.out.lines().find(|line| line.contains(kind)).unwrap().to_owned();
        let json = heirloom(&["inspect", "--quick", "--json", file.as_str()]).json();
        (line, json["subtrees"]["LUO"]["sessions"][0]["files"][0]["proposed"].clone())
    };
    let (line, json) = said("guest_memfd_luo_v1", &[0x20_0000, 1, 1, 7]);
    assert!(line.ends_with(", flags 1, nr_folios 1, size 2097152, vm_token 7"), "{line}");
    assert_eq!(json["vm_token"], 7);
    assert_eq!(said("kvm_vm_luo_v1", &[3]).1["type"], 3);
    let (_, json) = said("kvm_vcpu_luo_v1", &[1 << 32 | 5, 9]);
    assert_eq!(
        (&json["vcpu_id"], &json["flags"], &json["vm_token"]),
        (&5.into(), &1.into(), &9.into())
    );
    let (_, json) = said("huge-memfd-v1", &[4 << 20, 0, 2, 0, 0, 9]);
    assert_eq!((&json["size"], &json["order"]), (&(4 << 20).into(), &9.into()));
    let (_, json) = said("vfio-pci-v2", &[1 << 48 | 0x0300 << 32 | 2]);
    assert_eq!(
        (&json["domain"], &json["bdf"], &json["reset_works"]),
        (&2.into(), &0x0300.into(), &1.into())
    );
    let (_, json) = said("tmpfs-mnt-v1", &[256, 0o1777]);
    assert_eq!((&json["max_blocks"], &json["mode"]), (&256.into(), &0o1777.into()));
    let name = u64::from_le_bytes(*b"notes.md");
    let (line, json) = said("tmpfs-file-v1", &[5, 0, 4097, 0o644, 2, 0, 0, name, 0]);
    assert_eq!(
        (&json["mnt_token"], &json["size"], &json["nr_folios"]),
        (&5.into(), &4097.into(), &2.into())
    );
    assert!(line.ends_with(", size 4097"), "{line}");
    let mut core = with_kind("tmpfs-file-v1");
    let data = core.word(core.word(core.word(LUO + 16) + 16 + 64) + 16 + 48);
    core.put(data + 56, b"notes.md\0");
    let file = core.file();
    let ran = heirloom(&["inspect", "--quick", "--color", "never", file.as_str()]);
    assert!(ran.out.contains("\n        notes.md\n"), "{ran:?}");
    let json = heirloom(&["inspect", "--quick", "--json", file.as_str()]).json();
    assert_eq!(json["subtrees"]["LUO"]["sessions"][0]["files"][0]["name"], "notes.md");
    // The one name had several layouts.
    assert!(said("vfio-pci-v1", &[2]).1.is_null());
    // Of another version nothing is said, nor of an address where nothing is preserved.
    assert!(said("guest_memfd_luo_v2", &[1]).1.is_null());
    let mut core = with_kind("kvm_vm_luo_v1");
    let file = core.word(core.word(LUO + 16) + 16 + 64) + 16;
    core.put(file + 48, &0x1234_5678_u64.to_le_bytes());
    let json = heirloom(&["inspect", "--quick", "--json", core.file().as_str()]).json();
    assert!(json["subtrees"]["LUO"]["sessions"][0]["files"][0]["proposed"].is_null());
}

/// The map of the descriptor store says whose each file is.
#[test]
fn the_files_of_systemds_session_are_named_by_unit() {
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    core.put(sessions + 16, b"systemd\0\0\0");
    let json = heirloom(&["inspect", "--quick", "--json", FIXTURE]).json();
    let first = &json["subtrees"]["LUO"]["sessions"][0]["files"][0];
    assert_eq!(first["token"], 0);
    let pfn =
        first["folios"].as_array().unwrap().iter().find(|of| of["index"] == 0).unwrap()["pfn"]
            .clone();
    let map = br#"{"cache.service":[{"type":"fd","name":"items","token":1}],"other.service":[{"name":3},7]}"#;
    let mut page = map.to_vec();
    page.resize(4096, 0);
    core.put(pfn.as_u64().unwrap() << 12, &page);
    // All behind the map is nothing: as long as the map.
    let size = core.word(MEMFD + 8);
    core.put(MEMFD + 8, &4096_u64.to_le_bytes());
    core.put(MEMFD + 24, &1_u64.to_le_bytes());
    assert_eq!(size, 64 << 10);
    let file = core.file();
    let ran = heirloom(&["inspect", "--quick", "--color", "never", file.as_str()]);
    assert!(ran.out.contains("\n        items of cache.service\n"), "{ran:?}");
    let json = heirloom(&["inspect", "--quick", "--json", file.as_str()]).json();
    let files = &json["subtrees"]["LUO"]["sessions"][0]["files"];
    assert_eq!(files[1]["kept"], "items of cache.service");
    assert!(files[0]["kept"].is_null());
}

/// What is proposed for Linux is not looked at, and it is said what it is.
#[test]
fn kinds_that_are_proposed_are_named() {
    for (kind, is) in [
        ("hugetlb-v1", "a memfd of huge pages"),
        ("guest_memfd_luo_v1", "KVM's memory of a guest"),
        ("kvm_vm_luo_v1", "KVM's virtual machine"),
        ("kvm_vcpu_luo_x86_v1", "KVM's virtual CPU"),
        ("vfio-pci-v1", "VFIO's device"),
        ("tmpfs-mnt-v1", "a tmpfs"),
        ("tmpfs-file-v1", "a file of a tmpfs"),
    ] {
        let file = with_kind(kind).file();
        let ran = heirloom(&["check", "--color", "never", file.as_str(), "--accept", FLBS]);
        assert_eq!(ran.code, 3);
        let said = format!("? file {kind}: not looked at ({is})\n");
        assert!(ran.out.contains(&said), "{ran:?}");
        let json = heirloom(&["check", "--json", file.as_str()]).json();
        assert_eq!(json["not_looked_at"][0]["stands_for"], is);
    }
    let mut core = Core::fixture();
    let flbs = core.word(LUO + 24);
    core.put(flbs + 16, b"pci-v2\0");
    let ran = heirloom(&["check", "--color", "never", core.file().as_str(), "--accept", FLBS]);
    assert!(ran.out.contains("? FLB pci-v2: not looked at (PCI devices that keep running)\n"));
    // A session of systemd's, of files that are read as any.
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    core.put(sessions + 16, b"systemd\0\0\0");
    let ran = heirloom(&["inspect", "--quick", core.file().as_str()]);
    let said =
        "session systemd, 2 files (systemd's descriptor store; token 0 says which unit has which)";
    assert!(ran.out.contains(said), "{ran:?}");
}
