//! The chart of the README: bars of what people choose a runtime by, drawn as SVG.

use crate::report::{Report, short};
use std::fmt::Write;

/// What is drawn of whom, with a title.
const PANELS: [(&str, &str, &[&str]); 4] = [
    ("hello: total", "hello, create to delete, ms (less is better)", &PEOPLE),
    ("tasks/s, 8 in flight", "tasks in a second, 8 in flight (more is better)", &PEOPLE),
    ("idle container: node (MemAvailable)", "memory of an idle container, KiB (less is better)", &PEOPLE),
    ("http hello: requests/s", "http requests in a second, 32 in flight (more is better)", &SERVERS),
];
const PEOPLE: [&str; 6] = ["ours", "peer", "runc", "crun", "stock floor", "floor"];
const SERVERS: [&str; 5] = ["ours", "ours+reuse", "peer", "peer+keeping", "wasmtime"];
const WIDTH: f64 = 720.0;
const LABELS: f64 = 90.0;
const NUMBERS: f64 = 80.0;
const BAR: f64 = 18.0;
const HEAD: f64 = 34.0;

/// Draws it.
pub(crate) fn svg(report: &Report) -> String {
    let panel = |people: &[&str]| HEAD + BAR * people.len() as f64 + 10.0;
    let height: f64 = PANELS.iter().map(|(.., people)| panel(people)).sum();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut top = 0.0;
    for (what, title, people) in PANELS {
        let rows: Vec<(&str, f64)> =
            people.iter().map(|who| (*who, report.row(what, who).map_or(0.0, |row| row.median))).collect();
        let most = rows.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{title}</text>", top + 20.0);
        for (place, (who, value)) in rows.iter().enumerate() {
            let y = top + HEAD + BAR * place as f64;
            let length = value / most * (WIDTH - LABELS - NUMBERS);
            let colour = if who.starts_with("ours") { "#654ff0" } else { "#b8b8c8" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{who}</text>\
                 <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                LABELS - 6.0,
                y + 12.0,
                BAR - 4.0,
                LABELS + length + 5.0,
                y + 12.0,
                short(*value),
            );
        }
        top += panel(people);
    }
    svg.push_str("</svg>\n");
    svg
}
