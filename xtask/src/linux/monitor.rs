//! QEMU's monitor: JSON, one message a line (QMP).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::machine::left;

pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    pub(crate) fn new(stream: UnixStream, deadline: Instant) -> Result<Self> {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        let greeting = monitor.message()?;
        ensure!(greeting.get("QMP").is_some(), "no monitor: {greeting}");
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Writes the memory of the machine, which is stopped, as an ELF core by physical addresses.
    pub(crate) fn dump(&mut self, to: &Path) -> Result<()> {
        let to = format!("file:{}", to.display());
        self.execute("dump-guest-memory", &json!({ "paging": false, "protocol": to }))?;
        Ok(())
    }

    /// Returns what each processor is doing: its instruction pointer, its stack pointer, its flags.
    pub(crate) fn processors(&mut self) -> Result<String> {
        let command = json!({ "command-line": "info registers -a" });
        let said = self.execute("human-monitor-command", &command)?;
        let said = said.as_str().context("the monitor says text")?;
        let told =
            |line: &&str| ["CPU#", "RIP=", "RSI=", "PC="].iter().any(|name| line.contains(name));
        Ok(said.lines().filter(told).collect::<Vec<_>>().join("\n"))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}")?;
        loop {
            let mut message = self.message()?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                bail!("{command}: {error}");
            }
            // An event: of no interest here.
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("the monitor's connection")?;
        serde_json::from_str(&line).with_context(|| format!("the monitor said {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn processors_are_told_of_in_their_lines() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(
                b"{\"QMP\": {}}\n{\"return\": {}}\n\
                  {\"return\": \"CPU#0\\r\\nRAX=1\\r\\nRIP=2 RFL=3\\r\\nCPU#1\\r\\nRIP=4\\r\\n\"}\n",
            )
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let said = Monitor::new(ours, deadline).unwrap().processors().unwrap();
        assert_eq!(said, "CPU#0\nRIP=2 RFL=3\nCPU#1\nRIP=4");
    }

    #[test]
    fn events_are_passed_over_and_errors_are_told() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(
                b"{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"STOP\"}\n{\"return\": {}}\n\
                  {\"error\": {\"desc\": \"no space\"}}\n",
            )
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut monitor = Monitor::new(ours, deadline).unwrap();
        monitor.dump(Path::new("/a")).unwrap();
        let error = monitor.dump(Path::new("/b")).unwrap_err();
        assert!(error.to_string().contains("no space"), "{error}");
        let mut sent = String::new();
        let mut lines = BufReader::new(theirs);
        lines.read_line(&mut sent).unwrap();
        sent.clear();
        lines.read_line(&mut sent).unwrap();
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent["arguments"], json!({ "paging": false, "protocol": "file:/a" }));
    }
}
