//! Compiles a table of system calls into a program for seccomp(2), in the kernel's classic BPF.
//! It must not know what any system call does.
//!
//! The program is a binary search over ranges of numbers that are answered alike. It is short, because each container
//! loads it, and the kernel translates it and tries it out on every number (`seccomp_cache_prepare`): CRI's default
//! profile comes to 200 instructions and 0.1 ms, where a comparison per call takes 1,600 and 1.2 ms.

use super::table::{Answer, Number, Rule, Table};
use libc::sock_filter;
use plan::{SeccompAction, SeccompCondition, SeccompTest};

/// What seccomp(2) is given.
pub(super) type Program = Vec<sock_filter>;

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub(super) const LONGEST: usize = 4096;

/// The kernel's name for the node's architecture (linux/audit.h): ELF machine, 64 bits, little endian.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
/// The numbers of x32 start here (`__X32_SYSCALL_BIT`): calls of another architecture under the name of amd64.
const FOREIGN: Number = 0x4000_0000;

/// Places in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

/// The program for a table. Calls of another architecture than the node's end the process: the table says nothing of
/// them, and no process of ours makes any.
pub(super) fn compile(table: &Table) -> Program {
    let mut program = vec![
        statement(LOAD, ARCH),
        jump(IF_EQUAL, ARCHITECTURE, 1, 0),
        give(SeccompAction::Kill),
        statement(LOAD, NUMBER),
    ];
    search(&ranges(table), table.default, &mut program);
    program
}

/// The ranges of numbers that are answered alike, each by its first number; the last has no end.
fn ranges(table: &Table) -> Vec<(Number, Answer)> {
    let mut ranges: Vec<(Number, Answer)> = Vec::new();
    let mut push = |start, answer: Answer| {
        let same = matches!((ranges.last(), &answer), (Some((_, last)), Answer::Always(_)) if *last == answer);
        if !same {
            ranges.push((start, answer));
        }
    };
    let mut next = 0;
    for (number, answer) in table.calls.range(..FOREIGN) {
        if *number > next {
            push(next, Answer::Always(table.default));
        }
        push(*number, answer.clone());
        next = number + 1;
    }
    push(next, Answer::Always(table.default));
    push(FOREIGN, Answer::Always(SeccompAction::Kill));
    ranges
}

fn search(ranges: &[(Number, Answer)], default: SeccompAction, program: &mut Program) {
    match ranges {
        [] => {}
        [(_, Answer::Always(action))] => program.push(give(*action)),
        [(_, Answer::ByArguments(rules))] => {
            rules.iter().for_each(|rule| append(rule, program));
            program.push(give(default));
        }
        ranges => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let at = program.len();
            search(lower, default, program);
            let length = program.len() - at;
            // A conditional jump reaches 255 instructions, another one all.
            let [middle, ..] = upper else { return };
            let decision = match u8::try_from(length) {
                Ok(length) => vec![jump(IF_GREATER_OR_EQUAL, middle.0, length, 0)],
                Err(_) => vec![jump(IF_GREATER_OR_EQUAL, middle.0, 0, 1), statement(JUMP, reach(length))],
            };
            program.splice(at..at, decision);
            search(upper, default, program);
        }
    }
}

/// A program that is too long is refused in the end, and does not get near this.
fn reach(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum Goto {
    Next,
    /// The condition holds: on to the one after it.
    Holds,
    /// The rule does not apply.
    Fails,
}

/// An instruction of a condition.
enum Step {
    Plain(sock_filter),
    Decide { code: u16, value: u32, yes: Goto, no: Goto },
}

/// One rule: falls through to what follows it where a condition fails.
fn append(rule: &Rule, program: &mut Program) {
    let conditions: Vec<Vec<Step>> = rule.conditions.iter().map(steps).collect();
    // With the answer. Six conditions of six steps at most, so that every distance fits.
    let mut left = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    for condition in conditions {
        let mut of_condition = condition.len();
        for step in condition {
            (left, of_condition) = (left - 1, of_condition - 1);
            let distance = |goto| match goto {
                Goto::Next => 0,
                Goto::Holds => of_condition as u8,
                Goto::Fails => left as u8,
            };
            program.push(match step {
                Step::Plain(instruction) => instruction,
                Step::Decide { code, value, yes, no } => jump(code, value, distance(yes), distance(no)),
            });
        }
    }
    program.push(give(rule.action));
}

/// A comparison of 64 bits, half by half.
fn steps(condition: &SeccompCondition) -> Vec<Step> {
    use Goto::{Fails, Holds, Next};
    // Both architectures are little endian.
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let load = |place| Step::Plain(statement(LOAD, place));
    let and = |mask| Step::Plain(statement(AND, mask));
    let decide = |code, value, yes, no| Step::Decide { code, value, yes, no };
    // By the upper halves, and only if these are equal by the lower ones.
    let ordered = |value, code, yes, no| {
        let (high_half, low_half) = halves(value);
        vec![
            load(low + 4),
            decide(IF_GREATER, high_half, yes, Next),
            decide(IF_EQUAL, high_half, Next, no),
            load(low),
            decide(code, low_half, yes, no),
        ]
    };
    let equal = |value, yes, no| {
        let (high_half, low_half) = halves(value);
        vec![load(low + 4), decide(IF_EQUAL, high_half, Next, no), load(low), decide(IF_EQUAL, low_half, yes, no)]
    };
    match condition.test {
        SeccompTest::Equal(value) => equal(value, Holds, Fails),
        SeccompTest::NotEqual(value) => equal(value, Fails, Holds),
        SeccompTest::Greater(value) => ordered(value, IF_GREATER, Holds, Fails),
        SeccompTest::LessOrEqual(value) => ordered(value, IF_GREATER, Fails, Holds),
        SeccompTest::GreaterOrEqual(value) => ordered(value, IF_GREATER_OR_EQUAL, Holds, Fails),
        SeccompTest::Less(value) => ordered(value, IF_GREATER_OR_EQUAL, Fails, Holds),
        SeccompTest::Masked { mask, value } => {
            // As libseccomp does: bits that the mask leaves out count on neither side.
            let ((high_mask, low_mask), (high_half, low_half)) = (halves(mask), halves(value & mask));
            let half = |place, mask, half| [load(place), and(mask), decide(IF_EQUAL, half, Next, Fails)];
            let high = (high_mask != 0).then(|| half(low + 4, high_mask, high_half));
            let low = (low_mask != 0).then(|| half(low, low_mask, low_half));
            high.into_iter().chain(low).flatten().collect()
        }
    }
}

/// Upper and lower half.
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

fn give(action: SeccompAction) -> sock_filter {
    let value = match action {
        SeccompAction::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        SeccompAction::Trap => libc::SECCOMP_RET_TRAP,
        SeccompAction::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        SeccompAction::Trace(word) => libc::SECCOMP_RET_TRACE | u32::from(word),
        SeccompAction::Log => libc::SECCOMP_RET_LOG,
        SeccompAction::Allow => libc::SECCOMP_RET_ALLOW,
    };
    statement(RETURN, value)
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
#[path = "program_tests.rs"]
pub(super) mod tests;
