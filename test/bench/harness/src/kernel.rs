//! What the kernel alone takes for the container of a hello: what no runtime can be quicker than.

use crate::bed::Bed;
use crate::contender::native;
use crate::latency::TURNS;
use crate::statistics::Row;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use testkit::leftovers;

/// The name of its column.
pub(crate) const KERNEL: &str = "kernel";
/// The hierarchies of version 1 that our containers are in.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];

/// Makes and removes the parts of a container, with no runtime around.
pub(crate) fn parts(bed: &Bed) -> Result<Vec<Row>> {
    let program = native(include_str!("../guests/kernel.c"))?;
    let folder = bed.node.directory("kernel")?;
    let path = folder.join("kernel");
    std::fs::write(&path, program)?;
    let run = Command::new("chmod").arg("0755").arg(&path).status()?;
    ensure!(run.success(), "chmod {}", path.display());
    let output = Command::new(&path).arg(TURNS.to_string()).arg(&folder).args(cgroups(bed.node.name())).output()?;
    ensure!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let turns = text.lines().map(turn).collect::<Result<Vec<_>>>()?;
    let row = |what: &str, part: &dyn Fn(&[Duration; 3]) -> Duration| {
        Row::ms(what, KERNEL, &turns.iter().map(part).collect::<Vec<_>>())
    };
    Ok(vec![
        row("hello: create", &|turn| turn[0]),
        row("hello: exit", &|turn| turn[1]),
        row("hello: delete", &|turn| turn[2]),
        row("hello: total", &|turn| turn.iter().sum()),
    ])
}

fn turn(line: &str) -> Result<[Duration; 3]> {
    let ms: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let parts: Vec<Duration> = ms.iter().map(|ms| Duration::from_secs_f64(ms / 1e3)).collect();
    parts.try_into().ok().context("three times in a line")
}

fn cgroups(namespace: &str) -> Vec<PathBuf> {
    let wanted = |root: &PathBuf| {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split(',').any(|controller| CONTROLLERS.contains(&controller))
    };
    let all = leftovers::hierarchies();
    let ours: Vec<PathBuf> = all.iter().filter(|root| wanted(root)).cloned().collect();
    let roots = if ours.is_empty() { all } else { ours };
    roots.iter().map(|root| root.join(namespace).join("kernel")).collect()
}
