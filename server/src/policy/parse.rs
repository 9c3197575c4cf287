//! From the text of a policy file to its rules, or to all that is wrong in it.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Limits, Pattern, Problem, Rule, Verb, Who};

/// What a rule may say.
const FIELDS: [&str; 14] = [
    "name",
    "everyone",
    "uid",
    "user",
    "gid",
    "group",
    "executable",
    "verbs",
    "providers",
    "models",
    "count_max",
    "sessions_max",
    "keys_per_minute",
    "tokens_per_minute",
];
/// The lists of which a caller or a model must fit one: an empty one fits none.
const LISTS: [&str; 7] = ["uid", "user", "gid", "group", "executable", "providers", "models"];
const RULE: &str = "rule";
const NAME_BYTES_MAX: usize = 64;
/// How alike a name must be to be suggested (Jaro-Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.7;
/// How keys of providers and tokens begin, in lower case.
const KEY_BEGINNINGS: [&str; 10] =
    ["sk-", "sk_", "xai-", "gsk_", "aiza", "akia", "hf_", "r8_", "hvs.", "age-secret-key-"];
/// So many letters and digits in a row are no word that a person chose.
const KEY_RUN_CHARS_MIN: usize = 20;
/// Messages do not repeat more of a text.
const SHOWN_CHARS_MAX: usize = 64;

/// How names of users and groups become numbers; the error says what to do.
pub struct Names<'a> {
    /// The uid of a user.
    pub user: &'a dyn Fn(&str) -> Result<u32, String>,
    /// The gid of a group.
    pub group: &'a dyn Fn(&str) -> Result<u32, String>,
}

/// The rules of a policy file, in their order.
///
/// # Errors
/// Everything that is wrong, by line.
pub fn parse(text: &str, names: &Names<'_>) -> Result<Vec<Rule>, Vec<Problem>> {
    let mut reader = Reader { text, names, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            reader.problem(error.span().unwrap_or_default(), error.message());
        }
        return Err(reader.problems);
    }
    let rules = reader.rules(table.get_ref());
    reader.check_order(&rules);
    if reader.problems.is_empty() {
        return Ok(rules);
    }
    reader.problems.sort_by_key(|problem| problem.line);
    Err(reader.problems)
}

/// What a text is read with, and what was found wrong so far.
struct Reader<'t> {
    text: &'t str,
    names: &'t Names<'t>,
    problems: Vec<Problem>,
}

type Field<'t> = Spanned<DeValue<'t>>;

/// The fields of one rule.
struct Fields<'t> {
    table: HashMap<&'t str, &'t Field<'t>>,
    span: Range<usize>,
}

impl Reader<'_> {
    fn line(&self, place: usize) -> u32 {
        let before = self.text.get(..place).unwrap_or(self.text);
        u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX)
    }

    fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        let line = Some(self.line(span.start));
        self.problems.push(Problem { line, message: message.into() });
    }

    fn rules(&mut self, table: &DeTable<'_>) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (key, value) in table {
            if key.get_ref() != RULE {
                let (near, name) = (near(key.get_ref(), &[RULE]), shown(key.get_ref()));
                let message = format!("{name:?} is not known here{near}; write [[rule]]");
                self.problem(key.span(), message);
                continue;
            }
            let list = value.get_ref().as_array();
            let tables = list.filter(|list| list.iter().all(|one| one.get_ref().is_table()));
            let Some(tables) = tables else {
                self.problem(key.span(), "a rule begins with [[rule]], in double brackets");
                continue;
            };
            let read =
                tables.iter().filter_map(|one| self.rule(one.get_ref().as_table()?, one.span()));
            rules.extend(read.collect::<Vec<_>>());
        }
        rules
    }

    /// None when it is wrong.
    fn rule(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<Rule> {
        let before = self.problems.len();
        for key in table.keys().filter(|key| !FIELDS.contains(&key.get_ref().as_ref())) {
            let near = near(key.get_ref(), &FIELDS);
            self.problem(key.span(), format!("a rule has no {:?}{near}", shown(key.get_ref())));
        }
        let fields = Fields {
            table: table.iter().map(|(key, value)| (key.get_ref().as_ref(), value)).collect(),
            span: span.clone(),
        };
        self.check_lists(&fields);
        let name = self.name(&fields);
        let who = self.who(&fields);
        let verbs = self.verbs(&fields);
        let (providers, models) = (self.providers(&fields), self.models(&fields));
        if verbs.contains(&Verb::Select) && !fields.has("providers") && !fields.has("models") {
            let message = "it allows select and names neither providers nor models; write \
                           providers = [\"*\"] for all";
            self.problem(span.clone(), message);
        }
        self.check_models(&fields, providers.as_deref(), models.as_deref());
        let limits = Limits {
            count_max: self.limit(&fields, "count_max").map(saturated),
            sessions_max: self.limit(&fields, "sessions_max").map(saturated),
            keys_per_minute: self.limit(&fields, "keys_per_minute"),
            tokens_per_minute: self.limit(&fields, "tokens_per_minute"),
        };
        let line = self.line(span.start);
        let is_right = self.problems.len() == before;
        is_right.then(|| Rule { name: name.into(), line, who, verbs, providers, models, limits })
    }

    /// A rule that fits nobody would leave its callers to the next one.
    fn check_lists(&mut self, fields: &Fields<'_>) {
        for name in LISTS {
            let Some(field) = fields.table.get(name) else { continue };
            if field.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                let message = format!(
                    "{name} is an empty list, which nothing fits: leave it out; to shut out, \
                     write verbs = []"
                );
                self.problem(field.span(), message);
            }
        }
    }

    fn name(&mut self, fields: &Fields<'_>) -> String {
        let Some(field) = fields.table.get("name") else {
            self.problem(
                fields.span.clone(),
                "it has no name; give it one, as in name = \"billing\"",
            );
            return String::new();
        };
        let name = field.get_ref().as_str().unwrap_or_default();
        let is_name =
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        if !is_name {
            let message = format!("name must be a text of 1 to {NAME_BYTES_MAX} bytes on one line");
            self.problem(field.span(), message);
        } else if is_like_a_key(name) {
            let message = "name looks like a key; choose another, for callers are told it";
            self.problem(field.span(), message);
        }
        name.to_owned()
    }

    fn who(&mut self, fields: &Fields<'_>) -> Who {
        let mut uids = self.numbers(fields, "uid");
        self.add_named(fields, "user", &mut uids);
        let mut gids = self.numbers(fields, "gid");
        self.add_named(fields, "group", &mut gids);
        let executables = self.texts(fields, "executable");
        for (path, span) in executables.iter().flatten().filter(|(path, _)| !is_whole(path)) {
            let path = shown(path);
            let message = format!(
                "executable {path:?} must be one whole path, from / on, as the kernel names it: \
                 without *, . and .."
            );
            self.problem(span.clone(), message);
        }
        let named = ["uid", "user", "gid", "group", "executable"];
        let names_some = named.into_iter().any(|name| fields.has(name));
        let everyone = fields.table.get("everyone");
        match everyone.map(|field| (field.get_ref().as_bool(), field.span())) {
            Some((Some(true), _)) if !names_some => {}
            Some((Some(true), span)) => {
                self.problem(
                    span,
                    "everyone = true fits everybody: leave it out, or what else says whom",
                );
            }
            Some((_, span)) => {
                self.problem(span, "everyone can only be true; leave it out otherwise")
            }
            None if !names_some => {
                let message = "it fits nobody: name uid, user, gid, group or executable, or \
                               write everyone = true";
                self.problem(fields.span.clone(), message);
            }
            None => {}
        }
        let executables =
            executables.map(|paths| paths.into_iter().map(|(path, _)| path).collect());
        Who { uids, gids, executables }
    }

    /// Adds users or groups by their names.
    fn add_named(&mut self, fields: &Fields<'_>, field: &'static str, ids: &mut Option<Vec<u32>>) {
        let Some(named) = self.texts(fields, field) else { return };
        let ids = ids.get_or_insert_default();
        for (name, span) in named {
            let look_up = if field == "user" { self.names.user } else { self.names.group };
            match look_up(&name) {
                Ok(id) => ids.push(id),
                Err(error) => self.problem(span, format!("{field} {:?}: {error}", shown(&name))),
            }
        }
    }

    fn verbs(&mut self, fields: &Fields<'_>) -> Vec<Verb> {
        let Some(named) = self.texts(fields, "verbs") else { return Verb::OF_APPLICATIONS.into() };
        let names = Verb::ALL.map(Verb::name);
        let mut verbs = Vec::new();
        for (name, span) in named {
            match Verb::named(&name) {
                Some(verb) => verbs.push(verb),
                None => {
                    let (near, name) = (near(&name, &names), shown(&name));
                    let message = format!("there is no verb {name:?}{near} ({})", names.join(", "));
                    self.problem(span, message);
                }
            }
        }
        verbs
    }

    fn providers(&mut self, fields: &Fields<'_>) -> Option<Vec<String>> {
        let named = self.texts(fields, "providers")?;
        if named.iter().any(|(name, _)| name == "*") {
            return None;
        }
        for (name, span) in named.iter().filter(|(name, _)| !is_part(name) || name.contains('/')) {
            let name = shown(name);
            let message = format!("{name:?} is no provider; write its name, as in openai");
            self.problem(span.clone(), message);
        }
        Some(named.into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect())
    }

    fn models(&mut self, fields: &Fields<'_>) -> Option<Vec<Pattern>> {
        let named = self.texts(fields, "models")?;
        let mut patterns = Vec::new();
        for (name, span) in named {
            match pattern(&name) {
                Some(pattern) => patterns.push(pattern),
                None => {
                    let name = shown(&name);
                    let message = format!(
                        "{name:?} is no model; write provider/model, with a * only at the end"
                    );
                    self.problem(span, message);
                }
            }
        }
        Some(patterns)
    }

    /// A model of a provider that the rule does not name would never fit.
    fn check_models(
        &mut self,
        fields: &Fields<'_>,
        providers: Option<&[String]>,
        models: Option<&[Pattern]>,
    ) {
        let Some(field) = fields.table.get("models") else { return };
        for model in models.into_iter().flatten() {
            let (Pattern::Exactly(text) | Pattern::Beginning(text)) = model;
            let provider = text.split('/').next().unwrap_or_default();
            if providers.is_some_and(|providers| !providers.iter().any(|name| name == provider)) {
                let (text, provider) = (shown(text), shown(provider));
                let message =
                    format!("{text} can never fit: {provider} is not among the rule's providers");
                self.problem(field.span(), message);
            }
        }
    }

    fn check_order(&mut self, rules: &[Rule]) {
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut everyone: Option<&Rule> = None;
        for rule in rules {
            let at = |message| Problem { line: Some(rule.line), message };
            if let Some(line) = names.insert(&rule.name, rule.line) {
                let name = shown(&rule.name);
                self.problems
                    .push(at(format!("the name {name:?} is taken by the rule of line {line}")));
            }
            if let Some(first) = everyone {
                let message = format!(
                    "no caller ever comes to it: the rule of line {} is for everyone; move it up",
                    first.line
                );
                self.problems.push(at(message));
            } else if rule.who.is_everyone() {
                everyone = Some(rule);
            }
        }
    }

    fn limit(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<u64> {
        let field = fields.table.get(name)?;
        let number = number(field.get_ref()).filter(|number| *number > 0);
        if number.is_none() {
            self.problem(
                field.span(),
                format!("{name} must be a whole number from 1 on; no limit: leave it out"),
            );
        }
        number
    }

    fn numbers(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<Vec<u32>> {
        let field = fields.table.get(name)?;
        let mut numbers = Vec::new();
        for one in one_or_many(field) {
            match number(one.get_ref()).and_then(|number| u32::try_from(number).ok()) {
                Some(number) => numbers.push(number),
                None => self
                    .problem(one.span(), format!("{name} must be a number, or a list of numbers")),
            }
        }
        Some(numbers)
    }

    fn texts(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
    ) -> Option<Vec<(String, Range<usize>)>> {
        let field = fields.table.get(name)?;
        let mut texts = Vec::new();
        for one in one_or_many(field) {
            match one.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), one.span())),
                None => {
                    self.problem(one.span(), format!("{name} must be a text, or a list of texts"))
                }
            }
        }
        Some(texts)
    }
}

impl Fields<'_> {
    fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }
}

fn one_or_many<'t>(field: &'t Field<'t>) -> Vec<&'t Field<'t>> {
    match field.get_ref().as_array() {
        Some(list) => list.iter().collect(),
        None => vec![field],
    }
}

fn number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn pattern(text: &str) -> Option<Pattern> {
    let start = text.strip_suffix('*');
    let (provider, model) = start.unwrap_or(text).split_once('/')?;
    let name = format!("{}/{model}", provider.to_ascii_lowercase());
    let is_right = is_part(provider) && !model.contains('*') && model.chars().all(is_plain);
    match start {
        Some(_) if is_right => Some(Pattern::Beginning(name)),
        None if is_right && !model.is_empty() => Some(Pattern::Exactly(name)),
        _ => None,
    }
}

/// Whether a program can have this path: the kernel names no other.
fn is_whole(path: &str) -> bool {
    let Some(parts) = path.strip_prefix('/') else { return false };
    !path.contains('*') && parts.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_part(text: &str) -> bool {
    !text.is_empty() && !text.contains('*') && text.chars().all(is_plain)
}

fn is_plain(c: char) -> bool {
    !c.is_whitespace() && !c.is_control()
}

/// A text of the file as a message may repeat it: not at length, and not when
/// it may be a key that got into the wrong place.
fn shown(text: &str) -> String {
    if is_like_a_key(text) {
        return "********".to_owned();
    }
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_like_a_key(text: &str) -> bool {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_number = |c: char| c.is_ascii_digit();
    text.split(|c| !is_of_word(c)).filter(|word| word.contains(is_number)).any(|word| {
        let word = word.to_ascii_lowercase();
        let mut runs = word.split(|c: char| !c.is_ascii_alphanumeric());
        KEY_BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
            || runs.any(|run| {
                run.len() >= KEY_RUN_CHARS_MIN
                    && run.contains(is_number)
                    && run.contains(|c: char| c.is_ascii_alphabetic())
            })
    })
}

fn near(name: &str, known: &[&str]) -> String {
    let likeness = |known: &&str| strsim::jaro_winkler(name, known);
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|known| likeness(known) > LIKENESS_MIN) {
        Some(known) => format!("; did you mean {known}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Rule>, Vec<String>> {
        let known = |name: &str| match name {
            "billing" | "team" => Ok(1_001),
            _ => Err("there is none of this name".to_owned()),
        };
        let rules = parse(text, &Names { user: &known, group: &known });
        rules.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_rule_says_who_may_do_what_and_how_much_of_it() {
        let text = "
[[rule]]
name = \"billing\"
user = \"billing\"
uid = [7, 8]
group = [\"team\"]
gid = 5
executable = \"/opt/gateway\"
verbs = [\"select\", \"stats-all\"]
providers = \"OpenAI\"
models = [\"OpenAI/gpt-4o\", \"openai/o*\", \"openai/*\"]
count_max = 4
sessions_max = 10
keys_per_minute = 600
tokens_per_minute = 1_000_000

[[rule]]
name = \"rest\"
everyone = true
providers = [\"*\"]
";
        let rules = read(text).unwrap();
        assert_eq!((rules[0].line, rules[1].line), (2, 17));
        let expected = Rule {
            name: "billing".into(),
            line: 2,
            who: Who {
                uids: Some(vec![7, 8, 1_001]),
                gids: Some(vec![5, 1_001]),
                executables: Some(vec!["/opt/gateway".into()]),
            },
            verbs: vec![Verb::Select, Verb::StatsAll],
            providers: Some(vec!["openai".into()]),
            models: Some(vec![
                Pattern::Exactly("openai/gpt-4o".into()),
                Pattern::Beginning("openai/o".into()),
                Pattern::Beginning("openai/".into()),
            ]),
            limits: Limits {
                count_max: Some(4),
                sessions_max: Some(10),
                keys_per_minute: Some(600),
                tokens_per_minute: Some(1_000_000),
            },
        };
        assert_eq!(rules[0], expected);
        assert!(rules[1].who.is_everyone());
        assert_eq!(rules[1].verbs, Verb::OF_APPLICATIONS);
        assert_eq!((&rules[1].providers, &rules[1].models), (&None, &None));
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text = "\
rul = 1
[[rule]]
name = \"\"
usr = \"billing\"
user = \"biling\"
verbs = [\"selekt\"]
[[rule]]
uid = -1
executable = \"gateway\"
models = [\"gpt-4o\", \"openai/*o\"]
count_max = 0
[[rule]]
name = \"a\"
verbs = [\"select\"]
[[rule]]
name = \"b\"
everyone = true
uid = 1
providers = [\"anthropic\"]
models = [\"openai/gpt-4o\"]
";
        let problems = read(text).unwrap_err();
        let expected = [
            "line 1: \"rul\" is not known here; did you mean rule?; write [[rule]]",
            "line 3: name must be a text",
            "line 4: a rule has no \"usr\"; did you mean user?",
            "line 5: user \"biling\": there is none of this name",
            "line 6: there is no verb \"selekt\"; did you mean select?",
            "line 7: it has no name",
            "line 8: uid must be a number",
            "line 9: executable \"gateway\" must be one whole path",
            "line 10: \"gpt-4o\" is no model",
            "line 10: \"openai/*o\" is no model",
            "line 11: count_max must be a whole number from 1 on",
            "line 12: it fits nobody",
            "line 12: it allows select and names neither providers nor models",
            "line 17: everyone = true fits everybody",
            "line 20: openai/gpt-4o can never fit",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem} is not {expected}");
        }
    }

    #[test]
    fn what_fits_nobody_is_refused_for_it_would_leave_callers_to_the_next_rule() {
        let read = |line: &str| {
            let rule = "[[rule]]\nname = \"a\"\nuid = 7\nproviders = \"*\"\n";
            read(&match line.split_once(' ').unwrap().0 {
                field @ ("uid" | "providers") => {
                    let lines = rule.lines().filter(|line| !line.starts_with(field));
                    lines.chain([line]).collect::<Vec<_>>().join("\n")
                }
                _ => format!("{rule}{line}"),
            })
        };
        for path in ["/opt/*", "/opt/../bin/x", "/opt/./x", "/opt//x", "/opt/x/", "/", "opt/x", ""]
        {
            let problems = read(&format!("executable = {path:?}")).unwrap_err();
            assert!(problems[0].contains("must be one whole path"), "{path}: {problems:?}");
        }
        for name in LISTS {
            let problems = read(&format!("{name} = []")).unwrap_err();
            let expected = format!("{name} is an empty list, which nothing fits");
            assert!(problems[0].contains(&expected), "{problems:?}");
        }
        assert!(read("executable = \"/opt/..x/.y\"").is_ok());
        assert!(read("verbs = []").is_ok(), "it shuts out");
    }

    #[test]
    fn rules_that_no_caller_comes_to_and_names_that_are_taken_are_problems() {
        let text = "\
[[rule]]
name = \"a\"
everyone = true
providers = \"*\"
[[rule]]
name = \"a\"
uid = 1
providers = \"*\"
";
        let problems = read(text).unwrap_err();
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("line 5: the name \"a\" is taken by the rule of line 1"));
        assert!(problems[1].contains("line 5: no caller ever comes to it"));
    }

    #[test]
    fn what_looks_like_a_key_is_not_repeated() {
        let text = "\
sk-fake-0 = 1
[[rule]]
name = \"sk-fake-1\"
sk-fake-2 = 1
user = \"sk-fake-3\"
group = \"0123456789abcdef0123456789abcdef\"
executable = \"AIzaFake4\"
verbs = [\"sk-fake-5\"]
providers = [\"sk-fake-6/\", \"openai\"]
models = [\"sk-fake-7\", \"SK-FAKE-8/x\"]
";
        let problems = read(text).unwrap_err();
        assert_eq!(problems.len(), 10, "{problems:#?}");
        assert!(problems[1].contains("name looks like a key; choose another"), "{problems:#?}");
        for problem in &problems {
            let text = problem.to_ascii_lowercase();
            let is_told = ["fake", "cdef"].iter().any(|part| text.contains(part));
            assert!(!is_told, "{problem}");
        }
        let plain = "[[rule]]\nname = \"a\"\nmodels = [\"claude-3-7-sonnet-20250219\"]\n";
        let problems = read(plain).unwrap_err();
        assert!(problems[1].contains("claude-3-7-sonnet-20250219"), "{problems:?}");
        let long = format!("[[rule]]\n{} = 1\n", "x".repeat(2_000));
        let problems = read(&long).unwrap_err();
        assert!(problems.iter().all(|problem| problem.len() < 200), "{problems:?}");
    }

    #[test]
    fn what_is_no_toml_is_refused_with_its_line() {
        let problems = read("[[rule]]\nname = \n").unwrap_err();
        assert!(problems[0].starts_with("line 2: "), "{problems:?}");
        assert!(read("rule = 3\n").unwrap_err()[0].contains("[[rule]]"));
        assert_eq!(read("").unwrap(), [], "an empty file denies");
    }
}
