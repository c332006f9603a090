//! Programs do what their table says, by an interpreter that knows the instructions the kernel allows to seccomp.

use super::*;
use std::collections::BTreeMap;

/// A system call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Call {
    pub(in super::super) number: Number,
    pub(in super::super) arguments: [u64; 6],
}

/// What the program answers, or why the kernel would not take it.
pub(in super::super) fn run(program: &Program, architecture: u32, call: Call) -> u32 {
    let word = |place: u32| match place {
        NUMBER => call.number,
        ARCH => architecture,
        place => {
            let argument = call.arguments[((place - ARGUMENTS) / 8) as usize];
            if (place - ARGUMENTS).is_multiple_of(8) { halves(argument).1 } else { halves(argument).0 }
        }
    };
    let (mut next, mut register) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[next];
        next += 1;
        let mut go = |yes: bool| next += usize::from(if yes { jt } else { jf });
        match code {
            LOAD => register = word(k),
            AND => register &= k,
            IF_EQUAL => go(register == k),
            IF_GREATER => go(register > k),
            IF_GREATER_OR_EQUAL => go(register >= k),
            JUMP => next += k as usize,
            RETURN => return k,
            code => panic!("instruction {code:#x} at {next} of {program:?}"),
        }
    }
}

/// What the table says, read plainly.
fn said(table: &Table, call: Call) -> SeccompAction {
    let holds = |condition: &SeccompCondition| {
        let argument = call.arguments[usize::from(condition.argument)];
        match condition.test {
            SeccompTest::Equal(value) => argument == value,
            SeccompTest::NotEqual(value) => argument != value,
            SeccompTest::Less(value) => argument < value,
            SeccompTest::LessOrEqual(value) => argument <= value,
            SeccompTest::Greater(value) => argument > value,
            SeccompTest::GreaterOrEqual(value) => argument >= value,
            SeccompTest::Masked { mask, value } => argument & mask == value & mask,
        }
    };
    match table.calls.get(&call.number) {
        None => table.default,
        Some(Answer::Always(action)) => *action,
        Some(Answer::ByArguments(rules)) => {
            let rule = rules.iter().find(|rule| rule.conditions.iter().all(holds));
            rule.map_or(table.default, |rule| rule.action)
        }
    }
}

fn check(table: &Table, call: Call) {
    let program = compile(table);
    let wanted = give(said(table, call)).k;
    assert_eq!(run(&program, ARCHITECTURE, call), wanted, "{call:x?} of {table:x?}: {program:?}");
}

#[test]
fn each_comparison_is_of_64_bits() {
    let edges = [0, 1, 2, u64::from(u32::MAX), 1 << 32, (1 << 32) + 1, (2 << 32) + 1, u64::MAX - 1, u64::MAX];
    let comparisons: [fn(u64) -> SeccompTest; 8] = [
        SeccompTest::Equal,
        SeccompTest::NotEqual,
        SeccompTest::Less,
        SeccompTest::LessOrEqual,
        SeccompTest::Greater,
        SeccompTest::GreaterOrEqual,
        |value| SeccompTest::Masked { mask: (1 << 32) | 1, value },
        |value| SeccompTest::Masked { mask: u64::MAX, value },
    ];
    for comparison in comparisons {
        for value in edges {
            let condition = SeccompCondition { argument: 5, test: comparison(value) };
            let rule = Rule { conditions: vec![condition], action: SeccompAction::Errno(7) };
            let calls = BTreeMap::from([(3, Answer::ByArguments(vec![rule]))]);
            let table = Table { default: SeccompAction::Allow, calls };
            for argument in edges {
                check(&table, Call { number: 3, arguments: [9, 9, 9, 9, 9, argument] });
            }
        }
    }
}

/// Numbers that look random and are the same in each run (xorshift).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Few values, so that they meet; in both halves.
    fn value(&mut self) -> u64 {
        (self.below(3) << 32) | self.below(3)
    }

    fn action(&mut self) -> SeccompAction {
        let errno = self.below(4096) as u16;
        use SeccompAction::{Allow, Errno, Kill, Log, Trace, Trap};
        [Kill, Trap, Errno(errno), Trace(errno), Log, Allow][self.below(6) as usize]
    }

    fn condition(&mut self, argument: u8) -> SeccompCondition {
        let value = self.value();
        let tests = [
            SeccompTest::Equal(value),
            SeccompTest::NotEqual(value),
            SeccompTest::Less(value),
            SeccompTest::LessOrEqual(value),
            SeccompTest::Greater(value),
            SeccompTest::GreaterOrEqual(value),
            SeccompTest::Masked { mask: self.value(), value },
        ];
        SeccompCondition { argument, test: tests[self.below(7) as usize] }
    }

    fn answer(&mut self) -> Answer {
        if self.below(3) > 0 {
            return Answer::Always(self.action());
        }
        let rules = (0..=self.below(4)).map(|_| {
            let first = self.below(3) as u8;
            let count = self.below(4) as u8;
            Rule { conditions: (first..first + count).map(|n| self.condition(n)).collect(), action: self.action() }
        });
        Answer::ByArguments(rules.collect())
    }

    fn table(&mut self) -> Table {
        let calls = (0..self.below(60)).map(|_| (self.below(80) as Number, self.answer())).collect();
        Table { default: self.action(), calls }
    }
}

#[test]
fn a_program_answers_as_its_table_says() {
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    for _ in 0..300 {
        let table = draw.table();
        let program = compile(&table);
        for number in 0..82 {
            for _ in 0..8 {
                let call = Call { number, arguments: [(); 6].map(|()| draw.value()) };
                let wanted = give(said(&table, call)).k;
                assert_eq!(run(&program, ARCHITECTURE, call), wanted, "{call:x?} of {table:x?}: {program:?}");
            }
        }
    }
}

#[test]
fn calls_of_another_architecture_end_the_process() {
    let open = Table { default: SeccompAction::Allow, calls: BTreeMap::new() };
    let program = compile(&open);
    let call = |number| Call { number, arguments: [0; 6] };
    assert_eq!(run(&program, ARCHITECTURE, call(0)), libc::SECCOMP_RET_ALLOW);
    // i386, and x32 with and without a number that amd64 has.
    assert_eq!(run(&program, 0x4000_0003, call(0)), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(run(&program, ARCHITECTURE, call(FOREIGN)), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(run(&program, ARCHITECTURE, call(FOREIGN + 600)), libc::SECCOMP_RET_KILL_PROCESS);
}
