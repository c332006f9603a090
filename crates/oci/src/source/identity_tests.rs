//! Cases of identities, with plain directories in the place of an overlay's: what the overlay shows is a hard link to
//! the lower file, as it has the same inode number and size.

use super::*;
use crate::source::rootfs;
use std::fs;
use std::os::unix::fs::symlink;

const FILE: &str = "/opt/app.wasm";

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["merged/opt", "upper/opt", "low1/opt", "low2/opt", "odd:dir/opt"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("merged/opt/app.wasm"), "wasm").unwrap();
        Tree(dir)
    }

    fn path(&self, sub: &str) -> String {
        self.0.path().join(sub).display().to_string()
    }

    /// Shows the overlay's file in a lower directory too.
    fn link(&self, dir: &str) {
        let link = self.path(&format!("{dir}/opt/app.wasm"));
        fs::hard_link(self.path("merged/opt/app.wasm"), link).unwrap();
    }

    fn mount(&self, kind: &str, options: &[&str]) -> RootfsMount {
        let options = options.iter();
        RootfsMount {
            kind: kind.to_owned(),
            source: self.path("merged"),
            options: options.map(|option| option.replace("T/", &format!("{}/", self.0.path().display()))).collect(),
        }
    }

    fn identity(&self, kind: &str, options: &[&str], age: Duration) -> Option<FileIdentity> {
        let root = self.path("merged");
        let found = rootfs::Tree::open(Path::new(&root)).and_then(|tree| tree.file(Path::new(FILE)));
        let found = found.unwrap().unwrap();
        let now = SystemTime::now() + age;
        identify(&found, &[self.mount(kind, options)], now)
    }
}

fn check(what: &str, prepare: impl Fn(&Tree), kind: &str, options: &[&str], wanted: bool) {
    let tree = Tree::new();
    prepare(&tree);
    let got = tree.identity(kind, options, Duration::from_secs(60));
    assert_eq!(got.is_some(), wanted, "{what}: {options:?} gave {got:?}");
    if let Some(identity) = got {
        let metadata = fs::metadata(tree.path("merged/opt/app.wasm")).unwrap();
        assert_eq!(identity.inode, metadata.ino(), "{what}");
        assert_eq!(identity.device, metadata.dev(), "{what}");
        assert_eq!(identity.size, 4, "{what}");
        assert_eq!(identity.changed_ns, changed_ns(&metadata), "{what}");
    }
}

#[test]
fn lower_file_of_an_overlay_has_an_identity() {
    let both = ["workdir=T/w", "upperdir=T/upper", "lowerdir=T/low1:T/low2"];
    check("in the first", |t| t.link("low1"), "overlay", &both, true);
    check("in the second", |t| t.link("low2"), "overlay", &both, true);
    let view = ["lowerdir=T/low1:T/low2"];
    check("a view", |t| t.link("low2"), "overlay", &view, true);
    let escaped = ["lowerdir=T/low1:T/odd\\:dir"];
    check("escaped colon", |t| t.link("odd:dir"), "overlay", &escaped, true);
}

#[test]
fn file_that_may_change_has_no_identity() {
    let both = ["upperdir=T/upper", "lowerdir=T/low1:T/low2"];
    check("nowhere", |_| {}, "overlay", &both, false);
    let in_upper = |t: &Tree| {
        t.link("upper");
        t.link("low1");
    };
    check("in upper", in_upper, "overlay", &both, false);
    let other_above = |t: &Tree| {
        fs::write(t.path("low1/opt/app.wasm"), "othr").unwrap();
        t.link("low2");
    };
    check("hidden by another", other_above, "overlay", &both, false);
    let dir_above = |t: &Tree| {
        fs::create_dir(t.path("low1/opt/app.wasm")).unwrap();
        t.link("low2");
    };
    check("hidden by a directory", dir_above, "overlay", &both, false);
    let linked = |t: &Tree| {
        t.link("low2");
        fs::remove_dir(t.path("low1/opt")).unwrap();
        symlink(t.path("low2/opt"), t.path("low1/opt")).unwrap();
    };
    check("behind a symlink", linked, "overlay", &both, false);
    let grown = |t: &Tree| fs::write(t.path("low1/opt/app.wasm"), "longer").unwrap();
    check("of another size", grown, "overlay", &both, false);
    let relative = ["upperdir=T/upper", "lowerdir=low1"];
    check("relative", |t| t.link("low1"), "overlay", &relative, false);
    check("no lower", |t| t.link("low1"), "overlay", &[], false);
    check("of unknown kind", |t| t.link("low1"), "btrfs", &both, false);
}

#[test]
fn read_only_bind_has_an_identity() {
    check("ro", |_| {}, "bind", &["rbind", "ro"], true);
    check("rw", |_| {}, "bind", &["rbind", "rw"], false);
}

#[test]
fn young_file_has_no_identity() {
    let tree = Tree::new();
    tree.link("low1");
    let options = ["lowerdir=T/low1"];
    let young = tree.identity("overlay", &options, Duration::ZERO);
    assert_eq!(young, None);
}

#[test]
fn a_file_of_a_volume_is_never_taken_for_one_of_the_image() {
    let tree = Tree::new();
    tree.link("low1");
    let root = tree.path("merged");
    let mut found = rootfs::Tree::open(Path::new(&root)).unwrap().file(Path::new(FILE)).unwrap().unwrap();
    let mount = tree.mount("overlay", &["lowerdir=T/low1"]);
    let later = SystemTime::now() + Duration::from_secs(60);
    assert!(identify(&found, std::slice::from_ref(&mount), later).is_some());
    found.place = Place::Volume;
    assert_eq!(identify(&found, &[mount], later), None);
}
