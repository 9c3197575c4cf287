//! What the kernel says about a process.
//!
//! # Source
//! proc(5); the kernel's `Documentation/scheduler/sched-stats.rst`.

use std::time::Duration;

use anyhow::Context;

/// Memory that a process has, now and at most until now, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// The part that no file backs.
    pub(crate) anonymous: f64,
    pub(crate) peak: f64,
}

/// The memory of a process.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| -> anyhow::Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
        Ok(kib.parse::<f64>()? * 1_024.0)
    };
    Ok(Memory { resident: bytes("VmRSS:")?, anonymous: bytes("RssAnon:")?, peak: bytes("VmHWM:")? })
}

/// Time that the living threads of a process were on a processor.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split(' ').next().context("an empty line")?;
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Time that a process was on a processor, ended threads included; in steps of
/// 10 ms.
pub(crate) fn cpu_in_all(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no program's name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// The process that was started as `program` with this argument among others.
pub(crate) fn find(program: &str, argument: &str) -> anyhow::Result<u32> {
    let is_it = |pid: u32| -> Option<bool> {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split('\0');
        let name = words.next()?.rsplit('/').next()?;
        Some(name == program && words.any(|word| word == argument))
    };
    let entries = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.find(|&pid| is_it(pid) == Some(true));
    found.with_context(|| format!("no process {program} has the argument {argument}"))
}

/// How many processes wanted a processor in the last minute: when it is more
/// than there are, somebody else was measured too.
pub(crate) fn load_average() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
