//! Cases of choosing the wasm, with a containerd that is not there: a file must do without, and all else asks it.

use super::*;
use crate::{Containerd, chain};
use std::path::PathBuf;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// The error once no file is the wasm.
const ASKS: &str = "connect to containerd at /nowhere/containerd.sock: is it running there?: ";

fn check(file: Option<&[u8]>, argument: Option<&str>, invoke: Option<&str>, wanted: Result<Option<&str>, &str>) {
    let root = tempfile::tempdir().unwrap();
    if let Some(bytes) = file {
        std::fs::write(root.path().join("app.wasm"), bytes).unwrap();
    }
    let containerd = Containerd { address: PathBuf::from("/nowhere/containerd.sock"), namespace: "default".to_owned() };
    let request = Request {
        id: "id",
        bundle: root.path(),
        rootfs: root.path(),
        rootfs_mounts: &[],
        options: None,
        containerd: &containerd,
    };
    let wanted_wasm = Wanted { argument, invoke, max_bytes: 16 };
    let args = argument.into_iter().map(str::to_owned).collect();
    let invocation = Invocation { args, env: Vec::new(), cwd: "/".to_owned() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let got = look(&request, &invocation, &[]).and_then(|at| runtime.block_on(find(&request, &wanted_wasm, at)));
    let case = format!("{file:?} {argument:?} {invoke:?}");
    match (got, wanted) {
        (Ok(chosen), Ok(export)) => {
            let origin = Origin::File { path: "/app.wasm".into(), identity: None };
            let export = export.map(str::to_owned);
            assert_eq!(chosen.source, Source { origin, export }, "{case}");
            let opened = runtime.block_on(chosen.wasm.open()).unwrap();
            let content = std::io::read_to_string(opened).unwrap();
            assert_eq!(Some(content.as_bytes()), file, "{case}");
        }
        (Err(error), Err(start)) => {
            let message = chain(&error);
            assert!(message.starts_with(start), "{case}: {message}");
        }
        (got, wanted) => panic!("{case}: {got:?}, not {wanted:?}"),
    }
}

#[test]
fn wasm_file_is_taken_with_its_export() {
    for bytes in [MODULE, COMPONENT] {
        check(Some(bytes), Some("/app.wasm"), None, Ok(None));
    }
    let module = Some(MODULE);
    check(module, Some("app.wasm"), None, Ok(None));
    check(module, Some("app.wasm#run"), None, Ok(Some("run")));
    check(module, Some("app.wasm"), Some("run"), Ok(Some("run")));
    check(module, Some("app.wasm#run"), Some("run"), Ok(Some("run")));
    check(
        module,
        Some("app.wasm#run"),
        Some("walk"),
        Err("args[0] names the export run and the setting invoke names walk: give one"),
    );
    check(
        module,
        Some("app.wasm#"),
        None,
        Err("args[0] \"app.wasm#\" names no export after #: remove the # or name an export"),
    );
}

#[test]
fn wasm_that_cannot_run_is_refused_by_name() {
    let cases: [(&[u8], &str); 4] = [
        (
            b"\x7fELF\x02\x01\x01\xc8more",
            "/app.wasm is precompiled code, which is never loaded from an image: ship the .wasm, it is compiled on the node",
        ),
        (b"\0asm\x01", "/app.wasm is truncated wasm: build the image again"),
        (
            b"\0asm\x02\0\0\0",
            "/app.wasm is wasm of an unknown version ([02, 00, 00, 00]): build a core module of version 1 or a component",
        ),
        (
            b"\0asm\x01\0\0\x00123456789",
            "/app.wasm has 17 bytes, above wasm-size = 16: ship a smaller wasm, or raise wasm-size in [cache]",
        ),
    ];
    for (bytes, message) in cases {
        check(Some(bytes), Some("/app.wasm"), None, Err(message));
    }
}

#[test]
fn anything_else_asks_for_the_image() {
    for bytes in [b"".as_slice(), b"text, and more of it"] {
        check(Some(bytes), Some("/app.wasm"), None, Err(ASKS));
    }
    check(None, Some("/app.wasm"), None, Err(ASKS));
    check(Some(MODULE), None, None, Err(ASKS));
    check(Some(MODULE), Some("#run"), None, Err(ASKS));
}

#[test]
fn image_without_wasm_is_told_with_what_args_name() {
    let image = || "nginx:1.27".to_owned();
    let at = |foreign| {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("app"), "x").unwrap();
        let found = Tree::open(root.path()).unwrap().file(Path::new("/app")).unwrap();
        AtArgument::Other(foreign, Box::new(found.unwrap()))
    };
    let expected = "no wasm in nginx:1.27: expected a layer of type application/wasm, or args[0] naming a .wasm file or a linux program";
    let helm = || vec!["application/helm".to_owned()];
    let unknown = "no wasm in nginx:1.27: unknown layer types application/helm; expected application/wasm";
    let cases = [
        (helm(), "app", at(Foreign::Unknown), unknown.to_owned()),
        (helm(), "app", AtArgument::Nothing, unknown.to_owned()),
        (vec![], "app", at(Foreign::Empty), format!("{expected} (/app is empty)")),
        (vec![], "app", AtArgument::Nothing, format!("{expected} (no file app in the root filesystem)")),
        (vec![], "", AtArgument::Nothing, format!("{expected} (args is empty)")),
    ];
    for (types, text, at_argument, message) in cases {
        let error = nothing(image(), types, text, &at_argument);
        assert_eq!(chain(&error), message);
    }
}
