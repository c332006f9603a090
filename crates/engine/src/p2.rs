//! WASI 0.2 for components: wasmtime-wasi's, with exact errors of the filesystem.

use crate::errno;
use crate::grant::State;
use crate::network;
use wasmtime::component::{Linker, Resource};
use wasmtime::{Engine, StoreContextMut};
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, HostDescriptor, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{FsResult, add_to_linker_async};
use wasmtime_wasi_http::p2::add_only_http_to_linker_async;

/// The interface whose functions are replaced, in the version of wasmtime-wasi. A test fails if that changes.
const FILESYSTEM: &str = "wasi:filesystem/types@0.2.12";

/// Replaces a method of `descriptor` by one that tells the exact error (see [`errno`]).
macro_rules! with_exact_error {
    ($instance:expr, $($wit:literal $name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $instance.func_wrap_async(
            concat!("[method]descriptor.", $wit),
            |mut store: StoreContextMut<'_, State>,
             (fd, $($arg,)*): (Resource<Descriptor>, $($ty,)*)| {
                Box::new(async move {
                    errno::forget();
                    let mut filesystem = store.data_mut().filesystem();
                    let result = HostDescriptor::$name(&mut filesystem, fd, $($arg),*).await;
                    Ok((exact(result)?,))
                })
            },
        )?;
    )*};
}

/// Everything that a component may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.allow_shadowing(true);
    add_to_linker_async(&mut linker)?;
    add_only_http_to_linker_async(&mut linker)?;
    network::add_to_linker(&mut linker)?;
    let mut instance = linker.instance(FILESYSTEM)?;
    with_exact_error! { instance,
        "create-directory-at" create_directory_at(path: String);
        "link-at" link_at(
            flags: PathFlags, path: String, new_dir: Resource<Descriptor>, new_path: String
        );
        "open-at" open_at(
            flags: PathFlags, path: String, open_flags: OpenFlags, descriptor_flags: DescriptorFlags
        );
        "remove-directory-at" remove_directory_at(path: String);
        "rename-at" rename_at(path: String, new_dir: Resource<Descriptor>, new_path: String);
        "set-times-at" set_times_at(
            flags: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp
        );
        "symlink-at" symlink_at(target: String, path: String);
        "unlink-file-at" unlink_file_at(path: String);
    }
    Ok(linker)
}

fn exact<T>(result: FsResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(errno::exact_p2(error.downcast()?))),
    }
}
