//! A build of the cache that crashes as it starts, at the step that `CRASH_AT` says.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use heirloom::arena::RangeSpec;
    use heirloom::service::Service;
    use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
    use heirloom_cache::store::{NEVER, Store};

    let at: u32 = std::env::var("CRASH_AT")?.parse()?;
    let step = |n| {
        if at == n {
            std::process::abort();
        }
    };
    let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    step(0);
    // SAFETY: the process has opened nothing, and nothing else writes the memory.
    let service = unsafe { Service::begin("cache", &[memory]) }?;
    assert_eq!(service.cold(), None, "it finds what the others left");
    step(1);
    let heirloom = service.start("heirloom-cache crashing", SealPolicy::Checked)?;
    step(2);
    let pool = heirloom_collections::Pool::open(heirloom.slabs())?;
    let store = Store::open(&heirloom, &pool)?;
    step(3);
    heirloom.finish(|_| Disposition::Free)?;
    step(4);
    for n in 0_u64.. {
        let key = format!("crashing:{n}");
        store.set((key.as_bytes(), &n.to_le_bytes()), None, NEVER, 1)?;
        if n == 1000 {
            step(5);
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {}
