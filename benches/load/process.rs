//! Child processes on free ports. They are measured through /proc and killed when dropped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::Context as _;

/// A server that runs beside the bench.
pub(crate) struct Process {
    child: Child,
    /// Port that the process listens on.
    pub(crate) port: u16,
}

/// Returns the command `whk` of this build.
pub(crate) fn whk() -> Command {
    Command::new(env!("CARGO_BIN_EXE_whk"))
}

/// Returns the command that runs this binary in another role: `sink` or `forwarder`.
pub(crate) fn own(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

impl Process {
    /// Starts a server that logs `"address":"127.0.0.1:<port>"` on stderr once it listens.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let port = loop {
            let line = lines.next().context("the server ended before it listened")??;
            let after = line.split_once("\"address\":\"127.0.0.1:").map(|(_, after)| after);
            if let Some(port) = after.and_then(|after| after.split('"').next()) {
                break port.parse()?;
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, port })
    }

    /// Returns the stdout of the process; fails if it wasn't piped.
    pub(crate) fn stdout(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().context("stdout")
    }

    /// Returns the processor time that the process has used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
        // proc(5): utime and stime are fields 14 and 15, in ticks of 10 ms; the name ends field 2.
        let ticks = |index: usize| -> anyhow::Result<f64> { Ok(fields.get(index).context("stat")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// Returns the peak resident memory, in MiB.
    pub(crate) fn peak_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmHWM:")
    }

    /// Returns the resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmRSS:")
    }

    fn memory_mib(&self, field: &'static str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context(field)?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
