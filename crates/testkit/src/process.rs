//! What `/proc` says about processes.

use anyhow::{Context, Result, bail};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The pids of all processes.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|n| n.parse().ok());
    entries.flatten().filter_map(name).collect()
}

/// Whether the process is there and not a zombie.
pub fn exists(pid: i32) -> bool {
    status(pid).is_ok_and(|status| !status["State"].starts_with('Z'))
}

/// When it was started, in ticks since boot: with the pid it names a process for good, since pids are used again.
pub fn born(pid: i32) -> Result<u64> {
    stat(pid, 22)
}

/// How many page faults it took, with and without reading a disk, also once it is a zombie.
pub fn faults(pid: i32) -> Result<u64> {
    Ok(stat(pid, 10)? + stat(pid, 12)?)
}

/// A field of `/proc/PID/stat` (proc_pid_stat(5)) behind the second, which is in parentheses and may hold anything.
fn stat(pid: i32, field: usize) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("read the stat of {pid}"))?;
    let (_, fields) = text.rsplit_once(')').context("a name in parentheses")?;
    Ok(fields.split_whitespace().nth(field - 3).context("too few fields")?.parse()?)
}

/// The lines of `/proc/PID/status`, by their name.
pub fn status(pid: i32) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read the status of process {pid}"))?;
    let split = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Ok(text.lines().filter_map(split).collect())
}

/// Where every distribution mounts cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The directory of the cgroup that a process is in, in the hierarchy of a controller; of version 2 for the empty name.
pub fn cgroup(pid: i32, controller: &str) -> Result<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in table.lines() {
        // cgroups(7): `hierarchy:controllers:path`.
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
        if controllers.split(',').any(|name| name == controller) {
            return Ok(Path::new(CGROUPS).join(controllers).join(path.trim_start_matches('/')));
        }
    }
    bail!("process {pid} is in no cgroup of {controller:?}: {table}")
}

/// The open files of a process: number and what the link says.
pub fn files(pid: i32) -> Result<Vec<(i32, String)>> {
    let folder = format!("/proc/{pid}/fd");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
        let entry = entry?;
        // A descriptor may be closed while the folder is read.
        if let Ok(target) = fs::read_link(entry.path()) {
            let number = entry.file_name().to_string_lossy().parse()?;
            files.push((number, target.to_string_lossy().into_owned()));
        }
    }
    files.sort();
    Ok(files)
}

/// `/proc/PID/limits`: soft and hard limit by the kernel's name for it (`Max open files`).
pub fn limits(pid: i32) -> Result<BTreeMap<String, (String, String)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    // The columns have fixed widths: 25 for the name and 20 for each limit (fs/proc/base.c).
    let split = |line: &str| {
        let name = line.get(..26)?.trim().to_owned();
        let mut values = line.get(26..)?.split_whitespace().map(str::to_owned);
        Some((name, (values.next()?, values.next()?)))
    };
    Ok(text.lines().skip(1).filter_map(split).collect())
}

/// The parent.
pub fn parent(pid: i32) -> Result<i32> {
    Ok(status(pid)?["PPid"].parse()?)
}

/// The executable, while the process is there.
pub fn executable(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Command line, words separated by blanks.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The processes that carry `text` in their command line, environment or working directory, this one excepted.
pub fn mentioning(text: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let mentions = |pid: &i32| {
        let has = |file: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ").contains(text)
        };
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        *pid != own && (has("cmdline") || has("environ") || cwd.to_string_lossy().contains(text))
    };
    let mut pids = all();
    pids.retain(mentions);
    pids
}

/// The process, its ancestors and so on up, as long as they run the executable: the last is the shim of a container's
/// process.
pub fn topmost_running(pid: i32, executable_path: &Path) -> Result<i32> {
    let mut top = pid;
    loop {
        let above = parent(top)?;
        if executable(above).as_deref() != Some(executable_path) {
            return Ok(top);
        }
        top = above;
    }
}

/// The threads of a process.
pub fn threads(pid: i32) -> Result<usize> {
    Ok(status(pid)?["Threads"].parse()?)
}

/// The process that serves a unix socket, which must be there.
pub fn server_of(socket: &Path) -> Result<i32> {
    let connection = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    Ok(getsockopt(&connection, PeerCredentials)?.pid())
}

/// Anonymous memory of a process in KiB, with what it shares counted in parts.
pub fn anonymous_kib(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).context("no Pss_Anon: Linux 5.9 or newer")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Whether the process holds a lock of flock(2), others than those that it waits for.
pub fn holds_lock(pid: i32) -> bool {
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    // proc_locks(5): `1: FLOCK  ADVISORY  WRITE PID ...`, and `1: -> FLOCK ...` for who waits.
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"FLOCK") && words.get(4).and_then(|word| word.parse().ok()) == Some(pid)
    })
}
