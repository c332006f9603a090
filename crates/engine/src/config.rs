//! The one place that makes a `wasmtime::Config`.
//! Invariant: a run engine accepts what a compile engine of the same variant wrote, because both come from here.

use plan::RunPlan;
use std::num::NonZeroUsize;
use wasmtime::{Config, WasmBacktraceDetails};

/// Address space set aside for a linear memory, bytes. With a guard behind it, 32-bit guests need no bounds checks. It
/// is address space only: a page costs memory when the guest touches it. Checked when code is loaded, hence fixed.
const MEMORY_RESERVATION: u64 = 4 << 30;
/// Unmapped space behind a linear memory, bytes; checked when code is loaded.
const MEMORY_GUARD: u64 = 32 << 20;
/// Frames that a trap's backtrace shows.
const BACKTRACE_FRAMES: usize = 64;

/// What an engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes artifacts. The compiler is on.
    Compile,
    /// Runs artifacts. The compiler is off.
    Run,
}

/// The kinds of code that are made from one wasm. Part of an artifact's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Interruptible by epochs.
    Plain,
    /// Interruptible by epochs, and counts the instructions it executes.
    Fuel,
}

impl Variant {
    /// The code that a plan needs.
    // No plan asks for fuel yet: `limits.fuel` is refused by `oci` until it is built.
    pub fn of(_plan: &RunPlan) -> Self {
        Variant::Plain
    }

    /// The name in file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Plain => "plain",
            Variant::Fuel => "fuel",
        }
    }
}

/// The configuration of an engine.
///
/// One instance lives in each process, so memories are allocated on demand: a pool would only reserve more. Wasm
/// features are Wasmtime's stable defaults; shared memory and asynchronous components (WASI 0.3) are off.
pub fn config(role: Role, variant: Variant) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(variant == Variant::Fuel)
        .concurrency_support(false)
        .memory_reservation(MEMORY_RESERVATION)
        .memory_guard_size(MEMORY_GUARD)
        .memory_init_cow(true)
        // The address map and the name section give function names to backtraces. Lines from DWARF do not: parsing it
        // at the moment of a trap could take more memory than the container has left.
        .generate_address_map(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Wasmtime walks wasm frames without it, and registering it costs at each load.
        .native_unwind_info(false)
        .enable_compiler(role == Role::Compile);
    config
}
