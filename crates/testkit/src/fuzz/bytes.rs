//! Variations of bytes, whatever they mean, and the pieces of text that parsers and paths stumble over.

use crate::random::Random;

/// Text that means something to a path, a parser, a terminal or a log.
pub(super) const PIECES: [&str; 36] = [
    "\0",
    "\n",
    "\r\n",
    "\x1b[31m",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{200b}",
    "\u{feff}",
    "\u{10ffff}",
    "é",
    "/",
    "..",
    "/..",
    "../../..",
    "/./",
    "//",
    ".",
    ":",
    "::",
    "#",
    "=",
    ",",
    "_",
    "-",
    "+",
    "%s%n",
    "\\",
    "\"",
    "'",
    "0",
    "-1",
    "18446744073709551616",
    "{}",
    " ",
];
const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// `bytes` with one change.
pub(super) fn edit(bytes: &[u8], donor: &[u8], random: &mut Random) -> Vec<u8> {
    let mut edited = bytes.to_vec();
    let at = random.below(edited.len() + 1);
    let end = at + random.below((edited.len() - at).min(64) + 1);
    match random.below(9) {
        0 => flip(&mut edited, random),
        1 => drop(edited.drain(at..end)),
        2 => edited.truncate(at),
        3 => drop(edited.splice(at..at, random.pick(&PIECES).bytes())),
        4 => drop(edited.splice(at..end, [random.draw() as u8])),
        5 => {
            let number = random.pick(&NUMBERS).to_le_bytes();
            let end = (at + number.len()).min(edited.len());
            edited.splice(at..end, number);
        }
        6 => drop(edited.splice(at..at, bytes[at..end].to_vec())),
        7 => {
            let from = random.below(donor.len() + 1);
            edited.truncate(at);
            edited.extend_from_slice(&donor[from..]);
        }
        // Seldom much of one thing, which shows what grows with the square of it.
        _ if random.one_in(64) => drop(edited.splice(at..at, bytes[at..end].repeat(1 + random.below(4096)))),
        _ => flip(&mut edited, random),
    }
    edited
}

/// `text` with a piece put in, or in place of a part.
pub(super) fn edit_text(text: &str, random: &mut Random) -> String {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at = random.below(places.len());
    let end = at + random.below(places.len() - at);
    let piece = match random.below(40) {
        0 => random.pick(&PIECES).repeat(1 + random.below(6000)),
        1 => "a".repeat(1 + random.below(70_000)),
        _ => (*random.pick(&PIECES)).to_owned(),
    };
    match random.below(3) {
        0 => format!("{}{piece}{}", &text[..places[at]], &text[places[at]..]),
        1 => format!("{}{piece}{}", &text[..places[at]], &text[places[end]..]),
        _ => piece,
    }
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    if !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
}
