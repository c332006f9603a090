//! A seccomp profile: which system calls of the container process are answered how, as plain data.
//! It must not know the numbers of system calls, nor what a filter is made of.

use serde::{Deserialize, Serialize};

/// The OCI spec's `linux.seccomp`, for the node's own architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompProfile {
    /// The answer to calls without a rule.
    pub default: SeccompAction,
    /// In the order of the spec.
    pub rules: Vec<SeccompRule>,
    /// How the filter is installed.
    pub flags: Vec<SeccompFlag>,
}

/// The answer to some system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompRule {
    /// Their names; those that the node's architecture lacks have no effect.
    pub calls: Vec<String>,
    /// The answer.
    pub action: SeccompAction,
    /// All of them must hold for the rule to apply. No two are of one argument.
    pub conditions: Vec<SeccompCondition>,
}

/// What the kernel does about a system call (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompAction {
    /// Ends the process.
    Kill,
    /// Sends SIGSYS, which ends the process.
    Trap,
    /// The call fails with this number, at most 4095.
    Errno(u16),
    /// Asks a tracer, with this word for it; the call fails with ENOSYS where there is none.
    Trace(u16),
    /// Lets it through, and says so in the kernel's log.
    Log,
    /// Lets it through.
    Allow,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompCondition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// What must be true of it.
    pub test: SeccompTest,
}

/// A comparison with all 64 bits of an argument, without sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompTest {
    /// It is this.
    Equal(u64),
    /// It is not this.
    NotEqual(u64),
    /// It is less.
    Less(u64),
    /// It is this or less.
    LessOrEqual(u64),
    /// It is more.
    Greater(u64),
    /// It is this or more.
    GreaterOrEqual(u64),
    /// The bits of the mask are as in the value.
    Masked {
        /// The bits that count.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

/// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompFlag {
    /// What is not let through is said in the kernel's log.
    Log,
    /// Leaves speculative store bypass unmitigated.
    SpecAllow,
}
