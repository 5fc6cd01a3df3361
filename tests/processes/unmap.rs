//! A process ends, or executes its successor, without a step for each page that it has touched.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use heirloom::Entry;
use heirloom::arena::Arena;
use heirloom::folio::DirectMap;
use heirloom::jump::{Inherited, Jump};
use heirloom::kho::{PAGE_SIZE, PhysAddr};
use rustix::process::{Pid, Signal, kill_process};

use crate::fork::{End, forked, libc_fork};
use crate::{arena, elsewhere, lend, lent, part, plays};

/// Pages of the arena that is touched: all that it has.
const PAGES: u64 = (8 << 20) / PAGE_SIZE as u64;

/// Roles of the test below.
#[test]
fn has_touched_all_of_it() {
    if plays("touches") {
        let arena = Arena::open(lent()).unwrap();
        arena.unmap_later().unwrap();
        arena.unmap_later().unwrap();
        for page in 0..PAGES {
            let addr = PhysAddr::new((4 << 30) + page * PAGE_SIZE as u64);
            // SAFETY: in the arena's range, and nothing else uses it.
            unsafe { arena.ptr(addr).write(1) };
        }
        say("it has the arena");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        if line == "jump\n" {
            let start = PhysAddr::new(4 << 30);
            let entry = Entry { root: start, scratch: start, scratch_bytes: 16 };
            panic!("{}", Jump::new(&arena, entry).unwrap().exec(part(TEST, "successor")));
        }
    }
    if plays("successor") {
        // SAFETY: nothing else takes what was passed on.
        let passed = unsafe { Inherited::from_env() }.unwrap().unwrap();
        let arena = Arena::open(passed.fd).unwrap();
        say("it has the arena");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        drop(arena);
    }
}

const TEST: &str = "unmap::has_touched_all_of_it";

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

fn wait_for(told: &mut impl BufRead) {
    let mut told = told.lines();
    assert!(told.any(|line| line.unwrap().contains("it has the arena")));
}

/// A process that has touched all of an arena, and its unmapper, which is stopped: what it does not do, the
/// process did itself or it is not done.
struct Service {
    child: Child,
    told: BufReader<std::process::ChildStdout>,
    unmapper: Pid,
}

impl Service {
    fn new(name: &str, arena: Arena) -> Self {
        let mut command = part(TEST, "touches");
        lend(&mut command, arena.share().unwrap());
        drop(arena);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut told);
        let found = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let said = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
            let is_one = said("comm")? == "heirloom-unmap\n" && said("maps")?.contains(name);
            Pid::from_raw(pid).filter(|_| is_one)
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "one in each process");
        let unmapper = found[0];
        kill_process(unmapper, Signal::STOP).unwrap();
        while state(unmapper) != Some('T') {
            std::thread::yield_now();
        }
        assert_eq!(touched(unmapper), PAGES);
        Self { child, told, unmapper }
    }

    fn send(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// The letter of what a process does; `None`: there is none, or it has ended.
fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let state = stat.rsplit(") ").next()?.chars().next();
    state.filter(|state| !matches!(state, 'Z' | 'X'))
}

/// Pages of shared memory that a process has mapped and touched.
fn touched(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024 / PAGE_SIZE as u64
}

/// Lets the unmapper go on, and end.
fn goes_on(unmapper: Pid) {
    kill_process(unmapper, Signal::CONT).unwrap();
    ends(unmapper);
}

/// Waits until the unmapper has ended, by itself.
fn ends(unmapper: Pid) {
    while state(unmapper).is_some() {
        std::thread::yield_now();
    }
}

#[test]
fn a_process_that_is_killed_lets_the_memory_go_with_its_pages_mapped() {
    let name = format!("unmap-killed-{}", std::process::id());
    let arena = arena(&name);
    let memory = arena.share().unwrap();
    let mut service = Service::new(&name, arena);
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    // Nothing of them was taken down, and all of the memory is a successor's.
    assert_eq!(touched(service.unmapper), PAGES);
    let arena = Arena::open(memory).unwrap();
    goes_on(service.unmapper);
    // SAFETY: in the arena's range, and nothing else uses it.
    assert_eq!(unsafe { arena.ptr(PhysAddr::new(4 << 30)).read() }, 1);
}

#[test]
fn a_process_that_executes_its_successor_leaves_its_pages_mapped() {
    let name = format!("unmap-jump-{}", std::process::id());
    let mut service = Service::new(&name, arena(&name));
    service.send("jump\n");
    wait_for(&mut service.told);
    assert_eq!(touched(service.unmapper), PAGES);
    goes_on(service.unmapper);
    service.send("end\n");
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn an_unmapper_is_of_its_service_s_program_and_has_another_name() {
    let name = format!("unmap-name-{}", std::process::id());
    let mut service = Service::new(&name, arena(&name));
    let (pid, unmapper) = (service.child.id(), service.unmapper.as_raw_nonzero());
    let told = |file| {
        let of = |pid: &dyn std::fmt::Display| format!("/proc/{pid}/{file}");
        [of(&pid), of(&unmapper)]
    };
    let [one, other] = told("exe").map(|exe| fs::read_link(exe).unwrap());
    assert_eq!(one, other, "what `pidof` goes by");
    let [one, other] = told("comm").map(|comm| fs::read_to_string(comm).unwrap());
    assert_ne!(one, other, "what `pgrep -x` goes by");
    kill_process(service.unmapper, Signal::CONT).unwrap();
    service.send("end\n");
    assert!(service.child.wait().unwrap().success());
    ends(service.unmapper);
}

/// How many processes start an unmapper each, and how many microseconds there are between two of a process's signals.
const PROCESSES: u32 = 200;
const BETWEEN: libc::suseconds_t = 30;

extern "C" fn nothing(_: libc::c_int) {}

/// Lets signals come that interrupt calls, again and again.
fn interrupts() {
    let often = libc::timeval { tv_sec: 0, tv_usec: BETWEEN };
    let often = libc::itimerval { it_interval: often, it_value: often };
    // SAFETY: all zeroes are a `sigaction`, one without `SA_RESTART`; the handler does nothing, and the timer is read.
    unsafe {
        let mut action = core::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, core::ptr::null_mut()), 0);
        assert_eq!(libc::setitimer(libc::ITIMER_REAL, &raw const often, core::ptr::null_mut()), 0);
    }
}

#[test]
fn an_unmapper_is_started_whatever_signals_come_meanwhile() {
    if elsewhere("unmap::an_unmapper_is_started_whatever_signals_come_meanwhile") {
        return;
    }
    let arena = arena("unmap-signals");
    for n in 0..PROCESSES {
        let end = forked(libc_fork, || {
            interrupts();
            i32::from(arena.unmap_later().is_err())
        });
        assert_eq!(end, End::Exit(0), "process {n}");
    }
}

#[test]
fn an_unmapper_has_no_descriptor_but_the_one_it_waits_for() {
    let name = format!("unmap-alone-{}", std::process::id());
    let mut service = Service::new(&name, arena(&name));
    let directory = format!("/proc/{}/fd", service.unmapper.as_raw_nonzero());
    let open: Vec<_> = fs::read_dir(directory).unwrap().map(|fd| fd.unwrap().file_name()).collect();
    assert_eq!(open, ["0"]);
    // A signal to all of the service's group is not its.
    kill_process(service.unmapper, Signal::TERM).unwrap();
    kill_process(service.unmapper, Signal::CONT).unwrap();
    service.send("end\n");
    assert!(service.child.wait().unwrap().success());
    ends(service.unmapper);
}
