//! Images that containerd pulls from a registry, as the kubelet lets it: the table of the README, with what each form of an
//! image comes to on each version, by the transfer service and by CRI's own pull.

use crate::Cases;
use anyhow::{Result, ensure};
use testkit::containerd::Pull;
use testkit::cri::{Cri, Pod};
use testkit::image::{ConfigForm, Rootfs, WASM_LAYERS};
use testkit::registry::Registry;
use testkit::{Containerd, Image, Namespace, Version, cases, guests};

pub(crate) const CASES: Cases = cases![
    crate::images::each_form_of_an_image_by_tag_and_digest,
    crate::images::each_form_of_an_image_where_unpacked_layers_are_discarded,
    crate::images::a_registry_that_the_node_s_files_name,
];

/// What becomes of an image.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// Its container says hello.
    Runs,
    /// containerd does not pull it, and says this.
    NotPulled(&'static str),
    /// containerd creates no container of it, and says this.
    NotCreated(&'static str),
}
use Outcome::{NotCreated, NotPulled, Runs};

/// By whom an image is pulled and unpacked.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// CRI: 1.7, and later versions that are set to discard what is unpacked.
    Cri,
    /// The transfer service, and by CRI what that has left packed.
    Transfer,
    /// The transfer service alone.
    TransferAlone,
}

/// A form of images, with the `command` of the pod and the outcome for each way.
struct Row {
    name: &'static str,
    form: fn(Image, &[u8]) -> Image,
    command: &'static [&'static str],
    outcomes: [Outcome; 3],
}

fn rows() -> Vec<Row> {
    const OWN: &[&str] = &[];
    const NAMED: &[&str] = &["/app.wasm"];
    const UNPACKED_BY_NOBODY: Outcome = NotCreated("parent snapshot");
    const MISMATCH: &str = "mismatched image rootfs and manifest layers";
    let row = |name, form, command, outcomes| Row { name, form, command, outcomes };
    let every = |outcome| [outcome; 3];
    let no_match = every(NotPulled("no match for platform in manifest"));
    let no_command = every(NotCreated("no command specified"));
    let only_layers = [NotPulled(MISMATCH), NotCreated(MISMATCH), UNPACKED_BY_NOBODY];
    vec![
        row("file-linux", file, OWN, every(Runs)),
        row("file-linux-manifest", |image, wasm| linux(file(image, wasm)), OWN, every(Runs)),
        row("file-wasi", |image, wasm| wasi(file(image, wasm)), OWN, no_match),
        row("file-wasi-manifest", |image, wasm| wasi(file(image, wasm)).bare(), OWN, [Runs, Runs, UNPACKED_BY_NOBODY]),
        row("layer-linux", layer, OWN, every(Runs)),
        row("layer-linux-manifest", |image, wasm| linux(layer(image, wasm)), OWN, every(Runs)),
        row("layer-wasi", |image, wasm| wasi(layer(image, wasm)), OWN, no_match),
        row("layer-wasi-manifest", |image, wasm| wasi(layer(image, wasm)).bare(), OWN, every(Runs)),
        row("counting", |image, wasm| linux(layer(image, wasm)).config(ConfigForm::Counting), OWN, only_layers),
        row("artifact", artifact, OWN, no_command),
        row("artifact-named", artifact, NAMED, every(Runs)),
        row("empty-named", |image, wasm| artifact(image, wasm).config(ConfigForm::Empty), NAMED, every(Runs)),
    ]
}

/// The recipe that works everywhere. No two have a layer in common, which one could have unpacked for the other.
fn file(image: Image, wasm: &[u8]) -> Image {
    let name = image.reference().to_owned();
    image.rootfs(Rootfs::new().file("app.wasm", wasm).file("name", name.as_bytes())).entrypoint(["/app.wasm"])
}

fn layer(image: Image, wasm: &[u8]) -> Image {
    image.blob_layer(WASM_LAYERS[0], wasm).entrypoint(["app.wasm"])
}

fn linux(image: Image) -> Image {
    image.platform("linux", "amd64").bare()
}

fn wasi(image: Image) -> Image {
    image.platform("wasi", "wasm")
}

/// As the guidance for Wasm artifacts has it, and tools push it.
fn artifact(image: Image, wasm: &[u8]) -> Image {
    image.blob_layer(WASM_LAYERS[0], wasm).config(ConfigForm::Wasm).platform("wasip1", "wasm").bare()
}

fn each_form_of_an_image_by_tag_and_digest(node: &Namespace) -> Result<()> {
    each_form(node, Pull::Usual)
}

fn each_form_of_an_image_where_unpacked_layers_are_discarded(node: &Namespace) -> Result<()> {
    let containerd =
        Containerd::start_to_pull(node.containerd().version(), node.containerd().shim(), Pull::Discarding)?;
    each_form(&containerd.namespace(&format!("{}-inner", node.name())), Pull::Discarding)?;
    containerd.stop()
}

fn each_form(node: &Namespace, pull: Pull) -> Result<()> {
    let way = match (pull, node.containerd().version()) {
        (Pull::Discarding, _) | (Pull::Usual, Version::V1_6 | Version::V1_7) => Way::Cri,
        (Pull::Usual, Version::V2_1) => Way::Transfer,
        (Pull::Usual, Version::V2_3 | Version::V2_4) => Way::TransferAlone,
    };
    let wasm = guests::module("p1_hello.wat")?;
    let registry = Registry::start(&node.directory("registry")?)?;
    let cri = Cri::new(node, &[])?;
    let pod = cri.pod(|_| ())?;
    let mut wrong = Vec::new();
    for row in rows() {
        let image = (row.form)(Image::new(&registry.reference(&format!("test/{}:1", row.name))), &wasm);
        let by_digest = registry.push(&image)?;
        for reference in [image.reference(), &by_digest] {
            let seen = observe(&cri, &pod, reference, row.command)?;
            let wanted = row.outcomes[way as usize];
            if !wanted.is(&seen) {
                wrong.push(format!("{reference}: {wanted:?} was expected: {seen:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{way:?}:\n{}", wrong.join("\n"));
    pod.remove()
}

/// How far an image came, and what was said there: by containerd, or by the container in its log.
#[derive(Debug)]
struct Seen {
    stage: Stage,
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    NotPulled,
    NotCreated,
    NotStarted,
    Failed,
    Completed,
}

impl Outcome {
    fn is(&self, seen: &Seen) -> bool {
        let (stage, text) = match self {
            Runs => (Stage::Completed, " stdout F hello from wasm\n"),
            NotPulled(text) => (Stage::NotPulled, *text),
            NotCreated(text) => (Stage::NotCreated, *text),
        };
        seen.stage == stage && seen.said.contains(text)
    }
}

/// Pulls the image and runs it by its id, as the kubelet does; afterwards it is not on the node.
fn observe(cri: &Cri<'_>, pod: &Pod<'_>, reference: &str, command: &[&str]) -> Result<Seen> {
    let id = match cri.pull(reference)? {
        Ok(id) => id,
        Err(output) => return Ok(Seen { stage: Stage::NotPulled, said: output.errors() }),
    };
    // What an image does not hold on to is gone by the time that its container is created.
    cri.collect_garbage()?;
    let seen = run(cri, pod, &Image::new(&id), command)?;
    cri.ask(&["rmi", &id])?;
    Ok(seen)
}

fn run(cri: &Cri<'_>, pod: &Pod<'_>, image: &Image, command: &[&str]) -> Result<Seen> {
    let container = match pod.try_create(image, command, |_| ())? {
        Ok(container) => container,
        Err(output) => return Ok(Seen { stage: Stage::NotCreated, said: output.errors() }),
    };
    let started = cri.crictl(&["start", &container.id])?;
    let (stage, said) = if started.code == 0 {
        let status = container.ended()?;
        if status["exitCode"] == 0 {
            (Stage::Completed, container.log_once_written()?)
        } else {
            (Stage::Failed, status.to_string())
        }
    } else {
        (Stage::NotStarted, started.errors())
    };
    cri.ask(&["rm", "--force", &container.id])?;
    Ok(Seen { stage, said })
}

/// A registry that speaks plain HTTP elsewhere than on loopback, and any mirror.
fn a_registry_that_the_node_s_files_name(node: &Namespace) -> Result<()> {
    let registry = Registry::start(&node.directory("registry")?)?;
    let wasm = guests::module("p1_hello.wat")?;
    let name = format!("{}:1", node.name());
    let pushed = file(Image::new(&registry.reference(&name)), &wasm);
    registry.push(&pushed)?;
    let reference = registry.behind("registry.test", &name, node.containerd())?;
    let cri = Cri::new(node, &[])?;
    let pod = cri.pod(|_| ())?;
    let seen = observe(&cri, &pod, &reference, &[])?;
    ensure!(Runs.is(&seen), "{seen:?}");
    pod.remove()
}
