//! The command line that containerd gives a shim (runtime v2 document, "Shim commands"): Go's flag syntax.

use std::path::PathBuf;

/// What the shim is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the server of a container or of a pod, or find the one that runs.
    Start,
    /// Clean up after a container whose shim is gone.
    Delete,
    /// Describe this runtime.
    Info,
    /// Print the version.
    Version,
}

/// The command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// containerd's gRPC socket.
    pub(crate) address: PathBuf,
    /// The bundle; the current directory if absent.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) debug: bool,
}

/// Why a command line is no good.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("unknown action {0:?}: expected start or delete, or the flag -info or -v")]
    UnknownAction(String),
    #[error("no action: expected start or delete, or the flag -info or -v; containerd runs this binary by itself")]
    NoAction,
    #[error("flag {0} needs a value")]
    NoValue(String),
    #[error("{action} needs the flag {flag}")]
    Missing { action: &'static str, flag: &'static str },
}

impl Args {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Args, ArgsError> {
        let mut words = words;
        let mut action = None;
        let (mut id, mut namespace, mut address) = (String::new(), String::new(), PathBuf::new());
        let (mut bundle, mut debug) = (None, false);
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                action = Some(match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(ArgsError::UnknownAction(word)),
                });
                continue;
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = || inline.clone().or_else(|| words.next()).ok_or_else(|| ArgsError::NoValue(word.clone()));
            match name {
                "id" => id = value()?,
                "namespace" => namespace = value()?,
                "address" => address = value()?.into(),
                "bundle" => bundle = Some(value()?.into()),
                "debug" => debug = inline.as_deref() != Some("false"),
                "info" => action = Some(Action::Info),
                "v" | "version" => action = Some(Action::Version),
                // Flags of this and later versions of containerd that we need not know, such as -publish-binary.
                _ => drop(value()?),
            }
        }
        let args = Args { action: action.ok_or(ArgsError::NoAction)?, id, namespace, address, bundle, debug };
        args.complete()
    }

    fn complete(self) -> Result<Args, ArgsError> {
        let action = match self.action {
            Action::Start => "start",
            Action::Delete => "delete",
            Action::Info | Action::Version => return Ok(self),
        };
        let given = [("-id", !self.id.is_empty()), ("-namespace", !self.namespace.is_empty())];
        match given.iter().find(|(_, given)| !given) {
            Some((flag, _)) => Err(ArgsError::Missing { action, flag }),
            None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_lines_that_containerd_gives() {
        let line = "-namespace k8s.io -address /run/c.sock -publish-binary /bin/containerd -id a1 -debug start";
        let expected = Args {
            action: Action::Start,
            id: "a1".into(),
            namespace: "k8s.io".into(),
            address: "/run/c.sock".into(),
            bundle: None,
            debug: true,
        };
        assert_eq!(parse(line), Ok(expected));
        let deleted = parse("--namespace=n --id=a --bundle=/b delete").map(|args| (args.action, args.bundle));
        assert_eq!(deleted, Ok((Action::Delete, Some("/b".into()))));
        assert_eq!(parse("-v").map(|args| args.action), Ok(Action::Version));
        assert_eq!(parse("-info").map(|args| args.action), Ok(Action::Info));
    }

    #[test]
    fn lines_that_are_refused() {
        assert_eq!(parse(""), Err(ArgsError::NoAction));
        assert_eq!(parse("stop"), Err(ArgsError::UnknownAction("stop".into())));
        assert_eq!(parse("start -id"), Err(ArgsError::NoValue("-id".into())));
        assert_eq!(parse("-id a start"), Err(ArgsError::Missing { action: "start", flag: "-namespace" }));
    }
}
