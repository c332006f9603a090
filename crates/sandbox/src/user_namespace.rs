//! User namespaces: made with a mapping of ids, or opened by path; entered by the container process, and lent to its
//! mounts, so that the owners of their files are mapped the same way. One that is made owns the namespaces made with it:
//! rights over a network are those of its owner's users.

use crate::namespaces;
use crate::process::{self, Birth, Descriptors};
use nix::sched::{CloneFlags, setns};
use plan::{IdMappings, IdRange, Isolation, NamespaceKind, RunPlan};
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The path is gone or is no namespace of users.
    #[error("open user namespace {path}")]
    Open {
        /// The path in the OCI spec.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel lets nobody enter it twice.
    #[error("user namespace {0} is the node's own: leave the path out, or the namespace")]
    OfTheNode(PathBuf),
    /// The kernel refused it, or its mapping.
    #[error("make a user namespace: the kernel may allow none (user.max_user_namespaces), or not these ids")]
    Make(#[source] io::Error),
    /// Entering what it owns.
    #[error("enter the namespaces of the container's users")]
    EnterOwned(#[source] io::Error),
    /// Entering it.
    #[error("enter the container's user namespace")]
    Enter(#[source] io::Error),
}

/// The user namespaces that a plan needs: first the container's, if it has one, then one for each mapped mount.
#[derive(Debug, Default)]
pub(crate) struct UserNamespaces {
    container: Option<OwnedFd>,
    /// Those that the container's owns, in the order of [`owned_kinds`].
    owned: Vec<OwnedFd>,
    mounts: Vec<OwnedFd>,
}

/// Which namespaces a user namespace owns that is made for the container.
pub(crate) fn owned_kinds(isolation: &Isolation) -> Vec<NamespaceKind> {
    let is_made = isolation.user_namespace.as_ref().is_some_and(|namespace| namespace.path.is_none());
    let made = isolation.namespaces.iter().filter(|namespace| is_made && namespace.path.is_none());
    // The others die with their first process, or are made in the container process.
    let lasting = [NamespaceKind::Ipc, NamespaceKind::Network, NamespaceKind::Uts];
    made.map(|namespace| namespace.kind).filter(|kind| lasting.contains(kind)).collect()
}

impl UserNamespaces {
    /// Makes and opens them. See [`process::fork`] for what the caller must hold to.
    pub(crate) fn of(plan: &RunPlan) -> Result<UserNamespaces, UserNamespaceError> {
        let container = plan.isolation.user_namespace.as_ref().map(|namespace| match &namespace.path {
            None => make_owner(&namespace.ids, &owned_kinds(&plan.isolation)),
            Some(path) => Ok((open(path)?, Vec::new())),
        });
        let (container, owned) = container.transpose()?.unzip();
        let mounts = plan.mounts.iter().filter_map(|mount| mount.ids.as_ref()).map(make);
        Ok(UserNamespaces { container, owned: owned.unwrap_or_default(), mounts: mounts.collect::<Result<_, _>>()? })
    }

    /// In the order in which [`UserNamespaces::from_inherited`] takes them.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.container.iter().chain(&self.owned).chain(&self.mounts).map(AsFd::as_fd)
    }

    /// The same in a child that inherited the descriptors.
    pub(crate) fn from_inherited(plan: &RunPlan, mut descriptors: Vec<OwnedFd>) -> UserNamespaces {
        let mut after = |count: usize| descriptors.split_off(count.min(descriptors.len()));
        let first = usize::from(plan.isolation.user_namespace.is_some());
        let mounts = after(first + owned_kinds(&plan.isolation).len());
        let owned = after(first);
        UserNamespaces { container: descriptors.pop(), owned, mounts }
    }

    /// For the mapped mounts of the plan, in their order.
    pub(crate) fn of_mounts(&self) -> &[OwnedFd] {
        &self.mounts
    }

    /// Enters those that the container's owns, while this process has all rights over them.
    pub(crate) fn enter_owned(&self, isolation: &Isolation) -> Result<(), UserNamespaceError> {
        let mut owned = self.owned.iter().zip(owned_kinds(isolation));
        owned
            .try_for_each(|(namespace, kind)| setns(namespace, namespaces::flag(kind)))
            .map_err(|errno| UserNamespaceError::EnterOwned(errno.into()))
    }

    /// Enters the container's. From then on this process has all rights inside of it, and none outside.
    pub(crate) fn enter(&self) -> Result<(), UserNamespaceError> {
        let Some(container) = &self.container else { return Ok(()) };
        setns(container, CloneFlags::CLONE_NEWUSER).map_err(|errno| UserNamespaceError::Enter(errno.into()))
    }
}

fn open(path: &Path) -> Result<OwnedFd, UserNamespaceError> {
    let failed = |source| UserNamespaceError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let own = fs::metadata("/proc/self/ns/user").map_err(failed)?;
    match file.metadata().map_err(failed)?.ino() == own.ino() {
        true => Err(UserNamespaceError::OfTheNode(path.to_owned())),
        false => Ok(file.into()),
    }
}

/// Makes a namespace with this mapping; it lives as long as the descriptor.
pub(crate) fn make(ids: &IdMappings) -> Result<OwnedFd, UserNamespaceError> {
    make_owner(ids, &[]).map(|(namespace, _)| namespace)
}

/// As [`make`], with namespaces of these kinds that belong to it.
fn make_owner(ids: &IdMappings, kinds: &[NamespaceKind]) -> Result<(OwnedFd, Vec<OwnedFd>), UserNamespaceError> {
    let made = || -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let descriptors = Descriptors { stdio: [null.as_fd(); 3], rest: Vec::new() };
        // Only a process makes a namespace, and only another may map all ids of it (user_namespaces(7)). What is made
        // with it belongs to it.
        let flags = kinds.iter().fold(CloneFlags::CLONE_NEWUSER, |flags, kind| flags | namespaces::flag(*kind));
        let birth = Birth { namespaces: flags.bits(), ..Birth::default() };
        let holder = process::fork(birth, &descriptors, |mut channel, _| {
            channel.wait_for_go();
        })?;
        let proc = PathBuf::from(format!("/proc/{}", holder.pid()));
        let opened = |name: &str| File::open(proc.join("ns").join(name)).map(OwnedFd::from);
        let namespaces = fs::write(proc.join("uid_map"), lines(&ids.uids))
            .and_then(|()| fs::write(proc.join("gid_map"), lines(&ids.gids)))
            .and_then(|()| opened("user"))
            .and_then(|user| {
                Ok((user, kinds.iter().map(|kind| opened(namespaces::name(*kind))).collect::<Result<_, _>>()?))
            });
        holder.end()?;
        namespaces
    };
    made().map_err(UserNamespaceError::Make)
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut lines, range| {
        let _ = writeln!(lines, "{} {} {}", range.inside, range.outside, range.length);
        lines
    })
}
