//! Variations of JSON by its values: what is changed lies where a reader of the document expects a value, and the rest
//! stays what it was, so that the change gets past the parser.

use super::bytes::edit_text;
use crate::random::Random;
use serde_json::Value;

/// Values as text, since some of them are none that serde_json could hold.
const VALUES: [&str; 34] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "1",
    "1.5",
    "1e3",
    "1e999",
    "-1e308",
    "65535",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "\"\"",
    "\" \"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"/\"",
    "\"..\"",
    "\"a:b:c\"",
];
/// Numbers that fit one type of integer and not the next.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
];
/// Above the nesting that serde_json takes.
const DEEP: usize = 300;

/// What happens at one value.
enum Edit {
    Replace(String),
    Remove,
    /// The same member, or element, a second time.
    Twice,
    Rename(String),
    /// Another document's member, put before it.
    Before(String, String),
}

/// `text` with one value changed; `None` if it is not JSON.
pub(super) fn edit(text: &[u8], donor: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let at = place(&value, random);
    let edit = choose(find(&value, at), donor, random);
    let mut printer = Printer { at, edit, seen: 0, out: String::with_capacity(text.len() + 64) };
    printer.print(&value);
    Some(printer.out.into_bytes())
}

fn choose(value: &Value, donor: &[u8], random: &mut Random) -> Edit {
    match random.below(12) {
        0 => Edit::Replace((*random.pick(&VALUES)).to_owned()),
        1 | 2 => Edit::Remove,
        3 => Edit::Twice,
        4 => Edit::Rename(edit_text("", random)),
        5 => match random.below(8) {
            0 => Edit::Replace(format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP))),
            1 => Edit::Replace(format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP))),
            2 => Edit::Replace(format!("{}1{}", "[".repeat(100), "]".repeat(100))),
            _ => Edit::Replace(format!("[{value}]")),
        },
        6 | 7 => {
            let donor = serde_json::from_slice(donor).unwrap_or(Value::Null);
            let mut members = Vec::new();
            collect(&donor, &mut members);
            match members.is_empty() {
                true => Edit::Twice,
                false => {
                    let (key, value) = *random.pick(&members);
                    Edit::Before(key.clone(), value.to_string())
                }
            }
        }
        _ => Edit::Replace(of_same_type(value, random)),
    }
}

/// A value of another type seldom gets past the parser: most changes keep it.
fn of_same_type(value: &Value, random: &mut Random) -> String {
    match value {
        Value::String(text) => Value::from(edit_text(text, random)).to_string(),
        Value::Number(number) if random.one_in(2) => {
            let number = number.as_i64().unwrap_or(i64::MAX);
            let steps = [number.wrapping_add(1), number.wrapping_neg(), number.wrapping_mul(1 << 20), !number];
            random.pick(&steps).to_string()
        }
        Value::Number(_) => (*random.pick(&NUMBERS)).to_owned(),
        Value::Bool(truth) => (!truth).to_string(),
        Value::Array(list) if random.one_in(16) && !list.is_empty() => {
            let one = random.pick(list).to_string();
            format!("[{}]", vec![one; 1 + random.below(2000)].join(","))
        }
        Value::Array(list) => Value::from(list.iter().rev().cloned().collect::<Vec<_>>()).to_string(),
        Value::Object(_) => "{}".to_owned(),
        Value::Null => (*random.pick(&VALUES)).to_owned(),
    }
}

/// The number of a value to change. Of all values, or going down from the top, so that a long list does not draw most
/// of the changes.
fn place(document: &Value, random: &mut Random) -> usize {
    if random.one_in(2) {
        return random.below(count(document));
    }
    let (mut here, mut at) = (document, 0);
    loop {
        let below: Vec<_> = children(here).collect();
        if below.is_empty() || (at > 0 && random.one_in(8)) {
            return at;
        }
        let chosen = random.below(below.len());
        at += 1 + below[..chosen].iter().map(|value| count(value)).sum::<usize>();
        here = below[chosen];
    }
}

/// Values in the document, with itself.
fn count(value: &Value) -> usize {
    1 + children(value).map(count).sum::<usize>()
}

/// The value that is printed as number `at`, the document being 0.
fn find(value: &Value, at: usize) -> &Value {
    let mut before = 1;
    for child in children(value) {
        let within = count(child);
        if at >= before && at < before + within {
            return find(child, at - before);
        }
        before += within;
    }
    value
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(members) => Box::new(members.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn collect<'a>(value: &'a Value, members: &mut Vec<(&'a String, &'a Value)>) {
    if let Value::Object(own) = value {
        members.extend(own);
    }
    children(value).for_each(|child| collect(child, members));
}

/// Prints a document with the edit at value number `at`.
struct Printer {
    at: usize,
    edit: Edit,
    seen: usize,
    out: String,
}

impl Printer {
    fn print(&mut self, value: &Value) {
        let here = self.seen == self.at;
        if let (true, Edit::Replace(text)) = (here, &self.edit) {
            self.out.push_str(text);
            self.seen += count(value);
            return;
        }
        self.seen += 1;
        match value {
            Value::Array(list) => self.list(('[', ']'), list.iter().map(|value| (None, value))),
            Value::Object(members) => {
                self.list(('{', '}'), members.iter().map(|(key, value)| (Some(key.as_str()), value)));
            }
            scalar => self.out.push_str(&scalar.to_string()),
        }
    }

    fn list<'a>(&mut self, brackets: (char, char), items: impl Iterator<Item = (Option<&'a str>, &'a Value)>) {
        self.out.push(brackets.0);
        let mut first = true;
        for (key, value) in items {
            if self.seen == self.at && matches!(self.edit, Edit::Remove) {
                self.seen += count(value);
                continue;
            }
            if !first {
                self.out.push(',');
            }
            first = false;
            self.item(key, value);
        }
        self.out.push(brackets.1);
    }

    fn item(&mut self, key: Option<&str>, value: &Value) {
        let here = self.seen == self.at;
        let key = key.map(|key| match &self.edit {
            Edit::Rename(name) if here => name.clone(),
            _ => key.to_owned(),
        });
        let prefix = key.map(|key| format!("{}:", Value::from(key))).unwrap_or_default();
        match &self.edit {
            Edit::Before(name, before) if here => {
                let name = if prefix.is_empty() { String::new() } else { format!("{}:", Value::from(name.as_str())) };
                let before = format!("{name}{before},");
                self.out.push_str(&before);
            }
            Edit::Twice if here => {
                let again = format!("{prefix}{value},");
                self.out.push_str(&again);
            }
            _ => {}
        }
        self.out.push_str(&prefix);
        self.print(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_can_be_found_and_changed() {
        let text = r#"{"a":[1,{"b":2}],"c":"d"}"#;
        let value: Value = serde_json::from_str(text).expect("a literal");
        assert_eq!(count(&value), 6);
        let found: Vec<_> = (0..6).map(|at| find(&value, at).to_string()).collect();
        assert_eq!(found, [text, r#"[1,{"b":2}]"#, "1", r#"{"b":2}"#, "2", "\"d\""]);
        let check = |at, edit, wanted: &str| {
            let mut printer = Printer { at, edit, seen: 0, out: String::new() };
            printer.print(&value);
            assert_eq!(printer.out, wanted);
        };
        check(4, Edit::Replace("x".into()), r#"{"a":[1,{"b":x}],"c":"d"}"#);
        check(1, Edit::Remove, r#"{"c":"d"}"#);
        check(2, Edit::Remove, r#"{"a":[{"b":2}],"c":"d"}"#);
        check(4, Edit::Twice, r#"{"a":[1,{"b":2,"b":2}],"c":"d"}"#);
        check(5, Edit::Rename("e".into()), r#"{"a":[1,{"b":2}],"e":"d"}"#);
        check(5, Edit::Before("e".into(), "0".into()), r#"{"a":[1,{"b":2}],"e":0,"c":"d"}"#);
        check(2, Edit::Before("e".into(), "0".into()), r#"{"a":[0,1,{"b":2}],"c":"d"}"#);
    }
}
