//! What a guest may reach: sockets, names and requests, over the container's network and within `network.allow`.

use crate::Cases;
use crate::web::{Network, Service, free_port};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use testkit::task::Draft;
use testkit::{Namespace, cases, names, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::network::a_guest_asks_another_server,
    crate::network::a_connection_is_kept_for_the_next_request,
    crate::network::names_come_from_the_container_s_files,
    crate::network::a_name_server_is_asked,
    crate::network::sockets_connect,
    crate::network::what_is_not_allowed_is_refused_and_told,
    crate::network::requests_go_where_a_rule_for_them_says,
    crate::network::a_rule_with_a_name_holds_for_its_addresses,
    crate::network::an_encrypted_server_is_trusted_by_the_image_s_certificates,
    crate::network::a_service_in_a_network_namespace,
    crate::network::a_service_without_ipv6,
    crate::network::a_low_port_with_the_capability_for_it,
];

pub(crate) const ALLOW: &str = "io.containerd.wasm.v1/network.allow";

/// A server that answers each line with `pong` and the line.
pub(crate) fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut bytes = [0; 64];
            if let Ok(count) = stream.read(&mut bytes) {
                let _ = stream.write_all(&[b"pong ", &bytes[..count]].concat());
            }
        }
    });
    Ok(address)
}

/// What a [`WebServer`] answers.
pub(crate) const WEB: &str = "hello from the web\n";

/// A server of http that keeps its connections.
pub(crate) struct WebServer {
    pub(crate) address: SocketAddr,
    /// Those it took.
    connections: Arc<AtomicUsize>,
}

impl WebServer {
    pub(crate) fn start() -> Result<WebServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, connections) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || answer_all(stream));
            }
        });
        Ok(WebServer { address, connections })
    }
}

fn answer_all(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        // The end of the head, and of a request without a body.
        if line == "\r\n" {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{WEB}", WEB.len());
            stream.get_mut().write_all(answer.as_bytes())?;
        }
        line.clear();
    }
    Ok(())
}

/// With this content at this path of the container.
pub(crate) fn with_file<'a>(node: &Namespace, draft: Draft<'a>, path: &str, text: &str) -> Result<Draft<'a>> {
    let source = node.directory("network")?.join(path.replace('/', "-"));
    fs::write(&source, text)?;
    Ok(draft.bind(&source, path, &["bind", "ro"]))
}

fn a_guest_asks_another_server(node: &Namespace) -> Result<()> {
    let backend = Service::start(node, |draft| draft)?;
    let service = Service::start(node, |draft| draft)?;
    let ask = |path: &str| service.get(&format!("/fetch?url=http://127.0.0.1:{}{path}", backend.port));
    for _ in 0..3 {
        let reply = ask("/")?;
        ensure!((reply.status, reply.text.as_str()) == (200, "hello from wasm\n"), "{reply:?}");
    }
    ensure!(ask("/trap")?.status == 500, "the other's status is passed on");
    let nobody = service.get(&format!("/fetch?url=http://127.0.0.1:{}/", free_port()?))?;
    ensure!(nobody.status == 502 && nobody.text.contains("ConnectionRefused"), "{nobody:?}");
    backend.finish(15, 0)?;
    service.finish(15, 0)
}

/// Each request has an instance of its own; their connections are the container's.
fn a_connection_is_kept_for_the_next_request(node: &Namespace) -> Result<()> {
    let server = WebServer::start()?;
    let service = Service::start(node, |draft| draft)?;
    for _ in 0..3 {
        let reply = service.get(&format!("/fetch?url=http://{}/", server.address))?;
        ensure!((reply.status, reply.text.as_str()) == (200, WEB), "{reply:?}");
    }
    let connections = server.connections.load(Ordering::Relaxed);
    ensure!(connections == 1, "{connections} connections for three requests");
    service.finish(15, 0)
}

fn names_come_from_the_container_s_files(node: &Namespace) -> Result<()> {
    let backend = Service::start(node, |draft| draft)?;
    let hosts = "127.0.0.1 backend.test\n::1 six.test\n";
    let service = Service::try_start(node, |draft| with_file(node, draft, "/etc/hosts", hosts))?;
    let reply = service.get("/resolve?name=backend.test")?;
    ensure!(reply.text == "127.0.0.1\n", "{reply:?}");
    let reply = service.get(&format!("/fetch?url=http://backend.test:{}/", backend.port))?;
    ensure!(reply.text == "hello from wasm\n", "{reply:?}");
    let reply = service.get("/resolve?name=nowhere.test")?;
    ensure!(reply.status == 502, "{reply:?}");
    backend.finish(15, 0)?;
    service.finish(15, 0)
}

fn a_name_server_is_asked(node: &Namespace) -> Result<()> {
    // One address of loopback for each version of containerd, whose cases may run side by side.
    let address = if node.name().contains("1.7") { "127.0.17.53" } else { "127.0.24.53" };
    names::serve(&format!("{address}:53"))?;
    let backend = Service::start(node, |draft| draft)?;
    let conf = format!("nameserver {address}\nsearch test\noptions ndots:1\n");
    let service = Service::try_start(node, |draft| with_file(node, draft, "/etc/resolv.conf", &conf))?;
    for name in ["service.test", "service"] {
        let reply = service.get(&format!("/resolve?name={name}"))?;
        ensure!(reply.text == "127.0.0.1\n", "{name}: {reply:?}");
    }
    let reply = service.get("/resolve?name=other.test")?;
    ensure!(reply.status == 502 && reply.text.contains("name-unresolvable"), "{reply:?}");
    let reply = service.get(&format!("/fetch?url=http://service.test:{}/", backend.port))?;
    ensure!(reply.text == "hello from wasm\n", "{reply:?}");
    let reply = service.get(&format!("/fetch?url=http://other.test:{}/", backend.port))?;
    ensure!(reply.status == 502 && reply.text.contains("DestinationNotFound"), "{reply:?}");
    backend.finish(15, 0)?;
    service.finish(15, 0)
}

fn sockets_connect(node: &Namespace) -> Result<()> {
    let server = echo()?;
    let service = Service::start(node, |draft| draft)?;
    let reply = service.get(&format!("/tcp?host=127.0.0.1&port={}", server.port()))?;
    ensure!(reply.text == "pong ping\n", "{reply:?}");
    let reply = service.get(&format!("/tcp?host=127.0.0.1&port={}", free_port()?))?;
    ensure!(reply.status == 502 && reply.text.contains("connection-refused"), "{reply:?}");
    service.finish(15, 0)
}

fn what_is_not_allowed_is_refused_and_told(node: &Namespace) -> Result<()> {
    let server = echo()?;
    let url = format!("/fetch?url=http://{server}/");
    let tcp = format!("/tcp?host=127.0.0.1&port={}", server.port());
    let nothing = Service::start(node, |draft| draft.annotation(ALLOW, "none"))?;
    for _ in 0..2 {
        let reply = nothing.get(&tcp)?;
        ensure!(reply.status == 502 && reply.text.contains("access-denied"), "{reply:?}");
        let reply = nothing.get(&url)?;
        ensure!(reply.status == 502 && reply.text.contains("HttpRequestDenied"), "{reply:?}");
        let reply = nothing.get("/resolve?name=localhost")?;
        ensure!(reply.status == 502 && reply.text.contains("access-denied"), "{reply:?}");
    }
    let said = nothing.end(15)?.stderr;
    for what in [format!("TcpConnect {server}"), format!("http {server}"), "to look up localhost".to_owned()] {
        let line = format!("network.allow refuses {what}: add it to the list if the guest needs it\n");
        ensure!(said.matches(&line).count() == 1, "{line}: {said}");
    }
    let rule = format!("tcp:127.0.0.0/8:{}, http:other.test", server.port());
    let some = Service::start(node, |draft| draft.annotation(ALLOW, &rule))?;
    ensure!(some.get(&tcp)?.text == "pong ping\n", "the rule holds");
    let other = free_port()?;
    let reply = some.get(&format!("/tcp?host=127.0.0.1&port={other}"))?;
    ensure!(reply.text.contains("access-denied"), "{reply:?}");
    some.finish(15, 0)?;
    let draft = Service::draft(node)?.annotation(ALLOW, "tcp:example");
    draft.refused(&["bad value \"tcp:example\" of network.allow: expected none, or a list of tcp:HOST:PORT"])
}

fn requests_go_where_a_rule_for_them_says(node: &Namespace) -> Result<()> {
    let (server, other) = (WebServer::start()?.address, WebServer::start()?.address);
    let service = Service::try_start(node, |draft| {
        let draft = with_file(node, draft, "/etc/hosts", "127.0.0.1 web.test\n127.0.0.1 other.test\n")?;
        Ok(draft.annotation(ALLOW, &format!("http:{server}, http:web.test")))
    })?;
    let ask = |host: &str| service.get(&format!("/fetch?url=http://{host}/"));
    // One port of an address, each of a name.
    for host in [server.to_string(), format!("web.test:{}", server.port()), format!("web.test:{}", other.port())] {
        let reply = ask(&host)?;
        ensure!((reply.status, reply.text.as_str()) == (200, WEB), "{host}: {reply:?}");
    }
    let mut lines = String::new();
    for host in [other.to_string(), format!("other.test:{}", server.port())] {
        for _ in 0..2 {
            let reply = ask(&host)?;
            ensure!(reply.status == 502 && reply.text.contains("HttpRequestDenied"), "{host}: {reply:?}");
        }
        lines += &format!("network.allow refuses http {host}: add it to the list if the guest needs it\n");
    }
    let said = service.end(15)?.stderr;
    ensure!(said == lines, "wanted {lines:?}: {said:?}");
    Ok(())
}

fn a_rule_with_a_name_holds_for_its_addresses(node: &Namespace) -> Result<()> {
    let server = echo()?;
    let hosts = node.directory("hosts")?.join("hosts");
    fs::write(&hosts, "127.0.0.1 backend.test\n127.0.0.1 other.test\n")?;
    let service = Service::try_start(node, |draft| {
        // As Kubernetes mounts it: the guest may write it.
        let draft = draft.bind(&hosts, "/etc/hosts", &["bind", "rw"]);
        Ok(draft.annotation(ALLOW, &format!("tcp:backend.test:{}", server.port())))
    })?;
    let by_address = format!("/tcp?host=127.0.0.1&port={}", server.port());
    ensure!(service.get(&by_address)?.text.contains("access-denied"), "nobody has asked for the name yet");
    let reply = service.get(&format!("/tcp?host=backend.test&port={}", server.port()))?;
    ensure!(reply.text == "pong ping\n", "{reply:?}");
    ensure!(service.get(&by_address)?.text == "pong ping\n", "now the address is the name's");
    // The files are those from before the guest ran.
    let written = service.get("/write?path=/etc/hosts&text=127.0.0.2%20backend.test")?;
    ensure!(written.status == 200, "{written:?}");
    ensure!(service.get("/resolve?name=backend.test")?.text == "127.0.0.1\n", "a guest does not choose who a name is");
    let reply = service.get(&format!("/tcp?host=other.test&port={}", server.port()))?;
    ensure!(reply.text.contains("access-denied"), "{reply:?}");
    service.finish(15, 0)
}

fn an_encrypted_server_is_trusted_by_the_image_s_certificates(node: &Namespace) -> Result<()> {
    let dir = node.directory("tls")?;
    let (key, certificate, config) = (dir.join("key.pem"), dir.join("cert.pem"), dir.join("config"));
    // The usual one makes an authority of each certificate, which is no server's.
    fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n")?;
    let subject = ["-subj", "/CN=secure.test", "-addext", "subjectAltName=DNS:secure.test", "-days", "2", "-nodes"];
    let mut request = Command::new("openssl");
    request
        .args(["req", "-x509", "-newkey", "rsa:2048", "-config"])
        .arg(&config)
        .args(subject)
        .arg("-keyout")
        .arg(&key)
        .arg("-out");
    let made = request.arg(&certificate).stderr(Stdio::null()).status().context("run openssl")?;
    ensure!(made.success(), "openssl made no certificate");
    let port = free_port()?;
    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}")]);
    server.arg("-key").arg(&key).arg("-cert").arg(&certificate).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = server.stdin(Stdio::piped()).spawn().context("start openssl s_server")?;
    let url = format!("/fetch?url=https://secure.test:{port}/");
    let asked = (|| {
        let hosts = |draft| with_file(node, draft, "/etc/hosts", "127.0.0.1 secure.test\n");
        let trusting = Service::try_start(node, |draft| {
            Ok(hosts(draft)?.bind(&certificate, "/etc/ssl/certs/ca-certificates.crt", &["bind", "ro"]))
        })?;
        wait::until("the server answers", || Ok((trusting.get(&url)?.status == 200).then_some(())))?;
        trusting.finish(15, 0)?;
        let strange = Service::try_start(node, hosts)?;
        let reply = strange.get(&url)?;
        ensure!(reply.status == 502 && reply.text.contains("TlsCertificateError"), "{reply:?}");
        strange.finish(15, 0)
    })();
    server.kill()?;
    server.wait()?;
    asked
}

fn a_service_in_a_network_namespace(node: &Namespace) -> Result<()> {
    let network = Network::new("true")?;
    let task = Service::draft(node)?.spec(|spec| spec["linux"]["namespaces"] = network.namespaces()).create()?;
    task.start()?;
    // The default: both versions of IP.
    for address in ["http://127.0.0.1:8080/", "http://[::1]:8080/"] {
        let answered = || Ok((network.curl(address)? == "hello from wasm\n").then_some(()));
        wait::until("it answers inside", answered)?;
    }
    // At this port, another may.
    let answer = Command::new("curl").args(["--silent", "--max-time", "5", "http://127.0.0.1:8080/"]).output()?;
    ensure!(!answer.stdout.ends_with(b"hello from wasm\n"), "it answers on the node");
    task.kill(15)?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stderr.is_empty(), "{end:?}");
    Ok(())
}

/// Where a setting alone takes IPv6 away, `[::]` still takes clients of IPv4; a kernel without it refuses the socket,
/// which the profile stands in for.
fn a_service_without_ipv6(node: &Namespace) -> Result<()> {
    let network = Network::new("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")?;
    let inet6 = json!({ "index": 0, "value": libc::AF_INET6, "op": "SCMP_CMP_EQ" });
    let refused =
        json!({ "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EAFNOSUPPORT, "args": [inet6] });
    let absent = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused] });
    let note = "IPv6 is off here: listening on 0.0.0.0:8080\n";
    for (profile, said) in [(None, ""), (Some(absent), note)] {
        let task = Service::draft(node)?.spec(|spec| {
            spec["linux"]["namespaces"] = network.namespaces();
            if let Some(profile) = profile {
                spec["linux"]["seccomp"] = profile;
            }
        });
        let task = task.create()?;
        task.start()?;
        let answered = || Ok((network.curl("http://127.0.0.1:8080/")? == "hello from wasm\n").then_some(()));
        wait::until("it answers inside", answered)?;
        task.kill(15)?;
        let end = task.finish()?;
        ensure!(end.code == 0 && end.stderr == said, "{end:?}");
    }
    Ok(())
}

fn a_low_port_with_the_capability_for_it(node: &Namespace) -> Result<()> {
    // Of those that nobody here serves.
    let port = (600..700).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).context("a free low port")?;
    let listen = format!("127.0.0.1:{port}");
    let task = Service::draft(node)?.annotation("io.containerd.wasm.v1/http.listen", &listen).create()?;
    task.start()?;
    wait::until("it answers", || Ok(TcpStream::connect(&listen).is_ok().then_some(())))?;
    let kept = process::status(task.pid)?["CapEff"].clone();
    ensure!(u64::from_str_radix(&kept, 16)? == 1 << 10, "it keeps that one alone: {kept}");
    task.kill(15)?;
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    let without = Service::draft(node)?.annotation("io.containerd.wasm.v1/http.listen", &listen);
    let without = without.spec(|spec| spec["process"]["capabilities"] = json!({}));
    without.refused(&["cannot listen on", "NET_BIND_SERVICE"])
}
