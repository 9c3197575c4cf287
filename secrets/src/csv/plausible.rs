//! Signs that a key is in the wrong row or was pasted badly: warnings only.

/// Beginnings that only one provider's keys have, and the names under which
/// that provider is listed.
const PREFIXES: [(&str, &[&str]); 12] = [
    ("sk-ant-", &["anthropic", "claude"]),
    ("sk-proj-", &["openai"]),
    ("sk-svcacct-", &["openai"]),
    ("sk-or-", &["openrouter"]),
    ("gsk_", &["groq"]),
    ("xai-", &["xai", "grok"]),
    ("AIza", &["google", "gemini", "vertex", "vertexai"]),
    ("hf_", &["huggingface", "hf"]),
    ("pplx-", &["perplexity"]),
    ("nvapi-", &["nvidia"]),
    ("r8_", &["replicate"]),
    ("fw_", &["fireworks", "fireworksai"]),
];

/// Providers whose own keys begin otherwise, or in no known way.
const OTHERS: [&str; 4] = ["deepseek", "together", "mistral", "cohere"];

const REFERENCES: [&str; 7] = ["env:", "os.environ/", "${", "file:/", "vault:", "op://", "ref+"];
/// Longer than the names of models, shorter than the keys of providers.
const MISPLACED_BYTES_MIN: usize = 32;
const QUOTES: [char; 7] = ['"', '\'', '`', '“', '”', '‘', '’'];

/// What looks wrong about a key of this provider, in words and with a cure.
pub(super) fn doubts(provider: &str, secret: &str) -> impl Iterator<Item = String> {
    let doubts = [
        foreign_prefix(provider, secret),
        reference(secret),
        quotes(secret),
        unusual_characters(secret),
    ];
    doubts.into_iter().flatten()
}

/// True when a text begins as credentials do; such a text is never quoted.
pub(super) fn looks_secret(text: &str) -> bool {
    text.starts_with("sk-") || PREFIXES.iter().any(|(prefix, _)| text.starts_with(prefix))
}

/// True when a name can only be a credential in the wrong column: names go into
/// the ledger. Some models have names that begin as short keys do.
pub(super) fn is_misplaced_secret(name: &str) -> bool {
    name.starts_with("sk-") || (looks_secret(name) && name.len() >= MISPLACED_BYTES_MIN)
}

fn foreign_prefix(provider: &str, secret: &str) -> Option<String> {
    let (prefix, owners) = PREFIXES.iter().find(|(prefix, _)| secret.starts_with(prefix))?;
    let is = |name: &&str| provider.eq_ignore_ascii_case(name);
    let known = OTHERS.iter().chain(PREFIXES.iter().flat_map(|(_, owners)| *owners));
    let foreign = known.into_iter().any(is) && !owners.iter().any(is);
    let owner = owners.first()?;
    foreign.then(|| format!("begins with {prefix} as the keys of {owner} do; check the provider"))
}

fn reference(secret: &str) -> Option<String> {
    let prefix = REFERENCES.iter().find(|prefix| secret.starts_with(**prefix))?;
    Some(format!(
        "begins with {prefix} as a reference does, but is taken as it stands; write the key itself"
    ))
}

fn quotes(secret: &str) -> Option<String> {
    secret
        .contains(QUOTES)
        .then(|| String::from("has a quotation mark in it; remove it unless it belongs to the key"))
}

fn unusual_characters(secret: &str) -> Option<String> {
    let unusual = |c: char| !c.is_ascii() && !QUOTES.contains(&c);
    secret
        .contains(unusual)
        .then(|| String::from("has characters outside ASCII, maybe invisible ones; copy the key again from the provider's page"))
}
