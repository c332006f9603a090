//! The results: a table to read, JSON to keep, and what is to be reached.

use crate::contender::{FLOOR, OURS, PEER, RUNC, STOCK_FLOOR};
use crate::http::KEEPING_PEER;
use crate::interruption::{FUELED, SIEVE};
use crate::kind;
use crate::neighbours;
use crate::pods;
use crate::statistics::{Better, Row};
use crate::wasmtime::WASMTIME;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A run's results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What it ran on.
    pub(crate) machine: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
}

/// A bound in terms of another's result.
struct Goal {
    what: &'static str,
    /// Of whom, and how many times as much; the mildest of several counts.
    of: &'static [(&'static str, f64)],
}

/// What is to be reached, each by itself.
const GOALS: [Goal; 12] = [
    Goal { what: "hello: total", of: &[(PEER, 0.33)] },
    // The aim came with a floor whose time was nearer this one's: see `floors`.
    Goal { what: "hello: total", of: &[(STOCK_FLOOR, 1.7)] },
    Goal { what: "hello: total", of: &[(FLOOR, 1.7)] },
    Goal { what: "tasks/s, 8 in flight", of: &[(PEER, 3.0), (FLOOR, 0.6)] },
    Goal { what: "idle container: node (MemAvailable)", of: &[(PEER, 0.33)] },
    Goal { what: "http hello: requests/s", of: &[(PEER, 2.0)] },
    Goal { what: "http hello: requests/s", of: &[(KEEPING_PEER, 2.0)] },
    Goal { what: "idle http container: node (MemAvailable)", of: &[(PEER, 0.33)] },
    Goal { what: pods::START, of: &[("runc", 0.7)] },
    Goal { what: pods::MEMORY, of: &[(PEER, 0.25)] },
    Goal { what: kind::START, of: &[("runc", 0.7)] },
    Goal { what: kind::MEMORY, of: &[(PEER, 0.25)] },
];

/// What is to be reached by ours, whoever else runs.
const BOUNDS: [(&str, f64); 6] = [
    ("Python, file: warm start to output", 100.0),
    ("Python, layer: warm start to output", 100.0),
    ("Python, file: its process (Pss_Anon)", 8192.0),
    ("Python, layer: its process (Pss_Anon)", 8192.0),
    ("http Python: warm start to answer", 100.0),
    ("http Python: its process (Pss_Anon)", 8192.0),
];

impl Report {
    pub(crate) fn new(rows: Vec<Row>) -> Report {
        let mut machine = BTreeMap::new();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        machine.insert("processor".to_owned(), model.trim_start_matches(['\t', ' ', ':']).to_owned());
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        machine.insert("cores".to_owned(), cores.to_string());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        machine.insert("kernel".to_owned(), kernel.trim().to_owned());
        machine.insert("containerd".to_owned(), "2.4".to_owned());
        Report { machine, rows }
    }

    pub(crate) fn read(path: &Path) -> Result<Report> {
        let text = fs::read(path).with_context(|| format!("read results {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read results {}", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n").with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn row(&self, what: &str, who: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what && row.who == who)
    }

    /// What was measured, in order, each once.
    pub(crate) fn subjects(&self) -> Vec<&str> {
        let mut subjects: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !subjects.contains(&row.what.as_str()) {
                subjects.push(&row.what);
            }
        }
        subjects
    }

    /// The table: medians, and behind them the 90th percentile (the 10th where more is better).
    pub(crate) fn table(&self) -> String {
        let mut people: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !people.contains(&row.who.as_str()) {
                people.push(&row.who);
            }
        }
        let mut table = format!("{:42}", "median (p90)");
        for who in &people {
            let _ = write!(table, "{who:>18}");
        }
        table.push('\n');
        for what in self.subjects() {
            let unit = self.rows.iter().find(|row| row.what == what).map_or("", |row| &row.unit);
            let _ = write!(table, "{:42}", format!("{what} {unit}"));
            for who in &people {
                let cell = self.row(what, who).map(|row| format!("{} ({})", short(row.median), short(row.p90)));
                let _ = write!(table, "{:>18}", cell.unwrap_or_default());
            }
            table.push('\n');
        }
        table
    }

    /// Whether ours is where it is to be, a line for each goal.
    pub(crate) fn verdicts(&self) -> String {
        let mut lines = String::new();
        for goal in &GOALS {
            let Some(ours) = self.row(goal.what, OURS) else { continue };
            let ratios = goal.of.iter().filter_map(|(who, wanted)| {
                let ratio = ours.median / self.row(goal.what, who)?.median;
                let reached = if ours.better == Better::Lower { ratio <= *wanted } else { ratio >= *wanted };
                Some((reached, format!("{ratio:.2} x {who} (wanted {wanted})")))
            });
            let (reached, texts): (Vec<bool>, Vec<String>) = ratios.unzip();
            let verdict = if reached.contains(&true) { "reached" } else { "MISSED" };
            let _ = writeln!(lines, "{verdict}: {}: {}", goal.what, texts.join(" or "));
        }
        for (what, most) in BOUNDS {
            let Some(ours) = self.row(what, OURS) else { continue };
            let verdict = if ours.median <= most { "reached" } else { "MISSED" };
            let _ = writeln!(lines, "{verdict}: {what}: {} {} (wanted {most})", short(ours.median), ours.unit);
        }
        lines + &self.pairs() + &self.floors() + &self.native_neighbour() + &self.interruption()
    }

    /// Two rows of ours, of which one is to be no more than some times the other.
    fn pairs(&self) -> String {
        let uncached = |containers: &str| format!("uncached 5 MB module: {containers}");
        let pairs = [
            (uncached("30 containers"), uncached("1 container"), 1.5),
            (neighbours::p99(&neighbours::beside_them()), neighbours::p99("alone"), 2.0),
        ];
        let mut lines = String::new();
        for (what, of, wanted) in pairs {
            let (Some(row), Some(other)) = (self.row(&what, OURS), self.row(&of, OURS)) else { continue };
            let ratio = row.median / other.median;
            let verdict = if ratio <= wanted { "reached" } else { "MISSED" };
            let _ = writeln!(lines, "{verdict}: {what}: {ratio:.2} x {of} (wanted {wanted})");
        }
        lines
    }

    /// What the floors are beside others. Where the aims were set, runc took 103 ms, a Wasm shim of the peer's library 68, and
    /// a shim that does nothing 14: 0.14 and 0.21 of those.
    fn floors(&self) -> String {
        let total = |who| self.row("hello: total", who).map(|row| row.median);
        let line = |floor| {
            let [of_runc, of_peer] = [total(RUNC)?, total(PEER)?].map(|other| Some(total(floor)? / other));
            Some(format!("hello: total of the {floor}: {:.2} x runc, {:.2} x peer\n", of_runc?, of_peer?))
        };
        [STOCK_FLOOR, FLOOR].into_iter().filter_map(line).collect()
    }

    /// What the same neighbours do to a native service: nothing is promised.
    fn native_neighbour(&self) -> String {
        let (beside, alone) = (neighbours::p99(&neighbours::beside_them()), neighbours::p99("alone"));
        let (Some(row), Some(other)) = (self.row(&beside, RUNC), self.row(&alone, RUNC)) else { return String::new() };
        format!("a native service, {beside}: {:.2} x {alone}\n", row.median / other.median)
    }

    /// What epochs and fuel cost: nothing is promised.
    fn interruption(&self) -> String {
        let Some(without) = self.row(SIEVE, WASMTIME) else { return String::new() };
        let ratio = |who| self.row(SIEVE, who).map(|row| row.median / without.median);
        let line = |(with, who)| Some(format!("{with}: {:.2} x {SIEVE} without\n", ratio(who)?));
        [("epochs", OURS), ("epochs and fuel", FUELED)].into_iter().filter_map(line).collect()
    }
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
