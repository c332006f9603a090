//! `linux.sysctl` and `domainname`: parameters of the kernel that belong to a namespace of the container.
//! It must not know `/proc`.

use crate::bundle::Bundle;
use plan::{Namespace, NamespaceKind};
use std::collections::BTreeMap;

/// Parameters of the kernel that each IPC namespace has for itself (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];
const DOMAINNAME: &str = "kernel/domainname";

/// Why a parameter is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing below `/proc/sys`.
    #[error(
        "linux.sysctl names {0:?}, which is no parameter of the kernel: use a form such as net.ipv4.tcp_syncookies"
    )]
    Name(String),
    /// It would change the node.
    #[error("sysctl {0} is the node's, not the container's: set it on the node")]
    OfTheNode(String),
    /// It is the namespace's, and the container has the node's.
    #[error("sysctl {name} needs a {kind:?} namespace, and linux.namespaces has none: add one")]
    NoNamespace {
        /// The parameter.
        name: String,
        /// Where it belongs.
        kind: NamespaceKind,
    },
    /// It has a field of its own.
    #[error("sysctl kernel.hostname: set hostname in the spec instead")]
    Hostname,
    /// Set in two places.
    #[error("domainname is {0}, and linux.sysctl has another kernel.domainname: set it once")]
    Twice(String),
}

/// Lowers the parameters: path below `/proc/sys`, and value.
pub(super) fn lower(bundle: &Bundle, namespaces: &[Namespace]) -> Result<BTreeMap<String, String>, Error> {
    let mut lowered = BTreeMap::new();
    for (name, value) in bundle.linux.sysctl().iter().flatten() {
        let path = path(name)?;
        let kind = owner(name, &path)?;
        if !namespaces.iter().any(|namespace| namespace.kind == kind) {
            return Err(Error::NoNamespace { name: name.clone(), kind });
        }
        lowered.insert(path, value.clone());
    }
    if let Some(domain) = bundle.spec.domainname().as_ref().filter(|domain| !domain.is_empty()) {
        if !namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Uts) {
            return Err(Error::NoNamespace { name: "kernel.domainname".to_owned(), kind: NamespaceKind::Uts });
        }
        let set = lowered.insert(DOMAINNAME.to_owned(), domain.clone());
        if set.is_some_and(|set| set != *domain) {
            return Err(Error::Twice(domain.clone()));
        }
    }
    Ok(lowered)
}

/// As sysctl(8) has it: the separator that comes first is the separator, so that an interface may have dots in its name.
fn path(name: &str) -> Result<String, Error> {
    let path = match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        Some(_) => name.to_owned(),
        None => return Err(Error::Name(name.to_owned())),
    };
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !path.contains('\0');
    if plain { Ok(path) } else { Err(Error::Name(name.to_owned())) }
}

fn owner(name: &str, path: &str) -> Result<NamespaceKind, Error> {
    match path {
        "kernel/hostname" => Err(Error::Hostname),
        DOMAINNAME => Ok(NamespaceKind::Uts),
        path if IPC.contains(&path) || path.starts_with("fs/mqueue/") => Ok(NamespaceKind::Ipc),
        path if path.starts_with("net/") => Ok(NamespaceKind::Network),
        _ => Err(Error::OfTheNode(name.to_owned())),
    }
}
