//! The policy against tables and against a naive model of itself.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

const UIDS: [u32; 5] = [0, 990, 1_001, 1_002, 1_003];
const SERVER_UID: u32 = 990;
const GIDS: [u32; 3] = [50, 60, 70];
const PROGRAMS: [&str; 2] = ["/opt/gateway", "/usr/bin/python3"];
const PROVIDERS: [&str; 3] = ["openai", "anthropic", "xai"];
const MODELS: [&str; 4] = ["openai/gpt-4o", "openai/o3", "anthropic/claude", "xai/grok"];
const PATTERNS: [&str; 5] = ["openai/gpt-4o", "openai/*", "anthropic/c*", "xai/grok", "openai/o*"];

fn names() -> Names<'static> {
    Names { user: &|_| Ok(1_001), group: &|_| Ok(50) }
}

fn policy(text: &str) -> Policy {
    let rules = parse(text, &names()).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Policy { server_uid: SERVER_UID, source: Source::File { path: "policy.toml".into(), rules } }
}

fn model(name: &str) -> ModelName {
    name.parse().unwrap()
}

/// A rule as a person means it.
#[derive(Clone, Debug)]
struct Meant {
    uids: Option<Vec<u32>>,
    gids: Option<Vec<u32>>,
    program: Option<&'static str>,
    verbs: Option<Vec<&'static str>>,
    providers: Option<Vec<&'static str>>,
    patterns: Option<Vec<&'static str>>,
    count_max: Option<u32>,
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> BoxedStrategy<Vec<T>> {
    subsequence(of, 0..=of.len()).boxed()
}

/// A list as a rule may have it: an empty one is refused.
fn list_of<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> BoxedStrategy<Vec<T>> {
    subsequence(of, 1..=of.len()).boxed()
}

const VERBS: [&str; 7] =
    ["select", "track", "release", "stats", "stats-all", "release-all", "reload"];

fn meant() -> impl Strategy<Value = Meant> {
    let what = (option::of(some_of(&VERBS)), option::of(list_of(&PROVIDERS)));
    let who =
        (option::of(list_of(&UIDS)), option::of(list_of(&GIDS)), option::of(select(&PROGRAMS[..])));
    (who, what, option::of(list_of(&PATTERNS)), option::of(1u32..4)).prop_map(
        |((uids, gids, program), (verbs, providers), patterns, count_max)| {
            // Who names nobody would end the list for everyone.
            let is_everyone = uids.is_none() && gids.is_none() && program.is_none();
            let uids = if is_everyone { Some(vec![1_003]) } else { uids };
            // A pattern that the providers never let through is refused.
            let patterns = match &providers {
                Some(providers) => patterns.map(|patterns| {
                    let fits =
                        |pattern: &&str| providers.contains(&pattern.split('/').next().unwrap());
                    patterns.into_iter().filter(fits).collect::<Vec<_>>()
                }),
                None => patterns,
            };
            let patterns = patterns.filter(|patterns| !patterns.is_empty());
            Meant { uids, gids, program, verbs, providers, patterns, count_max }
        },
    )
}

fn text(rules: &[Meant]) -> String {
    let mut text = String::new();
    for (number, rule) in rules.iter().enumerate() {
        writeln!(text, "[[rule]]\nname = \"rule {number}\"").unwrap();
        let mut list = |name: &str, list: Option<String>| {
            if let Some(list) = list {
                writeln!(text, "{name} = {list}").unwrap();
            }
        };
        list("uid", rule.uids.as_ref().map(|uids| format!("{uids:?}")));
        list("gid", rule.gids.as_ref().map(|gids| format!("{gids:?}")));
        list("executable", rule.program.map(|path| format!("{path:?}")));
        list("verbs", rule.verbs.as_ref().map(|verbs| format!("{verbs:?}")));
        let providers = rule.providers.as_ref().map(|names| format!("{names:?}"));
        let nothing_named = rule.providers.is_none() && rule.patterns.is_none();
        list("providers", providers.or(nothing_named.then(|| "\"*\"".to_owned())));
        list("models", rule.patterns.as_ref().map(|patterns| format!("{patterns:?}")));
        list("count_max", rule.count_max.map(|max| max.to_string()));
    }
    text
}

/// One question.
#[derive(Clone, Debug)]
struct Cell {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    program: Option<&'static str>,
    verb: &'static str,
    model: Option<&'static str>,
    count: u32,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for uid in UIDS {
        for (gid, groups) in [(100, vec![]), (50, vec![]), (100, vec![60, 70])] {
            for program in [None, Some(PROGRAMS[0]), Some(PROGRAMS[1])] {
                let of = |verb, model, count| Cell {
                    uid,
                    gid,
                    groups: groups.clone(),
                    program,
                    verb,
                    model,
                    count,
                };
                for model in MODELS {
                    cells.push(of("select", Some(model), 1));
                    cells.push(of("select", Some(model), 3));
                }
                cells.extend(VERBS[1..].iter().map(|verb| of(verb, None, 0)));
            }
        }
    }
    cells
}

/// The rules again, in the words of docs/policy.md.
fn naive(rules: &[Meant], cell: &Cell) -> (Option<usize>, bool) {
    let is_operator = cell.uid == 0 || cell.uid == SERVER_UID;
    if is_operator && !["select", "track"].contains(&cell.verb) {
        return (None, true);
    }
    for (number, rule) in rules.iter().enumerate() {
        if rule.uids.as_ref().is_some_and(|uids| !uids.contains(&cell.uid)) {
            continue;
        }
        let mut groups = cell.groups.clone();
        groups.push(cell.gid);
        if rule.gids.as_ref().is_some_and(|gids| !groups.iter().any(|gid| gids.contains(gid))) {
            continue;
        }
        if rule.program.is_some() && rule.program != cell.program {
            continue;
        }
        let verbs = rule.verbs.clone().unwrap_or(vec!["select", "track", "release", "stats"]);
        let wide = format!("{}-all", cell.verb);
        let mut allowed = verbs.contains(&cell.verb) || verbs.contains(&wide.as_str());
        if let Some(model) = cell.model {
            let provider = model.split('/').next().unwrap();
            allowed &= rule.providers.as_ref().is_none_or(|names| names.contains(&provider));
            let fits = |pattern: &&str| match pattern.strip_suffix('*') {
                Some(start) => model.starts_with(start),
                None => model == *pattern,
            };
            allowed &= rule.patterns.as_ref().is_none_or(|patterns| patterns.iter().any(fits));
            allowed &= rule.count_max.is_none_or(|max| cell.count <= max);
        }
        return (Some(number), allowed);
    }
    (None, false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_cell_of_a_matrix_is_as_the_words_say(rules in vec(meant(), 0..6)) {
        let text = text(&rules);
        let policy = policy(&text);
        let cells = cells();
        prop_assert!(cells.len() >= 500);
        for cell in cells {
            let models: Vec<ModelName> = cell.model.into_iter().map(model).collect();
            let subject = Subject {
                uid: cell.uid, gid: cell.gid, groups: &cell.groups, executable: cell.program,
            };
            let verb = Verb::named(cell.verb).unwrap();
            let ask = Ask { verb, models: &models, count: cell.count };
            let decision = policy.decide(&subject, &ask);
            let rule = match decision.ground {
                Ground::Rule(rule) => Some(rule.name["rule ".len()..].parse().unwrap()),
                _ => None,
            };
            prop_assert_eq!((rule, decision.is_allowed()), naive(&rules, &cell), "{:?}\n{}", cell, text);
        }
    }
}

const TABLE: &str = "\
[[rule]]
name = \"gateway\"
uid = 1001
executable = \"/opt/gateway\"
providers = [\"*\"]

[[rule]]
name = \"shut out\"
uid = 1002
verbs = []

[[rule]]
name = \"team\"
gid = 50
models = [\"openai/gpt-4o\", \"anthropic/*\"]
count_max = 2

[[rule]]
name = \"watcher\"
uid = 1003
verbs = [\"stats-all\"]
";

#[test]
fn the_first_rule_that_fits_decides_and_nothing_after_it() {
    let policy = policy(TABLE);
    let select = |model: &'static str| ("select", Some(model));
    let plain = |verb: &'static str| (verb, None);
    for (uid, gid, program, (verb, model_name), expected) in [
        (1_001, 50, Some("/opt/gateway"), select("xai/grok"), "gateway"),
        (1_001, 50, Some("/opt/other"), select("xai/grok"), "team: Model"),
        (1_001, 50, None, select("openai/gpt-4o"), "team"),
        (1_001, 100, Some("/opt/other"), select("openai/gpt-4o"), "nobody: Caller"),
        (1_002, 50, None, select("openai/gpt-4o"), "shut out: Verb"),
        (1_002, 50, None, plain("track"), "shut out: Verb"),
        (1_003, 50, None, plain("stats-all"), "team: Verb"),
        (1_003, 100, None, plain("stats-all"), "watcher"),
        (1_003, 100, None, plain("stats"), "watcher"),
        (1_003, 100, None, plain("reload"), "watcher: Verb"),
        (1_003, 100, None, select("openai/gpt-4o"), "watcher: Verb"),
        (0, 0, None, plain("reload"), "operator"),
        (0, 0, None, select("openai/gpt-4o"), "nobody: Caller"),
        (SERVER_UID, 100, None, plain("release-all"), "operator"),
        (SERVER_UID, 50, None, select("anthropic/claude"), "team"),
        (4_000, 100, None, plain("track"), "nobody: Caller"),
    ] {
        let models: Vec<ModelName> = model_name.into_iter().map(model).collect();
        let subject = Subject { uid, gid, groups: &[], executable: program };
        let ask = Ask { verb: Verb::named(verb).unwrap(), models: &models, count: 2 };
        let decision = policy.decide(&subject, &ask);
        let ground = match decision.ground {
            Ground::Rule(rule) => rule.name.to_string(),
            Ground::Operator => "operator".to_owned(),
            Ground::NoRule | Ground::NoFile => "nobody".to_owned(),
        };
        let seen = match decision.denial {
            None => ground,
            Some(Denial::Caller) => format!("{ground}: Caller"),
            Some(Denial::Verb) => format!("{ground}: Verb"),
            Some(Denial::Model(_)) => format!("{ground}: Model"),
            Some(Denial::Count(max)) => format!("{ground}: Count {max}"),
        };
        assert_eq!(seen, expected, "{uid} {gid} {program:?} {verb} {model_name:?}");
    }
}

#[test]
fn a_rule_behind_one_that_fits_all_whom_it_fits_is_told_of() {
    let rules = |who: &[&str]| {
        let rule = |(number, who)| format!("[[rule]]\nname = \"{number}\"\n{who}\nverbs = []\n");
        let text: String = who.iter().enumerate().map(rule).collect();
        parse(&text, &names()).unwrap()
    };
    for (who, behind) in [
        (&["uid = [1, 2]", "uid = 2"][..], &[5][..]),
        (&["uid = 2", "uid = [1, 2]"], &[]),
        (&["uid = 1", "uid = 1\ngid = 5"], &[5]),
        (&["uid = 1\ngid = 5", "uid = 1"], &[]),
        (&["uid = 1", "gid = 5"], &[]),
        (&["gid = [5, 6]", "executable = \"/a\"\ngid = 6", "gid = 7"], &[5]),
        (&["executable = \"/a\"", "executable = [\"/a\", \"/b\"]", "executable = \"/b\""], &[9]),
    ] {
        let lines: Vec<u32> =
            shadowed(&rules(who)).iter().filter_map(|problem| problem.line).collect();
        assert_eq!(lines, behind, "{who:?}");
    }
}

#[test]
fn without_a_file_keys_are_for_root_the_servers_uid_and_the_sockets_owner_and_group() {
    for (socket_gid, uid, groups, verb, is_allowed) in [
        (None, 0, &[][..], Verb::Select, true),
        (None, SERVER_UID, &[], Verb::Select, true),
        (None, SERVER_UID, &[], Verb::Reload, true),
        (None, 1_001, &[], Verb::Select, false),
        (None, 1_001, &[], Verb::Stats, false),
        (Some(50), 1_001, &[], Verb::Select, false),
        (None, 1_002, &[], Verb::Select, true),
        (None, 1_002, &[], Verb::Reload, false),
        (Some(50), 1_001, &[60, 50], Verb::Select, true),
        (Some(50), 1_001, &[50], Verb::Track, true),
        (Some(50), 1_001, &[50], Verb::Reload, false),
        (Some(50), 1_001, &[50], Verb::StatsAll, false),
        (Some(50), 1_001, &[50], Verb::ReleaseAll, false),
        (Some(100), 1_001, &[], Verb::Select, true),
    ] {
        let policy = Policy {
            server_uid: SERVER_UID,
            source: Source::None { socket_uid: Some(1_002), socket_gid },
        };
        let subject = Subject { uid, gid: 100, groups, executable: None };
        let decision = policy.decide(&subject, &Ask::of(verb));
        assert_eq!(decision.is_allowed(), is_allowed, "{socket_gid:?} {uid} {groups:?} {verb:?}");
    }
}

#[test]
fn the_examples_of_the_page_are_right() {
    let page = include_str!("../../../docs/policy.md");
    let blocks = page.split("```toml\n").skip(1);
    let examples: Vec<_> = blocks.map(|block| block.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let rules = parse(example, &names());
        assert!(rules.is_ok(), "{rules:?}\n{example}");
    }
}
