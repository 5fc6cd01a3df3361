//! A handover that Linux 7.3 really left, read: everything is as an independent program found it.
#![cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]

mod common;

use common::{Dump, addr, block_of, expected, findings, order};
use heirloom_kho::linux::{Checksum, Flb, Known, Luo, Memfd};
use heirloom_kho::{Block, Error, Left, Name, PhysAddr, RootView, Subtree};
use heirloom_restore::Entry;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

struct Read {
    dump: Dump,
    expected: Value,
}

impl Read {
    fn new() -> Self {
        Self { dump: Dump::of_linux(), expected: expected() }
    }

    fn entry(&self) -> Entry {
        let root = addr(&self.expected["fdt"]);
        Entry { root, scratch: PhysAddr::new(0), scratch_bytes: 0 }
    }

    fn left(&self) -> Left<'_, Dump> {
        Left::new(&self.dump, addr(&self.expected["map"]))
    }

    fn subtree(&self, name: &str) -> Subtree {
        let left = self.left();
        let root = RootView::read(&left, self.entry().root).unwrap();
        root.find(&Name::new(name).unwrap()).unwrap()
    }

    fn known(&self, name: &str) -> Known {
        Known::read(&self.left(), &self.subtree(name)).unwrap().unwrap()
    }

    fn luo(&self) -> Luo {
        let Known::Luo(luo) = self.known(Luo::NAME) else { panic!("no LUO") };
        luo
    }
}

/// The bytes that hexadecimal digits spell.
fn digest(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}

#[test]
fn what_linux_left_in_good_order_has_no_finding() {
    let read = Read::new();
    let (surveyed, found) = findings(&read.dump, read.entry());
    assert_eq!(found, []);
    assert_eq!(surveyed.map, Some(addr(&read.expected["map"])));
    let counts = surveyed.counts.unwrap();
    assert_eq!(counts.nodes(), read.expected["nodes"].as_u64().unwrap());
    assert_eq!(counts.total(), read.expected["folios"].as_u64().unwrap());
    assert_eq!(counts.frames(), read.expected["frames"].as_u64().unwrap());
    for n in 0..6 {
        let key = n.to_string();
        let expected = &read.expected;
        assert_eq!(counts.nodes_at(n), expected["nodes_by_level"][&key].as_u64().unwrap());
        assert_eq!(counts.folios(order(n)), expected["orders"][&key].as_u64().unwrap());
    }
    // The header is heirloom's own.
    assert_eq!((surveyed.header, surveyed.sealed), (None, 0));
    let mut folios: Vec<_> = read.left().tree().folios().collect();
    folios.sort_unstable_by_key(|block| block.pfn());
    let expected: Vec<_> =
        read.expected["preserved"].as_array().unwrap().iter().map(block_of).collect();
    assert_eq!(folios, expected);
}

#[test]
fn sessions_files_tokens_and_flbs_are_as_expected() {
    let read = Read::new();
    let (left, luo) = (read.left(), read.luo());
    let facts = &read.expected["subtrees"]["LUO"];
    assert_eq!(luo.at, addr(&facts["phys"]));
    assert_eq!(luo.number, facts["liveupdate_num"].as_u64().unwrap());
    let sessions: Vec<_> = luo.sessions(&left).unwrap().map(Result::unwrap).collect();
    let expected = facts["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), expected.len());
    for (session, expected) in sessions.iter().zip(expected) {
        assert_eq!(session.name.as_str(), expected["name"]);
        assert_eq!(luo.session(&left, session.name.as_str()), Ok(Some(*session)));
        let files: Vec<_> = session.files(&left).unwrap().map(Result::unwrap).collect();
        let expected = expected["files"].as_array().unwrap();
        assert_eq!(files.len(), expected.len());
        for (file, expected) in files.iter().zip(expected) {
            assert_eq!(file.compatible.as_str(), expected["compatible"]);
            assert_eq!(file.token, expected["token"].as_u64().unwrap());
            assert_eq!(PhysAddr::new(file.data), addr(&expected["data"]));
            assert_eq!(session.file(&left, file.token), Ok(Some(*file)));
        }
        assert_eq!(session.file(&left, 7), Ok(None));
    }
    assert_eq!(luo.session(&left, "session"), Ok(None));
    let flbs: Vec<Flb> = luo.flbs(&left).unwrap().map(Result::unwrap).collect();
    let flb = |flb: &Flb| {
        let data = format!("{:#x}", flb.data);
        json!({ "name": flb.name.as_str(), "data": data, "count": flb.count })
    };
    assert_eq!(Value::from(flbs.iter().map(flb).collect::<Vec<_>>()), facts["flbs"]);
}

/// Every memfd, with what is expected of it.
fn for_each_memfd(read: &Read, mut each: impl FnMut(Memfd, &Value)) {
    let left = read.left();
    let facts = &read.expected["subtrees"]["LUO"]["sessions"];
    for (i, session) in read.luo().sessions(&left).unwrap().enumerate() {
        for (j, file) in session.unwrap().files(&left).unwrap().enumerate() {
            let memfd = file.unwrap().memfd(&left).unwrap().unwrap();
            each(memfd, &facts[i]["files"][j]);
        }
    }
}

#[test]
fn memfds_have_their_folios_and_their_contents() {
    let read = Read::new();
    let mut seen = 0;
    for_each_memfd(&read, |memfd, expected| {
        seen += 1;
        let is = |name: &str, value: u64| assert_eq!(value, expected[name].as_u64().unwrap());
        is("size", memfd.size);
        is("pos", memfd.pos);
        is("seals", memfd.seals.into());
        is("flags", memfd.flags.into());
        is("nr_folios", memfd.folios);
        let mut folios = Vec::new();
        memfd
            .for_each_folio(&read.left(), |folio| {
                folios.push(json!({
                    "pfn": folio.block.pfn().get(),
                    "order": folio.block.order().get(),
                    "flags": folio.flags,
                    "index": folio.index,
                }));
                assert!(folio.is_dirty() && folio.is_up_to_date());
                Ok::<_, Error>(())
            })
            .unwrap();
        assert_eq!(Value::from(folios), expected["folios"]);
        let mut sha = Sha256::new();
        memfd
            .for_each_part(&read.left(), |part| {
                sha.update(read.dump.part(part));
                Ok::<_, Error>(())
            })
            .unwrap();
        assert_eq!(sha.finalize().to_vec(), digest(&expected["sha256"]));
    });
    assert_eq!(seen, 4);
}

#[test]
fn the_kernel_s_own_test_has_linux_s_checksum() {
    let read = Read::new();
    let Known::KhoTest(test) = read.known("kho_test") else { panic!("no test") };
    let facts = &read.expected["subtrees"]["kho_test"];
    assert_eq!(u64::from(test.folios), facts["nr_folios"].as_u64().unwrap());
    assert_eq!(u64::from(test.csum), facts["csum"].as_u64().unwrap());
    assert_eq!(u64::from(test.area.pages()), facts["vmalloc"]["total_pages"].as_u64().unwrap());
    let mut folios: Vec<Block> = Vec::new();
    test.for_each_folio(&read.left(), |block| {
        folios.push(block);
        Ok::<_, Error>(())
    })
    .unwrap();
    let expected: Vec<_> = facts["folios"].as_array().unwrap().iter().map(block_of).collect();
    assert_eq!(folios, expected);
    assert_eq!(test.checksum(&read.left()), Ok(Checksum::of(test.csum)));
    let modulo = facts["csum_mod_ffff"].as_u64().unwrap();
    assert_eq!(Checksum::of(test.csum), Checksum::of(u32::try_from(modulo).unwrap()));
}

#[test]
fn the_kernel_says_who_it_was() {
    let read = Read::new();
    let Known::Metadata(metadata) = read.known("kexec-metadata") else { panic!("no metadata") };
    let facts = &read.expected["subtrees"]["kexec-metadata"];
    assert_eq!(metadata.previous_release.as_str(), facts["previous_release"]);
    assert_eq!(u64::from(metadata.kexec_count), facts["kexec_count"].as_u64().unwrap());
}
