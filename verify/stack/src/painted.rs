//! How deep the stack gets that a call runs on: it is painted before, and looked at afterwards.

use std::alloc::{Layout, alloc_zeroed};
use std::ffi::c_void;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use heirloom::folio::{Disposition, Linear, NodeId, OneCpu, Request};
use heirloom::kho::{Handle, Order, PAGE_SIZE, PhysAddr, Run};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::slab::CacheSpec;
use heirloom::{Error, Heirloom};

const BYTES: usize = 64 << 20;
const START: u64 = 4 << 30;
const STACK: usize = 1 << 20;
const PAINT: u64 = 0x7061_696e_7465_6421;

type Kernel = Heirloom<OneCpu>;

/// What the calls work on: none of it is on the stack.
struct Ground {
    base: NonNull<u8>,
    map: [(Run, NodeId); 1],
    scratch: [Run; 1],
    kernel: Result<Kernel, Error>,
    handle: Option<Handle>,
    entry: Option<Entry>,
    result: Result<(), Error>,
    /// Where the stack was when the call was made.
    at: usize,
}

impl Ground {
    fn machine(&self) -> OneCpu {
        // SAFETY: allocated for good in `measure`; one kernel at a time works in it.
        OneCpu::new(unsafe { Linear::new(self.base, PhysAddr::new(START), BYTES) })
    }

    fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("`boot` ran first, or `revive`")
    }

    /// How it came up.
    fn came_up(&self) -> Result<(), Error> {
        self.kernel.as_ref().map_or_else(|error| Err(*error), |_| Ok(()))
    }

    fn entry(&self) -> Entry {
        self.entry.unwrap_or_else(|| self.kernel().entry())
    }
}

#[inline(never)]
fn boot(ground: &mut Ground) -> Result<(), Error> {
    // SAFETY: the machine has all of the map, and nothing else uses it.
    ground.kernel =
        unsafe { Heirloom::boot(ground.machine(), &ground.map, &ground.scratch, "stack") };
    ground.came_up()
}

#[inline(never)]
fn revive(ground: &mut Ground) -> Result<(), Error> {
    let (machine, entry) = (ground.machine(), ground.entry());
    // SAFETY: as in `boot`; the kernel before is not called any more.
    ground.kernel =
        unsafe { Heirloom::revive(machine, &ground.map, entry, "stack", SealPolicy::Required) };
    ground.came_up()
}

#[inline(never)]
fn work(ground: &mut Ground) -> Result<(), Error> {
    let kernel = ground.kernel();
    let cache = kernel.slabs().cache(CacheSpec::new("objects", 100).preserving(true))?;
    for _ in 0..100 {
        cache.alloc()?;
    }
    let folio = kernel.memory().alloc_folio(Request::new(Order::ZERO))?;
    let kept = folio.preserve().map_err(|refused| refused.error)?;
    let handle = kernel.folio_handle(&kept)?;
    ground.handle = Some(handle);
    Ok(())
}

#[inline(never)]
fn publish(ground: &mut Ground) -> Result<(), Error> {
    ground.kernel().publish("root", &[1; 64])
}

#[inline(never)]
fn seal(ground: &mut Ground) -> Result<(), Error> {
    ground.kernel().seal()?;
    Ok(())
}

#[inline(never)]
fn claim(ground: &mut Ground) -> Result<(), Error> {
    let kernel = ground.kernel();
    kernel.claim_root("root")?;
    if let Some(handle) = ground.handle {
        kernel.claim_folio(handle)?;
    }
    Ok(())
}

#[inline(never)]
fn adopt(ground: &mut Ground) -> Result<(), Error> {
    let slabs = ground.kernel().slabs();
    slabs.adopt(CacheSpec::new("objects", 100).preserving(true))?;
    Ok(())
}

#[inline(never)]
fn finish(ground: &mut Ground) -> Result<(), Error> {
    ground.kernel().finish(|_| Disposition::Free)?;
    Ok(())
}

type Call = fn(&mut Ground) -> Result<(), Error>;

const CALLS: [(&str, Call); 8] = [
    ("boot", boot),
    ("work", work),
    ("publish", publish),
    ("seal", seal),
    ("revive", revive),
    ("claim", claim),
    ("adopt", adopt),
    ("finish", finish),
];

/// Every call and how deep it went, in bytes.
pub(super) fn measure() -> Result<Vec<(&'static str, usize)>, String> {
    let layout = Layout::from_size_align(BYTES, PAGE_SIZE).map_err(|e| e.to_string())?;
    // SAFETY: of some size.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or("no memory")?;
    let all = Run::covering(PhysAddr::new(START), BYTES as u64).ok_or("no frames")?;
    let map = [(all, NodeId(0))];
    let bytes = Kernel::scratch_bytes(&map, 1) as u64;
    let scratch = [Run::covering(PhysAddr::new(START), bytes).ok_or("no frames")?];
    let mut ground = Ground {
        base,
        map,
        scratch,
        kernel: Err(Error::ScratchTooSmall { needed: 0, largest: 0 }),
        handle: None,
        entry: None,
        result: Ok(()),
        at: 0,
    };
    let mut depths = Vec::new();
    for (what, call) in CALLS {
        let bytes = depth(&mut ground, call)?;
        ground.result.map_err(|error| format!("{what}: {error}"))?;
        depths.push((what, bytes));
    }
    Ok(depths)
}

/// What a thread is given.
struct Job<'g>(&'g mut Ground, Call);

extern "C" fn run(job: *mut c_void) -> *mut c_void {
    // SAFETY: `depth` passes a job, and waits for the thread.
    let Job(ground, call) = unsafe { &mut *job.cast::<Job<'_>>() };
    let here = 0_u64;
    ground.at = black_box(&raw const here).addr();
    ground.result = call(ground);
    std::ptr::null_mut()
}

/// Runs `call` on a stack that was painted; how many bytes of it were written below the caller.
fn depth(ground: &mut Ground, call: Call) -> Result<usize, String> {
    let mut stack = vec![[PAINT; 512]; STACK / 4096];
    let start = stack.as_mut_ptr();
    let mut job = Job(ground, call);
    let failed = |what: &str, code: i32| match code {
        0 => Ok(()),
        code => Err(format!("{what}: {}", std::io::Error::from_raw_os_error(code))),
    };
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are initialised before they are used; the stack and the job
    // outlive the thread, which is joined here; nothing else touches either meanwhile.
    unsafe {
        failed("attributes", libc::pthread_attr_init(attributes.as_mut_ptr()))?;
        let code = libc::pthread_attr_setstack(attributes.as_mut_ptr(), start.cast(), STACK);
        failed("stack", code)?;
        let job = (&raw mut job).cast();
        let code = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run, job);
        failed("thread", code)?;
        failed("join", libc::pthread_join(thread.assume_init(), std::ptr::null_mut()))?;
    }
    let clean = stack.as_flattened().iter().take_while(|word| **word == PAINT).count();
    Ok(ground.at - (start.addr() + clean * size_of::<u64>()))
}
