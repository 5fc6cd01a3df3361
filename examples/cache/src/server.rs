//! A life of the cache: it begins with what there is, serves, and ends or becomes its successor.

use std::io;
use std::net::TcpListener;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::AtomicUsize;

use heirloom::arena::RangeSpec;
use heirloom::jump::Jump;
use heirloom::service::Service;
use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
use heirloom_collections::Pool;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::cache::Cache;
use crate::connection::Connection;
use crate::luggage::{self, LISTEN};
use crate::store::Store;
use crate::worker::{Worker, most_clients};
use crate::{Failure, Options};

/// Runs the cache: returns when it is told to end.
///
/// # Safety
/// The process has opened nothing, and nothing but this writes the memory.
pub(crate) unsafe fn run(build: &str, options: &Options) -> Result<(), Failure> {
    let memory =
        RangeSpec { start: PhysAddr::new(4 << 30), bytes: options.memory << 20, node: NodeId(0) };
    // SAFETY: as the caller says.
    let mut service = unsafe { Service::begin("cache", &[memory]) }?;
    let mut signals = Signals::new([SIGUSR2, SIGTERM, SIGINT])?;
    // One that came while the predecessor jumped comes now.
    hold_back(libc::SIG_UNBLOCK);
    // Each client has a descriptor, and two while the process jumps. Where the limit may not be raised, it stays.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok());
    let threads = threads.map_or(1, NonZero::get);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // A predecessor's socket, one that the service manager opened or held, or a new one.
    let listener = match service.take(LISTEN) {
        Some(socket) => TcpListener::from(socket),
        None => TcpListener::bind(&options.listen)?,
    };
    // A thread that was not fast enough must not wait for the next client.
    listener.set_nonblocking(true)?;
    let mut connections = luggage::unpack(&mut service);

    let how = service.cold().map_or_else(|| "warm".to_owned(), |why| why.to_string());
    let clients = AtomicUsize::new(connections.len());

    let heirloom = service.start(build, SealPolicy::Checked)?;
    let pool = Pool::open(heirloom.slabs())?;
    let store = Store::open(&heirloom, &pool)?;
    // What the store does not lead to was begun when a predecessor ended.
    heirloom.finish(|_| Disposition::Free)?;

    let cache = Cache {
        store,
        heirloom: &heirloom,
        build,
        began: &how,
        clients: &clients,
        most_clients: most_clients(descriptors, threads),
    };
    let (address, passed, once) = (listener.local_addr()?, connections.len(), Once::new());
    let begun = || {
        // Else a successor waits until Linux has forgotten each page that this process has touched.
        let _ = service.arena().unmap_later();
        // Without a manager, or with one that is gone, it goes on alone.
        let _ = service.hold(LISTEN, listener.as_fd());
        let _ = service.ready();
        let (items, generation) = (cache.store.count(), heirloom.generation());
        eprintln!(
            "{build}: {address}: {items} items, {passed} connections, generation {generation}: {how}"
        );
    };
    loop {
        let signal;
        let serving = || once.call_once(begun);
        (signal, connections) =
            serve(&cache, &listener, threads, connections, serving, &mut signals)?;
        if signal != Some(SIGUSR2) {
            return Ok(());
        }
        let jump = Jump::new(service.arena(), heirloom.entry())?;
        let error =
            luggage::pack(jump, &listener, &connections).map_or_else(|error| error, become_next);
        // There is no such program, say.
        eprintln!("{build}: goes on: {error}");
    }
}

/// Serves until a signal comes. Returns it, and all connections, at rest.
fn serve(
    cache: &Cache<'_>,
    listener: &TcpListener,
    threads: usize,
    mut connections: Vec<Connection>,
    serving: impl Fn(),
    signals: &mut Signals,
) -> Result<(Option<i32>, Vec<Connection>), Failure> {
    let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
    let mut workers = Vec::new();
    for n in (1..=threads).rev() {
        let share = connections.split_off(connections.len() - connections.len() / n);
        workers.push(Worker::new(cache.clone(), listener, stop.as_fd(), share)?);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            workers.into_iter().map(|worker| scope.spawn(move || worker.run())).collect();
        // What the service manager is to know it is told while clients are served.
        serving();
        let signal = signals.forever().next();
        // It is read by no thread, so that it wakes all.
        rustix::io::write(&stop, &1_u64.to_ne_bytes())?;
        let mut connections = Vec::new();
        for thread in threads {
            connections.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))?);
        }
        Ok((signal, connections))
    })
}

/// Becomes what stands now where this program was started from. Returns why it could not.
fn become_next(jump: Jump) -> io::Error {
    let mut words = std::env::args_os();
    let mut successor = Command::new(words.next().unwrap_or_default());
    successor.args(words);
    hold_back(libc::SIG_BLOCK);
    let error = jump.exec(successor);
    hold_back(libc::SIG_UNBLOCK);
    error
}

/// Holds `SIGUSR2` back, for this thread and what it executes (`SIG_BLOCK`), or no longer (`SIG_UNBLOCK`): a
/// program that does not catch it yet would be ended by one that comes right after another.
fn hold_back(how: i32) {
    // SAFETY: all zeroes are a set of signals, and the calls write to this one alone. What is changed is which
    // signals this thread gets.
    unsafe {
        let mut set = core::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, SIGUSR2);
        libc::pthread_sigmask(how, &raw const set, core::ptr::null_mut());
    }
}
