//! Memory between two kernels: written out and checked before the second changes any of it.
//!
//! The example kernel reads a word that nothing else reads, if its command line says `look=1`: see `show` in
//! `examples/kernel/src/{x86_64,aarch64}/jump.rs`. Linux is stopped in the function that looks at what it was handed.

use anyhow::{Context, Result, ensure};

use super::chain::Chain;
use super::check::Check;
use crate::linux::machine::Machine;

/// What only its owner can read: states of Linux's own test, and what the example kernel published.
const ACCEPTED: [&str; 2] = ["liveupdate-test-flb-v*", "kernel"];

/// How the example kernel shows what it was handed.
pub(crate) struct Shown {
    /// The word that it reads.
    word: u64,
    /// Which registers say where the root page is, where the list of scratch is, how many bytes that has, and which kernel
    /// it is: by the debugger's numbers.
    registers: [usize; 4],
}

/// On x86-64: RDI, RSI, RDX, RCX.
pub(crate) const X86_64: Shown = Shown { word: 0xa_1000, registers: [5, 4, 3, 2] };
/// On arm64: X0 to X3.
pub(crate) const ARM64: Shown = Shown { word: 0x1000, registers: [0, 1, 2, 3] };

/// Lets the chain run, and checks what each kernel is handed. `linux` is where Linux looks at it.
pub(crate) fn look(
    machine: &mut Machine,
    chain: &Chain,
    check: &Check,
    shown: &Shown,
    linux: Option<u64>,
) -> Result<()> {
    let deadline = machine.deadline();
    let mut debugger = machine.debugger()?;
    let mut monitor = machine.monitor()?;
    debugger.watch(shown.word)?;
    if let Some(address) = linux {
        debugger.stop_at(address)?;
    }
    debugger.run()?;
    for (step, act) in chain.plan.chars().enumerate().skip(1) {
        let stopped = debugger.stopped(deadline);
        stopped.with_context(|| format!("kernel {step}, {act:?}, was handed nothing"))?;
        let linux = linux.filter(|_| act == 'l');
        let [root, scratch, scratch_bytes] = if linux.is_some() {
            let [root, _, scratch, scratch_bytes] = debugger.arguments()?;
            [root, scratch, scratch_bytes]
        } else {
            let [root, scratch, scratch_bytes, to] = debugger.registers(shown.registers)?;
            ensure!(to == step as u64, "kernel {to} comes in the place of kernel {step}");
            [root, scratch, scratch_bytes]
        };
        monitor.dump(&check.dump)?;
        let checked = check.check(root, (scratch, scratch_bytes), &ACCEPTED);
        checked.with_context(|| format!("handed to kernel {step}, {act:?}"))?;
        if step + 1 == chain.plan.len() {
            break;
        }
        if let Some(address) = linux {
            debugger.pass(address, deadline)?;
        } else {
            debugger.pass_read(shown.word, deadline)?;
        }
    }
    debugger.leave()
}
