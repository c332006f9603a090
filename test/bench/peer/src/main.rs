//! The peer: Wasmtime under the library that today's Wasm shims are made of, with its precompilation in use. It is what a
//! user of that library would write, made as quick as the library lets it be, and not more; what shims of it leave at
//! their engine's default is so here, too, unless a container asks for more ([`KEEPING`]).

mod service;

use anyhow::{Result, bail};
use containerd_shim_wasm::sandbox::Sandbox;
use containerd_shim_wasm::sandbox::context::{RuntimeContext, WasmBinaryType, WasmLayer};
use containerd_shim_wasm::shim::{Cli, Compiler, Shim, Version, version};
use std::hash::Hash;
use std::sync::LazyLock;
use wasmtime::component::{Component, Linker as ComponentLinker, ResourceTable};
use wasmtime::{Config, Enabled, Engine, Linker, Module, PoolingAllocationConfig, Precompiled, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView, default_hooks};

/// One for the shim and the containers that it forks.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    config.wasm_component_model(true);
    Engine::new(&config).expect("the settings are the same on every machine")
});

/// For components, which may be services: places for a thousand instances at once, with the settings that a pool has by
/// default. Code of the other engine fits.
static POOL: LazyLock<Engine> = LazyLock::new(|| pooled(PoolingAllocationConfig::new()));

/// The same, with used memories cleared instead of given back: quicker, and not what shims of this library do.
static KEEPING_POOL: LazyLock<Engine> = LazyLock::new(|| {
    let mut pool = PoolingAllocationConfig::new();
    pool.linear_memory_keep_resident(KEPT_BYTES).table_keep_resident(KEPT_BYTES).pagemap_scan(Enabled::Auto);
    pooled(pool)
});

/// Asks for that one, in the environment of a container.
const KEEPING: &str = "PEER_POOL=keeping";
/// What stays of a used memory or table, bytes: more than a small guest touches.
const KEPT_BYTES: usize = 1 << 20;

fn pooled(pool: PoolingAllocationConfig) -> Engine {
    let mut config = Config::new();
    config.wasm_component_model(true).allocation_strategy(pool);
    Engine::new(&config).expect("there is address space for a pool")
}

struct Peer;

impl Shim for Peer {
    type Sandbox = Guest;

    fn name() -> &'static str {
        "peer"
    }

    fn version() -> Version {
        version!()
    }

    async fn compiler() -> Option<impl Compiler> {
        Some(Cranelift)
    }

    fn supported_layers_types() -> &'static [&'static str] {
        &["application/vnd.bytecodealliance.wasm.component.layer.v0+wasm", "application/wasm"]
    }
}

struct Cranelift;

impl Compiler for Cranelift {
    fn cache_key(&self) -> impl Hash {
        struct Key;
        impl Hash for Key {
            fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
                ENGINE.precompile_compatibility_hash().hash(hasher);
            }
        }
        Key
    }

    async fn compile(&self, layers: &[WasmLayer]) -> Result<Vec<Option<Vec<u8>>>> {
        layers.iter().map(|layer| precompiled(&layer.layer)).collect()
    }
}

fn precompiled(wasm: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(match WasmBinaryType::from_bytes(wasm) {
        Some(WasmBinaryType::Module) => Some(ENGINE.precompile_module(wasm)?),
        Some(WasmBinaryType::Component) => Some(ENGINE.precompile_component(wasm)?),
        None => None,
    })
}

#[derive(Clone, Default)]
struct Guest;

impl Sandbox for Guest {
    async fn run_wasi(&self, context: &impl RuntimeContext) -> Result<i32> {
        let entrypoint = context.entrypoint();
        let bytes = entrypoint.source.as_bytes()?;
        let wasi = wasi(context)?;
        let keeping = context.envs().iter().any(|variable| variable == KEEPING);
        let pool: &Engine = if keeping { &KEEPING_POOL } else { &POOL };
        let ended = match (Engine::detect_precompiled(&bytes), WasmBinaryType::from_bytes(&bytes)) {
            // SAFETY: only the shim's own precompilation puts such layers into the content store, as far as the library
            // can tell. The product trusts no image with it.
            (Some(Precompiled::Module), _) => module(unsafe { Module::deserialize(&*ENGINE, &bytes) }?, wasi).await,
            // SAFETY: as above.
            (Some(Precompiled::Component), _) => {
                component(unsafe { Component::deserialize(pool, &bytes) }?, wasi, context).await
            }
            (None, Some(WasmBinaryType::Module)) => module(Module::from_binary(&ENGINE, &bytes)?, wasi).await,
            (None, Some(WasmBinaryType::Component)) => {
                component(Component::from_binary(pool, &bytes)?, wasi, context).await
            }
            (None, None) => bail!("not a WebAssembly module or component"),
        };
        match ended {
            Ok(code) => Ok(code),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(exit) => Ok(exit.0),
                None => Err(error.into()),
            },
        }
    }
}

/// All of the root filesystem: the library tells of no mounts.
fn wasi(context: &impl RuntimeContext) -> Result<WasiCtxBuilder> {
    let mut builder = without_files(context.args(), context.envs());
    builder.preopened_dir("/", "/", FsPerms::ReadWrite)?;
    Ok(builder)
}

fn without_files(args: &[String], envs: &[String]) -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    builder.args(args).inherit_stdio().inherit_network().allow_ip_name_lookup(true);
    for variable in envs {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        builder.env(name, value);
    }
    builder
}

async fn module(module: Module, mut wasi: WasiCtxBuilder) -> wasmtime::Result<i32> {
    let mut linker: Linker<WasiP1Ctx> = Linker::new(&ENGINE);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |wasi| wasi)?;
    let mut store = Store::new(&ENGINE, wasi.build_p1());
    let instance = linker.instantiate_async(&mut store, &module).await?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    start.call_async(&mut store, ()).await?;
    Ok(0)
}

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
}

impl State {
    fn new(wasi: &mut WasiCtxBuilder) -> State {
        State { wasi: wasi.build(), http: WasiHttpCtx::new(), table: ResourceTable::new() }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: default_hooks() }
    }
}

/// A service if it exports the handler of requests, else a command.
async fn component(
    component: Component,
    mut wasi: WasiCtxBuilder,
    context: &impl RuntimeContext,
) -> wasmtime::Result<i32> {
    let pool = component.engine();
    let mut linker = ComponentLinker::new(pool);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    if component.component_type().exports(pool).any(|(name, _)| name.starts_with("wasi:http/incoming-handler@0.2")) {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        return service::serve(linker.instantiate_pre(&component)?, context).await;
    }
    let mut store = Store::new(pool, State::new(&mut wasi));
    let command = Command::instantiate_async(&mut store, &component, &linker).await?;
    let ended = command.wasi_cli_run().call_run(&mut store).await?;
    Ok(i32::from(ended.is_err()))
}

fn main() {
    Peer::run(None);
}
