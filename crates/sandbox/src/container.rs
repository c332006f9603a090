//! The container process, from fork to the moment the guest may run.
//! The order of the steps is the sandbox's security argument: see [`Inside::confine`].

use crate::apparmor::{self, AppArmorError};
use crate::cgroup::{Cgroup, CgroupError, MemoryLimit};
use crate::channel::ChildEnd;
use crate::identity::{self, IdentityError};
use crate::mounts::{self, MountError};
use crate::namespaces::{self, NamespaceError, Opened};
use crate::process::{self, Birth, Descriptors, Spawned};
use crate::seccomp::{self, SeccompError};
use crate::user_namespace::{UserNamespaceError, UserNamespaces};
use crate::{signals, syscall};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::unistd::{sethostname, setsid};
use plan::{ExitStatus, Failure, Isolation, Report, RunPlan};
use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What a container process is made from.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// What it is to run.
    pub plan: &'a RunPlan,
    /// Where its root filesystem is mounted.
    pub rootfs: &'a Path,
    /// Its cgroup, already made.
    pub cgroup: &'a Cgroup,
    /// Its standard input, output and error.
    pub stdio: &'a [OwnedFd; 3],
    /// The compiled guest, read-only, if there is one.
    pub artifact: Option<&'a File>,
    /// Whose namespaces and files it gets.
    pub place: Place,
}

/// Where a container process is to live, as it knows it.
#[derive(Debug)]
enum Home {
    Own,
    Of(Result<Opened, NamespaceError>),
}

/// Where a container process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the namespaces of its plan, and in a root that it puts together.
    Own,
    /// Where this process of the container lives, which was there first.
    Of(u32),
}

/// Why there is no container process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The kernel refused the fork.
    #[error("fork the container process")]
    Fork(#[source] io::Error),
    /// Its cgroup cannot be opened.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its process id namespace cannot be joined.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Its user namespace, or that of a mount.
    #[error(transparent)]
    User(#[from] UserNamespaceError),
}

/// Why the container process could not be confined.
#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    User(#[from] UserNamespaceError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("{step}")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The line for the log if the kernel did not give the container process the score of its spec: lowering one takes
/// CAP_SYS_RESOURCE, which a node in a container lacks. The container runs all the same.
pub fn refused_score(isolation: &Isolation, pid: u32) -> Option<String> {
    let wanted = isolation.oom_score_adj?;
    let has: i32 = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()?;
    (has != wanted).then(|| format!("oom score adjustment {wanted} was refused by the kernel: it is {has}"))
}

/// What the plan asks for and this node's kernel does not have, one line each.
pub fn missing(isolation: &Isolation) -> Vec<String> {
    let profile = isolation.apparmor.iter().filter(|_| !apparmor::is_enabled());
    profile.map(|profile| format!("process.apparmorProfile {profile}: the node's kernel has no apparmor")).collect()
}

/// Forks the container process; `body` runs in it and ends it. See [`process::fork`] for what the caller must hold to.
pub fn spawn(spawn: &Spawn<'_>, body: impl FnOnce(Inside<'_>)) -> Result<Spawned, SpawnError> {
    let isolation = &spawn.plan.isolation;
    let users = match spawn.place {
        Place::Own => UserNamespaces::of(spawn.plan)?,
        Place::Of(_) => UserNamespaces::default(),
    };
    let artifact = spawn.artifact.map(AsFd::as_fd);
    let rest = artifact.into_iter().chain(users.descriptors()).collect();
    let descriptors = Descriptors { stdio: spawn.stdio.each_ref().map(AsFd::as_fd), rest };
    let cgroup = spawn.cgroup.birthplace()?;
    let namespaces = match spawn.place {
        Place::Own => namespaces::made_with_fork(isolation),
        Place::Of(_) => 0,
    };
    let fork = || {
        let birth = Birth { namespaces, cgroup: cgroup.as_ref().map(AsFd::as_fd) };
        process::fork(birth, &descriptors, |channel, mut rest| {
            let users = UserNamespaces::from_inherited(spawn.plan, rest.split_off(usize::from(artifact.is_some())));
            let artifact = rest.pop().map(File::from);
            let Spawn { plan, rootfs, cgroup, place, .. } = *spawn;
            // At once: the number is that process's until the shim buries it.
            let home = match place {
                Place::Own => Home::Own,
                Place::Of(pid) => Home::Of(Opened::of(pid)),
            };
            body(Inside { plan, rootfs, cgroup, home, channel, artifact, users });
        })
    };
    let forked = match spawn.place {
        Place::Own => namespaces::in_pid_namespace(isolation, fork)?,
        Place::Of(pid) => namespaces::in_pid_namespace_of(pid, fork)?,
    };
    forked.map_err(SpawnError::Fork)
}

/// The container process before it is confined: still root, still in the shim's filesystem.
#[derive(Debug)]
pub struct Inside<'a> {
    plan: &'a RunPlan,
    rootfs: &'a Path,
    cgroup: &'a Cgroup,
    home: Home,
    channel: ChildEnd,
    artifact: Option<File>,
    users: UserNamespaces,
}

impl<'a> Inside<'a> {
    /// What to run.
    pub fn plan(&self) -> &'a RunPlan {
        self.plan
    }

    /// The compiled guest, once.
    pub fn take_artifact(&mut self) -> File {
        match self.artifact.take() {
            Some(artifact) => artifact,
            None => self.channel.fail(Failure::Message("there is no artifact, or it was taken before".to_owned())),
        }
    }

    /// Joins the cgroup, if it was not born there. First of all: memory touched earlier is not charged to the container.
    /// Where systemd makes it, the shim has it put this process there, and gives the word.
    pub fn join_cgroup(&mut self) {
        let joined = process::die_with_parent()
            .map_err(|source| ConfineError::Step { step: "tie the container process to the shim", source })
            .and_then(|()| match (&self.home, self.cgroup.is_systemd()) {
                (Home::Of(_), _) => Ok(self.cgroup.join_as_it_is()?),
                (Home::Own, true) if self.channel.wait_for_go() => Ok(()),
                (Home::Own, true) => syscall::exit_now(1),
                (Home::Own, false) => Ok(self.cgroup.join(&self.plan.limits)?),
            });
        if let Err(error) = joined {
            self.channel.fail(message(&error));
        }
    }

    /// Gives up long turns on the processor for sooner ones: for a program that others wait for, and that has to wait itself
    /// behind every neighbour that computes. Its share stays the same. A kernel that has no such choice is none the worse.
    pub fn take_short_turns(&self) {
        const TURN_NS: u64 = 100_000;
        let _ = syscall::take_turns_of(TURN_NS);
    }

    /// The cgroup's limit of memory, to be read also when the process has long left the node's filesystem.
    pub fn memory_limit(&mut self) -> MemoryLimit {
        match self.cgroup.memory_limit() {
            Ok(limit) => limit,
            Err(error) => self.channel.fail(message(&error.into())),
        }
    }

    /// Says why this process gives up, and ends it.
    pub fn fail(mut self, failure: Failure) -> ! {
        self.channel.fail(failure)
    }

    /// Takes every right away that the guest is not granted. `wake` is called on each signal that asks to end, and
    /// must be async-signal-safe. Returns the pipe of these signals too: each is a byte with its number.
    pub fn confine(self, wake: impl Fn() + Send + Sync + 'static) -> (Confined, OwnedFd) {
        let Inside { plan, rootfs, mut channel, users, home, .. } = self;
        let mut hooks = || {
            channel.report(&Report::Mounted);
            // A shim that hangs up has said elsewhere why.
            if !channel.wait_for_go() {
                syscall::exit_now(1);
            }
        };
        let room = match home {
            Home::Own => Room::Own { rootfs, users, hooks: &mut hooks },
            Home::Of(Ok(namespaces)) => Room::Of(namespaces),
            Home::Of(Err(error)) => channel.fail(message(&error.into())),
        };
        let confined = confine(plan, room, wake).and_then(|signals| {
            let copy = signals.try_clone();
            let copy = copy.map_err(|source| ConfineError::Step { step: "share the pipe of signals", source })?;
            Ok((signals, copy))
        });
        match confined {
            Ok((signals, copy)) => (Confined { channel, signals }, copy),
            Err(error) => channel.fail(message(&error)),
        }
    }
}

/// The container process with only the guest's rights left.
#[derive(Debug)]
pub struct Confined {
    channel: ChildEnd,
    signals: OwnedFd,
}

impl Confined {
    /// Reports that all is ready and waits for the order to start; gives how to end if a signal comes instead. A shim that
    /// hangs up ends the process.
    pub fn wait_for_start(&mut self) -> Option<ExitStatus> {
        if self.channel.try_report(&Report::Ready).is_err() {
            // Nobody would order it to start.
            syscall::exit_now(1);
        }
        loop {
            let mut fds = [self.signals.as_fd(), self.channel.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => syscall::exit_now(1),
            }
            let [signalled, ordered] = fds.map(|fd| fd.any().unwrap_or(false));
            let mut signal = [0];
            if signalled && nix::unistd::read(&self.signals, &mut signal) == Ok(1) {
                return Some(ExitStatus::Signal(i32::from(signal[0])));
            }
            if ordered {
                if !self.channel.wait_for_go() {
                    syscall::exit_now(1);
                }
                return None;
            }
        }
    }

    /// Tells the shim.
    pub fn report(&mut self, report: &Report) {
        self.channel.report(report);
    }

    /// Says why this process gives up, and ends it.
    pub fn fail(mut self, failure: Failure) -> ! {
        self.channel.fail(failure)
    }

    /// Reports how the guest ended, and ends the process. Who reads the guest's output sees its end before.
    pub fn end(&mut self, status: ExitStatus) -> ! {
        for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            let _ = nix::unistd::close(stream);
        }
        let code = status.termination().code;
        self.channel.report(&Report::Exited(status));
        syscall::exit_now(code.cast_signed())
    }
}

/// How a process comes to where it lives.
enum Room<'a> {
    Own { rootfs: &'a Path, users: UserNamespaces, hooks: &'a mut dyn FnMut() },
    Of(Opened),
}

fn confine(plan: &RunPlan, room: Room<'_>, wake: impl Fn() + Send + Sync + 'static) -> Result<OwnedFd, ConfineError> {
    let isolation = &plan.isolation;
    let step = |step| move |source| ConfineError::Step { step, source };
    // Built first: a filter is made with calls that it refuses.
    let filters = seccomp::container(isolation.seccomp.as_ref())?;
    setsid().map_err(|errno| step("start a session")(errno.into()))?;
    if plan.terminal {
        syscall::control_terminal(io::stdin().as_fd())
            .map_err(|errno| step("make the terminal this session's")(errno.into()))?;
    }
    name(plan);
    // Where the node gives pages of 2 MiB to everybody, the first byte of each memory would cost one. A kernel that has none
    // is none the worse.
    let _ = prctl::set_thp_disable(true);
    // Never the shim's own, which containerd protects. A refusal is told by `refused_score`.
    let _ = fs::write("/proc/self/oom_score_adj", isolation.oom_score_adj.unwrap_or(0).to_string());
    let apparmor = isolation.apparmor.as_deref().filter(|_| apparmor::is_enabled());
    let apparmor = apparmor.map(apparmor::prepare).transpose()?;
    match room {
        Room::Own { rootfs, users, hooks } => {
            settle(plan, rootfs, &users, hooks)?;
            identity::limit(&isolation.rlimits)?;
            users.enter()?;
        }
        Room::Of(namespaces) => {
            namespaces.join_but_users()?;
            identity::limit(&isolation.rlimits)?;
            namespaces.join_users()?;
        }
    }
    identity::become_user(&isolation.user)?;
    // After all that a profile may forbid, as if it came with an exec; before no_new_privs, under which a process that is
    // confined itself, such as the shim of a node in a container, may change to fewer profiles.
    apparmor.map_or(Ok(()), apparmor::Change::apply)?;
    identity::bar_new_privileges()?;
    let signals = signals::install(wake).map_err(step("install signal handlers"))?;
    // Last: the steps above need calls that the filter refuses.
    filters.iter().try_for_each(seccomp::install)?;
    Ok(signals)
}

/// Makes the place where the container lives, and enters it.
fn settle(plan: &RunPlan, rootfs: &Path, users: &UserNamespaces, hooks: &mut dyn FnMut()) -> Result<(), ConfineError> {
    let isolation = &plan.isolation;
    let step = |step| move |source| ConfineError::Step { step, source };
    namespaces::join(isolation)?;
    users.enter_owned(isolation)?;
    namespaces::make_cgroup_namespace(isolation).map_err(step("make a cgroup namespace"))?;
    if let Some(hostname) = &isolation.hostname
        && namespaces::owns_uts(isolation)
    {
        sethostname(hostname).map_err(|errno| step("set the host name")(errno.into()))?;
    }
    namespaces::set_sysctls(isolation)?;
    mounts::put_together(rootfs, plan, users.of_mounts())?;
    if plan.hooks.at_creation() {
        hooks();
    }
    Ok(mounts::enter(rootfs, plan)?)
}

/// Shows the guest's own name in `ps`.
fn name(plan: &RunPlan) {
    let first = plan.invocation.args.first().map_or(plan.id.as_str(), String::as_str);
    let base = Path::new(first).file_name().unwrap_or_default().to_string_lossy();
    if let Ok(name) = CString::new(base.as_bytes()) {
        let _ = prctl::set_name(&name);
    }
}

fn message(error: &ConfineError) -> Failure {
    Failure::Message(plan::one_line(error))
}
