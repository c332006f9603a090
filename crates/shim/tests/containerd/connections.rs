//! Connections of a service, and what it answers them with: how many at a time, requests beside each other on one, and
//! the threads behind them.

use crate::Cases;
use crate::h2::{Connection, END_STREAM, Method};
use crate::load::Client;
use crate::web::Service;
use anyhow::{Result, ensure};
use std::fs;
use std::io::{ErrorKind, Read};
use std::thread;
use testkit::{Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::connections::one_too_many_waits_for_a_place,
    crate::connections::two_requests_of_one_connection_at_a_time,
    crate::connections::answers_that_nobody_reads_are_given_up,
    crate::connections::threads_follow_the_processor_limit,
    crate::connections::services_take_short_turns,
];

fn one_too_many_waits_for_a_place(node: &Namespace) -> Result<()> {
    let service = Service::start(node, |draft| draft.annotation("io.containerd.wasm.v1/http.max-connections", "2"))?;
    let mut kept = [Client::new(service.port)?, Client::new(service.port)?];
    for client in &mut kept {
        ensure!(client.get("/")?.0 == b"hello from wasm\n", "it answers");
    }
    let mut third = service.say("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    // Whoever serves it answers it before so many others.
    for _ in 0..50 {
        for client in &mut kept {
            client.get("/")?;
        }
    }
    third.set_nonblocking(true)?;
    let nothing = third.read(&mut head);
    ensure!(nothing.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{nothing:?}");
    let [first, mut second] = kept;
    drop(first);
    third.set_nonblocking(false)?;
    third.set_read_timeout(Some(wait::patience()))?;
    third.read_exact(&mut head)?;
    ensure!(head == *b"HTTP/1.1 200", "{head:?}");
    ensure!(second.get("/")?.0 == b"hello from wasm\n", "the other is kept");
    drop((second, third));
    service.finish(15, 0)
}

fn two_requests_of_one_connection_at_a_time(node: &Namespace) -> Result<()> {
    let service = Service::start(node, |draft| draft)?;
    let mut connection = Connection::new(service.port)?;
    connection.request(1, Method::Post, "/echo", 0)?;
    let head = connection.next()?;
    ensure!(head.stream == 1 && head.bytes.is_none() && !head.is_last, "{head:?}");
    // The first one is being answered.
    connection.request(3, Method::Get, "/", END_STREAM)?;
    let second = connection.body(3)?;
    ensure!(second == "hello from wasm\n", "{second:?}");
    connection.finish(1, b"the rest")?;
    let first = connection.body(1)?;
    ensure!(first == "the rest", "{first:?}");
    drop(connection);
    service.finish(15, 0)
}

/// The client keeps its connection, and answers whatever keeps it.
fn answers_that_nobody_reads_are_given_up(node: &Namespace) -> Result<()> {
    let annotation = |key: &str| format!("io.containerd.wasm.v1/http.{key}");
    let service = Service::start(node, |draft| {
        draft.annotation(&annotation("max-concurrency"), "2").annotation(&annotation("request-timeout"), "3s")
    })?;
    let mut connection = Connection::without_window(service.port)?;
    for stream in [1, 3] {
        connection.request(stream, Method::Get, "/", END_STREAM)?;
    }
    let answered =
        |status: u16| wait::until("others are answered", || Ok((service.get("/")?.status == status).then_some(())));
    answered(503)?;
    answered(200)?;
    for _ in [1, 3] {
        let head = connection.next()?;
        ensure!(head.bytes.is_none(), "{head:?}");
    }
    ensure!(connection.next().is_err(), "the connection has ended");
    service.finish(15, 0)
}

fn threads_follow_the_processor_limit(node: &Namespace) -> Result<()> {
    let threads = |resources: serde_json::Value| -> Result<usize> {
        let service = Service::start(node, |draft| draft.spec(|spec| spec["linux"]["resources"] = resources))?;
        ensure!(service.get("/")?.status == 200, "it answers");
        let threads = process::threads(service.pid())?;
        service.finish(15, 0)?;
        Ok(threads)
    };
    let half = threads(serde_json::json!({ "cpu": { "quota": 50_000, "period": 100_000 } }))?;
    let all = threads(serde_json::json!({}))?;
    // With one alone, it is the thread that waits for the others otherwise.
    let more = thread::available_parallelism()?.get();
    let workers = if more > 1 { more } else { 0 };
    ensure!(all == half + workers, "{half} threads for half a processor, {all} for {more}");
    Ok(())
}

/// As far as the kernel has a choice of them, and tells of it.
fn services_take_short_turns(node: &Namespace) -> Result<()> {
    let service = Service::start(node, |draft| draft)?;
    let usual = turns("/proc/self/task")?;
    let of_service = turns(&format!("/proc/{}/task", service.pid()))?;
    ensure!(of_service.len() == usual.len().min(1) * process::threads(service.pid())?, "{of_service:?}");
    ensure!(of_service.iter().all(|turn| *turn == 100_000), "{of_service:?}");
    ensure!(!usual.contains(&100_000), "the test itself has others: {usual:?}");
    service.finish(15, 0)
}

/// The length of a turn of each thread, nanoseconds.
fn turns(threads: &str) -> Result<Vec<u64>> {
    let mut turns = Vec::new();
    for thread in fs::read_dir(threads)? {
        let text = fs::read_to_string(thread?.path().join("sched"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("se.slice"));
        turns.extend(line.and_then(|line| line.trim_start_matches([' ', ':']).trim().parse::<u64>().ok()));
    }
    Ok(turns)
}
