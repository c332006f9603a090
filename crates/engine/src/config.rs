//! The one place that makes a `wasmtime::Config`.
//! Invariant: a run engine accepts what a compile engine of the same variant wrote, because both come from here.

use plan::{Calls, RunPlan};
use std::num::NonZeroUsize;
use wasmtime::{Config, Enabled, PoolingAllocationConfig, WasmBacktraceDetails};

/// Address space set aside for a linear memory, bytes. With a guard behind it, 32-bit guests need no bounds checks. It
/// is address space only: a page costs memory when the guest touches it. Checked when code is loaded, hence fixed.
const MEMORY_RESERVATION: u64 = 4 << 30;
/// Unmapped space behind a linear memory, bytes; checked when code is loaded.
const MEMORY_GUARD: u64 = 32 << 20;
/// Core instances of one component: its modules, adapters and the glue between them.
const CORE_INSTANCES: u32 = 64;
/// Stacks for each guest whose calls overlap, on average: they are one pool.
const STACKS: u32 = 8;
/// Room for tables that grow, elements.
const MIN_TABLE_ELEMENTS: usize = 20_000;
/// What is cleared by hand instead of given back to the kernel when an instance ends, bytes: giving pages back and taking
/// them anew interrupts every thread of the process. Only pages that were written count.
const KEPT_BYTES: usize = 1 << 20;
/// Slots that keep their pages while nobody uses them.
const WARM: u32 = 8;
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

/// The kinds of code that are made from one wasm, all interruptible by epochs. Part of an artifact's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What the wasm itself says.
    pub calls: Calls,
    /// What a plan says.
    pub metering: Metering,
}

/// Whether code counts the instructions it executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metering {
    /// It does not, which is quicker.
    None,
    /// It does.
    Fuel,
}

impl Variant {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;
    /// The code of most guests.
    pub const PLAIN: Variant = Variant { calls: Calls::Synchronous, metering: Metering::None };

    /// The name in file names.
    pub(crate) fn name(self) -> &'static str {
        match (self.calls, self.metering) {
            (Calls::Synchronous, Metering::None) => "plain",
            (Calls::Synchronous, Metering::Fuel) => "fuel",
            (Calls::Asynchronous, Metering::None) => "async",
            (Calls::Asynchronous, Metering::Fuel) => "async-fuel",
        }
    }

    /// A number below [`Variant::COUNT`].
    pub(crate) fn index(self) -> usize {
        let fuel = usize::from(self.metering == Metering::Fuel);
        2 * usize::from(self.calls == Calls::Asynchronous) + fuel
    }
}

impl Metering {
    /// What a plan needs.
    pub fn of(plan: &RunPlan) -> Self {
        match plan.limits.fuel {
            Some(_) => Metering::Fuel,
            None => Metering::None,
        }
    }
}

/// The configuration of an engine.
///
/// Memories are allocated on demand, which is best where one instance lives in a process: see [`pooled`]. Wasm features are
/// Wasmtime's stable defaults without shared memory; what asynchronous components need beyond is on for those that do.
pub fn config(role: Role, variant: Variant) -> Config {
    let is_async = variant.calls == Calls::Asynchronous;
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(variant.metering == Metering::Fuel)
        .wasm_component_model_async(is_async)
        .concurrency_support(is_async)
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

/// What a pool has room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    /// Instances of the guest at a time.
    pub(crate) instances: u32,
    /// Memories of one instance.
    pub(crate) memories: u32,
    /// Tables of one instance.
    pub(crate) tables: u32,
    /// Elements that the largest table begins with.
    pub(crate) table_elements: u64,
}

/// The configuration of an engine whose instances come and go with requests. Slots are address space, and their number
/// is no part of what code is checked for when it is loaded.
pub(crate) fn pooled(variant: Variant, slots: Slots) -> Config {
    let stacks = match variant.calls {
        Calls::Synchronous => 1,
        Calls::Asynchronous => STACKS,
    };
    let each = |count: u32| slots.instances.saturating_mul(count.max(1));
    // The heap of a guest that has objects comes out of the pool of memories.
    let memories = slots.memories.saturating_add(1);
    let elements = usize::try_from(slots.table_elements).unwrap_or(usize::MAX).saturating_mul(2);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots.instances)
        .total_core_instances(each(CORE_INSTANCES))
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_memories(each(memories))
        .max_memories_per_component(memories)
        .total_tables(each(slots.tables))
        .max_tables_per_component(slots.tables.max(1))
        .table_elements(elements.max(MIN_TABLE_ELEMENTS))
        .total_stacks(each(stacks))
        .total_gc_heaps(slots.instances)
        // A guest that comes back finds the pages that guests of its image touch, and no others.
        .linear_memory_keep_resident(KEPT_BYTES)
        .table_keep_resident(KEPT_BYTES)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(WARM);
    let mut config = config(Role::Run, variant);
    config.allocation_strategy(pool);
    config
}
