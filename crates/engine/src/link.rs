//! Links a mapped artifact with the worlds that guests may import, and finds its entry point. What cannot run is told
//! here, before anything of the guest ran.

use crate::artifact::{Artifact, Code, map};
use crate::call::{self, ComponentCall, ModuleCalls};
use crate::compile::one_line;
use crate::config::{Role, Slots, Variant, config, pooled};
use crate::grant::State;
use crate::program::Once;
use crate::{p1, p2};
use plan::{Calls, Failure, RunPlan};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, Linker, Module, UnknownImportError};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3;
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::p2::bindings as http_p2;
use wasmtime_wasi_http::p3::bindings as http_p3;

/// The function of a command.
const START: &str = "_start";
/// The packages of what a component may import.
const PROVIDED: [&str; 7] =
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:http", "wasi:io", "wasi:random", "wasi:sockets"];
/// What a component exports that is a command.
const RUN: &str = "wasi:cli/run@0.2.";
const ASYNC_RUN: &str = "wasi:cli/run@0.3.";
/// What a component exports that answers requests.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.";
const ASYNC_HANDLER: &str = "wasi:http/handler@0.3.";

/// An engine, and the world of core modules for it. Made once, before any fork: container processes inherit it, which
/// saves each of them half a millisecond, and memory since they share it.
pub struct Host {
    engine: Engine,
    modules: Linker<State>,
    variant: Variant,
}

/// A guest that is mapped and linked, without rights yet.
pub struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) program: Program,
}

/// The kinds of guest.
pub(crate) enum Program {
    /// It runs once.
    Once(Once),
    /// A component that answers requests.
    Service(ProxyPre<State>),
}

/// The worlds of components. Where one is of both versions of a world, it is run in the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    Command,
    AsyncCommand,
    Service,
    AsyncService,
}

/// Makes a running guest look whether it should end. Can be used in a signal handler.
#[derive(Clone)]
pub struct Interrupter(Engine);

impl Interrupter {
    /// Has the guest check for signals as soon as it runs wasm. Async-signal-safe: one atomic addition.
    pub fn interrupt(&self) {
        self.0.increment_epoch();
    }
}

impl Loaded {
    /// Whether it answers requests.
    pub fn serves(&self) -> bool {
        matches!(self.program, Program::Service(_))
    }

    /// For the process's signal handlers, which write to the pipe of signals first.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.engine.clone())
    }
}

impl Host {
    /// Makes it for guests whose code is of this variant.
    pub fn new(variant: Variant) -> Result<Host, Failure> {
        let made = || -> wasmtime::Result<Host> {
            let engine = Engine::new(&config(Role::Run, variant))?;
            let modules = p1::linker(&engine)?;
            Ok(Host { engine, modules, variant })
        };
        made().map_err(|error| Failure::Message(one_line("start wasmtime", error.as_ref())))
    }

    /// Whether it is for code of this kind.
    pub fn suits(&self, artifact: &Artifact) -> bool {
        self.variant == artifact.variant()
    }

    /// Maps an artifact and links it. Needs `/proc` and whatever gives access to the cache's files: to be called before
    /// the process is confined.
    pub fn load(&self, plan: &RunPlan, artifact: &Artifact) -> Result<Loaded, Failure> {
        let engine = self.engine.clone();
        let component = match map(&engine, artifact)? {
            Code::Module(module) => {
                let program = Program::Once(link_module(plan, &self.modules, &module)?);
                return Ok(Loaded { engine, program });
            }
            Code::Component(component) => component,
        };
        if let Some(export) = plan.program.export() {
            let call = ComponentCall::find(plan, &component, self.variant.calls, export)
                .map_err(|reason| message(plan, &reason))?;
            let pre = self.link(plan, &component)?;
            return Ok(Loaded { engine, program: Program::Once(Once::Function { pre, call }) });
        }
        let world = world(plan, &component).or_else(|failure| {
            // What it lacks goes before what it is not.
            self.link(plan, &component)?;
            Err(failure)
        })?;
        let unusable = |error: wasmtime::Error| message(plan, &one_line("cannot be used", error.as_ref()));
        let (engine, component) = match world {
            World::Command | World::AsyncCommand => (engine, component),
            World::Service | World::AsyncService => self.for_many(plan, component, artifact)?,
        };
        let pre = self.link(plan, &component)?;
        let program = match world {
            World::Command => CommandPre::new(pre).map(|pre| Program::Once(Once::Command(pre))),
            World::AsyncCommand => p3::bindings::CommandPre::new(pre).map(|pre| Program::Once(Once::AsyncCommand(pre))),
            World::Service => http_p2::ProxyPre::new(pre).map(|pre| Program::Service(ProxyPre::P2(pre))),
            World::AsyncService => http_p3::ServicePre::new(pre).map(|pre| Program::Service(ProxyPre::P3(pre))),
        };
        Ok(Loaded { engine, program: program.map_err(unusable)? })
    }

    fn link(&self, plan: &RunPlan, component: &Component) -> Result<component::InstancePre<State>, Failure> {
        let linker = match self.variant.calls {
            Calls::Synchronous => p2::linker(component.engine()),
            Calls::Asynchronous => crate::p3::linker(component.engine()),
        };
        linker.and_then(|linker| linker.instantiate_pre(component)).map_err(|error| {
            message(
                plan,
                &format!(
                    "{}, which this runtime does not provide (provided: wasi:cli, wasi:clocks, \
                     wasi:filesystem, wasi:http, wasi:random and wasi:sockets 0.2 and 0.3, wasi:io 0.2)",
                    missing_import(&error)
                ),
            )
        })
    }

    /// The component in an engine with a pool for its instances. Where there is not enough address space for one, such as
    /// under a limit of it, they are made on demand.
    fn for_many(
        &self,
        plan: &RunPlan,
        component: Component,
        artifact: &Artifact,
    ) -> Result<(Engine, Component), Failure> {
        // One that makes its memories by other means than usual does not say how many there are.
        let Some(needs) = component.resources_required() else { return Ok((self.engine.clone(), component)) };
        let slots = Slots {
            instances: plan.http.max_concurrency.get(),
            memories: needs.num_memories,
            tables: needs.num_tables,
            table_elements: needs.max_initial_table_size.unwrap_or_default(),
        };
        let Ok(engine) = Engine::new(&pooled(self.variant, slots)) else { return Ok((self.engine.clone(), component)) };
        match map(&engine, artifact) {
            Ok(Code::Component(pooled)) => Ok((engine, pooled)),
            // It has more parts than a pool has room for.
            Ok(Code::Module(_)) | Err(_) => Ok((self.engine.clone(), component)),
        }
    }
}

/// What the component's exports say that it is.
fn world(plan: &RunPlan, component: &Component) -> Result<World, Failure> {
    let ty = component.component_type();
    let exports = |name: &str| ty.exports(component.engine()).any(|(export, _)| export.starts_with(name));
    let run = [(ASYNC_RUN, World::AsyncCommand), (RUN, World::Command)];
    let handle = [(ASYNC_HANDLER, World::AsyncService), (HANDLER, World::Service)];
    let find = |worlds: [(&str, World); 2]| worlds.into_iter().find(|(name, _)| exports(name)).map(|(_, world)| world);
    match (find(run), find(handle)) {
        (Some(world), None) | (None, Some(world)) => Ok(world),
        (Some(_), Some(_)) => {
            Err(message(plan, "exports both wasi:cli/run and a handler of wasi:http: build it for one of the worlds"))
        }
        (None, None) => Err(message(
            plan,
            &format!(
                "exports no wasi:cli/run and no handler of wasi:http: build it for the world wasi:cli/command or \
                 wasi:http/proxy, or name a function to call as path#function ({})",
                call::named(&call::functions(component))
            ),
        )),
    }
}

fn link_module(plan: &RunPlan, linker: &Linker<State>, module: &Module) -> Result<Once, Failure> {
    let calls = calls(plan, module)?;
    let pre = linker.instantiate_pre(module).map_err(|error| match error.downcast_ref::<UnknownImportError>() {
        Some(unknown) => message(
            plan,
            &format!(
                "imports {}::{}, which this runtime does not provide (provided: {})",
                unknown.module(),
                unknown.name(),
                p1::MODULE
            ),
        ),
        None => message(plan, &one_line("cannot be linked", error.as_ref())),
    })?;
    Ok(Once::Module { pre, calls })
}

fn calls(plan: &RunPlan, module: &Module) -> Result<ModuleCalls, Failure> {
    if let Some(export) = plan.program.export() {
        return ModuleCalls::find(plan, module, export).map_err(|reason| message(plan, &reason));
    }
    match module.get_export(START) {
        Some(ExternType::Func(start)) if call::is_plain(&start) => Ok(ModuleCalls::start(START)),
        Some(_) => Err(message(plan, "exports a _start that takes or gives values: build it as a WASI command")),
        None => Err(message(
            plan,
            &format!(
                "exports no _start function: build it as a WASI command, or name a function to call as path#function \
                 ({})",
                call::callable(module)
            ),
        )),
    }
}

/// `imports a:b/c`, from Wasmtime's chain: ``component imports instance `a:b/c`, but …``, then how it differs from what
/// there is, which is of interest where there is something.
fn missing_import(error: &wasmtime::Error) -> String {
    let outer = error.to_string();
    let Some(name) = outer.split('`').nth(1) else {
        return one_line("cannot be linked", error.as_ref());
    };
    let is_known = name.split_once('/').is_some_and(|(package, interface)| {
        PROVIDED.contains(&package) && (interface.contains("@0.2.") || interface.contains("@0.3."))
    });
    let differences: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
    if is_known && !differences.is_empty() {
        format!("imports {name} ({})", differences.join(": "))
    } else {
        format!("imports {name}")
    }
}

fn message(plan: &RunPlan, what: &str) -> Failure {
    Failure::Message(plan::printable(&format!("{} {what}", plan.program)))
}
