//! `process.args`, `process.env` and `process.cwd`.
//! Values of the environment are never shown in an error: they may be secrets.

use oci_spec::runtime::Process;
use plan::Invocation;
use std::path::PathBuf;

/// What Linux gives a program in one argument or variable, bytes (execve(2), `MAX_ARG_STRLEN` less its zero).
const LONGEST_STRING: usize = (128 << 10) - 1;
/// The longest path, bytes (path_resolution(7), `PATH_MAX` less its zero).
const LONGEST_PATH: usize = 4095;

/// Why the process section is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Without a name or without `=`.
    #[error("process.env[{0}] is not of the form NAME=value: correct the environment")]
    Env(usize),
    /// No system interface, and no wasm interface, takes it.
    #[error("{0} has a null byte: remove it")]
    Null(String),
    /// No program could have it; a search through a `PATH` of megabytes would keep the shim busy.
    #[error("{place} has {bytes} bytes, and linux takes {max} there: shorten it")]
    TooLong {
        /// The part of the spec.
        place: String,
        /// What it has.
        bytes: usize,
        /// What Linux takes.
        max: usize,
    },
    /// Relative, or not UTF-8.
    #[error("process.cwd {0} is not an absolute path: set the working directory to one that starts with /")]
    Cwd(PathBuf),
}

/// Lowers the process section's part that the guest sees.
pub(super) fn lower(process: &Process) -> Result<Invocation, Error> {
    let args = process.args().clone().unwrap_or_default();
    for (index, argument) in args.iter().enumerate() {
        check(argument, LONGEST_STRING, || format!("process.args[{index}]"))?;
    }
    let env = process.env().iter().flatten().enumerate();
    let env = env.map(|(index, entry)| {
        check(entry, LONGEST_STRING, || format!("process.env[{index}]"))?;
        match entry.split_once('=') {
            None | Some(("", _)) => Err(Error::Env(index)),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        }
    });
    let env = env.collect::<Result<_, _>>()?;
    let cwd = process.cwd().to_str();
    check(cwd.unwrap_or_default(), LONGEST_PATH, || "process.cwd".to_owned())?;
    match cwd {
        Some(cwd) if cwd.starts_with('/') => Ok(Invocation { args, env, cwd: cwd.to_owned() }),
        Some(_) | None => Err(Error::Cwd(process.cwd().clone())),
    }
}

fn check(text: &str, max: usize, place: impl Fn() -> String) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::Null(place()));
    }
    match text.len() {
        bytes if bytes > max => Err(Error::TooLong { place: place(), bytes, max }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], env: &[&str], cwd: &str, wanted: Result<&[(&str, &str)], &str>) {
        let process = serde_json::json!({
            "user": {"uid": 0, "gid": 0}, "args": args, "env": env, "cwd": cwd,
        });
        let process = serde_json::from_value(process).unwrap();
        let wanted = wanted.map_err(str::to_owned).map(|env| Invocation {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            cwd: cwd.to_owned(),
        });
        let got = lower(&process).map_err(|error| error.to_string());
        assert_eq!(got, wanted, "{args:?} {env:?} {cwd:?}");
    }

    #[test]
    fn process_is_lowered_or_refused_by_name() {
        check(&[], &[], "/", Ok(&[]));
        check(
            &["a", ""],
            &["A=1", "B=", "C=x=y", "A=2"],
            "/work",
            Ok(&[("A", "1"), ("B", ""), ("C", "x=y"), ("A", "2")]),
        );
        let form = "is not of the form NAME=value: correct the environment";
        check(&[], &["A=1", "SECRET"], "/", Err(&format!("process.env[1] {form}")));
        check(&[], &["=1"], "/", Err(&format!("process.env[0] {form}")));
        check(&[], &["A=\0"], "/", Err("process.env[0] has a null byte: remove it"));
        check(&["a\0"], &[], "/", Err("process.args[0] has a null byte: remove it"));
        check(
            &[],
            &[],
            "work",
            Err("process.cwd work is not an absolute path: set the working directory to one that starts with /"),
        );
        let long = |bytes: usize| "x".repeat(bytes);
        let taken = "and linux takes 131071 there: shorten it";
        check(&[&long(131_071)], &[], "/", Ok(&[]));
        check(&[&long(131_072)], &[], "/", Err(&format!("process.args[0] has 131072 bytes, {taken}")));
        let path = format!("PATH={}", long(131_067));
        check(&[], &["A=1", &path], "/", Err(&format!("process.env[1] has 131072 bytes, {taken}")));
        let cwd = format!("/{}", long(4095));
        check(&[], &[], &cwd, Err("process.cwd has 4096 bytes, and linux takes 4095 there: shorten it"));
    }
}
