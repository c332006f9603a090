//! Any file is told by its first bytes, any `args[0]` stays inside the root filesystem, and any overlay is looked into
//! without a fault.

use super::{Chosen, Origin, Wanted, find, look, magic, runnable};
use crate::{Containerd, Request, RootfsMount};
use plan::Invocation;
use std::path::Path;
use std::path::PathBuf;
use testkit::fuzz::{Form, Fuzz, Tree, assert_told, scratch};

/// A root filesystem with `/app.wasm` of these bytes, and what a search in it gives.
struct Stage {
    dir: tempfile::TempDir,
    containerd: Containerd,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new(file: &[u8]) -> Self {
        let dir = scratch();
        std::fs::create_dir_all(dir.path().join("root/bin")).unwrap();
        std::fs::write(dir.path().join("root/app.wasm"), file).unwrap();
        std::os::unix::fs::symlink("../../secret.wasm", dir.path().join("root/bin/up.wasm")).unwrap();
        std::fs::write(dir.path().join("secret.wasm"), file).unwrap();
        let containerd = Containerd { address: PathBuf::from("/nowhere/c.sock"), namespace: "ns".to_owned() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Stage { dir, containerd, runtime }
    }

    fn find(&self, argument: &str, mounts: &[RootfsMount]) -> Result<Chosen, String> {
        let root = self.dir.path().join("root");
        let request = Request {
            id: "id",
            bundle: self.dir.path(),
            rootfs: &root,
            rootfs_mounts: mounts,
            options: None,
            containerd: &self.containerd,
        };
        let env = [("PATH".to_owned(), argument.to_owned())];
        let invocation = Invocation { args: vec![argument.to_owned()], env: env.to_vec(), cwd: "/bin".to_owned() };
        let wanted = Wanted { argument: Some(argument), invoke: None, max_bytes: 1000 };
        let before = Tree::of(self.dir.path());
        let at = look(&request, &invocation, &[]);
        let found = at.and_then(|at| self.runtime.block_on(find(&request, &wanted, at)));
        let found = found.map_err(|error| plan::one_line(&error));
        match &found {
            Ok(chosen) => match &chosen.source.origin {
                Origin::File { path, .. } => assert_eq!(path, Path::new("/app.wasm"), "{argument:?}"),
                Origin::Layer { .. } => panic!("no containerd, and a layer"),
            },
            Err(line) => assert_told(line),
        }
        if found.is_err() {
            assert_eq!(before, Tree::of(self.dir.path()), "{argument:?}");
        }
        found
    }
}

#[test]
fn any_file_is_wasm_by_its_header_only() {
    let stage = Stage::new(b"");
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "wasm", Form::Bytes, 3000);
    fuzz.run(|bytes| {
        std::fs::write(stage.dir.path().join("root/app.wasm"), bytes).unwrap();
        let headers: [&[u8]; 2] = [b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"];
        let wasm = headers.iter().any(|header| bytes.starts_with(header)) && bytes.len() <= 1000;
        let found = stage.find("/app.wasm", &[]);
        assert_eq!(found.is_ok(), wasm, "{found:?}");
        // The same by its first bytes, as a layer is looked at, and by any begin of them.
        let first = &bytes[..bytes.len().min(magic::LENGTH)];
        assert_eq!(magic::classify(bytes), magic::classify(first));
        if let Err(error) = runnable("layer", magic::classify(first)) {
            assert_told(&plan::one_line(&error));
        }
    });
}

#[test]
fn any_argument_stays_inside_the_root() {
    let stage = Stage::new(b"\0asm\x01\0\0\0");
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "argument", Form::Bytes, 3000);
    fuzz.run(|argument| {
        let argument = String::from_utf8_lossy(argument);
        // Refused before, with the index of the argument.
        if !argument.contains('\0') {
            let _ = stage.find(&argument, &[]);
        }
    });
}

#[test]
fn any_overlay_options_are_looked_into() {
    let stage = Stage::new(b"\0asm\x01\0\0\0");
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "overlay", Form::Json, 2000);
    fuzz.run(|text| {
        let text = String::from_utf8_lossy(text).replace("DIR", stage.dir.path().to_str().unwrap());
        let Ok(options) = serde_json::from_str::<Vec<String>>(&text) else { return };
        for kind in ["overlay", "bind"] {
            let source = options.first().cloned().unwrap_or_default();
            let mount = RootfsMount { kind: kind.to_owned(), source, options: options.clone() };
            assert!(stage.find("/app.wasm", &[mount]).is_ok());
        }
    });
}
