//! A service that is killed at any of its system calls is begun anew with all that it had.

use std::process::Stdio;

use heirloom::arena::RangeSpec;
use heirloom::folio::NodeId;
use heirloom::kho::PhysAddr;
use heirloom::service::Service;
use heirloom::{Disposition, SealPolicy};
use heirloom_testkit::service::{Life, Manager};

use crate::calls::{Answer, asked};
use crate::{ROLE, plays};

/// Tells the service at which of its calls it is killed.
const CALL: &str = "HEIRLOOM_TEST_CALL";

/// Tells it with which error that call fails instead.
const ERRNO: &str = "HEIRLOOM_TEST_ERRNO";

/// Counts its lives in what survives. Returns the number of this one.
fn lives() -> u64 {
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    // SAFETY: this process was started for this alone, and has opened nothing that was passed on.
    let service = unsafe { Service::begin("killed", &[range]) }.unwrap();
    let heirloom = service.start("killed", SealPolicy::Checked).unwrap();
    let life = match heirloom.claim_root("life") {
        Ok(root) => u64::from_le_bytes(root.bytes().try_into().unwrap()) + 1,
        Err(_) => 1,
    };
    heirloom.finish(|_| Disposition::Free).unwrap();
    heirloom.publish("life", &life.to_le_bytes()).unwrap();
    // The memory goes when the process is killed, and not before.
    std::mem::forget(service);
    life
}

/// A life as one of its calls says, and the number of calls that it makes.
fn service() {
    let told = |name| std::env::var(name).ok().map(|number| number.parse::<i32>().unwrap());
    let (call, errno) = (told(CALL), told(ERRNO));
    let ends = errno.map_or(Answer::Kills, Answer::Fails);
    let (life, calls) = asked(lives, 0, |calls, asked| {
        // That a descriptor closes on exec can always be said.
        let is_one =
            !asked.is_of_the_heap() && (errno.is_none() || asked.number != libc::SYS_fcntl);
        *calls += i32::from(is_one);
        if is_one && Some(*calls) == call { ends } else { Answer::GoesOn }
    });
    if call.is_none() {
        println!("service: life {life}, {calls} calls");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
}

/// Starts lives of a service: by turns one of which a call, the first, the second, is answered so, and a whole one, which must
/// find what the whole one before it left. Returns how many calls there are.
fn each_call(name: &str, errno: Option<i32>, test: &str) -> i32 {
    let manager = Manager::new(name);
    let start = |call: Option<i32>| {
        let mut command = manager.command(&std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, "service");
        command.envs(call.map(|call| (CALL, call.to_string())));
        command.envs(errno.filter(|_| call.is_some()).map(|errno| (ERRNO, errno.to_string())));
        command.stderr(Stdio::null());
        Life::start(command)
    };
    let (mut last, mut calls, mut call) = (0, 1, 0);
    while call < calls {
        call += 1;
        let ended = start(Some(call)).child.wait().unwrap();
        assert!(errno.is_some() || !ended.success() || call > 20, "call {call}: {ended}");
        let mut life = start(None);
        let said = life.says();
        let (number, rest) = said.strip_prefix("life ").unwrap().split_once(", ").unwrap();
        let number: u64 = number.parse().unwrap();
        // The one before may have counted itself.
        assert!((last + 1..=last + 2).contains(&number), "call {call}: {number} after {last}");
        calls = rest.strip_suffix(" calls").unwrap().parse().unwrap();
        last = number;
        life.kill();
    }
    calls
}

#[test]
fn a_service_that_is_killed_at_any_call_goes_on_with_what_it_had() {
    if plays("service") {
        return service();
    }
    let test = "killed::a_service_that_is_killed_at_any_call_goes_on_with_what_it_had";
    let calls = each_call("killed", None, test);
    assert!(calls > 20, "{calls}");
}

#[test]
fn a_service_of_which_any_call_fails_goes_on_with_what_it_had() {
    if plays("service") {
        return service();
    }
    let test = "killed::a_service_of_which_any_call_fails_goes_on_with_what_it_had";
    for errno in [libc::EMFILE, libc::ENOMEM] {
        each_call("failed", Some(errno), test);
    }
}
