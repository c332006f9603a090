//! The shim's process: one for the containers of a pod, one thread, gone after its last container.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Result, ensure};
use testkit::{Namespace, cases, process};

pub(crate) const CASES: Cases = cases![
    crate::group::containers_of_one_sandbox_share_a_shim,
    crate::group::containers_without_a_sandbox_have_their_own,
    crate::group::the_shim_has_one_thread,
    crate::group::the_shim_leaves_with_its_last_container,
];

const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

fn containers_of_one_sandbox_share_a_shim(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let pod = node.fresh("pod");
    let one = node.task(&image).annotation(SANDBOX, &pod).create()?;
    let two = node.task(&image).annotation(SANDBOX, &pod).create()?;
    let other = node.task(&image).annotation(SANDBOX, &node.fresh("pod")).create()?;
    for task in [&one, &two, &other] {
        task.start_until("sleeping\n")?;
    }
    let shim = process::parent(one.pid)?;
    ensure!(process::executable(shim).as_deref() == Some(node.containerd().shim()), "{shim} is no shim");
    ensure!(process::parent(two.pid)? == shim, "the second container of the pod has another shim");
    ensure!(process::parent(other.pid)? != shim, "another pod has the same shim");
    // The first container's end is not the second's.
    one.remove()?;
    ensure!(two.api.state(&two.id)?.status == "RUNNING", "the neighbour ended");
    ensure!(process::exists(shim), "the shim left a container alone");
    two.remove()?;
    other.remove()
}

fn containers_without_a_sandbox_have_their_own(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let (one, two) = (node.task(&image).create()?, node.task(&image).create()?);
    ensure!(process::parent(one.pid)? != process::parent(two.pid)?, "they share a shim");
    one.remove()?;
    two.remove()
}

fn the_shim_has_one_thread(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    let shim = process::parent(task.pid)?;
    ensure!(process::threads(shim)? == 1, "{} threads after create", process::threads(shim)?);
    task.start_until("sleeping\n")?;
    ensure!(process::threads(shim)? == 1, "{} threads after start", process::threads(shim)?);
    ensure!(process::threads(task.pid)? == 1, "{} threads in an idle guest", process::threads(task.pid)?);
    task.kill(9)?;
    task.wait()?;
    ensure!(process::threads(shim)? == 1, "{} threads after the end", process::threads(shim)?);
    task.remove()
}

fn the_shim_leaves_with_its_last_container(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let task = node.task(&image).create()?;
    let shim = process::parent(task.pid)?;
    task.start()?;
    task.finish()?;
    testkit::wait::until("the shim leaves", || Ok((!process::exists(shim)).then_some(())))?;
    node.until_nothing_remains()
}
