//! Programs that run once: how each kind is started, and what its return means.

use crate::call::{ComponentCall, ModuleCalls};
use crate::end::Outcome;
use crate::grant::State;
use crate::p3::last_task;
use crate::stdio::Output;
use wasmtime::component;
use wasmtime::{InstancePre, ResourcesRequired, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3;

/// A program that is linked.
pub(crate) enum Once {
    /// A core module of WASI 0.1.
    Module { pre: InstancePre<State>, calls: ModuleCalls },
    /// A component that exports `wasi:cli/run` 0.2.
    Command(CommandPre<State>),
    /// A component that exports `wasi:cli/run` 0.3.
    AsyncCommand(p3::bindings::CommandPre<State>),
    /// A component of which one export is called.
    Function { pre: component::InstancePre<State>, call: ComponentCall },
}

impl Once {
    /// Whether it is a core module.
    pub(crate) fn is_module(&self) -> bool {
        matches!(self, Once::Module { .. })
    }

    /// What its instances need, if that is known before there is one.
    pub(crate) fn resources_required(&self) -> Option<ResourcesRequired> {
        match self {
            Once::Module { pre, .. } => Some(pre.module().resources_required()),
            Once::Command(pre) => pre.instance_pre().component().resources_required(),
            Once::AsyncCommand(pre) => pre.instance_pre().component().resources_required(),
            Once::Function { pre, .. } => pre.component().resources_required(),
        }
    }

    /// Runs it to its end. What an export that is called by name gives goes to `stdout`.
    pub(crate) async fn run(&self, store: &mut Store<State>, stdout: &Output) -> Outcome {
        self.returned(store, stdout).await.unwrap_or_else(Outcome::Broke)
    }

    async fn returned(&self, store: &mut Store<State>, stdout: &Output) -> wasmtime::Result<Outcome> {
        let returned = |result: Result<(), ()>| match result {
            Ok(()) => Outcome::Returned,
            Err(()) => Outcome::ReturnedError,
        };
        match self {
            Once::Module { pre, calls } => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let (results, outcome) = calls.run(store, instance).await?;
                stdout.put(&results);
                Ok(outcome)
            }
            Once::Command(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                Ok(returned(command.wasi_cli_run().call_run(&mut *store).await?))
            }
            Once::AsyncCommand(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                let result = store.run_concurrent(async |accessor| {
                    let result = command.wasi_cli_run().call_run(accessor).await?;
                    last_task(accessor).await;
                    Ok::<_, wasmtime::Error>(result)
                });
                Ok(returned(result.await??))
            }
            Once::Function { pre, call } => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let (results, outcome) = call.run(store, instance).await?;
                stdout.put(&results);
                Ok(outcome)
            }
        }
    }
}
