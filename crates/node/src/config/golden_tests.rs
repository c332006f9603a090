//! Configurations in, the edit out, and back: a folder of `golden` per case.
//!
//! | file | what it is |
//! |---|---|
//! | `containerd` | its version |
//! | `root/` | the node's files; none for a node without a configuration |
//! | `after` | the file that is written: its path on the first line, its content below |
//! | `refusal` | instead of `after`: what is said |

use super::*;
use std::fs;

const CONFIG: &str = "/etc/containerd/config.toml";
const SHIM: &str = "/opt/wasm/bin/containerd-shim-wasm-v1";

#[test]
fn configurations_become_what_is_written_and_back() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut cases: Vec<_> = fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "cases are missing in {}", golden.display());
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn check(case: &Path) -> Result<(), String> {
    let name = case.file_name().unwrap_or_default().to_string_lossy();
    let text = |file: &str| fs::read_to_string(case.join(file)).ok();
    let daemon = Daemon::parse(text("containerd").unwrap_or_default().trim()).map_err(|error| error.to_string())?;
    let host = Host::new(&case.join("root"));
    let change =
        Files::read(&host, Path::new(CONFIG), daemon).and_then(|files| files.with_runtime(Path::new(SHIM), None));
    let said = match &change {
        Ok(Some(change)) => format!("{}\n{}", change.path.display(), change.after),
        Ok(None) => "nothing to do".to_owned(),
        Err(error) => error.to_string(),
    };
    let file = if change.is_ok() { "after" } else { "refusal" };
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        fs::write(case.join(file), format!("{}\n", said.trim_end_matches('\n'))).map_err(|error| error.to_string())?;
    }
    let expected = text(file).ok_or_else(|| format!("{name}: there is no {file}, and it is\n{said}"))?;
    if expected.trim_end() != said.trim_end() {
        return Err(format!("{name}: expected\n{expected}\nit is\n{said}"));
    }
    let Ok(Some(change)) = change else { return Ok(()) };
    taken_out(&name, &change)
}

/// What is taken out of the edited text is what was put in, also below what somebody else added meanwhile.
fn taken_out(name: &str, change: &Change) -> Result<(), String> {
    let back = |text: &str| without(text, &change.path, &change.runtimes).map_err(|error| error.to_string());
    let now = back(&change.after)?;
    // An end of the last line that was missing is not taken away again: the backup is for that.
    let ended = |text: &String| format!("{}\n", text.trim_end_matches('\n'));
    if now != change.before.as_ref().map(ended) {
        return Err(format!("{name}: taken out of it is\n{now:?}\nand it was\n{:?}", change.before));
    }
    let foreign = "\n[plugins.\"somebody.else\"]\n  key = \"value\" # theirs\n";
    let now = back(&format!("{}{foreign}", change.after))?;
    let Some(before) = &change.before else { return Ok(()) };
    let expected = format!("{}{foreign}", ended(before));
    if now.as_deref() != Some(expected.as_str()) {
        return Err(format!("{name}: with an edit of others it is\n{now:?}\ninstead of\n{expected:?}"));
    }
    Ok(())
}
