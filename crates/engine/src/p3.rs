//! WASI 0.3 for components, beside 0.2: wasmtime-wasi's, with names looked up by the container's own resolver and exact
//! errors of the filesystem. Wasmtime calls it experimental.

use crate::errno;
use crate::grant::State;
use crate::network::{LookupError, Network};
use crate::p2;
use std::future::poll_fn;
use wasmtime::Engine;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    self, DescriptorFlags, HostDescriptorWithStore, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode;
use wasmtime_wasi::p3::bindings::sockets::types::IpAddress;
use wasmtime_wasi::p3::filesystem::FilesystemResult;

/// The interfaces of which functions are replaced, in the version of wasmtime-wasi. A test fails if that changes.
const FILESYSTEM: &str = "wasi:filesystem/types@0.3.0";
const NAME_LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.3.0";

/// Replaces a method of `descriptor` by one that tells the exact error (see [`errno`]).
macro_rules! with_exact_error {
    ($instance:expr, $($wit:literal $name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $instance.func_wrap_concurrent(
            concat!("[method]descriptor.", $wit),
            |accessor: &Accessor<State>, (fd, $($arg,)*): (Resource<Descriptor>, $($ty,)*)| {
                Box::pin(async move {
                    errno::forget();
                    let filesystem = accessor.with_getter::<WasiFilesystem>(State::filesystem);
                    Ok((exact(WasiFilesystem::$name(&filesystem, fd, $($arg),*).await)?,))
                })
            },
        )?;
    )*};
}

/// Waits until the guest has nothing more to do: its tasks may outlive the one that returned.
pub(crate) async fn last_task(accessor: &Accessor<State>) {
    poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
}

/// Everything that a component with asynchronous calls may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = p2::linker(engine)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    linker.instance(NAME_LOOKUP)?.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<State>, (name,): (String,)| {
            let network = accessor.with(|mut store| store.get().network());
            Box::pin(async move { Ok((addresses(network, &name).await,)) })
        },
    )?;
    let mut instance = linker.instance(FILESYSTEM)?;
    with_exact_error! { instance,
        "create-directory-at" create_directory_at(path: String);
        "link-at" link_at(flags: PathFlags, path: String, new_dir: Resource<Descriptor>, new_path: String);
        "open-at" open_at(flags: PathFlags, path: String, open_flags: OpenFlags, descriptor_flags: DescriptorFlags);
        "remove-directory-at" remove_directory_at(path: String);
        "rename-at" rename_at(path: String, new_dir: Resource<Descriptor>, new_path: String);
        "set-times-at" set_times_at(flags: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp);
        "symlink-at" symlink_at(target: String, path: String);
        "unlink-file-at" unlink_file_at(path: String);
    }
    Ok(linker)
}

fn exact<T>(result: FilesystemResult<T>) -> wasmtime::Result<Result<T, types::ErrorCode>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(errno::exact_p3(error.downcast()?))),
    }
}

async fn addresses(network: Network, name: &str) -> Result<Vec<IpAddress>, ErrorCode> {
    match network.resolve(name).await {
        Ok(addresses) => Ok(addresses.into_iter().map(IpAddress::from).collect()),
        Err(LookupError::Refused) => Err(ErrorCode::AccessDenied),
        Err(LookupError::NoName) => Err(ErrorCode::InvalidArgument),
        Err(LookupError::Unknown) => Err(ErrorCode::NameUnresolvable),
        Err(LookupError::Unreachable) => Err(ErrorCode::TemporaryResolverFailure),
    }
}
