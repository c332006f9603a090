//! The kit end to end, on a real cluster of three nodes: `helm install`, pods, failures, upgrades, `helm uninstall`.
//! The rows share the cluster and run in this order; each makes what it needs, and takes away what it made.

mod failures;
mod forward;
mod killed;
mod lifecycle;
mod load;
mod nodes;
mod plain;
mod readme;
mod workloads;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use testkit::cluster::Cluster;
use testkit::kit;

/// A row, by name.
type Row = (&'static str, fn(&Cluster) -> Result<()>);

/// Names rows by their path: `rows![crate::workloads::ends_are_told]`.
macro_rules! rows {
    ($(crate::$module:ident::$row:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($row)), crate::$module::$row)),*]
    };
}
pub(crate) use rows;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One cluster, which most rows change.
    arguments.test_threads = Some(1);
    let bin = Path::new(env!("CARGO_BIN_EXE_wasm-node")).parent().expect("a program is in a folder").to_owned();
    let cluster: Arc<OnceLock<Result<Cluster, String>>> = Arc::default();
    let rows: [&[Row]; 6] =
        [lifecycle::BEFORE, workloads::ROWS, lifecycle::MEANWHILE, nodes::NODES, failures::FAILURES, lifecycle::AFTER];
    let trials = rows.concat().into_iter().map(|(name, row)| {
        let (cluster, bin) = (Arc::clone(&cluster), bin.clone());
        Trial::test(name, move || {
            let begun = std::time::Instant::now();
            let made = cluster.get_or_init(|| made(&bin).map_err(|error| format!("{error:#}")));
            let cluster = made.as_ref().map_err(Failed::from)?;
            let done = kit::tidy(cluster)
                .and_then(|()| row(cluster))
                .map_err(|error| Failed::from(format!("{error:#}\n{}", cluster.report())));
            eprintln!("{name}: {} s", begun.elapsed().as_secs());
            done
        })
    });
    let trials = trials.collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn made(bin: &Path) -> Result<Cluster> {
    let cluster = Cluster::from_environment(bin)?;
    kit::prepare(&cluster)?;
    Ok(cluster)
}
