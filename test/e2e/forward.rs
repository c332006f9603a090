//! A port of a pod on this machine, as `kubectl port-forward` makes it.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use testkit::cluster::APPS;

/// `kubectl port-forward`, ended with this.
pub(crate) struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    pub(crate) fn start(pod: &str, port: u16) -> Result<Forward> {
        let local = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("kubectl");
        command.args(["port-forward", "-n", APPS, &format!("pod/{pod}"), &format!("{local}:{port}")]);
        let child = command.stdout(Stdio::null()).spawn()?;
        Ok(Forward { child, port: local })
    }

    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
