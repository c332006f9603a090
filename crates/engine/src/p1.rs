//! WASI 0.1 for core modules: wasmtime-wasi's, with the functions replaced that do not fit a container.

use crate::errno;
use crate::grant::State;
use std::time::Duration;
use wasmtime::{AsContextMut, Caller, Engine, Extern, Linker};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1};
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_async, types};
use wiggle::{GuestMemory, GuestPtr};

/// The module that guests import from.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// Shorter sleeps are exact and may hold up the thread; tokio's timer has steps of a millisecond.
const SHORT_SLEEP: Duration = Duration::from_millis(2);
/// `__WASI_ERRNO_SUCCESS` and `__WASI_ERRNO_FAULT`.
const SUCCESS: i32 = 0;
const FAULT: i32 = 21;

/// Replaces a function by one that tells the exact errno (see [`errno`]).
macro_rules! with_exact_errno {
    ($linker:expr, $($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $linker.func_wrap_async(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, State>, ($($arg,)*): ($($ty,)*)| {
                Box::new(async move {
                    let (mut memory, context) = guest(&mut caller)?;
                    errno::forget();
                    let code = wasi::$name(context, &mut memory, $($arg),*).await?;
                    wasmtime::Result::Ok(errno::exact_p1(code))
                })
            },
        )?;
    )*};
}

/// Everything that a core module may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.allow_shadowing(true);
    add_to_linker_async(&mut linker, |state: &mut State| state.wasi_mut())?;
    // Wasmtime takes codes of 126 and more for a trap; to a container they are codes.
    linker.func_wrap(MODULE, "proc_exit", |_: Caller<'_, State>, code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code).into())
    })?;
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |caller: Caller<'_, State>, (subscriptions, events, count, ready): (i32, i32, i32, i32)| {
            Box::new(poll_oneoff(caller, subscriptions, events, count, ready))
        },
    )?;
    with_exact_errno! { linker,
        path_create_directory(fd: i32, path: i32, length: i32);
        path_filestat_set_times(
            fd: i32, flags: i32, path: i32, length: i32, accessed: i64, modified: i64, set: i32
        );
        path_link(
            fd: i32, flags: i32, path: i32, length: i32, new_fd: i32, new_path: i32, new_length: i32
        );
        path_open(
            fd: i32, flags: i32, path: i32, length: i32, open_flags: i32, rights: i64,
            inherited_rights: i64, fd_flags: i32, opened: i32
        );
        path_remove_directory(fd: i32, path: i32, length: i32);
        path_rename(fd: i32, path: i32, length: i32, new_fd: i32, new_path: i32, new_length: i32);
        path_symlink(target: i32, target_length: i32, fd: i32, path: i32, length: i32);
        path_unlink_file(fd: i32, path: i32, length: i32);
    }
    Ok(linker)
}

/// The guest's memory and its WASI context, as wasmtime-wasi's own functions get them.
fn guest<'a>(caller: &'a mut Caller<'_, State>) -> wasmtime::Result<(GuestMemory<'a>, &'a mut WasiP1Ctx)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("the module exports no memory, which WASI needs"));
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, state) = memory.data_and_store_mut(caller);
    let context = state.wasi_mut();
    context.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(bytes), context))
}

/// As wasmtime-wasi's, which blocks the thread to sleep where it may block to read files. A sleeping guest must hear
/// signals.
async fn poll_oneoff(
    mut caller: Caller<'_, State>,
    subscriptions: i32,
    events: i32,
    count: i32,
    ready: i32,
) -> wasmtime::Result<i32> {
    let (memory, _) = guest(&mut caller)?;
    let sleep = match count {
        1 => sleep(&memory, pointer(subscriptions)),
        _ => None,
    };
    let Some((duration, userdata)) = sleep else {
        let (mut memory, context) = guest(&mut caller)?;
        return wasi::poll_oneoff(context, &mut memory, subscriptions, events, count, ready).await;
    };
    if duration < SHORT_SLEEP {
        std::thread::sleep(duration);
    } else {
        tokio::time::sleep(duration).await;
    }
    let (mut memory, _) = guest(&mut caller)?;
    let event = types::Event {
        userdata,
        error: types::Errno::Success,
        type_: types::Eventtype::Clock,
        fd_readwrite: types::EventFdReadwrite { nbytes: 0, flags: types::Eventrwflags::empty() },
    };
    let written = memory.write(pointer(events), event).and_then(|()| memory.write(pointer(ready), 1u32));
    Ok(if written.is_ok() { SUCCESS } else { FAULT })
}

/// What a subscription sleeps for, if it is one to a clock from now on.
fn sleep(memory: &GuestMemory<'_>, subscription: GuestPtr<types::Subscription>) -> Option<(Duration, types::Userdata)> {
    let subscription = memory.read(subscription).ok()?;
    let types::SubscriptionU::Clock(clock) = subscription.u else {
        return None;
    };
    let absolute = types::Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME;
    (!clock.flags.contains(absolute)).then(|| (Duration::from_nanos(clock.timeout), subscription.userdata))
}

fn pointer<T>(address: i32) -> GuestPtr<T> {
    GuestPtr::new(address.cast_unsigned())
}
