//! What every line for the user has to be, whatever it was that went wrong.

/// What an error and its sources may take, and what a caller puts before it.
const LONGEST: usize = 2048 + 64;

/// Holds `line`, which tells the user why something was refused or left out, against the rules: one line, bounded, fit for
/// a terminal, and more than a word.
pub fn assert_told(line: &str) {
    assert!(line.len() <= LONGEST, "a line of {} bytes: {line:?}", line.len());
    let steering = line.chars().find(|c| is_steering(*c));
    assert!(steering.is_none(), "{steering:?} in {line:?}");
    assert!(line.split_whitespace().count() >= 3, "says too little: {line:?}");
    // What `{:?}` makes of an error or an option.
    for leak in ["Some(", "Err(", "Error(", "Os {"] {
        assert!(!line.contains(leak), "shows the inside of the program: {line:?}");
    }
}

/// Whether the character does something to what is shown around it: control characters, characters without width, line
/// and paragraph separators, and the controls of the direction of text (Unicode, UAX #9).
fn is_steering(c: char) -> bool {
    let ranges = ['\u{61c}'..='\u{61c}', '\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{2069}'];
    c.is_control() || c == '\u{feff}' || ranges.iter().any(|range| range.contains(&c))
}
