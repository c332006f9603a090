//! Services: a guest of the http world answers over the container's network.

use crate::Cases;
use crate::web::{Reply, Service};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use testkit::{Namespace, cases, guests, wait};

pub(crate) const CASES: Cases = cases![
    crate::http::requests_are_answered,
    crate::http::bodies_and_trailers_pass_both_ways,
    crate::http::what_a_guest_says_is_the_container_s_log,
    crate::http::a_guest_that_fails_takes_nobody_along,
    crate::http::a_guest_that_traps_after_the_head_breaks_its_answer_off,
    crate::http::a_guest_that_answers_with_an_error,
    crate::http::a_guest_that_spins_stalls_nobody,
    crate::http::an_instance_answers_as_often_as_it_may,
    crate::http::one_request_too_many_is_told_when_to_come_again,
    crate::http::http2_without_encryption,
    crate::http::a_client_that_goes_takes_its_guest_along,
    crate::http::clients_that_do_not_read_keep_nobody_out,
    crate::http::unfinished_heads_take_little_memory,
    crate::http::a_guest_that_waits_for_a_file_holds_up_nobody,
    crate::http::idle_connections_do_not_keep_a_server,
    crate::http::the_environment_says_where_to_listen,
    crate::http::addresses_that_cannot_be_had_are_refused,
    crate::http::a_service_ends_by_signal,
    crate::http::components_of_other_languages_answer,
    crate::http::the_samples_answer,
];

fn service(node: &Namespace) -> Result<Service> {
    Service::start(node, |draft| draft)
}

fn with(node: &Namespace, key: &str, value: &str) -> Result<Service> {
    let key = format!("io.containerd.wasm.v1/{key}");
    Service::start(node, |draft| draft.annotation(&key, value))
}

fn requests_are_answered(node: &Namespace) -> Result<()> {
    let service =
        Service::start(node, |draft| draft.spec(|spec| spec["process"]["env"] = serde_json::json!(["WHO=user"])))?;
    let reply = service.get("/")?;
    ensure!((reply.status, reply.text.as_str()) == (200, "hello from wasm\n"), "{reply:?}");
    // On one connection, several.
    let replies = service.curl(&[], &["/", "/args", "/env?name=WHO", "/none"])?;
    let wanted = [(200, "hello from wasm\n"), (200, "/app.wasm\n"), (200, "user\n"), (404, "no such path: /none\n")];
    let got: Vec<(u16, &str)> = replies.iter().map(|reply| (reply.status, reply.text.as_str())).collect();
    ensure!(got == wanted, "{replies:?}");
    let replies = service.curl(&["-H", "x-asked: yes"], &["/headers"])?;
    let text = &replies[0].text;
    ensure!(text.contains("GET") && text.contains("/headers") && text.contains("x-asked: yes"), "{text}");
    service.finish(15, 0)
}

fn bodies_and_trailers_pass_both_ways(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    let body = "0123456789abcdef".repeat(100_000);
    let reply = service.post("/echo", body.as_bytes())?;
    ensure!(reply.status == 200 && reply.text == body, "{} bytes came back", reply.text.len());
    let reply = service.get("/big?bytes=3000000")?;
    ensure!(reply.status == 200 && reply.text.len() == 3_000_000, "{} bytes", reply.text.len());
    let reply = service.get("/drip?count=3&ms=20")?;
    ensure!(reply.text == "drip\n".repeat(3), "{reply:?}");
    let answer = service.raw(
        "POST /echo HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n",
    )?;
    ensure!(answer.contains("hello") && answer.contains("x-sum: 5"), "{answer}");
    service.finish(15, 0)
}

fn what_a_guest_says_is_the_container_s_log(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    ensure!(service.get("/stdout")?.status == 200, "it answers");
    let end = service.end(15)?;
    ensure!(end.stdout == "said on stdout\n" && end.stderr == "said on stderr\n", "{end:?}");
    Ok(())
}

fn a_guest_that_fails_takes_nobody_along(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    for (path, status) in [("/trap", 500), ("/panic", 500), ("/exit?code=3", 500), ("/nothing", 500)] {
        let reply = service.get(path)?;
        ensure!(reply.status == status, "{path}: {reply:?}");
        ensure!(service.get("/")?.status == 200, "it goes on after {path}");
    }
    let end = service.end(15)?;
    let said = &end.stderr;
    for line in [
        "GET /trap: wasm trap: ",
        "boom",
        "GET /exit: the guest exited with code 1",
        "GET /nothing: the guest returned",
    ] {
        ensure!(said.contains(line), "{line}: {said}");
    }
    ensure!(end.code == 0, "{end:?}");
    Ok(())
}

fn a_guest_that_traps_after_the_head_breaks_its_answer_off(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    let head = "POST /break-off HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = service.say(head)?;
    let mut begun = Vec::new();
    while !begun.ends_with(b"begun\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        begun.extend(byte);
    }
    ensure!(begun.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&begun));
    // It traps at the end of the request.
    stream.write_all(b"0\r\n\r\n")?;
    let mut rest = String::new();
    // A reset says that the answer is not whole, and so does an end without the last chunk.
    let _ = stream.read_to_string(&mut rest);
    ensure!(rest.is_empty(), "{rest:?} follows");
    ensure!(service.get("/")?.status == 200, "it goes on");
    let end = service.end(15)?;
    ensure!(end.code == 0 && end.stderr.contains("POST /break-off: wasm trap: "), "{end:?}");
    Ok(())
}

fn a_guest_that_answers_with_an_error(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    let reply = service.get("/error")?;
    ensure!((reply.status, reply.text.as_str()) == (502, "the guest answered with an error\n"), "{reply:?}");
    ensure!(service.get("/")?.status == 200, "it goes on");
    let said = service.end(15)?.stderr;
    let line = "GET /error: the guest answered with an error: ";
    ensure!(said.contains(line) && said.contains("told by the guest"), "{said}");
    Ok(())
}

fn a_guest_that_spins_stalls_nobody(node: &Namespace) -> Result<()> {
    let service = Service::start(node, |draft| {
        let draft = draft.annotation("io.containerd.wasm.v1/http.request-timeout", "2s");
        // One worker thread.
        draft.spec(|spec| {
            spec["linux"]["resources"]["cpu"] = serde_json::json!({ "quota": 100_000, "period": 100_000 });
        })
    })?;
    let spinning = service.background("/spin");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        ensure!(service.get("/")?.status == 200, "others are answered");
    }
    let reply = spinning.join().ok().context("curl did not panic")??;
    ensure!(reply.status == 504, "{reply:?}");
    ensure!(service.get("/slow?ms=5000")?.status == 504, "one that waits, too");
    let end = service.end(15)?;
    ensure!(end.stderr.contains("GET /spin: no answer in 2s: raise http.request-timeout"), "{end:?}");
    Ok(())
}

fn an_instance_answers_as_often_as_it_may(node: &Namespace) -> Result<()> {
    let counts = |service: &Service| -> Result<Vec<String>> {
        (0..6).map(|_| Ok(service.get("/count")?.text.trim().to_owned())).collect()
    };
    let fresh = service(node)?;
    let got = counts(&fresh)?;
    ensure!(got == ["1"; 6], "{got:?}");
    fresh.finish(15, 0)?;
    let reused = with(node, "http.reuse", "3")?;
    let got = counts(&reused)?;
    ensure!(got == ["1", "2", "3", "1", "2", "3"], "{got:?}");
    reused.finish(15, 0)
}

fn one_request_too_many_is_told_when_to_come_again(node: &Namespace) -> Result<()> {
    let service = with(node, "http.max-concurrency", "2")?;
    let slow: Vec<_> = (0..2).map(|_| dripping(&service)).collect::<Result<_>>()?;
    let answer = service.raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let refused = answer.starts_with("HTTP/1.1 503") && answer.to_lowercase().contains("retry-after: 1");
    ensure!(refused, "{answer}");
    for slow in slow {
        let drips = rest_of_drips(slow)?;
        ensure!(drips == 20, "{drips} drips");
    }
    wait::until("there is a place again", || Ok((service.get("/")?.status == 200).then_some(())))?;
    service.finish(15, 0)
}

/// A request that is being answered, for two seconds.
fn dripping(service: &Service) -> Result<TcpStream> {
    let mut slow = service.say("GET /drip?count=20&ms=100 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    slow.read_exact(&mut head)?;
    ensure!(head == *b"HTTP/1.1 200", "{head:?}");
    Ok(slow)
}

fn rest_of_drips(mut slow: TcpStream) -> Result<usize> {
    let mut rest = String::new();
    slow.read_to_string(&mut rest)?;
    Ok(rest.matches("drip").count())
}

fn http2_without_encryption(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    // One by one: curl 7.88 cannot use such a connection again.
    for (path, bytes) in [("/", 16), ("/big?bytes=300000", 300_000), ("/count", 2)] {
        let reply = service.curl(&["--http2-prior-knowledge"], &[path])?.pop().context("a reply")?;
        ensure!((reply.status, reply.version.as_str(), reply.text.len()) == (200, "2", bytes), "{path}: {reply:?}");
    }
    service.finish(15, 0)
}

fn a_client_that_goes_takes_its_guest_along(node: &Namespace) -> Result<()> {
    let service = Service::start(node, |draft| {
        let draft = draft.annotation("io.containerd.wasm.v1/http.max-concurrency", "1");
        draft.annotation("io.containerd.wasm.v1/http.request-timeout", "1h")
    })?;
    let gone = service.curl(&["--max-time", "0.3"], &["/spin"]);
    ensure!(gone.is_err(), "curl gives up: {gone:?}");
    wait::until("its place is free", || Ok((service.get("/")?.status == 200).then_some(())))?;
    service.finish(15, 0)
}

fn the_environment_says_where_to_listen(node: &Namespace) -> Result<()> {
    for entry in ["PORT={port}", "WASMTIME_HTTP_PROXY_SOCKET_ADDR=127.0.0.1:{port}"] {
        let told = Service::start_by(node, |draft, port| {
            let entry = entry.replace("{port}", &port.to_string());
            draft.spec(|spec| spec["process"]["env"] = serde_json::json!([entry]))
        });
        told.with_context(|| entry.to_owned())?.finish(15, 0)?;
    }
    Ok(())
}

fn addresses_that_cannot_be_had_are_refused(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    let taken = format!("127.0.0.1:{}", service.port);
    let draft = |listen: &str| Service::draft(node).map(|draft| draft.annotation(LISTEN, listen));
    draft(&taken)?.refused(&["cannot listen on", &taken, "another server has the address"])?;
    draft("192.0.2.1:80")?.refused(&["cannot listen on 192.0.2.1:80", "no interface with it"])?;
    draft("8080")?.refused(&["bad value \"8080\" of http.listen: expected an address with a port"])?;
    let low =
        draft("127.0.0.1:81")?.spec(|spec| spec["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 }));
    low.refused(&["cannot listen on 127.0.0.1:81", "NET_BIND_SERVICE"])?;
    let env = Service::draft(node)?.spec(|spec| spec["process"]["env"] = serde_json::json!(["PORT=tcp://1.2.3.4:5"]));
    env.refused(&["PORT", "a port from 1 to 65535"])?;
    service.finish(15, 0)
}

/// The annotation.
const LISTEN: &str = "io.containerd.wasm.v1/http.listen";

fn a_service_ends_by_signal(node: &Namespace) -> Result<()> {
    for (signal, code) in [(15, 0), (9, 137), (2, 130)] {
        let service = service(node)?;
        ensure!(service.get("/")?.status == 200, "it answers");
        service.finish(signal, code)?;
    }
    // A request in flight is finished, and new connections are taken for a while.
    let service = with(node, "http.drain-delay", "1s")?;
    let slow = dripping(&service)?;
    service.kill(15)?;
    wait::until("clients are told", || {
        let reply: Reply = service.get("/")?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(reply.closes.then_some(()))
    })?;
    let drips = rest_of_drips(slow)?;
    ensure!(drips == 20, "{drips} drips");
    service.ended(0)?;
    let service = with(node, "http.drain-delay", "1h")?;
    service.kill(15)?;
    ensure!(service.get("/")?.status == 200, "it takes requests still");
    service.finish(15, 143)
}

fn components_of_other_languages_answer(node: &Namespace) -> Result<()> {
    let service = Service::start_listening(Service::draft_of(node, &guests::javascript("http_hello.js")?)?)?;
    for _ in 0..2 {
        let reply = service.get("/")?;
        ensure!((reply.status, reply.text.as_str()) == (200, "hello from javascript\n"), "{reply:?}");
    }
    service.finish(15, 0)
}

fn the_samples_answer(node: &Namespace) -> Result<()> {
    for (name, says) in [("http-python", "hello from python: "), ("http-rust", "hello from rust: ")] {
        let service = Service::start_listening(Service::draft_of(node, &guests::sample(name)?)?)?;
        for path in ["/", "/a/path?with=a&query"] {
            let reply = service.get(path)?;
            ensure!((reply.status, reply.text) == (200, format!("{says}{path}\n")), "{name}: {path}");
        }
        if name == "http-rust" {
            let reply = service.post("/echo", b"some text")?;
            ensure!((reply.status, reply.text.as_str()) == (200, "some text"), "{reply:?}");
        }
        service.finish(15, 0)?;
    }
    Ok(())
}

fn clients_that_do_not_read_keep_nobody_out(node: &Namespace) -> Result<()> {
    let service = Service::start(node, |draft| {
        let draft = draft.annotation("io.containerd.wasm.v1/http.max-concurrency", "2");
        draft.annotation("io.containerd.wasm.v1/http.request-timeout", "2s")
    })?;
    let silent: Vec<_> =
        (0..2).map(|_| service.say("GET /big?bytes=100000000 HTTP/1.1\r\nhost: a\r\n\r\n")).collect::<Result<_>>()?;
    wait::until("they hold all places", || Ok((service.get("/")?.status == 503).then_some(())))?;
    wait::until("their places are free", || Ok((service.get("/")?.status == 200).then_some(())))?;
    drop(silent);
    service.finish(15, 0)
}

fn unfinished_heads_take_little_memory(node: &Namespace) -> Result<()> {
    const CLIENTS: usize = 300;
    let service = Service::start(node, |draft| {
        draft.spec(|spec| spec["linux"]["resources"] = serde_json::json!({ "memory": { "limit": 64 << 20 } }))
    })?;
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}", "x".repeat(30 << 10));
    // A server that has enough of it resets the connection.
    let clients: Vec<_> = (0..CLIENTS).filter_map(|_| service.say(&head).ok()).collect();
    ensure!(service.get("/")?.status == 200, "it answers");
    drop(clients);
    service.finish(15, 0)
}

fn a_guest_that_waits_for_a_file_holds_up_nobody(node: &Namespace) -> Result<()> {
    let volume = node.directory("fifo")?;
    let made = std::process::Command::new("mkfifo").arg(volume.join("fifo")).status()?;
    ensure!(made.success(), "mkfifo");
    let service = Service::start(node, |draft| {
        let draft = draft.annotation("io.containerd.wasm.v1/http.request-timeout", "2s");
        draft.bind(&volume, "/v", &["bind", "ro"])
    })?;
    let waiting: Vec<_> = (0..4).map(|_| service.background("/file?path=/v/fifo")).collect();
    for waiting in waiting {
        while !waiting.is_finished() {
            ensure!(service.get("/")?.status == 200, "others are answered");
        }
        let reply = waiting.join().ok().context("curl did not panic")??;
        ensure!(reply.status == 504, "{reply:?}");
    }
    let refused = service.get("/write?path=/v/new&text=x")?;
    ensure!(refused.text.contains("Read-only"), "{refused:?}");
    service.finish(15, 0)
}

fn idle_connections_do_not_keep_a_server(node: &Namespace) -> Result<()> {
    let service = with(node, "http.max-connections", "3")?;
    let idle: Vec<_> = (0..3).map(|_| service.say("")).collect::<Result<_>>()?;
    let begun = Instant::now();
    service.kill(15)?;
    service.ended(0)?;
    ensure!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    drop(idle);
    Ok(())
}
