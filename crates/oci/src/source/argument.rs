//! Reads `args[0]`: the file it names, by the rules of `execvp`, and the export after `#`.
//! It must not touch the filesystem.

use std::path::{Path, PathBuf};

/// What `execvp` searches where the environment has no `PATH` (containerd's default for images).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `args[0]`, split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Argument<'a> {
    /// May be empty: then only a layer of the image can be meant.
    pub(crate) file: &'a str,
    pub(crate) export: Option<&'a str>,
}

/// Splits at the first `#`. `None` if nothing follows it.
pub(crate) fn split(argument: &str) -> Option<Argument<'_>> {
    match argument.split_once('#') {
        None => Some(Argument { file: argument, export: None }),
        Some((_, "")) => None,
        Some((file, export)) => Some(Argument { file, export: Some(export) }),
    }
}

/// The places where `file` may lie, in the order they are tried, absolute inside the root filesystem.
///
/// With a slash: relative to `cwd`. Without: the directories of `PATH`; then, for names that end in `.wasm`, `cwd` and
/// the root, so that `FROM scratch`, `COPY app.wasm /`, `ENTRYPOINT ["app.wasm"]` is enough.
///
/// They are made one by one: an image may name very many.
pub(crate) fn candidates<'a>(
    file: &'a str,
    cwd: &'a Path,
    env: &'a [(String, String)],
) -> Box<dyn Iterator<Item = PathBuf> + 'a> {
    if file.is_empty() {
        return Box::new(std::iter::empty());
    }
    if file.contains('/') {
        return Box::new(std::iter::once(cwd.join(file)));
    }
    // As with `execve`, the last value of a name that is given twice wins.
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, value)| value);
    // An empty entry means the working directory (POSIX, "Environment Variables"): joining it gives just that.
    let places = path.split(':').map(move |dir| cwd.join(dir).join(file));
    let wasm = [cwd, Path::new("/")].into_iter().filter(|_| file.ends_with(".wasm"));
    Box::new(places.chain(wasm.map(move |dir| dir.join(file))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_hash_starts_the_export() {
        let argument = |file, export| Some(Argument { file, export });
        let cases = [
            ("app.wasm", argument("app.wasm", None)),
            ("/a/b.wasm#run", argument("/a/b.wasm", Some("run"))),
            ("#run", argument("", Some("run"))),
            ("a#b#c", argument("a", Some("b#c"))),
            ("", argument("", None)),
            ("a#", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(split(text), wanted, "{text:?}");
        }
    }

    fn check(file: &str, cwd: &str, path: Option<&str>, wanted: &[&str]) {
        let env: Vec<_> = path.map(|path| ("PATH".to_owned(), path.to_owned())).into_iter().collect();
        let got: Vec<_> = candidates(file, Path::new(cwd), &env).collect();
        let wanted: Vec<_> = wanted.iter().map(PathBuf::from).collect();
        assert_eq!(got, wanted, "{file} in {cwd} with PATH {path:?}");
    }

    #[test]
    fn names_are_searched_as_execvp_does() {
        check("", "/", None, &[]);
        check("/bin/app", "/w", Some("/x"), &["/bin/app"]);
        check("./app", "/w", Some("/x"), &["/w/./app"]);
        check("bin/app", "/w", Some("/x"), &["/w/bin/app"]);
        check("app", "/w", Some("/x:/y"), &["/x/app", "/y/app"]);
        check("app", "/w", Some("rel::/y"), &["/w/rel/app", "/w/app", "/y/app"]);
        check("app", "/w", Some(""), &["/w/app"]);
        check("app.wasm", "/w", Some("/x"), &["/x/app.wasm", "/w/app.wasm", "/app.wasm"]);
        let standard: Vec<_> = DEFAULT_PATH.split(':').map(|dir| format!("{dir}/app")).collect();
        let standard: Vec<_> = standard.iter().map(String::as_str).collect();
        check("app", "/", None, &standard);
    }
}
