//! The Helm chart, rendered as Helm does it: what each kind of values gives, which are refused and how, and what holds for
//! all of them. What a cluster makes of it is `test/e2e`'s to show.

mod helm;
mod pods;

use helm::{CHART, Manifests, documents};
use pods::Pod;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use testkit::checkout;

/// A registry for values that need no other.
const REGISTRY: &str = "registry.example.com/wasm";

/// Values, and parts of manifests that have to be among what they give.
#[test]
fn values_give_what_they_say() {
    for case in cases("accepted.yaml") {
        let name = case["name"].as_str().expect("a case with a name").to_owned();
        let manifests = Manifests::render(&case["values"]).unwrap_or_else(|said| panic!("{name}: {said}"));
        for part in case["has"].as_array().into_iter().flatten() {
            let found: Vec<&Value> = manifests.all().filter(|found| found["kind"] == part["kind"]).collect();
            assert!(found.iter().any(|found| contains(found, part)), "{name}: none has {part:#}: {found:#?}");
        }
        for part in case["lacks"].as_array().into_iter().flatten() {
            let found = manifests.all().find(|found| contains(found, part));
            assert!(found.is_none(), "{name}: has {part:#}: {found:#?}");
        }
        holds_always(&name, &manifests);
        nothing_else_of_the_node(&name, &manifests, &case["values"]);
    }
}

/// Values that cannot be, and what is said about them.
#[test]
fn bad_values_are_refused_by_name() {
    for case in cases("refused.yaml") {
        let said = match Manifests::render(&case["values"]) {
            Ok(manifests) => panic!("{case:#} is rendered:\n{}", manifests.text),
            Err(said) => said,
        };
        for part in case["says"].as_array().expect("what is said").iter().filter_map(Value::as_str) {
            assert!(said.contains(part), "{case:#}: {said}");
        }
    }
}

#[test]
fn helm_finds_no_fault() {
    let chart = checkout::root().join(CHART);
    let lint = helm::run(&["lint", "--strict", "--set", "image.registry=r", &chart.display().to_string()], "");
    lint.unwrap_or_else(|said| panic!("{said}"));
}

/// In `deploy/` is what `deploy/render.sh` makes of the chart.
#[test]
fn deploy_has_what_the_chart_gives() {
    let folder = checkout::root().join("deploy");
    let made = tempfile::tempdir().unwrap();
    let mut render = Command::new(folder.join("render.sh"));
    let output = render.arg(made.path()).env("HELM", helm::program()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["install.yaml", "uninstall.yaml"] {
        let (kept, now) = (folder.join(file), made.path().join(file));
        let same = fs::read_to_string(&kept).unwrap() == fs::read_to_string(now).unwrap();
        assert!(same, "{} is not what the chart gives: run deploy/render.sh", kept.display());
    }
    let uninstall = Manifests::parse(&fs::read_to_string(folder.join("uninstall.yaml")).unwrap());
    assert!(uninstall.all().all(|object| object["metadata"].get("annotations").is_none()), "{}", uninstall.text);
    let install = fs::read_to_string(folder.join("install.yaml")).unwrap();
    assert!(!install.contains("helm.sh/"), "install.yaml has hooks or tests");
}

/// Pods of users, as we show them, are within Pod Security `restricted`, by images that are in `images/`.
#[test]
fn samples_are_restricted() {
    let root = checkout::root();
    let mut count = 0;
    for entry in fs::read_dir(root.join("deploy/samples")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let manifests = Manifests::parse(&fs::read_to_string(&path).unwrap());
        for pod in manifests.pods() {
            count += 1;
            pod.is_restricted().unwrap_or_else(|what| panic!("{file}: {what}"));
            assert_eq!(pod.spec["runtimeClassName"], "wasm", "{file}");
            for image in pod.images() {
                let ours = image.strip_prefix(&format!("{REGISTRY}/")).and_then(|image| image.split_once(':'));
                let known = match ours {
                    Some((name, version)) => {
                        root.join("images").join(name).is_dir() && version == env!("CARGO_PKG_VERSION")
                    }
                    None => image.starts_with("docker.io/library/busybox:1."),
                };
                assert!(known, "{file}: {image} is no image of this version of images/");
            }
        }
    }
    assert!(count >= 5, "{count} pods in deploy/samples");
}

#[test]
fn the_chart_has_the_version_of_the_workspace() {
    let chart = helm::document(&fs::read_to_string(checkout::root().join(CHART).join("Chart.yaml")).unwrap());
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "Chart.yaml's {key}");
    }
}

/// A name that is misspelt is an error wherever it is, and every name has a default that is explained.
#[test]
fn every_value_is_in_the_schema_and_documented() {
    let chart = checkout::root().join(CHART);
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json")).unwrap()).unwrap();
    let text = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let mut values = helm::document(&text);
    // Helm puts it there, for subcharts.
    values["global"] = json!({});
    same_names("", &schema, &schema, &values);
    let (mut last, mut top) = ("", "");
    for line in text.lines() {
        if !line.starts_with([' ', '#']) {
            top = line;
        }
        let name = line.trim_start().split_once(": ").map(|(name, _)| name);
        let is_value = name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphabetic()));
        // What Kubernetes itself names needs no words of ours.
        if is_value && top != "resources:" {
            assert!(last.trim_start().starts_with("# "), "values.yaml: {line} has no comment before it");
        }
        last = line;
    }
}

/// The cases of a file, which is beside this one.
fn cases(file: &str) -> Vec<Value> {
    let path = checkout::root().join("test/chart").join(file);
    let cases = documents(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    assert!(cases.len() > 3, "{file}");
    cases
}

/// Whether all of `part` is in `whole`: every key of an object, every element of a list somewhere in the list.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| contains(whole, part)))
        }
        (whole, part) => whole == part,
    }
}

/// What no value changes.
fn holds_always(name: &str, manifests: &Manifests) {
    let pods = manifests.pods();
    let kinds: BTreeSet<&str> = pods.iter().map(|pod| pod.kind).collect();
    assert_eq!(kinds, BTreeSet::from(["DaemonSet", "Job", "Pod"]), "{name}");
    for pod in &pods {
        pod.is_confined().unwrap_or_else(|what| panic!("{name}: {what}"));
        for image in pod.images() {
            let pinned = image.contains("@sha256:") || image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest");
            assert!(pinned, "{name}: {image}");
        }
        // Only the installer is root, and on the node.
        if pod.kind != "DaemonSet" {
            pod.is_restricted().unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
    for role in manifests.all().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"))) {
        assert!(!role["rules"].to_string().contains('*'), "{name}: {role:#}");
    }
}

/// The installer sees these paths of the node, and no other.
fn nothing_else_of_the_node(name: &str, manifests: &Manifests, values: &Value) {
    let value =
        |pointer: &str, default: &str| values.pointer(pointer).and_then(Value::as_str).unwrap_or(default).to_owned();
    let folder = |path: String| path.rsplit_once('/').expect("an absolute path").0.to_owned();
    let expected = BTreeSet::from([
        (folder(value("/containerd/config", "/etc/containerd/config.toml")), "Directory".to_owned()),
        (folder(value("/containerd/socket", "/run/containerd/containerd.sock")), "Directory".to_owned()),
        (value("/installDir", "/opt/wasm"), "DirectoryOrCreate".to_owned()),
        ("/etc/containerd-shim-wasm".to_owned(), "DirectoryOrCreate".to_owned()),
        ("/run/systemd/private".to_owned(), "Socket".to_owned()),
    ]);
    let pods = manifests.pods();
    let found: BTreeSet<(String, String)> = pods.iter().flat_map(Pod::host_paths).collect();
    assert_eq!(found, expected, "{name}");
    let installer = pods.iter().find(|pod| pod.kind == "DaemonSet").expect("an installer");
    for (path, _) in found {
        let at = format!("/host{path}");
        let mounts = &installer.spec["containers"][0]["volumeMounts"];
        assert!(contains(mounts, &json!([{ "mountPath": at }])), "{name}: {path} is not at {at}: {mounts:#}");
    }
}

/// Every object of the schema is closed, and has the names that the defaults have.
fn same_names(path: &str, root: &Value, schema: &Value, values: &Value) {
    let schema = match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).expect("a definition"),
        None => schema,
    };
    if schema["type"] == "array" {
        return same_names(path, root, &schema["items"], &Value::Null);
    }
    if schema["type"] != "object" || path == "/global" {
        return;
    }
    let closed = &schema["additionalProperties"];
    assert!(*closed == json!(false) || closed["type"] == "string", "values.schema.json: {path} is not closed");
    let named: BTreeSet<&String> =
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    let open = ["/resources", "/seLinuxOptions"].iter().any(|open| path.starts_with(open)) || values.is_null();
    if let (Some(values), false) = (values.as_object(), open) {
        assert_eq!(values.keys().collect::<BTreeSet<_>>(), named, "{path}: values.yaml and values.schema.json differ");
    }
    for name in named {
        same_names(&format!("{path}/{name}"), root, &schema["properties"][name], &values[name]);
    }
}
