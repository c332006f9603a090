//! Cases of finding files in a real tree with symlinks that try to leave it.

use super::*;
use crate::chain;
use crate::source::argument::candidates;
use std::io::Read;
use std::os::unix::fs::symlink;

/// A root with a file outside of it that no path may reach.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    let root = dir.path().join("root");
    for sub in ["bin", "usr/bin", "opt/app", "dir.wasm"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    for file in ["usr/bin/app", "opt/app/main.wasm", "root.wasm"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    let outside = dir.path().join("secret");
    let links = [
        ("/opt/app/main.wasm", "bin/absolute"),
        ("../opt/app/main.wasm", "bin/relative"),
        ("../../../../../../opt/app/main.wasm", "bin/climbing"),
        ("../../secret", "bin/escaping"),
        (outside.to_str().unwrap(), "bin/outside"),
        ("loop", "bin/loop"),
        ("nowhere", "bin/dangling"),
        ("/opt", "link"),
    ];
    for (target, link) in links {
        symlink(target, root.join(link)).unwrap();
    }
    dir
}

fn check(file: &str, cwd: &str, path: &str, wanted: Result<Option<&str>, &str>) {
    let dir = tree();
    let env = [("PATH".to_owned(), path.to_owned())];
    let places = candidates(file, Path::new(cwd), &env);
    let root = Tree::open(&dir.path().join("root")).unwrap();
    let mut places = places;
    let found = places.find_map(|place| root.file(&place).transpose()).transpose();
    let got = found.map_err(|error| chain(&error)).map(|found| {
        found.map(|mut found| {
            let mut content = String::new();
            found.file.read_to_string(&mut content).unwrap();
            assert_eq!(format!("/{content}"), found.path.display().to_string());
            assert_eq!(found.metadata.len(), content.len() as u64);
            found.path
        })
    });
    match wanted {
        Ok(wanted) => assert_eq!(got, Ok(wanted.map(PathBuf::from)), "{file} {cwd} {path}"),
        Err(start) => {
            let message = got.expect_err(file);
            assert!(message.starts_with(start), "{message}");
        }
    }
}

#[test]
fn files_are_found_as_a_process_inside_finds_them() {
    check("app", "/", "/bin:/usr/bin", Ok(Some("/usr/bin/app")));
    check("app", "/", "/bin", Ok(None));
    check("/usr/bin/app", "/", "", Ok(Some("/usr/bin/app")));
    check("./main.wasm", "/opt/app", "", Ok(Some("/opt/app/main.wasm")));
    check("../app/main.wasm", "/opt/app", "", Ok(Some("/opt/app/main.wasm")));
    check("main.wasm", "/opt/app", "/bin", Ok(Some("/opt/app/main.wasm")));
    check("root.wasm", "/opt", "/bin", Ok(Some("/root.wasm")));
    check("/usr/bin/app/x", "/", "", Ok(None));
    check("/bin", "/", "", Ok(None));
    check("dir.wasm", "/", "/bin", Ok(None));
    check(&format!("/{}", "x".repeat(300)), "/", "", Ok(None));
}

#[test]
fn links_are_resolved_inside_the_root_only() {
    let main = Ok(Some("/opt/app/main.wasm"));
    check("absolute", "/", "/bin", main);
    check("relative", "/", "/bin", main);
    check("climbing", "/", "/bin", main);
    check("/link/app/main.wasm", "/", "", main);
    check("main.wasm", "/link/app", "", main);
    check("/../../opt/app/main.wasm", "/", "", main);
    check("escaping", "/", "/bin", Ok(None));
    check("outside", "/", "/bin", Ok(None));
    check("/../secret", "/", "", Ok(None));
    check("../../../secret", "/opt", "", Ok(None));
    check("dangling", "/", "/bin", Ok(None));
    check("loop", "/", "/bin", Err("find /bin/loop in the root filesystem: "));
}

#[test]
fn fifo_is_not_opened() {
    let dir = tree();
    let fifo = dir.path().join("root/fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let found = Tree::open(&dir.path().join("root")).unwrap().file(Path::new("/fifo"));
    assert!(found.unwrap().is_none());
}

#[test]
fn absent_root_is_named() {
    let error = Tree::open(Path::new("/nowhere")).unwrap_err();
    let message = chain(&error);
    assert!(message.starts_with("open root filesystem /nowhere: "), "{message}");
}
