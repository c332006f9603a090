//! The spec's `linux.seccomp` as plain data.
//! It must not know which system calls exist: names are taken as they are, and one that the node's architecture lacks
//! has no effect, since a profile lists those of every architecture.
//!
//! Not taken, because the guest's process makes calls of the node's own architecture only, and calls of any other end it:
//! `architectures`. Nor `listenerPath` and `listenerMetadata`, which are for SCMP_ACT_NOTIFY.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use plan::{SeccompAction, SeccompCondition, SeccompFlag, SeccompProfile, SeccompRule, SeccompTest};

/// The last argument that a system call can have.
const LAST_ARGUMENT: usize = 5;
/// The kernel cuts larger numbers off (`MAX_ERRNO`, include/linux/err.h).
const MAX_ERRNO: u32 = 4095;
/// The runtime spec's default.
const EPERM: u16 = 1;

/// Why a profile is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It needs an agent beside the container.
    #[error("{place}: SCMP_ACT_NOTIFY is not supported: answer with SCMP_ACT_ERRNO or SCMP_ACT_ALLOW")]
    Notify {
        /// Where in the spec.
        place: String,
    },
    /// Only for SCMP_ACT_NOTIFY.
    #[error("linux.seccomp.flags: {0} is not supported, as SCMP_ACT_NOTIFY is not: remove it")]
    Flag(LinuxSeccompFilterFlag),
    /// The runtime spec demands a refusal.
    #[error("{place}: {action} takes no errno: remove the errno, or use SCMP_ACT_ERRNO")]
    NoErrno {
        /// Where in the spec.
        place: String,
        /// The action.
        action: LinuxSeccompAction,
    },
    /// Out of the kernel's range.
    #[error("{place}: errno {errno} is out of range: use 0 to {MAX_ERRNO}")]
    Errno {
        /// Where in the spec.
        place: String,
        /// The number.
        errno: u32,
    },
    /// The runtime spec forbids it.
    #[error("{place} names no system call: name one, or remove the rule")]
    NoNames {
        /// Where in the spec.
        place: String,
    },
    /// No system call has so many.
    #[error("{place} has a condition on argument {index}: system calls have the arguments 0 to {LAST_ARGUMENT}")]
    Argument {
        /// Where in the spec.
        place: String,
        /// The argument's index.
        index: usize,
    },
}

/// Lowers a profile.
pub(super) fn lower(profile: &LinuxSeccomp) -> Result<SeccompProfile, Error> {
    let mut rules = Vec::new();
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        rules.extend(lower_rule(&format!("linux.seccomp.syscalls[{index}]"), rule)?);
    }
    let flags = profile.flags().iter().flatten().filter_map(|flag| lower_flag(*flag).transpose());
    Ok(SeccompProfile {
        default: action("linux.seccomp.defaultAction", profile.default_action(), profile.default_errno_ret())?,
        rules,
        flags: flags.collect::<Result<_, _>>()?,
    })
}

fn lower_rule(place: &str, rule: &LinuxSyscall) -> Result<Vec<SeccompRule>, Error> {
    if rule.names().is_empty() {
        return Err(Error::NoNames { place: place.to_owned() });
    }
    let action = action(place, rule.action(), rule.errno_ret())?;
    let conditions = rule.args().iter().flatten().map(|arg| condition(place, arg));
    let conditions: Vec<SeccompCondition> = conditions.collect::<Result<_, _>>()?;
    let one = |conditions| SeccompRule { calls: rule.names().clone(), action, conditions };
    // As runc and crun do: conditions on one argument are alternatives, and then so are all of the rule.
    let mut seen = [false; LAST_ARGUMENT + 1];
    let twice = conditions.iter().any(|one| std::mem::replace(&mut seen[usize::from(one.argument)], true));
    Ok(match twice {
        true => conditions.into_iter().map(|alternative| one(vec![alternative])).collect(),
        false => vec![one(conditions)],
    })
}

fn action(place: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction, Error> {
    let takes_errno = matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    match errno {
        Some(_) if !takes_errno => return Err(Error::NoErrno { place: place.to_owned(), action }),
        Some(errno) if errno > MAX_ERRNO => return Err(Error::Errno { place: place.to_owned(), errno }),
        Some(_) | None => {}
    }
    // The range was just checked.
    let errno = errno.and_then(|errno| u16::try_from(errno).ok()).unwrap_or(EPERM);
    Ok(match action {
        // Of a process that lost one thread nobody would learn the end, so the process goes as a whole.
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess => SeccompAction::Kill,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => SeccompAction::Trace(errno),
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActNotify => return Err(Error::Notify { place: place.to_owned() }),
    })
}

fn condition(place: &str, arg: &LinuxSeccompArg) -> Result<SeccompCondition, Error> {
    let index = arg.index();
    let argument = u8::try_from(index).ok().filter(|_| index <= LAST_ARGUMENT);
    let argument = argument.ok_or_else(|| Error::Argument { place: place.to_owned(), index })?;
    let value = arg.value();
    let test = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => SeccompTest::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => SeccompTest::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => SeccompTest::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => SeccompTest::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => SeccompTest::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => SeccompTest::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            SeccompTest::Masked { mask: value, value: arg.value_two().unwrap_or(0) }
        }
    };
    Ok(SeccompCondition { argument, test })
}

fn lower_flag(flag: LinuxSeccompFilterFlag) -> Result<Option<SeccompFlag>, Error> {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => Ok(Some(SeccompFlag::Log)),
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Ok(Some(SeccompFlag::SpecAllow)),
        // The filter is installed while the process has one thread, and inherited by all that follow.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(None),
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => Err(Error::Flag(flag)),
    }
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
