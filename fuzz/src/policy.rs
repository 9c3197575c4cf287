//! The policy file, and what it lets callers do.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use key_server_core::ModelName;
use key_server_ledger::Caller;
use key_server_server::access::Access;
use key_server_server::config::{Settings, Sources, resolve};
use key_server_server::guard::{Guard, Peer};
use key_server_server::policy::{
    Ask, Ground, Limits, Pattern, Policy, Rule, Source, Subject, Verb, load,
};
use key_server_testkit::clock::ManualClock;

use crate::scratch;

static SETTINGS: LazyLock<Settings> =
    LazyLock::new(|| resolve(&Sources::default()).expect("the defaults are right").0);

const MODELS: [&str; 4] = ["openai/gpt-4o", "openai/o3", "anthropic/claude", "acme/org/tiny"];
const UIDS: [u32; 4] = [0, 990, 1_001, u32::MAX - 1];
const SERVER_UID: u32 = 990;
const STRANGER: u32 = 4_294_000_001;
const COUNTS: [u32; 3] = [1, 3, u32::MAX];
/// How much of a policy is put to the question.
const RULES_ASKED_MAX: usize = 3;

/// A policy file of these bytes is taken as a whole, or everything wrong with
/// it is named, and nothing that looks like a key is. What is taken decides
/// each question in one way, in the guard as for who asks `policy explain`, and
/// denies whom no rule fits.
pub fn run(bytes: &[u8]) {
    scratch::within(|dir| {
        let path = scratch::write(dir, "policy.toml", bytes);
        let own_uid =
            std::os::unix::fs::MetadataExt::uid(&path.metadata().expect("it was written just now"));
        match load(&path, own_uid) {
            Ok(rules) => is_one_answer(rules, &path, own_uid),
            Err(error) => {
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
                assert!(!error.problems.is_empty());
                for problem in &error.problems {
                    assert!(!problem.message.is_empty());
                    assert!(problem.line.is_none_or(|line| (1..=lines).contains(&(line as usize))));
                    assert!(problem.message.len() < 1_024, "{}", problem.message);
                    has_no_key(&problem.to_string());
                }
            }
        }
    });
}

/// Words as a person reads them; a key is one of them.
fn has_no_key(text: &str) {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_key = |word: &str| {
        let is_numbered = word.contains(|c: char| c.is_ascii_digit());
        is_numbered && word.to_ascii_lowercase().starts_with("sk-fake-")
    };
    assert!(!text.split(|c| !is_of_word(c)).any(is_key), "{text}");
}

fn is_one_answer(rules: Vec<Rule>, path: &Path, own_uid: u32) {
    let clock = Arc::new(ManualClock::default());
    let access = Access::open(Some(path.to_owned()), own_uid, clock).expect("it was read before");
    let in_force = access.policy();
    let Source::File { rules: again, .. } = &in_force.source else { panic!("there is a file") };
    assert_eq!(&rules, again, "what was read twice is the same");
    let guard = Guard::new(&SETTINGS, Arc::new(access));
    // Of the same rules; but who runs the server is of little interest.
    let source = Source::File { path: path.to_owned(), rules };
    let policy = Policy { server_uid: SERVER_UID, source };
    let Source::File { rules, .. } = &policy.source else { unreachable!("it was made so") };
    let models = models(rules);
    for subject in subjects(rules) {
        let groups: Arc<[u32]> = subject.groups.into();
        let caller = Caller {
            uid: subject.uid,
            gid: subject.gid,
            pid: 1,
            started_ms: None,
            exe: subject.executable.map(Into::into),
        };
        let peer = Peer { caller: Arc::new(caller), groups };
        for ask in asks(&models) {
            denies_by_default(&policy, rules, &subject, &ask);
            let explained = in_force.decide(&subject, &ask);
            assert_eq!(explained, in_force.decide(&subject, &ask));
            let granted = match ask.verb {
                Verb::Select => guard.allow_select(&peer, ask.models, ask.count),
                verb => guard.allow(&peer, verb),
            };
            match granted {
                Ok(_) => assert!(explained.is_allowed(), "{subject:?} {ask:?} {explained:?}"),
                Err(error) => {
                    assert!(!explained.is_allowed(), "{subject:?} {ask:?} {explained:?}");
                    let is_denial = ["POLICY_DENIED", "OPERATORS_ONLY"].contains(&error.reason);
                    assert!(is_denial && !error.message.is_empty(), "{error:?}");
                    has_no_key(&format!("{} {:?}", error.message, error.metadata));
                }
            }
        }
    }
}

/// The rule of a caller, looked for again in the words of `docs/policy.md`.
fn denies_by_default(policy: &Policy, rules: &[Rule], subject: &Subject<'_>, ask: &Ask<'_>) {
    let decision = policy.decide(subject, ask);
    let is_operator = subject.uid == 0 || subject.uid == SERVER_UID;
    let looks_after = !matches!(ask.verb, Verb::Select | Verb::Track);
    if is_operator && looks_after {
        assert_eq!(decision.ground, Ground::Operator);
        return;
    }
    let own = rules.iter().find(|rule| {
        let who = &rule.who;
        let is_member = |gid: &u32| *gid == subject.gid || subject.groups.contains(gid);
        let is_program = |path: &String| Some(path.as_str()) == subject.executable;
        who.uids.as_ref().is_none_or(|uids| uids.contains(&subject.uid))
            && who.gids.as_ref().is_none_or(|gids| gids.iter().any(is_member))
            && who.executables.as_ref().is_none_or(|paths| paths.iter().any(is_program))
    });
    let Some(own) = own else {
        assert_eq!(decision.ground, Ground::NoRule, "{subject:?}");
        assert!(!decision.is_allowed(), "{subject:?} {ask:?}");
        return;
    };
    assert_eq!(decision.ground, Ground::Rule(own));
    if decision.is_allowed() {
        let wide = format!("{}-all", ask.verb.name());
        let is_named = |verb: &Verb| *verb == ask.verb || verb.name() == wide;
        assert!(own.verbs.iter().any(is_named), "{ask:?} by {own:?}");
        for model in ask.models {
            let is_of = |name: &String| name == model.provider();
            assert!(own.providers.as_ref().is_none_or(|names| names.iter().any(is_of)));
            let fits = |pattern: &Pattern| match pattern {
                Pattern::Exactly(name) => model.as_str() == name,
                Pattern::Beginning(start) => model.as_str().starts_with(start.as_str()),
            };
            assert!(own.models.as_ref().is_none_or(|models| models.iter().any(fits)));
        }
        let Limits { count_max, .. } = own.limits;
        assert!(count_max.is_none_or(|max| ask.count <= max), "{ask:?} by {own:?}");
    }
}

/// Callers that nobody thought of, and those that the rules name.
fn subjects(rules: &[Rule]) -> Vec<Subject<'_>> {
    let asked = || rules.iter().take(RULES_ASKED_MAX).map(|rule| &rule.who);
    let mut uids = UIDS.to_vec();
    uids.extend(asked().filter_map(|who| who.uids.as_ref()?.first().copied()));
    let mut executables = vec![None, Some("/opt/gateway")];
    executables
        .extend(asked().filter_map(|who| Some(Some(who.executables.as_ref()?.first()?.as_str()))));
    let mut groups = vec![(STRANGER, &[][..]), (50, &[60, 70][..])];
    groups.extend(asked().filter_map(|who| Some((STRANGER, who.gids.as_ref()?.get(..1)?))));
    let mut subjects = Vec::new();
    for uid in uids {
        let of = |executable, (gid, groups)| Subject { uid, gid, groups, executable };
        subjects.extend(executables.iter().map(|executable| of(*executable, groups[0])));
        subjects.extend(groups[1..].iter().map(|groups| of(None, *groups)));
    }
    subjects
}

fn models(rules: &[Rule]) -> Vec<ModelName> {
    let mut models: Vec<ModelName> =
        MODELS.iter().map(|name| name.parse().expect("it is a model's name")).collect();
    let named = rules.iter().take(RULES_ASKED_MAX).filter_map(|rule| rule.models.as_ref()?.first());
    models.extend(named.filter_map(|pattern| match pattern {
        Pattern::Exactly(name) => name.parse::<ModelName>().ok(),
        Pattern::Beginning(start) => format!("{start}x").parse().ok(),
    }));
    models
}

fn asks(models: &[ModelName]) -> Vec<Ask<'_>> {
    let mut asks: Vec<Ask<'_>> =
        Verb::ALL.into_iter().filter(|verb| *verb != Verb::Select).map(Ask::of).collect();
    let select = |models, count| Ask { verb: Verb::Select, models, count };
    asks.extend(models.chunks(1).map(|one| select(one, 1)));
    asks.extend(COUNTS.map(|count| select(models, count)));
    asks.extend(COUNTS.map(|count| select(&models[..1], count)));
    asks
}
