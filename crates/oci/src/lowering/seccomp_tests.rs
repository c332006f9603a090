//! The profile's rows of the lowering table.

use super::*;
use SeccompAction::{Allow, Errno, Kill, Log, Trace, Trap};
use SeccompTest::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Masked, NotEqual};
use serde_json::{Value, json};

fn lowered(profile: &Value) -> Result<SeccompProfile, String> {
    let profile: LinuxSeccomp = serde_json::from_value(profile.clone()).map_err(|error| error.to_string())?;
    lower(&profile).map_err(|error| error.to_string())
}

fn check(profile: Value, default: SeccompAction, rules: Vec<SeccompRule>) {
    let wanted = SeccompProfile { default, rules, flags: Vec::new() };
    assert_eq!(lowered(&profile), Ok(wanted), "{profile}");
}

fn refused(profile: Value, message: &str) {
    assert_eq!(lowered(&profile), Err(message.to_owned()), "{profile}");
}

fn rule(calls: &[&str], action: SeccompAction, conditions: &[(u8, SeccompTest)]) -> SeccompRule {
    let conditions = conditions.iter().map(|(argument, test)| SeccompCondition { argument: *argument, test: *test });
    SeccompRule { calls: calls.iter().map(|&name| name.to_owned()).collect(), action, conditions: conditions.collect() }
}

/// A profile with one rule on `mkdirat`.
fn with_rule(rest: Value) -> Value {
    let mut rule = json!({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"});
    for (key, value) in rest.as_object().unwrap() {
        rule[key] = value.clone();
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

#[test]
fn containerds_default_profile_is_taken() {
    let namespaces = 0x7e02_0000u64;
    let personality = |value: u64| json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]});
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["accept", "read", "arm_fadvise64_64", "write"], "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            personality(0), personality(8), personality(0xffff_ffff),
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": namespaces, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    });
    let wanted = vec![
        rule(&["accept", "read", "arm_fadvise64_64", "write"], Allow, &[]),
        rule(&["socket"], Allow, &[(0, NotEqual(40))]),
        rule(&["personality"], Allow, &[(0, Equal(0))]),
        rule(&["personality"], Allow, &[(0, Equal(8))]),
        rule(&["personality"], Allow, &[(0, Equal(0xffff_ffff))]),
        rule(&["clone"], Allow, &[(0, Masked { mask: namespaces, value: 0 })]),
        rule(&["clone3"], Errno(38), &[]),
    ];
    check(profile, Errno(1), wanted);
}

#[test]
fn each_action_is_taken() {
    let cases = [
        ("SCMP_ACT_KILL", None, Kill),
        ("SCMP_ACT_KILL_THREAD", None, Kill),
        ("SCMP_ACT_KILL_PROCESS", None, Kill),
        ("SCMP_ACT_TRAP", None, Trap),
        ("SCMP_ACT_ERRNO", None, Errno(1)),
        ("SCMP_ACT_ERRNO", Some(0), Errno(0)),
        ("SCMP_ACT_ERRNO", Some(4095), Errno(4095)),
        ("SCMP_ACT_TRACE", None, Trace(1)),
        ("SCMP_ACT_TRACE", Some(7), Trace(7)),
        ("SCMP_ACT_LOG", None, Log),
        ("SCMP_ACT_ALLOW", None, Allow),
    ];
    for (name, errno, action) in cases {
        check(json!({"defaultAction": name, "defaultErrnoRet": errno}), action, Vec::new());
        let wanted = vec![rule(&["mkdirat"], action, &[])];
        check(with_rule(json!({"action": name, "errnoRet": errno})), Allow, wanted);
    }
}

#[test]
fn each_comparison_is_taken() {
    let cases = [
        ("SCMP_CMP_EQ", Equal(6)),
        ("SCMP_CMP_NE", NotEqual(6)),
        ("SCMP_CMP_LT", Less(6)),
        ("SCMP_CMP_LE", LessOrEqual(6)),
        ("SCMP_CMP_GT", Greater(6)),
        ("SCMP_CMP_GE", GreaterOrEqual(6)),
        ("SCMP_CMP_MASKED_EQ", Masked { mask: 6, value: 2 }),
    ];
    for (op, test) in cases {
        let args = json!([{"index": 5, "value": 6, "valueTwo": 2, "op": op}]);
        check(with_rule(json!({"args": args})), Allow, vec![rule(&["mkdirat"], Errno(1), &[(5, test)])]);
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let arg = |index: usize, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let all = vec![rule(&["mkdirat"], Errno(1), &[(0, Equal(1)), (1, Equal(2))])];
    check(with_rule(json!({"args": [arg(0, 1), arg(1, 2)]})), Allow, all);
    let one = |argument, value| rule(&["mkdirat"], Errno(1), &[(argument, Equal(value))]);
    let alternatives = vec![one(0, 1), one(1, 2), one(0, 3)];
    check(with_rule(json!({"args": [arg(0, 1), arg(1, 2), arg(0, 3)]})), Allow, alternatives);
}

#[test]
fn flags_are_taken_or_refused() {
    let with = |flags: Value| lowered(&json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags}));
    let all = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
    assert_eq!(with(all).map(|profile| profile.flags), Ok(vec![SeccompFlag::Log, SeccompFlag::SpecAllow]));
    let refused = "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is not supported, as SCMP_ACT_NOTIFY is not: remove it";
    assert_eq!(with(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), Err(refused.to_owned()));
}

#[test]
fn what_cannot_be_held_to_is_refused_by_name() {
    refused(
        json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/agent.sock"}),
        "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is not supported: answer with SCMP_ACT_ERRNO or SCMP_ACT_ALLOW",
    );
    refused(
        with_rule(json!({"action": "SCMP_ACT_NOTIFY"})),
        "linux.seccomp.syscalls[0]: SCMP_ACT_NOTIFY is not supported: answer with SCMP_ACT_ERRNO or SCMP_ACT_ALLOW",
    );
    refused(
        with_rule(json!({"errnoRet": 4096})),
        "linux.seccomp.syscalls[0]: errno 4096 is out of range: use 0 to 4095",
    );
    refused(
        with_rule(json!({"action": "SCMP_ACT_ALLOW", "errnoRet": 1})),
        "linux.seccomp.syscalls[0]: SCMP_ACT_ALLOW takes no errno: remove the errno, or use SCMP_ACT_ERRNO",
    );
    refused(
        with_rule(json!({"names": []})),
        "linux.seccomp.syscalls[0] names no system call: name one, or remove the rule",
    );
    refused(
        with_rule(json!({"args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
        "linux.seccomp.syscalls[0] has a condition on argument 6: system calls have the arguments 0 to 5",
    );
    let unknown = lowered(&with_rule(json!({"action": "SCMP_ACT_BLOCK"}))).unwrap_err();
    assert!(unknown.starts_with("unknown variant `SCMP_ACT_BLOCK`, expected one of `SCMP_ACT_KILL`"), "{unknown}");
}
