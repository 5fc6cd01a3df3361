//! A service finds its memory again: after a jump, and after it was killed, out of its manager's hands.
#![cfg(all(feature = "std", target_os = "linux"))]

use std::os::fd::AsFd;
use std::process::Command;

use heirloom::arena::{Arena, RangeSpec};
use heirloom::jump::Jump;
use heirloom::service::{Cold, Service, ServiceError};
use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
use heirloom_testkit::service::{Life, Manager};

const NAME: &str = "counter";

/// Starts the service with all that the manager keeps.
fn start(manager: &Manager) -> Life {
    let mut command = manager.command(&std::env::current_exe().unwrap());
    command.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("HEIRLOOM_TEST_SERVICE", "1");
    Life::start(command)
}

#[test]
fn the_memory_is_found_again_however_a_service_ends() {
    let manager = Manager::new("service");
    let mut first = start(&manager);
    manager.attend();
    assert_eq!(first.says(), "cold: no predecessor left anything; generation 0, count 1");
    assert_eq!(manager.kept().len(), 1);
    first.kill();

    // Killed at no instant in particular, and started anew with what was held.
    let mut second = start(&manager);
    manager.attend();
    assert_eq!(second.says(), "warm; generation 1, count 2");
    // It jumps into a successor, which has its number, and to which nothing of the manager's is new.
    second.tell("jump");
    manager.attend();
    assert_eq!(second.says(), "warm; generation 2, count 3");
    // A second one beside it is refused, and changes nothing of what is held.
    let mut beside = start(&manager);
    assert_eq!(beside.says(), format!("process {} has the arena", second.child.id()));
    beside.kill();
    second.kill();

    let mut third = start(&manager);
    manager.attend();
    assert_eq!(third.says(), "warm; generation 3, count 4");
    third.tell("cold");
    // It has the old one dropped, and another held.
    manager.attend();
    manager.attend();
    assert_eq!(
        third.says(),
        "cold: the handover is of no use here: no subtree is named none; generation 0, count 1"
    );
    assert_eq!(manager.kept().len(), 1);
    third.kill();
    let mut fourth = start(&manager);
    manager.attend();
    assert_eq!(fourth.says(), "warm; generation 1, count 2");
    fourth.kill();
}

#[test]
fn an_arena_without_a_handover_is_no_predecessor() {
    let manager = Manager::new("empty");
    let arena = Arena::create("empty", &[memory()]).unwrap();
    manager.kept().push((NAME.to_owned(), arena.share().unwrap()));
    drop(arena);
    let mut life = start(&manager);
    // What was of no use is dropped, and the new one kept.
    manager.attend();
    manager.attend();
    assert_eq!(manager.kept().len(), 1);
    let text = "cold: the predecessor ended before it began a handover; generation 0, count 1";
    assert_eq!(life.says(), text);
    life.kill();
    // A name that another descriptor has, of no arena.
    let file = std::fs::File::open("/dev/null").unwrap();
    *manager.kept() = vec![(NAME.to_owned(), file.into())];
    let mut life = start(&manager);
    manager.attend();
    manager.attend();
    let text = life.says();
    assert!(text.starts_with("cold: the predecessor's memory cannot be had: "), "{text}");
    life.kill();
    // Beside one with nothing in it, the other is found, whichever the manager names first.
    let empty = Arena::create("empty", &[memory()]).unwrap().share().unwrap();
    for (at, count) in [(0, 2), (1, 3)] {
        manager.kept().truncate(1);
        manager.kept().insert(at, (NAME.to_owned(), empty.try_clone().unwrap()));
        let mut life = start(&manager);
        // (The emulated manager keeps the newest of a name: the arena that is told anew.)
        manager.attend();
        assert_eq!(life.says(), format!("warm; generation {}, count {count}", count - 1));
        life.kill();
    }
}

#[test]
fn names_that_no_manager_can_keep_are_refused() {
    for name in ["", "a:b", "a\nFDSTOREREMOVE=1", "na\u{ef}ve", &"n".repeat(256)] {
        // SAFETY: refused before anything is taken.
        let refused = unsafe { Service::begin(name, &[memory()]) };
        assert!(matches!(refused, Err(ServiceError::Name)), "{name:?}");
    }
}

#[test]
fn a_service_goes_on_where_its_manager_is_gone() {
    let manager = Manager::new("gone");
    let mut life = start(&manager);
    manager.attend();
    assert_eq!(life.says(), "cold: no predecessor left anything; generation 0, count 1");
    drop(manager);
    life.tell("jump");
    assert_eq!(life.says(), "warm; generation 1, count 2");
    life.kill();
}

fn memory() -> RangeSpec {
    RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) }
}

/// Counts its lives. Does something only where a manager started it.
#[test]
fn the_service() {
    if std::env::var_os("HEIRLOOM_TEST_SERVICE").is_none() {
        return;
    }
    // SAFETY: this process was started for this test alone, and has opened nothing that it passes on.
    let mut service = match unsafe { Service::begin(NAME, &[memory()]) } {
        Ok(service) => service,
        Err(error) => return println!("service: {error}"),
    };
    loop {
        let heirloom = service.start("service test", SealPolicy::Checked).unwrap();
        assert!(service.hold(NAME, std::io::stdin().as_fd()).is_err());
        let again = service.start("service test", SealPolicy::Checked);
        assert!(matches!(again, Err(ServiceError::Started)));
        let count = match heirloom.claim_root("count") {
            Ok(root) => u64::from_le_bytes(root.bytes().try_into().unwrap()) + 1,
            Err(_) => 1,
        };
        heirloom.finish(|_| Disposition::Free).unwrap();
        heirloom.publish("count", &count.to_le_bytes()).unwrap();
        let cold = service.cold().map_or("warm".to_owned(), |why| format!("cold: {why}"));
        println!("service: {cold}; generation {}, count {count}", heirloom.generation());
        let mut told = String::new();
        std::io::stdin().read_line(&mut told).unwrap();
        match told.trim_end() {
            "jump" => {
                let mut successor = Command::new(std::env::current_exe().unwrap());
                successor.args(["the_service", "--exact", "--nocapture", "--test-threads=1"]);
                let jump = Jump::new(service.arena(), heirloom.entry()).unwrap();
                panic!("{}", jump.exec(successor));
            }
            "cold" => {
                let why = heirloom.claim_root("none").err().map(Cold::Refused).unwrap();
                service = service.start_cold(why).unwrap();
            }
            _ => return,
        }
    }
}
