//! Variations of TOML by its lines: a key, a value or a header changes, and the rest stays what it was.

use super::bytes::edit_text;
use crate::random::Random;

const VALUES: [&str; 30] = [
    "''",
    "\"\"",
    "' '",
    "\"\\u0000\"",
    "\"\\n\"",
    "\"\\u202E\"",
    "true",
    "0",
    "-1",
    "1",
    "9223372036854775807",
    "9223372036854775808",
    "0x7f",
    "1.5",
    "1e400",
    "inf",
    "-nan",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "[]",
    "[1, 'a', [true, {a = 1}]]",
    "{}",
    "{a.b = 1}",
    "\"\"\"\na\n\"\"\"",
    "'64Mi'",
    "'17179869184Gi'",
    "'18446744073709551615'",
    "'0s'",
    "'18446744073709551615h'",
    "'/a/../b'",
];
const DEPTHS: [usize; 4] = [10, 70, 90, 5000];

/// `text` with one line changed; `None` if it is not text.
pub(super) fn edit(text: &[u8], donor: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.push(String::new());
    let at = random.below(lines.len());
    let depth = *random.pick(&DEPTHS);
    match random.below(10) {
        0 => drop(lines.remove(at)),
        1 => {
            let line = lines[at].clone();
            lines.insert(random.below(lines.len()), line);
        }
        2 => {
            let donor = String::from_utf8_lossy(donor);
            let donor: Vec<&str> = donor.lines().collect();
            if !donor.is_empty() {
                lines.insert(at, (*random.pick(&donor)).to_owned());
            }
        }
        3 => lines[at] = edit_text(&lines[at], random),
        4 => match random.below(4) {
            0 => lines.insert(at, format!("{}a = 1", "a.".repeat(depth))),
            1 => lines.insert(at, format!("[{}a]", "a.".repeat(depth))),
            2 => lines.insert(at, format!("a = {}{}", "[".repeat(depth), "]".repeat(depth))),
            _ => lines.insert(at, format!("a = {}1{}", "{a = ".repeat(depth), "}".repeat(depth))),
        },
        5 => {
            if let Some((_, value)) = lines[at].split_once('=') {
                let quoted = value.trim().trim_matches(['\'', '"']).to_owned();
                let key = lines[at].split('=').next().unwrap_or_default().to_owned();
                lines[at] = format!("{key}= '{}'", edit_text(&quoted, random));
            }
        }
        6 => {
            if let Some((key, value)) = lines[at].clone().split_once('=') {
                lines[at] = format!("{} ={value}", edit_text(key.trim(), random));
            }
        }
        _ => {
            let key = lines[at].split('=').next().unwrap_or_default();
            lines[at] = format!("{key}= {}", random.pick(&VALUES));
        }
    }
    Some(lines.join("\n").into_bytes())
}
