//! What Linux lends to heirloom, and the handover there: found by Linux's own, without being told, and looked at with
//! it. And what is said where the list of loans, or what lies in the folios, is not sound.

mod common;

use common::{Core, LENT, Temporary, heirloom};
use serde_json::{Value, json};

const PAGE: u64 = 4096;
/// Where the words of a page of the list start.
const WORDS: u64 = 64;

/// The image, all of its memory as raw bytes.
struct Image {
    bytes: Vec<u8>,
    start: u64,
    /// The list of loans.
    list: u64,
    facts: Value,
}

fn number(text: &Value) -> u64 {
    u64::from_str_radix(&text.as_str().unwrap()[2..], 16).unwrap()
}

impl Image {
    fn new() -> Self {
        let core = Core(std::fs::read(LENT).unwrap());
        let (_, start, _) = core.segments()[0];
        let bytes = core.raw(start, 1024 * PAGE as usize);
        let ran = heirloom(&["inspect", "--json", "--zero-excluded", LENT]);
        // Of the two root pages there, one lies within: nothing is to be chosen.
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let facts = ran.json();
        let list = number(&facts["subtrees"]["heirloom"]["phys"]);
        Self { bytes, start, list, facts }
    }

    fn at(&self, addr: u64) -> usize {
        (addr - self.start) as usize
    }

    fn word(&self, addr: u64) -> u64 {
        u64::from_le_bytes(self.bytes[self.at(addr)..][..8].try_into().unwrap())
    }

    fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = self.at(addr);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The reasons of a check's findings.
    fn findings(&self) -> Vec<String> {
        let (file, base) = (Temporary::new(&self.bytes), format!("{:#x}", self.start));
        let root = self.facts["fdt"].as_str().unwrap();
        common::findings(&[file.as_str(), "--base", &base, "--root", root])
    }

    /// Returns the findings of the image with these bytes written at `addr`.
    fn with(&self, addr: u64, bytes: &[u8]) -> Vec<String> {
        let mut other = Self { bytes: self.bytes.clone(), facts: self.facts.clone(), ..*self };
        other.put(addr, bytes);
        other.findings()
    }
}

#[test]
fn the_handover_within_is_found_and_shown() {
    let Image { facts, .. } = Image::new();
    let loans = &facts["subtrees"]["heirloom"];
    assert_eq!(
        (&loans["lent_folios"], &loans["lent_bytes"], &loans["list_pages"]),
        (&3.into(), &(160 * PAGE).into(), &1.into())
    );
    // Two of the folios touch.
    let lent = loans["lent"].as_array().unwrap();
    let bytes = [&lent[0]["bytes"], &lent[1]["bytes"]];
    assert_eq!((lent.len(), bytes), (2, [&(96 * PAGE).into(), &(64 * PAGE).into()]));
    let within = &loans["handover"];
    assert_eq!(
        (&within["fdt"], &within["compatible"]),
        (&loans["entry"]["root"], &"kho-v4".into())
    );
    // The list says where its scratch is, which Linux's own does not.
    assert_eq!(within["scratch"].as_array().unwrap().len(), 1);
    assert_eq!(facts["scratch"], Value::Null);
    let own = &within["subtrees"]["heirloom"];
    assert_eq!(
        (&own["producer"], &own["compatible"]),
        (&"heirloom.ko".into(), &"heirloom-v2".into())
    );
    let sessions = &own["caches"][0];
    assert_eq!((&sessions["name"], &sessions["objects"]), (&"sessions".into(), &40.into()));
    assert_eq!(own["seal"]["entries"], own["seal"]["sound"]);
    let first = &within["subtrees"]["first"];
    assert_eq!((&first["handle"], &first["bytes"]), (&"object".into(), &120.into()));
    assert_eq!((&facts["findings"], &facts["not_looked_at"]), (&json!([]), &json!([])));
    // What heirloom preserves lies in what Linux does.
    assert!(within["bytes"].as_u64().unwrap() < loans["lent_bytes"].as_u64().unwrap());

    let to = Temporary::path();
    let picture = format!("{}.svg", to.as_str());
    let ran = heirloom(&["inspect", "--zero-excluded", LENT, "--map", &picture]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for line in [
        "lent by Linux: 640 KiB in 3 folios\n",
        "    within: kho-v4 handover, root page 0x",
        "      sealed, 23 tables as they were\n",
        " 40 objects in 1 slab of order 4, preserving\n",
        "    first     0x",
        "  kexec-metadata  0x",
    ] {
        assert!(ran.out.contains(line), "{line}: {}", ran.out);
    }
    let drawn = std::fs::read_to_string(&picture).unwrap();
    std::fs::remove_file(&picture).unwrap();
    for pin in ["heirloom: root page", "heirloom: heirloom", "heirloom: first"] {
        assert!(drawn.contains(pin), "{pin}");
    }
}

#[test]
fn a_check_says_what_it_looked_at_of_both() {
    let ran = heirloom(&["check", "--zero-excluded", LENT]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("; in what is lent to heirloom: root 0x"), "{}", ran.out);
    assert!(ran.out.contains("23 tables as sealed"), "{}", ran.out);
    let json = heirloom(&["check", "--zero-excluded", "--json", LENT]).json();
    assert_eq!(json["verdict"], "in order");
    assert_eq!((&json["folios"], &json["sealed"]), (&10.into(), &Value::Null));
    let lent = &json["lent"];
    assert_eq!(
        (&lent["sealed"], &lent["subtrees"], &lent["scratch_known"]),
        (&23.into(), &3.into(), &true.into())
    );
    // The one within can be named, and is then looked at alone, in all of the image's memory.
    let root = number(&lent["fdt"]);
    let json =
        heirloom(&["check", "--zero-excluded", "--json", LENT, "--root", &format!("{root:#x}")]);
    assert_eq!(json.json()["lent"], Value::Null);
}

#[test]
fn a_list_that_is_not_sound_is_a_finding_that_names_the_byte() {
    let image = Image::new();
    let list = image.list;
    let first = image.word(list + WORDS);
    let named =
        |offset: u64, what: &str| format!("list of loans at {list:#x}, byte {offset}: {what}");
    for (offset, bytes, said) in [
        (8, 2_u64.to_le_bytes(), "version 2 is not known, version 1 is"),
        (16, (list + 8).to_le_bytes(), "nothing can start at"),
        (16, (list + PAGE * 2).to_le_bytes(), "is not preserved"),
        (56, 7_u64.to_le_bytes(), "0x7 has reserved bits set"),
        (WORDS, (first + 1).to_le_bytes(), "nothing can start at"),
        (WORDS, (first - 1).to_le_bytes(), "is not preserved"),
        (WORDS, (first | 0xfff).to_le_bytes(), "4095 where at most 51 can be"),
    ] {
        let found = image.with(list + offset, &bytes);
        let expected = named(offset, "");
        let is = |reason: &String| reason.starts_with(&expected) && reason.contains(said);
        assert!(found.iter().any(is), "{offset} {said}: {found:?}");
    }
    // Of another page size: nothing more is to be said of it.
    let found = image.with(list + 12, &[14]);
    assert_eq!(found, [named(12, "length 14, not 12")]);
    // Not marked as a list, it is taken for heirloom's own header, which it is not.
    let found = image.with(list, b"heirloan");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(&format!("heirloom header at {list:#x}")), "{found:?}");
    // The same folio twice, and a list that leads to itself.
    for (offset, word, said) in [
        (WORDS + 8, first, " has another use"),
        (16, list, "byte 16: no end: it comes back to a page before"),
    ] {
        let found = image.with(list + offset, &word.to_le_bytes());
        assert!(found.len() == 1 && found[0].ends_with(said), "{found:?}");
    }
}

#[test]
fn what_is_wrong_within_is_a_finding_of_the_whole() {
    let image = Image::new();
    let within = &image.facts["subtrees"]["heirloom"]["handover"];
    let own = number(&within["subtrees"]["heirloom"]["phys"]);
    let found = image.with(own + 40, b"!");
    assert!(!found.is_empty());
    for reason in &found {
        assert!(reason.starts_with("subtree heirloom: "), "{reason}");
        assert!(reason.contains(&format!("{own:#x}")), "{reason}");
    }
    // A folio that is not lent any more is no memory to what lies within, though Linux still has it.
    let found = image.with(image.list + WORDS, &[0; 8]);
    assert!(found.len() > 1, "{found:?}");
    assert!(found.iter().all(|reason| reason.starts_with("subtree heirloom: ")), "{found:?}");
    assert!(found.iter().any(|reason| reason.ends_with(" is not in memory")), "{found:?}");
    // Linux's own root page is no place that heirloom has.
    let root = number(&image.facts["fdt"]);
    let found = image.with(image.list + 24, &root.to_le_bytes());
    let expected =
        format!("subtree heirloom: root page at {root:#x}, byte 0: {root:#x} is not in memory");
    assert_eq!(found, [expected]);
    let mut other = Image { bytes: image.bytes.clone(), ..image };
    other.put(other.list + 24, &root.to_le_bytes());
    let (file, base) = (Temporary::new(&other.bytes), format!("{:#x}", other.start));
    let place = [file.as_str(), "--base", &base, "--root", &format!("{root:#x}")];
    let ran = heirloom(&[&["inspect"], &place[..]].concat());
    assert!(ran.out.contains(&format!("no root page at {root:#x} that can be read")), "{ran:?}");
    let json = heirloom(&[&["inspect", "--json"], &place[..]].concat()).json();
    assert_eq!(json["subtrees"]["heirloom"]["handover"], Value::Null);
}

/// The handover within is whole, whatever is wrong with the one around it: that alone is no answer.
#[test]
fn the_outer_handover_is_looked_at_though_it_is_not_whole_and_the_inner_one_is() {
    let image = Image::new();
    for (offset, byte) in [(0, b'h'), (8, 9), (56, 1)] {
        let mut bytes = image.bytes.clone();
        bytes[(image.list - image.start + offset) as usize] = byte;
        let (file, base) = (Temporary::new(&bytes), format!("{:#x}", image.start));
        let ran = heirloom(&["check", file.as_str(), "--base", &base]);
        assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    }
}

/// Where Linux's own cannot be followed to what it lends, the one within is no answer either.
#[test]
fn an_outer_handover_that_leads_nowhere_is_a_finding_of_the_inner_one() {
    let image = Image::new();
    let (root, map) = (number(&image.facts["fdt"]), number(&image.facts["map"]));
    let inner = image.facts["subtrees"]["heirloom"]["handover"]["fdt"].as_str().unwrap();
    let page = &image.bytes[image.at(root)..][..PAGE as usize];
    // In the tree that counts, of two.
    let tree = u32::from_be_bytes(page[8..12].try_into().unwrap()) as usize;
    let named = page[tree..].windows(8).position(|bytes| bytes == map.to_le_bytes());
    let named = (tree + named.unwrap()) as u64;
    for (addr, bytes) in [
        // The tree's own length, its version, its only value; where the map is; the map.
        (root + 4, &[0xff; 4][..]),
        (root + 20, &[0; 4]),
        (root + named, &[0xff; 8]),
        (root + named, &0x60_0000_u64.to_le_bytes()),
        (map, &[0; PAGE as usize]),
    ] {
        let mut other = Image { bytes: image.bytes.clone(), facts: image.facts.clone(), ..image };
        other.put(addr, bytes);
        let (file, base) = (Temporary::new(&other.bytes), format!("{:#x}", other.start));
        let place = [file.as_str(), "--base", &base];
        let ran = heirloom(&[&["check", "--json"], &place[..]].concat());
        assert_eq!(ran.code, 1, "{addr:#x}: {ran:?}");
        let findings = ran.json()["findings"].clone();
        assert_eq!(findings[0]["code"], "root-other", "{addr:#x}: {findings}");
        assert_eq!(findings[0]["at"], format!("{root:#x}"));
        // The user says that it is the one within.
        let ran = heirloom(&[&["check", "--root", inner], &place[..]].concat());
        assert_eq!(ran.code, 0, "{addr:#x}: {ran:?}");
    }
}

#[test]
fn what_differs_within_is_a_difference() {
    let image = Image::new();
    let mut bytes = image.bytes.clone();
    // An object more is there: a state that was free is live.
    let slab = bytes.windows(8).position(|word| word == b"hl-slab1").unwrap();
    let free = bytes[slab + 128..].iter().position(|state| state % 8 == 0).unwrap();
    bytes[slab + 128 + free] |= 1;
    let (a, b) = (Temporary::new(&image.bytes), Temporary::new(&bytes));
    let base = format!("{:#x}", image.start);
    let bases = ["--base-a", &base, "--base-b", &base, "--json"];
    let ran = heirloom(&[&["diff", a.as_str(), b.as_str()], &bases[..]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let changed = ran.json()["changed"].clone();
    let objects = "heirloom.handover.subtrees.heirloom.caches[sessions].objects";
    let is = |change: &&Value| change["what"] == objects;
    let change = changed.as_array().unwrap().iter().find(is).unwrap_or_else(|| panic!("{changed}"));
    assert_eq!((&change["from"], &change["to"]), (&40.into(), &41.into()));
    let same = heirloom(&[&["diff", a.as_str(), a.as_str()], &bases[..4]].concat());
    assert_eq!((same.code, same.out.as_str()), (0, "no difference\n"));
}

/// What Linux 7.3 and the module left, after a jump.
#[test]
fn a_linux_with_the_module_is_in_order_to_the_last_object() {
    let image =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-lent/image.elf.xz");
    let json = heirloom(&["inspect", "--json", "--zero-excluded", image]).json();
    assert_eq!(json["findings"], json!([]));
    let metadata = &json["subtrees"]["kexec-metadata"];
    assert_eq!(
        (&metadata["previous_release"], &metadata["kexec_count"]),
        (&"7.3.4".into(), &2.into())
    );
    let loans = &json["subtrees"]["heirloom"];
    assert_eq!((&loans["lent_folios"], &loans["lent_bytes"]), (&3.into(), &(768 * PAGE).into()));
    let within = &loans["handover"];
    let own = &within["subtrees"]["heirloom"];
    assert_eq!((&own["generation"], &own["producer"]), (&1.into(), &"7.3.4".into()));
    assert_eq!((&own["seal"]["entries"], &own["seal"]["sound"]), (&52.into(), &52.into()));
    let cache = |name: &str| {
        let caches = own["caches"].as_array().unwrap();
        caches.iter().find(|cache| cache["name"] == name).unwrap_or_else(|| panic!("{own}"))
    };
    assert_eq!(
        (&cache("session")["objects"], &cache("session")["preserving"]),
        (&20.into(), &true.into())
    );
    assert_eq!(cache("buffer-1024")["objects"], 3);
    assert_eq!(within["subtrees"]["sessions"]["size"], 32);
    // What Linux preserves, heirloom has within: the list, and what it needs itself, lie outside.
    assert_eq!((&json["folios"], &within["folios"]), (&6.into(), &48.into()));
    let ran = heirloom(&["check", "--zero-excluded", image]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains(" 48 folios, 20 nodes, 2 subtrees, 52 tables as sealed"),
        "{}",
        ran.out
    );
}

/// The module is not built from the reader's structure: this is what holds them together.
#[test]
fn the_module_writes_what_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../linux/module/loans.c");
    let source = std::fs::read_to_string(path).unwrap();
    let defined = |name: &str| {
        let line = source.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().next().unwrap()
    };
    let magic = u64::from_str_radix(defined("HL_MAGIC").trim_matches(['0', 'x', 'U', 'L']), 16);
    let image = Image::new();
    assert_eq!(magic.unwrap(), image.word(image.list));
    assert_eq!(defined("HL_VERSION"), heirloom_kho::linux::Loans::VERSION.to_string());
    assert_eq!(defined("HL_SUBTREE"), format!("\"{}\"", heirloom_kho::linux::Loans::NAME));
    // The fields, in their order, fill the 64 bytes before the words.
    let fields = source.split("struct hl_list {").nth(1).unwrap().split("};").next().unwrap();
    let fields = fields.lines().filter_map(|line| line.trim().strip_prefix("__le"));
    let fields: Vec<_> = fields.map(|line| line.split(';').next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "64 magic",
            "32 version",
            "32 page_shift",
            "64 next",
            "64 root",
            "64 scratch",
            "64 scratch_bytes",
            "64 reserved[2]",
            "64 folios[]",
        ]
    );
}
