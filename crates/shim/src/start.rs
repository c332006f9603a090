//! The `start` action: finds or makes the shim of a container's group, and tells containerd its address.
//! Tiny and quick: it runs once for each container, and forks the server without a second exec.

use crate::address::{Address, Claim, Group};
use crate::args::Args;
use crate::bootstrap::Bootstrap;
use crate::{log, server};
use anyhow::Context;

pub(crate) fn start(args: Args) -> anyhow::Result<()> {
    let bundle = std::env::current_dir().context("find the bundle: start runs in it")?;
    let bootstrap = Bootstrap::read(&args)?;
    let group = oci::group_of(&bundle, &bootstrap.id)?;
    let address = Address::of_group(&bootstrap, &group)?;
    address.save(&bundle)?;
    if let Claim::Ours(held) = address.claim()? {
        let settings = server::Settings {
            namespace: bootstrap.namespace.clone(),
            grpc: bootstrap.grpc.clone(),
            ttrpc: bootstrap.ttrpc.clone(),
            group: Group { address: address.clone(), bundle: bundle.clone() },
        };
        let verbosity = if args.debug { log::Verbosity::Debug } else { log::Verbosity::Info };
        sandbox::process::daemonize(held.into(), |held| {
            // First: the start action waits for it.
            let listener = settings.group.address.listen(held);
            log::to_bundle(&bundle, verbosity);
            server::serve(settings, listener);
        })
        .context("fork the shim's server")?;
        address.await_listener()?;
    }
    Ok(bootstrap.answer(&address.to_string())?)
}
