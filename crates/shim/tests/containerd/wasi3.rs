//! WASI 0.3, which a component's own imports and exports ask for: commands and services with asynchronous calls.

use crate::Cases;
use crate::network;
use crate::output::image_with;
use crate::web::Service;
use anyhow::{Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use testkit::{Image, Namespace, cases, guests, wait};

pub(crate) const CASES: Cases = cases![
    crate::wasi3::a_command_says_and_reads,
    crate::wasi3::a_command_has_its_files,
    crate::wasi3::a_command_ends_in_every_way,
    crate::wasi3::a_function_that_is_called_has_its_tasks_done,
    crate::wasi3::a_command_is_ended_by_signals_and_limits,
    crate::wasi3::a_service_answers,
    crate::wasi3::bodies_and_trailers_pass_both_ways,
    crate::wasi3::an_answer_keeps_its_place_until_it_is_sent,
    crate::wasi3::a_client_that_goes_takes_its_guest_along,
    crate::wasi3::a_service_that_fails_takes_nobody_along,
    crate::wasi3::a_service_reaches_what_it_may,
    crate::wasi3::a_service_speaks_tcp_within_its_rules,
    crate::wasi3::a_service_keeps_its_guest_for_more_requests,
    crate::wasi3::a_service_s_memory_is_limited,
    crate::wasi3::a_service_drains,
    crate::wasi3::imports_that_nobody_provides_are_named,
];

fn command(node: &Namespace) -> Result<Image> {
    image_with(node, &guests::rust("async_command")?)
}

fn a_command_says_and_reads(node: &Namespace) -> Result<()> {
    let image = command(node)?;
    let output = node.run(&image).args(["/app.wasm", "hello"]).expect(0)?;
    ensure!(output.text() == "hello from async wasm\n" && output.errors().is_empty(), "{output}");
    let output = node.run(&image).args(["/app.wasm", "env"]).env("WHO=user").expect(0)?;
    ensure!(output.text().lines().any(|line| line == "WHO=user"), "{output}");
    let output = node.run(&image).args(["/app.wasm", "complain"]).expect(0)?;
    ensure!(output.errors() == "complaint\n" && output.text().is_empty(), "{output}");
    let output = node.run(&image).args(["/app.wasm", "together"]).expect(0)?;
    ensure!(output.text() == "task 0\ntask 1\ntask 2\n", "{output}");
    let text: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    let output = node.run(&image).args(["/app.wasm", "cat"]).stdin(text.as_bytes()).expect(0)?;
    ensure!(output.text() == text, "{} of {} bytes", output.text().len(), text.len());
    Ok(())
}

fn a_command_has_its_files(node: &Namespace) -> Result<()> {
    let image = command(node)?;
    let volume = node.directory("v")?;
    fs::write(volume.join("note"), "a note\n")?;
    let run = |mode: &str, words: [&str; 4]| node.run(&image).bind(&volume, "/data", mode).args(words).expect(0);
    let output = run("rbind:ro", ["/app.wasm", "read", "/data/note", ""])?;
    ensure!(output.text() == "a note\n", "{output}");
    let output = run("rbind:ro", ["/app.wasm", "write", "/data/new", "text"])?;
    ensure!(output.text() == "ErrorCode::ReadOnly\n" && !volume.join("new").exists(), "{output}");
    let output = run("rbind:rw", ["/app.wasm", "write", "/data/new", "text"])?;
    ensure!(output.text() == "written\n" && fs::read_to_string(volume.join("new"))? == "text", "{output}");
    let output = run("rbind:rw", ["/app.wasm", "read", "/data/../../etc/passwd", ""])?;
    ensure!(output.text() == "ErrorCode::NoEntry\n" || output.text() == "ErrorCode::NotPermitted\n", "{output}");
    Ok(())
}

fn a_command_ends_in_every_way(node: &Namespace) -> Result<()> {
    let image = command(node)?;
    node.run(&image).args(["/app.wasm", "exit", "7"]).expect(7)?;
    node.run(&image).args(["/app.wasm", "fail"]).expect(1)?;
    let output = node.run(&image).args(["/app.wasm", "trap"]).expect(134)?;
    ensure!(output.errors().contains("unreachable"), "{output}");
    Ok(())
}

fn a_function_that_is_called_has_its_tasks_done(node: &Namespace) -> Result<()> {
    let image = command(node)?;
    let output = node.run(&image).args(["/app.wasm#wasi:cli/run@0.3.0#run", "together"]).expect(0)?;
    ensure!(output.text() == "task 0\ntask 1\ntask 2\nok\n", "{output}");
    node.run(&image).args(["/app.wasm#run", "fail"]).expect(1)?;
    Ok(())
}

fn a_command_is_ended_by_signals_and_limits(node: &Namespace) -> Result<()> {
    let image = command(node)?;
    for (word, said) in [("sleep", "sleeping\n"), ("spin", "spinning\n")] {
        let task = node.task(&image).args(["/app.wasm", word]).create()?;
        task.start_until(said)?;
        task.kill(15)?;
        let end = task.finish()?;
        ensure!(end.code == 143, "{word}: {end:?}");
        let limit =
            node.run(&image).args(["/app.wasm", word]).annotation("io.containerd.wasm.v1/limits.timeout", "500ms");
        let output = limit.expect(124)?;
        ensure!(output.errors().contains("limits.timeout"), "{word}: {output}");
    }
    let fuel = node.run(&image).args(["/app.wasm", "spin"]).annotation("io.containerd.wasm.v1/limits.fuel", "10000000");
    let output = fuel.expect(134)?;
    ensure!(output.errors().contains("out of fuel"), "{output}");
    Ok(())
}

fn service(node: &Namespace) -> Result<Service> {
    Service::start_listening(Service::draft_of(node, &guests::rust("async_service")?)?)
}

fn a_service_answers(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    let replies = service.curl(&[], &["/", "/", "/headers"])?;
    ensure!(replies[0].status == 200 && replies[0].text == "hello from async wasm\n", "{replies:?}");
    let authority = format!("authority 127.0.0.1:{}\n", service.port);
    ensure!(replies[2].text.contains(&authority) && replies[2].text.contains("user-agent: curl"), "{replies:?}");
    let h2 = service.curl(&["--http2-prior-knowledge"], &["/slow?50"])?;
    ensure!(h2.iter().all(|reply| reply.status == 200 && reply.version == "2" && reply.text == "slept\n"), "{h2:?}");
    let head = service.raw("HEAD /headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    ensure!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "a head alone: {head}");
    let reply = service.get("/after?a_line")?;
    ensure!(reply.text == "answered\n", "{reply:?}");
    let reply = service.get("/none")?;
    ensure!(reply.text == "no such path: /none\n", "{reply:?}");
    let end = service.end(15)?;
    ensure!(end.code == 0 && end.stdout.contains("after the answer: a_line\n"), "{end:?}");
    Ok(())
}

fn bodies_and_trailers_pass_both_ways(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_string().as_bytes()[0]).collect();
    for path in ["/echo", "/pass"] {
        let reply = service.post(path, &body)?;
        ensure!(reply.status == 200 && reply.text.as_bytes() == body, "{path}: {} bytes", reply.text.len());
        let answer = service.raw(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\nTrailer: sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nsum: 294\r\n\r\n",
        ))?;
        ensure!(answer.contains("abc") && answer.contains("sum: 294"), "{path}: {answer}");
    }
    let bad = service.raw("GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n")?;
    ensure!(bad.starts_with("HTTP/1.1 400"), "{bad}");
    let end = service.end(15)?;
    ensure!(end.code == 0 && end.stderr.is_empty(), "a bad request is not the guest's failure: {end:?}");
    Ok(())
}

/// A request whose answer has begun and waits for the rest of the request's body.
fn half_way(service: &Service, path: &str) -> Result<TcpStream> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\nabc");
    let mut stream = service.say(&head)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    ensure!(head == *b"HTTP/1.1 200", "{head:?}");
    Ok(stream)
}

fn one_at_a_time(node: &Namespace) -> Result<Service> {
    let draft = Service::draft_of(node, &guests::rust("async_service")?)?;
    Service::start_listening(draft.annotation("io.containerd.wasm.v1/http.max-concurrency", "1"))
}

fn an_answer_keeps_its_place_until_it_is_sent(node: &Namespace) -> Result<()> {
    let service = one_at_a_time(node)?;
    for path in ["/echo", "/pass"] {
        let mut stream = half_way(&service, path)?;
        let reply = service.get("/")?;
        ensure!(reply.status == 503, "{path}: {reply:?}");
        stream.write_all(b"def")?;
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        wait::until("the place is free", || Ok((service.get("/")?.status == 200).then_some(())))?;
    }
    service.finish(15, 0)
}

fn a_client_that_goes_takes_its_guest_along(node: &Namespace) -> Result<()> {
    let service = one_at_a_time(node)?;
    for path in ["/echo", "/pass"] {
        drop(half_way(&service, path)?);
        wait::until("the place is free", || Ok((service.get("/")?.status == 200).then_some(())))?;
    }
    let gone = service.curl(&["--max-time", "0.3"], &["/spin"]);
    ensure!(gone.is_err(), "curl gives up: {gone:?}");
    wait::until("the place is free", || Ok((service.get("/")?.status == 200).then_some(())))?;
    service.finish(15, 0)
}

fn a_service_that_fails_takes_nobody_along(node: &Namespace) -> Result<()> {
    let draft = Service::draft_of(node, &guests::rust("async_service")?)?;
    let service = Service::start_listening(draft.annotation("io.containerd.wasm.v1/http.request-timeout", "500ms"))?;
    let spinning: Vec<_> = (0..3).map(|_| service.background("/spin")).collect();
    for (path, status) in [("/trap", 500), ("/error?told", 502), ("/slow?60000", 504), ("/", 200)] {
        let reply = service.get(path)?;
        ensure!(reply.status == status, "{path}: {reply:?}");
    }
    for reply in spinning {
        let reply = reply.join().expect("no panic")?;
        ensure!(reply.status == 504, "{reply:?}");
    }
    ensure!(service.get("/")?.status == 200, "it lives on");
    let said = service.end(15)?.stderr;
    for part in ["GET /trap: wasm trap: ", "unreachable", "told", "raise http.request-timeout"] {
        ensure!(said.contains(part), "{part} is not in: {said}");
    }
    Ok(())
}

fn a_service_reaches_what_it_may(node: &Namespace) -> Result<()> {
    let backend = service(node)?;
    let open = service(node)?;
    let url = format!("/fetch?127.0.0.1:{}/", backend.port);
    let reply = open.get(&url)?;
    ensure!(reply.text == "hello from async wasm\n", "{reply:?}");
    let reply = open.get("/resolve?127.0.0.9")?;
    ensure!(reply.text.contains("(127, 0, 0, 9)"), "{reply:?}");
    let reply = open.get("/resolve?nowhere.invalid")?;
    ensure!(reply.text.contains("ErrorCode::"), "{reply:?}");
    let draft = Service::draft_of(node, &guests::rust("async_service")?)?;
    let closed = Service::start_listening(draft.annotation("io.containerd.wasm.v1/network.allow", "none"))?;
    let reply = closed.get(&url)?;
    ensure!(reply.text.contains("HttpRequestDenied"), "{reply:?}");
    let reply = closed.get("/resolve?localhost")?;
    ensure!(reply.text.contains("AccessDenied"), "{reply:?}");
    let said = closed.end(15)?.stderr;
    ensure!(said.contains("network.allow refuses to look up localhost"), "{said}");
    open.finish(15, 0)?;
    backend.finish(15, 0)
}

fn a_service_speaks_tcp_within_its_rules(node: &Namespace) -> Result<()> {
    let (server, other) = (network::echo()?, network::echo()?);
    let draft = Service::draft_of(node, &guests::rust("async_service")?)?;
    let rule = format!("tcp:127.0.0.0/8:{}", server.port());
    let service = Service::start_listening(draft.annotation(network::ALLOW, &rule))?;
    let reply = service.get(&format!("/tcp?{server}"))?;
    ensure!(reply.text == "pong ping\n", "{reply:?}");
    for _ in 0..2 {
        let reply = service.get(&format!("/tcp?{other}"))?;
        ensure!(reply.text.contains("AccessDenied"), "{reply:?}");
    }
    let said = service.end(15)?.stderr;
    let line = format!("network.allow refuses TcpConnect {other}: add it to the list if the guest needs it\n");
    ensure!(said == line, "{said}");
    Ok(())
}

fn a_service_keeps_its_guest_for_more_requests(node: &Namespace) -> Result<()> {
    let draft = Service::draft_of(node, &guests::rust("async_service")?)?;
    let service = Service::start_listening(draft.annotation("io.containerd.wasm.v1/http.reuse", "3"))?;
    let counts: Vec<_> = (0..6).map(|_| Ok(service.get("/count")?.text)).collect::<Result<_>>()?;
    ensure!(counts == ["1\n", "2\n", "3\n", "1\n", "2\n", "3\n"], "{counts:?}");
    service.finish(15, 0)
}

fn a_service_s_memory_is_limited(node: &Namespace) -> Result<()> {
    let draft = Service::draft_of(node, &guests::rust("async_service")?)?;
    let service = Service::start_listening(draft.annotation("io.containerd.wasm.v1/limits.memory", "16Mi"))?;
    for (path, said) in
        [("/grow?4", "4194304\n"), ("/grow?64", "no memory for 67108864 bytes\n"), ("/grow?4", "4194304\n")]
    {
        let reply = service.get(path)?;
        ensure!(reply.status == 200 && reply.text == said, "{path}: {reply:?}");
    }
    service.finish(15, 0)
}

fn a_service_drains(node: &Namespace) -> Result<()> {
    let service = service(node)?;
    // The head of the answer says that the request is there.
    let mut stream = half_way(&service, "/echo")?;
    service.kill(15)?;
    stream.write_all(b"def")?;
    let mut rest = String::new();
    stream.read_to_string(&mut rest)?;
    let body: String = rest.lines().filter(|line| ["abc", "def", "abcdef"].contains(line)).collect();
    ensure!(body == "abcdef", "{rest}");
    service.ended(0)
}

fn imports_that_nobody_provides_are_named(node: &Namespace) -> Result<()> {
    let text = r#"(component
        (import "foo:bar/baz@1.0.0" (instance (export "go" (func async))))
        (component $empty)
        (instance $run (instantiate $empty))
        (export "wasi:cli/run@0.3.0" (instance $run)))"#;
    let image = image_with(node, &guests::wat(text)?)?;
    node.run(&image).refused(&[
        "imports foo:bar/baz@1.0.0, which this runtime does not provide",
        "wasi:sockets 0.2 and 0.3, wasi:io 0.2)",
    ])
}
