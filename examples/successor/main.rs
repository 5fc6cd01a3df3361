//! Another program, written apart from `handover`, that takes over from it: it shares no code with
//! it, only the names and layouts that cross the jump.
//!
//! ```text
//! cargo build --release --examples
//! target/release/examples/handover --generations 2 --successor target/release/examples/successor
//! ```
//!
//! It adopts the cache of file records, claims every file, checks it, and gives all memory back.
//! Exit status 0 if every byte was there.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("this example needs Linux: it takes over memory in a memfd");
    std::process::ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::error::Error;
    use std::process::ExitCode;

    use heirloom::Heirloom;
    use heirloom::arena::Arena;
    use heirloom::folio::Disposition;
    use heirloom::jump::Inherited;
    use heirloom::kho::{Handle, Parts, Run};
    use heirloom::restore::SealPolicy;
    use heirloom::slab::{CacheSpec, persist};
    use sha2::{Digest, Sha256};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    /// A file as the predecessor describes it. The names, offsets and sizes are the layout's
    /// fingerprint: with any other the cache would be refused.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    struct FileRecord {
        path: [u8; 16],
        data: [u8; 16],
        sha256: [u8; 32],
        bytes: u64,
        path_bytes: u64,
    }
    persist!(FileRecord { path, data, sha256, bytes, path_bytes });

    pub(crate) fn main() -> ExitCode {
        match take_over() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("successor: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn take_over() -> Result<bool, Box<dyn Error>> {
        // SAFETY: set, if it is set, by the `Jump` of the predecessor.
        let Some(inherited) = unsafe { Inherited::from_env() }? else {
            return Err("nothing to take over: `handover --successor` starts this program".into());
        };
        let arena = Arena::open(inherited.fd)?;
        let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
        let policy = SealPolicy::Required;
        // SAFETY: the predecessor became this process, and nobody else has the arena.
        let heirloom =
            unsafe { Heirloom::revive(&arena, &map, inherited.entry, "successor", policy) }?;
        let from = heirloom.predecessor().map(|p| p.as_str().to_owned()).unwrap_or_default();

        // A cache of the same name and another layout is not what was left: refused.
        let wrong = heirloom.slabs().adopt(CacheSpec::new("file-record", 8));
        assert!(wrong.is_err(), "a record of 8 bytes is another record");

        drop(heirloom.claim_root("handover")?);
        let (mut files, mut bytes, mut lost) = (0_u64, 0_u64, 0_u64);
        let mut kinds = BTreeMap::new();
        let records = heirloom.adopt::<FileRecord>("file-record", true)?;
        for record in records.claim_all() {
            let path = heirloom.restore(Handle::from(record.path))?;
            // SAFETY: the path is ours since just now, and that long.
            let name = unsafe {
                std::slice::from_raw_parts(path.as_ptr(), record.path_bytes as usize).to_vec()
            };
            // SAFETY: ours, and not used again.
            unsafe { heirloom.free(path) }?;
            let (kind, digest) = check(&arena, &heirloom, &record)?;
            if digest != record.sha256 {
                eprintln!("successor: lost: {} changed", String::from_utf8_lossy(&name));
                lost += 1;
            }
            files += 1;
            bytes += record.bytes;
            *kinds.entry(kind).or_insert(0_u64) += 1;
        }
        let finished = heirloom.finish(|_| Disposition::Free)?;
        let unclaimed = finished.folios + finished.slabs + finished.objects;
        println!("successor: from \"{from}\", {kinds:?}, {unclaimed} unclaimed");
        println!("successor: {files} files, {bytes} bytes, {lost} lost");
        Ok(lost == 0 && unclaimed == 0)
    }

    /// Claims a file's contents, sums them up and frees them: what they were, and their SHA-256.
    fn check(
        arena: &Arena,
        heirloom: &Heirloom<&Arena>,
        record: &FileRecord,
    ) -> Result<(&'static str, [u8; 32]), Box<dyn Error>> {
        let length = record.bytes as usize;
        if length == 0 {
            return Ok(("empty", Sha256::digest([]).into()));
        }
        let handle = Handle::from(record.data);
        let kind = match handle.parts()? {
            Parts::Object { .. } => "small",
            Parts::Buffer { .. } => "large",
            Parts::Area(_) => {
                let claimed = heirloom.claim_area(handle)?;
                let mut runs: Vec<Run> = Vec::new();
                claimed.for_each(|block| runs.push(block.run()))?;
                let view = arena.map_area(&runs)?;
                // SAFETY: the area is ours, and nobody writes it.
                let digest = Sha256::digest(unsafe { view.bytes() }.get(..length).ok_or("short")?);
                drop(view);
                let mut freed = Ok(());
                let done = claimed.unpreserve(|block| {
                    // SAFETY: the block is ours since just now, and nothing leads to it.
                    let result = unsafe { heirloom.memory().free(block) };
                    freed = freed.and(result);
                });
                done.map_err(|(_, error)| error)?;
                freed?;
                return Ok(("area", digest.into()));
            }
            other => return Err(format!("no file is a {other:?}").into()),
        };
        let buffer = heirloom.restore(handle)?;
        // SAFETY: the buffer is ours since just now, and at least that long.
        let digest = Sha256::digest(unsafe { std::slice::from_raw_parts(buffer.as_ptr(), length) });
        // SAFETY: ours, and not used again.
        unsafe { heirloom.free(buffer) }?;
        Ok((kind, digest.into()))
    }
}
