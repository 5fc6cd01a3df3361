//! `cli/crash/heirloom.c`, the extension of crash, in a program that has of crash what an extension needs. It is compiled against
//! crash's own header where that is installed. Without a C compiler nothing is tried, and that is said.

mod common;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use common::{FIXTURE, Temporary, heirloom};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");
/// Where crash's header is installed.
const HEADERS: &str = "/usr/include/crash";

/// The extension and the program, compiled, and what that is to write in place of a terminal.
struct Session {
    extension: Temporary,
    host: Temporary,
    output: Temporary,
}

/// Says, past what the test harness keeps to itself, that something was not tried.
fn skipped(what: &str) {
    let said = format!("\n**** SKIPPED: {what} ****\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

/// Compiles one of the files. Returns `false` if there is no compiler.
fn compile(headers: &str, source: &str, to: &Temporary, more: &[&str]) -> bool {
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-DX86_64", "-isystem", headers]);
    compiler.args(["-o", to.as_str()]).arg(format!("{CRATE}/{source}")).args(more);
    match compiler.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        ran => {
            let ran = ran.unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            true
        }
    }
}

impl Session {
    /// Compiles both against the header in `headers`. `None`: there is no compiler.
    fn new(headers: &str) -> Option<Self> {
        let [extension, host, output] = [(); 3].map(|()| Temporary::path());
        let compiled = compile(headers, "crash/heirloom.c", &extension, &["-shared", "-fPIC"])
            && compile(headers, "tests/crash/host.c", &host, &["-rdynamic", "-ldl"]);
        if !compiled {
            skipped("no C compiler: the extension of crash was not tried");
            return None;
        }
        Some(Self { extension, host, output })
    }

    /// Has the extension's command run on a dump. Returns the status, what it wrote where crash writes, and its errors.
    fn run(&self, program: &str, dump: &str, arguments: &[&str]) -> (i32, String, String) {
        let mut host = Command::new(self.host.as_str());
        host.args([self.extension.as_str(), dump, self.output.as_str()]).args(arguments);
        let ran = host.env("HEIRLOOM", program).output().unwrap();
        assert!(ran.stdout.is_empty(), "past where crash writes: {:?}", ran.stdout);
        let written = std::fs::read_to_string(self.output.as_str()).unwrap();
        let errors = String::from_utf8(ran.stderr).unwrap();
        (ran.status.code().unwrap(), written, errors)
    }

    /// Tries all that the command does.
    fn try_all(&self) {
        let program = env!("CARGO_BIN_EXE_heirloom");
        for arguments in [&["inspect", "--json"][..], &["check", "--for", "6.16"], &["inspect"]] {
            let (code, written, errors) = self.run(program, FIXTURE, arguments);
            let shown = heirloom(&[&[arguments[0], FIXTURE][..], &arguments[1..]].concat());
            assert_eq!((code, errors.as_str()), (0, ""), "{arguments:?}");
            // In order with what crash itself writes before and behind it.
            assert_eq!(written, format!("before\n{}behind\n", shown.out), "{arguments:?}");
        }
        let (code, written, errors) = self.run(program, "/no dump", &["inspect"]);
        assert!(code == 0 && errors.contains("/no dump"), "{errors}");
        assert_eq!(written, "before\nbehind\n");
        let (code, written, _) = self.run("/bin/echo", "live", &["check", "--quiet"]);
        assert_eq!((code, written.as_str()), (0, "before\ncheck --live --quiet\nbehind\n"));
        // Crash's own ways to say what is wrong: its usage, and an error that ends a script.
        let (code, _, errors) = self.run(program, FIXTURE, &[]);
        assert!(code == 5 && errors.contains("heirloom inspect|check"), "{errors}");
        let (code, _, errors) = self.run("/no program", FIXTURE, &["inspect"]);
        assert!(code == 3 && errors.contains("cannot run /no program"), "{errors}");
    }
}

#[test]
fn the_command_runs_on_the_dump_and_writes_where_crash_writes() {
    let Some(session) = Session::new(&format!("{CRATE}/tests/crash")) else { return };
    session.try_all();
}

#[test]
fn with_crash_s_own_header_it_does_the_same() {
    if !Path::new(HEADERS).join("defs.h").exists() || cfg!(not(target_arch = "x86_64")) {
        skipped(
            "no header of crash for x86-64: its extension was compiled against a stand-in alone",
        );
        return;
    }
    let Some(session) = Session::new(HEADERS) else { return };
    session.try_all();
}
