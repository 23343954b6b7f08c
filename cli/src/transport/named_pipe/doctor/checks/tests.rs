//! Each check with facts that are good, and with one of them changed.

use std::time::Duration;

use pipebus_client::Error;
use pipebus_proto::admin::Status;
use pipebus_proto::place::Place;
use pipebus_windows::account::Account;
use pipebus_windows::descriptor::Descriptor;
use pipebus_windows::pipe;

use super::all;
use crate::doctor::facts::{Answer, Contact, Right};
use crate::doctor::finding::{Finding, Level};
use crate::transport::named_pipe::access::Access;
use crate::transport::named_pipe::doctor::facts::{Facts, Me, Service, Start, State};
use crate::transport::named_pipe::survey::{Seen, Survey};

const ANN: &str = "S-1-5-21-1-2-3-1001";
const BOB: &str = "S-1-5-21-1-2-3-1002";

fn access(sddl: &str) -> Access {
    Access::of(&Descriptor::parse(sddl).unwrap()).unwrap()
}

/// The system bus, which the service serves and this user may use.
fn good() -> Facts {
    let right = Answer::Given(Right { allowed: true, on: "some topics or all" });
    let sddl = format!("O:SYD:P(D;;GA;;;NU)(A;;GA;;;SY)(A;;GA;;;BA)(A;;0x12019b;;;{ANN})");
    Facts {
        address: "system".into(),
        place: Place::new(r"\\.\pipe\pipebus"),
        survey: Survey::Open(Box::new(Seen {
            pipe: Ok(pipe::Facts { instances: 5, instances_max: None, out_bytes: 65536, in_bytes: 65536 }),
            server: Some(4242),
            program: Some(r"C:\Program Files\pipebus\pipebusd.exe".into()),
            access: Ok(access(&sddl)),
        })),
        me: Me {
            account: Account { sid: ANN.into(), groups: Vec::new(), only_denied: Vec::new() },
            name: r"HOST\ann".into(),
        },
        contact: Contact::Connected { after: Duration::from_millis(1) },
        status: Answer::Given(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: 4242,
            instances: 5,
            instances_max: 4096,
            ..Status::default()
        }),
        instances: Answer::Given(Vec::new()),
        crowd: Answer::Given(Some(("ann".into(), 3))),
        publish: right.clone(),
        subscribe: right,
        service: Some(Service::Installed { state: State::Running, start: Start::Automatic, exit_code: 0 }),
    }
}

/// Fails unless this check, and it alone, says that with what mends it.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), check: &str, level: Level, says: &str, mend: &str) {
    let mut facts = good();
    change(&mut facts);
    let findings = all(&facts);
    let finding = findings.iter().find(|finding| finding.check == check).expect("the check says something");
    assert_eq!(finding.level, level, "{finding:?}");
    assert!(finding.what.contains(says), "{finding:?}");
    assert!(finding.mend.as_deref().unwrap_or_default().contains(mend), "{finding:?}");
    let others = findings.iter().filter(|other| other.check != check && other.level > Level::Unknown);
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&Finding>::new());
}

fn seen(change: impl FnOnce(&mut Seen)) -> impl FnOnce(&mut Facts) {
    |facts: &mut Facts| {
        if let Survey::Open(seen) = &mut facts.survey {
            change(seen);
        }
    }
}

fn list(entries: &str) -> impl FnOnce(&mut Facts) {
    let sddl = format!("O:SY{entries}(A;;GA;;;SY)(A;;0x12019b;;;{ANN})");
    seen(move |seen| seen.access = Ok(access(&sddl)))
}

fn service(service: Service, served: bool) -> impl FnOnce(&mut Facts) {
    move |facts| {
        facts.service = Some(service);
        if !served {
            facts.contact = Contact::Failed(Error::NoBroker { path: facts.path().to_owned() });
        }
    }
}

#[test]
fn of_a_good_bus_nothing_is_bad() {
    let findings = all(&good());
    assert_eq!(
        findings.iter().filter(|finding| finding.level != Level::Ok).collect::<Vec<_>>(),
        Vec::<&Finding>::new()
    );
    assert_eq!(findings.len(), super::CHECKS.len());
}

#[test]
fn each_fault_of_the_pipe_is_told_by_its_check() {
    check(|facts| facts.survey = Survey::Absent, "pipe", Level::Problem, "no such pipe", "pipebusd service start");
    check(|facts| facts.survey = Survey::Busy, "pipe", Level::Problem, "has a client", "pipebusd service stop");
    check(|facts| facts.survey = Survey::Denied, "pipe", Level::Problem, r"HOST\ann", "door.access");
    check(|facts| facts.survey = Survey::Failed("odd".into()), "pipe", Level::Problem, "odd", r"\\.\pipe\");
    let full = |seen: &mut Seen| {
        seen.pipe = Ok(pipe::Facts { instances: 240, instances_max: Some(254), out_bytes: 1, in_bytes: 1 });
    };
    check(seen(full), "instances", Level::Warning, "240 instances of 254 that it may have; ann has 3", "users");
    check(seen(|seen| seen.program = None), "process", Level::Unknown, "may not see", "");
}

#[test]
fn a_program_that_is_no_broker_is_named() {
    let mut facts = good();
    facts.contact = Contact::Failed(Error::TimedOut { doing: "connecting", after: Duration::from_secs(5) });
    seen(|seen| seen.program = Some(r"C:\other.exe".into()))(&mut facts);
    let findings = all(&facts);
    let finding = findings.iter().find(|finding| finding.check == "process").unwrap();
    assert!(finding.level == Level::Problem && finding.what.contains("other.exe"), "{finding:?}");
}

#[test]
fn each_fault_of_the_descriptor_is_told_by_its_check() {
    let strange = format!("O:{BOB}D:P(A;;GA;;;SY)(A;;0x12019b;;;{ANN})");
    check(seen(|seen| seen.access = Ok(access(&strange))), "trust", Level::Problem, BOB, "as the service");
    check(list("D:"), "protection", Level::Warning, "not protected", "D:P");
    check(list("D:P(A;;0x12019b;;;WD)"), "openness", Level::Warning, "need not be anybody", "door.access");
    check(list(&format!("D:P(A;;GRGW;;;{BOB})")), "servers", Level::Problem, "pretend", "0x12019b");
    check(list("D:P"), "remote", Level::Unknown, "door.remote", "");
    let for_bob = format!("O:SYD:P(A;;GA;;;SY)(A;;0x12019b;;;{BOB})");
    check(seen(|seen| seen.access = Ok(access(&for_bob))), "permissions", Level::Warning, "all the same", "scan");
}

#[test]
fn a_pipe_without_a_list_is_one_problem() {
    check(seen(|seen| seen.access = Ok(access("O:SY"))), "protection", Level::Problem, "everything", "door.security");
}

#[test]
fn each_state_of_the_service_is_told() {
    let of = |state, start, exit_code| Service::Installed { state, start, exit_code };
    check(
        service(of(State::Running, Start::Manual, 0), true),
        "service",
        Level::Warning,
        "does not start with",
        "sc.exe",
    );
    check(service(of(State::Between, Start::Automatic, 0), true), "service", Level::Warning, "stopping", "again");
    check(service(of(State::Stopped, Start::Automatic, 0), true), "service", Level::Warning, "without it", "end the");
    check(service(Service::Unknown, true), "service", Level::Unknown, "does not tell", "");
    check(service(Service::NotInstalled, true), "service", Level::Ok, "not installed", "");
    let stopped = |exit_code, says: &str| {
        let mut facts = good();
        service(of(State::Stopped, Start::Automatic, exit_code), false)(&mut facts);
        let findings = all(&facts);
        let finding = findings.iter().find(|finding| finding.check == "service").unwrap();
        assert!(finding.level == Level::Problem && finding.what.contains(says), "{finding:?}");
    };
    stopped(0, "does not run");
    stopped(1066, "error 1066");
}
