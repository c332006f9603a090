//! `wasi:sockets/ip-name-lookup` 0.2 with the container's own resolver. wasmtime-wasi asks the C library's, which in a
//! static program has no modules to look with, and cannot be told which names a guest may have.

use super::{LookupError, Network};
use crate::grant::State;
use std::net::IpAddr;
use std::vec;
use tokio::task::JoinHandle;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress};
use wasmtime_wasi::p2::{DynPollable, Network as Capability, Pollable, subscribe};

/// The interface, in the version of wasmtime-wasi. A test fails if that changes.
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

type Found = Result<vec::IntoIter<IpAddr>, ErrorCode>;

/// A lookup, under way or done.
enum Lookup {
    Running(Running),
    Done(Found),
}

/// Ends with the guest that waits for it.
struct Running(JoinHandle<Found>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Lookup::Running(running) = self {
            let found = (&mut running.0).await.unwrap_or(Err(ErrorCode::TemporaryResolverFailure));
            *self = Lookup::Done(found);
        }
    }
}

/// Replaces the interface.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut instance = linker.instance(INTERFACE)?;
    instance.resource("resolve-address-stream", ResourceType::host::<Lookup>(), |mut store, stream| {
        store.data_mut().ctx().table.delete(Resource::<Lookup>::new_own(stream))?;
        Ok(())
    })?;
    instance.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, State>, (network, name): (Resource<Capability>, String)| {
            let state = store.data_mut();
            state.ctx().table.get(&network)?;
            let lookup = Lookup::Running(Running(tokio::spawn(look_up(state.network(), name))));
            Ok((Ok::<_, ErrorCode>(state.ctx().table.push(lookup)?),))
        },
    )?;
    instance.func_wrap_async(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, State>, (stream,): (Resource<Lookup>,)| {
            Box::new(async move {
                let lookup = store.data_mut().ctx().table.get_mut(&stream)?;
                if let Lookup::Running(running) = lookup
                    && running.0.is_finished()
                {
                    lookup.ready().await;
                }
                let next = match lookup {
                    Lookup::Running(_) => Err(ErrorCode::WouldBlock),
                    Lookup::Done(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
                    Lookup::Done(Err(code)) => Err(*code),
                };
                Ok((next,))
            })
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, State>, (stream,): (Resource<Lookup>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().ctx().table, stream)?;
            Ok((pollable,))
        },
    )
}

async fn look_up(network: Network, name: String) -> Found {
    match network.resolve(&name).await {
        Ok(addresses) => Ok(addresses.into_iter()),
        Err(LookupError::Refused) => Err(ErrorCode::AccessDenied),
        Err(LookupError::NoName) => Err(ErrorCode::InvalidArgument),
        Err(LookupError::Unknown) => Err(ErrorCode::NameUnresolvable),
        Err(LookupError::Unreachable) => Err(ErrorCode::TemporaryResolverFailure),
    }
}
