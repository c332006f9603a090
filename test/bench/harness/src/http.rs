//! Services side by side: how many requests they answer, how soon the first one, and what they cost while nobody asks.

use crate::bed::Bed;
use crate::client::{self, Client};
use crate::contender::{OURS, PEER, wanted};
use crate::load::{self, Load, Server};
use crate::memory::{self, Place};
use crate::service::{self, HELLO, HELLO_ASYNC, Service};
use crate::statistics::{Better, Row};
use crate::wasmtime::{self, WASMTIME};
use anyhow::{Result, ensure};
use std::time::Duration;
use testkit::{Image, Runtime, guests, process};

/// Ours, with instances that are used again: not what others do.
const REUSING: &str = "ours+reuse";
/// Ours, with a component for WASI 0.3.
const ASYNC: &str = "ours+0.3";
/// As good as without end.
const REUSES: &str = "1000000";
/// The peer with a setting of the engine that ours has too, and that is not its default.
pub(crate) const KEEPING_PEER: &str = "peer+keeping";
const KEEPING: &str = "PEER_POOL=keeping";
/// Turns of each contender under load, after one that is not counted.
const TURNS: usize = 3;
/// Of a turn, and of that first one.
const SECONDS: u32 = 3;
const WARM_UP_SECONDS: u32 = 1;
/// The longest that `wasmtime serve` takes to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is told of a load.
type Part = fn(&Load) -> f64;

/// Warm starts of a Python component: of ours, and of the peer, which compiles a file each time.
const STARTS: usize = 5;
const STARTS_OF_PEER: usize = 1;
const PYTHON_SAYS: &str = "hello from python: /\n";

/// Requests in a second at 32 in flight, and the 99th percentile of what they take.
pub(crate) fn hello(bed: &Bed) -> Result<Vec<Row>> {
    let program = service::hello(bed)?;
    let asynchronous = service::hello_async(bed)?;
    let ours = Runtime::wasm(&bed.containerd.operator_file());
    let reusing = program.annotated("http.reuse", REUSES);
    let peer = Runtime::named("io.containerd.peer.v1");
    let keeping = program.told(KEEPING);
    let contained = [
        (OURS, &ours, &program, HELLO),
        (REUSING, &ours, &reusing, HELLO),
        (ASYNC, &ours, &asynchronous, HELLO_ASYNC),
        (PEER, &peer, &program, HELLO),
        (KEEPING_PEER, &peer, &keeping, HELLO),
    ];
    let contained = contained.into_iter().filter(|(who, ..)| wanted(who));
    let contained = contained.map(|(who, runtime, program, says)| Ok((who, bed.api(runtime)?, program, says)));
    let contained = contained.collect::<Result<Vec<_>>>()?;
    let mut services = Vec::new();
    for (_, api, program, says) in &contained {
        services.push(Service::start(bed, api, program, says)?);
    }
    let mut servers: Vec<Server> = contained
        .iter()
        .zip(&services)
        .map(|((who, ..), service)| Server { who, port: service.port, pid: service.pid })
        .collect();
    let _serving = if wanted(WASMTIME) {
        let code = wasmtime::compiled(&bed.node.directory("wasmtime")?, &service::hello_component()?)?;
        let port = client::free_port()?;
        let serving = wasmtime::serve(&code, port)?;
        let heard = Client::connect(port, PATIENCE)?.get()?;
        ensure!(heard == HELLO, "wasmtime serve answered {heard:?}");
        servers.push(Server { who: WASMTIME, port, pid: serving.pid() });
        Some(serving)
    } else {
        None
    };
    let rows = in_turns(&servers)?;
    for service in services {
        service.end()?;
    }
    Ok(rows)
}

fn in_turns(servers: &[Server]) -> Result<Vec<Row>> {
    let mut loads: Vec<Vec<Load>> = vec![Vec::new(); servers.len()];
    for server in servers {
        load::busy(*server, WARM_UP_SECONDS)?;
    }
    for _ in 0..TURNS {
        for (server, loads) in servers.iter().zip(&mut loads) {
            loads.push(load::busy(*server, SECONDS)?);
        }
    }
    let parts: [(&str, &str, Better, Part); 3] = [
        ("http hello: requests/s", "req/s", Better::Higher, |load| load.answered.per_second),
        ("http hello: p99", "ms", Better::Lower, |load| load.answered.p99.as_secs_f64() * 1e3),
        ("http hello: processor time", "us/req", Better::Lower, |load| load.cpu_us),
    ];
    let rows = parts.iter().flat_map(|(what, unit, better, part)| {
        servers
            .iter()
            .zip(&loads)
            .map(move |(server, loads)| Row::of(what, server.who, unit, *better, loads.iter().map(part).collect()))
    });
    Ok(rows.collect())
}

/// A component of 18 MB with a language in it, from a file of the image: from create to the first answer, compiled before;
/// and what its process has by then.
pub(crate) fn python(bed: &Bed) -> Result<Vec<Row>> {
    let image = Image::with_file("bench.local/http-python:1", &guests::sample("http-python")?);
    let program = bed.program(&image, &["/app.wasm"], "")?;
    let ours = Runtime::wasm(&bed.containerd.operator_file());
    let peer = Runtime::named("io.containerd.peer.v1");
    let mut rows = Vec::new();
    let contenders = [(OURS, &ours, STARTS), (PEER, &peer, STARTS_OF_PEER)];
    for (who, runtime, starts) in contenders.into_iter().filter(|(who, ..)| wanted(who)) {
        let api = bed.api(runtime)?;
        // Not counted: ours compiles.
        if who == OURS {
            Service::start(bed, &api, &program, PYTHON_SAYS)?.end()?;
        }
        let (mut times, mut anonymous) = (Vec::new(), Vec::new());
        for _ in 0..starts {
            let service = Service::start(bed, &api, &program, PYTHON_SAYS)?;
            times.push(service.took);
            anonymous.push(process::anonymous_kib(service.pid)? as f64);
            service.end()?;
        }
        rows.push(Row::ms("http Python: warm start to answer", who, &times));
        rows.push(Row::of("http Python: its process (Pss_Anon)", who, "KiB", Better::Lower, anonymous));
    }
    Ok(rows)
}

/// What a service costs that has answered once and is not asked again, of ours and of the peer.
pub(crate) fn idle(bed: &Bed) -> Result<Vec<Row>> {
    let program = service::hello(bed)?;
    let contenders =
        [(OURS, Runtime::wasm(&bed.containerd.operator_file())), (PEER, Runtime::named("io.containerd.peer.v1"))];
    let contenders: Vec<_> = contenders.into_iter().filter(|(who, _)| wanted(who)).collect();
    let people: Vec<&str> = contenders.iter().map(|(who, _)| *who).collect();
    memory::of_all("idle http container", &people, |index| {
        memory::of_one(bed, &contenders[index].1, Place::OwnProcess, &|api| {
            let service = Service::start(bed, api, &program, HELLO)?;
            Ok((service.container, service.pid))
        })
    })
}
