//! Notes that outlive the process that took them: a service on heirloom, whole.
//!
//! ```text
//! cargo build --release --example service
//! cargo run --release -p heirloom-cli -- hold -- target/release/examples/service
//! printf 'add water the plants\nlist\n' | nc -N 127.0.0.1 7379
//! pkill -9 -f '^target/release/examples/service'   # it is started anew, and has all notes
//! printf 'become target/release/examples/service\n' | nc -N 127.0.0.1 7379
//! ```

#[cfg(target_os = "linux")]
mod notes;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use heirloom::arena::{ArenaError, RangeSpec};
    use heirloom::jump::Jump;
    use heirloom::service::{Service, ServiceError};
    use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
    use notes::Notes;

    let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 64 << 20, node: NodeId(0) };
    // SAFETY: the first lines of `main`: the process has opened nothing itself.
    // Nothing but heirloom writes the memory.
    let mut service = match unsafe { Service::begin("notes", &[memory]) } {
        // It runs already: to be tried again (EX_TEMPFAIL), and no failure of this build.
        Err(ServiceError::Arena(error @ ArenaError::InUse { .. })) => {
            eprintln!("{error}");
            std::process::exit(75)
        }
        service => service?,
    };
    // A predecessor's socket, one that the service manager opened or held, or a new one.
    let at = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7379".to_owned());
    let listener = match service.take("listen") {
        Some(socket) => TcpListener::from(socket),
        None => TcpListener::bind(at)?,
    };
    let heirloom = service.start("notes 1.0", SealPolicy::Checked)?;
    let mut notes = Notes::claim(&heirloom)?;
    // What no note leads to was begun when a predecessor ended.
    heirloom.finish(|_| Disposition::Free)?;
    // Without a manager, or with one that is gone, it goes on alone.
    let _ = service.hold("listen", listener.as_fd());
    let _ = service.ready();
    let cold = service.cold().map(|why| format!(": {why}")).unwrap_or_default();
    eprintln!(
        "{}: {} notes of generation {}{cold}",
        listener.local_addr()?,
        notes.len(),
        heirloom.generation()
    );

    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        for line in BufReader::new(stream.try_clone()?).lines() {
            // A client that ends early, or sends no text, ends its own connection.
            let Ok(line) = line else { break };
            let said = match line.split_once(' ') {
                Some(("add", note)) => notes.add(note.as_bytes()).map(|()| "added\n".to_owned()),
                Some(("become", program)) => {
                    let jump = Jump::new(service.arena(), heirloom.entry())?;
                    let jump = jump.with_fd("listen", listener.as_fd())?;
                    // It comes back only if there is no such program.
                    Ok(format!("{}\n", jump.exec(std::process::Command::new(program))))
                }
                _ if line == "list" => Ok(notes.all()),
                _ => Ok("add NOTE, list, or become PROGRAM\n".to_owned()),
            };
            // Out of memory, say: what is there stays.
            let said = said.unwrap_or_else(|error| format!("{error}\n"));
            if stream.write_all(said.as_bytes()).is_err() {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("this example needs Linux: its memory is a memfd");
    std::process::ExitCode::FAILURE
}
