//! Builds guests in Rust: crates of their own in `guests/rust` and `images`, with the target of the machine's toolchain if it has it,
//! else in the folder that `test/wasm-rust.sh` makes. It must not know what the guests do.

use super::toolchain::run;
use crate::{checkout, store};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of core modules of WASI preview 1.
pub(super) const MODULES: &str = "wasm32-wasip1";
/// The target of components.
pub(super) const COMPONENTS: &str = "wasm32-wasip2";
const INSTALL: &str = "run `rustup target add wasm32-wasip1 wasm32-wasip2`, or as root: test/wasm-rust.sh";
const INSTALL_CARGO: &str = "install the Rust toolchain with rustup";

/// The crate in `folder` for a target; for that of components, it may be a core module that says what component it is.
pub(super) fn build(name: &str, folder: &Path, target: &str) -> Result<Vec<u8>> {
    let toolchain = Toolchain::find(folder, target)?;
    let sources = sources(folder)?;
    let mut parts: Vec<&[u8]> = vec![b"rust", target.as_bytes(), toolchain.version()];
    for (path, content) in &sources {
        parts.extend([path.as_bytes(), content]);
    }
    let key = store::key(&parts);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let built = toolchain.build(name, folder, target, &sources).with_context(|| format!("guest {name}"))?;
        Ok(fs::write(output, built)?)
    })
}

/// What has the target.
enum Toolchain {
    /// The one that the checkout is built with.
    Own { version: Vec<u8>, linker: Linker },
    /// Debian's, in a folder to be entered.
    Folder { version: Vec<u8>, root: PathBuf },
}

/// What makes a program of objects.
enum Linker {
    /// The target's own; that of components makes components.
    Default,
    /// LLVM's, which makes core modules: distributions ship the target without its own.
    Lld,
}

impl Toolchain {
    fn find(folder: &Path, target: &str) -> Result<Toolchain> {
        let rustc = |words: &[&str]| run(Command::new("rustc").args(words).current_dir(folder), INSTALL_CARGO);
        let sysroot = rustc(&["--print", "sysroot"])?;
        let libraries = Path::new(String::from_utf8_lossy(&sysroot).trim()).join("lib/rustlib");
        if libraries.join(target).join("lib").is_dir() {
            let host = rustc(&["--print", "host-tuple"])?;
            let own = libraries.join(String::from_utf8_lossy(&host).trim()).join("bin/wasm-component-ld");
            let linker = if own.exists() { Linker::Default } else { Linker::Lld };
            return Ok(Toolchain::Own { version: rustc(&["-vV"])?, linker });
        }
        // As the script names it.
        let script = checkout::root().join("test/wasm-rust.sh");
        let script = fs::read(&script).with_context(|| format!("read {}", script.display()))?;
        let place = store::dir().join(format!("wasm-rust-{}", &store::digest(&script)["sha256:".len()..][..16]));
        match fs::read(place.join("version")) {
            Ok(version) => Ok(Toolchain::Folder { version, root: place.join("root") }),
            Err(_) => bail!("the Rust toolchain has no {target}: {INSTALL}"),
        }
    }

    fn version(&self) -> &[u8] {
        match self {
            Toolchain::Own { version, .. } | Toolchain::Folder { version, .. } => version,
        }
    }

    fn build(&self, name: &str, folder: &Path, target: &str, sources: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
        let built = format!("{target}/release/{name}.wasm");
        match self {
            Toolchain::Own { linker, .. } => {
                let work = tempfile::tempdir()?;
                let mut cargo = cargo(folder);
                cargo.args(["build", "--quiet", "--release", "--locked", "--target", target, "--target-dir"]);
                cargo.arg(work.path());
                if matches!(linker, Linker::Lld) {
                    cargo.arg("--config").arg(lld(target));
                }
                run(&mut cargo, INSTALL_CARGO)?;
                Ok(fs::read(work.path().join(built))?)
            }
            Toolchain::Folder { root, .. } => {
                let work = tempfile::Builder::new().prefix("guest-").tempdir_in(root.join("tmp"))?;
                for (path, content) in sources {
                    let path = work.path().join(path);
                    fs::create_dir_all(path.parent().context("a file in a folder")?)?;
                    fs::write(path, content)?;
                }
                // The machine's own cargo fetches, as the machine has it set up; the folder's needs no network.
                run(
                    cargo(folder).args(["vendor", "--quiet", "--locked"]).arg(work.path().join("vendor")),
                    INSTALL_CARGO,
                )?;
                let inside = Path::new("/tmp").join(work.path().file_name().context("a folder with a name")?);
                let mut build = Command::new("chroot");
                build.arg(root).args(["/bin/sh", "-c", "cd \"$0\" && exec cargo \"$@\""]).arg(&inside);
                build.args(["build", "--quiet", "--release", "--locked", "--offline", "--target", target, "--config"]);
                build.arg(lld(target)).args(["--config", "source.crates-io.replace-with=\"vendored\"", "--config"]);
                build.arg("source.vendored.directory=\"vendor\"");
                build.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
                run(build.env("CARGO_HOME", inside.join("cargo")), INSTALL)?;
                Ok(fs::read(work.path().join("target").join(built))?)
            }
        }
    }
}

fn lld(target: &str) -> String {
    format!("target.{target}.linker=\"wasm-ld\"")
}

/// Cargo for a guest's crate, without what the run of cargo around it has set for the product.
pub(super) fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    cargo.current_dir(folder);
    cargo
}

/// Every file of a crate by its path, sorted; what cargo has built in it is none of them.
fn sources(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("read guest {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                if path != folder.join("target") {
                    folders.push(path);
                }
                continue;
            }
            let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
            found.push((name, fs::read(&path)?));
        }
    }
    found.sort();
    Ok(found)
}
