//! Whole pods over CRI, a sandbox and one service each: from the call for the sandbox to the first answer, and what a pod
//! costs at many. The floor's pods answer nothing: theirs is the time until the container is started.

use crate::bed::{PATIENCE, Shims};
use crate::client::Client;
use crate::contender::{self, FLOOR, OURS, PEER, wanted};
use crate::memory::available_kib;
use crate::pod::{Cri, Program, Sandbox};
use crate::service::{HELLO, hello_component};
use crate::statistics::{Better, Row};
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::{Duration, Instant};
use testkit::image::Rootfs;
use testkit::{Containerd, Image, Namespace, Version};

/// Pods of each contender, one after the other.
const TURNS: usize = 10;
/// Before them, not counted: code is compiled and files are cached.
const WARM_UP: usize = 2;
/// After a pod, so that the next contender does not pay for it.
const REST: Duration = Duration::from_millis(200);
/// Pods at once.
const PODS: usize = 80;
const PORT: u16 = 8080;
const WASM_IMAGE: &str = "bench.local/pod-http:1";
const NATIVE_IMAGE: &str = "bench.local/pod-native:1";
/// What is measured.
pub(crate) const START: &str = "pod: run to first answer";
pub(crate) const MEMORY: &str = "pod: node (MemAvailable), at 80";

/// Who runs pods, and what in them.
struct Contender {
    name: &'static str,
    handler: &'static str,
    program: Program<'static>,
    answers: bool,
}

/// A containerd for pods, and what they are made of.
struct Node<'a> {
    namespace: &'a Namespace,
    cri: Cri,
}

/// Start and memory of every contender.
pub(crate) fn over_cri(shims: &Shims) -> Result<Vec<Row>> {
    let others = [("peer", shims.peer.as_path()), ("floor", shims.floor.as_path())];
    let containerd = Containerd::start_for_pods_of(Version::V2_4, &shims.ours, &others)?;
    let namespace = containerd.namespace("pods");
    let measured = measured(&namespace).with_context(|| containerd.log_tail(0));
    let left = containerd.stop();
    let rows = measured?;
    // The peer may leave a socket, which costs nobody the results.
    if let Err(error) = left {
        println!("left by pods: {error:#}");
    }
    Ok(rows)
}

fn measured(namespace: &Namespace) -> Result<Vec<Row>> {
    let native = contender::native(include_str!("../guests/native.c"))?;
    // A file: a layer of wasm is unpacked for none of the others.
    let wasm =
        Image::new(WASM_IMAGE).rootfs(Rootfs::new().file("app.wasm", &hello_component()?)).entrypoint(["/app.wasm"]);
    let native = Image::new(NATIVE_IMAGE).rootfs(Rootfs::new().file("app", &native)).entrypoint(["/app"]);
    let _images = testkit::cri::Cri::new(namespace, &[&wasm, &native])?;
    let socket = namespace.containerd().socket();
    let node = Node { namespace, cri: Cri::connect(&socket)? };
    let contenders: Vec<_> = contenders().into_iter().filter(|contender| wanted(contender.name)).collect();
    let mut rows = Vec::new();
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); contenders.len()];
    for turn in 0..WARM_UP + TURNS {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let begun = Instant::now();
            let sandbox = node.pod(contender, turn)?;
            let took = begun.elapsed();
            node.cri.remove(&sandbox)?;
            thread::sleep(REST);
            if turn >= WARM_UP {
                times.push(took);
            }
        }
    }
    rows.extend(contenders.iter().zip(&times).map(|(contender, times)| Row::ms(START, contender.name, times)));
    for contender in &contenders {
        let each = node.memory(contender)?;
        rows.push(Row::of(MEMORY, contender.name, "KiB", Better::Lower, vec![each]));
    }
    Ok(rows)
}

fn contenders() -> Vec<Contender> {
    let wasm = || Program { image: WASM_IMAGE, command: &["/app.wasm"], env: None };
    let listening = Some(("WASMTIME_HTTP_PROXY_SOCKET_ADDR", "0.0.0.0:8080"));
    let native = Program { image: NATIVE_IMAGE, command: &["/app", "serve"], env: None };
    vec![
        Contender { name: OURS, handler: "wasm", program: wasm(), answers: true },
        Contender { name: PEER, handler: "peer", program: Program { env: listening, ..wasm() }, answers: true },
        Contender { name: "runc", handler: "runc", program: native, answers: true },
        Contender { name: FLOOR, handler: "floor", program: wasm(), answers: false },
    ]
}

impl Node<'_> {
    /// A pod that has answered, if it ever does.
    fn pod(&self, contender: &Contender, number: usize) -> Result<Sandbox> {
        let name = format!("{}-{number}", contender.name);
        let parent = format!("/{}", self.namespace.name());
        let logs = self.namespace.directory("logs")?;
        let sandbox = self.cri.sandbox(contender.handler, &name, &logs, &parent)?;
        self.cri.start(&sandbox, &contender.program)?;
        if !contender.answers {
            return Ok(sandbox);
        }
        let heard = Client::connect_to(self.cri.address(&sandbox)?, PORT, PATIENCE)?.get()?;
        ensure!(heard == HELLO, "a pod of {} answered {heard:?}", contender.name);
        Ok(sandbox)
    }

    /// KiB of one of many.
    fn memory(&self, contender: &Contender) -> Result<f64> {
        let before = available_kib()? as f64;
        let pods = (0..PODS).map(|number| self.pod(contender, 1000 + number)).collect::<Result<Vec<_>>>()?;
        let meanwhile = available_kib()? as f64;
        for sandbox in &pods {
            self.cri.remove(sandbox)?;
        }
        Ok(((before + available_kib()? as f64) / 2.0 - meanwhile) / PODS as f64)
    }
}
