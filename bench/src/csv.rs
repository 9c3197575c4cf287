//! The keys that the daemons are given.

/// The model that every key serves.
pub(crate) const MODEL: &str = "openai/gpt-4o";

/// A credential as long as real ones are, and obviously none.
pub(crate) fn fake_secret(number: usize) -> String {
    format!("sk-fake-bench-{number:0>40}")
}

/// A CSV of so many keys in one pool.
pub(crate) fn with_keys(keys: usize) -> String {
    let rows = (0..keys).map(|number| format!("OpenAI,gpt-4o,{}\n", fake_secret(number)));
    std::iter::once("provider,model,api_key\n".to_owned()).chain(rows).collect()
}
