//! The memory of a shim over the containers of its life.

use crate::number;
use anyhow::{Context, Result, ensure};
use std::thread;
use testkit::{Image, Namespace, guests, process, wait};

const FIRST: usize = 200;
/// Unless `CHURN_TASKS` says another number.
const ALL: usize = 1_000;
/// In flight.
const CLIENTS: usize = 4;
/// What the allocator may keep more of after 800 further containers, or any number: it has seen 90. One leaked kilobyte
/// each would be 800.
const GROWTH_KIB: u64 = 256;

const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
const TYPE: &str = "io.kubernetes.cri.container-type";

pub(crate) fn the_shim_of_a_pod_does_not_grow(node: &Namespace) -> Result<()> {
    let image = Image::with_file("test.local/exit:1", &guests::module("p1_exit.c")?);
    let sleep = Image::with_file("test.local/sleep:1", &guests::module("p1_sleep.wat")?);
    node.import(&image)?;
    node.import(&sleep)?;
    let pod = node.fresh("pod");
    // It holds the shim while there is no other.
    let keeper = node.task(&sleep).annotation(SANDBOX, &pod).annotation(TYPE, "container").create()?;
    keeper.start_until("sleeping\n")?;
    let shim = process::parent(keeper.pid)?;
    let all = number("CHURN_TASKS")?.map_or(Ok(ALL), usize::try_from)?.max(FIRST + CLIENTS);
    let idle_files = process::files(shim)?.len();
    let run = |count: usize| -> Result<()> {
        for number in 0..count {
            let code = u32::try_from(number % 256)?;
            let draft = node.task(&image).annotation(SANDBOX, &pod).annotation(TYPE, "container");
            let task = draft.args(["/app.wasm".to_owned(), code.to_string()]).create()?;
            ensure!(process::parent(task.pid)? == shim, "another shim has {}", task.id);
            task.start()?;
            let end = task.finish()?;
            ensure!(end.code == code, "expected {code}: {end:?}");
        }
        Ok(())
    };
    let grown_to = |count: usize| -> Result<u64> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| run(count / CLIENTS))).collect();
            clients.into_iter().try_for_each(|client| client.join().expect("it returns errors"))
        })?;
        // containerd closes its connections in its own time.
        let closed = || Ok((process::files(shim)?.len() <= idle_files).then_some(()));
        wait::until("no descriptor is left of them", closed)
            .with_context(|| format!("{idle_files} at first, now {:?}", process::files(shim)))?;
        process::anonymous_kib(shim)
    };
    let early_kib = grown_to(FIRST)?;
    let late_kib = grown_to(all - FIRST)?;
    let version = node.containerd().version();
    println!("a shim of containerd {version}: {early_kib} KiB after {FIRST} containers, {late_kib} KiB after {all}");
    ensure!(late_kib <= early_kib + GROWTH_KIB, "{early_kib} KiB grew to {late_kib} KiB");
    ensure!(process::threads(shim)? == 1, "{} threads", process::threads(shim)?);
    keeper.remove()?;
    node.until_nothing_remains()
}
