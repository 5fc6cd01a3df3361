//! A buffer that outlives its kernel, in one process: the example of the README.
//!
//! `cargo run --example hello`

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use heirloom::arena::{Arena, RangeSpec};
    use heirloom::{Disposition, Handle, Heirloom, NodeId, PhysAddr, Run, SealPolicy};

    let start = PhysAddr::new(4 << 30);
    let range = RangeSpec { start, bytes: 64 << 20, node: NodeId(0) };
    let arena = Arena::create("hello", &[range])?;
    let memfd = arena.share()?;
    let map = [(arena.ranges()[0].run(), NodeId(0))];
    let scratch = Run::covering(start, arena.scratch_bytes()).ok_or("scratch ends in memory")?;

    // The old kernel: a buffer that survives, and sixteen bytes that name it.
    // SAFETY: the arena is new, and nothing else uses it.
    let old = unsafe { Heirloom::boot(arena, &map, &[scratch], "hello 1.0") }?;
    let buffer = old.alloc(8)?;
    // SAFETY: eight bytes of ours.
    unsafe { buffer.cast().write(*b"heirloom") };
    // SAFETY: ours, and nothing frees it.
    let handle = unsafe { old.preserve(buffer) }?;
    old.publish("greeting", &<[u8; 16]>::from(handle))?;
    // All that passes, beside the memory itself.
    let entry = old.entry();
    println!("hello 1.0 leaves a buffer at {buffer:p}, and {entry:?}");
    drop(old);

    // The new kernel: the same memory, mapped anew.
    let (arena, policy) = (Arena::open(memfd)?, SealPolicy::Checked);
    // SAFETY: the old kernel is gone.
    let new = unsafe { Heirloom::revive(arena, &map, entry, "hello 1.1", policy) }?;
    let handle: [u8; 16] = new.claim_root("greeting")?.bytes().try_into()?;
    let buffer = new.restore(Handle::from(handle))?;
    // SAFETY: ours since just now, eight bytes that the old kernel wrote.
    let bytes = unsafe { buffer.cast::<[u8; 8]>().read() };
    println!("hello 1.1 finds it at {buffer:p}: {:?}", str::from_utf8(&bytes)?);
    assert_eq!(bytes, *b"heirloom");
    // SAFETY: ours, and not used again.
    unsafe { new.free(buffer) }?;
    new.finish(|_unclaimed| Disposition::Free)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("this example needs Linux: its memory is a memfd");
    std::process::ExitCode::FAILURE
}
