//! `hooks`: programs of the node. It must not know how they are run.

use crate::bundle::Bundle;
use oci_spec::runtime::Hook as SpecHook;
use plan::{Hook, HookState, Hooks};
use std::path::PathBuf;

/// Why a hook is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The spec demands it.
    #[error("hooks.{kind} names {path:?}, which is no absolute path: name the program by its whole path")]
    Relative {
        /// The list.
        kind: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The spec demands a time above zero.
    #[error("hooks.{kind} gives {path} {timeout} s: use at least 1, or leave the timeout out")]
    Timeout {
        /// The list.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// Its time, seconds.
        timeout: i64,
    },
    /// No program can be given one.
    #[error("hooks.{kind} has a null byte in what it gives {path:?}: remove it")]
    Null {
        /// The list.
        kind: &'static str,
        /// The program.
        path: PathBuf,
    },
}

/// Lowers the hooks.
pub(super) fn lower(bundle: &Bundle) -> Result<Hooks, Error> {
    let Some(spec) = bundle.spec.hooks() else { return Ok(Hooks::default()) };
    let mut create_runtime = lower_list("prestart", spec.prestart().as_deref())?;
    create_runtime.extend(lower_list("createRuntime", spec.create_runtime().as_deref())?);
    Ok(Hooks {
        create_runtime,
        create_container: lower_list("createContainer", spec.create_container().as_deref())?,
        start_container: lower_list("startContainer", spec.start_container().as_deref())?,
        poststart: lower_list("poststart", spec.poststart().as_deref())?,
        poststop: lower_list("poststop", spec.poststop().as_deref())?,
        told: HookState {
            version: bundle.spec.version().clone(),
            bundle: bundle.path.clone(),
            annotations: bundle.annotations.clone().into_iter().collect(),
        },
    })
}

fn lower_list(kind: &'static str, list: Option<&[SpecHook]>) -> Result<Vec<Hook>, Error> {
    list.unwrap_or_default().iter().map(|hook| lower_one(kind, hook)).collect()
}

fn lower_one(kind: &'static str, hook: &SpecHook) -> Result<Hook, Error> {
    let path = hook.path().clone();
    if !path.is_absolute() {
        return Err(Error::Relative { kind, path });
    }
    let timeout_s = match hook.timeout() {
        None => None,
        Some(timeout) => match u64::try_from(timeout) {
            Ok(seconds) if seconds > 0 => Some(seconds),
            _ => return Err(Error::Timeout { kind, path, timeout }),
        },
    };
    let name = path.to_string_lossy().into_owned();
    let args = hook.args().clone().filter(|args| !args.is_empty()).unwrap_or_else(|| vec![name.clone()]);
    let env = hook.env().clone().unwrap_or_default();
    if args.iter().chain(&env).chain([&name]).any(|word| word.contains('\0')) {
        return Err(Error::Null { kind, path });
    }
    Ok(Hook { kind: kind.to_owned(), path, args, env, timeout_s })
}
