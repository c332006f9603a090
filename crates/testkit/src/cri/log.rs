//! The log of a pod's container as containerd writes it for the kubelet: a line each, with time, stream and tag.
//! It must not know where the file is.

use anyhow::{Context, Result, bail};

/// Whether the guest's line goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `P`: the next entry of the stream goes on with it.
    Partial,
    /// `F`: it ends here.
    Full,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether it is whole.
    pub tag: Tag,
    /// What the guest wrote.
    pub text: String,
}

/// The entries of a log; the last one only once it is whole.
pub fn entries(log: &str) -> Result<Vec<Entry>> {
    let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.map(|line| entry(line).with_context(|| format!("a line of the log of a container: {line:?}"))).collect()
}

fn entry(line: &str) -> Result<Entry> {
    let [_, stream, tag, text] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { bail!("it has no four parts") };
    let tag = match tag {
        "P" => Tag::Partial,
        "F" => Tag::Full,
        other => bail!("its tag is {other}"),
    };
    Ok(Entry { stream: stream.to_owned(), tag, text: text.to_owned() })
}

/// What the guest wrote to a stream.
pub fn text_of(entries: &[Entry], stream: &str) -> String {
    let own = entries.iter().filter(|entry| entry.stream == stream);
    own.fold(String::new(), |mut text, entry| {
        text.push_str(&entry.text);
        if entry.tag == Tag::Full {
            text.push('\n');
        }
        text
    })
}
