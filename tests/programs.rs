//! Successive generations as processes: the same program, and two different ones.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An example's program. `cargo test` builds it beside this one; `cargo test --test` does not.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(name);
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--example", name, "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    }
    program
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(example("handover"));
    command.args(["--files", env!("CARGO_MANIFEST_DIR"), "--limit", "12000000"]).args(arguments);
    command.output().unwrap()
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_program_hands_over_to_itself_again_and_again() {
    let output = run(&["--generations", "6"]);
    let last = last_line(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(last.starts_with("handover: 6 generations, "), "{last}");
    assert!(last.ends_with(", 0 lost, 0 leaked"), "{last}");
}

#[test]
fn successors_that_end_in_the_middle_of_their_takeover_lose_nothing() {
    let output = run(&["--crash", "--generations", "6", "--seed", "4566"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = last_line(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(last.starts_with("handover: 6 generations, "), "{last}");
    assert!(last.ends_with(", 0 lost, 0 leaked"), "{last}");
    // ended 21 of 27 successors, 11 by the clock, 10 at a step, up to 10 in a row (seed 4566):
    let ended = text.lines().find(|line| line.starts_with("ended ")).expect("how many ended");
    let ended: u64 = ended.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    // With this seed the first ten end at steps, and so whatever the supervisor's clock says.
    assert!(ended >= 10, "{text}");
    assert!(text.contains("up to 10 in a row"), "{text}");
}

#[test]
fn two_successive_generations_are_different_programs() {
    let successor = example("successor");
    let output = run(&["--generations", "2", "--successor", successor.to_str().unwrap()]);
    let last = last_line(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(last.starts_with("successor: ") && last.ends_with(" 0 lost"), "{last}");
    assert!(!last.starts_with("successor: 0 files"), "{last}");
}

#[test]
fn an_arena_too_small_for_the_files_is_an_error_and_no_crash() {
    let output = run(&["--generations", "2", "--arena", "1000000"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("no free"), "{error}");
}

#[test]
fn a_service_becomes_another_and_keeps_its_notes_and_its_socket() {
    let service = example("service");
    let mut child = Command::new(&service);
    child.arg("127.0.0.1:0").env_remove("NOTIFY_SOCKET").stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut says = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = || says.next().unwrap().unwrap();
    let said = next();
    let (address, rest) = said.split_once(": ").unwrap();
    assert_eq!(rest, "0 notes of generation 0: no predecessor left anything");
    let ask = |what: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        writeln!(stream, "{what}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let jump = format!("become {}", service.display());
    assert_eq!(ask("add water the plants\nadd feed the cat"), "added\nadded\n");
    assert_eq!(ask(&jump), "");
    assert_eq!(next(), format!("{address}: 2 notes of generation 1"));
    assert_eq!(ask("add third"), "added\n");
    assert!(ask("become /no/such/program").contains("No such file"));
    assert_eq!(ask(&jump), "");
    assert_eq!(next(), format!("{address}: 3 notes of generation 2"));
    assert_eq!(ask("list"), "water the plants\nfeed the cat\nthird\n");
    child.kill().unwrap();
    child.wait().unwrap();
}
