//! What a profile comes to, by the names of calls.

use super::program::tests::{Call, run};
use super::*;
use plan::SeccompAction::{self, Allow, Errno, Kill, Log, Trap};
use plan::SeccompTest::{Equal, Masked, NotEqual};
use plan::{SeccompCondition, SeccompRule, SeccompTest};

const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

fn rule(calls: &[&str], action: SeccompAction, conditions: &[(u8, SeccompTest)]) -> SeccompRule {
    let conditions = conditions.iter().map(|(argument, test)| SeccompCondition { argument: *argument, test: *test });
    SeccompRule { calls: calls.iter().map(|&name| name.to_owned()).collect(), action, conditions: conditions.collect() }
}

fn profile(default: SeccompAction, rules: Vec<SeccompRule>) -> SeccompProfile {
    SeccompProfile { default, rules, flags: Vec::new() }
}

/// The strictest answer of all filters, the latest of equals: as the kernel does (kernel/seccomp.c).
fn answer(filters: &[Filter], call: libc::c_long, first: u64) -> u32 {
    let call = Call { number: number(call), arguments: [first, 0, 0, 0, 0, 0] };
    let answers = filters.iter().rev().map(|filter| run(&filter.program, ARCHITECTURE, call));
    answers.min_by_key(|answer| (answer & libc::SECCOMP_RET_ACTION_FULL).cast_signed()).unwrap()
}

fn value(action: SeccompAction) -> u32 {
    match action {
        Kill => libc::SECCOMP_RET_KILL_PROCESS,
        Trap => libc::SECCOMP_RET_TRAP,
        Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        SeccompAction::Trace(word) => libc::SECCOMP_RET_TRACE | u32::from(word),
        Log => libc::SECCOMP_RET_LOG,
        Allow => libc::SECCOMP_RET_ALLOW,
    }
}

/// Calls by number and first argument, each with its answer.
fn check(profile: &SeccompProfile, cases: &[(libc::c_long, u64, SeccompAction)]) {
    let filters = container(Some(profile)).unwrap();
    for (call, first, wanted) in cases {
        let got = answer(&filters, *call, *first);
        assert_eq!(got, value(*wanted), "{call} ({first:#x}): {got:#x} by {profile:?}");
    }
}

/// Of the shape of containerd's default profile: all calls but a few, some by their arguments.
fn default_profile() -> SeccompProfile {
    let withheld = ["clone", "clone3", "mount", "personality", "ptrace", "reboot", "setns", "socket", "unshare"];
    let names = syscalls::Sysno::iter().map(|call| call.name()).filter(|name| !withheld.contains(name));
    let foreign = ["socketcall", "arm_fadvise64_64", "_llseek", "s390_pci_mmio_read"];
    let names: Vec<&str> = names.chain(foreign).collect();
    let mut rules = vec![rule(&names, Allow, &[]), rule(&["socket"], Allow, &[(0, NotEqual(40))])];
    rules.extend([0, 8, 0x20000, 0x20008, 0xffff_ffff].map(|is| rule(&["personality"], Allow, &[(0, Equal(is))])));
    rules.push(rule(&["clone"], Allow, &[(0, Masked { mask: 0x7e02_0000, value: 0 })]));
    rules.push(rule(&["clone3"], Errno(38), &[]));
    profile(Errno(1), rules)
}

#[test]
fn the_default_profile_leaves_a_guest_what_it_needs() {
    let thread = libc::CLONE_THREAD as u64;
    let cases = [
        (libc::SYS_write, 1, Allow),
        (libc::SYS_openat2, 3, Allow),
        (libc::SYS_clone, thread, Allow),
        (libc::SYS_clone, thread | libc::CLONE_NEWUSER as u64, Errno(1)),
        (libc::SYS_clone, 0, Errno(1)),
        (libc::SYS_clone3, 0, Errno(38)),
        (libc::SYS_ptrace, 0, Errno(1)),
        // Allowed by the profile, and not by us.
        (libc::SYS_socket, 1, Errno(1)),
        (libc::SYS_execve, 0, Errno(1)),
        (libc::SYS_seccomp, 1, Errno(1)),
    ];
    check(&default_profile(), &cases);
}

#[test]
fn programs_are_short() {
    let filters = container(Some(&default_profile())).unwrap();
    let lengths: Vec<usize> = filters.iter().map(|filter| filter.program.len()).collect();
    assert!(lengths.iter().all(|length| *length < 400), "{lengths:?}");
}

#[test]
fn denials_beside_an_open_default_have_each_its_answer() {
    let rules = vec![
        rule(&["mkdirat", "no_such_call"], Errno(30), &[]),
        rule(&["unlinkat"], Errno(13), &[]),
        rule(&["linkat"], Kill, &[]),
        rule(&["symlinkat"], Trap, &[]),
        rule(&["renameat"], Log, &[]),
        rule(&["dup"], Errno(24), &[(0, Equal(2))]),
        rule(&["ptrace"], Kill, &[]),
    ];
    let cases = [
        (libc::SYS_mkdirat, 0, Errno(30)),
        (libc::SYS_unlinkat, 0, Errno(13)),
        (libc::SYS_linkat, 0, Kill),
        (libc::SYS_symlinkat, 0, Trap),
        (libc::SYS_renameat, 0, Log),
        (libc::SYS_dup, 2, Errno(24)),
        (libc::SYS_dup, 1, Allow),
        (libc::SYS_read, 0, Allow),
        // Stricter than what we refuse ourselves; and the other way round.
        (libc::SYS_ptrace, 0, Kill),
        (libc::SYS_mount, 0, Errno(1)),
    ];
    check(&profile(Allow, rules), &cases);
}

/// As libseccomp 2.5.4 compiles the same profiles.
#[test]
fn rules_of_one_call_come_together() {
    let on_dup = |mut rules: Vec<SeccompRule>| {
        let essential: Vec<&str> = ESSENTIAL.iter().map(|call| table::name(number(*call))).collect();
        rules.push(rule(&essential, Allow, &[]));
        profile(Errno(1), rules)
    };
    let dup = |first, action| (libc::SYS_dup, first, action);
    let one = |value| [(0, Equal(value))];
    // Alternatives; a rule with the default's action has no effect, so that it is no rule for all.
    let rules = vec![rule(&["dup"], Allow, &one(1)), rule(&["dup"], Allow, &one(3)), rule(&["dup"], Errno(1), &[])];
    check(&on_dup(rules), &[dup(1, Allow), dup(2, Errno(1)), dup(3, Allow)]);
    // One rule for all takes the place of the others, whichever comes first.
    let rules = vec![rule(&["dup"], Allow, &one(1)), rule(&["dup"], Errno(5), &[])];
    check(&on_dup(rules), &[dup(1, Errno(5)), dup(2, Errno(5))]);
    let rules = vec![rule(&["dup"], Allow, &[]), rule(&["dup"], Errno(5), &one(1)), rule(&["dup"], Errno(6), &[])];
    check(&on_dup(rules), &[dup(1, Allow), dup(2, Allow)]);
    // The strictest of those that hold.
    let rules = vec![rule(&["dup"], Allow, &one(1)), rule(&["dup"], Kill, &[(1, Equal(0))])];
    check(&on_dup(rules), &[dup(1, Kill), dup(2, Kill)]);
    // All conditions of a rule.
    let both = [(0, Equal(1)), (1, NotEqual(0))];
    check(&on_dup(vec![rule(&["dup"], Allow, &both)]), &[dup(1, Errno(1))]);
}

#[test]
fn names_are_the_kernels() {
    // With newfstatat, which the table of names lacks on arm64.
    let known = ["read", "newfstatat", "renameat2", "clone3", "seccomp", "file_setattr"];
    let rules = vec![rule(&known, Errno(9), &[])];
    let table = Table::of(&profile(Allow, rules));
    let numbers = [libc::SYS_read, libc::SYS_newfstatat, libc::SYS_renameat2, libc::SYS_clone3, libc::SYS_seccomp, 469];
    for call in numbers {
        assert_eq!(table.calls.get(&number(call)), Some(&table::Answer::Always(Errno(9))), "{call}");
    }
    assert_eq!(table.calls.len(), known.len());
}

#[test]
fn a_profile_that_no_guest_can_live_with_is_refused() {
    let refused = |profile: &SeccompProfile| container(Some(profile)).unwrap_err().to_string();
    let message = "linux.seccomp forbids futex, write, without which no wasm guest can run: allow it in the profile";
    let rules = vec![rule(&["write"], Errno(1), &[]), rule(&["futex"], Kill, &[(0, NotEqual(0))])];
    let rules: Vec<_> = rules.into_iter().chain([rule(&["futex"], Trap, &[])]).collect();
    assert_eq!(refused(&profile(Allow, rules)), message);
    // By its arguments it may still go through.
    container(Some(&profile(Allow, vec![rule(&["write"], Errno(1), &[(0, Equal(2))])]))).unwrap();
    let many = (0..500).map(|first| rule(&["dup", "dup3"], Errno(1), &[(0, Equal(first))])).collect();
    let message = refused(&profile(Allow, many));
    assert!(message.contains("instructions, more than the kernel's 4096: give it fewer rules"), "{message}");
}

#[test]
fn flags_go_with_the_profile_alone() {
    let mut profile = default_profile();
    profile.flags = vec![SeccompFlag::Log, SeccompFlag::SpecAllow];
    let flags: Vec<_> = container(Some(&profile)).unwrap().iter().map(|filter| filter.flags).collect();
    assert_eq!(flags, [0, libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW]);
}
