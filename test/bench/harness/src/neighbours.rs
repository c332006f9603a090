//! How a healthy service does beside bad neighbours: containers of the same node that trap and are started again, that
//! spin, or that take all the memory they get.

use crate::bed::{Bed, Container, Program};
use crate::client::Client;
use crate::contender::{self, OURS, RUNC};
use crate::service::{self, HELLO, Service};
use crate::statistics::{Better, Row, percentile_ms};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::image::Rootfs;
use testkit::{Image, Runtime, guests};

/// All of them.
pub(crate) const NEIGHBOURS: usize = 200;
const TRAPPING: usize = NEIGHBOURS / 3;
const EATING: usize = NEIGHBOURS / 3;
const SPINNING: usize = NEIGHBOURS - TRAPPING - EATING;
/// After its end, one that traps is started again: the kubelet's first back-off.
const BACK_OFF: Duration = Duration::from_secs(10);
/// What one that spins gets of a processor, microseconds of each 100 ms; and its weight beside others, 1024 for a whole one:
/// as a kubelet has it for `limits.cpu: 10m`.
const SPINNING_QUOTA_US: u32 = 1000;
const SPINNING_SHARES: u32 = 10;
/// The weight that a kubelet gives to a pod that asks for nothing.
const LEAST_SHARES: u32 = 2;
/// What one that eats gets.
const EATING_LIMIT: &str = "16Mi";
/// The exit code of a trap.
const TRAPPED: u32 = 134;
/// Requests to the service, at a fixed pace; and turns alone and beside.
const EVERY: Duration = Duration::from_millis(5);
const REQUESTS: u32 = 1000;
/// Before them, not counted.
const WARM_UP: u32 = 100;
const TURNS: usize = 2;

/// Who was asked in a turn, and what each request took.
type Asked = (&'static str, Vec<Duration>);

/// What a request takes, alone and beside them, at 200 requests a second: of ours, and of a native service under runc.
pub(crate) fn beside(bed: &Bed) -> Result<Vec<Row>> {
    let ours = Runtime::wasm(&bed.containerd.operator_file());
    let (api, runc) = (bed.api(&ours)?, bed.api(&Runtime::runc("runc"))?);
    // What the processors' scheduler does to any service at all shows on one that is as small as can be.
    let programs = [(OURS, &api, service::hello(bed)?), (RUNC, &runc, native(bed)?)];
    let mut services = Vec::new();
    for (who, api, program) in &programs {
        let service = Service::start(bed, api, program, HELLO)?;
        let mut client = Client::connect(service.port, Duration::ZERO)?;
        client.paced(WARM_UP, EVERY)?;
        services.push((*who, service, client));
    }
    let trapping = trapping(bed)?;
    let mut asked = || -> Result<Vec<Asked>> {
        let mut all = Vec::new();
        for _ in 0..TURNS {
            for (who, _, client) in &mut services {
                all.push((*who, client.paced(REQUESTS, EVERY)?));
            }
        }
        Ok(all)
    };
    let alone = asked()?;
    let mut neighbours = Vec::new();
    let begun = Instant::now();
    for (program, count) in [(spinning(bed)?, SPINNING), (eating(bed)?, EATING)] {
        for _ in 0..count {
            let neighbour = bed.container(&api, &program)?;
            neighbour.create()?;
            neighbour.start_until_heard()?;
            neighbours.push(neighbour);
        }
    }
    println!("{} neighbours up in {:.1} s", neighbours.len(), begun.elapsed().as_secs_f64());
    let over = AtomicBool::new(false);
    let beside = thread::scope(|scope| -> Result<Vec<_>> {
        let restarts = scope.spawn(|| restarting(bed, &ours, &trapping, &over));
        let asking = Instant::now();
        let asked = asked();
        over.store(true, Ordering::Relaxed);
        let trapped = restarts.join().map_err(|_| anyhow!("the thread that starts those that trap panicked"))??;
        println!("{trapped} starts of those that trap");
        let due = asking.elapsed().as_secs_f64() / BACK_OFF.as_secs_f64() * TRAPPING as f64;
        ensure!(f64::from(trapped) > 0.5 * due, "{trapped} starts of those that trap, and {due:.0} were due");
        asked
    })?;
    for neighbour in neighbours {
        neighbour.end()?;
        neighbour.remove()?;
    }
    for (_, service, _) in services {
        service.end()?;
    }
    let both = [("alone", alone), (&beside_them(), beside)];
    Ok(both
        .iter()
        .flat_map(|(where_, turns)| [OURS, RUNC].into_iter().flat_map(|who| rows(where_, who, turns)))
        .collect())
}

/// How it is called where they are.
pub(crate) fn beside_them() -> String {
    format!("beside {NEIGHBOURS} bad neighbours")
}

/// The name of the row.
pub(crate) fn p99(where_: &str) -> String {
    format!("http {where_}: p99")
}

fn rows(where_: &str, who: &'static str, turns: &[Asked]) -> [Row; 2] {
    let of = |what: &str, part| {
        let values = turns.iter().filter(|(one, _)| *one == who).map(|(_, times)| percentile_ms(times, part)).collect();
        Row::of(what, who, "ms", Better::Lower, values)
    };
    [of(&format!("http {where_}: p50"), 0.5), of(&p99(where_), 0.99)]
}

/// A service in C.
fn native(bed: &Bed) -> Result<Program> {
    let program = contender::native(include_str!("../guests/native.c"))?;
    let image = Image::new("bench.local/native-service:1").rootfs(Rootfs::new().file("app", &program));
    bed.program(&image, &["/app", "serve"], "")
}

fn trapping(bed: &Bed) -> Result<Program> {
    let image = Image::with_file("bench.local/trap:1", &guests::module("p1_trap.wat")?);
    Ok(bed.program(&image, &["/app.wasm"], "before the trap\n")?.limited(least()))
}

fn spinning(bed: &Bed) -> Result<Program> {
    let image = Image::with_file("bench.local/spin:1", &guests::module("p1_spin.wat")?);
    let program = bed.program(&image, &["/app.wasm"], "spinning\n")?;
    Ok(program.limited(json!({
        "cpu": { "quota": SPINNING_QUOTA_US, "period": 100_000, "shares": SPINNING_SHARES },
    })))
}

fn eating(bed: &Bed) -> Result<Program> {
    let image = Image::with_file("bench.local/eat:1", &wat::parse_str(include_str!("../guests/eat.wat"))?);
    Ok(bed.program(&image, &["/app.wasm"], "eating\n")?.annotated("limits.memory", EATING_LIMIT).limited(least()))
}

fn least() -> Value {
    json!({ "cpu": { "shares": LEAST_SHARES } })
}

/// Starts those that trap, each anew once its back-off is over, until it is over altogether; how many starts there were.
fn restarting(bed: &Bed, runtime: &Runtime, program: &Program, over: &AtomicBool) -> Result<u32> {
    let api = bed.api(runtime)?;
    let begun = Instant::now();
    let mut starts = 0;
    while !over.load(Ordering::Relaxed) {
        // They are spread over the time that each waits.
        let due = begun + BACK_OFF * starts / TRAPPING as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let container: Container<'_> = bed.container(&api, program)?;
        let (code, _) = container.ended().context("a container that traps")?;
        ensure!(code == TRAPPED, "a trap left with {code}");
        container.remove()?;
        starts += 1;
    }
    Ok(starts)
}
