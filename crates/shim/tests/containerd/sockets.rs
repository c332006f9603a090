//! What a command reaches by sockets of its own, and who reaches it: the same network and rules as in `network`, which
//! has the services.

use crate::Cases;
use crate::cache::own_cache;
use crate::network::{ALLOW, WEB, WebServer, echo, with_file};
use crate::output::image_with;
use crate::web::free_port;
use anyhow::{Result, ensure};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use testkit::task::{Draft, Finished};
use testkit::{Image, Namespace, cases, guests, wait};

pub(crate) const CASES: Cases = cases![
    crate::sockets::a_command_reaches_out,
    crate::sockets::a_command_listens,
    crate::sockets::a_command_is_held_to_the_rules,
    crate::sockets::a_command_sends_requests_within_the_rules,
    crate::sockets::an_operator_s_rules_hold_for_annotations,
];

fn image(node: &Namespace) -> Result<Image> {
    image_with(node, &guests::rust("cli_sockets")?)
}

/// The command on the node's network.
fn draft<'a>(node: &'a Namespace, image: &Image, words: &[&str]) -> Draft<'a> {
    let shared = json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }]);
    let draft = node.task(image).spec(|spec| spec["linux"]["namespaces"] = shared);
    draft.args(["/app.wasm"].iter().chain(words))
}

fn finish(draft: Draft<'_>) -> Result<Finished> {
    let task = draft.create()?;
    task.start()?;
    task.finish()
}

fn check(draft: Draft<'_>, wanted: &str) -> Result<()> {
    let end = finish(draft)?;
    ensure!(end.code == 0 && end.stdout == wanted && end.stderr.is_empty(), "wanted {wanted:?}: {end:?}");
    Ok(())
}

/// It fails, and the log says that the rules refuse this.
fn check_refused(draft: Draft<'_>, what: &str) -> Result<()> {
    let end = finish(draft)?;
    let line = format!("network.allow refuses {what}: add it to the list if the guest needs it\n");
    ensure!(end.code == 1 && end.stdout.is_empty() && end.stderr.contains(&line), "wanted {line:?}: {end:?}");
    Ok(())
}

/// As [`echo`], with datagrams.
fn datagram_echo() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((count, client)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&[b"pong ", &bytes[..count]].concat(), client);
        }
    });
    Ok(address)
}

fn a_command_reaches_out(node: &Namespace) -> Result<()> {
    let (image, server, datagrams) = (image(node)?, echo()?, datagram_echo()?);
    let hosts = "127.0.0.1 backend.test\n";
    let run = |words: &[&str]| with_file(node, draft(node, &image, words), "/etc/hosts", hosts);
    check(run(&["tcp", &server.to_string()])?, "pong ping\n")?;
    check(run(&["udp", &datagrams.to_string()])?, "pong ping\n")?;
    check(run(&["resolve", "backend.test"])?, "127.0.0.1\n")?;
    check(run(&["tcp", &format!("backend.test:{}", server.port())])?, "pong ping\n")?;
    let end = finish(run(&["resolve", "nowhere.test"])?)?;
    ensure!(end.code == 1 && end.stdout.is_empty(), "{end:?}");
    let end = finish(run(&["tcp", &format!("127.0.0.1:{}", free_port()?)])?)?;
    ensure!(end.code == 1 && end.stderr.starts_with("ConnectionRefused"), "{end:?}");
    Ok(())
}

fn a_command_listens(node: &Namespace) -> Result<()> {
    let image = image(node)?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let task = draft(node, &image, &["listen", &address]).create()?;
    task.start_until("listening\n")?;
    let mut stream = TcpStream::connect(&address)?;
    stream.write_all(b"hello\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let end = task.finish()?;
    ensure!(answer == "pong\n" && end.code == 0 && end.stdout == "listening\nhello\n", "{answer:?} {end:?}");
    let task = draft(node, &image, &["receive", &address]).create()?;
    task.start_until("receiving\n")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(wait::patience()))?;
    socket.send_to(b"hello\n", &address)?;
    let mut answer = [0; 5];
    let (count, from) = socket.recv_from(&mut answer)?;
    let end = task.finish()?;
    ensure!(answer[..count] == *b"pong\n" && from.to_string() == address, "{answer:?} of {from}");
    ensure!(end.code == 0 && end.stdout == "receiving\nhello\n", "{end:?}");
    Ok(())
}

fn a_command_is_held_to_the_rules(node: &Namespace) -> Result<()> {
    let (image, server, datagrams) = (image(node)?, echo()?, datagram_echo()?);
    let tcp = ["tcp", &server.to_string()];
    let udp = ["udp", &datagrams.to_string()];
    let run = |words: &[&str], rules: &str| draft(node, &image, words).annotation(ALLOW, rules);
    let both = format!("udp:127.0.0.0/8:{},tcp:127.0.0.1:{}", datagrams.port(), server.port());
    check(run(&tcp, &both), "pong ping\n")?;
    check(run(&udp, &both), "pong ping\n")?;
    // The other protocol, another port, nothing at all.
    let (over_tcp, over_udp) = (format!("TcpConnect {server}"), format!("UdpSend {datagrams}"));
    check_refused(run(&tcp, "udp:*:*"), &over_tcp)?;
    check_refused(run(&tcp, "tcp:127.0.0.1:1"), &over_tcp)?;
    check_refused(run(&udp, "tcp:*:*"), &over_udp)?;
    check_refused(run(&udp, "udp:127.0.0.1:1"), &over_udp)?;
    check_refused(run(&udp, "none"), &over_udp)?;
    check_refused(run(&["resolve", "localhost"], &both), "to look up localhost")?;
    // Who may reach everything is reached by nobody.
    let address = format!("127.0.0.1:{}", free_port()?);
    check_refused(run(&["listen", &address], "tcp:*:*,udp:*:*"), &format!("TcpBind {address}"))?;
    check_refused(run(&["receive", &address], "tcp:*:*,udp:*:*"), &format!("UdpBind {address}"))
}

fn a_command_sends_requests_within_the_rules(node: &Namespace) -> Result<()> {
    let image = image_with(node, &guests::rust("async_command")?)?;
    let server = WebServer::start()?.address;
    let run = || draft(node, &image, &["fetch", &format!("{server}/")]);
    check(run(), WEB)?;
    check(run().annotation(ALLOW, &format!("http:{server}")), WEB)?;
    let refused = format!("http {server}");
    check_refused(run().annotation(ALLOW, "http:127.0.0.1:1"), &refused)?;
    check_refused(run().annotation(ALLOW, "none"), &refused)
}

fn an_operator_s_rules_hold_for_annotations(node: &Namespace) -> Result<()> {
    let (image, server, other) = (image(node)?, echo()?, echo()?);
    let maximum = format!("tcp:127.0.0.0/8:{}", server.port());
    let (file, _) = own_cache(node, &format!("[maxima]\n\"network.allow\" = \"{maximum}\"\n"))?;
    let run = |address: &SocketAddr| draft(node, &image, &["tcp", &address.to_string()]).operator_file(&file);
    // Where nobody asks, the maximum holds.
    check(run(&server), "pong ping\n")?;
    check_refused(run(&other), &format!("TcpConnect {other}"))?;
    check(run(&server).annotation(ALLOW, &format!("tcp:{server}")), "pong ping\n")?;
    check_refused(run(&server).annotation(ALLOW, "none"), &format!("TcpConnect {server}"))?;
    let rules = format!("tcp:{server},tcp:{other}");
    let told = format!("rule tcp:{other} of network.allow is not within the maximum {maximum}");
    run(&server).annotation(ALLOW, &rules).refused(&["annotation io.containerd.wasm.v1/network.allow", &told])
}
