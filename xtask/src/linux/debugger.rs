//! A debugger that can do two things: stop the machine at a function, and say what the function is
//! called with.
//!
//! GDB's remote protocol, as QEMU speaks it: `$packet#` and the sum of its bytes in two hex digits.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::machine::left;

pub(crate) struct Debugger {
    stream: BufReader<UnixStream>,
}

impl Debugger {
    /// Talks to a machine that has not been started.
    pub(crate) fn new(stream: UnixStream, deadline: Instant) -> Result<Self> {
        stream.set_read_timeout(Some(left(deadline)?))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The machine will stop before the instruction at this virtual address.
    pub(crate) fn stop_at(&mut self, address: u64) -> Result<()> {
        self.expect(&format!("Z1,{address:x},1"), "OK")
    }

    /// The machine will stop at an instruction that reads the word at this virtual address.
    pub(crate) fn watch(&mut self, address: u64) -> Result<()> {
        self.expect(&format!("Z3,{address:x},4"), "OK")
    }

    /// Lets the machine, which has stopped at an instruction that reads the word at this address, run on until another does.
    pub(crate) fn pass_read(&mut self, address: u64, deadline: Instant) -> Result<()> {
        self.expect(&format!("z3,{address:x},4"), "OK")?;
        self.send("s")?;
        self.stopped(deadline)?;
        self.watch(address)?;
        self.run()
    }

    /// Lets the machine run.
    pub(crate) fn run(&mut self) -> Result<()> {
        self.send("c")
    }

    /// Waits until it has stopped.
    pub(crate) fn stopped(&mut self, deadline: Instant) -> Result<()> {
        self.stream.get_ref().set_read_timeout(Some(left(deadline)?))?;
        let answer = self.answer()?;
        // A trap, and not the machine's end.
        ensure!(answer.starts_with("T05"), "the machine stopped with {answer}");
        Ok(())
    }

    /// What the function is called with at whose first instruction the machine has stopped: its
    /// first four arguments, as x86-64 passes them.
    pub(crate) fn arguments(&mut self) -> Result<[u64; 4]> {
        // rdi, rsi, rdx, rcx, by the debugger's numbers.
        self.registers([5, 4, 3, 2])
    }

    /// Registers of the processor that has stopped, by the debugger's numbers.
    pub(crate) fn registers<const N: usize>(&mut self, numbers: [usize; N]) -> Result<[u64; N]> {
        self.send("g")?;
        let registers = self.answer()?;
        let mut values = [0; N];
        for (value, number) in values.iter_mut().zip(numbers) {
            *value = register_value(&registers, number).context("registers")?;
        }
        Ok(values)
    }

    /// Lets the machine, which has stopped at this address, run on until it comes there again.
    pub(crate) fn pass(&mut self, address: u64, deadline: Instant) -> Result<()> {
        // An instruction that it is to stop before is not passed otherwise.
        self.expect(&format!("z1,{address:x},1"), "OK")?;
        self.send("s")?;
        self.stopped(deadline)?;
        self.stop_at(address)?;
        self.run()
    }

    /// Lets the machine run on, undisturbed from now on.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.expect("D", "OK")
    }

    fn expect(&mut self, packet: &str, expected: &str) -> Result<()> {
        self.send(packet)?;
        let answer = self.answer()?;
        ensure!(answer == expected, "{packet} was answered with {answer:?}");
        Ok(())
    }

    fn send(&mut self, packet: &str) -> Result<()> {
        Ok(self.stream.get_mut().write_all(framed(packet).as_bytes())?)
    }

    /// The next packet, acknowledged. Acknowledgements of ours before it are passed over.
    fn answer(&mut self) -> Result<String> {
        let mut byte = || -> Result<u8> {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).context("the debugger's connection")?;
            Ok(byte[0])
        };
        while byte()? != b'$' {}
        let mut packet = String::new();
        loop {
            match byte()? {
                b'#' => break,
                other => packet.push(char::from(other)),
            }
        }
        let sum = [byte()?, byte()?];
        let whole = framed(&packet);
        ensure!(whole.as_bytes().ends_with(&sum), "a packet came with the wrong sum: {packet}");
        self.stream.get_mut().write_all(b"+")?;
        Ok(packet)
    }
}

/// One of the registers, which come in hex digits, each eight bytes in the order of memory.
fn register_value(registers: &str, number: usize) -> Option<u64> {
    let digits = registers.get(16 * number..16 * (number + 1))?;
    Some(u64::from_str_radix(digits, 16).ok()?.swap_bytes())
}

fn framed(packet: &str) -> String {
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    format!("${packet}#{sum:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_the_sum_of_its_bytes() {
        assert_eq!(framed("OK"), "$OK#9a");
        assert_eq!(framed("c"), "$c#63");
    }

    #[test]
    fn a_register_is_read_from_its_bytes() {
        let registers = "00805100000000000100000000000080";
        assert_eq!(register_value(registers, 0), Some(0x51_8000));
        assert_eq!(register_value(registers, 1), Some(0x8000_0000_0000_0001));
        assert_eq!(register_value(registers, 2), None);
        assert_eq!(register_value("xxxxxxxxxxxxxxxx", 0), None);
    }

    #[test]
    fn a_stop_is_passed_and_armed_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"+$OK#9a+$T05thread:01;#07+$OK#9a").unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let mut debugger = Debugger::new(ours, deadline).unwrap();
        debugger.pass(0x1000, deadline).unwrap();
        let mut sent = [0; 64];
        let read = theirs.read(&mut sent).unwrap();
        let sent = String::from_utf8_lossy(&sent[..read]);
        assert_eq!(sent, "$z1,1000,1#f5+$s#73+$Z1,1000,1#d5+$c#63");
    }

    #[test]
    fn a_read_is_passed_and_watched_for_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"+$OK#9a+$T05thread:01;#07+$OK#9a").unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let mut debugger = Debugger::new(ours, deadline).unwrap();
        debugger.pass_read(0x1000, deadline).unwrap();
        let mut sent = [0; 64];
        let read = theirs.read(&mut sent).unwrap();
        let sent = String::from_utf8_lossy(&sent[..read]);
        assert_eq!(sent, "$z3,1000,4#fa+$s#73+$Z3,1000,4#da+$c#63");
    }

    #[test]
    fn a_stop_that_is_no_trap_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"+$OK#9a+$W00#b7").unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let mut debugger = Debugger::new(ours, deadline).unwrap();
        debugger.stop_at(0xffff_ffff_8191_2320).unwrap();
        debugger.run().unwrap();
        assert!(debugger.stopped(deadline).unwrap_err().to_string().contains("W00"));
        let mut sent = [0; 64];
        let read = theirs.read(&mut sent).unwrap();
        let sent = String::from_utf8_lossy(&sent[..read]);
        assert_eq!(sent, "$Z1,ffffffff81912320,1#de+$c#63+");
    }
}
