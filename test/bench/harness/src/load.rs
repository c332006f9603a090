//! Requests in a second, by wrk: as many clients as it takes to keep a server busy.

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Connections, each with one request in flight.
const CONNECTIONS: &str = "-c32";

/// A server on loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub(crate) who: &'static str,
    pub(crate) port: u16,
    pub(crate) pid: i32,
}

/// What wrk says of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answered {
    pub(crate) per_second: f64,
    pub(crate) p99: Duration,
    requests: f64,
}

/// The same, and the processor time that the server took for each request, microseconds: what else the node does changes
/// it less than the rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) answered: Answered,
    pub(crate) cpu_us: f64,
}

/// Keeps a server busy for some seconds. An answer that is no success is an error.
pub(crate) fn busy(server: Server, seconds: u32) -> Result<Load> {
    let before = cpu_seconds(server.pid)?;
    let answered = asked(server.port, seconds).with_context(|| format!("requests to {}", server.who))?;
    let cpu_us = (cpu_seconds(server.pid)? - before) * 1e6 / answered.requests;
    Ok(Load { answered, cpu_us })
}

/// Of all its threads since it was started, proc_pid_stat(5).
fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name is in parentheses and may have blanks; the state comes after it as field 3.
    let (_, after) = text.rsplit_once(')').context("the name of a process")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |field: usize| -> Result<f64> { Ok(fields.get(field - 3).context("a field of stat")?.parse()?) };
    let second = sysconf(SysconfVar::CLK_TCK)?.context("ticks of a second")?;
    Ok((ticks(14)? + ticks(15)?) / second as f64)
}

fn asked(port: u16, seconds: u32) -> Result<Answered> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", CONNECTIONS, &format!("-d{seconds}s"), "--latency"]).arg(format!("http://127.0.0.1:{port}/"));
    let output = wrk.output().context("start wrk: run `test/deps.sh bench`")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    answered(&text).with_context(|| text)
}

fn answered(text: &str) -> Result<Answered> {
    let after = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    for bad in ["Non-2xx", "Socket errors"] {
        ensure!(after(bad).is_none(), "wrk met errors");
    }
    let per_second = after("Requests/sec:").context("no rate of requests")?.parse()?;
    let total = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests = total.context("no number of requests")?.0.parse()?;
    Ok(Answered { per_second, p99: duration(after("99%").context("no 99th percentile")?)?, requests })
}

fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let seconds = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        other => anyhow::bail!("wrk has a unit {other:?}"),
    };
    Ok(Duration::from_secs_f64(digits.parse::<f64>()? * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.50ms    1.10ms  19.80ms\n  \
                        Latency Distribution\n     50%    1.20ms\n     99%  980.00us\n  43210 requests in 3.00s, 5.1MB read\nRequests/sec:  14400.50\n";

    #[test]
    fn what_wrk_says_is_read() {
        let answered = answered(SAID).unwrap();
        assert_eq!(answered, Answered { per_second: 14400.5, p99: Duration::from_micros(980), requests: 43210.0 });
        assert_eq!(duration("2.00s").unwrap(), Duration::from_secs(2));
    }

    #[test]
    fn errors_of_clients_are_errors() {
        assert!(super::answered(&format!("{SAID}  Non-2xx or 3xx responses: 4\n")).is_err());
    }
}
