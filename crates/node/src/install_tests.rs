//! What becomes of a configuration over several runs, with edits of others between them.

use super::*;
use crate::args::{Cli, Command};
use crate::config::Daemon;
use clap::Parser;

const CONFIG: &str = "/etc/containerd/config.toml";
const DROP_IN: &str = "/etc/containerd/conf.d/containerd-shim-wasm.toml";
const V1_7: Daemon = Daemon { major: 1, minor: 7 };
const V2_3: Daemon = Daemon { major: 2, minor: 3 };
const PLAIN: &str = "version = 2\n# a comment\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\"\n";

/// A node's files, and what the runs know of them.
struct Node {
    site: Site,
    state: State,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new(config: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let Command::Verify(node) = Cli::parse_from(["wasm-node", "verify", "--host-root", &root]).command else {
            unreachable!("it is said so")
        };
        let site = Site::new(&node).unwrap();
        site.host.write(Path::new(CONFIG), config.as_bytes(), Mode::Text).unwrap();
        Node { site, state: State::default(), _dir: dir }
    }

    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.site.host.read(Path::new(path)).unwrap()?;
        Some(String::from_utf8(bytes).unwrap())
    }

    /// Others write a file.
    fn others(&self, path: &str, text: &str) {
        self.site.host.write(Path::new(path), text.as_bytes(), Mode::Text).unwrap();
    }

    /// What a run of an install writes; whether it writes something.
    fn edits(&mut self, daemon: Daemon) -> Result<bool, String> {
        let site = &self.site;
        let files = Files::read(&site.host, &site.node.config, daemon).map_err(|error| one_line(&error))?;
        let ours = self.state.edit.as_ref().map(|edit| edit.file.clone());
        let change = files.with_runtime(&site.shim(), ours.as_deref()).map_err(|error| one_line(&error))?;
        let Some(change) = change else { return Ok(false) };
        edit(site, &change, &mut None, &mut self.state).map_err(|error| one_line(&error))?;
        Ok(true)
    }

    fn is_undone(&mut self) {
        assert!(undo_edit(&self.site, &mut self.state).unwrap());
    }
}

#[test]
fn what_others_wrote_anew_goes_back_without_our_table() {
    for daemon in [V1_7, V2_3] {
        let mut node = Node::new(PLAIN);
        assert!(node.edits(daemon).unwrap());
        assert!(!node.edits(daemon).unwrap(), "a second run edits again");
        // As tools do that parse the file and write it: comments go, keys are added.
        let written = node.text(CONFIG).unwrap();
        let lines = written.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let anew = format!("root = \"/elsewhere\"\n{}\n", lines.replace("\"pause\"", "\"pause:2\""));
        node.others(CONFIG, &anew);
        assert!(node.edits(daemon).unwrap(), "our comment is not written again");
        node.is_undone();
        let left = node.text(CONFIG).unwrap();
        assert!(left.contains("root = \"/elsewhere\"") && left.contains("pause:2"), "{left}");
        assert!(!left.contains("wasm") && !left.contains("runtimes"), "{left}");
    }
}

#[test]
fn a_file_that_others_replaced_is_kept_whole() {
    let runc =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"theirs\"\n";
    let mut node = Node::new(PLAIN);
    assert!(node.edits(V1_7).unwrap());
    assert!(node.text(CONFIG).unwrap().contains("runtimes.runc"), "1.7 needs it");
    node.others(CONFIG, runc);
    assert!(node.edits(V1_7).unwrap());
    node.is_undone();
    assert_eq!(node.text(CONFIG).unwrap(), runc);
}

#[test]
fn imports_that_come_later_change_nothing() {
    let mut node = Node::new(PLAIN);
    assert!(node.edits(V2_3).unwrap());
    let edited = node.text(CONFIG).unwrap();
    let imports = "imports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    node.others(CONFIG, &format!("{imports}{edited}"));
    assert!(!node.edits(V2_3).unwrap(), "it is written once more: {:?}", node.text(DROP_IN));
    assert_eq!(node.text(DROP_IN), None);
    node.is_undone();
    assert_eq!(node.text(CONFIG).unwrap(), format!("{imports}{PLAIN}"));
}

#[test]
fn imports_that_go_take_our_file_with_them() {
    let main = format!("imports = [\"/etc/containerd/conf.d/*.toml\"]\n{PLAIN}");
    let mut node = Node::new(&main);
    assert!(node.edits(V2_3).unwrap());
    assert!(node.text(DROP_IN).is_some_and(|text| text.contains("runtimes.wasm")));
    assert!(!node.edits(V2_3).unwrap());
    node.others(CONFIG, PLAIN);
    assert!(node.edits(V2_3).unwrap());
    assert_eq!(node.text(DROP_IN), None, "a file that nobody reads is left");
    assert!(node.text(CONFIG).unwrap().contains("runtimes.wasm"));
    node.is_undone();
    assert_eq!(node.text(CONFIG).unwrap(), PLAIN);
}

#[test]
fn a_copy_of_our_table_is_no_fault_and_one_before_ours_is() {
    let main = format!("imports = [\"/etc/containerd/conf.d/*.toml\"]\n{PLAIN}");
    let mut node = Node::new(&main);
    assert!(node.edits(V2_3).unwrap());
    let copy = node.text(DROP_IN).unwrap();
    node.others("/etc/containerd/conf.d/99-copy.toml", &copy);
    assert!(!node.edits(V2_3).unwrap());
    let mut late = Node::new(&main);
    late.others("/etc/containerd/conf.d/99-copy.toml", &copy);
    assert!(late.edits(V2_3).unwrap_err().contains("defines the runtime `wasm` already"));
}

#[test]
fn links_are_refused_before_anything() {
    let mut node = Node::new(PLAIN);
    let place = node.site.host.at(Path::new(CONFIG));
    fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink("/usr/share/containerd/config.toml", &place).unwrap();
    let said = node.edits(V2_3).unwrap_err();
    assert!(said.contains("config.toml is a symbolic link"), "{said}");
    assert!(fs::symlink_metadata(&place).unwrap().is_symlink());
    let mut node = Node::new("version = 2\nimports = [\"conf.d/a.toml\"]\n");
    node.others("/etc/containerd/conf.d/b.toml", "version = 2\n");
    let import = node.site.host.at(Path::new("/etc/containerd/conf.d/a.toml"));
    std::os::unix::fs::symlink("/elsewhere/a.toml", import).unwrap();
    assert!(node.edits(V2_3).unwrap_err().contains("a.toml is a symbolic link"));
    let mut node = Node::new("version = 2\nimports = [\"conf.d/*.toml\"]\n");
    let folder = node.site.host.at(Path::new("/etc/containerd/conf.d"));
    std::os::unix::fs::symlink("/elsewhere", folder).unwrap();
    assert!(node.edits(V2_3).unwrap_err().contains("conf.d is a symbolic link"));
}

#[test]
fn an_operator_file_is_ours_whenever_a_run_was_killed() {
    let mut node = Node::new(PLAIN);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, "new").unwrap();
    let words = ["wasm-node", "install", "--operator-config", path.to_str().unwrap()];
    let Command::Install(wanted) = Cli::parse_from(words).command else { unreachable!("it is said so") };
    let Command::Install(none) = Cli::parse_from(&words[..2]).command else { unreachable!("it is said so") };
    let said = |node: &Node, args: &Install| {
        let now = node.site.host.read(Path::new(OPERATOR_CONFIG)).unwrap();
        operator(now.as_deref(), args, &node.state).map_err(|error| one_line(&error))
    };
    assert_eq!(said(&node, &wanted), Ok(Operator::Written(b"new".to_vec())));
    assert_eq!(said(&node, &none), Ok(Operator::Kept));
    // Killed before the file was written, and after it.
    node.state.operator_config = vec![sha256(b"old"), sha256(b"new")];
    node.others(OPERATOR_CONFIG, "old");
    assert_eq!(said(&node, &wanted), Ok(Operator::Written(b"new".to_vec())));
    assert_eq!(said(&node, &none), Ok(Operator::Removed));
    node.others(OPERATOR_CONFIG, "new");
    assert_eq!(said(&node, &wanted), Ok(Operator::Kept));
    // Somebody else's is neither written over nor taken for ours, also if it says the same.
    node.state.operator_config.clear();
    assert_eq!(said(&node, &wanted), Ok(Operator::Kept));
    assert_eq!(said(&node, &none), Ok(Operator::Kept));
    node.others(OPERATOR_CONFIG, "theirs");
    assert!(said(&node, &wanted).unwrap_err().contains("wasm-node did not write it"));
}

#[test]
fn what_a_killed_run_brought_is_taken_back_by_the_next() {
    let payload = Payload { shim: b"new shim".to_vec(), wasm: Vec::new() };
    let cases = [(None, None, "new"), (Some("old shim"), Some("old"), "new"), (Some("old shim"), Some("old"), "")];
    for (old_shim, operator_before, operator_after) in cases {
        let mut node = Node::new(PLAIN);
        let shim = node.site.shim();
        if let Some(old) = old_shim {
            node.site.host.write(&shim, old.as_bytes(), Mode::Program).unwrap();
        }
        if let Some(text) = operator_before {
            node.others(OPERATOR_CONFIG, text);
        }
        let work = |node: &Node, has_new_shim, operator| {
            let [shim, ruled] =
                [shim.as_path(), Path::new(OPERATOR_CONFIG)].map(|path| node.site.host.read(path).unwrap());
            let before = before(&node.site, shim, ruled, None).unwrap();
            Work { change: None, has_new_shim, must_restart: false, operator, before }
        };
        let operator = match operator_after {
            "" => Operator::Removed,
            text => Operator::Written(text.as_bytes().to_vec()),
        };
        let killed = work(&node, true, operator);
        assert!(killed.changes());
        stage(&node.site, &payload, &killed, &mut node.state).unwrap();
        assert_eq!(node.text(OPERATOR_CONFIG).unwrap_or_default(), operator_after);
        // The next one finds all in its place.
        let next = work(&node, false, Operator::Kept);
        assert!(next.changes(), "it would leave what it cannot verify");
        assert_eq!(taken_back(&node.site, next, &mut node.state), "containerd runs as before");
        assert_eq!(node.text(OPERATOR_CONFIG).as_deref(), operator_before);
        assert_eq!(node.site.host.read(&shim).unwrap().as_deref(), old_shim.map(str::as_bytes));
        assert!(!work(&node, false, Operator::Kept).changes(), "something is kept that nobody needs");
    }
}

#[test]
fn a_file_that_was_loaded_is_known_whatever_the_clock_says() {
    let node = Node::new(PLAIN);
    let mut state = State::default();
    assert!(!state.knows(Path::new(CONFIG), PLAIN));
    let files = Files::read(&node.site.host, &node.site.node.config, V2_3).unwrap();
    state.loaded = loaded(&files, None);
    assert!(state.knows(Path::new(CONFIG), PLAIN));
    assert!(!state.knows(Path::new(CONFIG), "version = 3\n") && !state.knows(Path::new(DROP_IN), PLAIN));
    let change = files.with_runtime(&node.site.shim(), None).unwrap();
    assert!(change.is_some());
    state.loaded = loaded(&files, change.as_ref());
    assert!(state.knows(Path::new(CONFIG), &change.unwrap().after) && !state.knows(Path::new(CONFIG), PLAIN));
}

#[test]
fn a_run_that_goes_on_has_the_inputs_of_the_one_that_was_killed() {
    let mut node = Node::new(PLAIN);
    let payload = Payload { shim: b"shim".to_vec(), wasm: Vec::new() };
    let inputs_of = |node: &Node, operator: &Operator| {
        let files = Files::read(&node.site.host, &node.site.node.config, V2_3).unwrap();
        let ours = node.state.edit.as_ref().map(|edit| edit.file.as_path());
        let change = files.with_runtime(&node.site.shim(), ours).unwrap();
        inputs(&node.site, &payload, &loaded(&files, change.as_ref()), operator, "2.3").unwrap()
    };
    let wanted = Operator::Written(b"new".to_vec());
    let first = inputs_of(&node, &wanted);
    assert!(node.edits(V2_3).unwrap());
    assert_eq!(inputs_of(&node, &wanted), first);
    node.others(OPERATOR_CONFIG, "new");
    assert_eq!(inputs_of(&node, &Operator::Kept), first);
    assert_ne!(inputs_of(&node, &Operator::Removed), first);
    node.others(CONFIG, &format!("{}\n[debug]\n", node.text(CONFIG).unwrap()));
    assert_ne!(inputs_of(&node, &Operator::Kept), first);
}
