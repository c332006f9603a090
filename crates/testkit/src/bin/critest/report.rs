//! What came of each case, and the table of it.
//! It must not know how the results came about.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A case of critest.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its part of the suite.
    group: String,
    name: String,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// With the reason of the suite.
    Skipped(String),
    Failed(String),
    /// Left out by this program.
    LeftOut,
}

/// A run with a handler.
pub(crate) type Run = (String, Vec<Case>);

/// Reads the report that ginkgo writes with `--ginkgo.json-report`.
pub(crate) fn read(path: &Path) -> Result<Vec<Case>> {
    let report: Value = serde_json::from_slice(&fs::read(path)?)?;
    let specs = report[0]["SpecReports"].as_array().context("a list of cases")?;
    let of_kind = specs.iter().filter(|spec| spec["LeafNodeType"] == "It");
    Ok(of_kind.map(case).filter(|case| !case.group.contains("benchmark")).collect())
}

fn case(spec: &Value) -> Case {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text).collect();
    let group = if names.is_empty() { String::new() } else { names.remove(0) };
    names.push(text(&spec["LeafNodeText"]));
    let message = one_line(spec["Failure"]["Message"].as_str().unwrap_or_default());
    let outcome = match spec["State"].as_str() {
        Some("passed") => Outcome::Passed,
        Some("skipped") if message.is_empty() => Outcome::LeftOut,
        Some("skipped") => Outcome::Skipped(message),
        _ => Outcome::Failed(message),
    };
    Case { group: group.trim_start_matches("[k8s.io] ").to_owned(), name: names.join(" "), outcome }
}

/// The case that passed with the first handler and not with the last.
pub(crate) fn worse(runs: &[Run]) -> Vec<String> {
    let [(_, first), .., (_, last)] = runs else { return Vec::new() };
    let last = by_name(last);
    let passed = first.iter().filter(|case| case.outcome == Outcome::Passed);
    let names = passed.filter(|case| last.get(&key(case)).is_none_or(|case| case.outcome != Outcome::Passed));
    names.map(|case| format!("{}: {}", case.group, case.name)).collect()
}

/// A line for each part of the suite, then each case that did not pass everywhere.
pub(crate) fn table(runs: &[Run], left_out: &[(&str, &str)]) -> String {
    let mut text = String::from("| part of critest |");
    let mut groups: BTreeMap<&str, Vec<[usize; 3]>> = BTreeMap::new();
    for (at, (handler, cases)) in runs.iter().enumerate() {
        let _ = write!(text, " {handler}: passed | skipped | failed |");
        for case in cases {
            let counts = groups.entry(&case.group).or_insert_with(|| vec![[0; 3]; runs.len()]);
            match case.outcome {
                Outcome::Passed => counts[at][0] += 1,
                Outcome::Skipped(_) => counts[at][1] += 1,
                Outcome::Failed(_) => counts[at][2] += 1,
                Outcome::LeftOut => (),
            }
        }
    }
    text += &format!("\n|---|{}\n", "---|".repeat(3 * runs.len()));
    let mut sum = vec![[0; 3]; runs.len()];
    for (group, counts) in groups.iter().filter(|(_, counts)| counts.iter().flatten().any(|&count| count > 0)) {
        row(&mut text, group, counts);
        let all = sum.iter_mut().flatten().zip(counts.iter().flatten());
        all.for_each(|(sum, count)| *sum += count);
    }
    row(&mut text, "all", &sum);
    for (handler, cases) in runs {
        let _ = writeln!(text, "\nNot passed with {handler}:\n");
        for case in cases {
            let (what, why) = match &case.outcome {
                Outcome::Passed | Outcome::LeftOut => continue,
                Outcome::Skipped(why) => ("skipped", why),
                Outcome::Failed(why) => ("failed", why),
            };
            let _ = writeln!(text, "- {} {}: {what}: {why}", case.group, case.name);
        }
    }
    text += "\nLeft out:\n\n";
    left_out.iter().for_each(|(pattern, why)| text += &format!("- {pattern}: {why}\n"));
    text
}

fn row(text: &mut String, name: &str, counts: &[[usize; 3]]) {
    let _ = write!(text, "| {name} |");
    counts.iter().flatten().for_each(|count| *text += &format!(" {count} |"));
    text.push('\n');
}

fn key(case: &Case) -> (&str, &str) {
    (&case.group, &case.name)
}

fn by_name(cases: &[Case]) -> BTreeMap<(&str, &str), &Case> {
    cases.iter().map(|case| (key(case), case)).collect()
}

/// Without the layers that a refusal has gone through, and without the dump of its type.
fn one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.split(" Unexpected error: ").next().unwrap_or_default();
    let line = line.rsplit_once(" desc = ").map_or(line, |(_, reason)| reason);
    let line = ["failed to create containerd task: ", "failed to create shim task: "]
        .iter()
        .fold(line, |line, layer| line.strip_prefix(layer).unwrap_or(line));
    line.chars().take(SHOWN).collect()
}
