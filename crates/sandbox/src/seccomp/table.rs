//! What happens to each system call, by number; and the spec's profile as such a table.
//! It must not know what a filter is made of.
//!
//! One profile means here what it means to libseccomp, hence to runc: a rule whose action is the default's has no effect;
//! a rule without conditions stands for all of its call, the first of several; rules with conditions are alternatives. Of
//! those that hold at once the strictest counts, as between the filters of a process; libseccomp leaves that open.

use plan::{SeccompAction, SeccompCondition, SeccompProfile, SeccompRule};
use std::collections::{BTreeMap, HashMap};
use syscalls::Sysno;

/// The number of a system call.
pub(super) type Number = u32;

/// What happens to each system call.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// The answer to a call that is not listed, and to one of which no rule holds.
    pub(super) default: SeccompAction,
    pub(super) calls: BTreeMap<Number, Answer>,
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Always(SeccompAction),
    /// What the first rule says whose conditions hold.
    ByArguments(Vec<Rule>),
}

/// An action under conditions, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<SeccompCondition>,
    pub(super) action: SeccompAction,
}

impl Table {
    /// The table of a profile.
    pub(super) fn of(profile: &SeccompProfile) -> Table {
        let numbers = numbers();
        let mut calls: BTreeMap<Number, Answer> = BTreeMap::new();
        for rule in profile.rules.iter().filter(|rule| rule.action != profile.default) {
            // A profile lists the calls of every architecture.
            let known = rule.calls.iter().filter_map(|name| numbers.get(name.as_str()));
            for number in known {
                calls.entry(*number).or_insert_with(|| Answer::ByArguments(Vec::new())).add(rule);
            }
        }
        for answer in calls.values_mut() {
            if let Answer::ByArguments(rules) = answer {
                rules.sort_by_key(|rule| strictness(rule.action));
            }
        }
        Table { default: profile.default, calls }
    }

    /// Answers a call with `action`, unless it is answered more strictly already, whatever its arguments.
    pub(super) fn at_least(&mut self, number: Number, action: SeccompAction) {
        let now = self.calls.get(&number).cloned().unwrap_or(Answer::Always(self.default));
        if !matches!(now, Answer::Always(now) if strictness(now) < strictness(action)) {
            self.calls.insert(number, Answer::Always(action));
        }
    }

    /// Whether a call of that number can ever go through.
    pub(super) fn lets_through(&self, number: Number) -> bool {
        let lets = |action| matches!(action, SeccompAction::Allow | SeccompAction::Log);
        match self.calls.get(&number) {
            None => lets(self.default),
            Some(Answer::Always(action)) => lets(*action),
            Some(Answer::ByArguments(rules)) => lets(self.default) || rules.iter().any(|rule| lets(rule.action)),
        }
    }
}

impl Answer {
    fn add(&mut self, rule: &SeccompRule) {
        match self {
            Answer::Always(_) => {}
            Answer::ByArguments(_) if rule.conditions.is_empty() => *self = Answer::Always(rule.action),
            Answer::ByArguments(rules) => {
                rules.push(Rule { conditions: rule.conditions.clone(), action: rule.action });
            }
        }
    }
}

/// The name of a call, for messages.
pub(super) fn name(number: Number) -> &'static str {
    usize::try_from(number).ok().and_then(Sysno::new).map_or("an unnamed system call", |call| call.name())
}

/// The calls of this architecture by their names in the kernel's headers, which profiles use.
fn numbers() -> HashMap<&'static str, Number> {
    let all = Sysno::iter().chain([Sysno::last()]);
    let mut numbers: HashMap<_, _> = all.map(|call| (call.name(), call.id().unsigned_abs())).collect();
    // The crate has another name for it on arm64 (asm-generic/unistd.h: __NR3264_fstatat).
    numbers.insert("newfstatat", number(libc::SYS_newfstatat));
    numbers
}

/// The number of a call as libc has it.
pub(super) fn number(call: libc::c_long) -> Number {
    Number::try_from(call).expect("numbers of system calls are small and not negative")
}

/// The kernel's order (kernel/seccomp.c): the strictest is the least.
fn strictness(action: SeccompAction) -> u8 {
    match action {
        SeccompAction::Kill => 0,
        SeccompAction::Trap => 1,
        SeccompAction::Errno(_) => 2,
        SeccompAction::Trace(_) => 3,
        SeccompAction::Log => 4,
        SeccompAction::Allow => 5,
    }
}
